//! The node's parts as this program can see them: GPUs that were opened and those that were not, network ports and firmware from
//! the kernel's files. What cannot be found out is said to be unknown, never guessed.

use ridgepoint_core::verdict::{Gpu, Inventory};
use ridgepoint_core::{Backend, DeviceInfo};
use ridgepoint_device::{Device, Found, PROBES};
use std::fs;
use std::path::Path;

/// The inventory of this node, with what the devices opened tell of themselves.
pub(crate) fn of_this_node(devices: &[Box<dyn Device>]) -> Inventory {
    let opened: Vec<&DeviceInfo> = devices.iter().map(|d| d.info()).collect();
    let mut inventory = Inventory { gpus: gpus(&opened), libraries: Inventory::libraries_of(&opened), ..Inventory::default() };
    look(Path::new("/"), &mut inventory);
    inventory
}

/// Every GPU that a vendor's driver shows; those of Vulkan only where no other driver shows any, since they are the same ones.
fn gpus(opened: &[&DeviceInfo]) -> Vec<Gpu> {
    let of = |backend: Backend| -> Vec<Found> {
        let probe = PROBES.iter().find(|p| p.backend == backend);
        probe.map(|p| (p.discover)().devices).unwrap_or_default().into_iter().filter(|f| !f.software).collect()
    };
    let mut found = [of(Backend::Cuda), of(Backend::Hip)].concat();
    if found.is_empty() {
        found = of(Backend::Vulkan);
    }
    let gpu = |f: Found| match opened.iter().find(|info| info.id == f.id) {
        Some(info) => Gpu::of(info),
        None => Gpu { device: f.id, name: f.name, ..Gpu::default() },
    };
    found.into_iter().map(gpu).collect()
}

/// Reads network ports and firmware below `root`.
fn look(root: &Path, inventory: &mut Inventory) {
    let sys = root.join("sys");
    let gpus: Vec<(String, String)> = inventory.gpus.iter().filter_map(|g| Some((g.device.clone(), g.pci.clone()?))).collect();
    inventory.nics = ridgepoint_device::network::ports_of(root, &gpus);
    for folder in ["class/infiniband", "class/net"].map(|folder| sys.join(folder)) {
        if !folder.is_dir() {
            inventory.unknown.push(format!("network ports: {} does not exist", folder.display()));
        }
    }
    match line(&sys.join("class/dmi/id/bios_version")) {
        Some(version) => drop(inventory.firmware.insert("bios".into(), version)),
        None => inventory.unknown.push("firmware bios: the machine does not tell".into()),
    }
}

/// The first line of one of the kernel's files, without control characters.
fn line(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line: String = text.lines().next()?.trim().chars().filter(|c| !c.is_control()).take(200).collect();
    Some(line).filter(|l| !l.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_said() {
        let root = std::env::temp_dir().join(format!("ridgepoint-inventory-{}", std::process::id()));
        let sys = root.join("sys");
        fs::create_dir_all(sys.join("class/net")).unwrap();
        let mut found = Inventory::default();
        look(&root, &mut found);
        assert!(found.nics.is_empty() && found.unknown[0].contains("class/infiniband does not exist"), "{found:?}");
        assert_eq!(found.unknown[1], "firmware bios: the machine does not tell");
        fs::create_dir_all(sys.join("class/dmi/id")).unwrap();
        fs::write(sys.join("class/dmi/id/bios_version"), "1.4b\n").unwrap();
        let mut found = Inventory::default();
        look(&root, &mut found);
        assert_eq!((found.firmware["bios"].as_str(), found.unknown.len()), ("1.4b", 1));
        fs::remove_dir_all(root).unwrap();
    }
}
