//! What is to go wrong at a rank of a launched job, so that tests see it found. Records of such a run say so.

use crate::cpu::collectives::Fault;
use std::time::Duration;

/// `corrupt:1` at rank 1, `die:1:2` once two collectives are done; `slow:1` is late.
pub(super) const FAULT: &str = "RIDGEPOINT_TEST_FAULT";
/// How long a slow rank sleeps before each execution: longer than a busy core keeps one that is not.
const SLOW: Duration = Duration::from_millis(100);

/// What goes wrong at this rank.
#[derive(Default)]
pub(super) struct Planted {
    fault: Option<Fault>,
    slow: bool,
    /// Collectives that are still made ready before it.
    spared: u64,
}

impl Planted {
    pub(super) fn at(rank: usize) -> Self {
        let text = std::env::var(FAULT).unwrap_or_default();
        let words: Vec<&str> = text.split(':').collect();
        let &[what, at, ref spared @ ..] = words.as_slice() else { return Self::default() };
        if at.parse() != Ok(rank) {
            return Self::default();
        }
        let spared = spared.first().and_then(|n| n.parse().ok()).unwrap_or(0);
        Self { fault: Fault::named(what), slow: what == "slow", spared }
    }

    /// A collective is done.
    pub(super) fn spare(&mut self) {
        self.spared = self.spared.saturating_sub(1);
    }

    /// What goes wrong now.
    pub(super) fn fault(&self) -> Option<Fault> {
        self.fault.filter(|_| self.spared == 0)
    }

    /// Comes late, if that is what goes wrong.
    pub(super) fn dawdle(&self) {
        if self.slow && self.spared == 0 {
            std::thread::sleep(SLOW);
        }
    }
}
