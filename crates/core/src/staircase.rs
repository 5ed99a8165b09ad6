//! The staircase: bandwidth or latency against working set is flat wherever one cache serves it, and steps where the next takes
//! over. This finds the flat parts, in numbers alone, and names them by the caches that the device has.
//!
//! A shared machine is noisy: a neighbour makes a point, or several, slower than it should be. So levels are medians, a point
//! far off its level costs no more than one moderately off, and a split must earn its keep.

use crate::Bytes;

/// One point: a working set and GB/s or ns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Bytes that are gone over again and again.
    pub set: Bytes,
    /// GB/s or ns; positive.
    pub value: f64,
}

/// Which way a staircase goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    /// It falls with the working set.
    Bandwidth,
    /// It rises.
    Latency,
}

/// A level of the hierarchy and how large a working set fits in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// `L1`, `L2`, `Infinity Cache`.
    pub name: String,
    /// The largest set that fits.
    pub bytes: Bytes,
}

/// A flat part.
#[derive(Clone, Debug, PartialEq)]
pub struct Plateau {
    /// The level that serves it; `L2 near` and `L2 far` where one has two.
    pub name: String,
    /// The smallest and the largest working set on it.
    pub from: Bytes,
    /// See `from`.
    pub to: Bytes,
    /// Its level, the median of its points.
    pub value: f64,
    /// How many points lie on it.
    pub points: usize,
}

/// Farthest that a point counts as off, in log units: an outlier costs this and no more.
const FARTHEST: f64 = 0.3;
/// What a further segment costs: two of them must explain more than one outlier, and less than two points of a real step.
const SPLIT: f64 = 0.22;
/// Neighbours closer than this ratio are one plateau that noise cut in two.
const SAME: f64 = 1.18;
/// The same where the one begins at the end of a level: a core's second cache and the third may be as near to each other.
const SAME_AT_AN_END: f64 = 1.08;
/// Two flat parts of one cache that differ by this are its near and its far half.
const NEAR_AND_FAR: f64 = 1.3;
/// A smaller L2 has no halves: it is a core's own.
const SPLIT_AT_LEAST: Bytes = Bytes::mib(8);
/// A first cache of which nothing is known is no larger than this.
const FIRST_AT_MOST: Bytes = Bytes::kib(512);
/// Times the last cache: of smaller sets it still serves so much that their bandwidth is no memory's.
const PAST_THE_LAST: u64 = 4;

/// The plateaus of a staircase, the smallest working set first, each named by the level of `levels` (the smallest first) that its
/// sets fit in, and `memory` beyond the last. A level that no flat part belongs to is left out.
#[must_use]
pub fn plateaus(points: &[Point], figure: Figure, levels: &[Capacity], memory: &str) -> Vec<Plateau> {
    let mut points: Vec<Point> = points.iter().copied().filter(|p| p.value.is_finite() && p.value > 0.0).collect();
    points.sort_by_key(|p| p.set);
    // Slower is more of it, whichever the figure.
    let sign = if figure == Figure::Latency { 1.0 } else { -1.0 };
    let cost: Vec<f64> = points.iter().map(|p| sign * p.value.ln()).collect();
    let value = |cost: f64| (sign * cost).exp();
    // No set is served faster than a smaller one: a point slower than a later one was disturbed, and its shape is not kept.
    let mut clean = cost.clone();
    (0..clean.len().saturating_sub(1)).rev().for_each(|i| clean[i] = clean[i].min(clean[i + 1]));
    // Where a level ends there may be a step, however low.
    let ends = |cut: usize| {
        let set = points[cut].set.0;
        levels.iter().any(|level| (level.bytes.0 / 2..=level.bytes.0.saturating_mul(2)).contains(&set))
    };
    let flat = merge(&clean, segments(&clean), &ends);
    let found = flat.into_iter().map(|(first, last)| Plateau {
        name: String::new(),
        from: points[first].set,
        to: points[last - 1].set,
        value: value(level(&cost[first..last])),
        points: last - first,
    });
    named(found.collect(), figure, levels, memory)
}

/// The median.
fn level(cost: &[f64]) -> f64 {
    let mut sorted = cost.to_vec();
    sorted.sort_by(f64::total_cmp);
    crate::stats::median_of_sorted(&sorted)
}

/// Cuts the points into segments so that what they are off their levels and the number of segments cost the least together.
fn segments(cost: &[f64]) -> Vec<(usize, usize)> {
    let n = cost.len();
    // best[i]: the least cost of the first i points, and where the last segment of them begins.
    let mut best = vec![(0.0, 0); n + 1];
    for end in 1..=n {
        let from = |start: usize| {
            let part = &cost[start..end];
            let middle = level(part);
            let off: f64 = part.iter().map(|c| (c - middle).abs().min(FARTHEST)).sum();
            (best[start].0 + off + SPLIT, start)
        };
        best[end] = (0..end).map(from).min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or_default();
    }
    let mut cuts = Vec::new();
    let mut end = n;
    while end > 0 {
        cuts.push((best[end].1, end));
        end = best[end].1;
    }
    cuts.reverse();
    cuts
}

/// Drops what lies between two levels or is alone in being slow, and joins what is the same level on both sides.
fn merge(cost: &[f64], cuts: Vec<(usize, usize)>, ends: &dyn Fn(usize) -> bool) -> Vec<(usize, usize)> {
    let many = |&(first, last): &(usize, usize)| last - first > 1;
    let level_of = |&(first, last): &(usize, usize)| level(&cost[first..last]);
    // In a coarse staircase each point is a level of its own; in a dense one a point alone is a ramp or an outlier.
    let dense = cuts.iter().filter(|cut| many(cut)).count() > 1;
    let alone = |i: usize| {
        let (before, after) = (i.checked_sub(1).and_then(|k| cuts.get(k)), cuts.get(i + 1));
        before.zip(after).is_some_and(|(before, after)| dense && (many(before) || many(after)))
    };
    let mut joined: Vec<(usize, usize)> = Vec::new();
    for (i, cut) in cuts.iter().enumerate() {
        if !many(cut) && alone(i) {
            continue;
        }
        match joined.last_mut() {
            // Levels only go one way: what seems to go back is noise on one of them.
            Some(last) if level_of(cut) - level_of(last) < if ends(cut.0) { SAME_AT_AN_END } else { SAME }.ln() => last.1 = cut.1,
            _ => joined.push(*cut),
        }
    }
    joined
}

/// Names plateaus, and keeps the flattest, that is the one of the most points, where a level has several that are no halves.
fn named(found: Vec<Plateau>, figure: Figure, levels: &[Capacity], memory: &str) -> Vec<Plateau> {
    let mut levels = levels.to_vec();
    if let (Some(first), Some(second)) = (found.first(), found.get(1))
        && levels.first().is_some_and(|l| l.name != "L1" && l.bytes.0 > 8 * FIRST_AT_MOST.0 && second.from < l.bytes)
        && first.to <= FIRST_AT_MOST
    {
        levels.insert(0, Capacity { name: "L1".into(), bytes: FIRST_AT_MOST });
    }
    let mut all: Vec<Plateau> = Vec::new();
    let bounds = levels.iter().map(|l| (l.name.as_str(), l.bytes.0)).chain([(memory, u64::MAX)]);
    let mut below = 1.0;
    for (name, bytes) in bounds {
        let served = figure == Figure::Bandwidth && bytes == u64::MAX;
        let inside = |p: &&Plateau| home(p, &levels) == bytes && !(served && (p.to.0 as f64) < PAST_THE_LAST as f64 * below);
        // More points first; of equals the one farther from where the next cache, or the one before, takes over.
        let margin =
            |p: &Plateau| (p.from.0 as f64 / f64::max(below, 1.0)).log2().min((bytes as f64 / p.to.0.max(1) as f64).log2());
        let worth = |p: &Plateau| p.points as f64 + (margin(p) / 64.0).clamp(0.0, 0.9);
        let mut own: Vec<Plateau> = found.iter().filter(inside).cloned().collect();
        own.sort_by_key(|p| std::cmp::Reverse(p.points));
        own.truncate(2);
        own.sort_by_key(|p| p.from);
        let halves = figure == Figure::Latency
            && name == "L2"
            && own.len() == 2
            && own[1].value / own[0].value > NEAR_AND_FAR
            && own[1].points > 1
            && bytes > SPLIT_AT_LEAST.0;
        if halves {
            own[0].name = format!("{name} near");
            own[1].name = format!("{name} far");
            all.append(&mut own);
        } else if let Some(mut most) = own.into_iter().max_by(|a, b| worth(a).total_cmp(&worth(b))) {
            most.name = name.to_owned();
            all.push(most);
        }
        below = bytes as f64;
    }
    all
}

/// The capacity of the level that most of a plateau lies in, by octaves; the largest number for memory.
fn home(plateau: &Plateau, levels: &[Capacity]) -> u64 {
    let (from, to) = (plateau.from.0.max(1), plateau.to.0.max(1));
    let (mut below, mut most, mut home) = (0, f64::NEG_INFINITY, u64::MAX);
    for bytes in levels.iter().map(|l| l.bytes.0).chain([u64::MAX]) {
        if from <= bytes && to > below {
            let inside = (to.min(bytes) as f64 / from.max(below) as f64).log2();
            if inside > most + 1e-9 {
                (most, home) = (inside, bytes);
            }
        }
        below = bytes;
    }
    home
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;

    fn points(list: &[(u64, f64)]) -> Vec<Point> {
        list.iter().map(|(kib, value)| Point { set: Bytes::kib(*kib), value: *value }).collect()
    }

    fn capacities(list: &[(&str, u64)]) -> Vec<Capacity> {
        list.iter().map(|(name, bytes)| Capacity { name: (*name).into(), bytes: Bytes(*bytes) }).collect()
    }

    fn names(found: &[Plateau]) -> Vec<&str> {
        found.iter().map(|p| p.name.as_str()).collect()
    }

    /// results/2026-11-24-h100/memory-kernels.log, in ns: L1 of 256 KiB, an L2 of two halves of 25 MiB, HBM3.
    const H100: &[(u64, f64)] = &[
        (16, 16.0),
        (32, 16.0),
        (64, 16.0),
        (128, 16.0),
        (192, 16.0),
        (224, 34.7),
        (256, 81.8),
        (512, 142.2),
        (1024, 142.7),
        (2048, 142.8),
        (4096, 142.8),
        (8192, 142.8),
        (16384, 142.8),
        (24576, 148.5),
        (32768, 265.1),
        (49152, 273.1),
        (65536, 347.7),
        (131072, 346.8),
        (262144, 347.4),
        (524288, 349.5),
        (1048576, 350.9),
        (2097152, 351.2),
    ];

    #[test]
    fn an_h100s_latency_has_two_halves_of_its_l2() {
        // Its L1 known, and as old records have it, unknown.
        for levels in [&[("L1", 256 * KIB), ("L2", 50 * MIB)][..], &[("L2", 50 * MIB)]] {
            let found = plateaus(&points(H100), Figure::Latency, &capacities(levels), "HBM3");
            assert_eq!(names(&found), ["L1", "L2 near", "L2 far", "HBM3"], "{found:?}");
            let (near, far) = (&found[1], &found[2]);
            assert_eq!((near.from, near.to), (Bytes::kib(512), Bytes::kib(24576)));
            assert!((near.value - 142.8).abs() < 1e-9);
            assert!((265.0..=274.0).contains(&far.value) && far.points == 2);
            assert!((found[0].value - 16.0).abs() < 0.1 && (found[3].value - 348.5).abs() < 2.0);
        }
    }

    /// results/2026-11-24-h100 and -amd-epyc-2-cores: the quick profile has a point a level.
    #[test]
    fn a_coarse_staircase_names_each_point() {
        let gpu = points(&[(16, 34.7), (256, 101.1), (4096, 161.9), (65536, 365.9), (524288, 368.5)]);
        let found = plateaus(&gpu, Figure::Latency, &capacities(&[("L1", 256 * KIB), ("L2", 50 * MIB)]), "HBM3");
        assert_eq!(names(&found), ["L1", "L2", "HBM3"], "{found:?}");
        assert!((found[0].value - 34.7).abs() < 1e-9 && found[2].points == 2);
        // Of two single points the larger set is farther from the cache before; where that is unknown, 256 KiB may still hit it.
        let found = plateaus(&gpu, Figure::Latency, &capacities(&[("L2", 50 * MIB)]), "HBM3");
        assert!((found[1].value - 161.9).abs() < 1e-9, "{found:?}");
        let epyc = capacities(&[("L1", 48 * KIB), ("L2", MIB), ("L3", 32 * MIB)]);
        let latency = points(&[(16, 0.93), (256, 3.24), (4096, 11.63), (65536, 146.4), (262144, 155.54)]);
        let found = plateaus(&latency, Figure::Latency, &epyc, "DRAM");
        assert_eq!(names(&found), ["L1", "L2", "L3", "DRAM"], "{found:?}");
        let both = capacities(&[("L1", 96 * KIB), ("L2", 2 * MIB), ("L3", 32 * MIB)]);
        let read = points(&[(32, 925.7), (512, 405.5), (8192, 231.0), (131072, 76.5)]);
        assert_eq!(names(&plateaus(&read, Figure::Bandwidth, &both, "DRAM")), ["L1", "L2", "L3", "DRAM"]);
        // An H100's: at 128 MiB its L2 still serves a part, and all of it together is faster than the memory can be.
        let read = points(&[(16, 26300.0), (256, 24567.0), (4096, 8384.0), (65536, 5922.0), (131072, 4119.0)]);
        let h100 = capacities(&[("L1", 256 * KIB), ("L2", 50 * MIB)]);
        let found = plateaus(&read, Figure::Bandwidth, &h100, "HBM3");
        assert_eq!(names(&found), ["L1", "L2"], "{found:?}");
    }

    #[test]
    fn nothing_and_one_point_are_no_panic() {
        assert!(plateaus(&[], Figure::Latency, &[], "memory").is_empty());
        let one = plateaus(&points(&[(16, 1.0), (32, f64::NAN), (64, -1.0)]), Figure::Latency, &[], "memory");
        assert_eq!((names(&one), one[0].points), (vec!["memory"], 1));
    }

    /// A staircase of a model: three caches with levels well apart, a ramp of one point where the next takes over.
    fn model(levels: [f64; 4], capacities: [u64; 3]) -> Vec<(u64, f64)> {
        let value = |kib: u64| {
            let at = capacities.iter().position(|c| kib <= *c).unwrap_or(3);
            let ramp = at < 3 && kib == capacities[at];
            if ramp { (levels[at] * levels[at + 1]).sqrt() } else { levels[at] }
        };
        (4..19).map(|bits| 1 << bits).map(|kib| (kib, value(kib))).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        /// The noise of a shared machine: every point a little slower than it should be, and now and then one a lot.
        #[test]
        fn a_noisy_staircase_keeps_its_levels(
            noise in prop::collection::vec(0.0f64..0.08, 15),
            hit in prop::sample::select(vec![usize::MAX, 1, 5, 6, 9, 10]),
            rise in prop::collection::vec(2.5f64..6.0, 3),
            falling in prop::bool::ANY,
        ) {
            let levels = [1.0, rise[0], rise[0] * rise[1], rise[0] * rise[1] * rise[2]];
            let clean = model(levels, [256, 4096, 65536]);
            let slow = |i: usize, v: f64| v * (1.0 + noise[i]) * if i == hit { 1.6 } else { 1.0 };
            let noisy: Vec<(u64, f64)> = clean.iter().enumerate().map(|(i, (kib, v))| {
                let ns = slow(i, *v);
                (*kib, if falling { 1000.0 / ns } else { ns })
            }).collect();
            let figure = if falling { Figure::Bandwidth } else { Figure::Latency };
            let caches = capacities(&[("L1", 256 * KIB), ("L2", 4 * MIB), ("L3", 64 * MIB)]);
            let found = plateaus(&points(&noisy), figure, &caches, "DRAM");
            prop_assert_eq!(names(&found), ["L1", "L2", "L3", "DRAM"], "{:?} of {:?}", found, noisy);
            for (plateau, level) in found.iter().zip(levels) {
                let ns = if falling { 1000.0 / plateau.value } else { plateau.value };
                prop_assert!((0.99..1.1).contains(&(ns / level)), "{:?} is not {}", plateau, level);
            }
        }

        #[test]
        fn no_values_panic(values in prop::collection::vec((1u64..1 << 40, -1.0f64..1e6), 0..30)) {
            let points: Vec<Point> = values.iter().map(|(set, value)| Point { set: Bytes(*set), value: *value }).collect();
            for figure in [Figure::Bandwidth, Figure::Latency] {
                let found = plateaus(&points, figure, &capacities(&[("L1", 1 << 15), ("L2", 1 << 21)]), "memory");
                prop_assert!(found.windows(2).all(|w| w[0].from <= w[1].from));
            }
        }
    }
}
