//! Streams made ready: arrays filled on the device, one launch an execution, every element of the result checked.

use crate::bulk::{self, Ring};
use crate::cases::{Op, Stream};
use crate::tune::{self, Launch, Tuned};
use crate::variants::{self, SCALAR};
use ridgepoint_core::{Backend, Cache, Dtype, Verification, data};
use ridgepoint_device::{Arg, Buffer, Device, DeviceError, Geometry, Kernel, Program, Result};
use ridgepoint_harness::verify::{Comparison, in_chunks};
use ridgepoint_harness::{Prepared, Ready, random};
use std::collections::BTreeMap;

/// A pass over a cached array is repeated inside the kernel until it moves this much, so that a launch is noise.
const REPEAT_BYTES: u64 = 64 << 20;

/// The same on a GPU through Vulkan.
const GPU_REPEAT_BYTES: u64 = 1 << 30;

/// What a sum may be off, relative to √n: far above the rounding of blocked sums, far below one missing tile.
const SUM_TOLERANCE: f64 = 2e-5;

pub(crate) fn prepare<'d>(stream: Stream, provider: &str, device: &'d dyn Device, seed: u64) -> Result<Prepared<'d>> {
    let backend = device.info().backend;
    let variant = variants::find(stream, provider, backend)
        .ok_or_else(|| DeviceError::unsupported(format!("{provider} has no {} on {backend}", stream.op.name())))?;
    if variant.climbs(stream, backend) {
        return crate::climb::prepare(stream, device, seed);
    }
    let n = stream.elements();
    let bytes = stream.array.0 as usize;
    let fill = |operand| random(device, Dtype::F32, data::operand_seed(seed, operand), n);
    let inputs = (0..stream.op.inputs()).map(fill).collect::<Result<Vec<_>>>()?;
    let out = device.alloc(if stream.op.writes() { bytes } else { MAX_SUMS * 8 })?;
    device.synchronize()?;
    let mut config = BTreeMap::new();
    let way = match variant.suffix {
        None => Way::Own,
        Some(suffix) if matches!(backend, Backend::Cpu | Backend::Fake) => {
            let kernel = device
                .compile(&Program { name: "memory/stream", ..Program::default() }, &format!("rp_{}{suffix}", stream.op.name()))?;
            let repeats = if stream.cache == Cache::Hot {
                (REPEAT_BYTES / (stream.array.0 * stream.op.arrays())).clamp(1, 1 << 16)
            } else {
                1
            };
            if repeats > 1 {
                config.insert("passes a launch".into(), repeats.to_string());
            }
            Way::Host { kernel, repeats }
        }
        Some(_) if provider == bulk::PROVIDER => {
            let (ring, kernel, tried) = bulk::tune(device, stream, &inputs, &out)?;
            config.insert("launch".into(), ring.to_string());
            config.insert("launches tried".into(), tried);
            Way::Bulk { kernel, ring }
        }
        Some(_) => {
            let passes = passes(device, stream);
            let run = |kernel: &Kernel, launch| enqueue_gpu(device, stream, kernel, launch, &inputs, &out);
            let Tuned { launch, kernel, tried } = tune::tune(device, stream, passes, &run)?;
            config.insert("launch".into(), launch.to_string());
            config.insert("launches tried".into(), tried);
            if passes > 1 {
                config.insert("passes a launch".into(), passes.to_string());
            }
            Way::Gpu { kernel, launch, passes }
        }
    };
    let cold = stream.array.0 * stream.op.arrays() > 2 * device.info().last_level_cache().0;
    let ready = Run { device, stream, way, inputs, out, cold, seed };
    Ok(Prepared { ready: Box::new(ready), config, labels: vec![], dtype: Dtype::F32 })
}

/// Most partial sums that a reduction may leave.
const MAX_SUMS: usize = 4096;

/// What does the work.
enum Way {
    /// The device's own copy or fill.
    Own,
    /// A kernel on the host's threads, which repeats by itself.
    Host { kernel: Kernel, repeats: u64 },
    /// A kernel on a GPU.
    Gpu { kernel: Kernel, launch: Launch, passes: u64 },
    /// The bulk copy engine.
    Bulk { kernel: Kernel, ring: Ring },
}

struct Run<'d> {
    device: &'d dyn Device,
    stream: Stream,
    way: Way,
    inputs: Vec<Buffer>,
    out: Buffer,
    cold: bool,
    seed: u64,
}

/// The operands that every form of a stream's kernel takes, in order; one u32 follows.
pub(crate) fn operands<'a>(stream: Stream, inputs: &'a [Buffer], out: &'a Buffer, elements: u64) -> Vec<Arg<'a>> {
    let mut args: Vec<Arg<'_>> = inputs.iter().map(|b| Arg::Buffer(b, 0)).collect();
    args.push(Arg::Buffer(out, 0));
    if matches!(stream.op, Op::Write | Op::Scale | Op::Triad) {
        args.push(Arg::F32(SCALAR));
    }
    args.push(Arg::U64(elements));
    args
}

/// Passes that the kernel makes over a cached array by itself: WGSL's can.
fn passes(device: &dyn Device, stream: Stream) -> u64 {
    let info = device.info();
    if stream.cache == Cache::Cold || info.backend != Backend::Vulkan {
        return 1;
    }
    let bytes = if info.software { REPEAT_BYTES } else { GPU_REPEAT_BYTES };
    (bytes / (stream.array.0 * stream.op.arrays())).clamp(1, 1 << 12)
}

/// Most blocks along an axis that every device has.
const MOST_BLOCKS: u64 = 65_535;

/// Blocks of a launch over `elements`: a tile each, or so many a unit.
fn blocks(device: &dyn Device, elements: u64, launch: Launch, most: u64) -> u32 {
    let tile = u64::from(launch.block * launch.unroll * 4);
    let tiles = elements.div_ceil(tile).clamp(1, if device.info().backend == Backend::Vulkan { MOST_BLOCKS } else { 1 << 30 });
    match launch.per_unit {
        0 => tiles as u32,
        n => tiles.min(u64::from(n * device.info().units.max(1))).min(most) as u32,
    }
}

/// One pass, in as many launches as the device's limit on a kernel's buffer makes necessary.
pub(crate) fn enqueue_gpu(
    device: &dyn Device,
    stream: Stream,
    kernel: &Kernel,
    launch: Launch,
    inputs: &[Buffer],
    out: &Buffer,
) -> Result<()> {
    let go = |inputs: &[Buffer], out: &Buffer, elements: u64, most: u64| {
        let mut args = operands(stream, inputs, out, elements);
        args.push(Arg::U32(launch.order));
        device.launch(kernel, Geometry::linear(blocks(device, elements, launch, most), launch.block), &args)
    };
    let most = device.binding_limit().unwrap_or(u64::MAX).min(stream.array.0);
    let parts = stream.array.0.div_ceil(most);
    if parts == 1 {
        return go(inputs, out, stream.elements(), MAX_SUMS as u64);
    }
    // Each launch of a sum leaves its blocks' sums in a place of its own.
    let sums = MAX_SUMS as u64 / parts / 64 * 64;
    let cut = |buffer: &Buffer, at: u64, len: u64| {
        buffer.part(at as usize, len as usize).ok_or_else(|| DeviceError::unsupported("this device's buffers have no parts"))
    };
    for part in 0..parts {
        let (at, len) = (part * most, most.min(stream.array.0 - part * most));
        let inputs = inputs.iter().map(|b| cut(b, at, len)).collect::<Result<Vec<_>>>()?;
        let out = if stream.op.writes() { cut(out, at, len)? } else { cut(out, part * sums * 4, sums * 4)? };
        go(&inputs, &out, len / 4, sums)?;
    }
    Ok(())
}

impl Ready for Run<'_> {
    fn cold_by_itself(&self) -> bool {
        self.cold
    }

    fn passes(&self) -> u64 {
        match self.way {
            Way::Host { repeats, .. } => repeats,
            Way::Gpu { passes, .. } => passes,
            Way::Own | Way::Bulk { .. } => 1,
        }
    }

    fn enqueue(&mut self, _turn: usize) -> Result<()> {
        match &self.way {
            Way::Own if self.stream.op == Op::Init => self.device.fill(&self.out, INIT),
            Way::Own => self.device.copy(&self.inputs[0], 0, &self.out, 0, self.out.len()),
            Way::Host { kernel, repeats } => {
                let mut args = operands(self.stream, &self.inputs, &self.out, self.stream.elements());
                args.push(Arg::U32(*repeats as u32));
                self.device.launch(kernel, Geometry::linear(1, 1), &args)
            }
            Way::Gpu { kernel, launch, .. } => enqueue_gpu(self.device, self.stream, kernel, *launch, &self.inputs, &self.out),
            Way::Bulk { kernel, ring } => bulk::enqueue(self.device, self.stream, kernel, *ring, &self.inputs, &self.out),
        }
    }

    fn outputs(&self, _turn: usize) -> Vec<Buffer> {
        if self.stream.op.writes() { vec![self.out.clone()] } else { Vec::new() }
    }

    fn poison(&mut self) -> Result<()> {
        self.device.fill(&self.out, if self.stream.op.writes() { 0xff } else { 0 })
    }

    fn check(&mut self) -> Result<Verification> {
        let (n, op) = (self.stream.elements(), self.stream.op);
        let (x, y) = (data::operand_seed(self.seed, 0), data::operand_seed(self.seed, 1));
        if !op.writes() {
            let mut sums = vec![0u8; self.out.len()];
            self.device.download(&self.out, 0, &mut sums)?;
            // The host's threads leave f64 sums, a GPU's blocks f32.
            let got: f64 = match self.way {
                Way::Gpu { .. } | Way::Bulk { .. } => {
                    sums.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap_or_default()))).sum()
                }
                _ => sums.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap_or_default())).sum(),
            };
            let want = in_chunks(n, |range| {
                range
                    .map(|i| f64::from(data::normal(x, i)) * if op == Op::Dot { f64::from(data::normal(y, i)) } else { 1.0 })
                    .sum::<f64>()
            });
            let mut comparison = Comparison::new(SUM_TOLERANCE);
            comparison.push(got, want.into_iter().sum(), (n as f64).sqrt());
            comparison.scanned(n - 1, 0);
            return Ok(comparison.finish("sum against f64, relative to √n"));
        }
        let total = compare_all(self.device, &self.out, op, (x, y))?;
        Ok(total.finish("every element, exact after one rounding"))
    }
}

/// Compares every element of `out` with what `op` gives.
pub(crate) fn compare_all(device: &dyn Device, out: &Buffer, op: Op, seeds: (u64, u64)) -> Result<Comparison> {
    let mut total = Comparison::new(0.0);
    let mut bytes = vec![0u8; out.len().min(CHUNK)];
    for start in (0..out.len()).step_by(CHUNK) {
        let len = CHUNK.min(out.len() - start);
        device.download(out, start, &mut bytes[..len])?;
        let (chunk, first) = (&bytes[..len], start as u64 / 4);
        let parts = in_chunks(len as u64 / 4, |range| {
            let mut part = Comparison::new(0.0);
            let at = first + range.start;
            compare(op, seeds, at, &chunk[range.start as usize * 4..range.end as usize * 4], &mut part);
            part
        });
        parts.into_iter().for_each(|part| total.merge(part));
    }
    Ok(total)
}

/// Compares elements from `first` on. A tile that is right to the last bit is done with in one look.
fn compare(op: Op, seeds: (u64, u64), first: u64, got: &[u8], into: &mut Comparison) {
    const TILE: usize = 1024;
    for (tile, bytes) in got.chunks(4 * TILE).enumerate() {
        let at = |i: usize| expected(op, seeds, first + (tile * TILE + i) as u64);
        let elements = || bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap_or_default()));
        let differences: u32 = elements().enumerate().map(|(i, got)| u32::from(got.to_bits() != at(i).to_bits())).sum();
        if differences == 0 {
            into.scanned(bytes.len() as u64 / 4, 0);
        } else {
            elements().enumerate().for_each(|(i, got)| into.push(f64::from(got), f64::from(at(i)), 1.0));
        }
    }
}

/// The byte of a fill: as floats, 0.747.
const INIT: u8 = 0x3f;

/// Bytes brought to the host at once for the check.
const CHUNK: usize = 64 << 20;

/// The right value of element `i`. The scalar is a power of two, so that its product is exact and add and triad round once,
/// whether or not a compiler fuses the two.
#[inline(always)]
fn expected(op: Op, (x, y): (u64, u64), i: u64) -> f32 {
    match op {
        Op::Write => SCALAR,
        Op::Init => f32::from_bits(u32::from_ne_bytes([INIT; 4])),
        Op::Copy | Op::Read | Op::Dot => data::normal(x, i),
        Op::Scale => SCALAR * data::normal(x, i),
        Op::Add => data::normal(x, i) + data::normal(y, i),
        Op::Triad => data::normal(x, i) + SCALAR * data::normal(y, i),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_that_differs_is_found_wherever_it_is() {
        const { assert!(SCALAR.to_bits().trailing_zeros() >= 23, "the scalar must be a power of two") };
        for at in [0, 1023, 1024, 2499] {
            let mut bytes: Vec<u8> = (0..2500).flat_map(|i| expected(Op::Triad, (1, 2), 77 + i).to_le_bytes()).collect();
            let check = |bytes: &[u8]| {
                let mut c = Comparison::new(0.0);
                compare(Op::Triad, (1, 2), 77, bytes, &mut c);
                c.finish("")
            };
            let right = check(&bytes);
            assert!(right.passed() && right.checked == 2500);
            bytes[4 * at] ^= 1;
            let wrong = check(&bytes);
            assert_eq!((wrong.wrong, wrong.checked), (1, 2500));
            assert!(!wrong.passed());
        }
    }
}
