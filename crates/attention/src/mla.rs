//! Absorbed MLA decode by our own Hopper kernel, kernels/attention/mla_decode_sm90.cu. The host contract stands there.

use crate::balance::{Costs, places, splits};
use crate::layout;
use crate::nvidia::{paged_by_tma, scale};
use crate::shape::{Kind, Shape};
use crate::splits::{Splits, given};
use ridgepoint_core::Dtype;
use ridgepoint_device::{
    Arg, AttentionOperands, AttentionPlan, Buffer, Device, DeviceError, Geometry, Kernel, Program, Result, TensorMap,
};
use std::collections::BTreeMap;

/// The provider's name.
pub(crate) const PROVIDER: &str = "mla-decode-sm90";
/// Columns of the latent and of its part that is V.
const LATENT: u64 = 576;
const VALUE: u64 = 512;
/// Rows (query heads times queries) of a block.
const ROWS: u64 = 64;
/// Keys of a tile, and so the most of a load.
const KEYS: u64 = 64;
/// Threads and dynamic shared memory of a block, by the contract: one a multiprocessor.
const THREADS: u32 = 384;
const SHARED: u32 = 230_912;

/// True for the shapes that the kernel takes. It masks as a causal decode does, which of one query's mask is none.
pub(crate) fn fits(shape: Shape) -> bool {
    let half =
        matches!(shape.dtype, Dtype::Bf16 | Dtype::F16) && Shape { ragged: false, page: None, kv: shape.dtype, ..shape }.plain();
    let kv = shape.kv == shape.dtype || shape.kv == Dtype::E4m3;
    shape.kind == Kind::MlaDecode
        && half
        && kv
        && paged_by_tma(shape)
        && (shape.causal || shape.sq == 1)
        && (shape.hkv, shape.dqk, shape.dv) == (1, LATENT, VALUE)
}

/// A key is 1152 bytes, and a block's partial results, which L2 holds, are 128 KB; a block walks keys two tiles of 64 at a time.
fn costs(shape: Shape) -> Costs {
    Costs { blocks: (shape.hq * shape.sq).div_ceil(ROWS), block: 64, partial: 128, least: 512 }
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
    /// As [`Device::compile`] and [`Device::alloc`]; `Unsupported` for more rows than the kernels count.
    pub(crate) fn new(shape: Shape, device: &'d dyn Device) -> Result<Self> {
        if shape.b > 0xffff || i32::try_from(shape.hq * shape.sq).is_err() {
            return Err(DeviceError::unsupported("more sequences or queries than the kernel counts"));
        }
        if shape.page.is_some_and(|tokens| i32::try_from(layout::pool(shape) * tokens).is_err()) {
            return Err(DeviceError::unsupported("more keys than the kernel counts"));
        }
        let fp8 = [("RP_KV8", "1".to_owned())];
        let (defines, entry): (&[_], _) = if shape.kv == Dtype::E4m3 { (&fp8, "kv8_") } else { (&[], "") };
        let program = Program { name: "attention/mla_decode_sm90", defines, ..Program::default() };
        let kernel = device.compile(&program, &format!("rp_mla_decode_sm90_{entry}{}", shape.dtype))?;
        let places = places(device, &kernel, u64::from(THREADS), u64::from(SHARED));
        let splits = Splits::new(device, shape, splits(shape, &costs(shape), places))?;
        Ok(Self { device, shape, kernel, splits })
    }

    /// (64, rows, 9, sequences) elements, `tile` rows of 64 columns at once; under the swizzle where products read what is loaded.
    fn map(&self, buffer: &Buffer, dtype: Dtype, rows: u64, sequences: u64, tile: u64) -> Result<Vec<u8>> {
        let bytes = dtype.bits() / 8;
        let map = TensorMap {
            element_bytes: bytes as u32,
            bf16: dtype == Dtype::Bf16,
            dims: vec![64, rows, LATENT / 64, sequences],
            strides: vec![bytes * LATENT, bytes * 64, bytes * LATENT * rows],
            tile: vec![64, tile as u32, 1, 1],
            swizzle: if bytes == 2 { 128 } else { 0 },
        };
        self.device.tensor_map(buffer, &map)
    }
}

impl AttentionPlan for Plan<'_> {
    fn enqueue(&self, operands: &AttentionOperands<'_>) -> Result<()> {
        let AttentionOperands { q, k, o, .. } = *operands;
        let Shape { b, hq, sq, sk, page, dtype, kv, .. } = self.shape;
        let rows = hq * sq;
        let keys = match page {
            None => self.map(k, kv, sk, b, KEYS),
            Some(tokens) => self.map(k, kv, layout::pool(self.shape) * tokens, 1, tokens.min(KEYS)),
        };
        let maps = [self.map(q, dtype, rows, b, ROWS)?, keys?];
        let args = [
            Arg::Bytes(&maps[0]),
            Arg::Bytes(&maps[1]),
            Arg::Buffer(q, 0),
            Arg::Buffer(o, 0),
            Arg::Buffer(&self.splits.partial, 0),
            Arg::Buffer(&self.splits.stats, 0),
            given(self.shape.ragged, operands.lengths, "lengths")?,
            given(page.is_some(), operands.pages, "pages")?,
            given(kv == Dtype::E4m3, operands.scales, "scales")?,
            Arg::I32(page.map_or(0, |tokens| tokens.ilog2() as i32)),
            Arg::I32(rows as i32),
            Arg::I32(sq as i32),
            Arg::I32(sk as i32),
            Arg::I32(self.splits.count as i32),
            Arg::F32(scale(self.shape)),
        ];
        let geometry = Geometry {
            grid: [rows.div_ceil(ROWS) as u32, self.splits.count as u32, b as u32],
            ..Geometry::linear(1, THREADS).with_shared(SHARED)
        };
        self.device.launch(&self.kernel, geometry, &args)?;
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
    fn splits_fill_the_device_and_no_split_is_tiny() {
        let at = |id: &str| {
            let shape = Shape::parse(&format!("attention/mla-decode/{id}/bf16")).unwrap();
            splits(shape, &costs(shape), 132)[0]
        };
        assert_eq!(at("b128hq128hkv1sq1sk8192d576v512"), 1);
        assert_eq!(at("b1hq128hkv1sq1sk65536d576v512"), 64);
        assert_eq!(at("b1hq16hkv1sq1sk4096d576v512"), 8);
        assert_eq!(at("b1hq16hkv1sq1sk7d576v512"), 1);
        assert_eq!(at("b1hq128hkv1sq2sk65536d576v512"), 32);
    }

    #[test]
    fn only_what_the_kernel_is_written_for() {
        let fits = |id: &str| fits(Shape::parse(&format!("attention/{id}")).unwrap());
        assert!(fits("mla-decode/b8hq16hkv1sq1sk4096d576v512/bf16"));
        assert!(fits("mla-decode/b8hq16hkv1sq1sk4096d576v512/f16/ragged"));
        assert!(fits("mla-decode/b8hq16hkv1sq1sk4096d576v512/f16/page16"));
        assert!(fits("mla-decode/b8hq16hkv1sq1sk4096d576v512/bf16/page256/ragged"));
        assert!(!fits("mla-decode/b8hq16hkv1sq1sk4096d576v512/bf16/page4"));
        assert!(!fits("mla-decode/b8hq16hkv1sq1sk4096d576v512/bf16/page48"));
        assert!(fits("mla-decode/b8hq16hkv1sq1sk4096d576v512/bf16/kv=e4m3/page64/ragged"));
        assert!(!fits("mla-decode/b8hq16hkv1sq1sk4096d576v512/e4m3"));
        assert!(fits("mla-decode/b8hq16hkv1sq2sk4096d576v512/bf16/causal"));
        assert!(fits("mla-decode/b8hq128hkv1sq4sk4096d576v512/f16/kv=e4m3/causal/page64/ragged"));
        assert!(!fits("mla-decode/b8hq16hkv1sq2sk4096d576v512/bf16"));
        assert!(!fits("mla-decode/b8hq16hkv1sq2sk4096d576v512/bf16/causal/sinks"));
        assert!(!fits("mla-decode/b8hq16hkv1sq1sk4096d576v512/f32"));
        assert!(!fits("mla-decode/b8hq16hkv2sq1sk4096d576v512/bf16"));
        assert!(!fits("mla-decode/b8hq16hkv1sq1sk4096d320v256/bf16"));
    }
}
