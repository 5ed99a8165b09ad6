//! Who can do a GEMM on a device: the libraries it found, and our own kernels.

use crate::cases::Shape;
use crate::{tiled, wgmma};
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
pub(crate) fn providers(shape: Shape, device: &dyn Device) -> Vec<String> {
    let libraries = device.blas().into_iter().map(|b| b.provider().to_owned());
    let own = wgmma::fits(device).then(|| wgmma::PROVIDER.to_owned());
    let vulkan = tiled::providers(shape, device).into_iter().map(str::to_owned);
    // Fast accumulation is a choice of FP8 alone: for all else it is no provider, not one to be skipped.
    let fp8 = matches!(shape.dtype, Dtype::E4m3 | Dtype::E5m2);
    let names: Vec<String> = libraries.chain(own).chain(vulkan).filter(|name| fp8 || !name.ends_with("-fast")).collect();
    if names.is_empty() { vec!["blas".into()] } else { names }
}

/// The library of this name.
pub(crate) fn find<'d>(device: &'d dyn Device, provider: &str) -> Option<&'d dyn Blas> {
    device.blas().into_iter().find(|b| b.provider() == provider)
}
