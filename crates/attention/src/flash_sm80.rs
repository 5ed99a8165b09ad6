//! Prefill by mma.sync, kernels/attention/flash_sm80.cu, for NVIDIA's chips from sm_80 on that have no kernel of their own. The host
//! contract stands there. It has run on an H200 (head dimension 96), on no chip before it, and over pages on none.

use crate::layout;
use crate::nvidia::scale;
use crate::shape::{Kind, Shape};
use crate::splits::given;
use ridgepoint_core::Dtype;
use ridgepoint_device::{Arg, AttentionOperands, AttentionPlan, Device, DeviceError, Geometry, Kernel, Program, Result};
use std::collections::BTreeMap;

/// The provider's name.
pub(crate) const PROVIDER: &str = "flash-sm80";
/// Threads of a block.
const THREADS: u32 = 128;

/// True for the shapes that the kernel takes.
pub(crate) fn fits(shape: Shape) -> bool {
    matches!(shape.kind, Kind::Prefill | Kind::MlaPrefill)
        && matches!(shape.dtype, Dtype::Bf16 | Dtype::F16)
        && shape.kv == shape.dtype
        && shape.page.is_none_or(u64::is_power_of_two)
        && matches!((shape.dqk, shape.dv), (64, 64) | (96, 96) | (128, 128) | (192, 128) | (256, 256))
}

/// True where one of the entries serves that know nothing but the mask.
fn dense(shape: Shape) -> bool {
    shape.plain() && shape.dqk == shape.dv && matches!(shape.dqk, 64 | 128)
}

/// Query rows and keys of a tile: the output of a warp's rows takes half of its registers.
fn tile(shape: Shape) -> (u64, u64) {
    (if shape.dv > 128 { 64 } else { 128 }, if shape.dqk > 64 { 32 } else { 64 })
}

/// Dynamic shared memory of a block.
fn shared(shape: Shape) -> u64 {
    let (rows, keys) = tile(shape);
    let [dqk, dv] = [shape.dqk, shape.dv].map(|d| d.next_multiple_of(64));
    2 * (rows * dqk + keys * (dqk + dv))
}

/// The kernel for one shape.
pub(crate) struct Plan<'d> {
    device: &'d dyn Device,
    shape: Shape,
    kernel: Kernel,
}

impl<'d> Plan<'d> {
    /// Compiles it.
    ///
    /// # Errors
    /// `Unsupported` for more keys than it counts; as [`Device::compile`].
    pub(crate) fn new(shape: Shape, device: &'d dyn Device) -> Result<Self> {
        if shape.page.is_some_and(|tokens| i32::try_from(layout::pool(shape) * shape.hkv * tokens).is_err()) {
            return Err(DeviceError::unsupported("more keys than the kernel counts"));
        }
        let flag = |on: bool| u8::from(on).to_string();
        let general = [
            ("RP_GENERAL", "1".to_owned()),
            ("RP_D", shape.dqk.to_string()),
            ("RP_DV", shape.dv.to_string()),
            ("RP_CAUSAL", flag(shape.causal)),
            ("RP_F16", flag(shape.dtype == Dtype::F16)),
        ];
        let mask = if shape.causal { "causal" } else { "full" };
        let (defines, entry): (&[_], _) = if dense(shape) {
            (&[], format!("rp_flash_sm80_{}_d{}_{mask}", shape.dtype, shape.dqk))
        } else {
            (&general, "rp_flash_sm80".to_owned())
        };
        let kernel = device.compile(&Program { name: "attention/flash_sm80", defines, ..Program::default() }, &entry)?;
        Ok(Self { device, shape, kernel })
    }
}

impl AttentionPlan for Plan<'_> {
    fn enqueue(&self, operands: &AttentionOperands<'_>) -> Result<()> {
        let s = self.shape;
        let mut args = [operands.q, operands.k, operands.v, operands.o].map(|b| Arg::Buffer(b, 0)).to_vec();
        if !dense(s) {
            args.push(given(s.ragged, operands.lengths, "lengths")?);
            args.push(given(s.page.is_some(), operands.pages, "pages")?);
            args.push(given(s.sinks, operands.sinks, "sinks")?);
        }
        args.extend([s.hq / s.hkv, s.sq, s.sk].map(|n| Arg::I32(n as i32)));
        if !dense(s) {
            let shift = s.page.map_or(0, |tokens| u64::from(tokens.ilog2()));
            args.extend([s.hq, shift, s.window.unwrap_or(0)].map(|n| Arg::I32(n as i32)));
        }
        args.push(Arg::F32(scale(s)));
        let grid = [s.sq.div_ceil(tile(s).0) as u32, (s.b * s.hq) as u32, 1];
        let geometry = Geometry { grid, ..Geometry::linear(1, THREADS).with_shared(shared(s) as u32) };
        self.device.launch(&self.kernel, geometry, &args)
    }

    fn config(&self) -> BTreeMap<String, String> {
        let (rows, keys) = tile(self.shape);
        BTreeMap::from([("tile".into(), format!("{rows} queries × {keys} keys"))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shared_memory_is_what_the_contract_says_and_every_chip_has_it() {
        let of = |id: &str| Shape::parse(&format!("attention/{id}")).filter(|s| fits(*s)).map(shared);
        assert_eq!(of("prefill/b1hq2hkv1sq5sk7d64/f16"), Some(32_768));
        assert_eq!(of("prefill/b1hq2hkv1sq5sk7d128/bf16/causal"), Some(49_152));
        assert_eq!(of("prefill/b1hq2hkv1sq5sk7d96/bf16/causal/w3"), Some(49_152));
        assert_eq!(of("prefill/b1hq2hkv1sq5sk7d256/bf16/ragged"), Some(65_536));
        assert_eq!(of("mla-prefill/b1hq2hkv2sq5sk7d192v128/bf16/sinks"), Some(69_632)); // of the 99 KB that the smallest have
        assert_eq!(of("prefill/b1hq2hkv1sq5sk7d80/bf16"), None);
        assert_eq!(of("prefill/b1hq2hkv1sq5sk7d128/bf16/page64"), Some(49_152));
        assert_eq!(of("prefill/b1hq2hkv1sq5sk7d128/bf16/page24"), None);
    }
}
