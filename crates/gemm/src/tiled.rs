//! Our kernels for GPUs that are reached through Vulkan: tiles in f32 arithmetic (kernels/gemm/tiled.wgsl), which every adapter
//! can run, and cooperative matrices (kernels/gemm/cooperative.wgsl) where it has them.

use crate::cases::Shape;
use ridgepoint_core::{Backend, Dtype};
use ridgepoint_device::{
    Arg, Device, DeviceError, GemmOperands, GemmPlan, Geometry, Kernel, MatrixShape, Program, Result, Support,
};
use std::collections::BTreeMap;

/// The providers' names.
pub(crate) const TILED: &str = "tiled";
pub(crate) const COOPERATIVE: &str = "cooperative";

/// Elements of C a thread along each side (RP_PER), all of which are tried.
const PER: [u32; 2] = [4, 8];
/// Side of the cooperative kernel's tile of C, its step along K, and its threads.
const TILE: u32 = 64;
const STEP: u32 = 32;
const THREADS: u32 = 128;

/// Those of our kernels that a device could run: which dtypes and shapes is said when one is prepared.
pub(crate) fn providers(shape: Shape, device: &dyn Device) -> Vec<&'static str> {
    if device.info().backend != Backend::Vulkan || !shape.plain() {
        return vec![];
    }
    // Plain f32 is no business of matrix units.
    let narrow = !matches!(shape.dtype, Dtype::F32 | Dtype::F64);
    if narrow { vec![TILED, COOPERATIVE] } else { vec![TILED] }
}

/// A kernel's own number for a dtype, and the type that holds an element in memory.
fn storage(dtype: Dtype) -> Result<[(&'static str, String); 2]> {
    let (number, stored) = match dtype {
        Dtype::F32 => (0, "u32"),
        Dtype::F16 => (1, "u16"),
        Dtype::Bf16 => (2, "u16"),
        other => return Err(DeviceError::unsupported(format!("the Vulkan kernels have no {other}"))),
    };
    Ok([("RP_DTYPE", format!("{number}")), ("RP_STORED", stored.into())])
}

/// A form of a kernel that can be launched.
struct Form {
    kernel: Kernel,
    block: [u32; 3],
    tile: u32,
    name: String,
}

/// The kernel for one shape, in the forms there are.
pub(crate) struct Plan<'d> {
    device: &'d dyn Device,
    shape: Shape,
    forms: Vec<Form>,
    chosen: usize,
}

/// Compiles the kernel of a provider.
///
/// # Errors
/// `Unsupported` for a dtype, or for a device without such matrices, with what it has.
pub(crate) fn plan<'d>(device: &'d dyn Device, shape: Shape, provider: &str) -> Result<Plan<'d>> {
    // Elements are counted in 32 bits.
    if [shape.m * shape.k, shape.n * shape.k, shape.m * shape.n].iter().any(|n| *n > u64::from(u32::MAX)) {
        return Err(DeviceError::unsupported("more elements than the kernel counts"));
    }
    let forms = if provider == COOPERATIVE { vec![cooperative(device, shape)?] } else { tiled(device, shape)? };
    Ok(Plan { device, shape, forms, chosen: 0 })
}

fn tiled(device: &dyn Device, shape: Shape) -> Result<Vec<Form>> {
    let mut forms = vec![];
    // A larger tile than the product is only more to load.
    let smallest = shape.m.min(shape.n);
    for per in PER.into_iter().filter(|per| *per == PER[0] || u64::from(16 * per) <= smallest) {
        let mut defines = storage(shape.dtype)?.to_vec();
        defines.push(("RP_PER", per.to_string()));
        let program = Program { name: "gemm/tiled", defines: &defines, ..Program::default() };
        match device.compile(&program, "rp_gemm") {
            Ok(kernel) => {
                forms.push(Form {
                    kernel,
                    block: [16, 16, 1],
                    tile: 16 * per,
                    name: format!("{0}×{0}, f32 arithmetic", 16 * per),
                });
            }
            // The larger form may need more than the adapter has.
            Err(DeviceError::Unsupported(_)) if !forms.is_empty() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(forms)
}

/// Rows and columns of matrices that each subgroup owns, so that all of them share the tile evenly.
fn split(shape: MatrixShape) -> Option<(u32, u32)> {
    let subgroups = THREADS.checked_div(shape.lanes).filter(|n| *n > 0)?;
    let down = 1 << subgroups.ilog2().div_ceil(2);
    let across = subgroups / down;
    let even = down * across == subgroups
        && TILE.is_multiple_of(down * shape.m)
        && TILE.is_multiple_of(across * shape.n)
        && STEP.is_multiple_of(shape.k);
    even.then(|| (TILE / (down * shape.m), TILE / (across * shape.n)))
}

fn cooperative(device: &dyn Device, shape: Shape) -> Result<Form> {
    let matrices = device.matrices();
    let usable = |m: &&MatrixShape| m.input == shape.dtype && m.output == Dtype::F32 && split(**m).is_some();
    // The one that does most at once.
    let best = matrices.iter().filter(usable).max_by_key(|m| m.m * m.n * m.k);
    let Some(best) = best else {
        let have: Vec<String> = matrices.iter().map(|m| format!("{}×{}×{} {}→{}", m.m, m.n, m.k, m.input, m.output)).collect();
        let have = if have.is_empty() { "none at all".into() } else { have.join(", ") };
        let (name, dtype) = (&device.info().name, shape.dtype);
        return Err(DeviceError::unsupported(format!(
            "{name} has no cooperative matrices of {dtype} with f32 sums: it has {have}"
        )));
    };
    let (rows, cols) = split(*best).unwrap_or((1, 1));
    let mut defines = storage(shape.dtype)?.to_vec();
    let numbers =
        [("RP_SUBGROUP", best.lanes), ("RP_M", best.m), ("RP_N", best.n), ("RP_K", best.k), ("RP_ROWS", rows), ("RP_COLS", cols)];
    defines.extend(numbers.map(|(name, value)| (name, value.to_string())));
    let program = Program { name: "gemm/cooperative", defines: &defines, ..Program::default() };
    let kernel = device.compile(&program, "rp_gemm_cooperative")?;
    let name = format!("{TILE}×{TILE} of {}×{}×{} by subgroups of {}", best.m, best.n, best.k, best.lanes);
    Ok(Form { kernel, block: [THREADS, 1, 1], tile: TILE, name })
}

impl GemmPlan for Plan<'_> {
    fn enqueue(&self, &GemmOperands { a, b, c, .. }: &GemmOperands<'_>) -> Result<()> {
        let (Shape { m, n, k, .. }, form) = (self.shape, &self.forms[self.chosen]);
        let args =
            [Arg::Buffer(a, 0), Arg::Buffer(b, 0), Arg::Buffer(c, 0), Arg::U32(m as u32), Arg::U32(n as u32), Arg::U32(k as u32)];
        let tiles = |extent: u64| extent.div_ceil(u64::from(form.tile)) as u32;
        let geometry = Geometry { grid: [tiles(n), tiles(m), 1], block: form.block, ..Geometry::linear(1, 1) };
        self.device.launch(&form.kernel, geometry, &args)
    }

    fn candidates(&self) -> usize {
        self.forms.len()
    }

    fn name(&self, index: usize) -> String {
        self.forms.get(index).map_or_else(String::new, |form| form.name.clone())
    }

    fn select(&mut self, index: usize) -> Result<()> {
        if index >= self.forms.len() {
            return Err(DeviceError::invalid(format!("there is no form {index}")));
        }
        self.chosen = index;
        Ok(())
    }

    /// Tiles widen narrow types to f32: there is no peak of theirs to compare with.
    fn support(&self) -> Support {
        let widened = self.shape.dtype != Dtype::F32 && self.forms[self.chosen].block[1] > 1;
        if widened { Support::Emulated } else { Support::Native }
    }

    fn config(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("tile".into(), self.forms[self.chosen].name.clone())])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subgroups_share_the_tile_evenly_or_not_at_all() {
        let shape = |m, n, k, lanes| MatrixShape { m, n, k, input: Dtype::F16, output: Dtype::F32, lanes };
        for (of, expected) in [
            // lavapipe, NVIDIA, RDNA with 64 and with 32 lanes, Intel, and one that fits no tile.
            (shape(8, 8, 8, 8), Some((2, 2))),
            (shape(16, 8, 16, 32), Some((2, 4))),
            (shape(16, 16, 16, 64), Some((2, 4))),
            (shape(16, 16, 16, 32), Some((2, 2))),
            (shape(8, 16, 16, 16), Some((2, 2))),
            (shape(12, 16, 16, 32), None),
            (shape(64, 64, 16, 8), None),
        ] {
            assert_eq!(split(of), expected, "{of:?}");
            if let Some((rows, cols)) = expected {
                assert_eq!(rows * of.m * cols * of.n * (THREADS / of.lanes), TILE * TILE);
            }
        }
    }
}
