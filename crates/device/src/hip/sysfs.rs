//! What the kernel driver shows of a GPU as files: partitions, links, identity, and whether this user may use it at all. The
//! root is given, so that a test can build a machine in a folder.

use crate::probe::Finding;
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The kernel's files.
#[derive(Clone, Debug)]
pub(crate) struct Sysfs(PathBuf);

impl Sysfs {
    pub(crate) fn of_this_machine() -> Self {
        Self("/".into())
    }

    #[cfg(test)]
    pub(crate) fn at(root: &Path) -> Self {
        Self(root.to_owned())
    }

    fn path(&self, below: &str) -> PathBuf {
        self.0.join(below)
    }

    /// Version of the amdgpu module; the kernel's own has none.
    pub(crate) fn driver_version(&self) -> String {
        text(&self.path("sys/module/amdgpu/version")).unwrap_or_else(|| "of the kernel".into())
    }

    /// What keeps this user from AMD's GPUs, with what to do.
    pub(crate) fn access(&self) -> Result<(), String> {
        let kfd = self.path("dev/kfd");
        if !self.path("sys/module/amdgpu").is_dir() {
            return Err("the amdgpu kernel driver is not loaded: is an AMD GPU in this machine (lspci), and what does modprobe amdgpu say?".into());
        }
        if !kfd.exists() {
            return Err("there is no /dev/kfd here: start the container with --device /dev/kfd --device /dev/dri".into());
        }
        match fs::OpenOptions::new().read(true).write(true).open(&kfd) {
            Ok(_) => Ok(()),
            Err(error) => Err(format!(
                "/dev/kfd: {error}: usermod -aG render,video $USER, or --group-add render --group-add video for a container"
            )),
        }
    }

    /// The kernel driver as a line of `doctor`.
    pub(crate) fn kernel_driver(&self) -> Finding {
        let what = "amdgpu".into();
        match self.access() {
            Ok(()) => {
                Finding { what, ok: true, detail: format!("{}, /dev/kfd may be opened", self.driver_version()), remedy: None }
            }
            Err(why) => Finding { what, ok: false, detail: why, remedy: None },
        }
    }

    /// The card at a PCI address as HIP writes it. A partition has the address of its card, with its own number in the place of
    /// the function, which is no device of its own.
    pub(crate) fn card(&self, pci: &str) -> Option<Card> {
        let pci = pci.to_ascii_lowercase();
        let valid = !pci.is_empty() && pci.chars().all(|c| c.is_ascii_hexdigit() || c == ':' || c == '.');
        let (slot, _) = pci.rsplit_once('.').filter(|_| valid)?;
        let dir = [pci.clone(), format!("{slot}.0")]
            .map(|name| self.path("sys/bus/pci/devices").join(name))
            .into_iter()
            .find(|dir| dir.join("vendor").is_file())?;
        Some(Card { node: self.node(&pci, slot), dir })
    }

    /// The compute node of a card: HIP's CU count depends on a mode, this one does not.
    fn node(&self, pci: &str, slot: &str) -> Option<Node> {
        let nodes = entries(&self.path("sys/class/kfd/kfd/topology/nodes"));
        let mut found: Vec<(bool, Node)> = nodes
            .iter()
            .filter_map(|dir| {
                let properties = properties(&dir.join("properties"));
                let get = |key: &str| properties.get(key).copied();
                let location = get("location_id").filter(|_| get("simd_count") != Some(0))?;
                let [bus, device, function] = [location >> 8 & 0xff, location >> 3 & 0x1f, location & 7];
                let its_slot = format!("{:04x}:{bus:02x}:{device:02x}", get("domain").unwrap_or(0));
                (its_slot == slot).then(|| (format!("{its_slot}.{function}") == pci, Node { dir: dir.clone(), properties }))
            })
            .collect();
        // The partition's own where they are told apart, and otherwise the first: all are alike.
        found.sort_by_key(|(exact, _)| !exact);
        found.into_iter().next().map(|(_, node)| node)
    }
}

/// A card's folder, and its compute node.
pub(crate) struct Card {
    pub(crate) dir: PathBuf,
    node: Option<Node>,
}

struct Node {
    dir: PathBuf,
    properties: BTreeMap<String, u64>,
}

/// `type` of a link in the topology: xGMI.
const XGMI: u64 = 11;

impl Card {
    /// A file's text, one line.
    pub(crate) fn read(&self, name: &str) -> Option<String> {
        text(&self.dir.join(name))
    }

    /// PCI device id: what tells models apart where the marketing name is missing.
    pub(crate) fn device_id(&self) -> Option<u32> {
        u32::from_str_radix(self.read("device")?.strip_prefix("0x")?, 16).ok()
    }

    /// Compute units of this device or partition.
    pub(crate) fn units(&self) -> Option<u32> {
        let get = |key: &str| self.node.as_ref()?.properties.get(key).copied();
        u32::try_from(get("simd_count")?.checked_div(get("simd_per_cu")?)?).ok().filter(|units| *units > 0)
    }

    /// Accelerator dies of this device or partition.
    pub(crate) fn xccs(&self) -> Option<u32> {
        u32::try_from(*self.node.as_ref()?.properties.get("num_xcc")?).ok().filter(|n| *n > 0)
    }

    /// Bytes of the memory-side cache (Infinity Cache), one of level 3.
    pub(crate) fn infinity_cache(&self) -> Option<u64> {
        let caches = entries(&self.node.as_ref()?.dir.join("caches"));
        let level3 = caches.iter().filter_map(|dir| {
            let cache = properties(&dir.join("properties"));
            (cache.get("level") == Some(&3)).then(|| cache.get("size").copied().unwrap_or(0) * 1024)
        });
        Some(level3.sum()).filter(|bytes| *bytes > 0)
    }

    /// Links to other GPUs of this machine.
    fn xgmi_links(&self) -> Option<usize> {
        let links = entries(&self.node.as_ref()?.dir.join("io_links"));
        Some(links.iter().filter(|dir| properties(&dir.join("properties")).get("type") == Some(&XGMI)).count())
    }

    /// What stays, for the record.
    pub(crate) fn facts(&self) -> BTreeMap<String, String> {
        let mut facts = BTreeMap::new();
        for (fact, file) in [
            ("compute partition", "current_compute_partition"),
            ("memory partition", "current_memory_partition"),
            ("vbios", "vbios_version"),
            ("pcie speed", "current_link_speed"),
            ("pcie speed max", "max_link_speed"),
            ("pcie_width", "current_link_width"),
            ("pcie_width_max", "max_link_width"),
            ("numa node", "numa_node"),
            ("xgmi device id", "xgmi_device_id"),
            ("xgmi hive", "xgmi_hive_info/xgmi_hive_id"),
        ] {
            facts.extend(self.read(file).map(|value| (fact.to_owned(), value)));
        }
        facts.extend(self.xgmi_links().map(|n| ("xgmi links".to_owned(), n.to_string())));
        facts
    }
}

/// `key value` lines of the topology.
fn properties(file: &Path) -> BTreeMap<String, u64> {
    let all = limited(file).unwrap_or_default();
    all.lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(k, v)| Some((k.to_owned(), v.trim().parse().ok()?)))
        .collect()
}

/// Entries of a folder, in the order of their numbers.
fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = fs::read_dir(dir).map(|d| d.flatten().map(|e| e.path()).collect()).unwrap_or_default();
    all.sort_by_key(|p| p.file_name().and_then(|n| n.to_str()?.parse::<u32>().ok()).unwrap_or(u32::MAX));
    all
}

/// The first line of a file; None where it is empty.
pub(crate) fn text(file: &Path) -> Option<String> {
    let all = limited(file)?;
    let line: String = all.lines().next()?.chars().filter(|c| !c.is_control()).collect();
    Some(line.trim().to_owned()).filter(|line| !line.is_empty())
}

/// The first 64 KiB of a file as text.
pub(crate) fn limited(file: &Path) -> Option<String> {
    Some(String::from_utf8_lossy(&bytes(file)?).into_owned())
}

/// The first 64 KiB of a file.
pub(crate) fn bytes(file: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(file).ok()?.take(64 << 10).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A folder that looks like a machine; removed when it is dropped.
    pub(crate) struct Root(pub(crate) PathBuf);

    impl Root {
        pub(crate) fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("rp-sysfs-{}-{name}", std::process::id()));
            let new = Self(root);
            for (file, contents) in files {
                let file = new.0.join(file);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, contents).unwrap();
            }
            new
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_keeps_a_user_from_the_gpu_is_one_sentence() {
        let why = |files: &[(&str, &str)]| Sysfs::at(&Root::new("access", files).0).access().unwrap_err();
        assert!(why(&[]).contains("modprobe amdgpu"));
        assert!(why(&[("sys/module/amdgpu/version", "6.12.12\n")]).contains("--device /dev/kfd --device /dev/dri"));
        let root = Root::new("may", &[("sys/module/amdgpu/version", "6.12.12\n"), ("dev/kfd", "")]);
        let finding = Sysfs::at(&root.0).kernel_driver();
        assert_eq!((finding.ok, finding.detail.as_str()), (true, "6.12.12, /dev/kfd may be opened"));
        // As a folder it cannot be opened for writing by anyone.
        let root = Root::new("denied", &[("sys/module/amdgpu/x", ""), ("dev/kfd/x", "")]);
        let why = Sysfs::at(&root.0).access().unwrap_err();
        assert!(why.contains("usermod -aG render,video"), "{why}");
    }

    #[test]
    fn an_address_that_is_none_leads_nowhere() {
        let root = Root::new("addresses", &[("secret.0/vendor", "x")]);
        for pci in ["", ".", "0000:c1:00.0", "../../../../secret.0", "../secret.0", "0000:c1:00"] {
            assert!(Sysfs::at(&root.0).card(pci).is_none(), "{pci}");
        }
    }

    #[test]
    fn a_partition_is_found_by_its_cards_address_and_its_own_node() {
        let node = |n: u32, location: u32, simds: u32| {
            (
                format!("sys/class/kfd/kfd/topology/nodes/{n}/properties"),
                format!("simd_count {simds}\nsimd_per_cu 4\nlocation_id {location}\ndomain 0\nnum_xcc 1\nbroken\n"),
            )
        };
        // A CPU, then two partitions of the card c1:00 and another card.
        let mut files = vec![node(0, 0, 0), node(1, 0xc100, 152), node(2, 0xc101, 148), node(3, 0xc200, 1216)];
        files.push(("sys/bus/pci/devices/0000:c1:00.0/vendor".into(), "0x1002\n".into()));
        files.push(("sys/bus/pci/devices/0000:c1:00.0/current_memory_partition".into(), "NPS4\n\x1b[31m".into()));
        files.push(("sys/class/kfd/kfd/topology/nodes/2/caches/0/properties".into(), "level 3\nsize 262144\n".into()));
        files.push(("sys/class/kfd/kfd/topology/nodes/2/caches/1/properties".into(), "level 2\nsize 4096\n".into()));
        for (link, kind) in [(0, 2), (1, 11), (2, 11)] {
            files.push((format!("sys/class/kfd/kfd/topology/nodes/2/io_links/{link}/properties"), format!("type {kind}\n")));
        }
        let files: Vec<_> = files.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        let root = Root::new("partition", &files);
        let card = Sysfs::at(&root.0).card("0000:C1:00.1").unwrap();
        assert_eq!((card.units(), card.xccs(), card.infinity_cache()), (Some(37), Some(1), Some(256 << 20)));
        assert_eq!(card.facts()["memory partition"], "NPS4");
        assert_eq!(card.facts()["xgmi links"], "2");
        assert_eq!(Sysfs::at(&root.0).card("0000:c1:00.0").unwrap().units(), Some(38));
    }
}
