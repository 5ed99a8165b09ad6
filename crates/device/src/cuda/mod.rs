//! NVIDIA GPUs through the driver API. Every library is found and loaded at run time by our own tables (see dl.rs), so that
//! one that is absent, older or newer is a sentence and never a panic; cudarc's bindings are the oracle of their tests.

mod blas;
mod cublaslt;
mod device;
mod driver;
mod driver_sys;
mod libraries;
mod nvml;
mod nvrtc;
mod stream;
#[cfg(test)]
mod tests;
mod tiled;

use crate::DeviceError;
use crate::probe::{Discovery, Finding, Found, Probe};
use driver::Failure;
use driver_sys::status;
use libraries::libraries;
use ridgepoint_core::Backend;

/// The CUDA backend.
pub(crate) const PROBE: Probe =
    Probe { backend: Backend::Cuda, discover, open: |index| Ok(Box::new(device::CudaDevice::open(index)?)), doctor };

fn discover() -> Discovery {
    let absent = |reason: String| Discovery { devices: vec![], absent: Some(reason) };
    let driver = match &libraries().driver {
        Ok(driver) => driver,
        Err(reason) => return absent(reason.clone()),
    };
    let count = match driver.count() {
        Ok(0) => return absent("the driver reports no device; is CUDA_VISIBLE_DEVICES set to nothing?".into()),
        Ok(count) => count,
        Err(error) => return absent(error.to_string()),
    };
    let devices = (0..count).map(|ordinal| match driver.facts(ordinal) {
        Ok(f) => Found {
            id: format!("cuda:{ordinal}"),
            name: f.name.clone(),
            detail: format!("{} SMs, {}, {:.0} GB, PCI {}", f.sms, f.arch(), f.memory_bytes as f64 / 1e9, f.pci),
        },
        Err(error) => Found { id: format!("cuda:{ordinal}"), name: "unknown".into(), detail: error.to_string() },
    });
    Discovery { devices: devices.collect(), absent: None }
}

fn doctor() -> Vec<Finding> {
    libraries().findings.clone()
}

impl From<Failure> for DeviceError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Invalid(message) => Self::Invalid(message),
            Failure::Module { log, error } => Self::Unsupported(format!("the driver does not load the code: {error}: {log}")),
            Failure::Call(error) => error.into(),
        }
    }
}

impl From<crate::dl::CallError> for DeviceError {
    fn from(error: crate::dl::CallError) -> Self {
        match error.status() {
            Some(code) if status::LOST.contains(&code) => Self::Lost(error.to_string()),
            Some(status::OUT_OF_MEMORY) => Self::OutOfMemory { requested: ridgepoint_core::Bytes(0), free: None },
            Some(code) => Self::Call { call: error.call, code: i64::from(code), message: error.meaning().to_owned() },
            None => Self::Unsupported(error.to_string()),
        }
    }
}
