//! How long and how often: method version 1, as numbers in one place.

use ridgepoint_core::Seconds;
use std::fmt;

/// How much time a run may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Profile {
    /// A first look: under a minute on two cores, under three on a GPU.
    Quick,
    /// A result to compare.
    Standard,
    /// Every size and dtype.
    Full,
}

impl Profile {
    /// The name on the command line and in a record.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Quick => "quick",
            Self::Standard => "standard",
            Self::Full => "full",
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How often, where a user fixes it instead of leaving it to the method: what is compared with another tool runs as often there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Executions before the first sample.
    pub warmup: Option<u64>,
    /// Timed executions in all; a few more where several are needed for a time that a clock can tell.
    pub executions: Option<u64>,
}

/// The rules by which one case is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// Warm up at least this long …
    pub warmup: Seconds,
    /// … and at most this long, if times are not steady before.
    pub warmup_limit: Seconds,
    /// Batches are sized so that a sample lasts at least this long: a clock's resolution and an event's cost drown in it.
    pub min_sample: Seconds,
    /// Fewest samples.
    pub min_samples: usize,
    /// Most samples.
    pub max_samples: usize,
    /// Stop when the 95 % confidence interval of the median is within ± this fraction.
    pub target_ci: f64,
    /// Stop sampling after this long in any case, once there are `min_samples`.
    pub time_limit: Seconds,
    /// Most launches enqueued behind a held queue: a driver's queue is finite, and a full one deadlocks the host.
    pub max_held: u64,
    /// Keep each case running this long instead of stopping when the median is known, and keep what happened over time.
    pub sustain: Option<Seconds>,
    /// Numbers that the user fixed.
    pub counts: Counts,
}

impl Policy {
    /// The policy of a profile.
    #[must_use]
    pub const fn of(profile: Profile) -> Self {
        let (warmup, warmup_limit, time_limit) = match profile {
            Profile::Quick => (0.03, 0.15, 0.25),
            Profile::Standard => (0.3, 2.0, 2.0),
            Profile::Full => (0.5, 5.0, 5.0),
        };
        Self {
            warmup: Seconds(warmup),
            warmup_limit: Seconds(warmup_limit),
            min_sample: Seconds(1e-3),
            min_samples: 10,
            max_samples: 2000,
            target_ci: 0.005,
            time_limit: Seconds(time_limit),
            max_held: 512,
            sustain: None,
            counts: Counts { warmup: None, executions: None },
        }
    }
}
