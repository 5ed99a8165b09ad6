//! Our kernel for products with few rows (kernels/gemm/gemv.cu) as a provider, for every GPU that is reached through CUDA or HIP: bound
//! by device memory, as a decoder is that writes one token at a time. Not yet run on hardware.

use crate::cases::Shape;
use ridgepoint_core::{Backend, Dtype};
use ridgepoint_device::{Arg, Device, DeviceError, GemmOperands, GemmPlan, Geometry, Kernel, Program, Result};
use std::collections::BTreeMap;

/// The provider's name.
pub(crate) const PROVIDER: &str = "gemv";
/// Most rows of A, threads of a block and rows of B a warp, by the kernel's host contract.
const MOST: u64 = 8;
const THREADS: u32 = 256;
const ROWS: u64 = 4;

/// True where the kernel can do it.
pub(crate) fn fits(shape: Shape, device: &dyn Device) -> bool {
    let runs = matches!(device.info().backend, Backend::Cuda | Backend::Hip);
    runs && shape.plain() && shape.m <= MOST && matches!(shape.dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16)
}

/// The kernel for one shape.
pub(crate) struct Plan<'d> {
    device: &'d dyn Device,
    shape: Shape,
    kernel: Kernel,
}

/// Compiles it.
///
/// # Errors
/// `Unsupported` for a shape that it is not for.
pub(crate) fn plan(device: &dyn Device, shape: Shape) -> Result<Plan<'_>> {
    if !fits(shape, device) {
        return Err(DeviceError::unsupported(format!("the gemv kernel does up to {MOST} rows of f32, f16 and bf16")));
    }
    let defines = [("RP_DTYPE", shape.dtype.name().to_owned()), ("RP_M", shape.m.to_string()), ("RP_ROWS", ROWS.to_string())];
    let program = Program { name: "gemm/gemv", defines: &defines, ..Program::default() };
    Ok(Plan { device, shape, kernel: device.compile(&program, "rp_gemv")? })
}

impl GemmPlan for Plan<'_> {
    fn enqueue(&self, &GemmOperands { a, b, c, .. }: &GemmOperands<'_>) -> Result<()> {
        let Shape { n, k, .. } = self.shape;
        // A wave of AMD's older chips is twice as wide.
        let lanes = if self.device.info().arch.starts_with("gfx9") { 64 } else { 32 };
        let grid = n.div_ceil(ROWS * u64::from(THREADS / lanes));
        let args = [Arg::Buffer(a, 0), Arg::Buffer(b, 0), Arg::Buffer(c, 0), Arg::I32(n as i32), Arg::I32(k as i32)];
        self.device.launch(&self.kernel, Geometry::linear(grid as u32, THREADS), &args)
    }

    fn config(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("warp".into(), format!("{ROWS} rows of B, 16 bytes a lane, f32 arithmetic"))])
    }
}
