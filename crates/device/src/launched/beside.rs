//! A rank's work beside its collective: made, timed and checked as it is ordered.

use super::rank::Worker;
use crate::beside::{Beside, MakeBeside};
use crate::{Checked, DeviceError, Result};
use ridgepoint_core::Dtype;
use std::time::Instant;

/// What a rank has beside its collective.
pub(super) struct Own {
    make: Option<MakeBeside>,
    work: Option<Box<dyn Beside>>,
}

impl Own {
    pub(super) const fn none_yet(make: Option<MakeBeside>) -> Self {
        Self { make, work: None }
    }

    /// Makes it on the rank's device, and tells by whom it is done.
    pub(super) fn ready(&mut self, worker: &dyn Worker, size: &str, dtype: Dtype, seed: u64) -> Result<String> {
        // Its memory is needed for the next.
        self.work = None;
        let no_device = || DeviceError::unsupported("this rank has no device of its own for anything beside its collective");
        let not_here = || DeviceError::unsupported("this program knows nothing to run beside a collective");
        let work = self.make.ok_or_else(not_here)?(worker.device().ok_or_else(no_device)?, size, dtype, seed)?;
        Ok(self.work.insert(work).by())
    }

    /// Nanoseconds of so many executions of either or both, all of them begun by now at the other ranks, too.
    pub(super) fn together(&self, worker: &mut dyn Worker, times: u64, collective: bool, beside: bool) -> Result<u64> {
        let work = if beside { Some(self.work()?) } else { None };
        if collective {
            // All ranks leave it together.
            worker.run(1)?;
        }
        let start = Instant::now();
        work.map_or(Ok(()), |work| work.begin(times as usize))?;
        let ran = if collective { worker.run(times).map(drop) } else { Ok(()) };
        // What has begun is waited for in any case.
        let ended = work.map_or(Ok(()), Beside::end);
        ran.and(ended)?;
        Ok(start.elapsed().as_nanos() as u64)
    }

    fn work(&self) -> Result<&dyn Beside> {
        self.work.as_deref().ok_or_else(|| DeviceError::invalid("nothing was made ready beside the collective"))
    }

    /// Overwrites its result, if there is one.
    pub(super) fn poison(&self) -> Result<()> {
        self.work.as_ref().map_or(Ok(()), |work| work.poison())
    }

    pub(super) fn check(&self) -> Result<Checked> {
        self.work()?.check()
    }

    /// Another collective comes.
    pub(super) fn end(&mut self) {
        self.work = None;
    }
}
