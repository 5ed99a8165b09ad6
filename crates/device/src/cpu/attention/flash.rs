//! Flash attention's outer loops: which block of queries meets which tile of keys on which thread. Threads take tasks from a
//! counter, so that a core the host takes away costs a task and not half the run; parts of the keys are combined at the end.

use super::engine::{Block, Engine, TILE, Tile, engine};
use super::rearrange::{Form, widen};
use super::shape::Shape;
use super::{check, from_bf16, operands, scale};
use crate::cpu::kernels::Shared;
use crate::cpu::{Pool, allocate};
use crate::{AttentionKernels, AttentionOperands, AttentionPlan, AttentionProblem, Buffer, Result, Support};
use ridgepoint_core::Dtype;
use ridgepoint_core::minifloat::bf16_bits;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The provider.
pub(crate) struct Flash {
    pool: Arc<Pool>,
    allocated: Arc<AtomicU64>,
}

impl Flash {
    /// On the threads of a device, its memory counted there.
    pub(crate) fn new(pool: &Arc<Pool>, allocated: &Arc<AtomicU64>) -> Self {
        Self { pool: Arc::clone(pool), allocated: Arc::clone(allocated) }
    }

    /// A plan with these kernels.
    pub(super) fn plan_with(&self, problem: &AttentionProblem, engine: Engine) -> Result<Plan> {
        check(problem)?;
        let shape = Shape::new(problem, engine, self.pool.threads());
        let floats = |n: usize| allocate(&self.pool, &self.allocated, n * 4);
        Ok(Plan {
            pool: Arc::clone(&self.pool),
            shape,
            scratch: (0..self.pool.threads()).map(|_| floats(shape.scratch())).collect::<Result<_>>()?,
            parts: if shape.parts > 1 { Some(floats(shape.heads() * shape.blocks * shape.parts * shape.part())?) } else { None },
        })
    }
}

impl AttentionKernels for Flash {
    fn provider(&self) -> &'static str {
        "flash"
    }

    fn plan(&self, problem: &AttentionProblem) -> Result<Box<dyn AttentionPlan>> {
        check(problem)?;
        let mut engine = engine(problem.dtype);
        if !problem.dqk.is_multiple_of(engine.group) {
            // Pairs run along the head dimension; an odd one is done in f32.
            engine = super::engine::engine(Dtype::F32);
            engine.narrow = &[];
        }
        Ok(Box::new(self.plan_with(problem, engine)?))
    }
}

/// A plan and its working memory.
pub(super) struct Plan {
    pool: Arc<Pool>,
    shape: Shape,
    scratch: Vec<Buffer>,
    parts: Option<Buffer>,
}

impl AttentionPlan for Plan {
    fn enqueue(&self, given: &AttentionOperands<'_>) -> Result<()> {
        let [q, k, v, o] = operands(&self.shape.problem, given)?.map(Shared::new);
        let run = Run { plan: self, shape: &self.shape, q, k, v, o };
        let tasks = self.shape.tasks() * self.shape.parts;
        let next = AtomicUsize::new(0);
        self.pool.run(&|thread, _| {
            while let Some(task) = take(&next, tasks) {
                run.task(thread, task);
            }
        });
        if self.shape.parts > 1 {
            let next = AtomicUsize::new(0);
            let blocks = self.shape.heads() * self.shape.blocks;
            self.pool.run(&|_, _| {
                while let Some(block) = take(&next, blocks) {
                    run.combine(block);
                }
            });
        }
        Ok(())
    }

    fn support(&self) -> Support {
        if self.shape.widens() { Support::Emulated } else { Support::Native }
    }

    fn config(&self) -> BTreeMap<String, String> {
        let s = &self.shape;
        let lanes = if s.narrow { "the head dimension" } else { "queries" };
        BTreeMap::from([
            ("kernel".into(), format!("{}, lanes along {lanes}", s.engine.name)),
            ("tile".into(), format!("{} queries × {TILE} keys", s.width)),
            ("blocks a task".into(), s.span.to_string()),
            ("parts of the keys".into(), s.parts.to_string()),
            ("threads".into(), self.pool.threads().to_string()),
        ])
    }
}

/// The next of `0..end` from a counter that all threads share.
fn take(counter: &AtomicUsize, end: usize) -> Option<usize> {
    let at = counter.fetch_add(1, Ordering::Relaxed);
    (at < end).then_some(at)
}

/// A block that meets its tiles, with the last keys that the first and the last of its rows see.
struct Ready {
    block: Block,
    least: isize,
    greatest: isize,
}

/// One execution.
struct Run<'a> {
    plan: &'a Plan,
    shape: &'a Shape,
    q: Shared<u8>,
    k: Shared<u8>,
    v: Shared<u8>,
    o: Shared<u8>,
}

impl Run<'_> {
    fn task(&self, thread: usize, task: usize) {
        let s = self.shape;
        let (task, part) = (task / s.parts, task % s.parts);
        let head = task / s.chunks();
        // The last rows of a causal mask see most keys: they come first, so that the end of a run is made of short tasks.
        let chunk = s.chunks() - 1 - task % s.chunks();
        let blocks = chunk * s.span..((chunk + 1) * s.span).min(s.blocks);
        let scratch: Shared<f32> = Shared::new(self.plan.scratch[thread].address() as *mut f32);
        // SAFETY: the buffer is this thread's alone and holds `scratch()` f32.
        let scratch = unsafe { scratch.slice_mut(0..s.scratch()) };
        let (scores, rest) = scratch.split_at_mut(TILE * s.width);
        let (copies, states) = rest.split_at_mut(s.k_copy() + s.v_copy());
        let states = blocks.clone().zip(states.chunks_exact_mut(s.state()));
        let ready: Vec<Ready> = states.map(|(block, state)| self.start(head, block, state)).collect();
        let tiles = s.problem.sk.div_ceil(TILE);
        let last = ready.iter().map(|r| r.greatest).max().unwrap_or(-1);
        for t in tiles * part / s.parts..tiles * (part + 1) / s.parts {
            let (first, end) = (t * TILE, ((t + 1) * TILE).min(s.problem.sk));
            if first as isize > last {
                break;
            }
            let mut tile = self.tile(head, first, end - first, copies);
            for Ready { block, least, greatest } in &ready {
                if first as isize > *greatest {
                    continue;
                }
                // On the diagonal, nothing behind the last key that any row sees; whole register tiles all the same.
                tile.keys = ((*greatest as usize + 1 - first).next_multiple_of(16)).min(end - first);
                tile.masked = *least < (first + tile.keys) as isize - 1;
                // SAFETY: operands were checked for their lengths; block and scores are this thread's and of this shape.
                unsafe { (s.kernel.step)(&tile, block, scores.as_mut_ptr()) };
            }
        }
        for (index, Ready { block, .. }) in blocks.zip(&ready) {
            // SAFETY: as above; the state's pointers came from `start`.
            let (o, max, sum) = unsafe {
                let slice = |p: *mut f32, n: usize| std::slice::from_raw_parts(p, n);
                (slice(block.o, s.problem.dv * s.width), slice(block.max, s.width), slice(block.sum, s.width))
            };
            if s.parts == 1 {
                self.finish(head, index, o, sum);
            } else {
                let out = self.part(head * s.blocks + index, part);
                let (out_o, out_rest) = out.split_at_mut(o.len());
                out_o.copy_from_slice(o);
                out_rest[..s.width].copy_from_slice(max);
                out_rest[s.width..].copy_from_slice(sum);
            }
        }
    }

    /// What part `part` of a block leaves; each task has its own.
    #[expect(clippy::mut_from_ref, reason = "each part is written by one task and read after all are done")]
    fn part(&self, block: usize, part: usize) -> &mut [f32] {
        let n = self.shape.part();
        let at = (block * self.shape.parts + part) * n;
        let base = self.plan.parts.as_ref().map_or(0, Buffer::address) as *mut f32;
        // SAFETY: the buffer holds a part for each block and part, and exists where there is more than one.
        unsafe { Shared::new(base).slice_mut(at..at + n) }
    }

    /// Packs a block's queries and clears what it will find.
    fn start(&self, head: usize, block: usize, state: &mut [f32]) -> Ready {
        let s = self.shape;
        let (width, p) = (s.width, &s.problem);
        let (q, rest) = state.split_at_mut(s.depth() * width);
        let (o, rest) = rest.split_at_mut(p.dv * width);
        let (max, rest) = rest.split_at_mut(width);
        let (sum, limit) = rest.split_at_mut(width);
        o.fill(0.0);
        max.fill(f32::MIN);
        sum.fill(0.0);
        let rows = block * width..((block + 1) * width).min(s.rows);
        let size = p.dtype.element_bytes().unwrap_or(4);
        for lane in 0..width {
            if block * width + lane >= s.rows {
                (0..s.depth()).for_each(|unit| q[s.q_at(lane, unit)] = 0.0);
                limit[lane] = f32::MAX;
                continue;
            }
            let (query_head, i) = s.row(head, block * width + lane);
            limit[lane] = s.limit(i) as f32;
            let at = (query_head * p.sq + i) * p.dqk;
            // SAFETY: Q was checked for its length and is only read.
            let row = unsafe { self.q.slice(at * size..(at + p.dqk) * size) };
            for (unit, bytes) in row.chunks_exact(size * s.engine.group).enumerate() {
                q[s.q_at(lane, unit)] = match *bytes {
                    [a, b] => from_bf16(u16::from_le_bytes([a, b])),
                    [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
                    _ => f32::NAN,
                };
            }
        }
        let block = Block {
            q: q.as_ptr().cast(),
            o: o.as_mut_ptr(),
            max: max.as_mut_ptr(),
            sum: sum.as_mut_ptr(),
            limit: limit.as_ptr(),
        };
        // Rows are in the order of queries, and later ones see more.
        let limit = |row: usize| s.limit(s.row(head, row).1);
        Ready { block, least: limit(rows.start), greatest: limit(rows.end - 1) }
    }

    /// Keys `first..first + keys` of a head as the kernels want them: in place where they can read them there.
    fn tile(&self, head: usize, first: usize, keys: usize, copies: &mut [f32]) -> Tile {
        let s = self.shape;
        let p = &s.problem;
        let size = p.dtype.element_bytes().unwrap_or(4);
        let rows = |base: Shared<u8>, d: usize| {
            let at = (head * p.sk + first) * d * size;
            // SAFETY: K and V were checked for their lengths and are only read.
            unsafe { base.slice(at..at + keys * d * size) }
        };
        // Values are rows of V, or the first columns of rows of K.
        let stride = if p.shared_kv { p.dqk } else { p.dv };
        let (k, v) = (rows(self.k, p.dqk), rows(self.v, stride));
        let mut tile = Tile {
            k: k.as_ptr().cast(),
            k_stride: p.dqk * size / 4,
            v: v.as_ptr().cast(),
            v_step: stride * size / 4,
            v_panel: s.kernel.size,
            columns: p.dv,
            first,
            keys,
            masked: false,
            scale: scale(p),
        };
        if s.narrow || (p.dtype == Dtype::F32 && !s.packs()) {
            return tile;
        }
        let (wide_k, panels) = copies.split_at_mut(s.k_copy());
        if s.widens() {
            widen(k, wide_k);
            (tile.k, tile.k_stride) = (wide_k.as_ptr().cast(), p.dqk);
        }
        let form = match (p.dtype, s.engine.group) {
            (Dtype::F32, _) => Form::Copy,
            (_, 1) => Form::Widen,
            _ => Form::Pair,
        };
        // SAFETY: the engine was chosen for this CPU.
        unsafe { (s.kernel.arrange)(form, v, stride, p.dv, panels, s.panel()) };
        (tile.v, tile.v_step, tile.v_panel) = (panels.as_ptr().cast(), s.kernel.size, s.panel());
        tile
    }

    /// Adds the parts of a block up.
    fn combine(&self, block: usize) {
        let s = self.shape;
        let (width, dv) = (s.width, s.problem.dv);
        let parts: Vec<&[f32]> = (0..s.parts).map(|part| &*self.part(block, part)).collect();
        let (mut o, mut sums) = (vec![0.0f32; dv * width], vec![0.0f32; width]);
        let top = |lane: usize| parts.iter().map(|p| p[dv * width + lane]).fold(f32::MIN, f32::max);
        let tops: Vec<f32> = (0..width).map(top).collect();
        for part in &parts {
            let (values, rest) = part.split_at(dv * width);
            for (lane, sum) in sums.iter_mut().enumerate() {
                let factor = (rest[lane] - tops[lane]).exp2();
                *sum += factor * rest[width + lane];
                for column in 0..dv {
                    let at = s.o_at(lane, column);
                    o[at] += factor * values[at];
                }
            }
        }
        self.finish(block / s.blocks, block % s.blocks, &o, &sums);
    }

    /// Divides by the sum of weights and writes a block's rows of O. A row that saw no key is 0.
    fn finish(&self, head: usize, block: usize, o: &[f32], sum: &[f32]) {
        let s = self.shape;
        let p = &s.problem;
        let size = p.dtype.element_bytes().unwrap_or(4);
        for lane in 0..s.width.min(s.rows - block * s.width) {
            let (query_head, i) = s.row(head, block * s.width + lane);
            let at = (query_head * p.sq + i) * p.dv * size;
            // SAFETY: O was checked for its length, and this row is this task's alone.
            let row = unsafe { self.o.slice_mut(at..at + p.dv * size) };
            let norm = if sum[lane] == 0.0 { 0.0 } else { 1.0 / sum[lane] };
            for (column, bytes) in row.chunks_exact_mut(size).enumerate() {
                let x = o[s.o_at(lane, column)] * norm;
                match size {
                    2 => bytes.copy_from_slice(&bf16_bits(x).to_le_bytes()),
                    _ => bytes.copy_from_slice(&x.to_le_bytes()),
                }
            }
        }
    }
}
