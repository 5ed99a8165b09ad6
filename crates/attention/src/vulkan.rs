//! Our kernels for GPUs that are reached through Vulkan: kernels/attention/flash.wgsl for prefill, decode and the absorbed form,
//! and materialised.wgsl, which it is measured against. Their host contracts stand in the sources.

use crate::nvidia::scale;
use crate::shape::{Kind, Shape};
use ridgepoint_core::{Backend, Bytes, Dtype};
use ridgepoint_device::{
    Arg, AttentionOperands, AttentionPlan, Buffer, Device, DeviceError, Geometry, Kernel, Program, Result, Support,
};
use std::collections::BTreeMap;

const FLASH: &str = "flash";
const MATERIALISED: &str = "materialised";

/// Threads of a workgroup of the flash kernel.
const THREADS: u64 = 128;
/// Fewest keys worth a split.
const LEAST_SPLIT: u64 = 256;
/// Most workgroups along an axis that every device has.
const MOST_BLOCKS: u64 = 65_535;
/// Rows and keys of a workgroup, the most at once first: the first that fits an adapter's workgroup memory is used.
const TILES: [(u64, u64); 8] = [(16, 32), (16, 16), (8, 16), (4, 16), (4, 8), (2, 8), (2, 4), (1, 2)];

/// The providers of a shape, where a device is reached through Vulkan.
pub(crate) fn providers(shape: Shape, device: &dyn Device) -> &'static [&'static str] {
    // No FP8: WGSL has no bytes to store it in.
    if device.info().backend == Backend::Vulkan && !shape.narrow() { &[FLASH, MATERIALISED] } else { &[] }
}

/// Compiles the kernels of a provider.
///
/// # Errors
/// As [`Device::compile`] and [`Device::alloc`]; `Unsupported` for more than the kernels count.
pub(crate) fn plan<'d>(shape: Shape, provider: &str, device: &'d dyn Device) -> Result<Box<dyn AttentionPlan + 'd>> {
    let heads = shape.b * shape.hkv;
    if heads > MOST_BLOCKS || shape.elements().iter().any(|n| *n > u64::from(u32::MAX)) {
        return Err(DeviceError::unsupported("more heads or elements than the kernels count"));
    }
    Ok(if provider == FLASH { Box::new(Flash::new(shape, device)?) } else { Box::new(Materialised::new(shape, device)?) })
}

/// Rows of one key head: the queries of all heads that share it.
const fn rows(shape: Shape) -> u64 {
    shape.hq / shape.hkv * shape.sq
}

fn storage(dtype: Dtype) -> Vec<(&'static str, String)> {
    let (number, stored) = match dtype {
        Dtype::F16 => (1, "u16"),
        Dtype::Bf16 => (2, "u16"),
        _ => (0, "u32"),
    };
    vec![("RP_DTYPE", format!("{number}")), ("RP_STORED", stored.into())]
}

/// Narrow types are widened: there is no peak of theirs to compare with.
fn support(dtype: Dtype) -> Support {
    if dtype == Dtype::F32 { Support::Native } else { Support::Emulated }
}

/// The small operands, each a buffer even where there is none: a kernel's bindings are always all there.
fn around<'a>(operands: &AttentionOperands<'a>) -> [Arg<'a>; 3] {
    [operands.lengths, operands.pages, operands.sinks].map(|buffer| Arg::Buffer(buffer.unwrap_or(operands.q), 0))
}

struct Flash<'d> {
    device: &'d dyn Device,
    shape: Shape,
    kernel: Kernel,
    combine: Kernel,
    tile: (u64, u64),
    splits: u64,
    partial: Buffer,
    stats: Buffer,
}

/// Keys of a split, whole tiles, and how many splits there then are.
fn splits(shape: Shape, blocks: u64, units: u64, keys: u64) -> (u64, u64) {
    let decode = matches!(shape.kind, Kind::Decode | Kind::MlaDecode);
    let wanted = if decode { (2 * units).div_ceil(blocks).clamp(1, (shape.sk / LEAST_SPLIT).max(1)) } else { 1 };
    let each = shape.sk.div_ceil(wanted).next_multiple_of(keys);
    (each, shape.sk.div_ceil(each))
}

impl<'d> Flash<'d> {
    fn new(shape: Shape, device: &'d dyn Device) -> Result<Self> {
        let (rows, heads) = (rows(shape), shape.b * shape.hkv);
        let compile = |(bq, bk): (u64, u64), entry: &str| {
            let mut defines = storage(shape.dtype);
            let segments = (THREADS / (bq * bk)).max(1);
            let shared = u64::from(shape.kind == Kind::MlaDecode);
            defines.extend(
                [("RP_BQ", bq), ("RP_BK", bk), ("RP_SEG", segments), ("RP_DQK", shape.dqk), ("RP_DV", shape.dv)]
                    .map(|(name, value)| (name, value.to_string())),
            );
            defines.push(("RP_SHARED_KV", shared.to_string()));
            device.compile(&Program { name: "attention/flash", defines: &defines, ..Program::default() }, entry)
        };
        // No more rows of a tile than there are, rounded up to a power of two.
        let mut chosen = Err(DeviceError::unsupported("no tile fits"));
        for tile in TILES.into_iter().filter(|(bq, _)| *bq <= rows.next_power_of_two()) {
            chosen = compile(tile, "rp_flash").map(|kernel| (tile, kernel));
            if !matches!(chosen, Err(DeviceError::Unsupported(_))) {
                break;
            }
        }
        let (tile, kernel) = chosen?;
        let blocks = rows.div_ceil(tile.0) * heads;
        let (_, splits) = splits(shape, blocks, u64::from(device.info().units), tile.1);
        if rows.div_ceil(tile.0) > MOST_BLOCKS || splits > MOST_BLOCKS {
            return Err(DeviceError::unsupported("more rows than a launch has workgroups for"));
        }
        let room = if splits > 1 { rows * heads * splits } else { 1 };
        Ok(Self {
            device,
            shape,
            combine: compile(tile, "rp_combine")?,
            kernel,
            tile,
            splits,
            partial: device.alloc((room * shape.dv * 4) as usize)?,
            stats: device.alloc((room * 8) as usize)?,
        })
    }
}

impl AttentionPlan for Flash<'_> {
    fn enqueue(&self, operands: &AttentionOperands<'_>) -> Result<()> {
        let AttentionOperands { q, k, v, o, .. } = *operands;
        let (s, rows, heads) = (self.shape, rows(self.shape), self.shape.b * self.shape.hkv);
        let blocks = rows.div_ceil(self.tile.0);
        let [lengths, pages, sinks] = around(operands);
        let (split, _) = splits(s, blocks * heads, u64::from(self.device.info().units), self.tile.1);
        let args = [
            Arg::Buffer(q, 0),
            Arg::Buffer(k, 0),
            Arg::Buffer(if s.kind == Kind::MlaDecode { k } else { v }, 0),
            Arg::Buffer(o, 0),
            Arg::Buffer(&self.partial, 0),
            Arg::Buffer(&self.stats, 0),
            lengths,
            pages,
            sinks,
            Arg::U32(rows as u32),
            Arg::U32(s.sq as u32),
            Arg::U32(s.sk as u32),
            Arg::U32(split as u32),
            Arg::U32(u32::from(s.causal)),
            Arg::U32(s.window.unwrap_or(0) as u32),
            Arg::U32(s.page.unwrap_or(0) as u32),
            Arg::U32(s.hkv as u32),
            Arg::U32(u32::from(s.ragged)),
            Arg::U32(u32::from(s.sinks)),
            Arg::F32(scale(s)),
        ];
        let geometry = Geometry { grid: [blocks as u32, self.splits as u32, heads as u32], ..Geometry::linear(1, 128) };
        self.device.launch(&self.kernel, geometry, &args)?;
        if self.splits == 1 {
            return Ok(());
        }
        let total = rows * heads;
        let args = [
            Arg::Buffer(&self.partial, 0),
            Arg::Buffer(&self.stats, 0),
            Arg::Buffer(o, 0),
            Arg::U32(total as u32),
            Arg::U32(self.splits as u32),
        ];
        self.device.launch(&self.combine, Geometry::linear(total.min(MOST_BLOCKS) as u32, 128), &args)
    }

    fn support(&self) -> Support {
        support(self.shape.dtype)
    }

    fn config(&self) -> BTreeMap<String, String> {
        let tile = format!("{} rows × {} keys", self.tile.0, self.tile.1);
        BTreeMap::from([("tile".into(), tile), ("splits".into(), self.splits.to_string())])
    }
}

struct Materialised<'d> {
    device: &'d dyn Device,
    shape: Shape,
    logits: Kernel,
    softmax: Kernel,
    values: Kernel,
    weights: Buffer,
}

impl<'d> Materialised<'d> {
    fn new(shape: Shape, device: &'d dyn Device) -> Result<Self> {
        let elements = rows(shape) * shape.b * shape.hkv * shape.sk;
        let most = device.binding_limit().unwrap_or(u64::MAX).min(4 * u64::from(u32::MAX));
        if elements.saturating_mul(4) > most {
            let (needs, most) = (Bytes(elements.saturating_mul(4)), Bytes(most));
            return Err(DeviceError::unsupported(format!("its weights take {needs}, and a kernel can be given {most}")));
        }
        let defines = storage(shape.dtype);
        let program = Program { name: "attention/materialised", defines: &defines, ..Program::default() };
        Ok(Self {
            device,
            shape,
            logits: device.compile(&program, "rp_logits")?,
            softmax: device.compile(&program, "rp_softmax")?,
            values: device.compile(&program, "rp_values")?,
            weights: device.alloc(elements as usize * 4)?,
        })
    }
}

impl AttentionPlan for Materialised<'_> {
    fn enqueue(&self, operands: &AttentionOperands<'_>) -> Result<()> {
        let AttentionOperands { q, k, v, o, .. } = *operands;
        let (s, rows, heads) = (self.shape, rows(self.shape) as u32, (self.shape.b * self.shape.hkv) as u32);
        let weights = Arg::Buffer(&self.weights, 0);
        let (sq, sk) = (Arg::U32(s.sq as u32), Arg::U32(s.sk as u32));
        let tiles = |columns: u64| Geometry {
            grid: [columns.div_ceil(32) as u32, rows.div_ceil(32), heads],
            block: [16, 16, 1],
            ..Geometry::linear(1, 1)
        };
        let [lengths, pages, sinks] = around(operands);
        let (page, hkv, ragged) = (Arg::U32(s.page.unwrap_or(0) as u32), Arg::U32(s.hkv as u32), Arg::U32(u32::from(s.ragged)));
        let (causal, window, d) = (Arg::U32(u32::from(s.causal)), Arg::U32(s.window.unwrap_or(0) as u32), Arg::U32(s.dqk as u32));
        let args = [Arg::Buffer(q, 0), Arg::Buffer(k, 0), weights, lengths, pages, Arg::U32(rows), sq, sk, d];
        let args: Vec<Arg<'_>> = args.into_iter().chain([causal, window, page, hkv, ragged, Arg::F32(scale(s))]).collect();
        self.device.launch(&self.logits, tiles(s.sk), &args)?;
        let all = rows * heads;
        let args = [weights, sinks, Arg::U32(all), sk, sq, Arg::U32(s.hq as u32), Arg::U32(u32::from(s.sinks))];
        self.device.launch(&self.softmax, Geometry::linear(all.min(MOST_BLOCKS as u32), 128), &args)?;
        // The absorbed form's V lies in K.
        let (v, pitch) = if s.kind == Kind::MlaDecode { (k, s.dqk) } else { (v, s.dv) };
        let (dv, pitch) = (Arg::U32(s.dv as u32), Arg::U32(pitch as u32));
        let args =
            [weights, Arg::Buffer(v, 0), Arg::Buffer(o, 0), lengths, pages, Arg::U32(rows), sk, dv, pitch, page, hkv, ragged];
        self.device.launch(&self.values, tiles(s.dv), &args)
    }

    fn support(&self) -> Support {
        support(self.shape.dtype)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_are_whole_tiles_that_cover_the_keys() {
        let at =
            |id: &str, blocks, units, keys| splits(Shape::parse(&format!("attention/{id}/f32")).unwrap(), blocks, units, keys);
        assert_eq!(at("decode/b1hq32hkv8sq1sk131072d128", 8, 128, 16), (4096, 32));
        assert_eq!(at("decode/b1hq32hkv8sq1sk100d128", 8, 128, 16), (112, 1));
        assert_eq!(at("prefill/b1hq32hkv8sq4096sk4096d128", 8, 128, 16), (4096, 1));
        let (each, count) = at("decode/b1hq32hkv8sq1sk1001d128", 8, 128, 32);
        assert!(each.is_multiple_of(32) && each * (count - 1) < 1001 && each * count >= 1001);
    }
}
