//! Our kernel without matrix units (kernels/gemm/tile.cu) as a provider, for every GPU that is reached through CUDA or HIP:
//! 128 × 128 tiles, products and sums in f32. Not yet run on hardware as a provider.

use crate::cases::Shape;
use ridgepoint_core::{Backend, Dtype};
use ridgepoint_device::{Arg, Device, DeviceError, GemmOperands, GemmPlan, Geometry, Kernel, Program, Result, Support};
use std::collections::BTreeMap;

/// Side of a tile, and threads of a block, by the kernel's host contract.
const TILE: u64 = 128;
const THREADS: u32 = 256;

/// The provider's name.
pub(crate) const PROVIDER: &str = "tile";

/// True where the kernel can run at all.
pub(crate) fn fits(shape: Shape, device: &dyn Device) -> bool {
    let runs = matches!(device.info().backend, Backend::Cuda | Backend::Hip);
    runs && shape.plain() && matches!(shape.dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16)
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
/// `Unsupported` for a dtype that the kernel lacks.
pub(crate) fn plan(device: &dyn Device, shape: Shape) -> Result<Plan<'_>> {
    if !fits(shape, device) {
        return Err(DeviceError::unsupported(format!("the tile kernel has no {} here", shape.dtype)));
    }
    let defines = [("RP_DTYPE", shape.dtype.name().to_owned())];
    let program = Program { name: "gemm/tile", defines: &defines, ..Program::default() };
    Ok(Plan { device, shape, kernel: device.compile(&program, "rp_gemm_tile")? })
}

impl GemmPlan for Plan<'_> {
    fn enqueue(&self, &GemmOperands { a, b, c, .. }: &GemmOperands<'_>) -> Result<()> {
        let Shape { m, n, k, .. } = self.shape;
        let args = [
            Arg::Buffer(a, 0),
            Arg::Buffer(b, 0),
            Arg::Buffer(c, 0),
            Arg::I32(m as i32),
            Arg::I32(n as i32),
            Arg::I32(k as i32),
            Arg::F32(1.0),
        ];
        let grid = m.div_ceil(TILE) * n.div_ceil(TILE);
        self.device.launch(&self.kernel, Geometry::linear(grid as u32, THREADS), &args)
    }

    /// Narrow types are widened to f32: there is no peak of theirs to compare with.
    fn support(&self) -> Support {
        if self.shape.dtype == Dtype::F32 { Support::Native } else { Support::Emulated }
    }

    fn config(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("tile".into(), format!("{TILE}×{TILE}, f32 arithmetic"))])
    }
}
