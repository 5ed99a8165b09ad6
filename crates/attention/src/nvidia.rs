//! Our own NVIDIA kernels as providers: kernels/attention/flash_sm90.cu for prefill on Hopper, decode_splitkv.cu for decode from
//! sm_80 on, and (mla.rs) the absorbed form. Their host contracts stand in the sources.

use crate::mla;
use crate::shape::{Kind, Shape};
use crate::splits::Splits;
use ridgepoint_core::{Backend, Dtype};
use ridgepoint_device::{Arg, AttentionOperands, AttentionPlan, Buffer, Device, Geometry, Kernel, Program, Result, TensorMap};
use std::collections::BTreeMap;

/// The provider that does a shape on a device, if one of ours does.
pub(crate) fn provider(shape: Shape, device: &dyn Device) -> Option<&'static str> {
    let half = matches!(shape.dtype, Dtype::Bf16 | Dtype::F16);
    if device.info().backend != Backend::Cuda || !shape.plain() {
        return None;
    }
    if mla::fits(shape) && device.info().arch == "sm_90a" {
        return Some(mla::PROVIDER);
    }
    if !half || shape.dqk != shape.dv {
        return None;
    }
    match shape.kind {
        Kind::Prefill if device.info().arch == "sm_90a" && matches!(shape.dqk, 64 | 128) => Some("flash-sm90"),
        Kind::Decode if matches!(shape.dqk, 64 | 128 | 256) && shape.sq <= 8 && !shape.causal => Some("decode-splitkv"),
        _ => None,
    }
}

/// Compiles the kernel of a shape.
///
/// # Errors
/// As [`Device::compile`].
pub(crate) fn plan<'d>(shape: Shape, device: &'d dyn Device) -> Result<Box<dyn AttentionPlan + 'd>> {
    match shape.kind {
        Kind::MlaDecode => Ok(Box::new(mla::Plan::new(shape, device)?)),
        Kind::Decode => Ok(Box::new(SplitKv::new(shape, device)?)),
        _ => Ok(Box::new(Flash::new(shape, device)?)),
    }
}

/// 1/√d as f32.
pub(crate) fn scale(shape: Shape) -> f32 {
    (1.0 / (shape.dqk as f64).sqrt()) as f32
}

struct Flash<'d> {
    device: &'d dyn Device,
    shape: Shape,
    kernel: Kernel,
    counter: Buffer,
}

impl<'d> Flash<'d> {
    fn new(shape: Shape, device: &'d dyn Device) -> Result<Self> {
        let mask = if shape.causal { "causal" } else { "full" };
        let entry = format!("rp_flash_sm90_{}_d{}_{mask}", shape.dtype, shape.dqk);
        let kernel = device.compile(&Program { name: "attention/flash_sm90", ..Program::default() }, &entry)?;
        let counter = device.alloc(8)?;
        device.fill(&counter, 0)?;
        Ok(Self { device, shape, kernel, counter })
    }

    /// Keys of a tile.
    fn keys(&self) -> u32 {
        if self.shape.causal { 128 } else { 176 }
    }

    /// (64, rows, D/64, heads) elements, `tile` rows of all columns at once.
    fn map(&self, buffer: &Buffer, rows: u64, heads: u64, tile: u32) -> Result<Vec<u8>> {
        let d = self.shape.dqk;
        let map = TensorMap {
            element_bytes: 2,
            bf16: self.shape.dtype == Dtype::Bf16,
            dims: vec![64, rows, d / 64, heads],
            strides: vec![2 * d, 128, 2 * rows * d],
            tile: vec![64, tile, (d / 64) as u32, 1],
            swizzle: 128,
        };
        self.device.tensor_map(buffer, &map)
    }
}

impl AttentionPlan for Flash<'_> {
    fn enqueue(&self, operands: &AttentionOperands<'_>) -> Result<()> {
        let AttentionOperands { q, k, v, o, .. } = *operands;
        let s = self.shape;
        let (heads, keys) = (s.b * s.hq, self.keys());
        let maps = [self.map(q, s.sq, heads, 64)?, self.map(k, s.sk, s.b * s.hkv, keys)?, self.map(v, s.sk, s.b * s.hkv, keys)?];
        let args = [
            Arg::Bytes(&maps[0]),
            Arg::Bytes(&maps[1]),
            Arg::Bytes(&maps[2]),
            Arg::Buffer(o, 0),
            Arg::Buffer(&self.counter, 0),
            Arg::I32(heads as i32),
            Arg::I32((s.hq / s.hkv) as i32),
            Arg::I32(s.sq as i32),
            Arg::I32(s.sk as i32),
            Arg::F32(scale(s)),
        ];
        let tiles = heads * s.sq.div_ceil(128);
        let grid = tiles.min(u64::from(self.device.info().units)) as u32;
        let shared = 256 * s.dqk as u32 + 8 * keys * s.dqk as u32 + 128;
        self.device.launch(&self.kernel, Geometry::linear(grid, 384).with_shared(shared), &args)
    }

    fn config(&self) -> BTreeMap<String, String> {
        let registers = self.kernel.resources.map_or_else(String::new, |r| r.registers.to_string());
        BTreeMap::from([("tile".into(), format!("128 queries × {} keys", self.keys())), ("registers".into(), registers)])
    }
}

struct SplitKv<'d> {
    device: &'d dyn Device,
    shape: Shape,
    kernel: Kernel,
    splits: Splits<'d>,
}

impl<'d> SplitKv<'d> {
    fn new(shape: Shape, device: &'d dyn Device) -> Result<Self> {
        let program = Program { name: "attention/decode_splitkv", ..Program::default() };
        let suffix = format!("{}_d{}", shape.dtype, shape.dqk);
        let kernel = device.compile(&program, &format!("rp_decode_{suffix}"))?;
        let rows = shape.hq / shape.hkv * shape.sq;
        let blocks = shape.b * shape.hkv * rows.div_ceil(16);
        // Two blocks a multiprocessor, once over, and splits of at least 256 keys.
        let wanted = (2 * u64::from(device.info().units)).div_ceil(blocks);
        let splits = wanted.clamp(1, (shape.sk / 256).max(1));
        let splits = Splits::new(device, shape.dtype, shape.dqk, shape.b * shape.hkv * rows, splits)?;
        Ok(Self { device, shape, kernel, splits })
    }
}

impl AttentionPlan for SplitKv<'_> {
    fn enqueue(&self, operands: &AttentionOperands<'_>) -> Result<()> {
        let AttentionOperands { q, k, v, o, .. } = *operands;
        let s = self.shape;
        let rows = s.hq / s.hkv * s.sq;
        let args = [
            Arg::Buffer(q, 0),
            Arg::Buffer(k, 0),
            Arg::Buffer(v, 0),
            Arg::Buffer(o, 0),
            Arg::Buffer(&self.splits.partial, 0),
            Arg::Buffer(&self.splits.stats, 0),
            // No lengths: every sequence has all its keys.
            Arg::U64(0),
            Arg::I32(rows as i32),
            Arg::I32(s.sq as i32),
            Arg::I32(s.hkv as i32),
            Arg::I32(s.sk as i32),
            Arg::I32(self.splits.count as i32),
            Arg::F32(scale(s)),
        ];
        let geometry = Geometry {
            grid: [self.splits.count as u32, rows.div_ceil(16) as u32, (s.b * s.hkv) as u32],
            ..Geometry::linear(1, 128).with_shared(768 * s.dqk as u32)
        };
        self.device.launch(&self.kernel, geometry, &args)?;
        self.splits.join(o)
    }

    fn config(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("splits".into(), self.splits.count.to_string())])
    }
}
