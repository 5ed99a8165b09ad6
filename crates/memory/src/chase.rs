//! The pointer chase: one thread, each load's address from the load before, in random order over cache lines, so that
//! neither a prefetcher nor a second load in flight can hide the latency.

use crate::cases::CHASE_STEPS;
use ridgepoint_core::{Bytes, Dtype, Verification, data};
use ridgepoint_device::{Arg, Buffer, Device, DeviceError, Geometry, Kernel, Program, Result};
use ridgepoint_harness::verify::Comparison;
use ridgepoint_harness::{Prepared, Ready};
use std::collections::BTreeMap;

/// Distance of two elements: a line of every GPU, and two of a CPU, whose prefetcher likes to fetch lines in pairs.
const STRIDE: usize = 128;

pub(crate) fn prepare<'d>(footprint: Bytes, device: &'d dyn Device, seed: u64) -> Result<Prepared<'d>> {
    let lines = footprint.0 as usize / STRIDE;
    if lines < 2 {
        return Err(DeviceError::unsupported(format!("a chase over {footprint} has fewer than two lines")));
    }
    let order = cycle(lines, seed);
    let mut ring = vec![0u64; lines * STRIDE / 8];
    for (i, line) in order.iter().enumerate() {
        let next = order[(i + 1) % lines];
        ring[*line as usize * STRIDE / 8] = u64::from(next) * (STRIDE / 8) as u64;
    }
    let bytes: Vec<u8> = ring.iter().flat_map(|e| e.to_le_bytes()).collect();
    let (buffer, out) = (device.alloc(bytes.len())?, device.alloc(8)?);
    device.upload(&buffer, 0, &bytes)?;
    let program = Program { name: "memory/chase", ..Program::default() };
    let kernel = device.compile(&program, "rp_chase")?;
    let config = BTreeMap::from([("stride".into(), format!("{STRIDE} B")), ("steps".into(), CHASE_STEPS.to_string())]);
    let ready = Chase { device, kernel, buffer, out, elements: ring.len() as u64, order, steps: 0, expected: None };
    Ok(Prepared { ready: Box::new(ready), config, labels: vec![], dtype: Dtype::F32 })
}

/// All lines in random order: a shuffle by Fisher and Yates, read as one cycle.
fn cycle(lines: usize, seed: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..lines as u32).collect();
    for i in (1..lines).rev() {
        order.swap(i, (data::hash(seed, i as u64) % (i as u64 + 1)) as usize);
    }
    order
}

struct Chase<'d> {
    device: &'d dyn Device,
    kernel: Kernel,
    buffer: Buffer,
    out: Buffer,
    elements: u64,
    order: Vec<u32>,
    /// Steps taken since the start, over all executions: each goes on where the last ended, so that the whole ring is used.
    steps: u64,
    expected: Option<u64>,
}

impl Chase<'_> {
    /// Where the chase is after `steps` steps.
    fn at(&self, steps: u64) -> u64 {
        u64::from(self.order[(steps % self.order.len() as u64) as usize]) * (STRIDE / 8) as u64
    }
}

impl Ready for Chase<'_> {
    fn enqueue(&mut self, _turn: usize) -> Result<()> {
        let start = self.at(self.steps);
        self.steps += CHASE_STEPS;
        self.expected = Some(self.at(self.steps));
        let args = [
            Arg::Buffer(&self.buffer, 0),
            Arg::Buffer(&self.out, 0),
            Arg::U64(self.elements),
            Arg::U64(start),
            Arg::U64(CHASE_STEPS),
        ];
        self.device.launch(&self.kernel, Geometry::linear(1, 1), &args)
    }

    fn poison(&mut self) -> Result<()> {
        self.expected = None;
        self.device.fill(&self.out, 0xff)
    }

    fn check(&mut self) -> Result<Verification> {
        let mut out = [0u8; 8];
        self.device.download(&self.out, 0, &mut out)?;
        let mut comparison = Comparison::new(0.0);
        let right = self.expected == Some(u64::from_le_bytes(out));
        comparison.push(f64::from(u8::from(right)), 1.0, 1.0);
        Ok(comparison.finish("end of the chase, exact"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_is_one_cycle_over_all_lines() {
        let order = cycle(1000, 7);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1000).collect::<Vec<u32>>());
        assert_ne!(order, sorted);
    }
}
