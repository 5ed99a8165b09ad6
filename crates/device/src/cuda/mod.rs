//! NVIDIA GPUs through the driver API. Every library is found and loaded at run time by our own tables (see dl.rs), so that
//! one that is absent, older or newer is a sentence and never a panic; cudarc's bindings are the oracle of their tests.

#[cfg(test)]
mod claims;
mod cublaslt;
mod cudnn;
mod libraries;
mod nvml;
mod nvrtc;
mod ptx;
#[cfg(test)]
mod tests;
mod tiled;
mod vendor;

use crate::DeviceError;
use crate::gpu::{self, GpuDevice};
use crate::probe::Probe;
use libraries::libraries;
#[cfg(test)]
pub(crate) use libraries::{CUDA, LAYOUT};
use ridgepoint_core::Backend;
#[cfg(test)]
pub(crate) use vendor::{ATTRIBUTES, CC_MAJOR, CC_MINOR};

/// The CUDA backend.
pub(crate) const PROBE: Probe = Probe {
    backend: Backend::Cuda,
    discover: || gpu::discover("cuda", &libraries().driver, "is CUDA_VISIBLE_DEVICES set to nothing?"),
    open: |index| {
        let driver = libraries().driver.as_ref().map_err(|reason| DeviceError::unsupported(reason.clone()))?;
        Ok(Box::new(GpuDevice::open(driver, index)?))
    },
    doctor: || libraries().findings.clone(),
};
