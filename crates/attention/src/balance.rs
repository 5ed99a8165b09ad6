//! Into how many splits a decode's keys go: enough that every multiprocessor has work and no long sequence holds up all, few enough
//! that starting blocks and joining what they made does not cost more than it gains. A model of the time proposes a few, over the
//! sequences' own lengths, and a trial on the device decides among them.

use crate::shape::Shape;
use ridgepoint_device::{Device, Kernel};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Registers of a multiprocessor, of every NVIDIA chip that these kernels run on, and how a thread is given them.
const REGISTERS: u64 = 65_536;
const REGISTER_UNIT: u64 = 8;
/// Shared memory that the system keeps of each block; a multiprocessor has once that more than a block may have.
const RESERVED: u64 = 1024;
/// Keys that a kernel's span is rounded up to.
const SPAN: u64 = 64;
/// Most blocks that are followed one by one.
const MOST_FOLLOWED: u64 = 1 << 17;
/// Splits that are modelled in any case, and blocks a place beyond which more splits balance nothing.
const FEWEST: u64 = 8;
const DEEPEST: u64 = 4;
/// Most splits that are proposed.
const PROPOSED: usize = 5;

/// What a kernel costs, in the time that a block takes for one key.
pub(crate) struct Costs {
    /// Blocks of a sequence in one split.
    pub(crate) blocks: u64,
    /// To start a block and to end it.
    pub(crate) block: u64,
    /// To write a block's partial results and read them again.
    pub(crate) partial: u64,
    /// Fewest keys of a split.
    pub(crate) least: u64,
}

/// Blocks of `threads` with `shared` bytes that a device runs at once.
pub(crate) fn places(device: &dyn Device, kernel: &Kernel, threads: u64, shared: u64) -> u64 {
    let registers = kernel.resources.map_or(0, |r| u64::from(r.registers)).next_multiple_of(REGISTER_UNIT);
    let by_registers = REGISTERS.checked_div(threads * registers);
    let by_shared = device.shared_limit().map(|limit| (limit + RESERVED) / (shared + RESERVED));
    let each = by_registers.into_iter().chain(by_shared).min().unwrap_or(1).max(1);
    u64::from(device.info().units).max(1) * each
}

/// Numbers of splits that are worth a trial: what takes the least time by the model first, and no two within a quarter of each other.
pub(crate) fn splits(shape: Shape, costs: &Costs, places: u64) -> Vec<u64> {
    let keys: Vec<u64> = (0..shape.b).map(|b| shape.seen(shape.length(b))).collect();
    let longest = keys.iter().copied().max().unwrap_or(0);
    let blocks = costs.blocks * shape.b;
    let most = (longest / costs.least).clamp(1, FEWEST.max(DEEPEST * places / blocks.max(1)));
    let mut counts: Vec<u64> = (1..=most).collect();
    counts.sort_by_cached_key(|n| time(&keys, costs, places, *n));
    let mut proposed: Vec<u64> = Vec::new();
    for n in counts {
        if proposed.len() < PROPOSED && proposed.iter().all(|other| 4 * n.abs_diff(*other) >= *other) {
            proposed.push(n);
        }
    }
    proposed
}

/// When the last block ends, and the results are joined.
fn time(keys: &[u64], costs: &Costs, places: u64, splits: u64) -> u64 {
    let joined = if splits > 1 { (costs.partial, costs.block) } else { (0, 0) };
    let one = |keys: u64| keys + costs.block + joined.0;
    let span = |keys: u64| keys.div_ceil(splits).next_multiple_of(SPAN);
    let (first, blocks) = (keys.first().copied().unwrap_or(0), costs.blocks * splits);
    let all = blocks * keys.len() as u64;
    let ends = if keys.iter().all(|k| *k == first) {
        all.div_ceil(places) * one(span(first).min(first))
    } else if all > MOST_FOLLOWED {
        let work: u64 = keys.iter().map(|k| costs.blocks * (k + splits * one(0))).sum();
        work.div_ceil(places) + keys.iter().map(|k| one(span(*k))).max().unwrap_or(0)
    } else {
        // Each block goes where a place is free first, in the order of the grid.
        let mut free: BinaryHeap<Reverse<u64>> = (0..places.min(all)).map(|_| Reverse(0)).collect();
        let mut last = 0;
        for (k, split) in keys.iter().flat_map(|k| (0..splits).map(move |split| (*k, split))) {
            let mine = one(k.saturating_sub(split * span(k)).min(span(k)));
            for _ in 0..costs.blocks {
                let Reverse(begins) = free.pop().unwrap_or(Reverse(0));
                last = last.max(begins + mine);
                free.push(Reverse(begins + mine));
            }
        }
        last
    };
    ends + joined.1
}

#[cfg(test)]
mod tests {
    use super::*;

    const COSTS: Costs = Costs { blocks: 1, block: 64, partial: 32, least: 256 };

    fn best(id: &str, blocks: u64, places: u64) -> u64 {
        let shape = Shape::parse(&format!("attention/decode/{id}")).unwrap();
        splits(shape, &Costs { blocks, ..COSTS }, places)[0]
    }

    #[test]
    fn splits_fill_the_device_and_none_has_few_keys() {
        // 1024 blocks fill 264 places nearly four times over.
        assert_eq!(best("b128hq64hkv8sq1sk8192d128/bf16", 8, 264), 1);
        // Eight blocks are far too few, and a window leaves nothing to split.
        assert_eq!(best("b1hq64hkv8sq1sk131072d128/bf16", 8, 264), 33);
        assert_eq!(best("b1hq64hkv8sq1sk131072d128/bf16/causal/w128", 8, 264), 1);
        assert_eq!(best("b1hq64hkv8sq1sk600d128/bf16", 8, 264), 2);
        assert_eq!(best("b1hq64hkv8sq1sk7d128/bf16", 8, 264), 1);
    }

    #[test]
    fn what_is_proposed_differs_enough_to_be_worth_a_trial() {
        let of = |id: &str| splits(Shape::parse(&format!("attention/decode/{id}")).unwrap(), &COSTS, 132);
        let many = of("b7hq8hkv8sq1sk65536d128/bf16");
        assert_eq!(many.len(), PROPOSED);
        assert!(many.iter().enumerate().all(|(i, n)| many[..i].iter().all(|m| 4 * n.abs_diff(*m) >= *m)), "{many:?}");
        assert_eq!(of("b1hq8hkv8sq1sk100d128/bf16"), [1]);
    }

    #[test]
    fn a_third_of_the_places_is_not_left_empty() {
        // 100 blocks on 132 places: five splits are four waves of a fifth.
        let n = best("b100hq8hkv8sq1sk8192d128/bf16", 1, 132);
        assert!(n > 1 && (100 * n).div_ceil(132) * 132 < 100 * n + 40, "{n}");
    }

    #[test]
    fn a_long_sequence_among_short_ones_is_split_even_where_blocks_are_plenty() {
        let lengths: Vec<u64> = std::iter::once(100_000).chain([1000; 600]).collect();
        let times: Vec<u64> = (1..=8).map(|n| time(&lengths, &COSTS, 132, n)).collect();
        assert!(times[7] < times[0] / 4, "{times:?}");
        // Of equal lengths the same blocks need no split.
        let equal = [1000; 601];
        assert!(time(&equal, &COSTS, 132, 1) < time(&equal, &COSTS, 132, 2));
    }

    #[test]
    fn following_blocks_and_counting_waves_agree() {
        // One key less makes lengths unequal, and nothing else.
        for (n, splits) in [(7, 1), (40, 3), (133, 2)] {
            let mut lengths = vec![4096; n];
            let waves = time(&lengths, &COSTS, 20, splits);
            lengths[0] -= 1;
            assert!(time(&lengths, &COSTS, 20, splits).abs_diff(waves) <= 64, "{n} {splits}");
        }
    }
}
