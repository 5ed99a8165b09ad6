//! Our own kernel for AMD's matrix units (kernels/gemm/matrix_amd.cu) as a provider: `mfma` on CDNA, `wmma` on RDNA 3 and later and
//! on gfx1250. It comes in several forms, of which the fastest on the device is kept. Not yet run on hardware.

use crate::cases::Shape;
use ridgepoint_core::{Backend, Dtype};
use ridgepoint_device::{Arg, Device, DeviceError, GemmOperands, GemmPlan, Geometry, Kernel, Program, Result};
use ridgepoint_harness::encoding;
use std::collections::BTreeMap;

/// A form of the kernel: its macros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Form {
    /// Rows and columns of a block's tile (RP_BM, RP_BN).
    tile: u32,
    /// Threads of a block (RP_THREADS).
    threads: u32,
    /// Bytes of K a step (RP_ROW).
    row: u32,
    /// Bytes a lane loads straight into LDS at a time (RP_DIRECT); 0: through registers.
    direct: u32,
}

/// The forms that a chip can run, the largest tile first; empty where its matrix units are not known.
fn forms(arch: &str) -> Vec<Form> {
    let form = |tile, threads, row, direct| Form { tile, threads, row, direct };
    match arch {
        "gfx90a" => vec![form(256, 512, 64, 0), form(128, 256, 64, 0)],
        "gfx942" => vec![form(256, 512, 64, 0), form(256, 512, 64, 4), form(128, 256, 64, 0)],
        "gfx950" => vec![form(256, 512, 128, 16), form(256, 512, 128, 0), form(128, 256, 128, 16), form(128, 256, 128, 0)],
        "gfx1250" => vec![form(256, 256, 128, 16), form(128, 256, 128, 16), form(128, 256, 128, 0)],
        _ if arch.starts_with("gfx11") || arch.starts_with("gfx120") => vec![form(128, 256, 64, 0)],
        _ => vec![],
    }
}

/// Those of a chip's forms that suit a shape: no tile that is larger than the product, and whole steps for direct loads.
fn suiting(arch: &str, shape: Shape, element_bytes: u64) -> Vec<Form> {
    let all = forms(arch);
    let smallest = all.iter().map(|f| f.tile).min().unwrap_or(0);
    let longest = shape.m.max(shape.n);
    all.into_iter()
        .filter(|f| f.tile == smallest || u64::from(f.tile) <= longest)
        .filter(|f| f.direct == 0 || (shape.k * element_bytes).is_multiple_of(u64::from(f.row)))
        .collect()
}

/// The provider's name for a shape on a device, where there is one.
pub(crate) fn provider(shape: Shape, device: &dyn Device) -> Option<&'static str> {
    let (backend, arch) = (device.info().backend, &device.info().arch);
    let has = match shape.dtype {
        Dtype::F16 | Dtype::Bf16 | Dtype::I8 => true,
        Dtype::E4m3 | Dtype::E5m2 => !arch.starts_with("gfx90") && !arch.starts_with("gfx11"),
        _ => false,
    };
    (has && shape.plain() && backend == Backend::Hip && !forms(arch).is_empty())
        .then(|| if arch.starts_with("gfx9") { "mfma" } else { "wmma" })
}

/// The kernel for one shape, in the forms that were compiled.
pub(crate) struct Plan<'d> {
    device: &'d dyn Device,
    shape: Shape,
    forms: Vec<(Form, Kernel)>,
    chosen: usize,
}

/// Compiles it.
///
/// # Errors
/// `Unsupported` for rows that are no multiple of 16 bytes; as [`Device::compile`].
pub(crate) fn plan(device: &dyn Device, shape: Shape) -> Result<Plan<'_>> {
    let arch = &device.info().arch;
    let input = encoding(shape.dtype, device);
    let whole = |dtype: Dtype, elements: u64| dtype.bytes(elements).0.is_multiple_of(16);
    if !whole(input, shape.k) || !whole(shape.output, shape.n) {
        return Err(DeviceError::unsupported("rows must be multiples of 16 bytes for wide loads"));
    }
    let dies = device.info().facts.get("accelerator dies").map_or("1", String::as_str);
    let (mut compiled, mut refused) = (vec![], None);
    for form in suiting(arch, shape, input.bytes(1).0) {
        let defines = [
            ("RP_DTYPE", input.name().to_owned()),
            ("RP_BM", form.tile.to_string()),
            ("RP_BN", form.tile.to_string()),
            ("RP_THREADS", form.threads.to_string()),
            ("RP_ROW", form.row.to_string()),
            ("RP_DIRECT", form.direct.to_string()),
            ("RP_XCDS", dies.to_owned()),
        ];
        let program = Program { name: "gemm/matrix_amd", defines: &defines, ..Program::default() };
        match device.compile(&program, "rp_gemm_matrix") {
            Ok(kernel) => compiled.push((form, kernel)),
            // An older compiler may lack an instruction that another form does without.
            Err(error @ (DeviceError::Compile { .. } | DeviceError::Unsupported(_))) => refused = refused.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    match refused {
        Some(error) if compiled.is_empty() => Err(error),
        _ => Ok(Plan { device, shape, forms: compiled, chosen: 0 }),
    }
}

impl GemmPlan for Plan<'_> {
    fn enqueue(&self, &GemmOperands { a, b, c, factor, .. }: &GemmOperands<'_>) -> Result<()> {
        let (Shape { m, n, k, .. }, (form, kernel)) = (self.shape, &self.forms[self.chosen]);
        let [m, n, k] = [m, n, k].map(|extent| extent as i32);
        let args =
            [Arg::Buffer(a, 0), Arg::Buffer(b, 0), Arg::Buffer(c, 0), Arg::I32(m), Arg::I32(n), Arg::I32(k), Arg::F32(factor)];
        let tiles = |extent: u64| extent.div_ceil(u64::from(form.tile)) as u32;
        self.device.launch(kernel, Geometry::linear(tiles(self.shape.m) * tiles(self.shape.n), form.threads), &args)
    }

    fn candidates(&self) -> usize {
        self.forms.len()
    }

    fn select(&mut self, index: usize) -> Result<()> {
        if index >= self.forms.len() {
            return Err(DeviceError::invalid(format!("there is no form {index}")));
        }
        self.chosen = index;
        Ok(())
    }

    fn config(&self) -> BTreeMap<String, String> {
        let (form, kernel) = &self.forms[self.chosen];
        let way = if form.direct == 0 { "through registers".into() } else { format!("{} bytes a lane into LDS", form.direct) };
        let tile = format!("{0}×{0}, steps of {1} bytes, {way}", form.tile, form.row);
        let registers = kernel.resources.map(|r| ("registers".to_owned(), r.registers.to_string()));
        [("tile".to_owned(), tile)].into_iter().chain(registers).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_suit_their_chip_and_shape() {
        let shape = |m, n, k| Shape::new(m, n, k, Dtype::Bf16);
        let found = |arch, of, bytes| suiting(arch, of, bytes).iter().map(|f| (f.tile, f.direct)).collect::<Vec<_>>();
        assert_eq!(found("gfx942", shape(4096, 4096, 4096), 2), [(256, 0), (256, 4), (128, 0)]);
        assert_eq!(found("gfx950", shape(4096, 4096, 4096), 2), [(256, 16), (256, 0), (128, 16), (128, 0)]);
        // K of 1000 is no whole number of steps, and 64 rows of 128 columns fill no tile of 256.
        assert_eq!(found("gfx950", shape(4096, 4096, 1000), 2), [(256, 0), (128, 0)]);
        assert_eq!(found("gfx942", shape(64, 128, 4096), 2), [(128, 0)]);
        assert_eq!(found("gfx1100", shape(8, 8, 8), 2), [(128, 0)]);
        assert_eq!(found("gfx1201", shape(4096, 4096, 4096), 1), [(128, 0)]);
        assert_eq!(found("gfx1250", shape(4096, 4096, 4096), 1), [(256, 16), (128, 16), (128, 0)]);
        assert!(found("gfx908", shape(8, 8, 8), 2).is_empty());
        // What the LDS of each chip holds: two buffers of both tiles.
        for (arch, most) in [("gfx90a", 64), ("gfx942", 64), ("gfx950", 160), ("gfx1100", 64), ("gfx1201", 64), ("gfx1250", 320)]
        {
            assert!(forms(arch).iter().all(|f| 2 * 2 * f.tile * f.row <= most << 10), "{arch}");
        }
    }
}
