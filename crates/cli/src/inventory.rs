//! The node's parts as this program can see them: GPUs that were opened and those that were not, network ports and firmware from
//! the kernel's files. What cannot be found out is said to be unknown, never guessed.

use ridgepoint_core::verdict::{Gpu, Inventory, Nic};
use ridgepoint_core::{Backend, DeviceInfo};
use ridgepoint_device::{Device, Found, PROBES};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The inventory of this node, with what the devices opened tell of themselves.
pub(crate) fn of_this_node(devices: &[Box<dyn Device>]) -> Inventory {
    let opened: Vec<&DeviceInfo> = devices.iter().map(|d| d.info()).collect();
    let mut inventory = Inventory { gpus: gpus(&opened), libraries: Inventory::libraries_of(&opened), ..Inventory::default() };
    look(Path::new("/sys"), &mut inventory);
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

/// Reads network ports and firmware below `sys`.
fn look(sys: &Path, inventory: &mut Inventory) {
    let (adapters, interfaces) = (sys.join("class/infiniband"), sys.join("class/net"));
    let fabric = fabric_ports(&adapters);
    let ours: BTreeSet<String> = fabric.iter().filter_map(|n| n.pci.clone()).collect();
    let ethernet = interfaces_of(&interfaces);
    inventory.nics = fabric;
    // An adapter's Ethernet interface (RoCE, IPoIB) is the same port once more.
    inventory.nics.extend(ethernet.into_iter().filter(|n| n.pci.as_ref().is_none_or(|pci| !ours.contains(pci))));
    for folder in [&adapters, &interfaces] {
        if !folder.is_dir() {
            inventory.unknown.push(format!("network ports: {} does not exist", folder.display()));
        }
    }
    match line(&sys.join("class/dmi/id/bios_version")) {
        Some(version) => drop(inventory.firmware.insert("bios".into(), version)),
        None => inventory.unknown.push("firmware bios: the machine does not tell".into()),
    }
}

/// Ports of InfiniBand and RoCE adapters.
fn fabric_ports(folder: &Path) -> Vec<Nic> {
    let mut ports = Vec::new();
    for adapter in entries(folder) {
        let name = name_of(&adapter);
        let all = entries(&adapter.join("ports"));
        for port in &all {
            let number = if all.len() > 1 { format!("/{}", name_of(port)) } else { String::new() };
            ports.push(Nic {
                name: format!("{name}{number}"),
                // `400 Gb/sec (4X NDR)`
                rate_gbps: line(&port.join("rate")).and_then(|r| r.split(' ').next()?.parse().ok()),
                // `4: ACTIVE`
                state: line(&port.join("state")).map(|s| s.split(": ").last().unwrap_or_default().to_owned()),
                link_layer: line(&port.join("link_layer")),
                firmware: line(&adapter.join("fw_ver")),
                pci: pci(&adapter),
            });
        }
    }
    ports
}

/// Interfaces with hardware behind them: bridges, tunnels and the loopback have none.
fn interfaces_of(folder: &Path) -> Vec<Nic> {
    let real = entries(folder).into_iter().filter(|i| i.join("device").exists());
    let nic = |interface: PathBuf| Nic {
        name: name_of(&interface),
        // Mbit/s; −1 where there is no link.
        rate_gbps: line(&interface.join("speed")).and_then(|s| s.parse().ok()).filter(|mbit: &f64| *mbit > 0.0).map(|m| m / 1e3),
        state: line(&interface.join("operstate")).map(|s| s.to_ascii_uppercase()),
        link_layer: Some(if line(&interface.join("type")).as_deref() == Some("32") { "InfiniBand" } else { "Ethernet" }.into()),
        firmware: None,
        pci: pci(&interface),
    };
    real.map(nic).collect()
}

/// The PCI address of what `device` in this folder leads to: the last part of the path that looks like one.
fn pci(folder: &Path) -> Option<String> {
    let path = fs::canonicalize(folder.join("device")).ok()?;
    let address = |part: &str| {
        let fields: Vec<&str> = part.split([':', '.']).collect();
        fields.len() == 4 && fields.iter().all(|f| !f.is_empty() && f.chars().all(|c| c.is_ascii_hexdigit()))
    };
    path.iter().rev().filter_map(|p| p.to_str()).find(|p| address(p)).map(str::to_owned)
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = fs::read_dir(folder).map(|d| d.flatten().map(|e| e.path()).collect()).unwrap_or_default();
    all.sort();
    all.truncate(256);
    all
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The first line of one of the kernel's files, without control characters.
fn line(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line: String = text.lines().next()?.trim().chars().filter(|c| !c.is_control()).take(200).collect();
    Some(line).filter(|l| !l.is_empty())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A folder as the kernel would show it: an adapter of two names, one that is down, a card on virtio, and a bridge.
    #[test]
    fn ports_are_counted_once_and_what_is_not_known_is_said() {
        let root = std::env::temp_dir().join(format!("ridgepoint-inventory-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let link = |from: &str, to: &str| {
            fs::create_dir_all(root.join(to)).unwrap();
            fs::create_dir_all(root.join(from)).unwrap();
            symlink(root.join(to), root.join(from).join("device")).unwrap();
        };
        write("class/infiniband/mlx5_0/ports/1/rate", "400 Gb/sec (4X NDR)\n");
        write("class/infiniband/mlx5_0/ports/1/state", "4: ACTIVE\n");
        write("class/infiniband/mlx5_0/ports/1/link_layer", "InfiniBand\n");
        write("class/infiniband/mlx5_0/fw_ver", "28.39.1002\n");
        link("class/infiniband/mlx5_0", "devices/pci0000:1a/0000:1a:01.0/0000:1b:00.0");
        write("class/infiniband/mlx5_1/ports/1/state", "1: DOWN\n");
        link("class/infiniband/mlx5_1", "devices/pci0000:3c/0000:3c:00.0");
        write("class/net/ibp27s0/speed", "400000\n");
        link("class/net/ibp27s0", "devices/pci0000:1a/0000:1a:01.0/0000:1b:00.0");
        write("class/net/eth0/speed", "-1\n");
        write("class/net/eth0/operstate", "up\n");
        write("class/net/eth0/type", "1\n");
        link("class/net/eth0", "devices/pci0000:00/0000:00:03.0/virtio0");
        write("class/net/docker0/operstate", "down\n");

        let mut found = Inventory::default();
        look(&root, &mut found);
        let names: Vec<_> = found.nics.iter().map(|n| n.name.as_str()).collect();
        assert_eq!(names, ["mlx5_0", "mlx5_1", "eth0"]);
        let first = &found.nics[0];
        assert_eq!((first.rate_gbps, first.state.as_deref()), (Some(400.0), Some("ACTIVE")));
        assert_eq!((first.pci.as_deref(), first.firmware.as_deref()), (Some("0000:1b:00.0"), Some("28.39.1002")));
        assert_eq!((found.nics[1].rate_gbps, found.nics[1].state.as_deref()), (None, Some("DOWN")));
        let card = &found.nics[2];
        assert_eq!((card.pci.as_deref(), card.rate_gbps, card.state.as_deref()), (Some("0000:00:03.0"), None, Some("UP")));
        assert_eq!(found.unknown, ["firmware bios: the machine does not tell"]);
        write("class/dmi/id/bios_version", "1.4b\n");
        fs::remove_dir_all(root.join("class/infiniband")).unwrap();
        let mut found = Inventory::default();
        look(&root, &mut found);
        assert_eq!(found.firmware["bios"], "1.4b");
        assert!(found.nics.len() == 2 && found.unknown[0].contains("class/infiniband does not exist"), "{found:?}");
        fs::remove_dir_all(root).unwrap();
    }
}
