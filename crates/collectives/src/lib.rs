//! The collectives suite: what the links between ranks give, counted as nccl-tests counts it.
//!
//! `collectives/all_reduce/r2/4MiB/f32` names the op, the number of ranks, S (the total buffer: the receive side for
//! all-gather, the send side for reduce-scatter) and the dtype. algbw is S over the slowest rank's time, busbw is algbw
//! times the op's factor. `collectives/overlap/…` is one beside a matrix product (`overlap.rs`).

mod cases;
mod overlap;
pub mod pairs;
mod ready;
mod reference;
mod variants;
mod work;

use cases::Shape;
use overlap::{Overlap, Place, Product};
use ridgepoint_core::{Case, Component, Dtype};
use ridgepoint_device::beside::Beside;
use ridgepoint_device::{CollectiveProblem, Device, DeviceError, Result};
use ridgepoint_harness::{Prepared, Scope, Suite};

/// Makes the product that a rank of a launched job runs beside its collective, of a size such as `m512n512k512`, on a device of its own
/// by this id. For [`ridgepoint_device::cpu::rank_main`].
///
/// # Errors
/// No size, or the device's: no library that multiplies this dtype, no memory.
pub fn beside(device: &str, size: &str, dtype: Dtype, seed: u64) -> Result<Box<dyn Beside>> {
    let parsed = size.parse().map_err(|()| DeviceError::invalid(format!("'{}' is no product's size", size.escape_debug())))?;
    Ok(Box::new(Product::start(Place::Device(device.into()), parsed, dtype, seed)?))
}

/// The collective that an id names, of which one beside a product is none.
#[must_use]
pub fn problem(id: &str) -> Option<CollectiveProblem> {
    Shape::parse(id).map(|shape| shape.problem(shape.dtype, 1))
}

/// The suite.
pub struct CollectivesSuite;

impl Suite for CollectivesSuite {
    fn component(&self) -> Component {
        Component::Collectives
    }

    fn cases(&self, scope: &Scope) -> Vec<Case> {
        let plain = cases::list(scope).into_iter().filter_map(Shape::case);
        plain.chain(cases::overlaps(scope).into_iter().filter_map(Overlap::case)).collect()
    }

    fn parse(&self, id: &str) -> Option<Case> {
        Shape::parse(id).map_or_else(|| Overlap::parse(id)?.case(), Shape::case)
    }

    fn providers(&self, _case: &Case, device: &dyn Device) -> Vec<String> {
        variants::providers(device)
    }

    fn prepare<'d>(&self, case: &Case, provider: &str, device: &'d dyn Device, seed: u64) -> Result<Prepared<'d>> {
        if let Some(overlap) = Overlap::parse(case.id.as_str()) {
            return overlap::prepare(overlap, provider, device, seed);
        }
        let shape =
            Shape::parse(case.id.as_str()).ok_or_else(|| DeviceError::invalid(format!("{} is no collectives case", case.id)))?;
        ready::prepare(shape, provider, device, seed)
    }
}
