//! From records to a decision that an operator signs: rules, cohorts and inventory, judged without I/O.
//!
//! ```text
//! records → Fleet (observe.rs) ─┐
//! rules.toml → RuleSet (rule.rs) ├→ judge → Judgement (judgement.rs) → any report
//! baseline.json → Baseline ─────┘
//! ```
//! Nothing here is stored: like a roof, a verdict is computed again at every read.

mod baseline;
mod checks;
mod cohort;
mod drift;
mod fleetwide;
mod inventory;
mod judge;
mod judgement;
mod line;
mod metrics;
mod observe;
mod outliers;
mod parse;
mod pattern;
mod reason;
mod rule;
pub mod simulate;
mod stock;
mod suspects;
mod words;

pub use baseline::{BASELINE_SCHEMA, Baseline, BaselineEntry, MAX_BASELINE};
pub use drift::{Day, Drift, baseline, drift};
pub use inventory::{Gpu, Inventory, Nic, PcieLink};
pub use judge::{RuleBook, judge};
pub use judgement::{
    Cohort, Counts, Deviation, Evidence, Finding, Judgement, MetricSummary, NodeDevice, NodeVerdict, Outcomes, Problem, Suspect,
};
pub use line::read_line;
pub use observe::{Fleet, Source};
pub use parse::{MAX_FILE, MAX_RULES};
pub use pattern::{Pattern, Requirement};
pub use reason::Reason;
pub use rule::{Against, Check, Combine, Direction, Expected, Per, Pick, Providers, RoofOf, Rule, RuleSet, Severity, Validity};

pub use crate::section::Mistake;

use serde::{Deserialize, Serialize};
use std::fmt;

/// What is decided of a rule, a node or a fleet.
///
/// The order of the variants is the order of combination: the greatest decides ([`Verdict::of_all`]). So one FAIL makes a FAIL,
/// what could not be judged never outweighs what was, and nothing judged at all is SKIP or INVALID, never PASS. A *required*
/// rule never yields SKIP or INVALID: what it finds missing, skipped or invalid is its violation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// There was nothing to judge.
    #[default]
    Skip,
    /// There was something, but it does not count: throttled, too noisy or unverified.
    Invalid,
    /// Judged, and within its limits.
    Pass,
    /// Outside a limit that asks for a look and not for a refusal.
    Warn,
    /// Outside a limit, wrong, or a required thing was missing, skipped or invalid.
    Fail,
}

impl Verdict {
    /// From the best to the worst news, for tables and counts.
    pub const ALL: [Self; 5] = [Self::Pass, Self::Warn, Self::Fail, Self::Skip, Self::Invalid];

    /// The verdict of the whole: the greatest of its parts', SKIP where there is none.
    #[must_use]
    pub fn of_all(parts: impl IntoIterator<Item = Self>) -> Self {
        parts.into_iter().max().unwrap_or(Self::Skip)
    }

    /// As it is written in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Skip => "SKIP",
            Self::Invalid => "INVALID",
            Self::Pass => "PASS",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
        }
    }

    /// The exit code of a command that ends with this verdict; the one table of them. `strict` makes a warning a failure.
    ///
    /// | verdict | code | |
    /// |---|---|---|
    /// | PASS | 0 | |
    /// | WARN | 0, `strict` 1 | a person should look, nothing is refused |
    /// | FAIL | 1 | |
    /// | SKIP, INVALID | 3 | no verdict was reached: nothing was measured, or nothing of it counts |
    ///
    /// 2 is wrong usage: a command line or rule file that says nothing sensible.
    #[must_use]
    pub const fn exit_code(self, strict: bool) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Warn => strict as u8,
            Self::Fail => 1,
            Self::Skip | Self::Invalid => 3,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_part_decides_and_nothing_is_no_pass() {
        use Verdict::{Fail, Invalid, Pass, Skip, Warn};
        for (parts, whole) in [
            (&[Pass, Fail, Warn][..], Fail),
            (&[Pass, Warn], Warn),
            (&[Pass, Skip, Invalid], Pass),
            (&[Skip, Invalid], Invalid),
            (&[Skip], Skip),
            (&[], Skip),
        ] {
            assert_eq!(Verdict::of_all(parts.iter().copied()), whole, "{parts:?}");
        }
    }

    #[test]
    fn each_verdict_has_its_exit_code() {
        let codes: Vec<_> = Verdict::ALL.iter().map(|v| (v.exit_code(false), v.exit_code(true))).collect();
        assert_eq!(codes, [(0, 0), (0, 1), (1, 1), (3, 3), (3, 3)]);
    }
}
