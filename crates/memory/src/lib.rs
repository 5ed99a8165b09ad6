//! The memory suite: streams through device memory and the staircase of caches, and the latency of dependent loads.
//!
//! `memory/triad/256MiB/f32` names the op, the size of one array and the dtype; `/hot` at the end means that the arrays are
//! left in whatever cache they fit, which is how the staircase is measured. `memory/latency/1MiB` is a pointer chase over that
//! footprint, `/stride4KiB` one whose elements are pages apart; `memory/shared/32KiB` reads an array in each workgroup's shared
//! memory, `/ways4` with four-way bank conflicts. Links: `memory/h2d/256MiB` copies from page-locked host memory to the device,
//! `d2h` back, `bidir` both at once; `/pageable`, `/node1` (host memory of a NUMA node), `/devices8` (that many at once);
//! `memory/p2p/256MiB/to3` from this device to device 3, `/bidir` both ways. Patterns: `memory/kvpages/1GiB/tokens16`,
//! `memory/rows/1GiB/row8KiB`, `memory/strided/1GiB/f32/stride8`, `memory/atomics/32MiB/f32/line`.

mod bulk;
mod cases;
mod chase;
mod climb;
mod links;
mod patterns;
mod pursuit;
mod shared;
mod stream;
mod tune;
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
            Some(Shape::Latency(chase)) => chase::prepare(chase, device, seed),
            Some(Shape::Link(link)) => links::prepare(link, provider, device, seed),
            Some(Shape::Pattern(pattern)) => patterns::prepare(pattern, device, seed),
            Some(Shape::Shared(ways)) => shared::prepare(ways, device, seed),
            None => Err(ridgepoint_device::DeviceError::invalid(format!("{} is no memory case", case.id))),
        }
    }
}
