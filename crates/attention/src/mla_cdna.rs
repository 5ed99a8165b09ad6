//! Absorbed MLA decode on CDNA by kernels/attention/mla_decode_cdna.cu. The host contract stands there. Not yet run on hardware.

use crate::nvidia::scale;
use crate::shape::{Kind, Shape};
use crate::splits::{Splits, given};
use ridgepoint_core::Dtype;
use ridgepoint_device::{Arg, AttentionOperands, AttentionPlan, Device, DeviceError, Geometry, Kernel, Program, Result};
use std::collections::BTreeMap;

/// The provider's name.
pub(crate) const PROVIDER: &str = "mla-decode-cdna";
/// Columns of the latent and of its part that is V.
const LATENT: u64 = 576;
const VALUE: u64 = 512;
/// Rows (query heads times queries) of a block, and its threads.
const ROWS: u64 = 32;
const THREADS: u32 = 256;
/// Fewest keys worth a split.
const LEAST_SPLIT: u64 = 256;

/// True for the shapes that the kernel takes.
pub(crate) fn fits(shape: Shape) -> bool {
    shape.kind == Kind::MlaDecode
        && matches!(shape.dtype, Dtype::Bf16 | Dtype::F16)
        && shape.kv == shape.dtype
        && shape.window.is_none()
        && (shape.hkv, shape.dqk, shape.dv) == (1, LATENT, VALUE)
}

/// Splits of the keys: one block a compute unit, whose LDS holds no second, each with enough keys to be worth it.
fn splits(shape: Shape, units: u64) -> u64 {
    (units / (shape.b * (shape.hq * shape.sq).div_ceil(ROWS))).clamp(1, (shape.sk / LEAST_SPLIT).max(1))
}

/// The kernel for one shape.
pub(crate) struct Plan<'d> {
    device: &'d dyn Device,
    shape: Shape,
    kernel: Kernel,
    splits: Splits<'d>,
}

impl<'d> Plan<'d> {
    /// Compiles it, and the kernel that joins the splits.
    ///
    /// # Errors
    /// `Unsupported` for more than the kernels count; as [`Device::compile`] and [`Device::alloc`].
    pub(crate) fn new(shape: Shape, device: &'d dyn Device) -> Result<Self> {
        if (shape.hq * shape.sq).div_ceil(ROWS) > 0xffff {
            return Err(DeviceError::unsupported("more queries than a grid has blocks along y"));
        }
        let defines = [("RP_DTYPE", shape.dtype.name().to_owned())];
        let program = Program { name: "attention/mla_decode_cdna", defines: &defines, ..Program::default() };
        let kernel = device.compile(&program, "rp_mla_decode_cdna")?;
        let splits = Splits::new(device, shape, vec![splits(shape, u64::from(device.info().units))])?;
        Ok(Self { device, shape, kernel, splits })
    }
}

impl AttentionPlan for Plan<'_> {
    fn enqueue(&self, operands: &AttentionOperands<'_>) -> Result<()> {
        let s = self.shape;
        let (rows, count) = (s.hq * s.sq, self.splits.count);
        let mut args = vec![
            Arg::Buffer(operands.q, 0),
            Arg::Buffer(operands.k, 0),
            Arg::Buffer(operands.o, 0),
            Arg::Buffer(&self.splits.partial, 0),
            Arg::Buffer(&self.splits.stats, 0),
            given(s.ragged, operands.lengths, "lengths")?,
            given(s.page.is_some(), operands.pages, "pages")?,
            // Of several splits the kernel that joins them knows the sinks.
            given(s.sinks && count == 1, operands.sinks, "sinks")?,
        ];
        args.extend([rows, s.sq, s.sk, s.page.unwrap_or(1), count, u64::from(s.causal)].map(|n| Arg::I32(n as i32)));
        args.push(Arg::F32(scale(s)));
        let grid = [(s.b * count) as u32, rows.div_ceil(ROWS) as u32, 1];
        self.device.launch(&self.kernel, Geometry { grid, ..Geometry::linear(1, THREADS) }, &args)?;
        self.splits.join(operands)
    }

    fn candidates(&self) -> usize {
        self.splits.candidates()
    }

    fn select(&mut self, index: usize) -> Result<()> {
        self.splits.select(index)
    }

    fn config(&self) -> BTreeMap<String, String> {
        let registers = self.kernel.resources.map(|r| ("registers".to_owned(), r.registers.to_string()));
        self.splits.config().chain(registers).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absorbed_decode_with_pages_sinks_and_lengths_fits() {
        let shape = |id: &str| Shape::parse(&format!("attention/mla-decode/{id}")).unwrap();
        assert!(fits(shape("b8hq16hkv1sq1sk4096d576v512/bf16")));
        assert!(fits(shape("b8hq16hkv1sq2sk4096d576v512/f16/page64/sinks/ragged")));
        assert!(!fits(shape("b8hq16hkv1sq1sk4096d576v512/bf16/kv=e4m3")));
        assert!(!fits(shape("b8hq16hkv1sq1sk4096d320v256/bf16")));
        assert_eq!(splits(shape("b1hq128hkv1sq1sk65536d576v512/bf16"), 304), 76);
        assert_eq!(splits(shape("b128hq128hkv1sq1sk8192d576v512/bf16"), 304), 1);
    }
}
