//! What is stored: one JSON object a line. The first line of a run holds its environment, every other line one record.
//! A record holds what was observed and nothing derived, so that old results render again without a device and a better
//! roofline or rule needs no new run.

use crate::case::{Cache, CaseId, Component, Distribution, Level, Metric, Work};
use crate::model::Pass;
use crate::stats::Summary;
use crate::verdict::Inventory;
use crate::{DeviceInfo, Dtype, Seconds};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the file format, raised when a reader of the old one would misread the new.
pub const SCHEMA_VERSION: u32 = 1;
/// Version of the measuring method (ARCHITECTURE.md, Measuring). Numbers of different methods are not compared silently.
/// 2: how many operand sets a cold case has follows from what an execution moves, and no longer from what its operands occupy.
pub const METHOD_VERSION: u32 = 2;

/// One line of a record file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Line {
    /// Where and how the records after it were taken.
    Environment(Box<Environment>),
    /// One result.
    Record(Box<Record>),
}

/// Where and how a run was made; written once a run, referenced by `hash` from each record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Environment {
    /// [`SCHEMA_VERSION`] of the writer.
    pub schema: u32,
    /// FNV-1a of everything else in this struct, 16 hexadecimal digits.
    pub hash: String,
    /// Version of Ridgepoint.
    pub version: String,
    /// [`METHOD_VERSION`].
    pub method: u32,
    /// Host name.
    pub host: String,
    /// Kernel name and version.
    pub os: String,
    /// CPU model.
    pub cpu: String,
    /// Frequency governor, where one is readable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub governor: Option<String>,
    /// The command line, as typed.
    pub command: Vec<String>,
    /// `quick`, `standard`, `full`.
    pub profile: String,
    /// Seed of the input streams.
    pub seed: u64,
    /// Start of the run, RFC 3339 UTC.
    pub started: String,
    /// The devices measured.
    pub devices: Vec<DeviceInfo>,
    /// Anything else that bears on a number: NUMA nodes, container, environment variables that libraries read.
    #[serde(default)]
    pub facts: BTreeMap<String, String>,
    /// The node's parts, where they were looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inventory: Option<Box<Inventory>>,
    /// Forward passes whose parts were asked for, so that their times can be summed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passes: Vec<Pass>,
}

/// One case on one device with one provider.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Record {
    /// The [`Environment::hash`] it belongs to.
    pub environment: String,
    /// Device id, `cuda:0`.
    pub device: String,
    /// The case.
    pub case: CaseId,
    /// The suite.
    pub component: Component,
    /// Who did the work: `cublaslt`, `openblas`, `wgmma`, `native`.
    pub provider: String,
    /// Dtype as encoded on this device (FNUZ or OCP).
    pub dtype: Dtype,
    /// The figure the case is about.
    pub metric: Metric,
    /// The roof that bounds its bytes.
    pub level: Level,
    /// What one execution must do.
    pub work: Work,
    /// Cache policy.
    pub cache: Cache,
    /// Distribution of the inputs.
    pub data: Distribution,
    /// What the provider chose: tile, unroll, algorithm or engine id, threads.
    #[serde(default)]
    pub config: BTreeMap<String, String>,
    /// Words a reader must see beside the number: `emulated`, `software Vulkan`, `shared-memory engine`.
    #[serde(default)]
    pub labels: Vec<String>,
    /// Start of the case, RFC 3339 UTC.
    pub started: String,
    /// How the provider's algorithm was chosen, where it offers several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuning: Option<Box<Tuning>>,
    /// What only a soak tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soak: Option<Box<Soak>>,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// How one of a provider's algorithms was chosen, and what its own first choice takes beside it: the two were timed in turn, right
/// before the case.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Tuning {
    /// Algorithms that it offers.
    pub offered: u32,
    /// Of these, how many were tried; 0 where an earlier run had found the fastest.
    pub tried: u32,
    /// The chosen one's place in the provider's own ranking; 0 is its first choice.
    pub chosen: u32,
    /// Executions by the first choice, in the order taken; empty where that was chosen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub first: Vec<Seconds>,
    /// Executions by the chosen one, each right after one of `first`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub best: Vec<Seconds>,
    /// Why what an earlier run had found was not used, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Tuning {
    /// How many times as fast as the provider's first choice the chosen algorithm is; 1 where they are the same, None where the first
    /// choice did not run.
    #[must_use]
    pub fn gain(&self) -> Option<f64> {
        if self.chosen == 0 {
            return Some(1.0);
        }
        let median = |times: &[Seconds]| Summary::of(&times.iter().map(|s| s.0).collect::<Vec<_>>()).map(|s| s.median);
        Some(median(&self.first)? / median(&self.best)?).filter(|gain| gain.is_finite())
    }
}

/// What came of a case. Each of the four has its reason, none is dropped, and none but `measured` reads as a pass.
#[expect(clippy::large_enum_variant, reason = "nearly every record is measured")]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "outcome", rename_all = "lowercase")]
pub enum Outcome {
    /// Verified before and after, and timed.
    Measured {
        /// The raw samples.
        samples: Samples,
        /// The check made on the outputs of the timed run.
        verification: Verification,
        /// What the device reported meanwhile.
        telemetry: Telemetry,
    },
    /// It cannot be done here: no such library, dtype not on this chip.
    Skipped {
        /// Why, in one sentence.
        reason: String,
    },
    /// It should have been done and was not: an error.
    Failed {
        /// The error, in one sentence.
        reason: String,
    },
    /// It ran and computed a wrong result; no timing is kept.
    Wrong {
        /// The check that failed.
        verification: Verification,
    },
}

/// Whose clock a sample was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Clock {
    /// The device's own timestamps.
    Device,
    /// The host's monotonic clock.
    Host,
}

/// Why sampling ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Stop {
    /// The confidence interval of the median became narrow enough.
    Converged,
    /// The time limit came first.
    TimeLimit,
    /// The sample limit came first.
    SampleLimit,
}

/// The raw samples of a case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Samples {
    /// Seconds of one execution: each is a batch's duration divided by `batch`.
    pub seconds: Vec<Seconds>,
    /// Executions in one timed batch, passes inside a kernel included.
    pub batch: u64,
    /// The clock.
    pub clock: Clock,
    /// Seconds of warm-up before the first sample.
    pub warmup: Seconds,
    /// True if warm-up ended because times were steady, false if its time ran out first.
    pub steady: bool,
    /// Why sampling ended.
    pub stop: Stop,
    /// True if launches went through a captured graph.
    #[serde(default)]
    pub graph: bool,
    /// Core clock in MHz read from the device's own counters beside the samples, where it can be.
    #[serde(default)]
    pub observed_mhz: Vec<f64>,
    /// Indices of samples taken while the device reported throttling; kept and marked, not dropped.
    #[serde(default)]
    pub throttled: Vec<usize>,
}

/// How a result was checked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Verification {
    /// What was done, in the field's words: `full f64 reference`, `poison scan + 8 rows f64 + Freivalds`.
    pub method: String,
    /// The error, in the sense that `method` says.
    pub error: f64,
    /// The largest error that passes; derived from the dtype and the length of the sums.
    pub tolerance: f64,
    /// Elements looked at.
    pub checked: u64,
    /// Elements beyond tolerance, unwritten or not finite.
    pub wrong: u64,
}

impl Verification {
    /// Nothing wrong, something checked, and the error a number within tolerance. NaN fails.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.wrong == 0 && self.checked > 0 && self.error <= self.tolerance
    }

    /// What was found wrong, in a sentence: values that are off, or elements that are none.
    #[must_use]
    pub fn fault(&self) -> String {
        let Self { error, tolerance, checked, wrong, .. } = self;
        if *checked == 0 {
            "nothing was checked".into()
        } else if error <= tolerance {
            format!(
                "{wrong} of {checked} elements not written or not finite; error of the others {error:.1e} within {tolerance:.1e}"
            )
        } else {
            format!("{wrong} of {checked} elements wrong, error {error:.1e} over {tolerance:.1e}")
        }
    }
}

/// Smallest, median and largest reading of a sensor in a window.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Range {
    /// Smallest reading.
    pub min: f64,
    /// Median reading.
    pub median: f64,
    /// Largest reading.
    pub max: f64,
}

impl Range {
    /// The range of `readings`; None when there are none that are finite.
    #[must_use]
    pub fn of(readings: &[f64]) -> Option<Self> {
        let mut finite: Vec<f64> = readings.iter().copied().filter(|x| x.is_finite()).collect();
        finite.sort_by(f64::total_cmp);
        let (min, max) = (*finite.first()?, *finite.last()?);
        Some(Self { min, median: crate::stats::median_of_sorted(&finite), max })
    }
}

/// What the device reported over the window of a case's timed runs. A field is absent where the device has no such sensor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Telemetry {
    /// Readings taken.
    pub readings: u32,
    /// Sensors by name with unit: `sm_clock_mhz`, `mem_clock_mhz`, `power_w`, `temperature_c`, `memory_temperature_c`,
    /// `load_1m`, `steal_percent`.
    #[serde(default)]
    pub sensors: BTreeMap<String, Range>,
    /// Union of throttle reason bits, as the vendor defines them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttle_bits: Option<u64>,
    /// Those bits as words: `sw power cap`, `hw thermal slowdown`.
    #[serde(default)]
    pub throttle_reasons: Vec<String>,
    /// Counters that moved during the window, by name: `ecc_corrected`, `ecc_uncorrected`, `xid`, `pcie_replays`.
    #[serde(default)]
    pub counter_deltas: BTreeMap<String, i64>,
    /// How the case went over time, where it was sustained; sample `i` of the record is that of moment `i`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub timeline: Vec<Moment>,
}

/// One stretch of a sustained case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Moment {
    /// Its end, in seconds since the first sustained execution began.
    pub at: Seconds,
    /// Seconds of one execution, the mean over the stretch.
    pub execution: Seconds,
    /// The newest reading of each sensor, by the names of [`Telemetry::sensors`], and `observed_mhz` where the device counts.
    #[serde(default)]
    pub sensors: BTreeMap<String, f64>,
}

/// What a soak tells besides the figure of its load: its samples are one a batch, its verification is that of the whole time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Soak {
    /// How long it lasted, with all its loads, checks and waits.
    pub seconds: Seconds,
    /// Of that, how long the device worked on this load or compared its results.
    pub busy: Seconds,
    /// Executions of this load.
    pub executions: u64,
    /// Of these, how many results were compared with a verified one, bit by bit, on the device.
    pub compared: u64,
    /// Words (4 bytes) that differed in them.
    pub different: u64,
    /// Checks of the outputs against a reference on the host.
    pub checks: u32,
    /// Of these, how many failed.
    pub wrong_checks: u32,
    /// Seconds for which the clock was held back, by reason: `sw power cap`, `hw thermal slowdown`. Reasons may hold together.
    #[serde(default)]
    pub throttled: BTreeMap<String, Seconds>,
    /// How it went: at most [`Soak::SPANS`] spans of equal length.
    #[serde(default)]
    pub timeline: Vec<Span>,
}

impl Soak {
    /// Most spans of a timeline.
    pub const SPANS: usize = 120;
}

/// A span of a soak.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Span {
    /// Its end, from the soak's beginning.
    pub until: Seconds,
    /// Median time of one execution of the load; None where it was another's turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution: Option<Seconds>,
    /// Median readings, by the names of [`Telemetry::sensors`].
    #[serde(default)]
    pub sensors: BTreeMap<String, f64>,
    /// Words that differed.
    #[serde(default)]
    pub different: u64,
}

/// FNV-1a, 64 bit: a short name for an environment, not a signature.
#[must_use]
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

impl Environment {
    /// Fills in `hash` from all other fields.
    #[must_use]
    pub fn hashed(mut self) -> Self {
        self.hash = String::new();
        let text = serde_json::to_vec(&self).unwrap_or_default();
        self.hash = format!("{:016x}", fnv1a(&text));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_and_nothing_checked_never_pass() {
        let ok = Verification { method: "m".into(), error: 0.0, tolerance: 1.0, checked: 1, wrong: 0 };
        assert!(ok.passed());
        assert!(!Verification { error: f64::NAN, ..ok.clone() }.passed());
        assert!(!Verification { checked: 0, ..ok.clone() }.passed());
        assert!(!Verification { wrong: 1, ..ok }.passed());
    }

    #[test]
    fn fnv_agrees_with_its_published_vector() {
        // http://www.isthe.com/chongo/tech/comp/fnv/: FNV-1a 64 of "foobar".
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
