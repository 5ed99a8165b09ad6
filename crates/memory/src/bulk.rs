//! Streams by Hopper's bulk copy engine (kernels/memory/stream_bulk.cu, sm_90 on): few threads, many bytes in flight. A few rings are
//! tried; the fastest is kept for the next run on the same chip and driver.

use crate::cases::{Op, Stream};
use crate::stream::operands;
use ridgepoint_core::Seconds;
use ridgepoint_device::{Arg, Buffer, Device, DeviceError, Geometry, Kernel, Program, Result};
use ridgepoint_harness::{recall, remember, trial};
use std::fmt;

/// The provider's name.
pub(crate) const PROVIDER: &str = "bulk-copy";

/// Threads of a block.
const BLOCK: u32 = 256;

/// What the kernel lets the host choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ring {
    /// Chunks of each input in shared memory (RP_STAGES).
    stages: u32,
    /// Bytes of a chunk of all inputs.
    chunk: u32,
    /// Blocks a unit.
    per_unit: u32,
}

const fn ring(stages: u32, kib: u32, per_unit: u32) -> Ring {
    Ring { stages, chunk: kib << 10, per_unit }
}

/// 64 to 192 KiB in flight a unit.
const RINGS: &[Ring] =
    &[ring(4, 16, 2), ring(4, 16, 3), ring(8, 8, 2), ring(4, 8, 4), ring(6, 16, 2), ring(3, 32, 2), ring(4, 32, 1)];

impl Ring {
    /// Dynamic shared memory of a block.
    const fn shared(self) -> u32 {
        self.stages * self.chunk
    }

    const fn of_input(self, op: Op) -> u32 {
        self.chunk / op.inputs() as u32
    }
}

impl fmt::Display for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stages, chunk, per_unit } = self;
        write!(f, "{per_unit} blocks a unit, each a ring of {stages} × {} KiB", chunk >> 10)
    }
}

/// True where the chip has such an engine.
pub(crate) fn fits(device: &dyn Device) -> bool {
    device.info().sm().is_some_and(|number| number >= 90)
}

/// The fastest ring, and how many were tried.
///
/// # Errors
/// As [`Device::compile`] and [`Device::launch`].
pub(crate) fn tune(device: &dyn Device, stream: Stream, inputs: &[Buffer], out: &Buffer) -> Result<(Ring, Kernel, String)> {
    let what = format!("bulk {} {} {RINGS:?}", stream.op.name(), stream.array);
    let kept = recall(device, &what).and_then(|text| RINGS.get(text.parse::<usize>().ok()?));
    if let Some(ring) = kept
        && let Ok(kernel) = compile(device, stream.op, *ring)
    {
        return Ok((*ring, kernel, "none: found by an earlier run on this chip and driver".into()));
    }
    let mut best: Option<(Seconds, usize, Kernel)> = None;
    let mut refused = None;
    for (at, ring) in RINGS.iter().enumerate() {
        // A node without a compiler has but what was built ahead.
        let kernel = match compile(device, stream.op, *ring) {
            Err(reason @ DeviceError::Unsupported(_)) => {
                refused.get_or_insert(reason);
                continue;
            }
            kernel => kernel?,
        };
        let seconds = trial(device, &mut |_| enqueue(device, stream, &kernel, *ring, inputs, out))?;
        if best.as_ref().is_none_or(|(least, ..)| seconds.0 < least.0) {
            best = Some((seconds, at, kernel));
        }
    }
    let (_, at, kernel) = best.ok_or_else(|| refused.unwrap_or_else(|| DeviceError::unsupported("no ring to try")))?;
    remember(device, &what, &at.to_string());
    Ok((RINGS[at], kernel, RINGS.len().to_string()))
}

fn compile(device: &dyn Device, op: Op, ring: Ring) -> Result<Kernel> {
    let defines = [("RP_BLOCK", BLOCK.to_string()), ("RP_STAGES", ring.stages.to_string())];
    let program = Program { name: "memory/stream_bulk", defines: &defines, ..Program::default() };
    device.compile(&program, &format!("rp_bulk_{}", op.name()))
}

/// One pass.
///
/// # Errors
/// As [`Device::launch`].
pub(crate) fn enqueue(
    device: &dyn Device,
    stream: Stream,
    kernel: &Kernel,
    ring: Ring,
    inputs: &[Buffer],
    out: &Buffer,
) -> Result<()> {
    let mut args = operands(stream, inputs, out, stream.elements());
    args.push(Arg::U32(ring.of_input(stream.op)));
    let blocks = device.info().units.max(1) * ring.per_unit;
    device.launch(kernel, Geometry::linear(blocks, BLOCK).with_shared(ring.shared()), &args)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_fit_a_unit_of_hopper_and_chunks_are_whole_vectors() {
        for ring in RINGS {
            // 228 KiB a unit, of which each block's own KiB and the kernel's barriers take a little.
            assert!(ring.per_unit * (ring.shared() + 2048) <= 228 << 10, "{ring}");
            for op in [Op::Read, Op::Copy, Op::Triad, Op::Dot] {
                assert!(ring.of_input(op).is_multiple_of(16) && ring.of_input(op) * op.inputs() as u32 == ring.chunk, "{ring}");
            }
        }
    }
}
