//! Products that are few tiles long and wide but deep: their sums are cut along K, so that all of the chip has work, and added up by a
//! second kernel in a fixed order (kernels/gemm/combine.cu): the same operands give the same bits each time.

use ridgepoint_core::Dtype;
use ridgepoint_device::{Arg, Buffer, Device, DeviceError, Geometry, Kernel, Program, Result};

/// Fewest steps of K a part: what fills a kernel's ring is not yet work.
const LEAST_STEPS: u64 = 8;
/// Most parts.
const MOST_PARTS: u64 = 32;
/// Numbers of parts that are worth a trial.
const TRIED: usize = 3;
/// Most bytes of parts.
const MOST_BYTES: u64 = 256 << 20;

/// The numbers of parts to try for `tiles` tiles of `steps` steps of K on `units` units, the most promising first: what each block has
/// to do, one wave after the other. Empty where the tiles fill the chip by themselves.
pub(crate) fn counts(tiles: u64, steps: u64, units: u64) -> Vec<u64> {
    if tiles == 0 || tiles >= units {
        return Vec::new();
    }
    let waves = |parts: u64| (tiles * parts).div_ceil(units.max(1));
    let length = |parts: u64| waves(parts) * steps.div_ceil(parts);
    let mut parts: Vec<u64> = (2..=MOST_PARTS.min(steps / LEAST_STEPS)).filter(|parts| length(*parts) < steps).collect();
    // Of equal lengths the one of fewer parts, which are less to add up.
    parts.sort_by_key(|parts| (length(*parts), *parts));
    parts.truncate(TRIED);
    parts
}

/// Room for the parts of a product, and the kernel that adds them up.
pub(crate) struct Parts<'d> {
    device: &'d dyn Device,
    combine: Kernel,
    elements: u64,
    /// f32 (of int8 i32) [parts, m, n].
    pub(crate) buffer: Buffer,
}

impl<'d> Parts<'d> {
    /// For at most `count` parts of `elements` elements each, to be stored as `output`.
    ///
    /// # Errors
    /// `Unsupported` for more than is reasonable; as [`Device::compile`] and [`Device::alloc`].
    pub(crate) fn new(device: &'d dyn Device, output: Dtype, elements: u64, count: u64) -> Result<Self> {
        let bytes = elements * count * 4;
        if bytes > MOST_BYTES || !elements.is_multiple_of(4) {
            return Err(DeviceError::unsupported("a product of this size is not cut along K"));
        }
        let defines = [("RP_OUT", output.name().to_owned())];
        let program = Program { name: "gemm/combine", defines: &defines, ..Program::default() };
        let combine = device.compile(&program, "rp_gemm_combine")?;
        Ok(Self { device, combine, elements, buffer: device.alloc(bytes as usize)? })
    }

    /// Enqueues the sum of the first `count` parts, times `alpha`, into `c`.
    ///
    /// # Errors
    /// As [`Device::launch`].
    pub(crate) fn join(&self, c: &Buffer, count: u64, alpha: f32) -> Result<()> {
        let args =
            [Arg::Buffer(&self.buffer, 0), Arg::Buffer(c, 0), Arg::U64(self.elements), Arg::I32(count as i32), Arg::F32(alpha)];
        self.device.launch(&self.combine, Geometry::linear(self.elements.div_ceil(1024) as u32, 256), &args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_fill_the_chip_and_are_not_shorter_than_the_ring() {
        // 64×7168×16384 of bf16 in tiles of 128×128 on an H100: 56 tiles, 256 stages of K, 132 multiprocessors.
        let found = counts(56, 256, 132);
        assert_eq!(found.len(), TRIED);
        assert!(
            found.iter().all(|parts| {
                let waves = (56 * parts).div_ceil(132);
                waves * 256_u64.div_ceil(*parts) <= 128
            }),
            "{found:?}"
        );
        // 16×8192×8192: 64 tiles and two parts fit one wave to 97 %.
        assert!(counts(64, 128, 132).contains(&2), "{:?}", counts(64, 128, 132));
        // A chip that is full, a product without depth, and none at all.
        assert_eq!([counts(132, 256, 132), counts(4, 15, 132), counts(0, 9, 132)], [const { Vec::<u64>::new() }; 3]);
    }
}
