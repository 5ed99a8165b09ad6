//! What is known about a device: observed facts only, as they are written into a run's environment. Peaks come from
//! specs.toml when a record is read, never from here.

use crate::{Bytes, Dtype};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// The programming interface through which a device is driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// NVIDIA's driver API.
    Cuda,
    /// AMD's HIP.
    Hip,
    /// Vulkan compute.
    Vulkan,
    /// The host's own cores.
    Cpu,
    /// A device that exists for tests.
    Fake,
}

impl Backend {
    /// The part of a device id before the colon.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cuda => "cuda",
            Self::Hip => "hip",
            Self::Vulkan => "vulkan",
            Self::Cpu => "cpu",
            Self::Fake => "fake",
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One level of cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CacheLevel {
    /// `L1`, `L2`, `L3`, `Infinity Cache`.
    pub name: String,
    /// Size of one instance.
    pub bytes: Bytes,
    /// How many of them the device has.
    pub instances: u32,
}

/// A library that was loaded, so that a number can be traced to its version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Library {
    /// `cublasLt`, `OpenBLAS`.
    pub name: String,
    /// As the library reports it.
    pub version: String,
    /// The file it came from, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// A limit measured on the device itself when it was opened, for a device that no datasheet describes (a CPU in a VM).
/// Such a roof is labelled empirical wherever it is shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MeasuredRoof {
    /// `fma f32`, `dram read`.
    pub what: String,
    /// Operations per second or bytes per second, as `unit` says.
    pub value: f64,
    /// `FLOP/s` or `B/s`.
    pub unit: String,
    /// The dtype it holds for; None for bandwidth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<Dtype>,
    /// How it was measured.
    pub method: String,
}

/// The facts of one device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeviceInfo {
    /// `cuda:0`: what `--device` takes.
    pub id: String,
    /// How it is driven.
    pub backend: Backend,
    /// `NVIDIA`, `AMD`, `Intel`, ….
    pub vendor: String,
    /// As the driver names it; the key into specs.toml.
    pub name: String,
    /// `sm_90`, `gfx942`, `x86-64-v4`.
    pub arch: String,
    /// Stable identity across reboots, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// PCI address, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci: Option<String>,
    /// Streaming multiprocessors, compute units, or cores in use.
    pub units: u32,
    /// Maximum clock of those units in MHz, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_clock_mhz: Option<f64>,
    /// Device memory (the host's, for a CPU).
    pub memory: Bytes,
    /// Caches, the smallest first.
    pub caches: Vec<CacheLevel>,
    /// Driver version, or kernel version for a CPU.
    pub driver: String,
    /// True for a GPU that is emulated on the host's cores: its numbers say nothing about a GPU.
    #[serde(default)]
    pub software: bool,
    /// Libraries that this device uses.
    #[serde(default)]
    pub libraries: Vec<Library>,
    /// Limits measured on the device at opening.
    #[serde(default)]
    pub measured: Vec<MeasuredRoof>,
    /// Anything else worth keeping: MIG profile, governor, partition mode, SIMD features.
    #[serde(default)]
    pub facts: BTreeMap<String, String>,
}

impl DeviceInfo {
    /// A device of which nothing is known.
    #[must_use]
    pub fn nameless() -> Self {
        Self {
            id: String::new(),
            backend: Backend::Fake,
            vendor: String::new(),
            name: String::new(),
            arch: String::new(),
            uuid: None,
            pci: None,
            units: 0,
            max_clock_mhz: None,
            memory: Bytes(0),
            caches: Vec::new(),
            driver: String::new(),
            software: false,
            libraries: Vec::new(),
            measured: Vec::new(),
            facts: BTreeMap::new(),
        }
    }

    /// The number of an NVIDIA architecture: 90 of `sm_90a`; None of any other.
    #[must_use]
    pub fn sm(&self) -> Option<u32> {
        self.arch.strip_prefix("sm_")?.trim_end_matches(|c: char| c.is_ascii_alphabetic()).parse().ok()
    }

    /// The largest cache, total over its instances: what a cold case must exceed. 32 MiB where nothing is known.
    #[must_use]
    pub fn last_level_cache(&self) -> Bytes {
        self.caches.iter().map(|c| c.bytes * u64::from(c.instances)).max().unwrap_or(Bytes::mib(32))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A device about which nothing is known.
    pub(crate) fn unknown() -> DeviceInfo {
        DeviceInfo {
            id: "cuda:0".into(),
            backend: Backend::Cuda,
            vendor: "NVIDIA".into(),
            name: "unknown".into(),
            arch: "sm_90".into(),
            uuid: None,
            pci: None,
            units: 132,
            max_clock_mhz: None,
            memory: Bytes(80_000_000_000),
            caches: Vec::new(),
            driver: "580".into(),
            software: false,
            libraries: Vec::new(),
            measured: Vec::new(),
            facts: BTreeMap::new(),
        }
    }

    #[test]
    fn architectures_are_compared_as_numbers() {
        let sm = |arch: &str| DeviceInfo { arch: arch.into(), ..unknown() }.sm();
        assert_eq!(["sm_80", "sm_90a", "sm_120a"].map(sm), [Some(80), Some(90), Some(120)]);
        assert_eq!(["gfx942", "sm_", "x86-64-v4"].map(sm), [None; 3]);
    }

    #[test]
    fn the_last_level_cache_counts_all_instances() {
        let cache = |name: &str, mib, instances| CacheLevel { name: name.into(), bytes: Bytes::mib(mib), instances };
        let info = DeviceInfo { caches: vec![cache("L2", 1, 64), cache("L3", 32, 1)], ..unknown() };
        assert_eq!(info.last_level_cache(), Bytes::mib(64));
        assert_eq!(unknown().last_level_cache(), Bytes::mib(32));
    }
}
