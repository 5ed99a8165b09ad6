//! The network's side of a host, from the kernel's files: ports and their rates, where on PCIe they hang and which devices are near,
//! and whether a card may read and write a GPU's memory by itself. The root is given, so that a test can build a host in a folder.

use ridgepoint_core::verdict::{Nic, PcieLink};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Ports of this host; `devices` are ids and PCI addresses of what may be near one.
#[must_use]
pub fn ports(devices: &[(String, String)]) -> Vec<Nic> {
    ports_of(Path::new("/"), devices)
}

/// What `ports` is, below a root that holds `sys`.
#[must_use]
pub fn ports_of(root: &Path, devices: &[(String, String)]) -> Vec<Nic> {
    let mut found = fabric_ports(&root.join("sys/class/infiniband"));
    let ours: BTreeSet<String> = found.iter().filter_map(|n| n.pci.clone()).collect();
    let ethernet = interfaces(&root.join("sys/class/net"));
    // An adapter's Ethernet interface (RoCE, IPoIB) is the same port once more.
    found.extend(ethernet.into_iter().filter(|n| n.pci.as_ref().is_none_or(|pci| !ours.contains(pci))));
    for nic in &mut found {
        let Some(place) = nic.pci.as_ref().and_then(|pci| place(root, pci)) else { continue };
        nic.numa_node = line(&place.join("numa_node")).and_then(|n| n.parse().ok());
        nic.pcie = negotiated(&place);
        let near = |(_, pci): &&(String, String)| self::place(root, pci).is_some_and(|other| share_a_switch(&place, &other));
        nic.near = devices.iter().filter(near).map(|(id, _)| id.clone()).collect();
    }
    found
}

/// What a host can send in one direction by all its ports at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Ports that are up and of the highest rate: slower ones are for its keep.
    pub ports: usize,
    /// Gbit/s of each.
    pub gbps: f64,
}

impl Rate {
    /// The rate of these ports: those of an RDMA fabric, or where there is none, of Ethernet. None where no rate is known.
    #[must_use]
    pub fn of(ports: &[Nic]) -> Option<Self> {
        let up = |n: &&Nic| matches!(n.state.as_deref(), Some("ACTIVE" | "UP"));
        // As the kernel writes it of a fabric's port, and of an interface.
        let rates = |fabric: bool| -> Vec<f64> {
            let of = ports.iter().filter(up).filter(|n| (n.state.as_deref() == Some("ACTIVE")) == fabric);
            of.filter_map(|n| n.rate_gbps).filter(|rate| rate.is_finite() && *rate > 0.0).collect()
        };
        let all = Some(rates(true)).filter(|r| !r.is_empty()).unwrap_or_else(|| rates(false));
        let gbps = all.iter().copied().fold(0.0, f64::max);
        (gbps > 0.0).then(|| Self { ports: all.iter().filter(|rate| **rate == gbps).count(), gbps })
    }

    /// GB/s of all ports together.
    #[must_use]
    pub fn gigabytes(self) -> f64 {
        self.ports as f64 * self.gbps / 8.0
    }
}

/// Whether network cards can read and write GPUs' memory, and by what (GPUDirect RDMA, ROCm's peer direct), as far as the kernel
/// shows it.
#[must_use]
pub fn direct_access() -> String {
    direct_access_of(Path::new("/"))
}

fn direct_access_of(root: &Path) -> String {
    for module in ["nvidia_peermem", "nv_peer_mem"] {
        if root.join("sys/module").join(module).is_dir() {
            return format!("{module} is loaded");
        }
    }
    if root.join("sys/kernel/mm/memory_peers/amdkfd").is_dir() {
        return "amdkfd is a memory peer".into();
    }
    // By DMA-BUF since Linux 5.12; NVIDIA's by its open kernel modules.
    let release = line(&root.join("proc/sys/kernel/osrelease")).unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse::<u32>().ok());
    let recent = (numbers.next(), numbers.next()) >= (Some(5), Some(12));
    let nvidia = line(&root.join("proc/driver/nvidia/version"));
    match nvidia {
        Some(version) if recent && version.contains("Open Kernel Module") => "by DMA-BUF of the open kernel modules".into(),
        Some(_) => "no: nvidia_peermem is not loaded (modprobe nvidia_peermem)".into(),
        None if root.join("sys/module/amdgpu").is_dir() && recent => "by DMA-BUF of the kernel's amdgpu".into(),
        None => "no: no GPU driver here offers it".into(),
    }
}

/// The folder of a PCI device, by its full path.
fn place(root: &Path, pci: &str) -> Option<PathBuf> {
    let named: String = pci.to_ascii_lowercase();
    // Drivers write the domain with eight digits.
    let short = named.split_once(':').map(|(domain, rest)| format!("{:0>4}:{rest}", domain.trim_start_matches('0')));
    [Some(named), short].into_iter().flatten().find_map(|name| fs::canonicalize(root.join("sys/bus/pci/devices").join(name)).ok())
}

/// True where two devices meet below a root port: in a switch.
fn share_a_switch(a: &Path, b: &Path) -> bool {
    let bridges = |path: &Path| -> Vec<String> {
        let parts = path.iter().filter_map(|p| p.to_str()).filter(|p| address(p));
        let mut all: Vec<String> = parts.map(str::to_owned).collect();
        all.pop();
        all
    };
    let (a, b) = (bridges(a), bridges(b));
    // A device of its own root port has one bridge above it, and shares that with no other; a switch adds more.
    !a.is_empty() && !b.is_empty() && a[0] == b[0]
}

fn negotiated(place: &Path) -> Option<PcieLink> {
    // `32.0 GT/s PCIe`
    let speed: f64 = line(&place.join("current_link_speed"))?.split(' ').next()?.parse().ok()?;
    let rates = [(2.5, 1), (5.0, 2), (8.0, 3), (16.0, 4), (32.0, 5), (64.0, 6)];
    let generation = rates.iter().find(|(rate, _)| (speed - rate).abs() < 0.1).map(|(_, generation)| *generation)?;
    Some(PcieLink { generation, width: line(&place.join("current_link_width"))?.parse().ok()? })
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
                ..Nic::default()
            });
        }
    }
    ports
}

/// Interfaces with hardware behind them: bridges, tunnels and the loopback have none.
fn interfaces(folder: &Path) -> Vec<Nic> {
    let real = entries(folder).into_iter().filter(|i| i.join("device").exists());
    let nic = |interface: PathBuf| Nic {
        name: name_of(&interface),
        // Mbit/s; −1 where there is no link.
        rate_gbps: line(&interface.join("speed")).and_then(|s| s.parse().ok()).filter(|mbit: &f64| *mbit > 0.0).map(|m| m / 1e3),
        state: line(&interface.join("operstate")).map(|s| s.to_ascii_uppercase()),
        link_layer: Some(if line(&interface.join("type")).as_deref() == Some("32") { "InfiniBand" } else { "Ethernet" }.into()),
        firmware: None,
        pci: pci(&interface),
        ..Nic::default()
    };
    real.map(nic).collect()
}

/// The PCI address of what `device` in this folder leads to: the last part of the path that looks like one.
fn pci(folder: &Path) -> Option<String> {
    let path = fs::canonicalize(folder.join("device")).ok()?;
    path.iter().rev().filter_map(|p| p.to_str()).find(|p| address(p)).map(str::to_owned)
}

/// True for `0000:1b:00.0`.
fn address(part: &str) -> bool {
    let fields: Vec<&str> = part.split([':', '.']).collect();
    fields.len() == 4 && fields.iter().all(|f| !f.is_empty() && f.chars().all(|c| c.is_ascii_hexdigit()))
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

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A host as the kernel would show it: two adapters, of which one shares a switch with a GPU; the first one's own interface; one
    /// that is down; a card on virtio; a bridge.
    struct Host(PathBuf);

    impl Host {
        fn new(name: &str) -> Self {
            let root = std::env::temp_dir().join(format!("ridgepoint-network-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&root);
            fs::create_dir_all(&root).unwrap();
            Self(root)
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        /// A PCI device at `path` below sys/devices, and what of a class leads to it.
        fn device(&self, path: &str, classes: &[&str]) {
            let place = self.0.join("sys/devices").join(path);
            fs::create_dir_all(&place).unwrap();
            let bus = self.0.join("sys/bus/pci/devices");
            fs::create_dir_all(&bus).unwrap();
            let _ = symlink(&place, bus.join(place.file_name().unwrap()));
            for class in classes {
                let folder = self.0.join("sys/class").join(class);
                fs::create_dir_all(&folder).unwrap();
                symlink(&place, folder.join("device")).unwrap();
            }
        }
    }

    impl Drop for Host {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const SWITCH: &str = "pci0000:1a/0000:1a:01.0/0000:1b:00.0";

    fn whole() -> Host {
        let host = Host::new("whole");
        for (adapter, rate, state) in
            [("mlx5_0", "400 Gb/sec (4X NDR)", "4: ACTIVE"), ("mlx5_1", "400 Gb/sec (4X NDR)", "1: DOWN")]
        {
            host.write(&format!("sys/class/infiniband/{adapter}/ports/1/rate"), rate);
            host.write(&format!("sys/class/infiniband/{adapter}/ports/1/state"), state);
            host.write(&format!("sys/class/infiniband/{adapter}/ports/1/link_layer"), "InfiniBand\n");
        }
        let nic = format!("{SWITCH}/0000:1c:00.0/0000:1d:00.0");
        host.device(&nic, &["infiniband/mlx5_0", "net/ibp27s0"]);
        host.device("pci0000:3c/0000:3c:01.0/0000:3d:00.0", &["infiniband/mlx5_1"]);
        host.device(&format!("{SWITCH}/0000:1c:01.0/0000:1e:00.0"), &[]);
        host.device("pci0000:5e/0000:5e:01.0/0000:5f:00.0", &[]);
        for (file, text) in [("numa_node", "1"), ("current_link_speed", "32.0 GT/s PCIe"), ("current_link_width", "16")] {
            host.write(&format!("sys/devices/{nic}/{file}"), text);
        }
        host.write("sys/class/net/eth0/speed", "25000\n");
        host.write("sys/class/net/eth0/operstate", "up\n");
        host.device("pci0000:00/0000:00:03.0", &["net/eth0"]);
        host.write("sys/class/net/docker0/operstate", "up\n");
        host
    }

    #[test]
    fn ports_tell_their_rate_their_place_and_who_is_near() {
        let host = whole();
        let gpus = [("cuda:0", "00000000:1E:00.0"), ("cuda:1", "0000:5f:00.0"), ("cuda:2", "none")];
        let gpus = gpus.map(|(id, pci)| (id.to_owned(), pci.to_owned()));
        let found = ports_of(&host.0, &gpus);
        let names: Vec<_> = found.iter().map(|n| n.name.as_str()).collect();
        assert_eq!(names, ["mlx5_0", "mlx5_1", "eth0"], "{found:?}");
        let first = &found[0];
        assert_eq!((first.rate_gbps, first.state.as_deref(), first.numa_node), (Some(400.0), Some("ACTIVE"), Some(1)));
        assert_eq!((first.pcie.map(|l| l.to_string()).as_deref(), &first.near[..]), (Some("5.0x16"), &["cuda:0".to_owned()][..]));
        assert_eq!((found[1].near.len(), found[1].pcie, found[2].rate_gbps), (0, None, Some(25.0)));
    }

    #[test]
    fn the_rate_is_of_the_fabric_and_else_of_the_fastest_interfaces() {
        let port = |rate, state: &str| Nic { rate_gbps: rate, state: Some(state.into()), ..Nic::default() };
        let fabric =
            [port(Some(400.0), "ACTIVE"), port(Some(400.0), "ACTIVE"), port(Some(400.0), "DOWN"), port(Some(800.0), "UP")];
        assert_eq!(Rate::of(&fabric), Some(Rate { ports: 2, gbps: 400.0 }));
        assert_eq!(Rate::of(&fabric).unwrap().gigabytes(), 100.0);
        let ethernet = [port(Some(1.0), "UP"), port(Some(25.0), "UP"), port(None, "UP"), port(Some(100.0), "DOWN")];
        assert_eq!(Rate::of(&ethernet), Some(Rate { ports: 1, gbps: 25.0 }));
        assert_eq!(Rate::of(&[port(None, "UP"), port(Some(f64::NAN), "UP")]), None);
    }

    #[test]
    fn direct_access_is_told_with_its_way() {
        let host = Host::new("direct");
        assert_eq!(direct_access_of(&host.0), "no: no GPU driver here offers it");
        host.write("proc/sys/kernel/osrelease", "5.15.0-91-generic\n");
        host.write("sys/module/amdgpu/version", "6.8\n");
        assert_eq!(direct_access_of(&host.0), "by DMA-BUF of the kernel's amdgpu");
        host.write("proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.161.08\n");
        assert!(direct_access_of(&host.0).contains("modprobe nvidia_peermem"));
        host.write("proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15\n");
        assert_eq!(direct_access_of(&host.0), "by DMA-BUF of the open kernel modules");
        host.write("proc/sys/kernel/osrelease", "5.4.0\n");
        assert!(direct_access_of(&host.0).starts_with("no: "));
        host.write("sys/module/nvidia_peermem/refcnt", "0\n");
        assert_eq!(direct_access_of(&host.0), "nvidia_peermem is loaded");
    }
}
