//! Who can do a GEMM on a device: the libraries it found, and our own kernels.

use crate::cases::Shape;
use ridgepoint_core::{Backend, Dtype};
use ridgepoint_device::{Blas, Device, GemmProblem, Transpose};

/// The problem as a library sees it.
pub(crate) fn problem(shape: Shape, input: Dtype) -> GemmProblem {
    GemmProblem {
        m: shape.m as usize,
        n: shape.n as usize,
        k: shape.k as usize,
        input,
        output: shape.output(),
        a: Transpose::No,
        b: Transpose::Yes,
    }
}

/// The dtype of a class as this device encodes it: FNUZ on CDNA3, OCP elsewhere.
pub(crate) fn encoding(dtype: Dtype, device: &dyn Device) -> Dtype {
    let fnuz = device.info().backend == Backend::Hip && device.info().arch.starts_with("gfx94");
    match dtype {
        Dtype::E4m3 if fnuz => Dtype::E4m3fnuz,
        Dtype::E5m2 if fnuz => Dtype::E5m2fnuz,
        other => other,
    }
}

/// The providers of a shape on a device.
pub(crate) fn providers(_shape: Shape, device: &dyn Device) -> Vec<String> {
    let names: Vec<String> = device.blas().iter().map(|b| b.provider().to_owned()).collect();
    if names.is_empty() { vec!["blas".into()] } else { names }
}

/// The library of this name.
pub(crate) fn find<'d>(device: &'d dyn Device, provider: &str) -> Option<&'d dyn Blas> {
    device.blas().into_iter().find(|b| b.provider() == provider)
}
