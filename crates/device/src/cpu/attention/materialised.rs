//! Attention as the formula reads: S = Q·Kᵀ, P = softmax(S), O = P·V, each written to memory whole. The products are those
//! of a GEMM library, so that flash attention is measured against the fastest GEMM there is.

use super::engine::{Softmax, engine};
use super::{check, operands, scale};
use crate::cpu::kernels::Shared;
use crate::cpu::{Pool, allocate, range};
use crate::{
    AttentionKernels, AttentionOperands, AttentionPlan, AttentionProblem, Blas, Buffer, DeviceError, GemmOperands, GemmPlan,
    GemmProblem, Result, Support,
};
use ridgepoint_core::Dtype;
use ridgepoint_core::minifloat::bf16_bits;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// The provider: products by `B`.
pub(crate) struct Materialised<B> {
    blas: B,
    pool: Arc<Pool>,
    allocated: Arc<AtomicU64>,
}

impl<B: Blas> Materialised<B> {
    /// On the threads of a device, its memory counted there.
    pub(crate) fn new(blas: B, pool: &Arc<Pool>, allocated: &Arc<AtomicU64>) -> Self {
        Self { blas, pool: Arc::clone(pool), allocated: Arc::clone(allocated) }
    }
}

impl<B: Blas> AttentionKernels for Materialised<B> {
    fn provider(&self) -> &'static str {
        "materialised"
    }

    fn plan(&self, problem: &AttentionProblem) -> Result<Box<dyn AttentionPlan>> {
        check(problem)?;
        let p = *problem;
        // Query heads of a group lie behind each other, so that one query of each is a matrix; longer ones go head by head,
        // or the scores of a whole group would be held at once.
        let rows = if p.sq == 1 { p.hq / p.hkv } else { p.sq };
        let gemm = |n, k, output| GemmProblem::new(rows, n, k, p.dtype, output);
        let buffer = |elements: usize, dtype: Dtype| {
            let len = elements.checked_mul(dtype.bits() as usize / 8).ok_or_else(|| DeviceError::invalid("too many scores"))?;
            allocate(&self.pool, &self.allocated, len)
        };
        let scores = buffer(rows.saturating_mul(p.sk), Dtype::F32)?;
        Ok(Box::new(Plan {
            pool: Arc::clone(&self.pool),
            problem: p,
            rows,
            products: [self.blas.plan(&gemm(p.sk, p.dqk, Dtype::F32))?, self.blas.plan(&gemm(p.dv, p.sk, p.dtype))?],
            weights: if p.dtype == Dtype::F32 { scores.clone() } else { buffer(rows * p.sk, p.dtype)? },
            scores,
            values: buffer(p.dv * p.sk, p.dtype)?,
            softmax: engine(Dtype::F32).softmax,
            gemm: self.blas.provider(),
        }))
    }
}

struct Plan {
    pool: Arc<Pool>,
    problem: AttentionProblem,
    /// Rows of a product.
    rows: usize,
    /// Q·Kᵀ and P·V.
    products: [Box<dyn GemmPlan>; 2],
    scores: Buffer,
    weights: Buffer,
    /// V transposed: the GEMM wants the summed index contiguous.
    values: Buffer,
    softmax: Softmax,
    gemm: &'static str,
}

impl AttentionPlan for Plan {
    fn enqueue(&self, given: &AttentionOperands<'_>) -> Result<()> {
        let p = &self.problem;
        operands(p, given)?;
        let AttentionOperands { q, k, v, o, .. } = *given;
        let size = p.dtype.element_bytes().unwrap_or(4);
        let part = |buffer: &Buffer, index: usize, elements: usize| {
            let part = buffer.part(index * elements * size, elements * size);
            part.ok_or_else(|| DeviceError::invalid("an operand of attention is too short"))
        };
        let products = p.hq / p.hkv * p.sq / self.rows;
        for head in 0..p.batch * p.hkv {
            if p.shared_kv {
                self.transpose(&part(k, head, p.sk * p.dqk)?, p.dqk)?;
            } else {
                self.transpose(&part(v, head, p.sk * p.dv)?, p.dv)?;
            }
            let keys = part(k, head, p.sk * p.dqk)?;
            for product in head * products..(head + 1) * products {
                let queries = part(q, product, self.rows * p.dqk)?;
                self.products[0].enqueue(&GemmOperands::new(&queries, &keys, &self.scores))?;
                self.softmax();
                let output = part(o, product, self.rows * p.dv)?;
                self.products[1].enqueue(&GemmOperands::new(&self.weights, &self.values, &output))?;
            }
        }
        Ok(())
    }

    fn support(&self) -> Support {
        self.products[0].support()
    }

    fn config(&self) -> BTreeMap<String, String> {
        let gemm = self.products[0].config().into_iter().map(|(key, value)| (format!("gemm {key}"), value));
        let scores = format!("{} × {} f32", self.rows, self.problem.sk);
        gemm.chain([("gemm".into(), self.gemm.into()), ("scores in memory".into(), scores)]).collect()
    }
}

impl Plan {
    /// The first `dv` of `stride` columns as rows.
    fn transpose(&self, v: &Buffer, stride: usize) -> Result<()> {
        match self.problem.dtype {
            Dtype::F32 => self.transpose_as::<u32>(v, stride),
            _ => self.transpose_as::<u16>(v, stride),
        }
    }

    fn transpose_as<T: Copy + Send + Sync>(&self, v: &Buffer, stride: usize) -> Result<()> {
        /// Keys of a row of V's transpose that are written together: one line of f32.
        const LINE: usize = 16;
        let (sk, dv) = (self.problem.sk, self.problem.dv);
        let from = Shared::new(range(v, 0, sk * stride * size_of::<T>())?.cast::<T>());
        let to = Shared::new(self.values.address() as *mut T);
        self.pool.split(sk, LINE, &|_, keys| {
            for first in keys.clone().step_by(LINE) {
                let keys = first..(first + LINE).min(keys.end);
                // SAFETY: the range was checked, and V is only read.
                let rows = unsafe { from.slice(keys.start * stride..keys.end * stride) };
                for column in 0..dv {
                    // SAFETY: these keys' columns of the transpose are this thread's alone.
                    let line = unsafe { to.slice_mut(column * sk + keys.start..column * sk + keys.end) };
                    line.iter_mut().zip(rows.chunks_exact(stride)).for_each(|(to, row)| *to = row[column]);
                }
            }
        });
        Ok(())
    }

    /// Scores to weights, row by row, rounded to the dtype where it is narrower.
    fn softmax(&self) {
        let (p, softmax) = (self.problem, self.softmax);
        let scores: Shared<f32> = Shared::new(self.scores.address() as *mut f32);
        let weights: Shared<u16> = Shared::new(self.weights.address() as *mut u16);
        self.pool.split(self.rows, 1, &|_, rows| {
            for row in rows {
                // A product is one query of several heads, or all queries of one.
                let query = if p.sq == 1 { 0 } else { row };
                let seen = if p.causal { (query + 1 + p.sk).saturating_sub(p.sq).min(p.sk) } else { p.sk };
                // SAFETY: the buffer holds rows × keys, and this row is this thread's alone.
                let scores = unsafe { scores.slice_mut(row * p.sk..(row + 1) * p.sk) };
                // SAFETY: the engine was chosen for this CPU.
                unsafe { softmax(scores.as_mut_ptr(), seen, p.sk, scale(&p)) };
                if p.dtype != Dtype::F32 {
                    // SAFETY: as above, in a buffer of its own.
                    let weights = unsafe { weights.slice_mut(row * p.sk..(row + 1) * p.sk) };
                    weights.iter_mut().zip(scores).for_each(|(to, from)| *to = bf16_bits(*from));
                }
            }
        });
    }
}
