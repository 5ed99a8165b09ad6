//! How a stream's kernel is launched on a GPU. A few launches that did well elsewhere are tried, then the neighbours of the best,
//! one dimension after the other, until none is faster; what was found is kept for the next run on the same chip and driver.

use crate::cases::{Op, Stream};
use ridgepoint_core::{Backend, Cache, Seconds};
use ridgepoint_device::{Device, DeviceError, Kernel, Program, Result};
use ridgepoint_harness::{recall, remember, trial};
use std::fmt;

/// What kernels/memory/stream.cu lets the host choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Launch {
    /// Threads of a block (RP_BLOCK).
    pub(crate) block: u32,
    /// Loads in flight a thread (RP_UNROLL).
    pub(crate) unroll: u32,
    /// Floats of a load (RP_WIDTH): 4, which is 16 bytes; 8 on sm_100 and later.
    pub(crate) width: u32,
    /// Blocks a unit for a persistent grid; 0 for a block each tile.
    pub(crate) per_unit: u32,
    /// 0: blocks take tiles in turn; 1: each owns one contiguous run.
    pub(crate) order: u32,
    /// How loads and stores treat the caches (RP_HINT_LOAD, RP_HINT_STORE of kernels/common/rp.h).
    pub(crate) hints: [u32; 2],
}

const fn launch(block: u32, unroll: u32, per_unit: u32, order: u32, hints: [u32; 2]) -> Launch {
    Launch { block, unroll, width: 4, per_unit, order, hints }
}

/// The names of the hints, by number.
const HINTS: [&str; 6] = ["cached", "no L1", "streaming", "read only", "evict first", "L2 only"];

impl fmt::Display for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hint = |n: u32| HINTS.get(n as usize).copied().unwrap_or("unknown");
        let (bytes, [load, store]) = (self.width * 4, self.hints);
        write!(f, "block {}, {} loads of {bytes} B in flight, ", self.block, self.unroll)?;
        match self.per_unit {
            0 => write!(f, "a block a tile")?,
            n => write!(f, "{n} blocks a unit")?,
        }
        if self.order == 1 {
            write!(f, ", a run each")?;
        }
        write!(f, ", load {}, store {}", hint(load), hint(store))
    }
}

/// What is tried first for a stream through device memory; the fastest is kept and reported.
pub(crate) const LAUNCHES: &[Launch] = &[
    launch(512, 4, 0, 0, [1, 2]),
    launch(512, 2, 0, 0, [1, 2]),
    launch(256, 4, 0, 0, [1, 2]),
    launch(512, 1, 0, 0, [0, 0]),
    launch(256, 4, 8, 0, [1, 2]),
    launch(512, 4, 4, 0, [3, 2]),
    launch(256, 8, 8, 1, [1, 2]),
    launch(1024, 4, 2, 0, [1, 2]),
];

/// What is tried for a sum: the grid is persistent, since each block leaves one partial sum.
pub(crate) const FOLDS: &[Launch] = &[
    launch(512, 4, 4, 0, [1, 0]),
    launch(256, 8, 8, 0, [1, 0]),
    launch(512, 8, 4, 0, [3, 0]),
    launch(1024, 4, 2, 0, [1, 0]),
    launch(256, 4, 32, 0, [1, 0]),
    launch(512, 4, 16, 1, [1, 0]),
];

/// The same for WGSL, which has no cache hints.
pub(crate) const WGSL_LAUNCHES: &[Launch] =
    &[launch(256, 4, 0, 0, [0, 0]), launch(256, 1, 0, 0, [0, 0]), launch(512, 2, 0, 0, [0, 0]), launch(256, 4, 16, 0, [0, 0])];
pub(crate) const WGSL_FOLDS: &[Launch] =
    &[launch(256, 4, 16, 0, [0, 0]), launch(512, 4, 8, 0, [0, 0]), launch(256, 8, 8, 1, [0, 0])];
pub(crate) const WGSL_CACHED: Launch = launch(256, 4, 8, 0, [0, 0]);

/// Inside a cache: loads may use L1, and a persistent grid that fills the device.
pub(crate) const CACHED: Launch = launch(512, 4, 4, 0, [0, 0]);

/// A launch that is kept, as text.
fn spell(l: Launch) -> String {
    [l.block, l.unroll, l.width, l.per_unit, l.order, l.hints[0], l.hints[1]].map(|n| n.to_string()).join(" ")
}

/// The launch of such a text, if it is one that could have been tried.
fn read(text: &str) -> Option<Launch> {
    let numbers: Vec<u32> = text.split(' ').map(|n| n.parse().ok()).collect::<Option<_>>()?;
    let [block, unroll, width, per_unit, order, load, store] = numbers.try_into().ok()?;
    let sane = BLOCKS.contains(&block) && UNROLLS.contains(&unroll) && [4, 8].contains(&width) && per_unit <= 64 && order <= 1;
    (sane && load < 6 && store < 6).then_some(Launch { block, unroll, width, per_unit, order, hints: [load, store] })
}

const BLOCKS: [u32; 4] = [128, 256, 512, 1024];
const UNROLLS: [u32; 4] = [1, 2, 4, 8];

/// The launches to begin with for a stream on a device.
fn candidates(device: &dyn Device, stream: Stream) -> &'static [Launch] {
    let wgsl = device.info().backend == Backend::Vulkan;
    match (stream.cache, stream.op.writes(), wgsl) {
        (Cache::Hot, _, false) => &[CACHED],
        (Cache::Cold, true, false) => LAUNCHES,
        (Cache::Cold, false, false) => FOLDS,
        (Cache::Hot, _, true) => &[WGSL_CACHED],
        (Cache::Cold, true, true) => WGSL_LAUNCHES,
        (Cache::Cold, false, true) => WGSL_FOLDS,
    }
}

/// The launches that differ from `best` in one dimension, a list a dimension.
fn neighbours(best: Launch, device: &dyn Device, op: Op) -> Vec<Vec<Launch>> {
    let mut all = vec![
        BLOCKS.iter().map(|block| Launch { block: *block, ..best }).collect(),
        UNROLLS.iter().map(|unroll| Launch { unroll: *unroll, ..best }).collect(),
    ];
    if op.writes() {
        all.push([0, 2, 8].map(|per_unit| Launch { per_unit, ..best }).into());
    } else {
        // A sum leaves one number a block, so its grid stays persistent.
        all.push([2, 4, 8, 16].map(|per_unit| Launch { per_unit, ..best }).into());
    }
    if device.info().backend != Backend::Vulkan {
        if op.inputs() > 0 {
            all.push([0, 1, 2, 3, 4].map(|load| Launch { hints: [load, best.hints[1]], ..best }).into());
        }
        if op.writes() {
            all.push([0, 1, 2, 4].map(|store| Launch { hints: [best.hints[0], store], ..best }).into());
        }
        if ["sm_100", "sm_103"].iter().any(|arch| device.info().arch.starts_with(arch)) {
            all.push([4, 8].map(|width| Launch { width, ..best }).into());
        }
    }
    all
}

/// What was chosen, and how.
pub(crate) struct Tuned {
    pub(crate) launch: Launch,
    pub(crate) kernel: Kernel,
    pub(crate) tried: String,
}

/// The kernel of a launch.
fn compile(device: &dyn Device, stream: Stream, passes: u64, launch: Launch) -> Result<Kernel> {
    let mut defines = vec![
        ("RP_BLOCK", launch.block.to_string()),
        ("RP_UNROLL", launch.unroll.to_string()),
        ("RP_HINT_LOAD", launch.hints[0].to_string()),
        ("RP_HINT_STORE", launch.hints[1].to_string()),
    ];
    if launch.width != 4 {
        defines.push(("RP_WIDTH", launch.width.to_string()));
    }
    if passes > 1 {
        defines.push(("RP_PASSES", passes.to_string()));
    }
    let program = Program { name: "memory/stream", defines: &defines, ..Program::default() };
    device.compile(&program, &format!("rp_{}", stream.op.name()))
}

/// A search under way.
struct Search<'a> {
    device: &'a dyn Device,
    stream: Stream,
    passes: u64,
    run: &'a dyn Fn(&Kernel, Launch) -> Result<()>,
    tried: Vec<Launch>,
    best: Option<(Seconds, Launch, Kernel)>,
    /// Why the first that could not be tried could not.
    refused: Option<DeviceError>,
}

impl Search<'_> {
    /// Times a launch; one that the device cannot take is passed over.
    fn offer(&mut self, launch: Launch) -> Result<()> {
        if self.tried.contains(&launch) {
            return Ok(());
        }
        self.tried.push(launch);
        let kernel = match compile(self.device, self.stream, self.passes, launch) {
            // Such a block may be larger than the device's; others are to be tried.
            Err(refused @ DeviceError::Unsupported(_)) => {
                self.refused.get_or_insert(refused);
                return Ok(());
            }
            kernel => kernel?,
        };
        let seconds = trial(self.device, &mut |_| (self.run)(&kernel, launch))?;
        // A neighbour must be better by more than a trial's noise.
        if self.best.as_ref().is_none_or(|(least, ..)| seconds.0 < least.0 * (1.0 - MARGIN)) {
            self.best = Some((seconds, launch, kernel));
        }
        Ok(())
    }
}

/// What a launch must gain to be taken for better.
const MARGIN: f64 = 0.002;

/// Finds the fastest launch for this stream, or takes the one that an earlier run found.
pub(crate) fn tune(
    device: &dyn Device,
    stream: Stream,
    passes: u64,
    run: &dyn Fn(&Kernel, Launch) -> Result<()>,
) -> Result<Tuned> {
    let first = candidates(device, stream);
    if let [only] = first {
        return Ok(Tuned { launch: *only, kernel: compile(device, stream, passes, *only)?, tried: "1".into() });
    }
    let what = format!("stream {} {} {first:?}", stream.op.name(), stream.array);
    if let Some(launch) = recall(device, &what).as_deref().and_then(read)
        && let Ok(kernel) = compile(device, stream, passes, launch)
    {
        return Ok(Tuned { launch, kernel, tried: "none: found by an earlier run on this chip and driver".into() });
    }
    let mut search = Search { device, stream, passes, run, tried: vec![], best: None, refused: None };
    first.iter().try_for_each(|launch| search.offer(*launch))?;
    // A CPU that plays GPU has nothing to gain that is worth its time.
    let dimensions = if device.info().software { 0 } else { 6 };
    for dimension in 0..dimensions {
        let best = search.best.as_ref().map(|(_, launch, _)| *launch);
        let around = best.and_then(|best| neighbours(best, device, stream.op).into_iter().nth(dimension));
        around.into_iter().flatten().try_for_each(|launch| search.offer(launch))?;
    }
    let Search { tried, best, refused, .. } = search;
    let (_, launch, kernel) = best.ok_or_else(|| refused.unwrap_or_else(|| DeviceError::unsupported("no launch to try")))?;
    remember(device, &what, &spell(launch));
    Ok(Tuned { launch, kernel, tried: tried.len().to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ridgepoint_device::fake::{FakeDevice, Settings};

    #[test]
    fn a_kept_launch_is_read_back_and_nothing_else_is() {
        let wide = Launch { width: 8, ..LAUNCHES[0] };
        for launch in LAUNCHES.iter().chain(FOLDS).chain(WGSL_LAUNCHES).chain(WGSL_FOLDS).chain([&wide]) {
            assert_eq!(read(&spell(*launch)), Some(*launch));
        }
        for text in [
            "",
            "512",
            "512 4 4 0 0 1",
            "513 4 4 0 0 1 2",
            "512 4 4 0 0 1 9",
            "512 4 4 0 2 1 2",
            "512 4 4 0 0 1 2 3",
            "a b c d e f g",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(wide.to_string(), "block 512, 4 loads of 32 B in flight, a block a tile, load no L1, store streaming");
    }

    /// The search, on a device whose time is a model's: the launch that is fastest by it is found, though it is none to begin with.
    #[test]
    fn the_neighbours_of_the_best_are_tried_until_none_is_faster() {
        let device = FakeDevice::new(Settings { noise: 0.0, ..Settings::default() });
        let buffer = device.alloc(1 << 20).unwrap();
        let stream = Stream { op: Op::Copy, array: ridgepoint_core::Bytes::mib(64), cache: Cache::Cold };
        let fills = |launch: Launch| {
            let off = |a: u32, b: u32| u64::from(a.abs_diff(b));
            1 + off(launch.block / 128, 1) + off(launch.unroll, 2) + 3 * off(launch.hints[0], 4) + 2 * u64::from(launch.per_unit)
        };
        let run = |_: &Kernel, launch| (0..fills(launch)).try_for_each(|_| device.fill(&buffer, 1));
        let tuned = tune(&device, stream, 1, &run).unwrap();
        assert_eq!((tuned.launch.block, tuned.launch.unroll, tuned.launch.per_unit, tuned.launch.hints[0]), (128, 2, 0, 4));
        let tried: usize = tuned.tried.parse().unwrap();
        assert!((LAUNCHES.len() + 3..40).contains(&tried), "{tried}");
    }
}
