//! Our own kernel on warp-level tensor instructions (kernels/gemm/mma_sm80.cu) as a provider, from sm_80 on: 128 × 128 tiles, a
//! ring of four stages, mma.sync. Not yet run on hardware as a provider.

use crate::cases::Shape;
use crate::variants::number;
use ridgepoint_core::{Backend, Dtype};
use ridgepoint_device::{Arg, Device, DeviceError, GemmOperands, GemmPlan, Geometry, Kernel, Program, Result};
use std::collections::BTreeMap;

/// Rows and columns of a tile (RP_BN, as many threads), and stages of the ring (RP_STAGES).
const ROWS: u64 = 128;
const COLUMNS: u32 = 128;
const STAGES: u32 = 4;
/// Dynamic shared memory, by the kernel's host contract.
const SHARED: u32 = STAGES * (128 + COLUMNS) * 64;

/// The provider's name.
pub(crate) const PROVIDER: &str = "mma-sync";

/// True where the chip has such instructions for the dtype in hardware: FP8 is emulated in f16 on data centre chips.
pub(crate) fn fits(shape: Shape, device: &dyn Device) -> bool {
    let info = device.info();
    let chip = number(&info.arch);
    info.backend == Backend::Cuda
        && shape.plain()
        && match shape.dtype {
            Dtype::Bf16 | Dtype::F16 | Dtype::Tf32 => chip >= 80,
            Dtype::E4m3 | Dtype::E5m2 => chip == 89 || chip >= 120,
            _ => false,
        }
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
/// `Unsupported` for a dtype or chip without such instructions, or for rows that are no multiple of 16 bytes.
pub(crate) fn plan(device: &dyn Device, shape: Shape) -> Result<Plan<'_>> {
    if !fits(shape, device) {
        return Err(DeviceError::unsupported(format!("mma.sync has no {} on {}", shape.dtype, device.info().arch)));
    }
    let whole = |dtype: Dtype, elements: u64| dtype.bytes(elements).0.is_multiple_of(16);
    if !whole(shape.dtype, shape.k) || !whole(shape.output, shape.n) {
        return Err(DeviceError::unsupported("rows must be multiples of 16 bytes for the mma.sync kernel"));
    }
    let defines =
        [("RP_DTYPE", shape.dtype.name().to_owned()), ("RP_BN", COLUMNS.to_string()), ("RP_STAGES", STAGES.to_string())];
    let program = Program { name: "gemm/mma_sm80", defines: &defines, ..Program::default() };
    Ok(Plan { device, shape, kernel: device.compile(&program, "rp_gemm_mma")? })
}

impl GemmPlan for Plan<'_> {
    fn enqueue(&self, &GemmOperands { a, b, c, factor, .. }: &GemmOperands<'_>) -> Result<()> {
        let Shape { m, n, k, .. } = self.shape;
        let args = [
            Arg::Buffer(a, 0),
            Arg::Buffer(b, 0),
            Arg::Buffer(c, 0),
            Arg::I32(m as i32),
            Arg::I32(n as i32),
            Arg::I32(k as i32),
            Arg::F32(factor),
        ];
        let grid = m.div_ceil(ROWS) * n.div_ceil(u64::from(COLUMNS));
        self.device.launch(&self.kernel, Geometry::linear(grid as u32, COLUMNS).with_shared(SHARED), &args)
    }

    fn fast_accumulation(&self) -> bool {
        matches!(self.shape.dtype, Dtype::E4m3 | Dtype::E5m2)
    }

    fn config(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("tile".into(), format!("{ROWS}×{COLUMNS}, {STAGES} stages"))])
    }
}
