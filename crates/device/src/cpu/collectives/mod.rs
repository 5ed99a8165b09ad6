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
mod joined;
mod ops;
mod rank;
pub(crate) mod reduce;
mod segment;
mod sync;
mod team;
#[cfg(test)]
mod tests;

use crate::cpu::affinity;
use crate::{CollectiveOp, CollectiveProblem, Collectives, Communicator, DeviceError, Exchange, Registration, Result};
use ridgepoint_core::{Bytes, Dtype, Seconds};
use segment::MOST_RANKS;
use std::sync::Arc;
use std::time::Duration;
use team::{Plan, Team};

pub use fault::Fault;
pub(crate) use joined::{Elsewhere, Joined};
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
    job: Option<OfJob>,
}

/// Processes that a launcher started, each with a rank of its own.
#[derive(Clone, Debug)]
struct OfJob {
    elsewhere: Arc<dyn Elsewhere>,
    ranks: usize,
    /// Why it is not a better engine that connects them.
    reason: String,
}

impl SharedMemory {
    /// Ranks as processes on these cores, that share so much cache.
    #[must_use]
    pub fn new(cores: &[usize], last_level_cache: Bytes) -> Self {
        let cores = if cores.is_empty() { vec![0] } else { cores.to_vec() };
        Self { cores, last_level_cache, threads: false, patience: PATIENCE, fault: None, job: None }
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

    /// Ranks that the processes of a job start, for want of anything better.
    #[must_use]
    pub(crate) fn of_a_job(mut self, elsewhere: Arc<dyn Elsewhere>, ranks: usize, reason: &str) -> Self {
        // Each process has cores of its own, which may be all of the host's.
        self.cores = (0..affinity::online()).collect();
        self.job = Some(OfJob { elsewhere, ranks, reason: reason.to_owned() });
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
        self.job.as_ref().map_or(self.cores.len().clamp(2, MOST_RANKS), |job| job.ranks)
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
        if let Some(job) = self.job.as_ref().filter(|job| job.ranks != ranks) {
            return Err(DeviceError::unsupported(format!("{} ranks were launched, not {ranks}", job.ranks)));
        }
        // What does not fit into the caches together would only drive itself out of them.
        let around_caches = bytes.0.saturating_mul(2 * ranks as u64) > self.last_level_cache.0;
        let Self { cores, threads, patience, fault, job, .. } = self;
        let plan =
            Plan { problem, cores, threads: *threads, job: job.as_ref(), around_caches, patience: *patience, fault: *fault };
        Ok(Box::new(Team::start(&plan)?))
    }

    /// Two ranks at a time, since the ranks of a host have no links that pairs could share.
    fn exchange(&self, partners: &[Option<usize>], bytes: Bytes, times: u64) -> Result<Vec<Option<Exchange>>> {
        if self.job.is_some() {
            return Err(DeviceError::unsupported(
                "ranks of a job exchange no messages in pairs over shared memory; leave RIDGEPOINT_ENGINE out, or make it tcp",
            ));
        }
        let core = |rank: usize| self.cores[rank % self.cores.len()];
        let mut found = vec![None; partners.len()];
        let pairs = partners.iter().enumerate().filter_map(|(rank, partner)| Some((rank, (*partner)?)));
        for (rank, partner) in pairs.filter(|(rank, partner)| rank < partner) {
            let alone = Self { cores: vec![core(rank), core(partner)], ..self.clone() };
            let problem = CollectiveProblem::new(CollectiveOp::SendRecv, 2, bytes, Dtype::F32);
            let mut communicator = alone.communicator(&problem)?;
            communicator.poison()?;
            communicator.run(1)?;
            communicator.poison()?;
            let seconds = Seconds(communicator.run(times as usize)?.seconds.0 / times.max(1) as f64);
            for (here, place) in [(0, rank), (1, partner)] {
                let mut want = vec![0; problem.sends(1 - here) * problem.size()];
                problem.fill(1 - here, 0, &mut want);
                let got = communicator.output(here)?;
                let wrong = want.iter().zip(&got).filter(|(a, b)| a != b).count() + want.len().saturating_sub(got.len());
                found[place] = Some(Exchange { seconds, wrong: wrong as u64 });
            }
        }
        Ok(found)
    }
}
