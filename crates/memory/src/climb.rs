//! The read staircase on a GPU, by kernels/memory/staircase.cu: every unit goes over one set of memory, each block from a place of
//! its own on, so that what fits a unit's L1 is read from there, what fits L2 from L2 (on NVIDIA by loads that pass L1), and what is
//! larger from memory.
//!
//! It is timed as a whole, by the harness. The kernel's own cycle counts are of one block each, and blocks of one core do not
//! begin and end together: rates added up from them came out above what an L1 can do.

use crate::cases::Stream;
use ridgepoint_core::{Backend, Bytes, Dtype, Verification, data};
use ridgepoint_device::{Arg, Buffer, Device, DeviceError, Geometry, Kernel, Program, Result};
use ridgepoint_harness::verify::{Comparison, in_chunks};
use ridgepoint_harness::{Prepared, Ready, random};
use std::collections::BTreeMap;

/// Threads of a block and 16-byte loads in flight of each: a tile of 16 KiB.
const BLOCK: u32 = 512;
const UNROLL: u32 = 2;
const TILE: u64 = 512 * 2 * 16;
/// Blocks of a unit: all the threads that it can hold.
const PER_UNIT: u64 = 4;
/// How loads treat the caches (kernels/common/rp.h): as the device likes, or past L1.
const CACHED: u32 = 0;
const L2_ONLY: u32 = 5;
/// What an L1 holds at most: no GPU's is larger.
const LARGEST_L1: Bytes = Bytes::kib(256);
/// What a unit reads at least in a launch: some hundred microseconds from L1, so that the launch's ends are noise.
const UNIT_BYTES: u64 = 64 << 20;

pub(crate) fn prepare<'d>(stream: Stream, device: &'d dyn Device, seed: u64) -> Result<Prepared<'d>> {
    let array = stream.array.0;
    if !array.is_multiple_of(TILE) {
        return Err(DeviceError::unsupported(format!(
            "the staircase goes in tiles of {TILE} bytes, and {} is no multiple",
            stream.array
        )));
    }
    let tiles = array / TILE;
    let blocks = u64::from(device.info().units.max(1)) * PER_UNIT;
    let steps = steps(tiles, blocks);
    // Blocks that share a unit would find in its L1 what another of them read. What no L1 holds is asked of L2, where loads can say so.
    let past_l1 = stream.array > LARGEST_L1 && device.info().backend == Backend::Cuda;
    let hint = if past_l1 { L2_ONLY } else { CACHED };
    let defines = [("RP_BLOCK", BLOCK.to_string()), ("RP_UNROLL", UNROLL.to_string()), ("RP_HINT_LOAD", hint.to_string())];
    let kernel =
        device.compile(&Program { name: "memory/staircase", defines: &defines, ..Program::default() }, "rp_staircase")?;
    let seed = data::operand_seed(seed, 0);
    let x = random(device, Dtype::F32, seed, array / 4)?;
    let (out, cycles) = (device.alloc(4 * blocks as usize)?, device.alloc(8 * blocks as usize)?);
    device.synchronize()?;
    let config = BTreeMap::from([
        (
            "launch".into(),
            format!(
                "{blocks} blocks of {BLOCK}, {UNROLL} loads in flight{}, {steps} tiles each",
                if past_l1 { ", past L1" } else { "" }
            ),
        ),
        (SHARED_SET.0.into(), SHARED_SET.1.into()),
    ]);
    let expected = expected(tiles, blocks, steps, &|tile| {
        let first = tile * TILE / 4;
        bits_of(TILE / 4, &|i| data::normal(seed, first + i))
    });
    let ready = Climb { device, kernel, x, out, cycles, tiles, blocks: blocks as u32, steps, expected };
    Ok(Prepared { ready: Box::new(ready), config, labels: vec![], dtype: Dtype::F32 })
}

/// In the configuration: a set that all units share fits a cache of one unit where it fits at all.
const SHARED_SET: (&str, &str) = ("set", "shared by all units");

/// Tiles that each block reads: so many that the launch goes over the set a whole number of times and reads enough.
fn steps(tiles: u64, blocks: u64) -> u64 {
    let least = tiles / gcd(tiles, blocks);
    least * (blocks / PER_UNIT * UNIT_BYTES).div_ceil(least * blocks * TILE).max(1)
}

const fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The sum modulo 2³² of the bits of elements `0..n`.
pub(crate) fn bits_of(n: u64, element: &(dyn Fn(u64) -> f32 + Sync)) -> u32 {
    in_chunks(n, |range| range.map(|i| element(i).to_bits()).fold(0u32, u32::wrapping_add)).into_iter().fold(0, u32::wrapping_add)
}

/// What each block must leave, from the sum of each tile: it starts at tile `tiles·b/blocks` and goes on by its own stride.
fn expected(tiles: u64, blocks: u64, steps: u64, tile: &(dyn Fn(u64) -> u32 + Sync)) -> Vec<u32> {
    let sums: Vec<u32> = (0..tiles).map(tile).collect();
    let block = |b: u64| {
        let stride = (((b * 40_503) & 0xffff) * 2 + 1) % tiles;
        let walk = std::iter::successors(Some(tiles * b / blocks), |at| Some((at + stride) % tiles));
        walk.take(steps as usize).map(|at| sums[at as usize]).fold(0u32, u32::wrapping_add)
    };
    (0..blocks).map(block).collect()
}

struct Climb<'d> {
    device: &'d dyn Device,
    kernel: Kernel,
    x: Buffer,
    out: Buffer,
    cycles: Buffer,
    tiles: u64,
    blocks: u32,
    steps: u64,
    expected: Vec<u32>,
}

impl Ready for Climb<'_> {
    fn passes(&self) -> u64 {
        self.steps * u64::from(self.blocks) / self.tiles
    }

    fn enqueue(&mut self, _turn: usize) -> Result<()> {
        let args = [
            Arg::Buffer(&self.x, 0),
            Arg::Buffer(&self.out, 0),
            Arg::Buffer(&self.cycles, 0),
            Arg::U64(self.tiles),
            Arg::U64(0),
            Arg::U64(self.steps),
        ];
        self.device.launch(&self.kernel, Geometry::linear(self.blocks, BLOCK), &args)
    }

    fn poison(&mut self) -> Result<()> {
        self.device.fill(&self.out, 0xff)
    }

    fn check(&mut self) -> Result<Verification> {
        let mut bytes = vec![0u8; self.out.len()];
        self.device.download(&self.out, 0, &mut bytes)?;
        let mut comparison = Comparison::new(0.0);
        for (sum, want) in bytes.chunks_exact(4).zip(&self.expected) {
            comparison.push(f64::from(u32::from_le_bytes(sum.try_into().unwrap_or_default())), f64::from(*want), 1.0);
        }
        Ok(comparison.finish("each block's sum of bits, exact"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_go_round_the_set_a_whole_number_of_times() {
        for (tiles, blocks) in [(1, 528), (13, 528), (16, 528), (6400, 456), (65536, 4)] {
            let steps = steps(tiles, blocks);
            assert!(
                (steps * blocks).is_multiple_of(tiles) && steps * blocks * TILE >= blocks / PER_UNIT * UNIT_BYTES,
                "{tiles} {blocks}"
            );
        }
    }

    #[test]
    fn each_block_has_an_order_of_its_own_and_whole_laps_read_all() {
        // Tile i counts 1 in a place of its own: each is read equally often after whole laps of a set of a power of two.
        let laps = |b: usize| (0..4).map(|i| expected(4, 8, 8, &|tile| u32::from(tile == i))[b]).collect::<Vec<_>>();
        assert!((0..8).all(|b| laps(b) == [2; 4]));
        // By hand: block 1 starts at 16·1/8 = 2 and goes on by (40503·2 + 1) mod 16 = 15.
        assert_eq!(expected(16, 8, 3, &|tile| 1 << tile)[1], 0b111);
        assert_eq!(expected(1, 4, 9, &|_| 7), [63; 4]);
    }
}
