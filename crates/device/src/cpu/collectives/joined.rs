//! Ranks of one host that other processes start: a launcher's processes join the segment of rank 0's, each by a child of its own.

use super::rank::Rank;
use super::segment::Segment;
use crate::cpu::affinity;
use crate::{DeviceError, Result};
use std::fs::OpenOptions;
use std::os::fd::IntoRawFd;

/// Whoever has other processes start ranks.
pub(crate) trait Elsewhere: Send + Sync + std::fmt::Debug {
    /// Has every rank started over the segment behind descriptor `fd` of `process`. Those that cannot are [`Elsewhere::gone`].
    ///
    /// # Errors
    /// The processes are gone.
    fn start(&self, process: u32, fd: i32) -> Result<()>;

    /// How a rank ended, if it did.
    fn gone(&self, rank: usize) -> Option<String>;

    /// Makes sure that nothing stays of the ranks.
    fn dismiss(&self);
}

/// A rank over another process's segment, as the process that started it holds it.
pub(crate) struct Joined {
    rank: Rank,
    /// Its descriptor is the child's.
    _segment: Segment,
}

impl Joined {
    /// Starts rank `rank` over the segment behind descriptor `fd` of `process`, on one of this process's own cores.
    pub(crate) fn start(process: u32, fd: i32, rank: usize) -> Result<Self> {
        let path = format!("/proc/{process}/fd/{fd}");
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file =
            file.map_err(|e| DeviceError::unsupported(format!("rank {rank} cannot open rank 0's memory ({path}): {e}")))?;
        let segment = Segment::open(file.into_raw_fd())?;
        if rank >= segment.problem().ranks {
            return Err(DeviceError::invalid(format!("there is no rank {rank} of {}", segment.problem().ranks)));
        }
        let cores = affinity::cores();
        let rank = Rank::process(&segment, rank, cores[rank % cores.len()])?;
        Ok(Self { rank, _segment: segment })
    }

    /// How it ended, if it did.
    pub(crate) fn gone(&mut self) -> Option<String> {
        self.rank.gone()
    }

    /// Makes sure that nothing of it stays.
    pub(crate) fn end(&mut self) {
        self.rank.end();
    }
}
