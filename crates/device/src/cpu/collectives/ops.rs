//! The collectives themselves, each rank's share of one.
//!
//! A buffer of `count` elements is cut into a part for each rank, `count·r/n..count·(r+1)/n`. Ranks read their peers' buffers
//! directly, which is one copy for each byte that a rank receives. So every execution begins with a barrier (no peer's send
//! buffer is read before that peer has come) and ends with one (no rank goes on while a peer still reads from it).
//!
//! A small all-reduce is one-shot: every rank sums everything. A large one is a reduce-scatter and an all-gather of the sums,
//! in chunks: a rank sums a chunk of its part, publishes it, and fetches its peers' chunk before, while they are in a cache.

use super::copy::copy;
use super::fault::Fault;
use super::segment::Segment;
use super::sum::{self, sum};
use crate::{CollectiveOp, CollectiveProblem};
use ridgepoint_core::minifloat::bf16_bits;
use ridgepoint_core::{Dtype, data};
use std::ops::Range;
use std::time::{Duration, Instant};

/// Bytes of a chunk of an all-reduce: those of two ranks, read and written, stay in a second-level cache.
pub(super) const CHUNK: usize = 128 << 10;

/// Up to this many bytes of all ranks together an all-reduce is one-shot: the second exchange would cost more than the sums that
/// it saves. Between two ranks one-shot would stay faster for as long as both send buffers fit a core's own cache, but only since
/// they do not change from one execution to the next; so the sums, which do, are exchanged as early as it costs next to nothing.
const ONE_SHOT: u64 = 32 << 10;

/// Whether an all-reduce is one-shot.
pub(super) fn one_shot(problem: &CollectiveProblem) -> bool {
    problem.bytes.0 * problem.ranks as u64 <= ONE_SHOT
}

/// Bytes filled between two signs of life.
const FILL: usize = 4 << 20;

/// A rank at work.
pub(super) struct Member<'a> {
    segment: &'a Segment,
    rank: usize,
    alive: &'a dyn Fn() -> bool,
    count: usize,
    size: usize,
    /// Chunks that each rank has published before this execution.
    published: u32,
    /// Time spent waiting for peers in this execution, where it is being looked at.
    waited: Option<Duration>,
}

impl<'a> Member<'a> {
    pub(super) fn new(segment: &'a Segment, rank: usize, alive: &'a dyn Fn() -> bool) -> Self {
        let size = segment.problem().dtype.element_bytes().unwrap_or(4);
        let count = segment.problem().bytes.0 as usize / size;
        Self { segment, rank, alive, count, size, published: 0, waited: None }
    }

    /// Fills this rank's send buffer; the memory is first touched here, on the rank's own core.
    pub(super) fn fill(&self) {
        let p = self.segment.problem();
        let seed = data::operand_seed(p.seed, self.rank as u64);
        let chunk = FILL / self.size;
        for start in (0..self.count).step_by(chunk) {
            let n = chunk.min(self.count - start);
            let values = (start as u64..).map(|i| data::normal(seed, i));
            let at = self.segment.send(self.rank).wrapping_add(start * self.size);
            // SAFETY: the send buffer holds `count` aligned elements of this dtype, is this rank's, and no one reads it before all
            // ranks have started.
            unsafe {
                let narrow = |convert: fn(f32) -> u16| {
                    let out = std::slice::from_raw_parts_mut(at.cast::<u16>(), n);
                    out.iter_mut().zip(values.clone()).for_each(|(z, x)| *z = convert(x));
                };
                match p.dtype {
                    Dtype::F16 => narrow(sum::to_f16),
                    Dtype::Bf16 => narrow(bf16_bits),
                    _ => {
                        let out = std::slice::from_raw_parts_mut(at.cast::<f32>(), n);
                        out.iter_mut().zip(values).for_each(|(z, x)| *z = x);
                    }
                }
            }
            self.segment.step(self.rank);
        }
        self.poison();
    }

    /// Overwrites this rank's receive buffer.
    pub(super) fn poison(&self) {
        let bytes = self.segment.problem().bytes.0 as usize;
        // SAFETY: this rank's own buffer, while no collective runs.
        unsafe { std::slice::from_raw_parts_mut(self.segment.receive(self.rank), bytes) }.fill(0xff);
    }

    /// `n` executions: how long they took, and how long the last one kept this rank busy, in nanoseconds. None if it was stopped.
    pub(super) fn run(&mut self, n: u64) -> Option<(u64, u64)> {
        // Two barriers: the first collects ranks that wake up late, the second starts them together.
        self.meet()?;
        self.meet()?;
        let mut working = Duration::ZERO;
        let start = Instant::now();
        for i in 0..n {
            self.meet()?;
            // A look at the clock takes as long as a small collective: only the last execution is looked at.
            let last = (i + 1 == n).then(Instant::now);
            self.waited = last.map(|_| Duration::ZERO);
            let fault = self.begin()?;
            self.execute()?;
            if let (Some(last), Some(waited)) = (last, self.waited.take()) {
                working = last.elapsed().saturating_sub(waited);
            }
            self.meet()?;
            self.finish(fault);
        }
        Some((start.elapsed().as_nanos() as u64, working.as_nanos() as u64))
    }

    fn execute(&mut self) -> Option<()> {
        let (rank, n, count) = (self.rank, self.segment.problem().ranks, self.count);
        let peers = move || (0..n).map(move |step| (rank + step) % n);
        match self.segment.problem().op {
            CollectiveOp::AllReduce if one_shot(self.segment.problem()) => self.sum(0..count, 0),
            CollectiveOp::AllReduce => self.all_reduce()?,
            CollectiveOp::ReduceScatter => self.sum(self.part(rank), 0),
            CollectiveOp::AllGather => {
                peers().for_each(|peer| self.copy(self.segment.send(peer), self.part(peer), self.part(peer).start));
            }
            CollectiveOp::Broadcast => self.copy(self.segment.send(0), 0..count, 0),
            CollectiveOp::AllToAll => {
                // Equal parts, as all-to-all has them; what is left over of the buffer is not sent.
                let share = count / n;
                peers().for_each(|peer| self.copy(self.segment.send(peer), share * rank..share * (rank + 1), share * peer));
            }
        }
        Some(())
    }

    /// Reduce-scatter and all-gather at once, chunk by chunk.
    fn all_reduce(&mut self) -> Option<()> {
        let (rank, n) = (self.rank, self.segment.problem().ranks);
        let chunk = CHUNK / self.size;
        let of = |part: Range<usize>, c: usize| {
            let start = (part.start + c * chunk).min(part.end);
            start..(start + chunk).min(part.end)
        };
        // Parts differ by an element at most; all ranks publish as often as the longest has chunks.
        let chunks = self.count.div_ceil(n).div_ceil(chunk);
        for c in 0..=chunks {
            if c < chunks {
                let range = of(self.part(rank), c);
                self.sum(range.clone(), range.start);
                self.segment.step(rank);
                self.segment.slot(rank).published.set(self.published.wrapping_add(c as u32 + 1));
            }
            if let Some(before) = c.checked_sub(1) {
                for peer in (1..n).map(|step| (rank + step) % n) {
                    let target = self.published.wrapping_add(before as u32 + 1);
                    self.wait(|s, spins, give_up| s.slot(peer).published.reach(target, spins, give_up))?;
                    let range = of(self.part(peer), before);
                    self.copy(self.segment.receive(peer), range.clone(), range.start);
                }
            }
        }
        self.published = self.published.wrapping_add(chunks as u32);
        Some(())
    }

    fn part(&self, rank: usize) -> Range<usize> {
        let n = self.segment.problem().ranks;
        self.count * rank / n..self.count * (rank + 1) / n
    }

    /// Waits for all ranks.
    fn meet(&mut self) -> Option<()> {
        self.segment.step(self.rank);
        // Peers that are never late would otherwise carry on to the end of a run that no one waits for any more.
        if self.segment.aborted() {
            return None;
        }
        let n = self.segment.problem().ranks as u32;
        self.wait(|s, spins, give_up| s.barrier().wait(n, spins, give_up))
    }

    fn wait(&mut self, reach: impl FnOnce(&Segment, u32, &mut dyn FnMut() -> bool) -> bool) -> Option<()> {
        let (segment, alive) = (self.segment, self.alive);
        let started = self.waited.map(|_| Instant::now());
        let reached = reach(segment, segment.manner().spins, &mut || segment.aborted() || !alive());
        if let (Some(waited), Some(started)) = (&mut self.waited, started) {
            *waited += started.elapsed();
        }
        reached.then_some(())
    }

    /// Elements `range` of `from` to element `at` of this rank's receive buffer.
    fn copy(&self, from: *const u8, range: Range<usize>, at: usize) {
        let (size, to) = (self.size, self.segment.receive(self.rank));
        // SAFETY: both ranges lie within buffers of `count` elements (parts end there); buffers of different ranks, and send and
        // receive buffers, do not overlap; only this rank writes its receive buffer, and what it reads was published.
        unsafe {
            copy(from.add(range.start * size), to.add(at * size), range.len() * size, self.segment.manner().around_caches);
        }
    }

    /// Sums elements `range` of all send buffers into this rank's receive buffer from element `at` on.
    fn sum(&self, range: Range<usize>, at: usize) {
        let p = self.segment.problem();
        let input = |r: usize| self.segment.send(r).cast_const().wrapping_add(range.start * self.size);
        let out = self.segment.receive(self.rank).wrapping_add(at * self.size);
        // SAFETY: as in `copy`; buffers begin at a page, so elements are aligned.
        unsafe { sum(p.dtype, p.ranks, input, out, range.len()) };
    }

    /// Does what a planted fault does before an execution; None if that was this rank's end. A fault of the result comes with
    /// the first bytes as they are now.
    fn begin(&mut self) -> Option<Option<(Fault, Vec<u8>)>> {
        let Some((fault, _)) = self.segment.manner().fault.filter(|(_, rank)| *rank == self.rank) else { return Some(None) };
        match fault {
            Fault::Die => return None,
            Fault::Hang => {
                while !self.segment.aborted() && (self.alive)() {
                    std::thread::sleep(Duration::from_millis(5));
                }
                return None;
            }
            Fault::Corrupt | Fault::Unwritten => {}
        }
        let own = self.own();
        Some(Some((fault, own[..own.len().min(8)].to_vec())))
    }

    /// Does what a fault does to a result.
    fn finish(&mut self, fault: Option<(Fault, Vec<u8>)>) {
        match fault {
            Some((Fault::Unwritten, head)) => self.own()[..head.len()].copy_from_slice(&head),
            Some((Fault::Corrupt, _)) => {
                // The upper byte's lowest bit: a power of two, or a quarter of an f16.
                let upper = self.size - 1;
                if let Some(byte) = self.own().get_mut(upper) {
                    *byte ^= 1;
                }
            }
            _ => {}
        }
    }

    /// This rank's receive buffer, while no peer reads it.
    fn own(&mut self) -> &mut [u8] {
        let len = self.segment.problem().bytes.0 as usize;
        // SAFETY: within the mapping; called between the barriers around an execution's reads, and no other slice of it is alive.
        unsafe { std::slice::from_raw_parts_mut(self.segment.receive(self.rank), len) }
    }
}
