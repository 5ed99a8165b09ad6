//! Who can do a collective on a device: what it gives, or no one, with what would be needed.

use ridgepoint_core::Backend;
use ridgepoint_device::{Collectives, Device, DeviceError, Result};

/// Stands for a device that has no one to talk to, so that its cases are skipped with the reason and not left out.
const NONE: &str = "none";

/// The providers of a device.
pub(crate) fn providers(device: &dyn Device) -> Vec<String> {
    vec![device.collectives().map_or(NONE, |c| c.provider()).to_owned()]
}

/// The collectives of this name, able to have so many ranks.
///
/// # Errors
/// `Unsupported`, with what would be needed.
pub(crate) fn find<'d>(device: &'d dyn Device, provider: &str, ranks: usize) -> Result<&'d dyn Collectives> {
    let id = &device.info().id;
    let Some(collectives) = device.collectives().filter(|c| c.provider() == provider) else {
        let needed = match (device.info().backend, device.info().facts.get("no collectives library")) {
            (Backend::Cuda, Some(reason)) => &format!("NCCL ({reason})"),
            (Backend::Hip, Some(reason)) => &format!("RCCL ({reason})"),
            (Backend::Cpu, _) => "Linux, whose shared memory the ranks of a host talk through",
            _ => "a way to talk to a second device, which this backend has not",
        };
        return Err(DeviceError::unsupported(format!("{id} is one rank by itself; a collective needs {needed}")));
    };
    let most = collectives.max_ranks();
    if ranks > most {
        return Err(DeviceError::unsupported(format!("{ranks} ranks asked for; {most} can take part on {id}")));
    }
    Ok(collectives)
}
