//! The shared segment: a page of control words, then each rank's send and receive buffer.

use crate::{CollectiveOp, CollectiveProblem, DeviceError, Result};
use ridgepoint_core::{Bytes, Dtype};
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What the parent may ask of the ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// Fill the send buffer.
    Start = 1,
    /// Poison the receive buffer.
    Poison = 2,
    /// Run the collective so many times.
    Run = 3,
    /// End.
    Exit = 4,
}

impl Command {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Start => "starting the ranks",
            Self::Poison => "poisoning the outputs",
            Self::Run => "the collective",
            Self::Exit => "ending the ranks",
        }
    }
}

const MOST_RANKS: usize = super::MOST_RANKS;

/// One rank's words, on a cache line of their own.
#[repr(C, align(128))]
struct Slot {
    done: AtomicU32,
    quit: AtomicU32,
    nanoseconds: AtomicU64,
}

/// The control page. Plain integers that any process may read in any state: a wrong one is an error, never a wrong address.
#[repr(C)]
struct Control {
    op: AtomicU32,
    dtype: AtomicU32,
    ranks: AtomicU32,
    command: AtomicU32,
    bytes: AtomicU64,
    seed: AtomicU64,
    argument: AtomicU64,
    epoch: AtomicU32,
    arrived: AtomicU32,
    phase: AtomicU32,
    slots: [Slot; MOST_RANKS],
}

/// A mapping of it.
pub(super) struct Segment {
    file: File,
    base: *mut u8,
    len: usize,
    problem: CollectiveProblem,
}

// SAFETY: control words are atomics; a rank writes its own receive buffer and reads others' only between barriers.
unsafe impl Send for Segment {}
// SAFETY: as above.
unsafe impl Sync for Segment {}

const CONTROL: usize = size_of::<Control>().next_multiple_of(4096);

/// Bytes of one buffer, in whole pages.
fn stride(bytes: u64) -> usize {
    (bytes as usize).next_multiple_of(4096)
}

fn failed(call: &'static str) -> DeviceError {
    let error = std::io::Error::last_os_error();
    DeviceError::Call { call, code: i64::from(error.raw_os_error().unwrap_or(0)), message: error.to_string() }
}

impl Segment {
    /// A new segment for `problem`, in memory that no name leads to.
    pub(super) fn create(problem: &CollectiveProblem) -> Result<Self> {
        // SAFETY: a NUL-terminated name; the descriptor is inherited by the ranks, so not closed on exec.
        let fd = unsafe { libc::memfd_create(c"ridgepoint-ranks".as_ptr(), 0) };
        if fd < 0 {
            return Err(failed("memfd_create"));
        }
        // SAFETY: a descriptor that was just made and that nothing else owns.
        let file = unsafe { File::from_raw_fd(fd) };
        let len = CONTROL + 2 * problem.ranks * stride(problem.bytes.0);
        if super::super::info::available_memory().is_some_and(|free| len as u64 > free.0) {
            return Err(DeviceError::OutOfMemory { requested: Bytes(len as u64), free: super::super::info::available_memory() });
        }
        file.set_len(len as u64).map_err(|_| failed("ftruncate"))?;
        let segment = Self::map(file, *problem)?;
        let control = segment.control();
        control.op.store(problem.op as u32, Ordering::Relaxed);
        control.dtype.store(u32::from(problem.dtype == Dtype::Bf16), Ordering::Relaxed);
        control.ranks.store(problem.ranks as u32, Ordering::Relaxed);
        control.bytes.store(problem.bytes.0, Ordering::Relaxed);
        control.seed.store(problem.seed, Ordering::Release);
        Ok(segment)
    }

    /// The segment behind an inherited descriptor.
    pub(super) fn open(fd: RawFd) -> Result<Self> {
        // SAFETY: the descriptor was inherited for this purpose and is owned here from now on.
        let file = unsafe { File::from_raw_fd(fd) };
        let size = file.metadata().map_err(|_| failed("fstat"))?.len() as usize;
        let nothing = CollectiveProblem { op: CollectiveOp::AllReduce, ranks: 0, bytes: Bytes(0), dtype: Dtype::F32, seed: 0 };
        if size < CONTROL {
            return Err(DeviceError::invalid("the descriptor is no segment of ranks"));
        }
        let mut segment = Self::map(file, nothing)?;
        let control = segment.control();
        let op = CollectiveOp::ALL.into_iter().find(|op| *op as u32 == control.op.load(Ordering::Acquire));
        let problem = CollectiveProblem {
            op: op.ok_or_else(|| DeviceError::invalid("the segment names no collective"))?,
            ranks: control.ranks.load(Ordering::Relaxed) as usize,
            bytes: Bytes(control.bytes.load(Ordering::Relaxed)),
            dtype: if control.dtype.load(Ordering::Relaxed) == 1 { Dtype::Bf16 } else { Dtype::F32 },
            seed: control.seed.load(Ordering::Relaxed),
        };
        if problem.ranks > MOST_RANKS || CONTROL + 2 * problem.ranks * stride(problem.bytes.0) > size {
            return Err(DeviceError::invalid("the segment is smaller than it says"));
        }
        segment.problem = problem;
        Ok(segment)
    }

    /// A second mapping of the same segment, for ranks that are threads.
    #[cfg(test)]
    pub(super) fn again(&self) -> Result<Self> {
        Self::map(self.file.try_clone().map_err(|_| failed("dup"))?, self.problem)
    }

    fn map(file: File, problem: CollectiveProblem) -> Result<Self> {
        let len = file.metadata().map_err(|_| failed("fstat"))?.len() as usize;
        // SAFETY: a fresh shared mapping of a file of this length.
        let base = unsafe {
            libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        if base == libc::MAP_FAILED {
            return Err(failed("mmap"));
        }
        Ok(Self { file, base: base.cast(), len, problem })
    }

    /// The descriptor that a rank inherits.
    pub(super) fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    pub(super) fn problem(&self) -> &CollectiveProblem {
        &self.problem
    }

    fn control(&self) -> &Control {
        // SAFETY: the mapping is page-aligned, at least CONTROL bytes, lives as long as self, and holds only atomics.
        unsafe { &*self.base.cast::<Control>() }
    }

    /// Posts a command and returns its epoch.
    pub(super) fn post(&self, command: Command, argument: u64) -> u32 {
        let control = self.control();
        control.command.store(command as u32, Ordering::Relaxed);
        control.argument.store(argument, Ordering::Relaxed);
        control.epoch.fetch_add(1, Ordering::Release) + 1
    }

    /// Waits for a command after `epoch`. None when the parent is gone or told this rank to quit.
    pub(super) fn wait(&self, rank: usize, epoch: u32, alive: &dyn Fn() -> bool) -> Option<(u32, Command, u64)> {
        let control = self.control();
        let mut looks = 0u32;
        loop {
            let now = control.epoch.load(Ordering::Acquire);
            if now != epoch {
                let command = [Command::Start, Command::Poison, Command::Run, Command::Exit]
                    .into_iter()
                    .find(|c| *c as u32 == control.command.load(Ordering::Relaxed))?;
                return Some((now, command, control.argument.load(Ordering::Relaxed)));
            }
            looks = looks.saturating_add(1);
            if looks < 2000 {
                std::hint::spin_loop();
            } else {
                std::thread::sleep(Duration::from_micros(50));
                if control.slots[rank].quit.load(Ordering::Relaxed) != 0 || !alive() {
                    return None;
                }
            }
        }
    }

    pub(super) fn finish(&self, rank: usize, epoch: u32, nanoseconds: u64) {
        let slot = &self.control().slots[rank];
        slot.nanoseconds.store(nanoseconds, Ordering::Relaxed);
        slot.done.store(epoch, Ordering::Release);
    }

    pub(super) fn done(&self, rank: usize) -> u32 {
        self.control().slots[rank].done.load(Ordering::Acquire)
    }

    pub(super) fn nanoseconds(&self, rank: usize) -> u64 {
        self.control().slots[rank].nanoseconds.load(Ordering::Relaxed)
    }

    /// Makes one rank end, as a crash would.
    #[cfg(test)]
    pub(super) fn quit(&self, rank: usize) {
        self.control().slots[rank].quit.store(1, Ordering::Relaxed);
    }

    /// Waits for all ranks; false if one did not come within `limit`.
    pub(super) fn barrier(&self, limit: Duration) -> bool {
        let control = self.control();
        let phase = control.phase.load(Ordering::Acquire);
        if control.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.problem.ranks as u32 {
            control.arrived.store(0, Ordering::Relaxed);
            control.phase.store(phase.wrapping_add(1), Ordering::Release);
            return true;
        }
        let mut looks = 0u32;
        let mut started = None;
        while control.phase.load(Ordering::Acquire) == phase {
            looks = looks.wrapping_add(1);
            if looks.is_multiple_of(1 << 12) {
                std::thread::yield_now();
                if started.get_or_insert_with(Instant::now).elapsed() > limit {
                    return false;
                }
            } else {
                std::hint::spin_loop();
            }
        }
        true
    }

    fn buffer(&self, index: usize) -> *mut u8 {
        let at = CONTROL + index * stride(self.problem.bytes.0);
        debug_assert!(at + stride(self.problem.bytes.0) <= self.len);
        self.base.wrapping_add(at)
    }

    /// Rank `rank`'s send buffer, as a pointer to bytes that no one writes after the start.
    pub(super) fn send(&self, rank: usize) -> *mut u8 {
        self.buffer(2 * rank)
    }

    /// Rank `rank`'s receive buffer.
    pub(super) fn receive(&self, rank: usize) -> *mut u8 {
        self.buffer(2 * rank + 1)
    }

    /// What a rank received; to be read while no collective runs.
    pub(super) fn received(&self, rank: usize) -> &[u8] {
        // SAFETY: within the mapping; every rank has answered its last command, so nothing writes.
        unsafe { std::slice::from_raw_parts(self.receive(rank), self.problem.bytes.0 as usize) }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // SAFETY: mapped in `map` with this length, unmapped once.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}
