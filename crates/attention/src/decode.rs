//! Decode by our own kernel for NVIDIA from sm_80 on, kernels/attention/decode_splitkv.cu. The host contract stands there.

use crate::balance::{Costs, places, splits};
use crate::nvidia::scale;
use crate::shape::{Kind, Shape};
use crate::splits::{Splits, given};
use ridgepoint_core::Dtype;
use ridgepoint_device::{Arg, AttentionOperands, AttentionPlan, Device, DeviceError, Geometry, Kernel, Program, Result};
use std::collections::BTreeMap;

/// The provider's name.
pub(crate) const PROVIDER: &str = "decode-splitkv";
/// Rows (query heads of a key head, times queries) of a block.
const ROWS: u64 = 16;
/// Most queries: with more it is no decode, and a block's rows would fill many times over.
const MOST_QUERIES: u64 = 8;

/// Dynamic shared memory of a warp for a column: its stages of K and V.
const WARP_BYTES: u64 = 192;

/// True for the shapes that the kernel takes where a block may have `limit` bytes of shared memory.
pub(crate) fn fits(shape: Shape, limit: Option<u64>) -> bool {
    shape.kind == Kind::Decode
        && matches!(shape.dtype, Dtype::Bf16 | Dtype::F16)
        && (shape.kv == shape.dtype || shape.kv == Dtype::E4m3)
        && shape.dqk == shape.dv
        && matches!(shape.dqk, 64 | 128 | 256)
        && shape.sq <= MOST_QUERIES
        && shape.page.is_none_or(|tokens| tokens.is_power_of_two() && tokens >= 16)
        && warps(shape, limit).is_some()
}

/// Warps of a block: four, and for heads of 256 two on chips whose blocks have no 192 KB.
fn warps(shape: Shape, limit: Option<u64>) -> Option<u64> {
    let counts: &[u64] = if shape.dqk > 128 { &[4, 2] } else { &[4] };
    counts.iter().copied().find(|warps| limit.is_none_or(|limit| shared(shape, *warps) <= limit))
}

/// True where the entries serve that know lengths and the causal mask at the end, and nothing else. One query sees the same with
/// the mask and without.
fn dense(shape: Shape) -> bool {
    Shape { ragged: false, ..shape }.plain() && (shape.causal || shape.sq == 1)
}

/// To start a block takes as long as 64 keys in 16 bits, about 3 µs; its partial results, written and read, are as large as 32.
/// Of a kernel whose blocks take `rows` rows.
pub(crate) fn costs(shape: Shape, rows: u64) -> Costs {
    let sixteen = |keys: u64| keys * 16 / shape.kv.bits().max(1);
    let blocks = shape.hkv * (shape.hq / shape.hkv * shape.sq).div_ceil(rows);
    Costs { blocks, block: sixteen(64), partial: sixteen(32), least: 256 }
}

/// Dynamic shared memory of a block.
fn shared(shape: Shape, warps: u64) -> u64 {
    warps * WARP_BYTES * shape.dqk
}

/// The kernel for one shape.
pub(crate) struct Plan<'d> {
    device: &'d dyn Device,
    shape: Shape,
    kernel: Kernel,
    warps: u64,
    splits: Splits<'d>,
}

impl<'d> Plan<'d> {
    /// Compiles it, and the kernel that joins the splits.
    ///
    /// # Errors
    /// As [`Device::compile`] and [`Device::alloc`]; `Unsupported` for more than the kernels count, or where a block has too little
    /// shared memory.
    pub(crate) fn new(shape: Shape, device: &'d dyn Device) -> Result<Self> {
        let pool = shape.problem().paged.map_or(0, |pages| pages.pool as u64 * pages.tokens as u64 * shape.hkv);
        if shape.b * shape.hkv > 0xffff || pool > i32::MAX as u64 {
            return Err(DeviceError::unsupported("more sequences or pages than the kernel counts"));
        }
        let warps = warps(shape, device.shared_limit())
            .ok_or_else(|| DeviceError::unsupported(format!("too little shared memory a block for heads of {}", shape.dqk)))?;
        let mut defines = Vec::new();
        if !dense(shape) {
            defines.extend([
                ("RP_GENERAL", "1".to_owned()),
                ("RP_D", shape.dqk.to_string()),
                ("RP_F16", u8::from(shape.dtype == Dtype::F16).to_string()),
                ("RP_KV8", u8::from(shape.kv == Dtype::E4m3).to_string()),
            ]);
        }
        if warps != 4 {
            defines.push(("RP_WARPS", warps.to_string()));
        }
        let entry = if dense(shape) { format!("rp_decode_{}_d{}", shape.dtype, shape.dqk) } else { "rp_decode_general".into() };
        let program = Program { name: "attention/decode_splitkv", defines: &defines, ..Program::default() };
        let kernel = device.compile(&program, &entry)?;
        let places = places(device, &kernel, 32 * warps, shared(shape, warps));
        let splits = Splits::new(device, shape, splits(shape, &costs(shape, ROWS), places))?;
        Ok(Self { device, shape, kernel, warps, splits })
    }
}

impl AttentionPlan for Plan<'_> {
    fn enqueue(&self, operands: &AttentionOperands<'_>) -> Result<()> {
        let AttentionOperands { q, k, v, o, .. } = *operands;
        let s = self.shape;
        let rows = s.hq / s.hkv * s.sq;
        let mut args = vec![
            Arg::Buffer(q, 0),
            Arg::Buffer(k, 0),
            Arg::Buffer(v, 0),
            Arg::Buffer(o, 0),
            Arg::Buffer(&self.splits.partial, 0),
            Arg::Buffer(&self.splits.stats, 0),
            given(s.ragged, operands.lengths, "lengths")?,
        ];
        if !dense(s) {
            args.push(given(s.page.is_some(), operands.pages, "pages")?);
            // Of several splits the kernel that joins them knows the sinks.
            args.push(given(s.sinks && self.splits.count == 1, operands.sinks, "sinks")?);
            args.push(given(s.kv == Dtype::E4m3, operands.scales, "scales")?);
        }
        args.extend([rows, s.sq, s.hkv, s.sk, self.splits.count].map(|n| Arg::I32(n as i32)));
        if !dense(s) {
            let shift = s.page.map_or(0, |tokens| tokens.ilog2() as i32);
            args.extend([shift, s.window.unwrap_or(0) as i32, i32::from(s.causal)].map(Arg::I32));
        }
        args.push(Arg::F32(scale(s)));
        let geometry = Geometry {
            grid: [self.splits.count as u32, rows.div_ceil(ROWS) as u32, (s.b * s.hkv) as u32],
            ..Geometry::linear(1, 32 * self.warps as u32).with_shared(shared(s, self.warps) as u32)
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
        self.splits.config().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(id: &str) -> Shape {
        Shape::parse(&format!("attention/decode/{id}")).unwrap_or_else(|| panic!("{id}"))
    }

    #[test]
    fn what_serving_asks_of_a_decode_fits_and_what_is_plain_goes_to_the_plain_kernel() {
        for (id, plain) in [
            ("b128hq64hkv8sq1sk8192d128/bf16", true),
            ("b4hq8hkv2sq4sk900d64/f16/causal", true),
            ("b4hq8hkv2sq1sk900d64/f16/ragged", true),
            ("b4hq8hkv2sq4sk900d64/f16", false),
            ("b4hq8hkv2sq1sk900d256/bf16/page16", false),
            ("b4hq64hkv8sq1sk900d128/bf16/kv=e4m3/causal/w128/page64/sinks/ragged", false),
        ] {
            assert!(fits(shape(id), None), "{id}");
            assert_eq!(dense(shape(id)), plain, "{id}");
        }
        for id in [
            "b4hq8hkv2sq9sk900d64/f16",
            "b4hq8hkv2sq1sk900d96/f16",
            "b4hq8hkv2sq1sk900d64/f32",
            "b4hq8hkv2sq1sk900d64/f16/page24",
        ] {
            assert!(!fits(shape(id), None), "{id}");
        }
    }

    #[test]
    fn a_block_asks_for_no_more_shared_memory_than_its_chip_has() {
        // sm_75, sm_86 and sm_120, sm_80, sm_90.
        for (limit, counts) in [
            (65_536, [Some(4), None, None]),
            (101_376, [Some(4), Some(4), Some(2)]),
            (166_912, [Some(4), Some(4), Some(2)]),
            (232_448, [Some(4); 3]),
        ] {
            let found = [64, 128, 256].map(|d| warps(shape(&format!("b4hq8hkv2sq1sk900d{d}/bf16")), Some(limit)));
            assert_eq!(found, counts, "{limit}");
        }
        assert!(!fits(shape("b4hq8hkv2sq1sk900d256/bf16"), Some(65_536)));
    }
}
