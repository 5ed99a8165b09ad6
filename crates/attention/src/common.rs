//! Our flash kernels for chips that have no kernel of their own: (flash_sm80.rs) by mma.sync from sm_80 on, and
//! kernels/attention/flash_portable.cu in plain f32 arithmetic for whatever CUDA or HIP drives, every variant
//! there is; its host contract stands in the source. Both have run on an H200, on no chip before it and on none of AMD's.

use crate::flash_sm80;
use crate::nvidia::{from_ampere, scale};
use crate::shape::{Kind, Shape};
use ridgepoint_core::{Backend, Dtype};
use ridgepoint_device::{
    Arg, AttentionOperands, AttentionPlan, Buffer, Device, DeviceError, Geometry, Kernel, Program, Result, Support,
};
use ridgepoint_harness::encoding;
use std::collections::BTreeMap;

/// The portable kernel's name as a provider.
pub(crate) const PORTABLE: &str = "flash-portable";

/// Threads of a block of the portable kernel.
const PORTABLE_THREADS: u32 = 256;
/// Widest head of the portable kernel: the absorbed form's.
const WIDEST: u64 = 576;
/// Most blocks along y.
const MOST_BLOCKS: u64 = 65_535;

/// The kernel for a shape where the chip has none of its own.
pub(crate) fn provider(shape: Shape, device: &dyn Device) -> Option<&'static str> {
    let backend = device.info().backend;
    if !matches!(backend, Backend::Cuda | Backend::Hip) || shape.b * shape.hq > MOST_BLOCKS {
        return None;
    }
    if backend == Backend::Cuda && from_ampere(device) && flash_sm80::fits(shape) {
        return Some(flash_sm80::PROVIDER);
    }
    (shape.dqk <= WIDEST && shape.dv <= WIDEST).then_some(PORTABLE)
}

/// True for mma.sync on a chip that has faster matrix instructions: its speed is not what the chip could do, and is labelled so. On
/// sm_120, as before Hopper, there are no others.
pub(crate) fn falls_back(provider: &str, device: &dyn Device) -> bool {
    provider == flash_sm80::PROVIDER && device.info().sm().is_some_and(|n| (90..120).contains(&n))
}

/// Compiles the kernel of a provider.
///
/// # Errors
/// As [`Device::compile`].
pub(crate) fn plan<'d>(shape: Shape, provider: &str, device: &'d dyn Device) -> Result<Box<dyn AttentionPlan + 'd>> {
    let fits = |n: u64| i32::try_from(n).is_ok();
    if !fits(shape.sq) || !fits(shape.sk) {
        return Err(DeviceError::unsupported("more queries or keys than the kernel counts"));
    }
    Ok(if provider == flash_sm80::PROVIDER {
        Box::new(flash_sm80::Plan::new(shape, device)?)
    } else {
        Box::new(Portable::new(shape, device)?)
    })
}

struct Portable<'d> {
    device: &'d dyn Device,
    shape: Shape,
    kernel: Kernel,
}

impl<'d> Portable<'d> {
    fn new(shape: Shape, device: &'d dyn Device) -> Result<Self> {
        let number = |dtype| match encoding(dtype, device) {
            Dtype::F16 => 1,
            Dtype::Bf16 => 2,
            Dtype::E4m3 => 3,
            Dtype::E4m3fnuz => 4,
            _ => 0,
        };
        let latent = u64::from(shape.kind == Kind::MlaDecode);
        let defines = [("RP_D", shape.dqk), ("RP_DV", shape.dv), ("RP_TYPE", number(shape.dtype))];
        // Only what differs from the usual form, which is there ready compiled.
        let other = [("RP_KV", number(shape.kv), shape.kv != shape.dtype), ("RP_SHARED_KV", latent, latent > 0)];
        let other = other.into_iter().filter_map(|(name, value, given)| given.then_some((name, value)));
        let defines: Vec<_> = defines.into_iter().chain(other).map(|(name, value)| (name, value.to_string())).collect();
        let program = Program { name: "attention/flash_portable", defines: &defines, ..Program::default() };
        Ok(Self { device, shape, kernel: device.compile(&program, "rp_flash_portable")? })
    }

    /// Rows and keys of a tile, as the kernel's own macro has it.
    fn tile(&self) -> u64 {
        match self.shape.dqk.max(self.shape.dv) {
            257.. => 8,
            129..=256 => 16,
            _ => 32,
        }
    }
}

impl AttentionPlan for Portable<'_> {
    fn enqueue(&self, operands: &AttentionOperands<'_>) -> Result<()> {
        let AttentionOperands { q, k, v, o, .. } = *operands;
        let s = self.shape;
        // Of the absorbed form no V is passed: the kernel reads K for it.
        let v = if s.kind == Kind::MlaDecode { k } else { v };
        let fp8 = s.dtype.bits() == 8 || s.kv.bits() == 8;
        fn some<'a>(buffer: Option<&'a Buffer>, asked: bool) -> Arg<'a> {
            buffer.filter(|_| asked).map_or(Arg::U64(0), |buffer| Arg::Buffer(buffer, 0))
        }
        let args = [
            Arg::Buffer(q, 0),
            Arg::Buffer(k, 0),
            Arg::Buffer(v, 0),
            Arg::Buffer(o, 0),
            some(operands.lengths, s.ragged),
            some(operands.sinks, s.sinks),
            some(operands.pages, s.page.is_some()),
            some(operands.scales, fp8),
            Arg::I32(s.hq as i32),
            Arg::I32((s.hq / s.hkv) as i32),
            Arg::I32(s.sq as i32),
            Arg::I32(s.sk as i32),
            Arg::I32(i32::from(s.causal)),
            Arg::I32(s.window.unwrap_or(0) as i32),
            Arg::I32(s.page.unwrap_or(0) as i32),
            Arg::F32(scale(s)),
        ];
        let grid = [s.sq.div_ceil(self.tile()) as u32, (s.b * s.hq) as u32, 1];
        self.device.launch(&self.kernel, Geometry { grid, ..Geometry::linear(1, PORTABLE_THREADS) }, &args)
    }

    /// Narrow types are widened to f32: there is no peak of theirs to compare with.
    fn support(&self) -> Support {
        if [self.shape.dtype, self.shape.kv] == [Dtype::F32; 2] { Support::Native } else { Support::Emulated }
    }

    fn config(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("tile".into(), format!("{0} queries × {0} keys, f32 arithmetic", self.tile()))])
    }
}
