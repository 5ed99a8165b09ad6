//! The pointer chase: one thread, each load's address from the load before, in random order over cache lines, so that
//! neither a prefetcher nor a second load in flight can hide the latency. Here the ring is made by the host, for a CPU and for
//! Vulkan; pursuit.rs has the GPU's own.

use crate::cases::{CHASE_STEPS, Chase};
use ridgepoint_core::{Backend, DeviceInfo, Dtype, Verification, data};
use ridgepoint_device::{Arg, Buffer, Device, DeviceError, Geometry, Kernel, Program, Result};
use ridgepoint_harness::verify::Comparison;
use ridgepoint_harness::{Prepared, Ready};
use std::collections::BTreeMap;

/// Distance of two elements where an id names none: a cache line, so that a footprint fills as much of a cache as it says.
fn line(info: &DeviceInfo) -> usize {
    match info.backend {
        Backend::Cpu | Backend::Fake => 64,
        Backend::Vulkan if info.software => 64,
        Backend::Cuda | Backend::Hip | Backend::Vulkan => 128,
    }
}

/// Distance of two elements. A stride that an id names has a line added to it: pages apart, but not all in one set of a cache.
fn stride(chase: Chase, info: &DeviceInfo) -> usize {
    chase.stride.map_or(line(info), |stride| stride.0 as usize + line(info))
}

/// Elements of the ring brought to the device at once.
const CHUNK_LINES: usize = 1 << 18;

pub(crate) fn prepare<'d>(chase: Chase, device: &'d dyn Device, seed: u64) -> Result<Prepared<'d>> {
    if matches!(device.info().backend, Backend::Cuda | Backend::Hip) {
        return crate::pursuit::prepare(chase.footprint, stride(chase, device.info()) as u64, device, seed);
    }
    let stride = stride(chase, device.info());
    let footprint = chase.footprint;
    let lines = u32::try_from((footprint.0 / stride as u64).max(1))
        .map_err(|_| DeviceError::unsupported(format!("a chase over {footprint} has more lines than its index can count")))?;
    // The device's memory first: where that fails, the host need not be asked for its share.
    let (ring, out) = (Ring::new(device, lines, stride)?, device.alloc(8)?);
    let order = shuffled(lines, seed)?;
    upload(device, &ring, &order)?;
    let program = Program { name: "memory/chase", ..Program::default() };
    let kernel = device.compile(&program, "rp_chase")?;
    let config = BTreeMap::from([("stride".into(), format!("{stride} B")), ("steps".into(), CHASE_STEPS.to_string())]);
    let ready = Follow { device, kernel, ring, out, order, steps: 0, expected: None };
    Ok(Prepared { ready: Box::new(ready), config, labels: vec![], dtype: Dtype::F32 })
}

/// The first eight bytes of each line say where the next element of the cycle is.
fn upload(device: &dyn Device, ring: &Ring, order: &[u32]) -> Result<()> {
    let stride = ring.stride;
    // A chunk of wide strides would be gigabytes.
    let chunk = CHUNK_LINES.min((64 << 20) / stride).max(1);
    let mut next = reserve(order.len())?;
    next.resize(order.len(), 0);
    for (i, line) in order.iter().enumerate() {
        next[*line as usize] = order[(i + 1) % order.len()];
    }
    let mut bytes = vec![0u8; chunk.min(order.len()) * stride];
    for (i, lines) in next.chunks(chunk).enumerate() {
        for (slot, next) in bytes.chunks_exact_mut(stride).zip(lines) {
            slot[..8].copy_from_slice(&ring.element(*next).to_le_bytes());
        }
        device.upload(&ring.buffer, i * chunk * stride, &bytes[..lines.len() * stride])?;
    }
    Ok(())
}

/// Lines of memory, each of which names another.
struct Ring {
    buffer: Buffer,
    stride: usize,
    /// An element is an address, and not an index in u64s: what a CPU can load from without computing anything.
    addresses: bool,
}

impl Ring {
    fn new(device: &dyn Device, lines: u32, stride: usize) -> Result<Self> {
        let backend = device.info().backend;
        let addresses = matches!(backend, Backend::Cpu | Backend::Fake);
        Ok(Self { buffer: device.alloc(lines as usize * stride)?, stride, addresses })
    }

    /// What an element holds whose successor is in `line`.
    fn element(&self, line: u32) -> u64 {
        let offset = u64::from(line) * self.stride as u64;
        if self.addresses { self.buffer.address() + offset } else { offset / 8 }
    }
}

/// Room for one number a line, or an error: a footprint is the user's to choose.
fn reserve(lines: usize) -> Result<Vec<u32>> {
    let mut v = Vec::new();
    v.try_reserve_exact(lines)
        .map_err(|_| DeviceError::unsupported(format!("the host has no memory left to make a ring of {lines} lines")))?;
    Ok(v)
}

/// The numbers below `lines` in random order, by Fisher and Yates; read as a cycle, it is one over all of them.
pub(crate) fn shuffled(lines: u32, seed: u64) -> Result<Vec<u32>> {
    let mut order = reserve(lines as usize)?;
    order.extend(0..lines);
    for i in (1..lines as usize).rev() {
        order.swap(i, (data::hash(seed, i as u64) % (i as u64 + 1)) as usize);
    }
    Ok(order)
}

struct Follow<'d> {
    device: &'d dyn Device,
    kernel: Kernel,
    ring: Ring,
    out: Buffer,
    order: Vec<u32>,
    /// Steps taken since the start, over all executions: each goes on where the last ended, so that the whole ring is used.
    steps: u64,
    expected: Option<u64>,
}

impl Follow<'_> {
    /// Where the chase is after `steps` steps.
    fn at(&self, steps: u64) -> u64 {
        self.ring.element(self.order[(steps % self.order.len() as u64) as usize])
    }
}

impl Ready for Follow<'_> {
    fn enqueue(&mut self, _turn: usize) -> Result<()> {
        let start = self.at(self.steps);
        self.steps += CHASE_STEPS;
        self.expected = Some(self.at(self.steps));
        let args = [
            Arg::Buffer(&self.ring.buffer, 0),
            Arg::Buffer(&self.out, 0),
            Arg::U64(self.ring.buffer.len() as u64 / 8),
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
        let order = shuffled(1000, 7).unwrap();
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1000).collect::<Vec<u32>>());
        assert_ne!(order, sorted);
    }
}
