//! Products of types that no CPU multiplies: elements and their scales are widened to f32 and multiplied as such. Emulated, and
//! said to be; it is there so that every case can be run and verified without a GPU.

use super::{Plan, pointer};
use crate::cpu::kernels::Shared;
use crate::cpu::{allocate, range};
use crate::{Buffer, DeviceError, GemmOperands, GemmPlan, GemmProblem, Result, ScaleOrder, Scales, Scaling, Support};
use ridgepoint_core::Dtype;
use std::collections::BTreeMap;

/// One of A and B.
struct Factor {
    name: &'static str,
    /// Elements as they are stored.
    dtype: Dtype,
    rows: usize,
    /// The value of each pattern.
    values: Vec<f32>,
    scales: Option<Scales>,
    /// One product's, as f32.
    wide: Buffer,
}

pub(super) struct Widened {
    problem: GemmProblem,
    factors: [Factor; 2],
    /// The same product of f32.
    product: Plan,
}

/// True for types that are widened.
pub(super) const fn knows(dtype: Dtype) -> bool {
    matches!(dtype.element(), Dtype::E4m3 | Dtype::E5m2 | Dtype::E4m3fnuz | Dtype::E5m2fnuz | Dtype::E2m1)
}

impl Widened {
    /// `product` is the plan of one product of f32 with this problem's shape and output.
    ///
    /// # Errors
    /// `Unsupported` for a length that is no whole number of blocks.
    pub(super) fn new(native: &super::Native, problem: &GemmProblem, product: Plan) -> Result<Self> {
        let p = *problem;
        for matrix in [p.a, p.b] {
            let block = matrix.dtype.block_scale().map_or(1, |scale| scale.block as usize);
            if !p.k.is_multiple_of(block) {
                return Err(DeviceError::unsupported(format!("{} needs a K that is a multiple of {block}", matrix.dtype)));
            }
        }
        let scales = Scales::of(&p);
        let factor = |name, dtype: Dtype, rows: usize, scales| -> Result<Factor> {
            let dtype = dtype.element();
            let format = dtype.format().ok_or_else(|| DeviceError::unsupported(format!("{dtype} cannot be widened")))?;
            let values = (0..1u32 << dtype.bits()).map(|pattern| format.decode(pattern) as f32).collect();
            let wide = allocate(&native.pool, &native.allocated, rows * p.k * 4)?;
            Ok(Factor { name, dtype, rows, values, scales, wide })
        };
        let factors = [factor("A", p.a.dtype, p.m, scales.map(|s| s[0]))?, factor("B", p.b.dtype, p.n, scales.map(|s| s[1]))?];
        Ok(Self { problem: p, factors, product })
    }

    /// One product's factor to f32, its scales applied, all of it times `by`.
    fn widen(&self, factor: &Factor, product: usize, elements: &Buffer, scales: Option<&Buffer>, by: f32) -> Result<()> {
        let (k, rows) = (self.problem.k, factor.rows);
        let row_bytes = k * factor.dtype.bits() as usize / 8;
        let from = Shared::new(range(elements, product * rows * row_bytes, rows * row_bytes)?);
        let grid = match (factor.scales, scales) {
            (None, _) => None,
            (Some(scales), Some(buffer)) => {
                let bytes = scales.len(ScaleOrder::Lines) as usize * scales.of.bytes();
                Some((scales, Shared::new(range(buffer, 0, bytes)?), bytes))
            }
            (Some(_), None) => return Err(DeviceError::invalid(format!("the scales of {} are missing", factor.name))),
        };
        let to: Shared<f32> = pointer(&factor.wide);
        let run = grid.map_or(k, |(scales, ..)| scales.run.min(k as u64) as usize);
        self.product.pool.split(rows, 1, &|_, part| {
            for row in part {
                // SAFETY: the ranges were checked, operands are only read, and this row of the copy is this thread's alone.
                let (from, to) =
                    unsafe { (from.slice(row * row_bytes..(row + 1) * row_bytes), to.slice_mut(row * k..(row + 1) * k)) };
                for (block, to) in to.chunks_mut(run).enumerate() {
                    let first = block * run;
                    let scale = grid.map_or(by, |(scales, at, bytes)| {
                        let size = scales.of.bytes();
                        let place = scales.place(ScaleOrder::Lines, product as u64, row as u64, first as u64) as usize * size;
                        // SAFETY: the buffer holds all scales, and they are only read.
                        let all = unsafe { at.slice(0..bytes) };
                        scales.of.read(&all[place..place + size]) as f32 * by
                    });
                    let value = |at: usize| {
                        let pattern = if factor.dtype.bits() == 4 { from[at / 2] >> (at % 2 * 4) & 15 } else { from[at] };
                        factor.values[usize::from(pattern)] * scale
                    };
                    to.iter_mut().enumerate().for_each(|(i, to)| *to = value(first + i));
                }
            }
        });
        Ok(())
    }
}

impl GemmPlan for Widened {
    fn enqueue(&self, operands: &GemmOperands<'_>) -> Result<()> {
        let p = &self.problem;
        // The factor of whole tensors, where it is not in the buffers of scales.
        let by = if p.scaling == Scaling::Nvfp4 { operands.factor } else { 1.0 };
        let bytes = p.output.bytes((p.m * p.n) as u64).0 as usize;
        let [a, b] = &self.factors;
        for product in 0..p.batch {
            self.widen(a, product, operands.a, operands.scale_a, by)?;
            self.widen(b, product, operands.b, operands.scale_b, 1.0)?;
            let c = range(operands.c, product * bytes, bytes)?;
            let address = |buffer: &Buffer| buffer.address() as *mut u8;
            self.product.multiply(address(&a.wide), address(&b.wide), c);
        }
        Ok(())
    }

    fn support(&self) -> Support {
        Support::Emulated
    }

    fn config(&self) -> BTreeMap<String, String> {
        let mut config = self.product.config();
        config.insert("widened to".into(), "f32".into());
        config
    }
}
