//! What datasheets say of each device, parsed from the embedded specs.toml. A device that is not in it is measured all the
//! same; its roof is then unknown, and the report says so.

use crate::{DeviceInfo, Dtype};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// The embedded table.
pub const SPECS_TOML: &str = include_str!("specs.toml");

static BUILT_IN: LazyLock<Specs> = LazyLock::new(|| Specs::parse(SPECS_TOML).unwrap_or_default());

/// All known device models.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Specs {
    /// One entry a model.
    #[serde(default, rename = "device")]
    pub devices: Vec<Spec>,
}

/// One device model, as its datasheet gives it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Short name, `H100-SXM`.
    pub id: String,
    /// `NVIDIA` or `AMD`.
    pub vendor: String,
    /// The driver's names for it.
    pub names: Vec<String>,
    /// Die or family: `GH100`, `CDNA3`.
    pub architecture: String,
    /// Compiler target: `sm_90`, `gfx942`.
    pub target: String,
    /// Streaming multiprocessors or compute units of the package.
    pub units: u32,
    /// Devices that one package shows as; the package's figures are divided by it.
    #[serde(default = "one")]
    pub devices_per_package: u32,
    /// Clock at which tensor peaks are quoted, MHz.
    pub clock_mhz: Option<f64>,
    /// Clock at which vector peaks are quoted, where it is another.
    pub simt_clock_mhz: Option<f64>,
    /// Highest clock, MHz.
    pub max_clock_mhz: Option<f64>,
    /// Board power, W.
    pub tdp_w: Option<f64>,
    /// Shared memory (LDS) bytes per clock and unit.
    pub shared_bytes_per_clock: Option<f64>,
    /// Bytes per clock and unit that the first cache gives, where it has a path of its own (AMD's vL1D).
    pub l1_bytes_per_clock: Option<f64>,
    /// L2 capacity, MB.
    pub l2_mb: Option<f64>,
    /// Published L2 read bandwidth, GB/s.
    pub l2_gbps: Option<f64>,
    /// Infinity Cache capacity, MB.
    pub infinity_cache_mb: Option<f64>,
    /// Published Infinity Cache bandwidth, GB/s.
    pub infinity_cache_gbps: Option<f64>,
    /// Exponentials per clock and unit: the other roof of attention.
    pub exp2_per_clock: Option<f64>,
    /// Device memory.
    pub memory: MemorySpec,
    /// Links to other devices.
    pub link: Option<LinkSpec>,
    /// PCIe generation and width, `5.0x16`.
    pub pcie: Option<String>,
    /// Clocks or rates were computed from the peak, so their agreement proves nothing.
    #[serde(default)]
    pub derived: bool,
    /// Anything a reader of its figures should know.
    pub notes: Option<String>,
    /// Fields with but one, secondary source.
    #[serde(default)]
    pub unverified: Vec<String>,
    /// Where the figures come from.
    pub sources: Vec<String>,
    /// Peaks by dtype name, dense.
    pub peaks: BTreeMap<String, Peak>,
}

const fn one() -> u32 {
    1
}

/// Device memory of a model.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemorySpec {
    /// `HBM3`, `GDDR6`.
    pub r#type: String,
    /// Capacity, GB.
    pub gb: f64,
    /// Bandwidth, GB/s.
    pub gbps: f64,
}

/// Device-to-device links of a model, one direction.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkSpec {
    /// `NVLink4`, `xGMI`.
    pub r#type: String,
    /// All links together, one direction, GB/s.
    pub gbps: f64,
    /// Number of links, where each goes to another device.
    pub links: Option<u32>,
    /// Chip-to-chip link to the host CPU, one direction, GB/s.
    pub c2c_gbps: Option<f64>,
}

/// Peak of one dtype.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peak {
    /// Operations per clock and unit; None where only the product is published.
    pub ops_per_clock: Option<f64>,
    /// Published peak, TFLOP/s.
    pub tflops: f64,
    /// Which of the model's clocks it is quoted at.
    #[serde(default)]
    pub clock: PeakClock,
    /// Why the published peak is not units × ops × clock.
    pub exception: Option<String>,
}

/// Which clock a peak is quoted at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeakClock {
    /// `clock_mhz`.
    #[default]
    Reference,
    /// `simt_clock_mhz`.
    Simt,
}

impl Specs {
    /// Parses a table in specs.toml's format.
    ///
    /// # Errors
    /// The parser's message, with the line.
    pub fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|e| e.to_string())
    }

    /// The table that is compiled in.
    #[must_use]
    pub fn built_in() -> &'static Self {
        &BUILT_IN
    }

    /// The model of a device, by the driver's name for it less the suffixes of virtual functions, form factors and MIG.
    #[must_use]
    pub fn find(&self, info: &DeviceInfo) -> Option<&Spec> {
        let name = info.name.split(" MIG ").next().unwrap_or_default();
        let name = name.trim_end_matches(" VF").trim_end_matches(" OAM").trim();
        self.devices.iter().find(|spec| spec.names.iter().any(|n| n == name))
    }
}

impl Spec {
    /// Units that one device of the package has.
    #[must_use]
    pub fn units_per_device(&self) -> u32 {
        self.units / self.devices_per_package.max(1)
    }

    /// The key of a dtype's matrix peak in `peaks`; None where the table has no such class.
    #[must_use]
    pub fn peak(&self, dtype: Dtype) -> Option<&Peak> {
        let key = match dtype {
            Dtype::F64 if self.peaks.contains_key("f64-matrix") => "f64-matrix",
            Dtype::F32 if self.peaks.contains_key("f32-matrix") => "f32-matrix",
            Dtype::E4m3 | Dtype::E5m2 | Dtype::E4m3fnuz | Dtype::E5m2fnuz | Dtype::Mxfp8 => "fp8",
            Dtype::E2m1 | Dtype::Mxfp4 | Dtype::Nvfp4 => "fp4",
            other => other.name(),
        };
        self.peaks.get(key)
    }

    /// The clock that `peak` is quoted at, MHz.
    #[must_use]
    pub fn clock_of(&self, peak: &Peak) -> Option<f64> {
        match peak.clock {
            PeakClock::Simt => self.simt_clock_mhz,
            PeakClock::Reference => self.clock_mhz,
        }
    }

    /// One direction of the host link in GB/s, payload limit of its PCIe generation; None where unknown.
    #[must_use]
    pub fn host_link_gbps(&self) -> Option<f64> {
        pcie_gbps(self.pcie.as_deref()?)
    }
}

/// The payload that a PCIe link can carry in one direction, GB/s: lanes × GT/s × encoding. `5.0x16` gives 63.
#[must_use]
pub fn pcie_gbps(link: &str) -> Option<f64> {
    let (generation, width) = link.split_once('x')?;
    let width: f64 = width.parse().ok()?;
    let lane = match generation.split('.').next()? {
        "3" => 8.0 * 128.0 / 130.0,
        "4" => 16.0 * 128.0 / 130.0,
        "5" => 32.0 * 128.0 / 130.0,
        // Flit mode: 242 of 256 bytes are payload and header.
        "6" => 64.0 * 242.0 / 256.0,
        _ => return None,
    };
    Some(lane * width / 8.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_table_parses_and_names_are_unique() {
        let specs = Specs::parse(SPECS_TOML).unwrap();
        assert!(specs.devices.len() >= 34);
        let mut names: Vec<_> = specs.devices.iter().flat_map(|d| &d.names).collect();
        let n = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), n);
    }

    #[test]
    fn each_peak_is_units_times_ops_times_clock() {
        let mut checked = 0;
        for spec in &Specs::built_in().devices {
            assert!(!spec.sources.is_empty(), "{} has no source", spec.id);
            for (dtype, peak) in &spec.peaks {
                let (Some(ops), Some(clock)) = (peak.ops_per_clock, spec.clock_of(peak)) else {
                    assert!(spec.derived, "{} {dtype}: a peak without ops or clock must be marked derived", spec.id);
                    continue;
                };
                if spec.derived {
                    continue;
                }
                let computed = f64::from(spec.units) * ops * clock / 1e6;
                let off = (computed / peak.tflops - 1.0).abs() > 0.01;
                assert_eq!(off, peak.exception.is_some(), "{} {dtype}: {computed:.1} against {}", spec.id, peak.tflops);
                checked += 1;
            }
        }
        assert!(checked > 150, "only {checked} peaks were checked");
    }

    #[test]
    fn models_are_found_by_the_drivers_name_and_never_by_a_part_of_it() {
        let find = |name: &str| {
            let info = DeviceInfo { name: name.into(), ..crate::device::tests::unknown() };
            Specs::built_in().find(&info).map(|s| s.id.clone())
        };
        assert_eq!(find("NVIDIA H100 80GB HBM3").as_deref(), Some("H100-SXM"));
        assert_eq!(find("NVIDIA H100 80GB HBM3 MIG 1g.10gb").as_deref(), Some("H100-SXM"));
        assert_eq!(find("AMD Instinct MI300X VF").as_deref(), Some("MI300X"));
        assert_eq!(find("NVIDIA H200 NVL").as_deref(), Some("H200-NVL"));
        assert_eq!(find("NVIDIA H2000"), None);
    }

    #[test]
    fn pcie_payload_matches_the_published_limits() {
        assert!((pcie_gbps("5.0x16").unwrap() - 63.0).abs() < 0.1);
        assert!((pcie_gbps("4.0x16").unwrap() - 31.5).abs() < 0.1);
        assert!((pcie_gbps("6.0x16").unwrap() - 121.0).abs() < 0.1);
        assert_eq!(pcie_gbps("x16"), None);
    }
}
