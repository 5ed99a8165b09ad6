//! FP8 prefill on Hopper by our own kernel, kernels/attention/flash_fp8_sm90.cu. The host contract stands there. Which tile and
//! which softmax are fastest is tried on the chip at hand.

use crate::layout;
use crate::nvidia::{paged_by_tma, scale};
use crate::shape::{Kind, Shape};
use crate::splits::given;
use ridgepoint_core::Dtype;
use ridgepoint_device::{
    Arg, AttentionOperands, AttentionPlan, Buffer, Device, DeviceError, Geometry, Kernel, Program, Result, TensorMap,
};
use std::collections::BTreeMap;

/// The provider's name.
pub(crate) const PROVIDER: &str = "flash-fp8-sm90";

/// True for the shapes that the kernel takes.
pub(crate) fn fits(shape: Shape) -> bool {
    shape.kind == Kind::Prefill
        && [shape.dtype, shape.kv] == [Dtype::E4m3; 2]
        && paged_by_tma(shape)
        && shape.dqk == shape.dv
        && matches!(shape.dqk, 64 | 96 | 128 | 256)
}

/// True where the kernel serves that knows nothing but the mask. (That a narrow case's output is wider is no matter.)
fn dense(shape: Shape) -> bool {
    let Shape { window, page, sinks, ragged, dqk, .. } = shape;
    (window, page, sinks, ragged) == (None, None, false, false) && dqk != 96
}

/// A form of the kernel: keys of a tile, and whether the softmax is spared the special function unit (`RP_LEAN`).
type Form = (u32, bool);

/// Forms to try. Tiles are what fits beside the output in a thread's registers; a narrow diagonal wastes less where it is masked.
fn forms(shape: Shape) -> &'static [Form] {
    match (shape.dqk, shape.causal) {
        // The fastest of an H200's, each.
        (256, _) if !dense(shape) => &[(96, true)],
        (_, true) if !dense(shape) => &[(128, true)],
        (_, false) if !dense(shape) => &[(192, true)],
        (256, _) => &[(96, false), (96, true)],
        (_, true) => &[(128, false), (128, true), (192, false), (192, true)],
        (_, false) => &[(224, false), (224, true), (192, false), (192, true)],
    }
}

/// Columns of a slab, which are the bytes of a swizzle.
fn width(shape: Shape) -> u64 {
    shape.dqk.next_power_of_two().min(128)
}

/// Slabs of a tile.
fn slabs(shape: Shape) -> u64 {
    shape.dqk.div_ceil(width(shape))
}

/// Bytes of shared memory.
fn shared(shape: Shape, keys: u32) -> u32 {
    (128 + 6 * keys) * (slabs(shape) * width(shape)) as u32 + 160
}

/// Rows of all pages, of every key head.
fn pool_rows(shape: Shape) -> Option<u64> {
    Some(layout::pool(shape) * shape.hkv * shape.page?)
}

/// The kernel for one shape, in each of its forms.
pub(crate) struct Plan<'d> {
    device: &'d dyn Device,
    shape: Shape,
    kernels: Vec<(Form, Kernel)>,
    chosen: usize,
    counter: Buffer,
}

impl<'d> Plan<'d> {
    /// Compiles it.
    ///
    /// # Errors
    /// `Unsupported` for more than it counts; as [`Device::compile`] and [`Device::alloc`].
    pub(crate) fn new(shape: Shape, device: &'d dyn Device) -> Result<Self> {
        let heads = shape.b * shape.hq;
        let rows = pool_rows(shape).unwrap_or(shape.sk);
        if [heads * shape.sq.div_ceil(128), shape.sq, rows].iter().any(|n| i32::try_from(*n).is_err()) {
            return Err(DeviceError::unsupported("more heads, queries or keys than the kernel counts"));
        }
        let compiled = |(keys, lean): Form| {
            let flag = |on: bool| u8::from(on).to_string();
            let mut defines = vec![
                ("RP_D", shape.dqk.to_string()),
                ("RP_N", keys.to_string()),
                ("RP_CAUSAL", flag(shape.causal)),
                ("RP_LEAN", flag(lean)),
            ];
            if !dense(shape) {
                defines.push(("RP_GENERAL", flag(true)));
            }
            let program = Program { name: "attention/flash_fp8_sm90", defines: &defines, ..Program::default() };
            Ok(((keys, lean), device.compile(&program, "rp_flash_fp8_sm90")?))
        };
        let kernels = forms(shape).iter().map(|form| compiled(*form)).collect::<Result<_>>()?;
        let counter = device.alloc(8)?;
        device.fill(&counter, 0)?;
        Ok(Self { device, shape, kernels, chosen: 0, counter })
    }

    /// (W, rows, D/W, heads) bytes, `tile` rows of `slabs` times W columns at once; of fewer columns than W a row ends in zeros.
    fn map(&self, buffer: &Buffer, rows: u64, heads: u64, tile: u32, slabs: u64) -> Result<Vec<u8>> {
        let (d, width) = (self.shape.dqk, width(self.shape));
        let map = TensorMap {
            element_bytes: 1,
            bf16: false,
            dims: vec![d.min(width), rows, d.div_ceil(width), heads],
            strides: vec![d, width, rows * d],
            tile: vec![width as u32, tile, slabs as u32, 1],
            swizzle: width as u32,
        };
        self.device.tensor_map(buffer, &map)
    }

    /// The map of K or V, whose tiles have `keys`.
    fn keys_map(&self, buffer: &Buffer, keys: u32) -> Result<Vec<u8>> {
        let s = self.shape;
        match s.page.zip(pool_rows(s)) {
            None => self.map(buffer, s.sk, s.b * s.hkv, keys, slabs(s)),
            // A box has what its tile and a page have in common.
            Some((page, rows)) => self.map(buffer, rows, 1, 1 << page.trailing_zeros().min(keys.trailing_zeros()), 1),
        }
    }
}

impl AttentionPlan for Plan<'_> {
    fn enqueue(&self, operands: &AttentionOperands<'_>) -> Result<()> {
        let s = self.shape;
        let ((keys, _), kernel) = &self.kernels[self.chosen];
        let heads = s.b * s.hq;
        let q = self.map(operands.q, s.sq, heads, 64, slabs(s))?;
        let (k, v) = (self.keys_map(operands.k, *keys)?, self.keys_map(operands.v, *keys)?);
        let mut args = vec![Arg::Bytes(&q), Arg::Bytes(&k), Arg::Bytes(&v), Arg::Buffer(operands.o, 0)];
        args.extend([Arg::Buffer(&self.counter, 0), given(true, operands.scales, "scales")?]);
        if !dense(s) {
            args.push(given(s.ragged, operands.lengths, "lengths")?);
            args.push(given(s.page.is_some(), operands.pages, "pages")?);
            args.push(given(s.sinks, operands.sinks, "sinks")?);
        }
        args.extend([heads, s.hq / s.hkv, s.sq, s.sk].map(|n| Arg::I32(n as i32)));
        if !dense(s) {
            let shift = s.page.map_or(0, |tokens| u64::from(tokens.ilog2()));
            args.extend([s.hq, shift, s.window.unwrap_or(0)].map(|n| Arg::I32(n as i32)));
        }
        args.push(Arg::F32(scale(s)));
        let tiles = heads * s.sq.div_ceil(128);
        let grid = tiles.min(u64::from(self.device.info().units)) as u32;
        self.device.launch(kernel, Geometry::linear(grid, 384).with_shared(shared(s, *keys)), &args)
    }

    fn candidates(&self) -> usize {
        self.kernels.len()
    }

    fn select(&mut self, index: usize) -> Result<()> {
        if index >= self.kernels.len() {
            return Err(DeviceError::invalid(format!("there are {} forms, and no form {index}", self.kernels.len())));
        }
        self.chosen = index;
        Ok(())
    }

    fn config(&self) -> BTreeMap<String, String> {
        let ((keys, lean), kernel) = &self.kernels[self.chosen];
        let registers = kernel.resources.map_or_else(String::new, |r| r.registers.to_string());
        let exponentials =
            if *lean { "a quarter by multiply-adds, rescaled when needed" } else { "by the special function unit" };
        BTreeMap::from([
            ("tile".into(), format!("128 queries × {keys} keys")),
            ("exponentials".into(), exponentials.into()),
            ("registers".into(), registers),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fp8_prefill_fits_and_every_tile_fits_in_shared_memory() {
        let shape = |id: &str| Shape::parse(&format!("attention/{id}")).unwrap();
        for id in [
            "prefill/b4hq16hkv16sq4096sk4096d128/e4m3",
            "prefill/b1hq64hkv8sq77sk8192d128/e4m3/causal",
            "prefill/b1hq2hkv1sq1sk5d256/e4m3/causal",
            "prefill/b1hq1hkv1sq5sk5d64/e4m3",
            "prefill/b1hq1hkv1sq5sk5d96/e4m3",
            "prefill/b1hq1hkv1sq5sk5d128/e4m3/causal/w3",
            "prefill/b3hq1hkv1sq5sk5d256/e4m3/sinks/ragged",
            "prefill/b1hq1hkv1sq5sk5d64/e4m3/causal/page8",
        ] {
            let s = shape(id);
            assert!(fits(s), "{id}");
            let general = id.ends_with("d96/e4m3") || ["w3", "ragged", "page8"].iter().any(|end| id.ends_with(end));
            assert_eq!(dense(s), !general, "{id}");
            for (keys, _) in forms(s) {
                assert!(shared(s, *keys) <= 232_448 && keys % 32 == 0 && *keys <= 256, "{id} by {keys}");
            }
        }
        for id in [
            "prefill/b1hq1hkv1sq5sk5d80/e4m3",
            "prefill/b1hq1hkv1sq5sk5d128/e4m3/page4",
            "prefill/b1hq1hkv1sq5sk5d128/e4m3/page24",
            "prefill/b1hq1hkv1sq5sk5d128/bf16/kv=e4m3",
            "decode/b1hq1hkv1sq1sk5d128/e4m3",
        ] {
            assert!(!fits(shape(id)), "{id}");
        }
    }
}
