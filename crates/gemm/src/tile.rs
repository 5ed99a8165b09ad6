//! Our kernel without matrix units (kernels/gemm/tile.cu) as a provider, for every GPU that is reached through CUDA or HIP:
//! 128 × 128 tiles, products and sums in f32; several products that share N and K in one launch, whether a batch or grouped by
//! experts. Run on an H200; not yet on AMD's chips.

use crate::cases::Shape;
use ridgepoint_core::{Backend, Dtype};
use ridgepoint_device::{Arg, Buffer, Device, DeviceError, GemmOperands, GemmPlan, Geometry, Kernel, Program, Result, Support};
use std::collections::BTreeMap;

/// Side of a tile, and threads of a block, by the kernel's host contract.
const TILE: u64 = 128;
const THREADS: u32 = 256;

/// The provider's name.
pub(crate) const PROVIDER: &str = "tile";

/// True where the kernel does this shape.
pub(crate) fn fits(shape: Shape, device: &dyn Device) -> bool {
    does(shape, device) && Shape { batch: 1, ..shape }.plain()
}

/// True where the kernel does products of this type.
pub(crate) fn does(shape: Shape, device: &dyn Device) -> bool {
    let runs = matches!(device.info().backend, Backend::Cuda | Backend::Hip);
    runs && matches!(shape.dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16)
}

/// The kernel for one shape.
pub(crate) struct Plan<'d> {
    device: &'d dyn Device,
    shape: Shape,
    kernel: Kernel,
    /// Where each product's rows begin, for several of them.
    groups: Option<Groups>,
}

struct Groups {
    /// One i32 more than there are groups.
    offsets: Buffer,
    count: u64,
    /// Tile rows of all of them together, at most: what a host knows that does not know the router's mind.
    tiles: u64,
}

/// Compiles it.
///
/// # Errors
/// `Unsupported` for a shape that the kernel lacks.
pub(crate) fn plan(device: &dyn Device, shape: Shape) -> Result<Plan<'_>> {
    if !fits(shape, device) {
        return Err(DeviceError::unsupported(format!("the tile kernel has no {} of this kind here", shape.dtype)));
    }
    if shape.batch > 1 {
        let offsets: Vec<u64> = (0..=shape.batch).map(|product| product * shape.m).collect();
        return grouped(device, &offsets, shape);
    }
    Ok(Plan { device, shape, kernel: compile(device, shape, &[], "rp_gemm_tile")?, groups: None })
}

/// Compiles it for products one behind the other, whose rows of A and C begin at these offsets and end at the last.
///
/// # Errors
/// `Unsupported` for a type that the kernel lacks or too many rows.
pub(crate) fn grouped<'d>(device: &'d dyn Device, offsets: &[u64], shape: Shape) -> Result<Plan<'d>> {
    if !does(shape, device) {
        return Err(DeviceError::unsupported(format!("the tile kernel has no {} here", shape.dtype)));
    }
    let count = offsets.len() as u64 - 1;
    let tiles = offsets[count as usize] / TILE + count;
    let numbers: Option<Vec<i32>> = offsets.iter().map(|row| i32::try_from(*row).ok()).collect();
    let numbers = numbers.filter(|_| i32::try_from(tiles * shape.n.div_ceil(TILE)).is_ok());
    let numbers = numbers.ok_or_else(|| DeviceError::unsupported("more rows than the grouped kernel counts"))?;
    let bytes: Vec<u8> = numbers.iter().flat_map(|row| row.to_le_bytes()).collect();
    let on_device = device.alloc(bytes.len())?;
    device.upload(&on_device, 0, &bytes)?;
    let kernel = compile(device, shape, &[("RP_GROUPED", "1".into())], "rp_gemm_grouped")?;
    Ok(Plan { device, shape, kernel, groups: Some(Groups { offsets: on_device, count, tiles }) })
}

fn compile(device: &dyn Device, shape: Shape, more: &[(&'static str, String)], entry: &str) -> Result<Kernel> {
    let mut defines = vec![("RP_DTYPE", shape.dtype.name().to_owned())];
    defines.extend_from_slice(more);
    device.compile(&Program { name: "gemm/tile", defines: &defines, ..Program::default() }, entry)
}

impl GemmPlan for Plan<'_> {
    fn enqueue(&self, &GemmOperands { a, b, c, factor, .. }: &GemmOperands<'_>) -> Result<()> {
        let Shape { m, n, k, .. } = self.shape;
        let operands = [Arg::Buffer(a, 0), Arg::Buffer(b, 0), Arg::Buffer(c, 0)];
        let sizes = [Arg::I32(n as i32), Arg::I32(k as i32), Arg::F32(factor)];
        let (rows, tiles) = match &self.groups {
            None => (vec![Arg::I32(m as i32)], m.div_ceil(TILE)),
            Some(groups) => (vec![Arg::Buffer(&groups.offsets, 0), Arg::I32(groups.count as i32)], groups.tiles),
        };
        let args = [&operands[..], &rows, &sizes].concat();
        self.device.launch(&self.kernel, Geometry::linear((tiles * n.div_ceil(TILE)) as u32, THREADS), &args)
    }

    /// Narrow types are widened to f32: there is no peak of theirs to compare with.
    fn support(&self) -> Support {
        if self.shape.dtype == Dtype::F32 { Support::Native } else { Support::Emulated }
    }

    fn config(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("tile".into(), format!("{TILE}×{TILE}, f32 arithmetic"))])
    }
}
