//! Finding devices: a plain list of backends, each with the same three functions. Adding a backend is one line here.

use crate::{Device, DeviceError, Result};
use ridgepoint_core::Backend;

/// A way to find and open devices.
pub struct Probe {
    /// The backend.
    pub backend: Backend,
    /// Looks for devices; never fails and never panics.
    pub discover: fn() -> Discovery,
    /// Opens device `index`.
    pub open: fn(index: usize) -> Result<Box<dyn Device>>,
    /// Every library that the backend would use: found where, which version, or what was tried and how to get it.
    pub doctor: fn() -> Vec<Finding>,
}

/// What a backend found.
#[derive(Clone, Debug, Default)]
pub struct Discovery {
    /// Devices, in the order of their indices.
    pub devices: Vec<Found>,
    /// Where there are none: why, in one sentence with what to do.
    pub absent: Option<String>,
}

/// A device that can be opened.
#[derive(Clone, Debug)]
pub struct Found {
    /// `cuda:0`.
    pub id: String,
    /// The driver's name for it.
    pub name: String,
    /// One line more: memory, driver.
    pub detail: String,
    /// A GPU that is emulated on the CPU: never the best device.
    pub software: bool,
}

/// One line of `doctor`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// `libcuda.so.1`.
    pub what: String,
    /// It is there and usable.
    pub ok: bool,
    /// Version and path, or what was tried.
    pub detail: String,
    /// The command that would install what is missing.
    pub remedy: Option<String>,
}

/// All backends, the one preferred by `--device best` first.
pub const PROBES: &[Probe] =
    &[crate::cuda::PROBE, crate::hip::PROBE, crate::vulkan::PROBE, crate::cpu::PROBE, crate::fake::PROBE];

/// Which devices a user asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selected {
    /// The first device of the first backend that has one.
    Best,
    /// Every device, each in turn.
    All,
    /// One, by id: `cuda:0`; a bare backend name means its device 0.
    Id(String),
}

/// Every device of every backend.
#[must_use]
pub fn all_devices() -> Vec<Found> {
    PROBES.iter().flat_map(|p| (p.discover)().devices).collect()
}

/// Opens the device with this id.
///
/// # Errors
/// One sentence that names the devices there are, or why the backend has none.
pub fn open(id: &str) -> Result<Box<dyn Device>> {
    let (backend, index) = id.split_once(':').unwrap_or((id, "0"));
    let probe = PROBES.iter().find(|p| p.backend.name() == backend);
    let (Some(probe), Ok(index)) = (probe, index.parse::<usize>()) else {
        return Err(DeviceError::invalid(format!("there is no device '{id}'; {}", present())));
    };
    let found = (probe.discover)();
    if index >= found.devices.len() {
        let why = found.absent.map(|reason| format!(": {reason}")).unwrap_or_default();
        return Err(DeviceError::invalid(format!("there is no device '{id}'{why}; {}", present())));
    }
    (probe.open)(index)
}

fn present() -> String {
    let ids: Vec<String> = all_devices().into_iter().map(|f| f.id).collect();
    format!("present: {} (see `ridgepoint devices`)", if ids.is_empty() { "none".into() } else { ids.join(", ") })
}
