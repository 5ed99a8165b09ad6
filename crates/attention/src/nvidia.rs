//! Which of our own NVIDIA kernels does a shape: on Hopper one for prefill, one for it in FP8 and one for the absorbed form, and from sm_80 on one for
//! decode. What else there is, common.rs knows.

use crate::shape::{Kind, Shape};
use crate::{decode, flash_fp8_sm90, flash_sm90, mla};
use ridgepoint_core::Backend;
use ridgepoint_device::{AttentionPlan, Device, Result};

/// The provider that does a shape on a device, if one of ours does.
pub(crate) fn provider(shape: Shape, device: &dyn Device) -> Option<&'static str> {
    if device.info().backend != Backend::Cuda {
        return None;
    }
    let hopper = device.info().arch == "sm_90a";
    match shape.kind {
        Kind::MlaDecode if hopper && mla::fits(shape) => Some(mla::PROVIDER),
        Kind::Decode if from_ampere(device) && decode::fits(shape, device.shared_limit()) => Some(decode::PROVIDER),
        Kind::Prefill if hopper && flash_fp8_sm90::fits(shape) => Some(flash_fp8_sm90::PROVIDER),
        Kind::Prefill | Kind::MlaPrefill if hopper && flash_sm90::fits(shape) => Some(flash_sm90::PROVIDER),
        _ => None,
    }
}

/// Compiles the kernel of a shape.
///
/// # Errors
/// As [`Device::compile`].
pub(crate) fn plan<'d>(shape: Shape, device: &'d dyn Device) -> Result<Box<dyn AttentionPlan + 'd>> {
    match shape.kind {
        Kind::MlaDecode => Ok(Box::new(mla::Plan::new(shape, device)?)),
        Kind::Decode => Ok(Box::new(decode::Plan::new(shape, device)?)),
        _ if flash_fp8_sm90::fits(shape) => Ok(Box::new(flash_fp8_sm90::Plan::new(shape, device)?)),
        _ => Ok(Box::new(flash_sm90::Plan::new(shape, device)?)),
    }
}

/// True from Ampere on, which brought the matrix instructions and the asynchronous copies that kernels for several generations use.
pub(crate) fn from_ampere(device: &dyn Device) -> bool {
    device.info().sm().is_some_and(|n| n >= 80)
}

/// True without pages, or with such as Hopper's kernels load: of eight rows TMA's swizzle makes its pattern.
pub(crate) fn paged_by_tma(shape: Shape) -> bool {
    shape.page.is_none_or(|tokens| tokens.is_power_of_two() && tokens >= 8)
}

/// The softmax's scale as f32.
pub(crate) fn scale(shape: Shape) -> f32 {
    shape.problem().softmax_scale() as f32
}
