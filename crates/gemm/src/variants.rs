//! Who can do a GEMM on a device: the libraries it found, and our own kernels.

use crate::cases::Shape;
use crate::{gemv, matrix_amd, mma, tile, tiled, wgmma};
use ridgepoint_core::Dtype;
use ridgepoint_device::{Blas, Device, GemmProblem, Matrix, Transpose};
use ridgepoint_harness::encoding;

/// The problem as a library sees it, with A and B as they are encoded here.
pub(crate) fn problem(shape: Shape, device: &dyn Device) -> GemmProblem {
    let [a, b] = [(shape.dtype, Transpose::No), (shape.b, Transpose::Yes)]
        .map(|(dtype, stored)| Matrix { dtype: encoding(dtype, device), stored });
    GemmProblem {
        batch: shape.batch as usize,
        m: shape.m as usize,
        n: shape.n as usize,
        k: shape.k as usize,
        a,
        b,
        output: shape.output,
        scaling: shape.scaling,
    }
}

/// The providers of a shape on a device.
pub(crate) fn providers(shape: Shape, device: &dyn Device) -> Vec<String> {
    let libraries = device.blas().into_iter().map(|b| b.provider().to_owned());
    // The best of ours for this chip: mma.sync reaches about 60 % of what wgmma does.
    let nvidia = if wgmma::fits(device) { Some(wgmma::PROVIDER) } else { mma::fits(shape, device).then_some(mma::PROVIDER) };
    let matrix = nvidia.or_else(|| matrix_amd::provider(shape, device));
    let has_units = matrix.is_some() || !device.blas().is_empty();
    let plain = (tile::fits(shape, device) && (shape.dtype == Dtype::F32 || (shape.batch > 1 && matrix.is_none()) || !has_units))
        .then_some(tile::PROVIDER);
    let few = gemv::fits(shape, device).then_some(gemv::PROVIDER);
    let own = few.into_iter().chain(matrix).chain(plain).map(str::to_owned);
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
