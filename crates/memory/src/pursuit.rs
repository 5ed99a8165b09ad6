//! The pointer chase on CUDA and HIP: a ring of addresses that the device lays itself (a stride of pages over gigabytes costs the
//! host nothing), followed by one thread, and timed by the device's own cycle counter beside the harness's events.
//!
//! For a set within L2 it also asks for the latency of single lines: where an L2 has two halves, they differ by which half a
//! line lies in, as seen from the one core that asks.

use crate::cases::CHASE_STEPS;
use ridgepoint_core::{Bytes, Dtype, Verification, data};
use ridgepoint_device::{Arg, Buffer, Device, Geometry, Kernel, Program, Result};
use ridgepoint_harness::verify::Comparison;
use ridgepoint_harness::{Prepared, Ready};
use std::collections::BTreeMap;

/// Lines that are asked for one by one.
const LINES: u64 = 4096;

pub(crate) fn prepare<'d>(footprint: Bytes, stride: u64, device: &'d dyn Device, seed: u64) -> Result<Prepared<'d>> {
    let program = Program { name: "memory/chase", ..Program::default() };
    let nodes = (footprint.0 / stride).max(1);
    let ring = device.alloc((nodes * stride) as usize)?;
    let lay = device.compile(&program, "rp_ring")?;
    let blocks = nodes.div_ceil(256).min(4096) as u32;
    let args = [Arg::Buffer(&ring, 0), Arg::U64(nodes), Arg::U64(stride), Arg::U64(seed)];
    device.launch(&lay, Geometry::linear(blocks, 256), &args)?;
    let (kernel, lines) = (device.compile(&program, "rp_chase_ca")?, device.compile(&program, "rp_latencies")?);
    let (out, latencies) = (device.alloc(24)?, device.alloc(4 * LINES as usize)?);
    device.synchronize()?;
    let config = BTreeMap::from([("stride".into(), format!("{stride} B")), ("steps".into(), CHASE_STEPS.to_string())]);
    let pursuit = Pursuit { device, kernel, lines, ring, out, latencies, nodes, stride, seed, steps: 0 };
    Ok(Prepared { ready: Box::new(pursuit), config, labels: vec![], dtype: Dtype::F32 })
}

struct Pursuit<'d> {
    device: &'d dyn Device,
    kernel: Kernel,
    lines: Kernel,
    ring: Buffer,
    /// Address where it ended, core cycles, nanoseconds.
    out: Buffer,
    latencies: Buffer,
    nodes: u64,
    stride: u64,
    seed: u64,
    /// Steps taken since the start, over all executions: each goes on where the last ended, so that the whole ring is used.
    steps: u64,
}

impl Pursuit<'_> {
    /// Where in the ring the chase is after `steps` steps.
    fn offset(&self, steps: u64) -> u64 {
        data::permuted(self.seed, steps % self.nodes, self.nodes) * self.stride
    }

    fn out(&self) -> Result<[u64; 3]> {
        let mut bytes = [0u8; 24];
        self.device.download(&self.out, 0, &mut bytes)?;
        Ok([0, 8, 16].map(|at| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default())))
    }

    /// The nearest, the median and the farthest line of those within L2, in cycles.
    fn nearest_and_farthest(&self) -> Result<String> {
        let count = (self.ring.len() as u64 / 128).min(LINES);
        let args = [Arg::Buffer(&self.ring, 0), Arg::Buffer(&self.latencies, 0), Arg::U64(count), Arg::U64(128)];
        self.device.launch(&self.lines, Geometry::linear(1, 1), &args)?;
        let mut bytes = vec![0u8; 4 * count as usize];
        self.device.download(&self.latencies, 0, &mut bytes)?;
        let mut cycles: Vec<u32> = bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap_or_default())).collect();
        cycles.sort_unstable();
        let at = |share: f64| cycles[((cycles.len() - 1) as f64 * share) as usize];
        Ok(format!("{} to {} cycles, median {}, of {count} lines", at(0.01), at(0.99), at(0.5)))
    }
}

impl Ready for Pursuit<'_> {
    fn enqueue(&mut self, _turn: usize) -> Result<()> {
        let start = self.offset(self.steps) as usize;
        self.steps += CHASE_STEPS;
        let args = [Arg::Buffer(&self.ring, start), Arg::Buffer(&self.out, 0), Arg::U64(0), Arg::U64(CHASE_STEPS)];
        self.device.launch(&self.kernel, Geometry::linear(1, 1), &args)
    }

    fn poison(&mut self) -> Result<()> {
        self.device.fill(&self.out, 0xff)
    }

    fn check(&mut self) -> Result<Verification> {
        let [end, ..] = self.out()?;
        let mut comparison = Comparison::new(0.0);
        let right = end == self.ring.address() + self.offset(self.steps);
        comparison.push(f64::from(u8::from(right)), 1.0, 1.0);
        Ok(comparison.finish("end of the chase, exact"))
    }

    fn observed(&self) -> BTreeMap<String, String> {
        let mut observed = BTreeMap::new();
        if let Ok([_, cycles, _]) = self.out() {
            observed.insert("cycles a load".into(), format!("{:.1}", cycles as f64 / CHASE_STEPS as f64));
        }
        // From a size on that no first cache holds.
        let within = (1 << 20..=self.device.info().last_level_cache().0).contains(&(self.ring.len() as u64));
        if within
            && self.stride == 128
            && let Ok(lines) = self.nearest_and_farthest()
        {
            observed.insert("single lines".into(), lines);
        }
        observed
    }
}
