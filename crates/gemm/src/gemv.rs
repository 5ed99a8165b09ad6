//! Our kernel for products with few rows (kernels/gemm/gemv.cu) as a provider, for every GPU that is reached through CUDA or HIP: bound
//! by device memory, as a decoder is that writes one token at a time. A trial chooses how many rows a warp has and how far it reads ahead.

use crate::cases::Shape;
use ridgepoint_core::{Backend, Dtype};
use ridgepoint_device::{Arg, Device, DeviceError, GemmOperands, GemmPlan, Geometry, Kernel, Program, Result};
use std::collections::BTreeMap;

/// The provider's name.
pub(crate) const PROVIDER: &str = "gemv";
/// Most rows of A, and threads of a block, by the kernel's host contract.
const MOST: u64 = 8;
const THREADS: u32 = 256;
/// Rows of B a warp (RP_ROWS) and steps of K in flight (RP_DEEP): the first wherever a trial is not to be had.
const FORMS: [[u64; 2]; 4] = [[4, 1], [1, 8], [2, 4], [4, 2]];

/// True where the kernel can do it.
pub(crate) fn fits(shape: Shape, device: &dyn Device) -> bool {
    let runs = matches!(device.info().backend, Backend::Cuda | Backend::Hip);
    runs && shape.plain() && shape.m <= MOST && matches!(shape.dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16)
}

/// The kernel for one shape, in each of its forms.
pub(crate) struct Plan<'d> {
    device: &'d dyn Device,
    shape: Shape,
    forms: Vec<([u64; 2], Kernel)>,
    chosen: usize,
}

/// Compiles it.
///
/// # Errors
/// `Unsupported` for a shape that it is not for.
pub(crate) fn plan(device: &dyn Device, shape: Shape) -> Result<Plan<'_>> {
    if !fits(shape, device) {
        return Err(DeviceError::unsupported(format!("the gemv kernel does up to {MOST} rows of f32, f16 and bf16")));
    }
    let compile = |[rows, deep]: [u64; 2]| {
        let numbers = [("RP_M", shape.m), ("RP_ROWS", rows), ("RP_DEEP", deep)].map(|(name, n)| (name, n.to_string()));
        let defines: Vec<_> = std::iter::once(("RP_DTYPE", shape.dtype.name().to_owned())).chain(numbers).collect();
        device.compile(&Program { name: "gemm/gemv", defines: &defines, ..Program::default() }, "rp_gemv")
    };
    // The others are a gain and no need.
    let [first, others @ ..] = FORMS;
    let others = others.into_iter().filter_map(|form| Some((form, compile(form).ok()?)));
    let forms = std::iter::once((first, compile(first)?)).chain(others).collect();
    Ok(Plan { device, shape, forms, chosen: 0 })
}

impl GemmPlan for Plan<'_> {
    fn enqueue(&self, &GemmOperands { a, b, c, .. }: &GemmOperands<'_>) -> Result<()> {
        let Shape { n, k, .. } = self.shape;
        let ([rows, _], kernel) = &self.forms[self.chosen];
        // A wave of AMD's older chips is twice as wide.
        let lanes = if self.device.info().arch.starts_with("gfx9") { 64 } else { 32 };
        let grid = n.div_ceil(rows * u64::from(THREADS / lanes));
        let args = [Arg::Buffer(a, 0), Arg::Buffer(b, 0), Arg::Buffer(c, 0), Arg::I32(n as i32), Arg::I32(k as i32)];
        self.device.launch(kernel, Geometry::linear(grid as u32, THREADS), &args)
    }

    fn candidates(&self) -> usize {
        self.forms.len()
    }

    fn name(&self, index: usize) -> String {
        self.forms.get(index).map_or_else(String::new, |([rows, deep], _)| format!("{rows} rows of B a warp, {deep} steps ahead"))
    }

    fn select(&mut self, index: usize) -> Result<()> {
        if index >= self.forms.len() {
            return Err(DeviceError::invalid(format!("there is no form {index}")));
        }
        self.chosen = index;
        Ok(())
    }

    fn config(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("warp".into(), format!("{}, 16 bytes a lane, f32 arithmetic", self.name(self.chosen)))])
    }
}
