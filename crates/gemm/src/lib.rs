//! The GEMM suite: what the matrix units really give.
//!
//! `gemm/m4096n4096k4096/bf16` is C (M×N) = A·Bᵀ with A stored as M×K and B as N×K, as a linear layer stores its weight and
//! as FP8 on NVIDIA must have it. C has the inputs' dtype for f64, f32, f16 and bf16, f32 for tf32, bf16 for FP8, i32 for
//! int8. Accumulation is in f32 (f64 for f64, i32 for int8).
//!
//! Ids go on, in this order, where something is not the default: `gemm/b16m…` is a batch of 16; `e4m3xe5m2` a pair of types; `/out=f32`
//! the type of C; `/scale=row` and `/scale=block128` the scales of FP8, which has one f32 for A and one for B otherwise. mxfp8, mxfp4
//! and nvfp4 have their block scales by definition. `gemm/grouped/…` is the experts of a mixture, each a product of its own.

mod cases;
mod check;
mod gemv;
mod grouped;
mod matrix_amd;
mod mma;
mod operands;
mod ready;
mod split;
mod tile;
mod tiled;
mod tune;
mod variants;
mod wgmma;

use cases::Shape;
use grouped::Grouped;
use ridgepoint_core::{Case, Component};
use ridgepoint_device::{Device, DeviceError, Result};
use ridgepoint_harness::{Prepared, Scope, Suite};

/// The suite.
pub struct Gemm;

impl Suite for Gemm {
    fn component(&self) -> Component {
        Component::Gemm
    }

    fn cases(&self, scope: &Scope) -> Vec<Case> {
        cases::list(scope).into_iter().filter_map(Shape::case).collect()
    }

    fn parse(&self, id: &str) -> Option<Case> {
        Shape::parse(id).and_then(Shape::case).or_else(|| Grouped::parse(id)?.case())
    }

    fn providers(&self, case: &Case, device: &dyn Device) -> Vec<String> {
        let plain = Shape::parse(case.id.as_str()).map(|shape| variants::providers(shape, device));
        plain.or_else(|| Some(Grouped::parse(case.id.as_str())?.providers(device))).unwrap_or_default()
    }

    fn prepare<'d>(&self, case: &Case, provider: &str, device: &'d dyn Device, seed: u64) -> Result<Prepared<'d>> {
        if let Some(grouped) = Grouped::parse(case.id.as_str()) {
            return grouped::prepare(grouped, provider, device, seed);
        }
        let shape = Shape::parse(case.id.as_str()).ok_or_else(|| DeviceError::invalid(format!("{} is no gemm case", case.id)))?;
        ready::prepare(shape, provider, device, seed)
    }
}
