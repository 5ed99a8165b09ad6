//! Why a verdict is what it is, as a code that a script can match and a sentence that a person can read.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The reason of a finding. [`Reason::code`] is stable: tickets and alerts are keyed on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Judged and within its limit.
    WithinLimit,
    /// Below a lower limit.
    BelowMinimum,
    /// Above an upper limit.
    AboveMaximum,
    /// Too small a part of the roof.
    BelowPeakShare,
    /// Too small a part of the baseline.
    BelowBaseline,
    /// Too small a part of the node's best device.
    BelowNodeBest,
    /// Away from its cohort, for the worse.
    CohortOutlier,
    /// The fleet falls into two groups; both are judged among themselves, and a person should know why there are two.
    TwoCohorts,
    /// Too few to say what is usual.
    CohortTooSmall,
    /// The samples spread too widely.
    TooMuchSpread,
    /// A figure that should rise with size falls, or the other way round.
    NotMonotonic,
    /// A counter (ECC, XID, replays) moved more than it may.
    CounterMoved,
    /// The case computed a wrong result.
    WrongResult,
    /// The case ended in an error.
    CaseFailed,
    /// The case was skipped.
    CaseSkipped,
    /// There is no record of it.
    Missing,
    /// The device held its clock back while it was measured.
    Throttled,
    /// Too noisy to judge.
    TooNoisy,
    /// Measured and not verified.
    Unverified,
    /// There is no roof to compare with.
    NoRoof,
    /// The baseline has no entry for it.
    NoBaseline,
    /// Above its roof: the number or the roof is wrong.
    AboveRoof,
    /// The record's unit is not the rule's.
    UnitMismatch,
    /// A device that should be there is not.
    GpuMissing,
    /// A device, library, link or version is not what was expected.
    InventoryMismatch,
    /// It could not be found out what is there.
    InventoryUnknown,
    /// A record file could not be read, in part or whole.
    Unreadable,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 27] = [
        Self::WithinLimit,
        Self::BelowMinimum,
        Self::AboveMaximum,
        Self::BelowPeakShare,
        Self::BelowBaseline,
        Self::BelowNodeBest,
        Self::CohortOutlier,
        Self::TwoCohorts,
        Self::CohortTooSmall,
        Self::TooMuchSpread,
        Self::NotMonotonic,
        Self::CounterMoved,
        Self::WrongResult,
        Self::CaseFailed,
        Self::CaseSkipped,
        Self::Missing,
        Self::Throttled,
        Self::TooNoisy,
        Self::Unverified,
        Self::NoRoof,
        Self::NoBaseline,
        Self::AboveRoof,
        Self::UnitMismatch,
        Self::GpuMissing,
        Self::InventoryMismatch,
        Self::InventoryUnknown,
        Self::Unreadable,
    ];

    /// The code, the same as in JSON: `below-minimum`.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::WithinLimit => "within-limit",
            Self::BelowMinimum => "below-minimum",
            Self::AboveMaximum => "above-maximum",
            Self::BelowPeakShare => "below-peak-share",
            Self::BelowBaseline => "below-baseline",
            Self::BelowNodeBest => "below-node-best",
            Self::CohortOutlier => "cohort-outlier",
            Self::TwoCohorts => "two-cohorts",
            Self::CohortTooSmall => "cohort-too-small",
            Self::TooMuchSpread => "too-much-spread",
            Self::NotMonotonic => "not-monotonic",
            Self::CounterMoved => "counter-moved",
            Self::WrongResult => "wrong-result",
            Self::CaseFailed => "case-failed",
            Self::CaseSkipped => "case-skipped",
            Self::Missing => "missing",
            Self::Throttled => "throttled",
            Self::TooNoisy => "too-noisy",
            Self::Unverified => "unverified",
            Self::NoRoof => "no-roof",
            Self::NoBaseline => "no-baseline",
            Self::AboveRoof => "above-roof",
            Self::UnitMismatch => "unit-mismatch",
            Self::GpuMissing => "gpu-missing",
            Self::InventoryMismatch => "inventory-mismatch",
            Self::InventoryUnknown => "inventory-unknown",
            Self::Unreadable => "unreadable",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_what_json_holds() {
        for reason in Reason::ALL {
            assert_eq!(serde_json::to_string(&reason).unwrap(), format!("\"{}\"", reason.code()));
        }
    }
}
