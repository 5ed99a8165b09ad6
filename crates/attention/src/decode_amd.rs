//! Decode on AMD's matrix units by kernels/attention/decode_amd.cu. The host contract stands there. Not yet run on hardware.

use crate::balance;
use crate::decode::{self, costs};
use crate::nvidia::scale;
use crate::shape::Shape;
use crate::splits::{Splits, given};
use ridgepoint_core::Dtype;
use ridgepoint_device::{Arg, AttentionOperands, AttentionPlan, Device, DeviceError, Geometry, Kernel, Program, Result};
use std::collections::BTreeMap;

/// Waves of a block.
const WAVES: u32 = 4;

/// A side of the matrix unit, which is the rows of a block (query heads of a key head, times queries), and lanes of a wave; None on
/// chips without a unit that the kernel knows.
fn unit(arch: &str) -> Option<(u64, u32)> {
    match arch {
        "gfx90a" | "gfx942" | "gfx950" => Some((32, 64)),
        "gfx1200" | "gfx1201" | "gfx1250" => Some((16, 32)),
        _ => None,
    }
}

/// The provider of a shape on a chip, if the kernel does it there.
pub(crate) fn provider(shape: Shape, arch: &str) -> Option<&'static str> {
    let (side, _) = unit(arch)?;
    // With half as many registers a wave.
    let few = arch.starts_with("gfx120");
    (decode::fits(shape, None) && !(few && shape.dqk > 128)).then_some(if side == 32 { "decode-mfma" } else { "decode-wmma" })
}

/// Blocks that a compute unit holds at once, by registers and LDS.
const fn at_once(shape: Shape) -> u64 {
    if shape.dqk > 128 { 1 } else { 2 }
}

/// The kernel for one shape.
pub(crate) struct Plan<'d> {
    device: &'d dyn Device,
    shape: Shape,
    rows: u64,
    threads: u32,
    kernel: Kernel,
    splits: Splits<'d>,
}

impl<'d> Plan<'d> {
    /// Compiles it, and the kernel that joins the splits.
    ///
    /// # Errors
    /// `Unsupported` for more than the kernels count; as [`Device::compile`] and [`Device::alloc`].
    pub(crate) fn new(shape: Shape, device: &'d dyn Device) -> Result<Self> {
        let info = device.info();
        let (rows, lanes) =
            unit(&info.arch).ok_or_else(|| DeviceError::unsupported(format!("no matrix units known on {}", info.arch)))?;
        let pool = shape.problem().paged.map_or(0, |pages| pages.pool as u64 * pages.tokens as u64 * shape.hkv);
        let splits = balance::splits(shape, &costs(shape, rows), at_once(shape) * u64::from(info.units));
        if pool > i32::MAX as u64 || splits.iter().any(|n| shape.b * shape.hkv * n > i32::MAX as u64) {
            return Err(DeviceError::unsupported("more sequences or pages than the kernel counts"));
        }
        let fp8 = shape.kv == Dtype::E4m3;
        let products = if fp8 { Dtype::F16 } else { shape.dtype };
        let defines = [
            ("RP_DTYPE", products.name().to_owned()),
            ("RP_Q", shape.dtype.name().to_owned()),
            ("RP_D", shape.dqk.to_string()),
            ("RP_KV8", u8::from(fp8).to_string()),
        ];
        let program = Program { name: "attention/decode_amd", defines: &defines, ..Program::default() };
        let kernel = device.compile(&program, "rp_decode_amd")?;
        Ok(Self { device, shape, rows, threads: WAVES * lanes, kernel, splits: Splits::new(device, shape, splits)? })
    }
}

impl AttentionPlan for Plan<'_> {
    fn enqueue(&self, operands: &AttentionOperands<'_>) -> Result<()> {
        let AttentionOperands { q, k, v, o, .. } = *operands;
        let (s, count) = (self.shape, self.splits.count);
        let rows = s.hq / s.hkv * s.sq;
        let mut args = vec![
            Arg::Buffer(q, 0),
            Arg::Buffer(k, 0),
            Arg::Buffer(v, 0),
            Arg::Buffer(o, 0),
            Arg::Buffer(&self.splits.partial, 0),
            Arg::Buffer(&self.splits.stats, 0),
            given(s.ragged, operands.lengths, "lengths")?,
            given(s.page.is_some(), operands.pages, "pages")?,
            // Of several splits the kernel that joins them knows the sinks.
            given(s.sinks && count == 1, operands.sinks, "sinks")?,
            given(s.kv == Dtype::E4m3, operands.scales, "scales")?,
        ];
        let shift = s.page.map_or(0, |tokens| u64::from(tokens.ilog2()));
        let numbers = [rows, s.sq, s.hkv, s.sk, shift, count, s.window.unwrap_or(0), u64::from(s.causal)];
        args.extend(numbers.map(|n| Arg::I32(n as i32)));
        args.push(Arg::F32(scale(s)));
        let grid = [(s.b * s.hkv * count) as u32, rows.div_ceil(self.rows) as u32, 1];
        self.device.launch(&self.kernel, Geometry { grid, ..Geometry::linear(1, self.threads) }, &args)?;
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
    fn what_serving_asks_of_a_decode_is_done_where_there_are_registers_for_it() {
        let shape = |id: &str| Shape::parse(&format!("attention/decode/{id}")).unwrap_or_else(|| panic!("{id}"));
        for (id, cdna, rdna4) in [
            ("b128hq64hkv8sq1sk8192d128/bf16", Some("decode-mfma"), Some("decode-wmma")),
            ("b4hq64hkv8sq8sk900d64/f16/kv=e4m3/causal/w128/page64/sinks/ragged", Some("decode-mfma"), Some("decode-wmma")),
            ("b4hq8hkv2sq1sk900d256/bf16/page16", Some("decode-mfma"), None),
            ("b4hq8hkv2sq1sk900d96/bf16", None, None),
            ("b4hq8hkv2sq9sk900d64/bf16", None, None),
            ("b4hq8hkv2sq1sk900d64/e4m3", None, None),
            ("b4hq8hkv2sq1sk900d64/bf16/page24", None, None),
        ] {
            for arch in ["gfx90a", "gfx942", "gfx950"] {
                assert_eq!(provider(shape(id), arch), cdna, "{id} on {arch}");
            }
            assert_eq!(provider(shape(id), "gfx1201"), rdna4, "{id}");
            assert_eq!(provider(shape(id), "gfx1100"), None, "{id}");
        }
        assert_eq!(provider(shape("b4hq8hkv2sq1sk900d256/bf16"), "gfx1250"), Some("decode-wmma"));
    }
}
