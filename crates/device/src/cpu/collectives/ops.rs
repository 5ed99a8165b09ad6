//! The collectives themselves, each rank's share of one.
//!
//! A buffer of `count` elements is cut into a part for each rank, `count·r/n..count·(r+1)/n`. Ranks read their peers' buffers
//! directly, which is one copy for each byte that a rank receives. So every execution begins with a barrier (no peer's send
//! buffer is read before that peer has come) and ends with one (no rank goes on while a peer still reads from it).
//!
//! In place the receive buffer is the input, too, and the send buffer keeps a copy to restore it from where an execution
//! consumes it. What a rank overwrites no peer reads: its own part of a reduction, or a peer's part that the peer published.
//!
//! A small all-reduce is one-shot: every rank sums everything. A large one is a reduce-scatter and an all-gather of the sums,
//! in chunks: a rank sums a chunk of its part, publishes it, and fetches its peers' chunk before, while they are in a cache.

use super::copy::copy;
use super::fault::Fault;
use super::reduce::reduce;
use super::segment::Segment;
use crate::{CollectiveOp, CollectiveProblem};
use std::ops::Range;
use std::time::{Duration, Instant};

/// Bytes of a chunk of an all-reduce: those of two ranks, read and written, stay in a second-level cache.
pub(super) const CHUNK: usize = 128 << 10;

/// Up to this many bytes of all ranks together an all-reduce is one-shot: the second exchange would cost more than the sums that
/// it saves. Between two ranks one-shot would stay faster for as long as both send buffers fit a core's own cache, but only since
/// they do not change from one execution to the next; so the sums, which do, are exchanged as early as it costs next to nothing.
const ONE_SHOT: u64 = 32 << 10;

/// Whether an all-reduce is one-shot: never in place, where a rank would overwrite what its peers still read.
pub(super) fn one_shot(problem: &CollectiveProblem) -> bool {
    !problem.in_place && problem.bytes.0 * problem.ranks as u64 <= ONE_SHOT
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
    /// Of an all-to-all-v: what this rank takes of each peer's buffer, and to where.
    uneven: Vec<(Range<usize>, usize)>,
    /// Chunks that each rank has published before this execution.
    published: u32,
    /// Time spent waiting for peers in this execution, where it is being looked at.
    waited: Option<Duration>,
}

impl<'a> Member<'a> {
    pub(super) fn new(segment: &'a Segment, rank: usize, alive: &'a dyn Fn() -> bool) -> Self {
        let p = segment.problem();
        let uneven = (0..p.ranks).map(|peer| (p.uneven(peer, rank), p.uneven(rank, peer).start)).collect();
        Self { segment, rank, alive, count: p.count(), size: p.size(), uneven, published: 0, waited: None }
    }

    /// Fills this rank's send buffer; the memory is first touched here, on the rank's own core.
    pub(super) fn fill(&self) {
        let p = self.segment.problem();
        let chunk = FILL / self.size;
        for start in (0..self.count).step_by(chunk) {
            let n = chunk.min(self.count - start);
            let at = self.segment.send(self.rank).wrapping_add(start * self.size);
            // SAFETY: the send buffer holds `count` elements, is this rank's, and no one reads it before all ranks have started.
            p.fill(self.rank, start, unsafe { std::slice::from_raw_parts_mut(at, n * self.size) });
            self.segment.step(self.rank);
        }
        self.poison();
    }

    /// Overwrites this rank's receive buffer; in place, all of it but the input.
    pub(super) fn poison(&self) {
        let bytes = self.segment.problem().bytes.0 as usize;
        // SAFETY: this rank's own buffer, while no collective runs.
        unsafe { std::slice::from_raw_parts_mut(self.segment.receive(self.rank), bytes) }.fill(0xff);
        if self.segment.problem().in_place {
            self.restore();
        }
    }

    /// In place: this rank's input, as it was.
    fn restore(&self) {
        let len = self.segment.problem().sends(self.rank) * self.size;
        // SAFETY: both buffers are this rank's own and hold what it sends; no collective runs.
        unsafe { std::ptr::copy_nonoverlapping(self.segment.send(self.rank), self.segment.input(self.rank), len) };
    }

    /// `n` executions: how long they took, and how long the last one kept this rank busy, in nanoseconds. None if it was stopped.
    pub(super) fn run(&mut self, n: u64) -> Option<(u64, u64)> {
        // Two barriers: the first collects ranks that wake up late, the second starts them together.
        self.meet()?;
        self.meet()?;
        let consumes = self.segment.problem().consumes();
        let (mut working, mut spent) = (Duration::ZERO, Duration::ZERO);
        let start = Instant::now();
        for i in 0..n {
            if consumes {
                self.restore();
            }
            self.meet()?;
            // A look at the clock takes as long as a small collective: only the last execution is looked at, unless what lies
            // between two executions must not count.
            let last = i + 1 == n;
            let looked = (last || consumes).then(Instant::now);
            self.waited = last.then_some(Duration::ZERO);
            let fault = self.begin()?;
            self.execute()?;
            if let (Some(looked), Some(waited)) = (looked, self.waited.take()) {
                working = looked.elapsed().saturating_sub(waited);
            }
            self.meet()?;
            if let Some(looked) = looked {
                spent += looked.elapsed();
            }
            self.finish(fault);
        }
        let took = if consumes { spent } else { start.elapsed() };
        Some((took.as_nanos() as u64, working.as_nanos() as u64))
    }

    fn execute(&mut self) -> Option<()> {
        let p = *self.segment.problem();
        let (rank, n, count) = (self.rank, p.ranks, self.count);
        let peers = move || (0..n).map(move |step| (rank + step) % n);
        let input = |peer| self.segment.input(peer);
        // In place a rank's own part lies where it belongs already.
        let others = || peers().filter(move |peer| !(p.in_place && *peer == rank));
        match p.op {
            CollectiveOp::AllReduce if one_shot(&p) => self.reduce(0..count, 0),
            CollectiveOp::AllReduce => self.all_reduce()?,
            CollectiveOp::ReduceScatter => self.reduce(self.part(rank), p.receives_from(rank)),
            CollectiveOp::Reduce if rank == p.root => self.reduce(0..count, 0),
            CollectiveOp::Gather if rank != p.root => {}
            CollectiveOp::AllGather | CollectiveOp::Gather => {
                others().for_each(|peer| self.copy(input(peer), 0..self.part(peer).len(), self.part(peer).start));
            }
            CollectiveOp::Broadcast | CollectiveOp::Scatter if p.in_place && rank == p.root => {}
            CollectiveOp::Broadcast => self.copy(input(p.root), 0..count, 0),
            CollectiveOp::Scatter => self.copy(input(p.root), self.part(rank), p.receives_from(rank)),
            CollectiveOp::AllToAll => {
                // Equal parts, as all-to-all has them; what is left over of the buffer is not sent.
                let share = count / n;
                peers().for_each(|peer| self.copy(input(peer), share * rank..share * (rank + 1), share * peer));
            }
            CollectiveOp::AllToAllV => {
                self.uneven.iter().zip(0..).for_each(|((range, at), peer)| self.copy(input(peer), range.clone(), *at));
            }
            CollectiveOp::SendRecv => self.copy(input((rank + n - 1) % n), 0..count, 0),
            CollectiveOp::Reduce => {}
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
                self.reduce(range.clone(), range.start);
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
        self.segment.problem().part(rank)
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

    /// Combines elements `range` of all inputs into this rank's receive buffer from element `at` on.
    fn reduce(&self, range: Range<usize>, at: usize) {
        let p = self.segment.problem();
        let input = |r: usize| self.segment.input(r).cast_const().wrapping_add(range.start * self.size);
        let out = self.segment.receive(self.rank).wrapping_add(at * self.size);
        // SAFETY: as in `copy`; buffers begin at a page, so elements are aligned. In place the output is this rank's input.
        unsafe { reduce(p.dtype, p.redop, p.ranks, input, out, range.len()) };
    }

    /// Does what a planted fault does before an execution; None if that was this rank's end. A fault of the result comes with
    /// the first bytes as they are now.
    fn begin(&mut self) -> Option<Option<(Fault, Vec<u8>)>> {
        let p = self.segment.problem();
        let at = |fault: Fault, rank: usize| match fault {
            // Where a rank receives nothing, what arrives wrong arrives at the root.
            Fault::Corrupt | Fault::Unwritten if p.receives(rank) == 0 => p.root,
            _ => rank,
        };
        let Some((fault, _)) = self.segment.manner().fault.filter(|(f, rank)| at(*f, *rank) == self.rank) else {
            return Some(None);
        };
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
                // The upper byte's lowest bit: a power of two, or a quarter of an f16. Of a single byte one further up, since
                // the lowest of FP8 is no more than its rounding.
                let (upper, bit) = (self.size - 1, if self.size == 1 { 0x10 } else { 1 });
                if let Some(byte) = self.own().get_mut(upper) {
                    *byte ^= bit;
                }
            }
            _ => {}
        }
    }

    /// What this rank receives, while no peer reads it.
    fn own(&mut self) -> &mut [u8] {
        let p = self.segment.problem();
        let start = self.segment.receive(self.rank).wrapping_add(p.receives_from(self.rank) * self.size);
        // SAFETY: within the mapping; called between the barriers around an execution's reads, and no other slice of it is alive.
        unsafe { std::slice::from_raw_parts_mut(start, p.receives(self.rank) * self.size) }
    }
}
