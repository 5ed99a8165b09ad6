//! The collectives themselves, each rank's share of one.
//!
//! A buffer of `count` elements is cut into a part for each rank, `count·r/n..count·(r+1)/n`. All-reduce is a
//! reduce-scatter (each rank sums its part of all send buffers) followed by an all-gather of the sums.

use super::segment::Segment;
use crate::CollectiveOp;
use ridgepoint_core::{Dtype, data};
use std::ops::Range;

/// Fills this rank's send buffer; the memory is first touched here, on the rank's own core.
pub(super) fn fill(segment: &Segment, rank: usize) {
    let p = segment.problem();
    let seed = data::operand_seed(p.seed, rank as u64);
    let count = count(segment);
    // SAFETY: the send buffer is this rank's, and no one reads it before all ranks have started.
    unsafe {
        if p.dtype == Dtype::Bf16 {
            let out = std::slice::from_raw_parts_mut(segment.send(rank).cast::<u16>(), count);
            out.iter_mut().enumerate().for_each(|(i, z)| *z = to_bf16(data::normal(seed, i as u64)));
        } else {
            let out = std::slice::from_raw_parts_mut(segment.send(rank).cast::<f32>(), count);
            out.iter_mut().enumerate().for_each(|(i, z)| *z = data::normal(seed, i as u64));
        }
    }
    poison(segment, rank);
}

/// Overwrites this rank's receive buffer.
pub(super) fn poison(segment: &Segment, rank: usize) {
    // SAFETY: this rank's own buffer, while no collective runs.
    unsafe { std::slice::from_raw_parts_mut(segment.receive(rank), segment.problem().bytes.0 as usize) }.fill(0xff);
}

/// One execution; false if a peer did not come.
pub(super) fn run(segment: &Segment, rank: usize) -> bool {
    let n = segment.problem().ranks;
    let (count, size) = (count(segment), size(segment));
    let part = |r: usize| count * r / n..count * (r + 1) / n;
    match segment.problem().op {
        CollectiveOp::AllReduce => {
            sum(segment, rank, part(rank), part(rank).start);
            if !segment.barrier(super::PATIENCE) {
                return false;
            }
            for peer in (1..n).map(|step| (rank + step) % n) {
                copy(segment.receive(peer), part(peer), segment.receive(rank), part(peer).start, size);
            }
        }
        CollectiveOp::ReduceScatter => sum(segment, rank, part(rank), 0),
        CollectiveOp::AllGather => {
            for peer in (0..n).map(|step| (rank + step) % n) {
                copy(segment.send(peer), part(peer), segment.receive(rank), part(peer).start, size);
            }
        }
        CollectiveOp::Broadcast => copy(segment.send(0), 0..count, segment.receive(rank), 0, size),
        CollectiveOp::AllToAll => {
            // Equal parts, as all-to-all has them; what is left over of the buffer is not sent.
            let share = count / n;
            let mine = share * rank..share * (rank + 1);
            for peer in (0..n).map(|step| (rank + step) % n) {
                copy(segment.send(peer), mine.clone(), segment.receive(rank), share * peer, size);
            }
        }
    }
    // The next execution must not overwrite what a slower peer still reads.
    segment.barrier(super::PATIENCE)
}

fn size(segment: &Segment) -> usize {
    segment.problem().dtype.element_bytes().unwrap_or(4)
}

fn count(segment: &Segment) -> usize {
    segment.problem().bytes.0 as usize / size(segment)
}

/// Elements `range` of `from` to element `at` of `to`.
fn copy(from: *const u8, range: Range<usize>, to: *mut u8, at: usize, size: usize) {
    // SAFETY: callers stay within buffers of count elements (parts of them end at count); send and receive buffers of
    // different ranks do not overlap, and between barriers only this rank writes its receive buffer.
    unsafe { std::ptr::copy_nonoverlapping(from.add(range.start * size), to.add(at * size), range.len() * size) };
}

/// Sums elements `range` of all send buffers, in rank order and f32, into this rank's receive buffer from element `at` on.
fn sum(segment: &Segment, rank: usize, range: Range<usize>, at: usize) {
    let n = segment.problem().ranks;
    // SAFETY: as in `copy`.
    unsafe {
        if segment.problem().dtype == Dtype::Bf16 {
            let out = std::slice::from_raw_parts_mut(segment.receive(rank).cast::<u16>().add(at), range.len());
            for (i, z) in range.zip(out) {
                let total: f32 = (0..n).map(|r| f32::from_bits(u32::from(*segment.send(r).cast::<u16>().add(i)) << 16)).sum();
                *z = to_bf16(total);
            }
            return;
        }
        let out = std::slice::from_raw_parts_mut(segment.receive(rank).cast::<f32>().add(at), range.len());
        let input = |r: usize| std::slice::from_raw_parts(segment.send(r).cast::<f32>().add(range.start), range.len());
        out.iter_mut().zip(input(0).iter().zip(input(1))).for_each(|(z, (a, b))| *z = a + b);
        for r in 2..n {
            out.iter_mut().zip(input(r)).for_each(|(z, a)| *z += a);
        }
    }
}

/// Rounds to nearest even; inputs are finite.
fn to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16
}
