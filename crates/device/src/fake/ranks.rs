//! The fake device's ranks: threads that really do the collective, timed by the model, with a fault where one was asked for.

use super::{Settings, model};
use crate::cpu::collectives::{Fault, SharedMemory};
use crate::{CollectiveProblem, Collectives, Communicator, Result, Rounding, Timing};
use ridgepoint_core::record::Clock;
use ridgepoint_core::{Bytes, Seconds};
use std::collections::BTreeMap;
use std::time::Duration;

pub(super) struct FakeRanks {
    settings: Settings,
    engine: SharedMemory,
}

impl FakeRanks {
    /// None for a device that has no one to talk to.
    pub(super) fn new(settings: &Settings) -> Option<Self> {
        let mut engine = SharedMemory::new(&[0], Bytes(model::CACHES[1].1)).as_threads().with_patience(Duration::from_secs(10));
        if settings.unwritten {
            engine = engine.with_fault(Fault::Unwritten, 0);
        }
        if settings.corrupt {
            engine = engine.with_fault(Fault::Corrupt, settings.ranks - 1);
        }
        (settings.ranks > 1).then(|| Self { settings: settings.clone(), engine })
    }
}

impl Collectives for FakeRanks {
    fn provider(&self) -> &'static str {
        "fake"
    }

    fn max_ranks(&self) -> usize {
        self.settings.ranks
    }

    fn communicator(&self, problem: &CollectiveProblem) -> Result<Box<dyn Communicator>> {
        let slower = if self.settings.throttled { 1.25 } else { 1.0 };
        let seconds = (model::LAUNCH + problem.bytes.0 as f64 / model::MEMORY) * slower;
        Ok(Box::new(Modelled { inner: self.engine.communicator(problem)?, seconds, ranks: problem.ranks }))
    }
}

/// A communicator that keeps the model's time.
struct Modelled {
    inner: Box<dyn Communicator>,
    seconds: f64,
    ranks: usize,
}

impl Communicator for Modelled {
    fn poison(&mut self) -> Result<()> {
        self.inner.poison()
    }

    fn run(&mut self, n: usize) -> Result<Timing> {
        // Once is enough for the result, and the time is the model's.
        self.inner.run(n.min(1))?;
        Ok(Timing { seconds: Seconds(self.seconds * n as f64), clock: Clock::Device })
    }

    fn output(&mut self, rank: usize) -> Result<Vec<u8>> {
        self.inner.output(rank)
    }

    fn rounding(&self) -> Rounding {
        self.inner.rounding()
    }

    fn forget(&mut self) {
        self.inner.forget();
    }

    fn times(&self) -> Vec<Seconds> {
        vec![Seconds(self.seconds); self.ranks]
    }

    fn working(&self) -> Vec<Seconds> {
        self.inner.working()
    }

    fn config(&self) -> BTreeMap<String, String> {
        self.inner.config()
    }
}
