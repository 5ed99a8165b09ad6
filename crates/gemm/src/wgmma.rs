//! Our own Hopper kernels as a provider: kernels/gemm/wgmma_sm90.cu, and wgmma_block_sm90.cu for FP8 with scales of blocks. 128 × 256
//! tiles, a ring of four stages, clusters of two. On an H100 the first came within 1 % of the best cublasLt algorithm for bf16, f16 and
//! tf32 at 8192³. Products of few tiles get smaller ones, or have their sums cut along K, whichever a trial finds faster. On an H200 batches
//! of 1024³ came to 0.93 of cublasLt, scales of blocks to 1.0, products of 16 and 64 rows to 0.60 and 0.78.

use crate::cases::Shape;
use crate::split::{self, Parts};
use ridgepoint_core::Dtype;
use ridgepoint_device::{
    Arg, Buffer, Device, DeviceError, GemmOperands, GemmPlan, Geometry, Kernel, Program, Result, ScaleOrder, Scaling, TensorMap,
};
use std::collections::BTreeMap;

/// A form of a kernel, its macros: columns of a tile (RP_BN), stages of the ring, blocks of a cluster, buffers of the epilogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Form {
    columns: u32,
    stages: u32,
    cluster: u32,
    buffers: u32,
    sums: Sums,
}

/// How sums are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sums {
    /// In the matrix units to the end, then scaled.
    Whole,
    /// Cut along K (RP_SPLIT).
    Split,
    /// In the matrix units over a block of scales, and outside of them from there on.
    Blocks,
}

/// The form for products that fill the chip.
const LARGE: Form = Form { columns: 256, stages: 4, cluster: 2, buffers: 2, sums: Sums::Whole };
/// Without a partner that would have nothing to do.
const ALONE: Form = Form { cluster: 1, ..LARGE };
/// For products that do not: smaller tiles, no partner either, and more of memory on its way.
const SMALL: Form = Form { columns: 128, stages: 6, cluster: 1, buffers: 2, sums: Sums::Whole };
const SPLIT: Form = Form { columns: 128, stages: 6, cluster: 1, buffers: 1, sums: Sums::Split };
/// For scales of blocks one more: shorter tiles whose partners share B.
const NARROW: Form = Form { columns: 128, stages: 6, ..LARGE };

/// Rows of a tile.
const ROWS: u64 = 128;
/// Most tiles, by the kernel's host contract with room for half as wide ones.
const MOST_TILES: u64 = 1 << 29;
/// Threads: two consumer warpgroups and the producer's.
const THREADS: u32 = 384;

impl Form {
    /// Dynamic shared memory, by the kernel's host contract.
    const fn shared(self) -> u32 {
        self.stages * (16400 + self.columns * 128) + self.buffers * 16384 + 1024
    }

    /// Tiles of all products.
    fn tiles(self, shape: Shape) -> u64 {
        shape.batch * shape.m.div_ceil(ROWS) * shape.n.div_ceil(u64::from(self.columns))
    }

    /// Elements of a product that its clusters compute, what lies outside of it included.
    fn covered(self, shape: Shape) -> u64 {
        shape.m.next_multiple_of(ROWS * u64::from(self.cluster)) * shape.n.next_multiple_of(u64::from(self.columns))
    }

    /// Those that are worth a trial on so many multiprocessors, the first choice first.
    fn of(shape: Shape, units: u64) -> Vec<Self> {
        let few = LARGE.tiles(shape) < units;
        let saves = |form: Self| 8 * form.covered(shape) <= 7 * LARGE.covered(shape);
        let blocks = shape.scaling == Scaling::Block128;
        let offered = [(LARGE, true), (NARROW, blocks), (ALONE, !few && saves(ALONE)), (SMALL, few || saves(SMALL))];
        let kept = |form: Self| {
            if blocks && form.sums == Sums::Whole { Self { sums: Sums::Blocks, ..form } } else { form }
        };
        offered.into_iter().filter(|(_, worth)| *worth).map(|(form, _)| kept(form)).collect()
    }
}

/// The provider's name.
pub(crate) const PROVIDER: &str = "wgmma";

/// True where the kernels can run at all.
pub(crate) fn fits(device: &dyn Device) -> bool {
    device.info().arch == "sm_90a"
}

/// The kernel for one shape, in the forms that are worth a trial.
pub(crate) struct Plan<'d> {
    device: &'d dyn Device,
    shape: Shape,
    /// Forms, and in how many parts each cuts K.
    forms: Vec<(Form, Kernel, u64)>,
    parts: Option<Parts<'d>>,
    chosen: usize,
}

/// Compiles it.
///
/// # Errors
/// `Unsupported` for a dtype that these matrix units lack, or rows that TMA cannot address.
pub(crate) fn plan(device: &dyn Device, shape: Shape) -> Result<Plan<'_>> {
    if !matches!(shape.dtype, Dtype::Bf16 | Dtype::F16 | Dtype::Tf32 | Dtype::E4m3 | Dtype::E5m2) {
        return Err(DeviceError::unsupported(format!("the wgmma kernel has no {}", shape.dtype)));
    }
    let whole = |dtype: Dtype, elements: u64| dtype.bytes(elements).0.is_multiple_of(16);
    if !whole(shape.dtype, shape.k) || !whole(shape.output, shape.n) {
        return Err(DeviceError::unsupported("rows must be multiples of 16 bytes for the tensor copy engine"));
    }
    if LARGE.tiles(shape) >= MOST_TILES {
        return Err(DeviceError::unsupported("more tiles than the wgmma kernel counts"));
    }
    let units = u64::from(device.info().units);
    let forms = Form::of(shape, units);
    let mut plan = Plan { device, shape, forms: vec![(forms[0], compile(device, shape, forms[0])?, 1)], parts: None, chosen: 0 };
    // The other forms are a gain and no need: a node without a compiler does without.
    plan.forms.extend(forms[1..].iter().filter_map(|form| Some((*form, compile(device, shape, *form).ok()?, 1))));
    if LARGE.tiles(shape) < units && shape.batch == 1 && matches!(shape.scaling, Scaling::None | Scaling::Tensor) {
        let counts = split::counts(SPLIT.tiles(shape), shape.dtype.bytes(shape.k).0.div_ceil(128), units);
        let most = counts.iter().copied().max().unwrap_or(0);
        let made =
            || Ok::<_, DeviceError>((compile(device, shape, SPLIT)?, Parts::new(device, shape.output, shape.m * shape.n, most)?));
        if most > 0
            && let Ok((kernel, parts)) = made()
        {
            plan.forms.extend(counts.into_iter().map(|count| (SPLIT, kernel.clone(), count)));
            plan.parts = Some(parts);
        }
    }
    Ok(plan)
}

fn compile(device: &dyn Device, shape: Shape, form: Form) -> Result<Kernel> {
    let mut defines = vec![
        ("RP_DTYPE", shape.dtype.name().to_owned()),
        ("RP_BN", form.columns.to_string()),
        ("RP_STAGES", form.stages.to_string()),
        ("RP_CLUSTER", form.cluster.to_string()),
        ("RP_BUFFERS", form.buffers.to_string()),
    ];
    // What is as by default is left out: the forms that were built ahead are known by their macros.
    if shape.b != shape.dtype {
        defines.push(("RP_DTYPE_B", shape.b.name().to_owned()));
    }
    if shape.output != shape.usual_output() {
        defines.push(("RP_OUT", shape.output.name().to_owned()));
    }
    let (name, entry) = match form.sums {
        Sums::Blocks => ("gemm/wgmma_block_sm90", "rp_gemm_wgmma_block"),
        _ => ("gemm/wgmma_sm90", "rp_gemm_wgmma"),
    };
    let more = match form.sums {
        Sums::Split => Some("RP_SPLIT"),
        Sums::Whole if shape.scaling == Scaling::Row => Some("RP_SCALES"),
        _ => None,
    };
    defines.extend(more.map(|name| (name, "1".to_owned())));
    device.compile(&Program { name, defines: &defines, ..Program::default() }, entry)
}

impl Plan<'_> {
    /// Row-major matrices, one a product, `tile` rows of 128 bytes at a time, as TMA's 128-byte swizzle lays them out.
    fn map(&self, buffer: &Buffer, dtype: Dtype, rows: u64, columns: u64, tile: u32) -> Result<Vec<u8>> {
        let bytes = dtype.element_bytes().unwrap_or(1) as u32;
        let map = TensorMap {
            element_bytes: bytes,
            bf16: dtype == Dtype::Bf16,
            dims: vec![columns, rows, self.shape.batch],
            strides: vec![columns * u64::from(bytes), rows * columns * u64::from(bytes)],
            tile: vec![128 / bytes, tile, 1],
            swizzle: 128,
        };
        self.device.tensor_map(buffer, &map)
    }
}

impl GemmPlan for Plan<'_> {
    fn enqueue(&self, &GemmOperands { a, b, c, scale_a, scale_b, factor }: &GemmOperands<'_>) -> Result<()> {
        let Shape { m, n, k, dtype, .. } = self.shape;
        let (form, kernel, count) = &self.forms[self.chosen];
        let operands = [self.map(a, dtype, m, k, ROWS as u32)?, self.map(b, self.shape.b, n, k, form.columns / form.cluster)?];
        let map_c = self.map(c, self.shape.output, m, n, 64)?;
        let parts = self.parts.as_ref().filter(|_| form.sums == Sums::Split);
        let mut args = vec![Arg::Bytes(&operands[0]), Arg::Bytes(&operands[1])];
        args.push(parts.map_or(Arg::Bytes(&map_c), |parts| Arg::Buffer(&parts.buffer, 0)));
        let scaled = matches!(self.shape.scaling, Scaling::Row | Scaling::Block128);
        if scaled {
            let missing = || DeviceError::invalid("a product with scales of rows or blocks was given none");
            args.extend([scale_a, scale_b].into_iter().flatten().map(|scales| Arg::Buffer(scales, 0)));
            (args.len() == 5).then_some(()).ok_or_else(missing)?;
        }
        let layers = if parts.is_some() { *count } else { self.shape.batch };
        args.extend([m, n, k, layers].map(|size| Arg::I32(size as i32)));
        // The parts of a sum are scaled when they are added up.
        if !scaled && parts.is_none() {
            args.push(Arg::F32(factor));
        }
        let grid = self.device.info().units / form.cluster * form.cluster;
        self.device.launch(kernel, Geometry::linear(grid, THREADS).with_shared(form.shared()), &args)?;
        parts.map_or(Ok(()), |parts| parts.join(c, *count, factor))
    }

    fn candidates(&self) -> usize {
        self.forms.len()
    }

    fn name(&self, index: usize) -> String {
        self.forms.get(index).map_or_else(String::new, |(form, _, count)| {
            let tile = format!("128×{}, {} stages, clusters of {}", form.columns, form.stages, form.cluster);
            match form.sums {
                Sums::Split => format!("{tile}, K in {count} parts"),
                _ => tile,
            }
        })
    }

    fn select(&mut self, index: usize) -> Result<()> {
        if index >= self.forms.len() {
            return Err(DeviceError::invalid(format!("there is no form {index}")));
        }
        self.chosen = index;
        Ok(())
    }

    fn fast_accumulation(&self) -> bool {
        matches!(self.shape.dtype, Dtype::E4m3 | Dtype::E5m2) && self.shape.scaling != Scaling::Block128
    }

    fn scale_orders(&self) -> [ScaleOrder; 2] {
        // Neighbouring rows of A have their scales side by side.
        let of_a = if self.shape.scaling == Scaling::Block128 { ScaleOrder::Blocks } else { ScaleOrder::Lines };
        [of_a, ScaleOrder::Lines]
    }

    fn config(&self) -> BTreeMap<String, String> {
        let registers = self.forms[self.chosen].1.resources.map(|r| r.registers.to_string());
        [("tile".to_owned(), Some(self.name(self.chosen))), ("registers".to_owned(), registers)]
            .into_iter()
            .filter_map(|(k, v)| Some((k, v?)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_fits_a_multiprocessor_of_hopper() {
        assert!([LARGE, ALONE, SMALL, SPLIT, NARROW].iter().all(|form| form.shared() <= 232_448));
    }

    #[test]
    fn small_tiles_are_tried_where_large_ones_waste_or_are_few() {
        let of = |id: &str| Form::of(Shape::parse(id).unwrap(), 132);
        assert_eq!(of("gemm/m8192n8192k8192/bf16"), [LARGE]);
        assert_eq!(of("gemm/m64n7168k16384/bf16"), [LARGE, SMALL]);
        // Half of each cluster would have nothing to do; half of each tile, too.
        assert_eq!(of("gemm/b64m128n4096k1024/bf16"), [LARGE, ALONE, SMALL]);
        assert_eq!(of("gemm/b64m1024n128k1024/e4m3/scale=row"), [LARGE, SMALL]);
        let blocks = of("gemm/m4096n4096k4096/e4m3/scale=block128");
        assert_eq!(blocks.len(), 2);
        assert!(blocks.iter().all(|form| matches!(form.sums, Sums::Blocks)), "{blocks:?}");
    }
}
