//! Streams made ready: arrays filled on the device, one launch an execution, every element of the result checked.

use crate::cases::{Op, Stream};
use crate::variants::{self, SCALAR};
use ridgepoint_core::{Cache, Dtype, Verification, data};
use ridgepoint_device::{Arg, Buffer, Device, DeviceError, Geometry, Kernel, Program, Result};
use ridgepoint_harness::verify::{Comparison, in_chunks};
use ridgepoint_harness::{Prepared, Ready};
use std::collections::BTreeMap;

/// A pass over a cached array is repeated inside the kernel until it moves this much, so that a launch is noise.
const REPEAT_BYTES: u64 = 64 << 20;

/// What a sum may be off, relative to √n: far above the rounding of blocked sums, far below one missing tile.
const SUM_TOLERANCE: f64 = 2e-5;

pub(crate) fn prepare<'d>(stream: Stream, provider: &str, device: &'d dyn Device, seed: u64) -> Result<Prepared<'d>> {
    let backend = device.info().backend;
    let variant = variants::find(stream, provider, backend)
        .ok_or_else(|| DeviceError::unsupported(format!("{provider} has no {} on {backend}", stream.op.name())))?;
    let n = stream.elements();
    let bytes = stream.array.0 as usize;
    let init = device.compile(&Program { name: "common/init", ..Program::default() }, "rp_init_f32")?;
    let mut inputs = Vec::new();
    for operand in 0..stream.op.inputs() {
        let buffer = device.alloc(bytes)?;
        let args = [Arg::Buffer(&buffer, 0), Arg::U64(data::operand_seed(seed, operand)), Arg::U64(n)];
        device.launch(&init, Geometry::linear(1024, 256), &args)?;
        inputs.push(buffer);
    }
    let out = device.alloc(if stream.op.writes() { bytes } else { MAX_SUMS * 8 })?;
    let kernel = match variant.suffix {
        Some(suffix) => {
            let entry = format!("rp_{}{suffix}", stream.op.name());
            Some(device.compile(&Program { name: "memory/stream", ..Program::default() }, &entry)?)
        }
        None => None,
    };
    device.synchronize()?;
    let repeats =
        if stream.cache == Cache::Hot { (REPEAT_BYTES / (stream.array.0 * stream.op.arrays())).clamp(1, 1 << 16) } else { 1 };
    let mut config = BTreeMap::new();
    if repeats > 1 {
        config.insert("passes a launch".into(), repeats.to_string());
    }
    let cold = stream.array.0 * stream.op.arrays() > 2 * device.info().last_level_cache().0;
    let ready = Run { device, stream, kernel, inputs, out, repeats, cold, seed };
    Ok(Prepared { ready: Box::new(ready), config, labels: vec![], dtype: Dtype::F32 })
}

/// Most partial sums that a reduction may leave.
const MAX_SUMS: usize = 4096;

struct Run<'d> {
    device: &'d dyn Device,
    stream: Stream,
    kernel: Option<Kernel>,
    inputs: Vec<Buffer>,
    out: Buffer,
    repeats: u64,
    cold: bool,
    seed: u64,
}

impl Ready for Run<'_> {
    fn cold_by_itself(&self) -> bool {
        self.cold
    }

    fn passes(&self) -> u64 {
        self.repeats
    }

    fn enqueue(&mut self, _turn: usize) -> Result<()> {
        let Some(kernel) = &self.kernel else {
            return self.device.copy(&self.inputs[0], 0, &self.out, 0, self.out.len());
        };
        let mut args: Vec<Arg<'_>> = self.inputs.iter().map(|b| Arg::Buffer(b, 0)).collect();
        args.push(Arg::Buffer(&self.out, 0));
        if matches!(self.stream.op, Op::Write | Op::Scale | Op::Triad) {
            args.push(Arg::F32(SCALAR));
        }
        args.push(Arg::U64(self.stream.elements()));
        args.push(Arg::U32(self.repeats as u32));
        self.device.launch(kernel, Geometry::linear(1, 1), &args)
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
            let got: f64 = sums.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap_or_default())).sum();
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
        // One rounding of the product where the compiler fuses it, one more where it does not.
        let tolerance = if op == Op::Triad { f64::from(f32::EPSILON) } else { 0.0 };
        let mut total = Comparison::new(tolerance);
        let mut bytes = vec![0u8; self.out.len().min(CHUNK)];
        for start in (0..self.out.len()).step_by(CHUNK) {
            let len = CHUNK.min(self.out.len() - start);
            self.device.download(&self.out, start, &mut bytes[..len])?;
            let (chunk, first) = (&bytes[..len], start as u64 / 4);
            let parts = in_chunks(len as u64 / 4, |range| {
                let mut part = Comparison::new(tolerance);
                for i in range {
                    let at = i as usize * 4;
                    let got = f32::from_le_bytes(chunk[at..at + 4].try_into().unwrap_or_default());
                    let (want, scale) = expected(op, x, y, first + i);
                    part.push(f64::from(got), want, scale);
                }
                part
            });
            parts.into_iter().for_each(|part| total.merge(part));
        }
        Ok(total.finish(if op == Op::Triad { "every element, relative to |x| + |s·y|" } else { "every element, exact" }))
    }
}

/// Bytes brought to the host at once for the check.
const CHUNK: usize = 64 << 20;

/// The right value of element `i`, and what an error is relative to.
fn expected(op: Op, x: u64, y: u64, i: u64) -> (f64, f64) {
    let (a, b) = (|| data::normal(x, i), || data::normal(y, i));
    match op {
        Op::Write => (f64::from(SCALAR), 1.0),
        Op::Copy | Op::Read | Op::Dot => (f64::from(a()), 1.0),
        Op::Scale => (f64::from(SCALAR * a()), 1.0),
        Op::Add => (f64::from(a() + b()), 1.0),
        Op::Triad => {
            let (a, b) = (f64::from(a()), f64::from(SCALAR) * f64::from(b()));
            (a + b, a.abs() + b.abs() + f64::MIN_POSITIVE)
        }
    }
}
