//! GPUs that are driven as CUDA drives them: NVIDIA's through the driver, AMD's through HIP, which has the same functions under
//! names of its own. What the two share, which is nearly all, stands here once; `cuda/` and `hip/` say what differs: numbers,
//! facts, the compiler's options, libraries and sensors.

mod blas;
mod check;
mod code;
mod device;
pub(crate) mod dnn;
pub(crate) mod driver;
mod guard;
pub(crate) mod matmul;
mod meeting;
pub(crate) mod nccl;
mod pairs;
mod ranks;
pub(crate) mod rtc;
mod stream;
pub(crate) mod sys;
mod team;
#[cfg(test)]
mod tests;

pub(crate) use blas::{Matmul, WORKSPACE};
pub(crate) use device::{GpuDevice, Shared};
pub(crate) use ranks::{Kind, Ranks};

use crate::cache::Cache;
use crate::finder::{Search, Wanted};
use crate::probe::{Discovery, Finding, Found};
use crate::{AttentionKernels, Blas, Buffer, DeviceError, Program, Sensors, TensorMap};
use driver::{Context, Driver, Facts, Failure};
use ridgepoint_core::DeviceInfo;
use std::sync::Arc;
use sys::{Attributes, HOST_PORTABLE_MAPPED, status};

/// What the two do not share.
pub(crate) trait Vendor: Sync {
    /// How the driver's functions begin.
    fn prefix(&self) -> &'static str;

    /// True where a context is made current (CUDA), and not a device (HIP).
    fn has_contexts(&self) -> bool;

    /// How page-locked memory is asked for.
    fn host_flags(&self) -> u32 {
        HOST_PORTABLE_MAPPED
    }

    /// The numbers of what a driver says of a device.
    fn attributes(&self) -> &'static Attributes;

    /// What code for a device is compiled for.
    fn target(&self, driver: &Driver, device: i32) -> driver::Result<String>;

    /// `CUDA 13.0`, `HIP 7.2`.
    fn version(&self, driver: i32) -> String;

    /// What to do about an answer of the driver's start.
    fn advice(&self, failure: &Failure) -> String;

    /// One line on a device for a list of them.
    fn summary(&self, facts: &Facts) -> String;

    /// A device's facts for the record.
    fn describe(&self, index: usize, ctx: &Context) -> DeviceInfo;

    /// Machine code of a program.
    fn code(&self, program: &Program<'_>, source: &str, target: &str, cache: Option<&Cache>) -> crate::Result<Vec<u8>>;

    /// GEMM libraries, or why there is none.
    fn blas(&self, shared: &Arc<Shared>) -> Result<Vec<Box<dyn Blas + Send>>, String>;

    /// Attention libraries, or why there is none.
    fn attention(&self, _shared: &Arc<Shared>) -> Result<Vec<Box<dyn AttentionKernels + Send>>, String> {
        Ok(vec![])
    }

    /// Collectives between this device and those after it, or why there are none.
    fn ranks(&self, ctx: &Context, index: usize) -> Result<Ranks, String>;

    /// Sensors of a device.
    fn sensors(&self, facts: &Facts) -> Option<Box<dyn Sensors>>;

    /// A descriptor for the tensor copy engine.
    fn tensor_map(&self, _ctx: &Context, _buffer: &Buffer, _map: &TensorMap) -> crate::Result<Vec<u8>> {
        Err(DeviceError::unsupported("this device has no tensor copy engine"))
    }
}

/// Starts the driver that was searched for; one that is not there or does not start is a sentence.
pub(crate) fn start(vendor: &'static dyn Vendor, wanted: &Wanted, mut search: Search) -> (Result<Arc<Driver>, String>, Finding) {
    let Some(opened) = search.found.take() else {
        return (Err(search.sentence(wanted, None)), search.finding(wanted, None, None));
    };
    let (path, what) = (opened.path.display().to_string(), wanted.stem.to_owned());
    match Driver::start(opened, vendor) {
        Err(error) => {
            let (reason, advice) = (error.to_string(), vendor.advice(&error));
            let sentence = format!("{reason}; {advice}");
            (Err(sentence), Finding { what, ok: false, detail: format!("{path}: {reason}"), remedy: Some(advice) })
        }
        Ok(driver) => {
            let absent = driver.api.absent();
            let lacks = if absent.is_empty() { String::new() } else { format!("; it lacks {}", absent.join(", ")) };
            let detail = format!("{} from {path}{lacks}", vendor.version(driver.version));
            (Ok(Arc::new(driver)), Finding { what, ok: true, detail, remedy: None })
        }
    }
}

/// The devices of a driver. `none` says what to do where it has none.
pub(crate) fn discover(backend: &str, driver: &Result<Arc<Driver>, String>, none: &str) -> Discovery {
    let absent = |reason: String| Discovery { devices: vec![], absent: Some(reason) };
    let driver = match driver {
        Ok(driver) => driver,
        Err(reason) => return absent(reason.clone()),
    };
    let count = match driver.count() {
        Ok(0) => return absent(format!("the driver reports no device; {none}")),
        Ok(count) => count,
        Err(error) => return absent(format!("{error}; {none}")),
    };
    let devices = (0..count).map(|ordinal| {
        let id = format!("{backend}:{ordinal}");
        match driver.facts(ordinal) {
            Ok(facts) => Found { id, name: facts.name.clone(), detail: driver.vendor.summary(&facts), software: false },
            Err(error) => Found { id, name: "unknown".into(), detail: error.to_string(), software: false },
        }
    });
    Discovery { devices: devices.collect(), absent: None }
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
