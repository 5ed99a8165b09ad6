//! The shared segment: a page of control words, then each rank's send and receive buffer.

use super::fault::Fault;
use super::sync::{Barrier, Flag};
use crate::cpu::info;
use crate::{CollectiveOp, CollectiveProblem, DeviceError, Redop, Result};
use ridgepoint_core::{Bytes, Dtype};
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Most ranks of one segment.
pub(super) const MOST_RANKS: usize = 64;

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
    const ALL: [Self; 4] = [Self::Start, Self::Poison, Self::Run, Self::Exit];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Start => "starting the ranks",
            Self::Poison => "poisoning the outputs",
            Self::Run => "the collective",
            Self::Exit => "ending the ranks",
        }
    }
}

/// How the ranks are to go about it: chosen by the parent, the same for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Manner {
    /// Looks at a flag before a rank goes to sleep for it.
    pub(super) spins: u32,
    /// Copies store around the caches.
    pub(super) around_caches: bool,
    /// What is to go wrong, and at which rank.
    pub(super) fault: Option<(Fault, usize)>,
}

/// One rank's words. Only that rank writes them.
#[repr(C, align(128))]
pub(super) struct Slot {
    /// Epoch of the last command it has done.
    pub(super) done: Flag,
    /// Chunks of sums that peers may read, since the start.
    pub(super) published: Flag,
    /// Grows wherever it gets on: barriers that it came to, parts that it filled.
    pub(super) steps: AtomicU32,
    /// Time of the last run.
    pub(super) nanoseconds: AtomicU64,
    /// Its own work, less its waiting, in the last execution of that run.
    pub(super) working: AtomicU64,
}

/// The control page. Plain integers that any process may read in any state: a wrong one is an error, never a wrong address.
#[repr(C)]
struct Control {
    op: AtomicU32,
    dtype: AtomicU32,
    ranks: AtomicU32,
    spins: AtomicU32,
    around_caches: AtomicU32,
    fault: AtomicU32,
    faulty_rank: AtomicU32,
    abort: AtomicU32,
    bytes: AtomicU64,
    seed: AtomicU64,
    command: AtomicU32,
    argument: AtomicU64,
    redop: AtomicU32,
    root: AtomicU32,
    in_place: AtomicU32,
    epoch: Flag,
    barrier: Barrier,
    slots: [Slot; MOST_RANKS],
}

/// A mapping of it.
pub(super) struct Segment {
    file: File,
    base: *mut u8,
    len: usize,
    problem: CollectiveProblem,
    manner: Manner,
}

// SAFETY: control words are atomics; a rank writes its own receive buffer and reads others' only where a barrier or a published
// chunk says that it may.
unsafe impl Send for Segment {}
// SAFETY: as above.
unsafe impl Sync for Segment {}

const CONTROL: usize = size_of::<Control>().next_multiple_of(4096);

/// Bytes of a whole segment; None past what an address can hold.
fn length(ranks: usize, bytes: Bytes) -> Option<usize> {
    usize::try_from(bytes.0).ok()?.checked_next_multiple_of(4096)?.checked_mul(2 * ranks)?.checked_add(CONTROL)
}

fn failed(call: &'static str) -> DeviceError {
    let error = std::io::Error::last_os_error();
    DeviceError::Call { call, code: i64::from(error.raw_os_error().unwrap_or(0)), message: error.to_string() }
}

impl Segment {
    /// A new segment for `problem`, in memory that no name leads to.
    pub(super) fn create(problem: &CollectiveProblem, manner: Manner) -> Result<Self> {
        let free = info::available_memory();
        let total = length(problem.ranks, problem.bytes).filter(|len| free.is_none_or(|free| *len as u64 <= free.0));
        // Linux promises more than it has and kills whoever touches it; asking first turns that into an error.
        let Some(len) = total else {
            return Err(DeviceError::OutOfMemory { requested: problem.bytes * (2 * problem.ranks as u64), free });
        };
        // SAFETY: a NUL-terminated name. Closed on exec: each rank keeps it by itself, and no other child gets it.
        let fd = unsafe { libc::memfd_create(c"ridgepoint-ranks".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
        if fd < 0 {
            return Err(failed("memfd_create"));
        }
        // SAFETY: a descriptor that was just made and that nothing else owns.
        let file = unsafe { File::from_raw_fd(fd) };
        file.set_len(len as u64).map_err(|_| failed("ftruncate"))?;
        // SAFETY: takes no pointer. Without a fixed size, one side could cut off what the other has mapped.
        if unsafe { libc::fcntl(fd, libc::F_ADD_SEALS, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW) } != 0 {
            return Err(failed("F_ADD_SEALS"));
        }
        let segment = Self::map(file, *problem, manner)?;
        let control = segment.control();
        let set = |word: &AtomicU32, value: usize| word.store(value as u32, Ordering::Relaxed);
        set(&control.op, position(&CollectiveOp::ALL, problem.op));
        set(&control.dtype, position(&Dtype::ALL, problem.dtype));
        set(&control.ranks, problem.ranks);
        set(&control.redop, position(&Redop::ALL, problem.redop));
        set(&control.root, problem.root);
        set(&control.in_place, usize::from(problem.in_place));
        set(&control.spins, manner.spins as usize);
        set(&control.around_caches, usize::from(manner.around_caches));
        if let Some((fault, rank)) = manner.fault {
            set(&control.fault, fault as usize);
            set(&control.faulty_rank, rank);
        }
        control.bytes.store(problem.bytes.0, Ordering::Relaxed);
        control.seed.store(problem.seed, Ordering::Release);
        Ok(segment)
    }

    /// The segment behind an inherited descriptor. Nothing in it is believed that could lead outside of it.
    pub(super) fn open(fd: RawFd) -> Result<Self> {
        let invalid = |what: &str| DeviceError::invalid(format!("descriptor {fd} {what}"));
        // SAFETY: takes no pointer; only asks whether there is such a descriptor.
        if fd < 0 || unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
            return Err(invalid("is not open"));
        }
        // SAFETY: it is open, was inherited for this purpose and is owned here from now on.
        let file = unsafe { File::from_raw_fd(fd) };
        let nothing = CollectiveProblem::new(CollectiveOp::AllReduce, 0, Bytes(0), Dtype::F32);
        let size = file.metadata().map_err(|_| failed("fstat"))?.len();
        if size < CONTROL as u64 {
            return Err(invalid("is no segment of ranks"));
        }
        let mut segment = Self::map(file, nothing, Manner { spins: 0, around_caches: false, fault: None })?;
        let control = segment.control();
        let get = |word: &AtomicU32| word.load(Ordering::Relaxed) as usize;
        let problem = CollectiveProblem {
            seed: control.seed.load(Ordering::Acquire),
            op: *CollectiveOp::ALL.get(get(&control.op)).ok_or_else(|| invalid("names no collective"))?,
            ranks: get(&control.ranks),
            bytes: Bytes(control.bytes.load(Ordering::Relaxed)),
            dtype: *Dtype::ALL.get(get(&control.dtype)).ok_or_else(|| invalid("names no dtype"))?,
            redop: *Redop::ALL.get(get(&control.redop)).ok_or_else(|| invalid("names no reduction"))?,
            root: get(&control.root),
            in_place: get(&control.in_place) != 0,
            ..nothing
        };
        let manner = Manner {
            spins: get(&control.spins) as u32,
            around_caches: get(&control.around_caches) != 0,
            fault: Fault::numbered(get(&control.fault)).map(|fault| (fault, get(&control.faulty_rank))),
        };
        if problem.ranks > MOST_RANKS
            || problem.root >= problem.ranks.max(1)
            || problem.in_place && !problem.op.in_place()
            || length(problem.ranks, problem.bytes).is_none_or(|len| len > segment.len)
        {
            return Err(invalid("is a segment smaller than it says"));
        }
        (segment.problem, segment.manner) = (problem, manner);
        Ok(segment)
    }

    /// A second mapping of the same segment, for ranks that are threads.
    pub(super) fn again(&self) -> Result<Self> {
        Self::map(self.file.try_clone().map_err(|_| failed("dup"))?, self.problem, self.manner)
    }

    fn map(file: File, problem: CollectiveProblem, manner: Manner) -> Result<Self> {
        let len = file.metadata().map_err(|_| failed("fstat"))?.len() as usize;
        // SAFETY: a fresh shared mapping of a file of this length.
        let base = unsafe {
            libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        if base == libc::MAP_FAILED {
            return Err(failed("mmap"));
        }
        // SAFETY: advice on what was just mapped. Most kernels grant shared memory no huge pages; where one does, the TLB stays
        // out of the bandwidth, as for the buffers of the other suites.
        unsafe { libc::madvise(base, len, libc::MADV_HUGEPAGE) };
        Ok(Self { file, base: base.cast(), len, problem, manner })
    }

    /// The descriptor that a rank inherits.
    pub(super) fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    pub(super) fn problem(&self) -> &CollectiveProblem {
        &self.problem
    }

    pub(super) fn manner(&self) -> &Manner {
        &self.manner
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
        let epoch = control.epoch.get().wrapping_add(1);
        control.epoch.set(epoch);
        epoch
    }

    /// Waits for the command after `epoch`. None when `give_up` says so.
    pub(super) fn next(&self, epoch: u32, give_up: &mut dyn FnMut() -> bool) -> Option<(u32, Command, u64)> {
        let control = self.control();
        if !control.epoch.reach(epoch.wrapping_add(1), self.manner.spins, give_up) {
            return None;
        }
        let number = control.command.load(Ordering::Relaxed);
        let command = Command::ALL.into_iter().find(|c| *c as u32 == number)?;
        Some((control.epoch.get(), command, control.argument.load(Ordering::Relaxed)))
    }

    /// Tells every rank to stop whatever it does.
    pub(super) fn abort(&self) {
        self.control().abort.store(1, Ordering::Release);
    }

    pub(super) fn aborted(&self) -> bool {
        self.control().abort.load(Ordering::Acquire) != 0
    }

    pub(super) fn barrier(&self) -> &Barrier {
        &self.control().barrier
    }

    pub(super) fn slot(&self, rank: usize) -> &Slot {
        &self.control().slots[rank]
    }

    /// Notes that a rank got on.
    pub(super) fn step(&self, rank: usize) {
        let steps = &self.slot(rank).steps;
        // Only this rank writes it: no need for an atomic addition.
        steps.store(steps.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
    }

    fn buffer(&self, index: usize) -> *mut u8 {
        let stride = (self.problem.bytes.0 as usize).next_multiple_of(4096);
        debug_assert!(CONTROL + (index + 1) * stride <= self.len);
        self.base.wrapping_add(CONTROL + index * stride)
    }

    /// Rank `rank`'s send buffer, as a pointer to bytes that no one writes after the start.
    pub(super) fn send(&self, rank: usize) -> *mut u8 {
        self.buffer(2 * rank)
    }

    /// Rank `rank`'s receive buffer.
    pub(super) fn receive(&self, rank: usize) -> *mut u8 {
        self.buffer(2 * rank + 1)
    }

    /// Where a rank's input lies: in its send buffer, or in place in the other, at its own part.
    pub(super) fn input(&self, rank: usize) -> *mut u8 {
        let p = &self.problem;
        if p.in_place { self.receive(rank).wrapping_add(p.sends_from(rank) * p.size()) } else { self.send(rank) }
    }

    /// What a rank received, and whatever lies behind it; to be read while no collective runs.
    pub(super) fn received(&self, rank: usize) -> &[u8] {
        let p = &self.problem;
        let start = p.receives_from(rank) * p.size();
        // SAFETY: within the mapping; every rank has answered its last command, so nothing writes.
        unsafe { std::slice::from_raw_parts(self.receive(rank).wrapping_add(start), p.bytes.0 as usize - start) }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // SAFETY: mapped in `map` with this length, unmapped once.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}

fn position<T: PartialEq>(all: &[T], wanted: T) -> usize {
    all.iter().position(|x| *x == wanted).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::IntoRawFd;

    #[test]
    fn a_descriptor_that_is_no_segment_is_refused() {
        let reason = |fd| Segment::open(fd).err().map(|e| e.to_string()).unwrap();
        assert!(reason(-1).contains("not open") && reason(999).contains("not open"));
        let file = |bytes: &[u8]| {
            // SAFETY: a NUL-terminated name.
            let mut file = unsafe { File::from_raw_fd(libc::memfd_create(c"test".as_ptr(), libc::MFD_CLOEXEC)) };
            file.write_all(bytes).unwrap();
            file.into_raw_fd()
        };
        assert!(reason(file(b"short")).contains("no segment"));
        // Whatever the words say, it is an error: an op or dtype there is not, or buffers that do not fit.
        assert!(reason(file(&vec![0xff; 2 * CONTROL])).contains("names no collective"));
        let mut words = vec![0u8; CONTROL];
        words[8] = 2;
        words[32..40].fill(0xff);
        assert!(reason(file(&words)).contains("smaller than it says"));
        words[32..40].fill(0);
        words[33] = 1;
        assert!(reason(file(&words)).contains("smaller than it says"));
    }
}
