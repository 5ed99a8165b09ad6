//! Our own NVIDIA kernels as providers: kernels/attention/flash_sm90.cu for prefill on Hopper, (decode.rs) decode_splitkv.cu for decode
//! from sm_80 on, and (mla.rs) the absorbed form. Their host contracts stand in the sources.

use crate::shape::{Kind, Shape};
use crate::{decode, mla};
use ridgepoint_core::{Backend, Dtype};
use ridgepoint_device::{Arg, AttentionOperands, AttentionPlan, Buffer, Device, Geometry, Kernel, Program, Result, TensorMap};
use std::collections::BTreeMap;

/// The provider that does a shape on a device, if one of ours does.
pub(crate) fn provider(shape: Shape, device: &dyn Device) -> Option<&'static str> {
    if device.info().backend != Backend::Cuda {
        return None;
    }
    let hopper = device.info().arch == "sm_90a";
    match shape.kind {
        Kind::MlaDecode if hopper && mla::fits(shape) => Some(mla::PROVIDER),
        Kind::Decode if decode::fits(shape) => Some(decode::PROVIDER),
        Kind::Prefill if hopper && fits(shape) => Some("flash-sm90"),
        _ => None,
    }
}

fn fits(shape: Shape) -> bool {
    let half = matches!(shape.dtype, Dtype::Bf16 | Dtype::F16);
    half && shape.plain() && shape.dqk == shape.dv && matches!(shape.dqk, 64 | 128)
}

/// Compiles the kernel of a shape.
///
/// # Errors
/// As [`Device::compile`].
pub(crate) fn plan<'d>(shape: Shape, device: &'d dyn Device) -> Result<Box<dyn AttentionPlan + 'd>> {
    match shape.kind {
        Kind::MlaDecode => Ok(Box::new(mla::Plan::new(shape, device)?)),
        Kind::Decode => Ok(Box::new(decode::Plan::new(shape, device)?)),
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
