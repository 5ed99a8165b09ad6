//! Communication between ranks, as an optional capability of a device: which operation, over what, and what each rank sends and
//! receives of it. Every engine (shared memory, MPI, NCCL, RCCL) takes its buffers' lengths and contents from here, and the
//! suite checks against the same.

use crate::beside::RanksBeside;
use crate::transport::Said;
use crate::{DeviceError, Result, Timing};
use ridgepoint_core::minifloat::bf16_bits;
use ridgepoint_core::{Bytes, Dtype, Library, Seconds, data};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;

/// A collective operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CollectiveOp {
    /// Every rank gets the reduction of all.
    AllReduce,
    /// Every rank gets all parts.
    AllGather,
    /// Every rank gets its part of the reduction.
    ReduceScatter,
    /// Every rank gets the root's data.
    Broadcast,
    /// Every rank sends an equal part to every other.
    AllToAll,
    /// The root gets the reduction of all.
    Reduce,
    /// Every rank sends a part to every other, of uneven lengths: see [`CollectiveProblem::uneven`].
    AllToAllV,
    /// The root gets all parts.
    Gather,
    /// Every rank gets its part of the root's data.
    Scatter,
    /// Every rank sends all of its data to the next and receives that of the one before, around a ring.
    SendRecv,
}

impl CollectiveOp {
    /// All of them; new ones at the end, since shared segments hold the position.
    pub const ALL: [Self; 10] = [
        Self::AllReduce,
        Self::AllGather,
        Self::ReduceScatter,
        Self::Broadcast,
        Self::AllToAll,
        Self::Reduce,
        Self::AllToAllV,
        Self::Gather,
        Self::Scatter,
        Self::SendRecv,
    ];

    /// Named as nccl-tests and rccl-tests name their programs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AllReduce => "all_reduce",
            Self::AllGather => "all_gather",
            Self::ReduceScatter => "reduce_scatter",
            Self::Broadcast => "broadcast",
            Self::AllToAll => "alltoall",
            Self::Reduce => "reduce",
            Self::AllToAllV => "alltoallv",
            Self::Gather => "gather",
            Self::Scatter => "scatter",
            Self::SendRecv => "sendrecv",
        }
    }

    /// Whether values are combined, and not only moved.
    #[must_use]
    pub const fn reduces(self) -> bool {
        matches!(self, Self::AllReduce | Self::ReduceScatter | Self::Reduce)
    }

    /// Whether one rank is special.
    #[must_use]
    pub const fn rooted(self) -> bool {
        matches!(self, Self::Broadcast | Self::Reduce | Self::Gather | Self::Scatter)
    }

    /// Whether it has an in-place form (the exchanges do not: what a rank sends would be overwritten before it is sent).
    #[must_use]
    pub const fn in_place(self) -> bool {
        !matches!(self, Self::AllToAll | Self::AllToAllV | Self::SendRecv)
    }

    /// Whether S is cut into a part for each rank, so that it must be a multiple of the number of ranks.
    #[must_use]
    pub const fn divides(self) -> bool {
        !matches!(self, Self::AllReduce | Self::Broadcast | Self::Reduce | Self::SendRecv)
    }
}

/// How values are combined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Redop {
    /// Their sum.
    #[default]
    Sum,
    /// Their product.
    Prod,
    /// The smallest.
    Min,
    /// The largest.
    Max,
    /// Their sum over the number of ranks; integers are cut off.
    Avg,
}

impl Redop {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Sum, Self::Prod, Self::Min, Self::Max, Self::Avg];

    /// As nccl-tests writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Prod => "prod",
            Self::Min => "min",
            Self::Max => "max",
            Self::Avg => "avg",
        }
    }
}

/// Whether the library is told of the buffers beforehand (`-R` of nccl-tests).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Registration {
    /// Plain buffers.
    #[default]
    None,
    /// Registered with the communicator of each rank.
    Local,
    /// Windows that all ranks registered together, at the same place in each.
    Symmetric,
}

impl Registration {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::None, Self::Local, Self::Symmetric];

    /// A word for ids and tables; empty for plain buffers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Local => "registered",
            Self::Symmetric => "symmetric",
        }
    }
}

/// A collective over `ranks` ranks. `bytes` is S of nccl-tests: the total buffer (receive side for all-gather and gather, send
/// side for reduce-scatter and scatter).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CollectiveProblem {
    /// The operation.
    pub op: CollectiveOp,
    /// Ranks that take part.
    pub ranks: usize,
    /// S.
    pub bytes: Bytes,
    /// Element type, as encoded on the device.
    pub dtype: Dtype,
    /// How values are combined, where they are.
    pub redop: Redop,
    /// The special rank, where there is one.
    pub root: usize,
    /// Send and receive buffer are one, each rank's own part lying where it lies in the whole.
    pub in_place: bool,
    /// Whether the library is told of the buffers.
    pub registration: Registration,
    /// Seed of the ranks' inputs: see [`CollectiveProblem::input`].
    pub seed: u64,
}

/// Integer inputs: so many times a normal number, over the number of ranks, so that no sum leaves the type.
const I8_SCALE: f64 = 24.0;
const I32_SCALE: f64 = (1 << 20) as f64;

impl CollectiveProblem {
    /// Sums, out of place, root 0, plain buffers, seed 1.
    #[must_use]
    pub const fn new(op: CollectiveOp, ranks: usize, bytes: Bytes, dtype: Dtype) -> Self {
        Self { op, ranks, bytes, dtype, redop: Redop::Sum, root: 0, in_place: false, registration: Registration::None, seed: 1 }
    }

    /// Bytes of an element.
    #[must_use]
    pub fn size(&self) -> usize {
        self.dtype.element_bytes().unwrap_or(1)
    }

    /// Elements of S.
    #[must_use]
    pub fn count(&self) -> usize {
        self.bytes.0 as usize / self.size()
    }

    /// Rank `rank`'s part of S: equal for all where the count divides, an element apart where it does not.
    #[must_use]
    pub fn part(&self, rank: usize) -> Range<usize> {
        // Wide, since count × ranks of a huge problem passes what an address holds.
        let at = |r: usize| (self.count() as u128 * r as u128 / self.ranks.max(1) as u128) as usize;
        at(rank)..at(rank + 1)
    }

    /// The part of an all-to-all-v that rank `from` sends to rank `to`, where it lies in `from`'s send buffer. Lengths are in
    /// the ratio of 1 : 2 : … : n, k = (from + to) mod n choosing which, so that every rank sends and receives all of them once.
    #[must_use]
    pub fn uneven(&self, from: usize, to: usize) -> Range<usize> {
        let n = self.ranks.max(1);
        let shares = (n * (n + 1) / 2) as u128;
        let before = |k: usize| (self.count() as u128 * (k * (k + 1) / 2) as u128 / shares) as usize;
        let length = |peer: usize| before((from + peer) % n + 1) - before((from + peer) % n);
        let start = (0..to).map(length).sum();
        start..start + length(to)
    }

    /// Elements that rank `rank` sends from its buffer.
    #[must_use]
    pub fn sends(&self, rank: usize) -> usize {
        use CollectiveOp as Op;
        match self.op {
            Op::AllGather | Op::Gather => self.part(rank).len(),
            Op::Broadcast | Op::Scatter if rank != self.root => 0,
            Op::AllToAll => self.count() / self.ranks.max(1) * self.ranks,
            _ => self.count(),
        }
    }

    /// Elements that rank `rank` receives.
    #[must_use]
    pub fn receives(&self, rank: usize) -> usize {
        use CollectiveOp as Op;
        match self.op {
            Op::ReduceScatter | Op::Scatter => self.part(rank).len(),
            Op::Reduce | Op::Gather if rank != self.root => 0,
            Op::AllToAll => self.count() / self.ranks.max(1) * self.ranks,
            _ => self.count(),
        }
    }

    /// Where what rank `rank` receives comes from, in order; empty where values are combined or nothing is received.
    #[must_use]
    pub fn pieces(&self, rank: usize) -> Vec<Piece> {
        use CollectiveOp as Op;
        let (n, count) = (self.ranks.max(1), self.count());
        let one = |from, start, len| vec![Piece { at: 0, from, start, len }];
        if self.receives(rank) == 0 {
            return Vec::new();
        }
        match self.op {
            Op::AllReduce | Op::Reduce | Op::ReduceScatter => Vec::new(),
            Op::AllGather | Op::Gather => {
                (0..n).map(|from| Piece { at: self.part(from).start, from, start: 0, len: self.part(from).len() }).collect()
            }
            Op::Broadcast => one(self.root, 0, count),
            Op::Scatter => one(self.root, self.part(rank).start, self.part(rank).len()),
            Op::SendRecv => one((rank + n - 1) % n, 0, count),
            Op::AllToAll => {
                let len = count / n;
                (0..n).map(|from| Piece { at: len * from, from, start: len * rank, len }).collect()
            }
            Op::AllToAllV => {
                // As long either way, so that a rank's own cuts are the received ones.
                let piece = |from| {
                    let sent = self.uneven(from, rank);
                    Piece { at: self.uneven(rank, from).start, from, start: sent.start, len: sent.len() }
                };
                (0..n).map(piece).collect()
            }
        }
    }

    /// The element of all ranks' inputs whose combination a rank receives first.
    #[must_use]
    pub fn combined_from(&self, rank: usize) -> usize {
        if self.op == CollectiveOp::ReduceScatter { self.part(rank).start } else { 0 }
    }

    /// As many of the type's smallest normal numbers as there are ranks: below that a rounding is absolute.
    #[must_use]
    pub fn least(&self) -> f64 {
        self.ranks as f64 * self.dtype.format().map_or(f64::MIN_POSITIVE, |f| f64::powi(2.0, 1 - f.bias))
    }

    /// In place: the element of the one buffer at which what a rank sends begins.
    #[must_use]
    pub fn sends_from(&self, rank: usize) -> usize {
        match self.op {
            CollectiveOp::AllGather | CollectiveOp::Gather if self.in_place => self.part(rank).start,
            _ => 0,
        }
    }

    /// In place: the element of the one buffer at which what a rank receives begins.
    #[must_use]
    pub fn receives_from(&self, rank: usize) -> usize {
        match self.op {
            CollectiveOp::ReduceScatter | CollectiveOp::Scatter if self.in_place => self.part(rank).start,
            _ => 0,
        }
    }

    /// Whether an execution overwrites its own input with something else, so that the next must be given it anew.
    #[must_use]
    pub const fn consumes(&self) -> bool {
        self.in_place && self.op.reduces()
    }

    /// Element `i` of what rank `rank` sends, as `dtype` holds it. Floats: `data::normal(operand_seed(seed, rank), i)`,
    /// rounded; for products ±(1 + |x| / 4n), so that none leaves the type's normal numbers. Integers: a normal number,
    /// scaled so that no sum of all ranks leaves the type; ±1, and ±3 at one rank, for products.
    #[must_use]
    pub fn input(&self, rank: usize, i: usize) -> f64 {
        self.dtype.round(self.value(rank, i, data::normal(data::operand_seed(self.seed, rank as u64), i as u64)))
    }

    /// Whether what a rank sends is the normal stream of its seed, which devices can make by themselves.
    #[must_use]
    pub fn plain_input(&self) -> bool {
        !(matches!(self.dtype, Dtype::I8 | Dtype::I32) || self.redop == Redop::Prod && self.op.reduces())
    }

    /// Before rounding.
    fn value(&self, rank: usize, i: usize, x: f32) -> f64 {
        let (n, wide) = (self.ranks.max(1), f64::from(x));
        let integer = match self.dtype {
            Dtype::I8 => Some(I8_SCALE),
            Dtype::I32 => Some(I32_SCALE),
            _ => None,
        };
        let sign = if x < 0.0 { -1.0 } else { 1.0 };
        match (self.redop == Redop::Prod && self.op.reduces(), integer) {
            (false, None) => wide,
            (false, Some(scale)) => wide * scale / n as f64,
            (true, None) => sign * (1.0 + wide.abs() / (4 * n) as f64),
            (true, Some(_)) => sign * if i % n == rank { 3.0 } else { 1.0 },
        }
    }

    /// Fills `out` with what rank `rank` sends from element `first` on, as many whole elements as it holds.
    pub fn fill(&self, rank: usize, first: usize, out: &mut [u8]) {
        let seed = data::operand_seed(self.seed, rank as u64);
        let values = (first..).map(|i| (i, data::normal(seed, i as u64)));
        // The two most common by a few integer operations, for gigabytes; a chunk may begin anywhere.
        match self.dtype {
            _ if !self.plain_input() => self.fill_slowly(rank, values, out),
            Dtype::F32 => out.chunks_exact_mut(4).zip(values).for_each(|(z, (_, x))| z.copy_from_slice(&x.to_le_bytes())),
            Dtype::Bf16 => {
                out.chunks_exact_mut(2).zip(values).for_each(|(z, (_, x))| z.copy_from_slice(&bf16_bits(x).to_le_bytes()));
            }
            _ => self.fill_slowly(rank, values, out),
        }
    }

    fn fill_slowly(&self, rank: usize, values: impl Iterator<Item = (usize, f32)>, out: &mut [u8]) {
        let elements = out.chunks_exact_mut(self.size()).zip(values);
        elements.for_each(|(z, (i, x))| self.dtype.write(self.value(rank, i, x), z));
    }
}

/// A part of what a rank receives: elements from `at` on are those of rank `from` from `start` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it begins, in what is received.
    pub at: usize,
    /// Whose it is.
    pub from: usize,
    /// Where it begins, in what that rank sends.
    pub start: usize,
    /// Elements.
    pub len: usize,
}

/// What a check of every element found.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Checked {
    /// Elements that were looked at.
    pub checked: u64,
    /// Those beyond the tolerance.
    pub wrong: u64,
    /// The largest error; NaN where there was one.
    pub error: f64,
}

impl Checked {
    /// Adds what another rank found.
    pub fn merge(&mut self, other: Self) {
        self.checked += other.checked;
        self.wrong += other.wrong;
        // f64::max would drop a NaN.
        if other.error > self.error || other.error.is_nan() {
            self.error = other.error;
        }
    }
}

/// How a reduction rounds, which is what bounds its error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// To the dtype wherever two values were combined: what passes from rank to rank is in the dtype.
    EachStep,
    /// Combined in f32 (f64 for f64), rounded to the dtype once at the end.
    Once,
}

/// Communication between ranks.
pub trait Collectives {
    /// `nccl`, `rccl`, `mpi`, `shared-memory`.
    fn provider(&self) -> &'static str;

    /// Where it came from.
    fn library(&self) -> Option<Library> {
        None
    }

    /// Ranks that can take part here, without any launcher.
    fn max_ranks(&self) -> usize;

    /// The encoding of `dtype` here (FNUZ for FP8 where the chip has that), for a dtype that both encodings share the name of.
    fn encoding(&self, dtype: Dtype) -> Dtype {
        dtype
    }

    /// Starts the ranks and readies the buffers.
    ///
    /// # Errors
    /// `Unsupported` for an op or dtype it lacks; an error that names the rank that did not come up.
    fn communicator(&self, problem: &CollectiveProblem) -> Result<Box<dyn Communicator>>;

    /// What one process makes and each process of a job is given, so that their ranks find each other in [`Collectives::join`].
    ///
    /// # Errors
    /// `Unsupported` where ranks are never in processes of others.
    fn token(&self) -> Result<Vec<u8>> {
        Err(DeviceError::unsupported(format!("{} has no ranks in other processes", self.provider())))
    }

    /// Rank `rank` of `problem` on this device, the others being in other processes; returns when all have come. A run is timed
    /// by this rank alone, and only its own output can be had.
    ///
    /// # Errors
    /// As [`Collectives::communicator`].
    fn join(&self, _problem: &CollectiveProblem, _rank: usize, _token: &[u8]) -> Result<Box<dyn Communicator>> {
        Err(DeviceError::unsupported(format!("{} has no ranks in other processes", self.provider())))
    }

    /// Where each rank is; empty where all are here.
    fn places(&self) -> Vec<RankPlace> {
        Vec::new()
    }

    /// What the library has written so far of how it connects the ranks: of this process, or of each rank where they are processes
    /// of a job. Empty where nothing is read.
    fn said(&self) -> Vec<Said> {
        Vec::new()
    }

    /// Ranks in pairs exchange messages of `bytes`, all pairs at once, `times` times: `partners` says with whom, by rank. Gives
    /// what each rank that has a partner saw.
    ///
    /// # Errors
    /// `Unsupported` where ranks talk only all together; names the ranks that did not arrive.
    fn exchange(&self, _partners: &[Option<usize>], _bytes: Bytes, _times: u64) -> Result<Vec<Option<Exchange>>> {
        Err(DeviceError::unsupported(format!("the {} engine has no exchange between two ranks alone", self.provider())))
    }

    /// The collective whose buffers messages of `bytes` between two of `ranks` lie in, for [`Communicator::pair`].
    fn messages(&self, ranks: usize, bytes: Bytes) -> CollectiveProblem {
        CollectiveProblem::new(CollectiveOp::SendRecv, ranks, bytes, Dtype::I8)
    }
}

/// Where a rank is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankPlace {
    /// Its host.
    pub host: String,
    /// Its number on its host, where a launcher gave it one: the rail, where each has a network card of its own.
    pub local: Option<usize>,
}

/// What a rank saw of an exchange with another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exchange {
    /// Time of one message from here to the other.
    pub seconds: Seconds,
    /// Bytes that arrived wrong.
    pub wrong: u64,
}

/// Ranks that are up and hold their buffers.
pub trait Communicator {
    /// Poisons every rank's output, and gives every rank its input anew.
    ///
    /// # Errors
    /// Names the rank that failed.
    fn poison(&mut self) -> Result<()>;

    /// Runs the collective `n` times; the time is the slowest rank's from a common start. Where an execution consumes its input
    /// ([`CollectiveProblem::consumes`]), each is given it anew, outside of the time.
    ///
    /// # Errors
    /// Names the ranks that arrived and those that did not.
    fn run(&mut self, n: usize) -> Result<Timing>;

    /// Rank `rank`'s output as raw bytes: at least the elements that it receives, from the first.
    ///
    /// # Errors
    /// Names the rank that failed.
    fn output(&mut self, rank: usize) -> Result<Vec<u8>>;

    /// Has each rank's device compare every element that it received with what it must be, which it computes anew; what is further
    /// off than `tolerance` is wrong: |got − want|, relative to Σ|x| for sums and averages, to |want| for products, and else to 1.
    /// None where that is left to the caller, who has [`Communicator::output`].
    ///
    /// # Errors
    /// Names the rank that failed.
    fn check(&mut self, _tolerance: f64) -> Result<Option<Checked>> {
        Ok(None)
    }

    /// The ranks of this process that have a partner exchange with it what they hold, `times` times, one way and then the other; of
    /// a communicator for [`Collectives::messages`]. Gives what each of them saw, by rank.
    ///
    /// # Errors
    /// `Unsupported` where ranks talk only all together; names the ranks that did not arrive.
    fn pair(&mut self, _partners: &[Option<usize>], _times: u64) -> Result<Vec<Option<Exchange>>> {
        Err(DeviceError::unsupported("these ranks have no exchange between two alone"))
    }

    /// The ranks as those that can have work of their own beside the collective, where they are in processes of others.
    fn beside(&mut self) -> Option<&mut dyn RanksBeside> {
        None
    }

    /// Has the ranks of this process meet all others once, each after it went over a buffer of its own: how long each of them waited
    /// for the last to come. Overwrites what was received.
    ///
    /// # Errors
    /// `Unsupported` where ranks meet in no other way than by the collective; names the ranks that did not arrive.
    fn meet(&mut self) -> Result<Vec<Seconds>> {
        Err(DeviceError::unsupported("these ranks meet by the collective alone"))
    }

    /// How its reductions round.
    fn rounding(&self) -> Rounding {
        Rounding::EachStep
    }

    /// Forgets the times of the executions so far: those that count begin.
    fn forget(&mut self) {}

    /// Each rank's time of an execution, mean over the runs since then. Empty where only the slowest is known.
    fn times(&self) -> Vec<Seconds> {
        Vec::new()
    }

    /// Each rank's own work in an execution, without its waiting for the others, as far as it was looked at: the slow rank works
    /// longest. Empty where that is not known.
    fn working(&self) -> Vec<Seconds> {
        Vec::new()
    }

    /// How much later than the first each rank comes to an execution after a common start, the median of those that were looked at,
    /// outside of every timed run. Empty where that is not known.
    fn lateness(&self) -> Vec<Seconds> {
        Vec::new()
    }

    /// Algorithm, protocol, process ids: goes into the record.
    fn config(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }
}

#[cfg(test)]
/// What rank `rank` must receive: for each element the terms that it is made of. For the tests of every engine.
pub(crate) fn expected(p: &CollectiveProblem, rank: usize) -> Vec<Vec<f64>> {
    let (n, count) = (p.ranks, p.count());
    let all = |i: usize| (0..n).map(|r| p.input(r, i)).collect();
    let of = |r: usize| move |i: usize| vec![p.input(r, i)];
    if p.receives(rank) == 0 {
        return vec![];
    }
    match p.op {
        CollectiveOp::AllReduce | CollectiveOp::Reduce => (0..count).map(all).collect(),
        CollectiveOp::ReduceScatter => p.part(rank).map(all).collect(),
        CollectiveOp::AllGather | CollectiveOp::Gather => (0..n).flat_map(|r| (0..p.part(r).len()).map(of(r))).collect(),
        CollectiveOp::Broadcast => (0..count).map(of(p.root)).collect(),
        CollectiveOp::Scatter => p.part(rank).map(of(p.root)).collect(),
        CollectiveOp::AllToAll => {
            let share = count / n;
            (0..n).flat_map(|r| (share * rank..share * (rank + 1)).map(of(r))).collect()
        }
        CollectiveOp::AllToAllV => (0..n).flat_map(|r| p.uneven(r, rank).map(of(r))).collect(),
        CollectiveOp::SendRecv => (0..count).map(of((rank + n - 1) % n)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uneven_parts_fill_both_buffers_and_agree_from_either_side() {
        for ranks in 1..=9 {
            let p = CollectiveProblem::new(CollectiveOp::AllToAllV, ranks, Bytes(4 * 1000), Dtype::F32);
            for rank in 0..ranks {
                let mut at = 0;
                for peer in 0..ranks {
                    let range = p.uneven(rank, peer);
                    assert_eq!((range.start, range.len()), (at, p.uneven(peer, rank).len()), "{rank} to {peer} of {ranks}");
                    at = range.end;
                }
                assert_eq!(at, 1000);
            }
        }
    }

    #[test]
    fn pieces_are_what_is_expected() {
        for op in CollectiveOp::ALL.into_iter().filter(|op| !op.reduces()) {
            for ranks in 1..=5 {
                let p = CollectiveProblem { root: ranks - 1, ..CollectiveProblem::new(op, ranks, Bytes(4 * 60), Dtype::F32) };
                for rank in 0..ranks {
                    let pieces = p.pieces(rank);
                    let made = pieces.iter().flat_map(|piece| (0..piece.len).map(|i| vec![p.input(piece.from, piece.start + i)]));
                    assert!(made.eq(expected(&p, rank)), "{op:?} rank {rank} of {ranks}");
                    let ends = pieces.iter().scan(0, |end, piece| {
                        let fits = piece.at == *end;
                        *end += piece.len;
                        Some(fits)
                    });
                    assert!(ends.into_iter().all(|fits| fits), "{op:?}");
                }
            }
        }
    }

    #[test]
    fn no_sum_of_integers_leaves_its_type() {
        for (dtype, most) in [(Dtype::I8, 127.0), (Dtype::I32, f64::from(i32::MAX))] {
            for ranks in [1, 2, 8, 64] {
                let p = CollectiveProblem::new(CollectiveOp::AllReduce, ranks, Bytes(1 << 12), dtype);
                let sums = (0..p.count()).map(|i| (0..ranks).map(|r| p.input(r, i).abs()).sum::<f64>());
                let largest = sums.fold(0.0, f64::max);
                assert!(largest <= most && largest > 0.0, "{dtype} r{ranks}: {largest}");
            }
        }
    }

    #[test]
    fn a_fill_is_what_input_says_for_every_dtype_and_start() {
        for dtype in Dtype::ALL.into_iter().filter(|d| d.element_bytes().is_some()) {
            for redop in [Redop::Sum, Redop::Prod] {
                let p = CollectiveProblem { redop, ..CollectiveProblem::new(CollectiveOp::AllReduce, 3, Bytes(800), dtype) };
                let mut out = vec![0; 50 * p.size()];
                p.fill(2, 7, &mut out);
                for (i, bytes) in out.chunks_exact(p.size()).enumerate() {
                    assert_eq!(dtype.read(bytes), p.input(2, i + 7), "{dtype} {i}");
                }
            }
        }
    }
}
