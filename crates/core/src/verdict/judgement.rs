//! The result of judging, from which every report is made: nodes, findings, cohorts, suspects. Serialisable, so that a script
//! can read the whole of it.

use super::{Inventory, Reason, Verdict};
use serde::Serialize;
use std::collections::BTreeMap;

/// Everything that was decided.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Judgement {
    /// The verdict of the whole: the greatest of the nodes'.
    pub verdict: Verdict,
    /// Nodes by name.
    pub nodes: Vec<NodeVerdict>,
    /// Findings, by node, then verdict (the worst first), rule, device, case. Those that passed are kept only where
    /// `passes_kept`; they are counted always.
    pub findings: Vec<Finding>,
    /// True if `findings` holds those that passed too; a large fleet's are only counted.
    pub passes_kept: bool,
    /// Findings about the fleet as a whole, which name no node: two cohorts where one was expected. They count in `verdict`.
    pub fleet: Vec<Finding>,
    /// What to look at first: ranked by how sure it is that something is broken, then by how much.
    pub suspects: Vec<Suspect>,
    /// Each metric that was measured, with its cohorts, in the order in which [`NodeVerdict::deviations`] index it.
    pub metrics: Vec<MetricSummary>,
    /// Names of the rule sets that were applied.
    pub rules: Vec<String>,
    /// What could not be read, or not be used. Never empty in silence: any of them makes the exit code at least 1.
    pub problems: Vec<Problem>,
    /// Records that were taken in.
    pub records: u64,
}

impl Judgement {
    /// The findings of one node, the worst first.
    pub fn findings_of<'j>(&'j self, node: &str) -> &'j [Finding] {
        let start = self.findings.partition_point(|f| f.node.as_str() < node);
        let end = start + self.findings[start..].partition_point(|f| f.node.as_str() <= node);
        &self.findings[start..end]
    }

    /// Nodes by verdict, in the order of [`Verdict::ALL`].
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for node in &self.nodes {
            counts.add(node.verdict);
        }
        counts
    }
}

/// How many of something have each verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// PASS.
    pub pass: u32,
    /// WARN.
    pub warn: u32,
    /// FAIL.
    pub fail: u32,
    /// SKIP.
    pub skip: u32,
    /// INVALID.
    pub invalid: u32,
}

impl Counts {
    /// Counts one more.
    pub fn add(&mut self, verdict: Verdict) {
        *match verdict {
            Verdict::Pass => &mut self.pass,
            Verdict::Warn => &mut self.warn,
            Verdict::Fail => &mut self.fail,
            Verdict::Skip => &mut self.skip,
            Verdict::Invalid => &mut self.invalid,
        } += 1;
    }

    /// How many have `verdict`.
    #[must_use]
    pub const fn of(&self, verdict: Verdict) -> u32 {
        match verdict {
            Verdict::Pass => self.pass,
            Verdict::Warn => self.warn,
            Verdict::Fail => self.fail,
            Verdict::Skip => self.skip,
            Verdict::Invalid => self.invalid,
        }
    }
}

/// A node and what was decided of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct NodeVerdict {
    /// Host name.
    pub node: String,
    /// The greatest of its findings'.
    pub verdict: Verdict,
    /// Its findings by verdict, those that passed included.
    pub counts: Counts,
    /// Its devices, those that were not measured included.
    pub devices: Vec<NodeDevice>,
    /// What was found on it, None where no environment told.
    pub inventory: Option<Inventory>,
    /// Start of its latest run, RFC 3339 UTC.
    pub started: String,
    /// The command line of that run.
    pub command: Vec<String>,
    /// What else is known of where it ran: `os`, `cpu`, `governor`, `profile`, `seed`, and the facts of its environment.
    pub facts: BTreeMap<String, String>,
    /// Versions: Ridgepoint and measuring method.
    pub version: String,
    /// [`crate::record::METHOD_VERSION`] of that run.
    pub method: u32,
    /// Records taken in, and of those measured, skipped, failed, wrong.
    pub records: Outcomes,
    /// How far each of its metrics lies from its cohort, by metric and device: the rows of a heat map.
    pub deviations: Vec<Deviation>,
}

/// How many records came out in each way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Outcomes {
    /// Verified and timed.
    pub measured: u32,
    /// It cannot be done there.
    pub skipped: u32,
    /// An error.
    pub failed: u32,
    /// Computed wrong.
    pub wrong: u32,
}

/// A device of a node, as a person would find it in the rack.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct NodeDevice {
    /// `cuda:0`.
    pub id: String,
    /// Its model: id in specs.toml, or the driver's name where the table has none.
    pub model: String,
    /// Stable identity, where there is one.
    pub uuid: Option<String>,
    /// PCI address, where there is one.
    pub pci: Option<String>,
    /// Driver version.
    pub driver: String,
    /// The greatest verdict of the findings that name it.
    pub verdict: Verdict,
}

/// One rule (or built-in check) at one place.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// The rule set, `built-in` for what is always checked.
    pub set: String,
    /// The rule's id; `wrong-result`, `failed-case`, `inventory.gpus`, … for what is built in.
    pub rule: String,
    /// What was decided.
    pub verdict: Verdict,
    /// Why, as a code.
    pub reason: Reason,
    /// Why, as a sentence with the figures in it.
    pub text: String,
    /// The rule was required.
    pub required: bool,
    /// The node.
    pub node: String,
    /// The device; None where it is about the node.
    pub device: Option<String>,
    /// The case; None where it is about several or none.
    pub case: Option<String>,
    /// The provider.
    pub provider: Option<String>,
    /// What was measured, in `unit`.
    pub measured: Option<f64>,
    /// What it was held against, in `unit`.
    pub limit: Option<f64>,
    /// The unit of both: `GB/s`, `TFLOP/s`, `ns`, `%`, or empty for a count.
    pub unit: String,
    /// What it rests on.
    pub evidence: Evidence,
}

/// What a finding rests on.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Evidence {
    /// The figure it was compared with, before any tolerance: the roof, the baseline's or the cohort's median.
    pub reference: Option<f64>,
    /// What that figure is: `median of 79 984 H100-SXM`, `H100-SXM HBM3 3350 GB/s`.
    pub reference_is: String,
    /// Measured over reference less 1, in percent; worse is negative for every metric, latency too.
    pub deviation_pct: Option<f64>,
    /// The same in robust standard deviations of the cohort.
    pub sigmas: Option<f64>,
    /// The figure over its roof (the datasheet's, else the device's own); never clamped.
    pub of_roof: Option<f64>,
    /// How many were compared.
    pub population: Option<u32>,
    /// Where the threshold comes from: the rule's `source`.
    pub threshold: String,
    /// The record: file and line, `node17/raw.jsonl:42`.
    pub record: Option<String>,
}

/// Something to look at.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Suspect {
    /// From 1.
    pub rank: u32,
    /// The node.
    pub node: String,
    /// The device; None where the whole node is meant.
    pub device: Option<String>,
    /// What kind of fault it looks like: `wrong results`, `missing GPU`, `slow memory`, `slow matrix units`, `slow links`,
    /// `throttled`, `errors`, `inventory`, `one slow case`.
    pub fault: String,
    /// Greater is worse: 1000 and up for certain faults, else percent below what is usual.
    pub score: f64,
    /// The sentence.
    pub text: String,
    /// The findings behind it, as indices into [`Judgement::findings`], the strongest first.
    pub findings: Vec<u32>,
}

/// A metric of the fleet: one case by one provider on one device model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MetricSummary {
    /// The case.
    pub case: String,
    /// Who did the work.
    pub provider: String,
    /// The device model.
    pub model: String,
    /// Unit of the figures.
    pub unit: String,
    /// True where less is better.
    pub lower_is_better: bool,
    /// One cohort, or two where the fleet falls into two groups; the larger first.
    pub cohorts: Vec<Cohort>,
}

/// Those who are alike in one metric.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Cohort {
    /// How many figures.
    pub n: u32,
    /// Their median.
    pub median: f64,
    /// Their median absolute deviation, scaled to σ of a normal distribution.
    pub mad: f64,
    /// Smallest and largest.
    pub range: (f64, f64),
    /// What its members have in common that the other cohort's have not: `driver 550.54`; empty where nothing was found.
    pub shares: String,
}

/// A device's distance from its cohort in one metric.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Deviation {
    /// Index into [`Judgement::metrics`].
    pub metric: u32,
    /// Index into [`NodeVerdict::devices`].
    pub device: u16,
    /// Percent; worse is negative.
    pub pct: f32,
    /// The figure.
    pub value: f32,
}

/// Something that could not be read or used.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Problem {
    /// The file, or `standard input`.
    pub file: String,
    /// The line, from 1; 0 where there is none.
    pub line: u64,
    /// One sentence.
    pub text: String,
}
