//! The memory suite: streams through device memory and the staircase of caches, and the latency of dependent loads.
//!
//! `memory/triad/256MiB/f32` names the op, the size of one array and the dtype; `/hot` at the end means that the arrays are
//! left in whatever cache they fit, which is how the staircase is measured. `memory/latency/1MiB` is a pointer chase over
//! that footprint; `memory/h2d/256MiB` and `memory/d2h/256MiB` copy between page-locked host memory and the device;
//! `memory/shared/32KiB` reads an array in each workgroup's shared memory, `/ways4` with four-way bank conflicts.

mod cases;
mod chase;
mod host;
mod shared;
mod stream;
mod variants;

use cases::Shape;
use ridgepoint_core::{Case, Component};
use ridgepoint_device::{Device, Result};
use ridgepoint_harness::{Prepared, Scope, Suite};

/// The suite.
pub struct Memory;

impl Suite for Memory {
    fn component(&self) -> Component {
        Component::Memory
    }

    fn cases(&self, scope: &Scope) -> Vec<Case> {
        cases::list(scope).into_iter().filter_map(Shape::case).collect()
    }

    fn parse(&self, id: &str) -> Option<Case> {
        Shape::parse(id)?.case()
    }

    fn providers(&self, case: &Case, device: &dyn Device) -> Vec<String> {
        Shape::parse(case.id.as_str()).map(|shape| variants::providers(shape, device)).unwrap_or_default()
    }

    fn prepare<'d>(&self, case: &Case, provider: &str, device: &'d dyn Device, seed: u64) -> Result<Prepared<'d>> {
        match Shape::parse(case.id.as_str()) {
            Some(Shape::Stream(stream)) => stream::prepare(stream, provider, device, seed),
            Some(Shape::Latency(footprint)) => chase::prepare(footprint, device, seed),
            Some(Shape::Host(direction, bytes)) => host::prepare(direction, bytes, device, seed),
            Some(Shape::Shared(ways)) => shared::prepare(ways, device, seed),
            None => Err(ridgepoint_device::DeviceError::invalid(format!("{} is no memory case", case.id))),
        }
    }
}
