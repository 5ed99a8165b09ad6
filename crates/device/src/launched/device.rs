//! A rank on a GPU: the device's own library (NCCL, RCCL) connects it, by a token that rank 0's library made. Not yet run on
//! hardware.

use super::message::Connected;
use super::planted::Planted;
use super::rank::{Progress, Worker};
use super::world::World;
use crate::probe::PROBES;
use crate::transport::{Log, Said};
use crate::{Checked, CollectiveProblem, Communicator, Device, DeviceError, Exchange, Result, open};
use ridgepoint_core::Bytes;
use std::sync::Arc;

/// A rank at work.
pub(super) struct OnDevice {
    // Before the device, from which it was made.
    communicator: Option<Box<dyn Communicator>>,
    device: Box<dyn Device>,
    rank: usize,
    size: usize,
    progress: Arc<Progress>,
    /// Token of the sweep over pairs that the communicator is of, if it is.
    paired_by: Vec<u8>,
    planted: Planted,
    /// What its library writes.
    log: Log,
}

impl OnDevice {
    /// Opens this process's GPU: the only one that it was given, or that of its number on its host.
    pub(super) fn open(world: &World, backend: &str, log: Log, progress: &Arc<Progress>) -> Result<Self> {
        let probe = PROBES.iter().find(|p| p.backend.name() == backend);
        let found = probe.map_or(0, |p| (p.discover)().devices.len());
        let index = match (found, world.local_rank) {
            (0, _) => return Err(DeviceError::unsupported(format!("rank {} finds no {backend} device", world.rank))),
            (1, None | Some(0)) => 0,
            (1, Some(local))
                if std::env::var_os("CUDA_VISIBLE_DEVICES").or(std::env::var_os("ROCR_VISIBLE_DEVICES")).is_none() =>
            {
                return Err(DeviceError::unsupported(format!(
                    "rank {} is number {local} on its host, which has one {backend} device: a GPU a rank is needed",
                    world.rank
                )));
            }
            (1, _) => 0,
            (n, local) => local.unwrap_or(world.rank) % n,
        };
        let device = open(&format!("{backend}:{index}"))?;
        Ok(Self {
            communicator: None,
            device,
            rank: world.rank,
            size: world.size,
            progress: Arc::clone(progress),
            paired_by: Vec::new(),
            planted: Planted::at(world.rank),
            log,
        })
    }

    fn communicator(&mut self) -> Result<&mut dyn Communicator> {
        match &mut self.communicator {
            Some(communicator) => Ok(communicator.as_mut()),
            None => Err(DeviceError::invalid("no collective was made ready")),
        }
    }
}

impl Worker for OnDevice {
    fn connected(&self) -> Connected {
        let collectives = self.device.collectives();
        let library = collectives.and_then(|c| c.library());
        Connected {
            rank: self.rank,
            size: self.size,
            provider: collectives.map_or("none", |c| c.provider()).into(),
            library: library.as_ref().map_or_else(String::new, |l| format!("{} {}", l.name, l.version)),
            path: library.and_then(|l| l.path),
        }
    }

    fn prepare(&mut self, problem: &CollectiveProblem, token: &[u8]) -> Result<()> {
        self.communicator = None;
        self.paired_by.clear();
        if problem.ranks != self.size {
            return Err(DeviceError::unsupported(format!("{} ranks were launched, not {}", self.size, problem.ranks)));
        }
        let missing = || DeviceError::unsupported(format!("{} has no library of collectives", self.device.info().id));
        self.communicator = Some(self.device.collectives().ok_or_else(missing)?.join(problem, self.rank, token)?);
        Ok(())
    }

    fn poison(&mut self) -> Result<()> {
        self.communicator()?.poison()
    }

    fn run(&mut self, times: u64) -> Result<u64> {
        self.progress.begin(times);
        self.planted.dawdle();
        let timing = self.communicator()?.run(times as usize)?;
        self.log.keep_short();
        Ok((timing.seconds.0 * 1e9).round() as u64)
    }

    /// All leave a meeting together, and the device's clock says how long the next one took from when this rank came to it.
    fn look(&mut self, times: u64) -> Result<Vec<u64>> {
        self.communicator()?.meet()?;
        let mut waited = Vec::new();
        for _ in 0..times {
            self.progress.begin(1);
            self.planted.dawdle();
            let own = self.communicator()?.meet()?;
            waited.extend(own.first().map(|seconds| (seconds.0 * 1e9).round() as u64));
        }
        Ok(waited)
    }

    fn check(&mut self, tolerance: f64) -> Result<Option<Checked>> {
        self.communicator()?.check(tolerance)
    }

    fn output(&mut self) -> Result<Vec<u8>> {
        let rank = self.rank;
        self.communicator()?.output(rank)
    }

    fn pair(&mut self, partner: Option<usize>, bytes: u64, times: u64, token: &[u8]) -> Result<(u64, u64)> {
        if self.paired_by != token {
            let collectives = self.device.collectives();
            let problem = collectives.map(|c| c.messages(self.size, Bytes(bytes)));
            let missing = || DeviceError::unsupported(format!("{} has no library of collectives", self.device.info().id));
            self.prepare(&problem.ok_or_else(missing)?, token)?;
            self.paired_by = token.to_vec();
        }
        let Some(partner) = partner else { return Ok((0, 0)) };
        let mut partners = vec![None; self.size];
        partners[self.rank] = Some(partner);
        self.progress.begin(times);
        let seen = self.communicator()?.pair(&partners, times)?;
        let seen = seen.get(self.rank).copied().flatten();
        let Exchange { seconds, wrong } = seen.ok_or_else(|| DeviceError::invalid("the exchange left no trace"))?;
        Ok(((seconds.0 * 1e9 * times as f64).round() as u64, wrong))
    }

    fn device(&self) -> Option<&str> {
        Some(&self.device.info().id)
    }

    fn tell(&mut self) -> Result<Said> {
        Ok(self.log.said())
    }

    /// The library's codes say little; what it wrote meanwhile says more.
    fn explain(&mut self, error: DeviceError) -> DeviceError {
        match (error, self.log.warning()) {
            (DeviceError::Call { call, code, message }, Some(warning)) => {
                DeviceError::Call { call, code, message: format!("{message}; it wrote: {warning}") }
            }
            (error, _) => error,
        }
    }

    fn leave(&mut self) {
        self.communicator = None;
    }
}
