//! Reads of a workgroup's shared memory (LDS), by kernels/memory/shared.cu and shared.wgsl: every unit at once, from an array that
//! each workgroup keeps for itself.

use crate::cases::SHARED;
use ridgepoint_core::{Backend, Dtype, Verification, data};
use ridgepoint_device::{Arg, Buffer, Device, DeviceError, Geometry, Kernel, Program, Result};
use ridgepoint_harness::verify::Comparison;
use ridgepoint_harness::{Prepared, Ready, random};
use std::collections::BTreeMap;

/// Bytes that each thread reads in one of the kernel's passes.
const BYTES_A_THREAD: u64 = 128;
/// Vectors of 16 bytes that it reads in a pass, and how far apart: the constants of the kernel.
const LOADS: u32 = 8;
const APART: u32 = 192;
/// Workgroups of a unit.
const PER_UNIT: u32 = 2;
/// Passes of a launch: some hundred microseconds on a GPU.
const PASSES: u32 = 1 << 12;
/// The same on the CPU's cores.
const SOFTWARE_PASSES: u32 = 1 << 7;

/// How a device runs it: threads of a workgroup and of what the kernel calls a warp; the CPU has no such memory.
fn form(device: &dyn Device) -> Result<(u32, u32)> {
    let info = device.info();
    match info.backend {
        Backend::Vulkan => Ok((256, 32)),
        Backend::Cuda => Ok((1024, 32)),
        Backend::Hip => Ok((1024, if info.arch.starts_with("gfx9") { 64 } else { 32 })),
        Backend::Cpu | Backend::Fake => Err(DeviceError::unsupported("this device has no memory of a workgroup's own")),
    }
}

pub(crate) fn prepare<'d>(ways: u32, device: &'d dyn Device, seed: u64) -> Result<Prepared<'d>> {
    let (block, warp) = form(device)?;
    let defines = [("RP_BLOCK", block.to_string())];
    let program = Program { name: "memory/shared", defines: &defines, ..Program::default() };
    let kernel = device.compile(&program, "rp_shared_read")?;
    let seed = data::operand_seed(seed, 0);
    let x = random(device, Dtype::F32, seed, SHARED.0 / 4)?;
    let blocks = device.info().units.max(1) * PER_UNIT;
    let (out, cycles) = (device.alloc(blocks as usize * 4)?, device.alloc(blocks as usize * 8)?);
    device.synchronize()?;
    let passes = if device.info().software { SOFTWARE_PASSES } else { PASSES };
    let config =
        BTreeMap::from([("workgroups".into(), format!("{blocks} of {block}")), ("passes a launch".into(), passes.to_string())]);
    let expected = expected(seed, block, warp, ways, passes);
    let ready = Reads { device, kernel, x, out, cycles, ways, block, blocks, passes, expected };
    Ok(Prepared { ready: Box::new(ready), config, labels: vec![], dtype: Dtype::F32 })
}

/// What each workgroup must leave: the sum modulo 2³² of the bits of all that its threads read.
fn expected(seed: u64, block: u32, warp: u32, ways: u32, passes: u32) -> u32 {
    let vector = |v: u32| (0..4).map(|e| data::normal(seed, u64::from(4 * v + e)).to_bits()).fold(0u32, u32::wrapping_add);
    let reads = (0..block).flat_map(|t| (0..LOADS).map(move |k| t % warp * ways + t / warp * 8 + k * APART));
    reads.map(vector).fold(0u32, u32::wrapping_add).wrapping_mul(passes)
}

struct Reads<'d> {
    device: &'d dyn Device,
    kernel: Kernel,
    x: Buffer,
    out: Buffer,
    cycles: Buffer,
    ways: u32,
    block: u32,
    blocks: u32,
    passes: u32,
    expected: u32,
}

impl Ready for Reads<'_> {
    fn passes(&self) -> u64 {
        u64::from(self.passes) * u64::from(self.blocks) * u64::from(self.block) * BYTES_A_THREAD / SHARED.0
    }

    fn enqueue(&mut self, _turn: usize) -> Result<()> {
        let mut args = vec![Arg::Buffer(&self.x, 0), Arg::Buffer(&self.out, 0)];
        // WGSL has no clock to read.
        if self.device.info().backend != Backend::Vulkan {
            args.push(Arg::Buffer(&self.cycles, 0));
        }
        args.extend([Arg::U32(self.ways), Arg::U32(self.passes)]);
        self.device.launch(&self.kernel, Geometry::linear(self.blocks, self.block), &args)
    }

    fn poison(&mut self) -> Result<()> {
        self.device.fill(&self.out, 0xff)
    }

    fn check(&mut self) -> Result<Verification> {
        let mut bytes = vec![0u8; self.out.len()];
        self.device.download(&self.out, 0, &mut bytes)?;
        let mut comparison = Comparison::new(0.0);
        for sum in bytes.chunks_exact(4) {
            let right = sum == self.expected.to_le_bytes();
            comparison.push(f64::from(u8::from(right)), 1.0, 1.0);
        }
        Ok(comparison.finish("each workgroup's sum of bits, exact"))
    }
}
