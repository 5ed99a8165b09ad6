//! FP8 prefill on Hopper by our own kernel, kernels/attention/flash_fp8_sm90.cu. The host contract stands there. Which tile and
//! which softmax are fastest is tried on the chip at hand.

use crate::nvidia::scale;
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
        && !(shape.sinks || shape.ragged)
        && (shape.window, shape.page) == (None, None)
        && shape.dqk == shape.dv
        && matches!(shape.dqk, 64 | 128 | 256)
}

/// A form of the kernel: keys of a tile, and whether the softmax is spared the special function unit (`RP_LEAN`).
type Form = (u32, bool);

/// Forms to try. Tiles are what fits beside the output in a thread's registers; a narrow diagonal wastes less where it is masked.
const fn forms(shape: Shape) -> &'static [Form] {
    match (shape.dqk, shape.causal) {
        (256, _) => &[(96, false), (96, true)],
        (_, true) => &[(128, false), (128, true), (192, false), (192, true)],
        (_, false) => &[(224, false), (224, true), (192, false), (192, true)],
    }
}

/// Bytes of shared memory.
fn shared(shape: Shape, keys: u32) -> u32 {
    (128 + 6 * keys) * shape.dqk as u32 + 160
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
        if [heads * shape.sq.div_ceil(128), shape.sq, shape.sk].iter().any(|n| i32::try_from(*n).is_err()) {
            return Err(DeviceError::unsupported("more heads, queries or keys than the kernel counts"));
        }
        let compiled = |(keys, lean): Form| {
            let flag = |on: bool| u8::from(on).to_string();
            let defines = [
                ("RP_D", shape.dqk.to_string()),
                ("RP_N", keys.to_string()),
                ("RP_CAUSAL", flag(shape.causal)),
                ("RP_LEAN", flag(lean)),
            ];
            let program = Program { name: "attention/flash_fp8_sm90", defines: &defines, ..Program::default() };
            Ok(((keys, lean), device.compile(&program, "rp_flash_fp8_sm90")?))
        };
        let kernels = forms(shape).iter().map(|form| compiled(*form)).collect::<Result<_>>()?;
        let counter = device.alloc(8)?;
        device.fill(&counter, 0)?;
        Ok(Self { device, shape, kernels, chosen: 0, counter })
    }

    /// (W, rows, D/W, heads) bytes, W = min(D, 128), `tile` rows of all columns at once.
    fn map(&self, buffer: &Buffer, rows: u64, heads: u64, tile: u32) -> Result<Vec<u8>> {
        let d = self.shape.dqk;
        let width = d.min(128);
        let map = TensorMap {
            element_bytes: 1,
            bf16: false,
            dims: vec![width, rows, d / width, heads],
            strides: vec![d, width, rows * d],
            tile: vec![width as u32, tile, (d / width) as u32, 1],
            swizzle: width as u32,
        };
        self.device.tensor_map(buffer, &map)
    }
}

impl AttentionPlan for Plan<'_> {
    fn enqueue(&self, operands: &AttentionOperands<'_>) -> Result<()> {
        let s = self.shape;
        let ((keys, _), kernel) = &self.kernels[self.chosen];
        let heads = s.b * s.hq;
        let q = self.map(operands.q, s.sq, heads, 64)?;
        let k = self.map(operands.k, s.sk, s.b * s.hkv, *keys)?;
        let v = self.map(operands.v, s.sk, s.b * s.hkv, *keys)?;
        let mut args = vec![Arg::Bytes(&q), Arg::Bytes(&k), Arg::Bytes(&v), Arg::Buffer(operands.o, 0)];
        args.extend([Arg::Buffer(&self.counter, 0), given(true, operands.scales, "scales")?]);
        args.extend([heads, s.hq / s.hkv, s.sq, s.sk].map(|n| Arg::I32(n as i32)));
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
    fn plain_fp8_prefill_fits_and_every_tile_fits_in_shared_memory() {
        let shape = |id: &str| Shape::parse(&format!("attention/{id}")).unwrap();
        for id in [
            "prefill/b4hq16hkv16sq4096sk4096d128/e4m3",
            "prefill/b1hq64hkv8sq77sk8192d128/e4m3/causal",
            "prefill/b1hq2hkv1sq1sk5d256/e4m3/causal",
            "prefill/b1hq1hkv1sq5sk5d64/e4m3",
        ] {
            let s = shape(id);
            assert!(fits(s), "{id}");
            for (keys, _) in forms(s) {
                assert!(shared(s, *keys) <= 232_448 && keys % 32 == 0 && *keys <= 256, "{id} by {keys}");
            }
        }
        for id in [
            "prefill/b1hq1hkv1sq5sk5d96/e4m3",
            "prefill/b1hq1hkv1sq5sk5d128/e4m3/causal/w3",
            "prefill/b1hq1hkv1sq5sk5d128/e4m3/ragged",
            "prefill/b1hq1hkv1sq5sk5d128/e4m3/page16",
            "prefill/b1hq1hkv1sq5sk5d128/bf16/kv=e4m3",
            "decode/b1hq1hkv1sq1sk5d128/e4m3",
        ] {
            assert!(!fits(shape(id)), "{id}");
        }
    }
}
