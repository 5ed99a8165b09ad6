//! Our own kernel for AMD's matrix units (kernels/gemm/matrix_amd.cu) as a provider: `mfma` on CDNA, `wmma` on RDNA 3 and later and
//! on gfx1250. It comes in several forms, of which the fastest on the device is kept. Not yet run on hardware.

use crate::cases::Shape;
use crate::split::{self, Parts};
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

impl Form {
    /// Tiles of a product.
    fn tiles(self, shape: Shape) -> u64 {
        shape.m.div_ceil(u64::from(self.tile)) * shape.n.div_ceil(u64::from(self.tile))
    }
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
    /// Forms, and in how many parts each cuts K; 1 for those that do not.
    forms: Vec<(Form, Kernel, u64)>,
    parts: Option<Parts<'d>>,
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
    let compile = |form: Form, split: bool| {
        let mut defines = vec![
            ("RP_DTYPE", input.name().to_owned()),
            ("RP_BM", form.tile.to_string()),
            ("RP_BN", form.tile.to_string()),
            ("RP_THREADS", form.threads.to_string()),
            ("RP_ROW", form.row.to_string()),
            ("RP_DIRECT", form.direct.to_string()),
            ("RP_XCDS", dies.to_owned()),
        ];
        if split {
            let sums = if input == Dtype::I8 { "i32" } else { "f32" };
            defines.extend([("RP_SPLIT", "1".to_owned()), ("RP_OUT", sums.to_owned())]);
        }
        let program = Program { name: "gemm/matrix_amd", defines: &defines, ..Program::default() };
        device.compile(&program, "rp_gemm_matrix")
    };
    let suiting = suiting(arch, shape, input.bytes(1).0);
    let (mut compiled, mut refused) = (vec![], None);
    for form in &suiting {
        match compile(*form, false) {
            Ok(kernel) => compiled.push((*form, kernel, 1)),
            // An older compiler may lack an instruction that another form does without.
            Err(error @ (DeviceError::Compile { .. } | DeviceError::Unsupported(_))) => refused = refused.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    match refused {
        Some(error) if compiled.is_empty() => return Err(error),
        _ => {}
    }
    let mut plan = Plan { device, shape, forms: compiled, parts: None, chosen: 0 };
    // Cut along K where the smallest tiles do not fill the chip; a gain and no need.
    if let Some(form) = suiting.last() {
        let steps = input.bytes(shape.k).0.div_ceil(u64::from(form.row));
        let counts = split::counts(form.tiles(shape), steps, u64::from(device.info().units));
        let most = counts.iter().copied().max().unwrap_or(0);
        let made = || Ok::<_, DeviceError>((compile(*form, true)?, Parts::new(device, shape.output, shape.m * shape.n, most)?));
        if most > 0
            && let Ok((kernel, parts)) = made()
        {
            plan.forms.extend(counts.into_iter().map(|count| (*form, kernel.clone(), count)));
            plan.parts = Some(parts);
        }
    }
    Ok(plan)
}

impl GemmPlan for Plan<'_> {
    fn enqueue(&self, &GemmOperands { a, b, c, factor, .. }: &GemmOperands<'_>) -> Result<()> {
        let (Shape { m, n, k, .. }, (form, kernel, count)) = (self.shape, &self.forms[self.chosen]);
        let parts = self.parts.as_ref().filter(|_| *count > 1);
        let [m, n, k, splits] = [m, n, k, *count].map(|extent| Arg::I32(extent as i32));
        let to = parts.map_or(c, |parts| &parts.buffer);
        // A form that cuts K asks for the number of its parts, and leaves the factor to whoever adds them up.
        let last = if parts.is_some() { splits } else { Arg::F32(factor) };
        let args = [Arg::Buffer(a, 0), Arg::Buffer(b, 0), Arg::Buffer(to, 0), m, n, k, last];
        self.device.launch(kernel, Geometry::linear((form.tiles(self.shape) * count) as u32, form.threads), &args)?;
        parts.map_or(Ok(()), |parts| parts.join(c, *count, factor))
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

    fn name(&self, index: usize) -> String {
        self.forms.get(index).map_or_else(String::new, |(form, _, count)| {
            let way =
                if form.direct == 0 { "through registers".into() } else { format!("{} bytes a lane into LDS", form.direct) };
            let parts = if *count > 1 { format!(", K in {count} parts") } else { String::new() };
            format!("{0}×{0}, steps of {1} bytes, {way}{parts}", form.tile, form.row)
        })
    }

    fn config(&self) -> BTreeMap<String, String> {
        let registers = self.forms[self.chosen].1.resources.map(|r| ("registers".to_owned(), r.registers.to_string()));
        [("tile".to_owned(), self.name(self.chosen))].into_iter().chain(registers).collect()
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
