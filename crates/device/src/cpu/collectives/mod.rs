//! Collectives between ranks on this host: separate processes over shared memory, an engine of our own that is labelled so.
//!
//! Each rank is a process of this very program, started with a hidden first argument and pinned to a core. A program that wants
//! ranks calls [`rank_main`] first in its `main`. Send and receive buffers of all ranks lie in one shared segment, and a rank
//! reads its peers' send buffers directly: one copy for each byte that a rank receives, which is what a transport within a host
//! can do at best. Counted as nccl-tests counts, out of place and in place.
//!
//! `segment.rs` is the memory, `sync.rs` how ranks wait, `ops.rs` what they do, `rank.rs` one rank's life, `team.rs` the parent.

mod copy;
mod fault;
mod fold;
mod ops;
mod rank;
mod reduce;
mod segment;
mod sync;
mod team;
#[cfg(test)]
mod tests;

use crate::{CollectiveProblem, Collectives, Communicator, DeviceError, Registration, Result};
use ridgepoint_core::Bytes;
use segment::MOST_RANKS;
use std::time::Duration;
use team::{Plan, Team};

pub use fault::Fault;
pub use rank::main as rank_main;

/// A rank that gets nowhere for so long has failed: each step takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// The engine on this host.
#[derive(Clone, Debug)]
pub struct SharedMemory {
    cores: Vec<usize>,
    last_level_cache: Bytes,
    threads: bool,
    patience: Duration,
    fault: Option<(Fault, usize)>,
}

impl SharedMemory {
    /// Ranks as processes on these cores, that share so much cache.
    #[must_use]
    pub fn new(cores: &[usize], last_level_cache: Bytes) -> Self {
        let cores = if cores.is_empty() { vec![0] } else { cores.to_vec() };
        Self { cores, last_level_cache, threads: false, patience: PATIENCE, fault: None }
    }

    /// Ranks as threads of this process, for tests whose program is no place for a `rank_main`.
    #[must_use]
    pub fn as_threads(mut self) -> Self {
        self.threads = true;
        self
    }

    /// How long a rank may get nowhere before that is an error.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Something that goes wrong at a rank.
    #[must_use]
    pub fn with_fault(mut self, fault: Fault, rank: usize) -> Self {
        self.fault = Some((fault, rank));
        self
    }
}

impl Collectives for SharedMemory {
    fn provider(&self) -> &'static str {
        "shared-memory"
    }

    /// A rank a core, and two on a single core, so that the component can be measured anywhere.
    fn max_ranks(&self) -> usize {
        self.cores.len().clamp(2, MOST_RANKS)
    }

    fn communicator(&self, problem: &CollectiveProblem) -> Result<Box<dyn Communicator>> {
        let CollectiveProblem { ranks, bytes, dtype, .. } = *problem;
        if !reduce::DTYPES.contains(&dtype) {
            let known = reduce::DTYPES.map(|d| d.to_string()).join(", ");
            return Err(DeviceError::unsupported(format!("the shared-memory engine does {known}, not {dtype}")));
        }
        if !(1..=MOST_RANKS).contains(&ranks) {
            return Err(DeviceError::unsupported(format!("the shared-memory engine has 1 to {MOST_RANKS} ranks, not {ranks}")));
        }
        if dtype.element_bytes().is_none_or(|size| bytes.0 < size as u64) {
            return Err(DeviceError::invalid(format!("{bytes} hold no element of {dtype}")));
        }
        if problem.root >= ranks {
            return Err(DeviceError::invalid(format!("there is no rank {} to be the root of {ranks}", problem.root)));
        }
        if problem.in_place && !problem.op.in_place() {
            return Err(DeviceError::unsupported(format!("{} has no in-place form", problem.op.name())));
        }
        if problem.registration != Registration::None {
            return Err(DeviceError::unsupported("the shared-memory engine's buffers are shared: there is nothing to register"));
        }
        // What does not fit into the caches together would only drive itself out of them.
        let around_caches = bytes.0.saturating_mul(2 * ranks as u64) > self.last_level_cache.0;
        let Self { cores, threads, patience, fault, .. } = self;
        let plan = Plan { problem, cores, threads: *threads, around_caches, patience: *patience, fault: *fault };
        Ok(Box::new(Team::start(&plan)?))
    }
}
