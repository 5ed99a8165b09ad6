//! Prefill on Hopper by our own kernel, kernels/attention/flash_sm90.cu. The host contract stands there.

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
pub(crate) const PROVIDER: &str = "flash-sm90";

/// True for the shapes that the kernel takes.
pub(crate) fn fits(shape: Shape) -> bool {
    matches!(shape.kind, Kind::Prefill | Kind::MlaPrefill)
        && matches!(shape.dtype, Dtype::Bf16 | Dtype::F16)
        && shape.kv == shape.dtype
        && paged_by_tma(shape)
        && matches!((shape.dqk, shape.dv), (64, 64) | (96, 96) | (128, 128) | (192, 128) | (256, 256))
}

/// True where one of the entries serves that know nothing but the mask.
fn dense(shape: Shape) -> bool {
    shape.plain() && shape.dqk == shape.dv && matches!(shape.dqk, 64 | 128)
}

/// Keys of a tile: what fits beside the output in a thread's registers, and in shared memory.
fn keys(shape: Shape) -> u32 {
    match shape.dqk {
        256 => 80,
        _ if dense(shape) && !shape.causal => 176,
        _ => 128,
    }
}

/// Bytes of shared memory.
fn shared(shape: Shape) -> u32 {
    let [dqk, dv] = [shape.dqk, shape.dv].map(|d| d.next_multiple_of(64) as u32);
    256 * dqk + 4 * keys(shape) * (dqk + dv) + 128
}

/// Rows of all pages, of every key head.
fn pool_rows(shape: Shape) -> Option<u64> {
    Some(layout::pool(shape) * shape.hkv * shape.page?)
}

/// Rows of a box of a paged tile: what its keys and a page have in common.
fn box_rows(shape: Shape, page: u64) -> u32 {
    1 << page.trailing_zeros().min(keys(shape).trailing_zeros())
}

/// The kernel for one shape.
pub(crate) struct Plan<'d> {
    device: &'d dyn Device,
    shape: Shape,
    kernel: Kernel,
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
        let flag = |on: bool| u8::from(on).to_string();
        let general = [
            ("RP_GENERAL", "1".to_owned()),
            ("RP_D", shape.dqk.to_string()),
            ("RP_DV", shape.dv.to_string()),
            ("RP_N", keys(shape).to_string()),
            ("RP_CAUSAL", flag(shape.causal)),
            ("RP_F16", flag(shape.dtype == Dtype::F16)),
        ];
        let mask = if shape.causal { "causal" } else { "full" };
        let (defines, entry): (&[_], _) = if dense(shape) {
            (&[], format!("rp_flash_sm90_{}_d{}_{mask}", shape.dtype, shape.dqk))
        } else {
            (&general, "rp_flash_sm90".to_owned())
        };
        let kernel = device.compile(&Program { name: "attention/flash_sm90", defines, ..Program::default() }, &entry)?;
        let counter = device.alloc(8)?;
        device.fill(&counter, 0)?;
        Ok(Self { device, shape, kernel, counter })
    }

    /// (64, rows, D/64, heads) elements; `tile` rows of all columns at once, or of 64 where a tile is made of pages. Of columns that
    /// do not come in 64 whole rows, of which a box takes 64 and ends in zeros.
    fn map(&self, buffer: &Buffer, d: u64, rows: u64, heads: u64, tile: u32, slabs: u64) -> Result<Vec<u8>> {
        let whole = d.is_multiple_of(64);
        let map = TensorMap {
            element_bytes: 2,
            bf16: self.shape.dtype == Dtype::Bf16,
            dims: if whole { vec![64, rows, d / 64, heads] } else { vec![d, rows, 1, heads] },
            strides: vec![2 * d, if whole { 128 } else { 2 * rows * d }, 2 * rows * d],
            tile: vec![64, tile, slabs as u32, 1],
            swizzle: 128,
        };
        self.device.tensor_map(buffer, &map)
    }

    /// The map of K or V, of `d` columns.
    fn keys_map(&self, buffer: &Buffer, d: u64) -> Result<Vec<u8>> {
        let s = self.shape;
        match s.page.zip(pool_rows(s)) {
            None => self.map(buffer, d, s.sk, s.b * s.hkv, keys(s), d / 64),
            Some((page, rows)) => self.map(buffer, d, rows, 1, box_rows(s, page), 1),
        }
    }
}

impl AttentionPlan for Plan<'_> {
    fn enqueue(&self, operands: &AttentionOperands<'_>) -> Result<()> {
        let s = self.shape;
        let heads = s.b * s.hq;
        let q = self.map(operands.q, s.dqk, s.sq, heads, 64, s.dqk / 64)?;
        let (k, v) = (self.keys_map(operands.k, s.dqk)?, self.keys_map(operands.v, s.dv)?);
        let mut args =
            vec![Arg::Bytes(&q), Arg::Bytes(&k), Arg::Bytes(&v), Arg::Buffer(operands.o, 0), Arg::Buffer(&self.counter, 0)];
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
        self.device.launch(&self.kernel, Geometry::linear(grid, 384).with_shared(shared(s)), &args)
    }

    fn config(&self) -> BTreeMap<String, String> {
        let registers = self.kernel.resources.map_or_else(String::new, |r| r.registers.to_string());
        BTreeMap::from([("tile".into(), format!("128 queries × {} keys", keys(self.shape))), ("registers".into(), registers)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_plain_goes_to_the_plain_kernel_and_every_tile_fits_in_shared_memory() {
        let shape = |id: &str| Shape::parse(&format!("attention/{id}")).unwrap();
        for (id, plain) in [
            ("prefill/b1hq16hkv16sq16384sk16384d128/bf16", true),
            ("prefill/b1hq16hkv16sq16384sk16384d64/f16/causal", true),
            ("prefill/b1hq16hkv16sq512sk4096d128/bf16/causal/w128/sinks/ragged", false),
            ("prefill/b1hq16hkv16sq512sk4096d256/bf16", false),
            ("mla-prefill/b1hq4hkv4sq512sk512d192v128/bf16/causal", false),
            ("prefill/b1hq64hkv8sq2048sk8192d128/bf16/causal/page16", false),
            ("prefill/b3hq4hkv4sq512sk4096d256/f16/page1024/ragged", false),
            ("prefill/b4hq16hkv16sq4096sk4096d96/bf16", false),
            ("prefill/b4hq16hkv16sq4096sk4096d96/bf16/causal/page16", false),
        ] {
            let s = shape(id);
            assert!(fits(s), "{id}");
            assert_eq!(dense(s), plain, "{id}");
            assert!(shared(s) <= 232_448, "{id}");
        }
        let boxes = |id: &str, page| box_rows(shape(&format!("prefill/b1hq1hkv1sq5sk5{id}/page{page}")), page);
        assert_eq!([boxes("d128/bf16", 16), boxes("d128/bf16", 64), boxes("d64/f16", 256)], [16, 64, 128]);
        assert_eq!([boxes("d256/bf16", 8), boxes("d256/bf16", 64)], [8, 16]);
        for id in [
            "prefill/b1hq1hkv1sq5sk5d80/bf16",
            "prefill/b1hq1hkv1sq5sk5d128/bf16/page4",
            "prefill/b1hq1hkv1sq5sk5d128/bf16/page24",
            "prefill/b1hq1hkv1sq5sk5d128/f32",
        ] {
            assert!(!fits(shape(id)), "{id}");
        }
    }
}
