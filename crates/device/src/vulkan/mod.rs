//! Any GPU through Vulkan compute, down to a software one: kernels are WGSL, turned into SPIR-V on the node by naga, so that
//! neither a shader compiler nor a binary blob is needed. The loader is opened at run time; where there is none that is a
//! sentence. A software device (Mesa's lavapipe) proves the kernels right; its roof is the CPU's, and it is labelled.

mod adapter;
mod device;
mod instance;
mod launch;
mod memory;
mod patch;
mod shader;
mod stream;
#[cfg(test)]
mod tests;
mod watchdog;

use crate::DeviceError;
use crate::probe::{Discovery, Finding, Found, Probe};
use ash::vk;
use instance::vulkan;
use ridgepoint_core::{Backend, Bytes};

/// The Vulkan backend.
pub(crate) const PROBE: Probe =
    Probe { backend: Backend::Vulkan, discover, open: |index| Ok(Box::new(device::VulkanDevice::open(index)?)), doctor };

/// How to get a loader and drivers, software included.
const REMEDY: &str = "apt-get install mesa-vulkan-drivers (or the GPU vendor's driver)";

fn discover() -> Discovery {
    let vulkan = match vulkan() {
        Ok(vulkan) => vulkan,
        Err(reason) => return Discovery { devices: vec![], absent: Some(format!("{reason}; to get it: {REMEDY}")) },
    };
    let found = |(index, adapter): (usize, &adapter::Adapter)| Found {
        id: format!("vulkan:{index}"),
        name: adapter.name.clone(),
        detail: adapter.detail(),
        software: adapter.software,
    };
    let devices: Vec<Found> = vulkan.adapters.iter().enumerate().map(found).collect();
    let absent = devices.is_empty().then(|| {
        let old =
            vulkan.refused.first().map_or_else(|| "the Vulkan loader is there and found no device".to_owned(), Clone::clone);
        format!("{old}; to get one: {REMEDY}")
    });
    Discovery { devices, absent }
}

fn doctor() -> Vec<Finding> {
    let what = "libvulkan".to_owned();
    match vulkan() {
        Err(reason) => vec![Finding { what, ok: false, detail: reason.clone(), remedy: Some(REMEDY.into()) }],
        Ok(vulkan) => {
            let drivers = vulkan.adapters.iter().map(|a| format!("{} ({})", a.name, a.driver)).chain(vulkan.refused.clone());
            let drivers: Vec<String> = drivers.collect();
            let ok = !vulkan.adapters.is_empty();
            let list = if drivers.is_empty() { "no driver".into() } else { drivers.join(", ") };
            let detail = format!("{} from {}: {list}", vulkan.version, vulkan.path);
            vec![Finding { what, ok, detail, remedy: (!ok).then(|| REMEDY.into()) }]
        }
    }
}

/// What a failed call means. A lost device must be opened anew; after anything else it is as usable as before.
fn failure(call: &'static str) -> impl Fn(vk::Result) -> DeviceError {
    move |code| match code {
        vk::Result::ERROR_DEVICE_LOST => DeviceError::Lost(format!("{call}: {code}")),
        vk::Result::ERROR_OUT_OF_DEVICE_MEMORY | vk::Result::ERROR_OUT_OF_HOST_MEMORY => {
            DeviceError::OutOfMemory { requested: Bytes(0), free: None }
        }
        code => DeviceError::Call { call, code: i64::from(code.as_raw()), message: code.to_string() },
    }
}

#[cfg(test)]
mod failures {
    use super::*;

    #[test]
    fn a_lost_device_and_memory_that_is_short_are_told_apart() {
        let of = failure("vkQueueSubmit");
        assert!(matches!(of(vk::Result::ERROR_DEVICE_LOST), DeviceError::Lost(why) if why.contains("vkQueueSubmit")));
        assert!(matches!(of(vk::Result::ERROR_OUT_OF_DEVICE_MEMORY), DeviceError::OutOfMemory { .. }));
        assert!(matches!(of(vk::Result::ERROR_UNKNOWN), DeviceError::Call { call: "vkQueueSubmit", .. }));
    }
}
