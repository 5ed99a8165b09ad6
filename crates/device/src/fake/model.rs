//! How long the fake device takes: a launch's overhead and its bytes over the bandwidth of the level that they fit into. Simple
//! enough to be worked out by hand in a test, shaped enough to draw a staircase.

use crate::{Arg, Kernel};

/// One launch in a stream, one in a graph, and one behind a held queue, in seconds.
pub(super) const LAUNCH: f64 = 2.5e-6;
/// See [`LAUNCH`].
pub(super) const LAUNCH_IN_GRAPH: f64 = 1.25e-6;
/// Bytes per second of the last level.
pub(super) const MEMORY: f64 = 50e9;
/// Bytes per second of a link to the host or another device, one way.
pub(super) const LINK: f64 = 10e9;
/// Size of the caches.
pub(super) const CACHES: [(&str, u64); 2] = [("L1", 64 << 10), ("L2", 4 << 20)];

/// Bytes per second and seconds of a dependent load for a working set of so many bytes.
fn level(working_set: u64) -> (f64, f64) {
    match working_set {
        n if n <= CACHES[0].1 => (400e9, 2e-9),
        n if n <= CACHES[1].1 => (200e9, 10e-9),
        _ => (MEMORY, 100e-9),
    }
}

/// Seconds to move `bytes` that stay within a working set of that size.
pub(super) fn moving(bytes: u64) -> f64 {
    bytes as f64 / level(bytes).0
}

/// Seconds of a kernel, less its launch. Every buffer counts whole; a last u32 says how often the kernel goes over them, as it
/// does for streams, and a chase takes a latency a step.
pub(super) fn kernel(kernel: &Kernel, args: &[Arg<'_>]) -> f64 {
    let buffers = args.iter().filter_map(|a| match a {
        Arg::Buffer(buffer, offset) => Some(buffer.len().saturating_sub(*offset) as u64),
        _ => None,
    });
    let bytes: u64 = buffers.sum();
    match args.last() {
        Some(Arg::U64(steps)) if kernel.entry == "rp_chase" => *steps as f64 * level(bytes).1,
        Some(Arg::U32(passes)) => moving(bytes) * f64::from((*passes).max(1)),
        _ => moving(bytes),
    }
}
