//! What a rule file says: typed limits on what selectors choose. Declarative; nothing in it is evaluated or executed.

use super::{Pattern, PcieLink, Requirement, Verdict};
use serde::Serialize;
use std::collections::BTreeMap;

/// The rules of one file.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RuleSet {
    /// Short name: `h100`.
    pub name: String,
    /// What it is for, one sentence.
    pub title: String,
    /// Device models it is for, by their id in specs.toml or the driver's name; empty for all. Packs are chosen by it.
    pub models: Vec<Pattern>,
    /// When a measurement does not count.
    pub validity: Validity,
    /// The node as it should be.
    pub inventory: Option<Expected>,
    /// The rules, in the order of the file.
    pub rules: Vec<Rule>,
}

/// When a measurement does not count, and what a case that ended in an error means where no rule speaks of it.
///
/// A wrong result is FAIL always; there is no switch for that.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Validity {
    /// More throttled samples than this, in percent, make a measurement INVALID.
    pub max_throttled_pct: f64,
    /// Whether the power limit counts as throttling. A large GEMM runs into it on every good GPU, so that it does not unless the
    /// file says so.
    pub power_cap_throttles: bool,
    /// A wider 95 % confidence interval of the median than ± this many percent makes it INVALID.
    pub max_ci_pct: f64,
    /// What a case that ended in an error means: FAIL unless the file says otherwise.
    pub failed_case: Severity,
}

impl Default for Validity {
    /// A tenth of the samples throttled moves a median hardly; ± 5 % is as wide as the differences that are to be found.
    fn default() -> Self {
        Self { max_throttled_pct: 10.0, power_cap_throttles: false, max_ci_pct: 5.0, failed_case: Severity::Fail }
    }
}

/// One rule: what it looks at, what it demands, and what it means if that does not hold.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rule {
    /// Its name, unique in the file: `hbm-read`.
    pub id: String,
    /// What it is about, for people; may be empty.
    pub title: String,
    /// CaseIds it looks at; any of them.
    pub cases: Vec<Pattern>,
    /// Device models (id in specs.toml, or the driver's name); empty for the set's.
    pub models: Vec<Pattern>,
    /// Which provider's record counts.
    pub providers: Providers,
    /// Driver versions; None for any.
    pub driver: Option<Requirement>,
    /// Smallest size (the segment of an id that is one, `1GiB`), bytes.
    pub size_min: Option<u64>,
    /// Largest size, bytes.
    pub size_max: Option<u64>,
    /// Whether each case that matches is judged, or the best of them.
    pub pick: Pick,
    /// Whether it must hold on each GPU or once a node.
    pub per: Per,
    /// What it demands.
    pub check: Check,
    /// Missing, skipped and invalid are violations.
    pub required: bool,
    /// What a violation means.
    pub severity: Severity,
    /// Where the threshold comes from.
    pub source: String,
    /// The line of the file it starts on, from 1.
    pub line: u32,
}

/// Which provider's record a rule looks at.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Providers {
    /// The best of those that were measured on the device: what the device can do.
    Best,
    /// Each that matches, by itself.
    Each(Pattern),
}

/// Which of the cases that match a rule judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pick {
    /// Each by itself.
    Each,
    /// The one that reaches most: a published best, which one shape of several reaches.
    Best,
}

/// Whether a rule must hold on each device of the model or once a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Per {
    /// On each device.
    Gpu,
    /// Once: a collective over all devices.
    Node,
}

/// What a violated rule means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// A person should look.
    Warn,
    /// The node is refused.
    Fail,
}

impl Severity {
    /// The verdict of a violation.
    #[must_use]
    pub const fn verdict(self) -> Verdict {
        match self {
            Self::Warn => Verdict::Warn,
            Self::Fail => Verdict::Fail,
        }
    }
}

/// What a rule demands of what it selects.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Check {
    /// The figure is at least this, in `unit`.
    Min {
        /// The limit.
        limit: f64,
        /// `GB/s`, `TFLOP/s`, `ns`.
        unit: String,
    },
    /// The figure is at most this: latency.
    Max {
        /// The limit.
        limit: f64,
        /// `GB/s`, `TFLOP/s`, `ns`.
        unit: String,
    },
    /// At least this many percent of the roof.
    MinPctOfPeak {
        /// Percent.
        percent: f64,
        /// Of which roof.
        roof: RoofOf,
    },
    /// At least this many percent of the baseline's median (at most 10 000 / percent for a latency).
    MinPctOfBaseline {
        /// Percent.
        percent: f64,
    },
    /// At least this many percent of the best device of the same node.
    MinPctOfNodeBest {
        /// Percent.
        percent: f64,
    },
    /// Not worse than its cohort's median by both more than `mads` robust standard deviations and more than `min_gap_pct`.
    MaxMadFromCohort {
        /// Median absolute deviations, scaled to σ.
        mads: f64,
        /// Percent of the median; keeps a very quiet cohort from failing good devices.
        min_gap_pct: f64,
        /// Who is compared with whom.
        against: Against,
        /// Whether each case is judged or the median of all that match.
        combine: Combine,
    },
    /// Coefficient of variation of the samples, at most.
    MaxCv {
        /// A fraction: 0.05.
        limit: f64,
    },
    /// The figure follows the size: it never falls (or rises) by more than `tolerance_pct` from one size to the next.
    Monotonic {
        /// Which way.
        direction: Direction,
        /// Percent.
        tolerance_pct: f64,
    },
    /// The part of all samples selected that were taken while the device held its clock back, at most.
    MaxThrottledPct {
        /// Percent.
        percent: f64,
    },
    /// A telemetry counter moved by at most this over all records selected.
    MaxCount {
        /// Its name: `ecc_uncorrected`, `xid`.
        counter: String,
        /// The limit.
        limit: i64,
    },
}

impl Check {
    /// The key that names it in a rule file.
    #[must_use]
    pub const fn key(&self) -> &'static str {
        match self {
            Self::Min { .. } => "min",
            Self::Max { .. } => "max",
            Self::MinPctOfPeak { .. } => "min_pct_of_peak",
            Self::MinPctOfBaseline { .. } => "min_pct_of_baseline",
            Self::MinPctOfNodeBest { .. } => "min_pct_of_node_best",
            Self::MaxMadFromCohort { .. } => "max_mad_from_cohort",
            Self::MaxCv { .. } => "max_cv",
            Self::Monotonic { .. } => "monotonic",
            Self::MaxThrottledPct { .. } => "max_throttled_pct",
            Self::MaxCount { .. } => "max_count",
        }
    }
}

/// The roof of a [`Check::MinPctOfPeak`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RoofOf {
    /// What was bought.
    Datasheet,
    /// The same at the clock that was observed: the kernel's share, power and heat aside.
    ObservedClock,
    /// What this device itself showed.
    Empirical,
}

/// Whom a cohort rule compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Against {
    /// A device with all devices of its model.
    Fleet,
    /// A device with the others of its node.
    Node,
    /// A node (the median of its devices) with the other nodes.
    Nodes,
}

/// How a cohort rule takes several cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Combine {
    /// Each by itself: finds a fault of one case, and the chance outliers of every case.
    Each,
    /// The median deviation over all cases that match: blind to one case, keen on a fault that slows them all.
    Median,
}

/// The direction of a [`Check::Monotonic`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Never falls.
    Rising,
    /// Never rises.
    Falling,
}

/// A node as it should be. What is None is not asked for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Expected {
    /// How many GPUs of the model.
    pub gpus: Option<u32>,
    /// Their model: id in specs.toml, or the driver's name.
    pub model: Option<Pattern>,
    /// Least memory of each, GB.
    pub memory_gb: Option<f64>,
    /// ECC on or off.
    pub ecc: Option<bool>,
    /// Links to other GPUs that are up, of each.
    pub links: Option<u32>,
    /// Least PCIe generation and width of each.
    pub pcie: Option<PcieLink>,
    /// How many network ports of at least `nic_gbps` that are not down.
    pub nics: Option<u32>,
    /// Rate of those, Gbit/s.
    pub nic_gbps: Option<f64>,
    /// Driver version of each GPU.
    pub driver: Option<Requirement>,
    /// Firmware by name, of each GPU or of the node.
    pub firmware: BTreeMap<String, Requirement>,
    /// Libraries by name.
    pub libraries: BTreeMap<String, Requirement>,
    /// What could not be found out is a violation.
    pub required: bool,
    /// What a mismatch means.
    pub severity: Severity,
    /// Where this comes from.
    pub source: String,
    /// The line of the file it starts on, from 1.
    pub line: u32,
}

impl Rule {
    /// True if the size that this case id names (none is 0) lies within the rule's.
    #[must_use]
    pub fn fits_size(&self, case: &str) -> bool {
        let size = super::checks::size(case).map_or(0, |(_, bytes)| bytes.0);
        self.size_min.is_none_or(|low| size >= low) && self.size_max.is_none_or(|high| size <= high)
    }
}

impl RuleSet {
    /// True if the set is for a device of this model (its id in specs.toml) or with this driver's name.
    #[must_use]
    pub fn is_for(&self, model: &str, name: &str) -> bool {
        self.models.is_empty() || self.models.iter().any(|p| p.matches(model) || p.matches(name))
    }
}
