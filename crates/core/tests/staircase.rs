//! The plateau finder on staircases with known answers: recorded on a shared machine under load, whose caches lscpu tells, and made
//! up from published figures of GPUs, which are said to be synthetic.

#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use ridgepoint_core::staircase::{Capacity, Figure, Plateau, Point, plateaus};
use ridgepoint_core::{Bytes, data};
use std::path::Path;

fn names(found: &[Plateau]) -> Vec<&str> {
    found.iter().map(|p| p.name.as_str()).collect()
}

fn capacities(list: &[(&str, u64)]) -> Vec<Capacity> {
    list.iter().map(|(name, kib)| Capacity { name: (*name).into(), bytes: Bytes::kib(*kib) }).collect()
}

/// The points of a recording: by its least disturbed samples, and by its medians.
fn recording(name: &str) -> [Vec<Point>; 2] {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/staircases").join(name);
    let text = std::fs::read_to_string(path).unwrap();
    let rows: Vec<Vec<f64>> = text
        .lines()
        .filter(|l| l.starts_with(|c: char| c.is_ascii_digit()))
        .map(|l| l.split(',').map(|n| n.parse().unwrap()).collect())
        .collect();
    [1, 2].map(|column| rows.iter().map(|r| Point { set: Bytes::kib(r[0] as u64), value: r[column] }).collect())
}

/// Both cores' caches: sets are divided between them.
const BOTH: &[(&str, u64)] = &[("L1", 64), ("L2", 2048), ("L3", 32 << 10)];

#[test]
fn a_bandwidth_recorded_under_load_has_every_cache_where_it_is() {
    for name in ["epyc-read-1.csv", "epyc-read-2.csv", "epyc-read-3.csv"] {
        let [best, median] = recording(name);
        let found = plateaus(&best, Figure::Bandwidth, &capacities(BOTH), "DRAM");
        assert_eq!(names(&found), ["L1", "L2", "L3", "DRAM"], "{name}: {found:?}");
        for (plateau, (low, high)) in found.iter().zip([(290.0, 420.0), (205.0, 240.0), (140.0, 205.0), (3.0, 80.0)]) {
            assert!((low..=high).contains(&plateau.value), "{name}: {plateau:?}");
        }
        // Medians are of what the neighbours left, which is no staircase: nothing is named twice, nor out of order.
        let seen = plateaus(&median, Figure::Bandwidth, &capacities(BOTH), "DRAM");
        let order: Vec<usize> =
            names(&seen).iter().map(|n| ["L1", "L2", "L3", "DRAM"].iter().position(|o| o == n).unwrap()).collect();
        assert!(order.windows(2).all(|w| w[0] < w[1]), "{name}: {seen:?}");
    }
}

#[test]
fn a_latency_recorded_under_load_has_the_caches_that_were_its_own() {
    for name in ["epyc-latency-1.csv", "epyc-latency-2.csv"] {
        let [best, median] = recording(name);
        for points in [&best, &median] {
            let found = plateaus(points, Figure::Latency, &capacities(&[("L1", 32), ("L2", 1024), ("L3", 32 << 10)]), "DRAM");
            assert_eq!(&names(&found)[..2], ["L1", "L2"], "{name}: {found:?}");
            assert!((1.0..1.3).contains(&found[0].value) && (3.7..6.0).contains(&found[1].value), "{name}: {found:?}");
            assert_eq!(found.last().map(|p| p.name.as_str()), Some("DRAM"), "{name}: {found:?}");
        }
    }
}

/// A made-up staircase: each level's figure up to its capacity, half-way between two where one ends, and noise of a few percent.
fn synthetic(levels: &[(u64, f64)], last: u64, noise: f64, seed: u64) -> Vec<Point> {
    let sets = std::iter::successors(Some(16u64), |kib| Some(kib * 2)).take_while(|kib| *kib <= last);
    let value = |kib: u64| {
        let at = levels.iter().position(|(capacity, _)| kib <= *capacity).unwrap();
        let (capacity, here) = levels[at];
        let next = levels.get(at + 1).map_or(here, |l| l.1);
        if kib == capacity { (here * next).sqrt() } else { here }
    };
    let disturbed = |(i, kib): (usize, u64)| {
        let x = f64::from(data::uniform(seed, i as u64)).abs();
        Point { set: Bytes::kib(kib), value: value(kib) * (1.0 + noise * x) }
    };
    sets.enumerate().map(disturbed).collect()
}

/// Synthetic: latencies in cycles as published (A100 33, 206, 550; GH200 32, 205 to 280, 685; MI300X 119, 213, 880), and with them
/// the capacities of the caches. The Infinity Cache's own figure is assumed, half-way.
#[test]
fn gpus_of_published_figures_are_named_level_by_level() {
    const MAX: u64 = u64::MAX;
    for (gpu, levels, memory, expected) in [
        ("A100", &[("L1", 192, 33.0), ("L2", 20 << 10, 206.0), ("", MAX, 550.0)][..], "HBM2e", &["L1", "L2", "HBM2e"][..]),
        (
            "GH200",
            &[("L1", 256, 32.0), ("L2", 25 << 10, 205.0), ("L2", 50 << 10, 280.0), ("", MAX, 685.0)],
            "HBM3",
            &["L1", "L2 near", "L2 far", "HBM3"],
        ),
        (
            "MI300X",
            &[("L1", 32, 119.0), ("L2", 4 << 10, 213.0), ("Infinity Cache", 256 << 10, 433.0), ("", MAX, 880.0)],
            "HBM3",
            &["L1", "L2", "Infinity Cache", "HBM3"],
        ),
    ] {
        let stairs: Vec<(u64, f64)> = levels.iter().map(|(_, kib, cycles)| (*kib, *cycles)).collect();
        let mut caches: Vec<(&str, u64)> = levels.iter().filter(|l| !l.0.is_empty()).map(|l| (l.0, l.1)).collect();
        caches.dedup_by(|after, before| {
            let same = after.0 == before.0;
            before.1 = if same { after.1 } else { before.1 };
            same
        });
        for seed in 0..20 {
            let points = synthetic(&stairs, 4 << 20, 0.06, seed);
            let found = plateaus(&points, Figure::Latency, &capacities(&caches), memory);
            // Two halves of a cache are an octave apart in size: with a point an octave the far one has too few to be told.
            let seen: Vec<&str> = names(&found).iter().map(|n| n.split(' ').next().unwrap()).collect();
            let mut wanted: Vec<&str> = expected.iter().map(|n| n.split(' ').next().unwrap()).collect();
            wanted.dedup();
            let mut once = seen.clone();
            once.dedup();
            assert_eq!(once, wanted, "{gpu}, synthetic, seed {seed}: {found:?}");
        }
    }
}
