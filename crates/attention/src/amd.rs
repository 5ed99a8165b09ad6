//! Our flash kernels for AMD's matrix units as a provider for prefill: `flash-mfma` on CDNA (kernels/attention/flash_cdna.cu, and
//! flash_amd.cu for heads of over 128 columns), `flash-wmma` on gfx12 and gfx1250 (flash_amd.cu); beside it decode (decode_amd.rs)
//! and (mla_cdna.rs) the absorbed form. The host contracts stand in the sources. Not yet run on hardware.

use crate::layout;
use crate::nvidia::scale;
use crate::shape::{Kind, Shape};
use crate::splits::given;
use crate::{decode_amd, mla_cdna};
use ridgepoint_core::{Backend, Dtype};
use ridgepoint_device::{Arg, AttentionOperands, AttentionPlan, Device, DeviceError, Geometry, Kernel, Program, Result};
use ridgepoint_harness::encoding;
use std::collections::BTreeMap;

/// A kernel: its program and entry, the queries of a block, and its threads.
#[derive(Clone, Copy)]
struct Form {
    program: &'static str,
    entry: &'static str,
    queries: u64,
    threads: u32,
}

const GENERAL: Form = Form { program: "attention/flash_amd", entry: "rp_flash_amd", queries: 128, threads: 256 };
/// Eight waves in ping-pong, whose two buffers of K and V fit LDS up to 128 columns.
const TURNS: Form = Form { program: "attention/flash_cdna", entry: "rp_flash_cdna", queries: 256, threads: 512 };

/// The kernel for a shape that fits.
fn form(shape: Shape, arch: &str) -> Form {
    if matches!(arch, "gfx90a" | "gfx942" | "gfx950") && shape.dqk == shape.dv && shape.dqk <= 128 { TURNS } else { GENERAL }
}

/// Most blocks along y.
const MOST_BLOCKS: u64 = 65_535;

/// The provider of a shape on a device, if a kernel does it there.
pub(crate) fn provider(shape: Shape, device: &dyn Device) -> Option<&'static str> {
    let info = device.info();
    if info.backend != Backend::Hip {
        return None;
    }
    match info.arch.as_str() {
        arch if shape.kind == Kind::Decode => decode_amd::provider(shape, arch),
        "gfx90a" | "gfx942" | "gfx950" if mla_cdna::fits(shape) => Some(mla_cdna::PROVIDER),
        "gfx90a" | "gfx942" | "gfx950" if fits(shape) => Some("flash-mfma"),
        // gfx90a has no FP8.
        "gfx942" | "gfx950" if fits_fp8(shape) => Some("flash-mfma"),
        // For pages of heads of 256 it has no registers left.
        "gfx1250" if fits(shape) && (shape.dqk <= 192 || shape.page.is_none()) => Some("flash-wmma"),
        // With half as many registers a wave.
        "gfx1200" | "gfx1201" if fits(shape) && shape.dqk <= 128 => Some("flash-wmma"),
        _ => None,
    }
}

/// What all of them take: one type, and pages of which a tile's keys are in four at most.
fn fits_any(shape: Shape) -> bool {
    matches!(shape.kind, Kind::Prefill | Kind::MlaPrefill)
        && shape.kv == shape.dtype
        && shape.page.is_none_or(|tokens| tokens.is_power_of_two() && tokens >= 16)
        && shape.sq.div_ceil(GENERAL.queries) <= MOST_BLOCKS
}

fn fits(shape: Shape) -> bool {
    fits_any(shape)
        && matches!(shape.dtype, Dtype::Bf16 | Dtype::F16)
        && matches!((shape.dqk, shape.dv), (64, 64) | (96, 96) | (128, 128) | (192, 128) | (256, 256))
}

/// FP8, by the kernel in ping-pong.
fn fits_fp8(shape: Shape) -> bool {
    fits_any(shape) && shape.dtype == Dtype::E4m3 && matches!((shape.dqk, shape.dv), (64, 64) | (128, 128))
}

/// True for what only the general forms know.
fn general(shape: Shape) -> bool {
    shape.window.is_some() || shape.page.is_some() || shape.sinks || shape.ragged
}

/// Compiles the kernel of a shape.
///
/// # Errors
/// `Unsupported` for more queries or keys than it counts; as [`Device::compile`].
pub(crate) fn plan<'d>(shape: Shape, device: &'d dyn Device) -> Result<Box<dyn AttentionPlan + 'd>> {
    match shape.kind {
        Kind::MlaDecode => return Ok(Box::new(mla_cdna::Plan::new(shape, device)?)),
        Kind::Decode => return Ok(Box::new(decode_amd::Plan::new(shape, device)?)),
        Kind::Prefill | Kind::MlaPrefill => {}
    }
    if [shape.sq, shape.sk].iter().any(|n| i32::try_from(*n).is_err()) || u32::try_from(shape.b * shape.hq).is_err() {
        return Err(DeviceError::unsupported("more heads, queries or keys than the kernel counts"));
    }
    if shape.page.is_some_and(|tokens| u32::try_from(layout::pool(shape) * tokens * shape.hkv).is_err()) {
        return Err(DeviceError::unsupported("more keys than the kernel counts"));
    }
    let form = form(shape, &device.info().arch);
    let defines = [
        ("RP_DTYPE", encoding(shape.dtype, device).name().to_owned()),
        ("RP_D", shape.dqk.to_string()),
        ("RP_DV", shape.dv.to_string()),
        ("RP_CAUSAL", u8::from(shape.causal).to_string()),
        ("RP_GENERAL", u8::from(general(shape)).to_string()),
    ];
    let program = Program { name: form.program, defines: &defines, ..Program::default() };
    Ok(Box::new(Flash { device, shape, form, kernel: device.compile(&program, form.entry)? }))
}

struct Flash<'d> {
    device: &'d dyn Device,
    shape: Shape,
    form: Form,
    kernel: Kernel,
}

impl AttentionPlan for Flash<'_> {
    fn enqueue(&self, operands: &AttentionOperands<'_>) -> Result<()> {
        let AttentionOperands { q, k, v, o, .. } = *operands;
        let s = self.shape;
        let args = [
            Arg::Buffer(q, 0),
            Arg::Buffer(k, 0),
            Arg::Buffer(v, 0),
            Arg::Buffer(o, 0),
            given(s.ragged, operands.lengths, "lengths")?,
            given(s.page.is_some(), operands.pages, "pages")?,
            given(s.sinks, operands.sinks, "sinks")?,
            given(s.dtype == Dtype::E4m3, operands.scales, "scales")?,
            Arg::I32((s.hq / s.hkv) as i32),
            Arg::I32(s.sq as i32),
            Arg::I32(s.sk as i32),
            Arg::I32(s.hq as i32),
            Arg::I32(s.page.map_or(0, |tokens| tokens.ilog2() as i32)),
            Arg::I32(s.window.unwrap_or(0) as i32),
            Arg::F32(scale(s)),
        ];
        let grid = [(s.b * s.hq) as u32, s.sq.div_ceil(self.form.queries) as u32, 1];
        self.device.launch(&self.kernel, Geometry { grid, ..Geometry::linear(1, self.form.threads) }, &args)
    }

    fn config(&self) -> BTreeMap<String, String> {
        let registers = self.kernel.resources.map(|r| ("registers".to_owned(), r.registers.to_string()));
        [("tile".to_owned(), format!("{} queries × 64 keys", self.form.queries))].into_iter().chain(registers).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefill_of_halves_is_what_it_does() {
        let does = |id: &str| fits(Shape::parse(&format!("attention/{id}")).unwrap());
        for id in [
            "prefill/b1hq16hkv16sq16384sk16384d128/bf16",
            "prefill/b1hq64hkv8sq8192sk8192d128/bf16/causal",
            "prefill/b1hq2hkv1sq5sk7d64/f16",
            "prefill/b1hq4hkv4sq1024sk1024d96/bf16",
            "prefill/b1hq64hkv8sq8192sk8192d256/bf16/causal/w128/sinks/ragged",
            "mla-prefill/b1hq4hkv4sq512sk512d192v128/bf16/causal",
            "prefill/b1hq64hkv8sq8192sk8192d128/bf16/page16",
        ] {
            assert!(does(id), "{id}");
        }
        for id in [
            "prefill/b1hq4hkv4sq1024sk1024d128/f32",
            "prefill/b1hq4hkv4sq1024sk1024d80/bf16",
            "decode/b128hq64hkv8sq1sk8192d128/bf16",
            "prefill/b1hq64hkv8sq8192sk8192d128/bf16/page8",
            "prefill/b1hq64hkv8sq8192sk8192d128/bf16/page24",
            "prefill/b1hq64hkv8sq8192sk8192d128/bf16/kv=e4m3",
        ] {
            assert!(!does(id), "{id}");
        }
        let fp8 = |id: &str| fits_fp8(Shape::parse(&format!("attention/prefill/b3hq4hkv2sq70sk90{id}")).unwrap());
        assert!(fp8("d128/e4m3") && fp8("d64/e4m3/causal/w20/page64/sinks/ragged"));
        assert!(!fp8("d96/e4m3") && !fp8("d256/e4m3") && !fp8("d64/bf16/kv=e4m3"));
    }
}
