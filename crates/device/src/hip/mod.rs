//! AMD GPUs through HIP. What HIP shares with CUDA's driver is in `gpu/`; here is what AMD does its own way: names and numbers,
//! where ROCm keeps its libraries, partitions, and sensors that the kernel driver shows as files.

#[cfg(test)]
mod claims;
mod code_objects;
mod hipblaslt;
mod hipdnn;
mod hiprtc;
mod libraries;
mod metrics;
#[cfg(test)]
mod oracle;
mod sensors;
mod sysfs;
#[cfg(test)]
pub(crate) mod tests;
mod vendor;

use crate::DeviceError;
use crate::gpu::{self, GpuDevice};
use crate::probe::Probe;
use libraries::libraries;
use ridgepoint_core::Backend;

/// The HIP backend.
pub(crate) const PROBE: Probe = Probe {
    backend: Backend::Hip,
    discover: || {
        let none = libraries::why_none(&sysfs::Sysfs::of_this_machine(), &|key| std::env::var(key).ok());
        gpu::discover("hip", &libraries().driver, &none)
    },
    open: |index| {
        let driver = libraries().driver.as_ref().map_err(|reason| DeviceError::unsupported(reason.clone()))?;
        Ok(Box::new(GpuDevice::open(driver, index)?))
    },
    doctor: || libraries().findings.clone(),
};
