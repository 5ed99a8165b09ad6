//! Attention as the formula reads: S = Q·Kᵀ, P = softmax(S), O = P·V, each written to memory whole. The products are those
//! of a GEMM library, so that flash attention is measured against the fastest GEMM there is.

use super::engine::{Softmax, engine};
use super::given::Given;
use super::tiles::gather;
use super::{check, convert, work};
use crate::cpu::kernels::Shared;
use crate::cpu::{Pool, allocate};
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
        let work = work(&p);
        let gemm = |n, k, output| GemmProblem::new(rows, n, k, work, output);
        let buffer = |elements: usize, dtype: Dtype| {
            let len = elements.checked_mul(dtype.bits() as usize / 8).ok_or_else(|| DeviceError::invalid("too many scores"))?;
            allocate(&self.pool, &self.allocated, len)
        };
        let scores = buffer(rows.saturating_mul(p.sk), Dtype::F32)?;
        let keys = p.kv != work || p.paged.is_some();
        let some = |wanted: bool, elements: usize| if wanted { buffer(elements, work).map(Some) } else { Ok(None) };
        Ok(Box::new(Plan {
            pool: Arc::clone(&self.pool),
            problem: p,
            work,
            rows,
            products: [self.blas.plan(&gemm(p.sk, p.dqk, Dtype::F32))?, self.blas.plan(&gemm(p.dv, p.sk, work))?],
            weights: if work == Dtype::F32 { scores.clone() } else { buffer(rows * p.sk, work)? },
            scores,
            queries: some(p.dtype != work, rows * p.dqk)?,
            keys: some(keys, p.sk * p.dqk)?,
            values: buffer(p.dv * p.sk, work)?,
            // FP8 values are scaled where the output is rounded.
            out: some(p.output != work || p.kv.bits() == 8, rows * p.dv)?,
            softmax: engine(Dtype::F32).softmax,
            gemm: self.blas.provider(),
        }))
    }
}

struct Plan {
    pool: Arc<Pool>,
    problem: AttentionProblem,
    /// Type of the products' operands.
    work: Dtype,
    /// Rows of a product.
    rows: usize,
    /// Q·Kᵀ and P·V.
    products: [Box<dyn GemmPlan>; 2],
    scores: Buffer,
    weights: Buffer,
    /// A product's queries, and a head's keys, where they must be widened or lie in pages.
    queries: Option<Buffer>,
    keys: Option<Buffer>,
    /// V transposed: the GEMM wants the summed index contiguous.
    values: Buffer,
    /// A product's output, where that is of another type or scaled.
    out: Option<Buffer>,
    softmax: Softmax,
    gemm: &'static str,
}

impl AttentionPlan for Plan {
    fn enqueue(&self, operands: &AttentionOperands<'_>) -> Result<()> {
        let p = &self.problem;
        let given = Given::new(p, operands)?;
        let part = |buffer: &Buffer, dtype: Dtype, index: usize, elements: usize| {
            let size = dtype.element_bytes().unwrap_or(4);
            let part = buffer.part(index * elements * size, elements * size);
            part.ok_or_else(|| DeviceError::invalid("an operand of attention is too short"))
        };
        let products = p.hq / p.hkv * p.sq / self.rows;
        for head in 0..p.batch * p.hkv {
            self.transpose(&given, head);
            let keys = match &self.keys {
                Some(keys) => {
                    self.gather(&given, head, keys);
                    keys.clone()
                }
                None => part(operands.k, p.kv, head, p.sk * p.dqk)?,
            };
            for product in head * products..(head + 1) * products {
                let queries = part(operands.q, p.dtype, product, self.rows * p.dqk)?;
                let queries = self.queries.as_ref().map_or(queries.clone(), |wide| self.widen(&queries, wide));
                self.products[0].enqueue(&GemmOperands::new(&queries, &keys, &self.scores))?;
                self.softmax(&given, product);
                let out = part(operands.o, p.output, product, self.rows * p.dv)?;
                let to = self.out.as_ref().unwrap_or(&out);
                self.products[1].enqueue(&GemmOperands::new(&self.weights, &self.values, to))?;
                if let Some(from) = &self.out {
                    self.round(from, given.value, &out);
                }
            }
        }
        Ok(())
    }

    fn support(&self) -> Support {
        let wider = [self.problem.dtype, self.problem.kv].iter().any(|d| *d != self.work);
        if wider { Support::Emulated } else { self.products[0].support() }
    }

    fn config(&self) -> BTreeMap<String, String> {
        let gemm = self.products[0].config().into_iter().map(|(key, value)| (format!("gemm {key}"), value));
        let scores = format!("{} × {} f32", self.rows, self.problem.sk);
        gemm.chain([("gemm".into(), self.gemm.into()), ("scores in memory".into(), scores)]).collect()
    }
}

impl Plan {
    /// A head's V as rows of columns, its keys behind each other; those past the sequence's length are zero.
    fn transpose(&self, given: &Given, head: usize) {
        match self.work {
            Dtype::F32 => self.transpose_as::<u32>(given, head),
            _ => self.transpose_as::<u16>(given, head),
        }
    }

    fn transpose_as<T: Copy + Default + Send + Sync>(&self, given: &Given, head: usize) {
        /// Keys of a row of V's transpose that are written together: one line of f32.
        const LINE: usize = 16;
        let (p, work) = (&self.problem, self.work);
        let (sk, dv, length) = (p.sk, p.dv, given.length(p, head / p.hkv));
        let (base, stride) = if p.shared_kv { (given.k, p.dqk) } else { (given.v, dv) };
        let to = Shared::new(self.values.address() as *mut T);
        self.pool.split(sk, LINE, &|_, keys| {
            let mut rows = vec![T::default(); LINE * stride];
            for first in keys.clone().step_by(LINE) {
                let keys = first..(first + LINE).min(keys.end);
                let seen = keys.end.min(length).saturating_sub(first);
                // SAFETY: the vector holds as many elements of plain data.
                let bytes = unsafe { std::slice::from_raw_parts_mut(rows.as_mut_ptr().cast::<u8>(), size_of_val(&rows[..])) };
                gather(given, p, work, (base, stride), head, first..first + seen, bytes);
                rows[seen * stride..].fill(T::default());
                for column in 0..dv {
                    // SAFETY: these keys' columns of the transpose are this thread's alone.
                    let line = unsafe { to.slice_mut(column * sk + keys.start..column * sk + keys.end) };
                    line.iter_mut().zip(rows.chunks_exact(stride)).for_each(|(to, row)| *to = row[column]);
                }
            }
        });
    }

    /// A head's keys behind each other. Behind the last stands what stood there, which no row sees.
    fn gather(&self, given: &Given, head: usize, to: &Buffer) {
        let (p, work) = (&self.problem, self.work);
        let size = work.element_bytes().unwrap_or(4);
        let to: Shared<u8> = Shared::new(to.address() as *mut u8);
        self.pool.split(given.length(p, head / p.hkv), 1, &|_, keys| {
            // SAFETY: the buffer holds all keys of a head, and these are this thread's alone.
            let rows = unsafe { to.slice_mut(keys.start * p.dqk * size..keys.end * p.dqk * size) };
            gather(given, p, work, (given.k, p.dqk), head, keys, rows);
        });
    }

    /// A product's queries in f32.
    fn widen(&self, from: &Buffer, to: &Buffer) -> Buffer {
        let p = self.problem;
        let size = p.dtype.element_bytes().unwrap_or(4);
        let (from, wide) = (Shared::new(from.address() as *mut u8), Shared::new(to.address() as *mut f32));
        self.pool.split(self.rows * p.dqk, 64, &|_, at| {
            // SAFETY: both hold as many elements, and these are this thread's alone.
            let (from, wide) = unsafe { (from.slice(at.start * size..at.end * size), wide.slice_mut(at)) };
            convert::widen(p.dtype, from, wide);
        });
        to.clone()
    }

    /// A product's output times `factor`, as the type of O.
    fn round(&self, from: &Buffer, factor: f32, to: &Buffer) {
        let output = self.problem.output;
        let size = output.element_bytes().unwrap_or(4);
        let (from, to) = (Shared::new(from.address() as *mut f32), Shared::new(to.address() as *mut u8));
        self.pool.split(self.rows * self.problem.dv, 64, &|_, at| {
            // SAFETY: both hold as many elements, and these are this thread's alone.
            let (from, to) = unsafe { (from.slice(at.clone()), to.slice_mut(at.start * size..at.end * size)) };
            from.iter().zip(to.chunks_exact_mut(size)).for_each(|(x, to)| convert::store(output, x * factor, to));
        });
    }

    /// Scores to weights, row by row, rounded to the type of the products where that is narrower.
    fn softmax(&self, given: &Given, product: usize) {
        let (p, softmax, each, narrow) = (self.problem, self.softmax, self.rows, self.work != Dtype::F32);
        let scores: Shared<f32> = Shared::new(self.scores.address() as *mut f32);
        let weights: Shared<u16> = Shared::new(self.weights.address() as *mut u16);
        self.pool.split(self.rows, 1, &|_, rows| {
            for row in rows {
                // A product is one query of several heads, or all queries of one.
                let at = product * each + row;
                let (query_head, query) = (at / p.sq, at % p.sq);
                let (first, last) = given.span(&p, query_head / p.hq, query);
                let (first, end) = (first as usize, (last + 1).max(first) as usize);
                // SAFETY: the buffer holds rows × keys, and this row is this thread's alone.
                let scores = unsafe { scores.slice_mut(row * p.sk..(row + 1) * p.sk) };
                let (before, seen) = scores.split_at_mut(first);
                before.fill(0.0);
                let sink = given.sink(&p, query_head).unwrap_or(f32::NEG_INFINITY);
                // SAFETY: the engine was chosen for this CPU.
                unsafe { softmax(seen.as_mut_ptr(), end - first, seen.len(), given.scale, sink) };
                if narrow {
                    // SAFETY: as above, in a buffer of its own.
                    let weights = unsafe { weights.slice_mut(row * p.sk..(row + 1) * p.sk) };
                    weights.iter_mut().zip(scores).for_each(|(to, from)| *to = bf16_bits(*from));
                }
            }
        });
    }
}
