//! What a node consists of, as it was found. What it should consist of is [`super::Expected`], in a rule file.

use crate::{Backend, Bytes, DeviceInfo, Environment, Library};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// The parts of a node. What could not be found out is None or absent, and never a guess.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Inventory {
    /// GPUs in the order of the driver, those that could not be opened included.
    pub gpus: Vec<Gpu>,
    /// Network adapters.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nics: Vec<Nic>,
    /// Versions of the node's own firmware by name: `bios`, `bmc`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub firmware: BTreeMap<String, String>,
    /// Libraries that were loaded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub libraries: Vec<Library>,
    /// What could not be looked at, a sentence each: `NICs: /sys/class/infiniband does not exist`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<String>,
}

/// A GPU as it was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Gpu {
    /// `cuda:0`, as in records.
    pub device: String,
    /// The driver's name for it.
    pub name: String,
    /// Stable identity, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Serial number, where the driver tells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// PCI address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pci: Option<String>,
    /// Device memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// ECC on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ecc: Option<bool>,
    /// Links to other GPUs that are up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub links_up: Option<u32>,
    /// The PCIe link as it runs now; a GPU at rest may have slowed it down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pcie: Option<PcieLink>,
    /// The best that both ends of it can do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pcie_max: Option<PcieLink>,
    /// Driver version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Firmware versions by name: `vbios`, `inforom`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub firmware: BTreeMap<String, String>,
    /// Anything else: `row_remap_failed`, `power_limit_w`, `numa_node`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub facts: BTreeMap<String, String>,
}

/// A network adapter's port as it was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Nic {
    /// `mlx5_0`.
    pub name: String,
    /// Rate of the port, Gbit/s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_gbps: Option<f64>,
    /// `ACTIVE`, `DOWN`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// `InfiniBand`, `Ethernet`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link_layer: Option<String>,
    /// Firmware version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware: Option<String>,
    /// PCI address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pci: Option<String>,
    /// The PCIe link as it runs now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pcie: Option<PcieLink>,
    /// The NUMA node it hangs on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numa_node: Option<u32>,
    /// Devices that share a PCIe switch with it, so that what they send needs no core's root complex.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub near: Vec<String>,
}

/// A PCIe link: `5.0x16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct PcieLink {
    /// Generation.
    pub generation: u8,
    /// Lanes.
    pub width: u8,
}

impl PcieLink {
    /// Parses `5.0x16` or `5x16`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (generation, width) = text.split_once('x')?;
        let generation = generation.strip_suffix(".0").unwrap_or(generation).parse().ok()?;
        let link = Self { generation, width: width.parse().ok()? };
        ((1..=8).contains(&link.generation) && (1..=32).contains(&link.width)).then_some(link)
    }
}

impl fmt::Display for PcieLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.0x{}", self.generation, self.width)
    }
}

impl Gpu {
    /// A GPU that was opened, with the facts that its driver gave.
    #[must_use]
    pub fn of(info: &DeviceInfo) -> Self {
        let fact = |names: &[&str]| names.iter().find_map(|n| info.facts.get(*n)).map(String::as_str);
        let link = |generations: &[&str], width| {
            let generation = fact(generations)?;
            // HIP's comes from the kernel as `32.0 GT/s PCIe`.
            let generation = generation.split_once(" GT/s").map_or(generation, |(rate, _)| generation_of(rate));
            PcieLink::parse(&format!("{generation}x{}", fact(&[width])?))
        };
        let firmware = ["vbios", "inforom"].into_iter().filter_map(|name| Some((name.to_owned(), fact(&[name])?.to_owned())));
        let others = ["mig_mode", "row_remap_pending", "row_remap_failed", "rows_remapped_uncorrected", "numa node"];
        Self {
            device: info.id.clone(),
            name: info.name.clone(),
            uuid: info.uuid.clone(),
            serial: fact(&["serial"]).map(str::to_owned),
            pci: info.pci.clone(),
            memory: Some(info.memory),
            ecc: fact(&["ecc_mode"]).and_then(|m| match m {
                "0" => Some(false),
                "1" => Some(true),
                _ => None,
            }),
            links_up: fact(&["nvlinks_up", "links_up", "xgmi links"]).and_then(|n| n.parse().ok()),
            pcie: link(&["pcie_gen", "pcie speed"], "pcie_width"),
            pcie_max: link(&["pcie_gen_max", "pcie speed max"], "pcie_width_max"),
            driver: Some(info.driver.clone()),
            firmware: firmware.collect(),
            facts: others.into_iter().filter_map(|name| Some((name.to_owned(), fact(&[name])?.to_owned()))).collect(),
        }
    }
}

/// The PCIe generation of a lane's rate in GT/s.
fn generation_of(rate: &str) -> &'static str {
    match rate {
        "2.5" => "1",
        "5.0" | "5" => "2",
        "8.0" | "8" => "3",
        "16.0" | "16" => "4",
        "32.0" | "32" => "5",
        "64.0" | "64" => "6",
        _ => "",
    }
}

impl Inventory {
    /// What a run's environment tells of its node: the devices that were measured, with the facts their drivers gave. For
    /// records that were taken without an inventory of the node.
    #[must_use]
    pub fn of_environment(environment: &Environment) -> Self {
        if let Some(inventory) = &environment.inventory {
            return (**inventory).clone();
        }
        let devices: Vec<&DeviceInfo> = environment.devices.iter().collect();
        let gpus = devices.iter().filter(|d| d.backend != Backend::Cpu && !d.software).map(|d| Gpu::of(d));
        Self { gpus: gpus.collect(), libraries: Self::libraries_of(&devices), ..Self::default() }
    }

    /// The libraries that these devices use, each version once.
    #[must_use]
    pub fn libraries_of(devices: &[&DeviceInfo]) -> Vec<Library> {
        let mut libraries: Vec<Library> = devices.iter().flat_map(|d| d.libraries.clone()).collect();
        libraries.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
        libraries.dedup_by(|a, b| a.name == b.name && a.version == b.version);
        libraries
    }

    /// This inventory brought up to date with a later one, which may have looked at fewer devices.
    pub(super) fn joined(mut self, later: Self) -> Self {
        for gpu in later.gpus {
            match self.gpus.iter_mut().find(|g| g.device == gpu.device) {
                Some(known) => *known = gpu,
                None => self.gpus.push(gpu),
            }
        }
        self.libraries.retain(|l| later.libraries.iter().all(|new| new.name != l.name));
        self.libraries.extend(later.libraries);
        if !later.nics.is_empty() {
            self.nics = later.nics;
        }
        self.firmware.extend(later.firmware);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pcie_links_parse_and_print() {
        let link = PcieLink::parse("5.0x16").unwrap();
        assert_eq!((link.generation, link.width, link.to_string().as_str()), (5, 16, "5.0x16"));
        assert_eq!(PcieLink::parse("5x16"), Some(link));
        assert!(PcieLink::parse("x16").is_none() && PcieLink::parse("5x900").is_none() && PcieLink::parse("99x16").is_none());
    }
}
