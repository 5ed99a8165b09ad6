//! Flash attention's outer loops: which block of queries meets which tile of keys on which thread. Threads take tasks from a
//! counter, so that a core the host takes away costs a task and not half the run; parts of the keys are combined at the end.

use super::engine::{Engine, TILE, engine};
use super::given::Given;
use super::shape::Shape;
use super::tiles::{Ready, Tiles};
use super::{check, convert, work};
use crate::cpu::kernels::Shared;
use crate::cpu::{Pool, allocate};
use crate::{AttentionKernels, AttentionOperands, AttentionPlan, AttentionProblem, Buffer, Result, Support};
use ridgepoint_core::Dtype;
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
        let mut engine = engine(work(problem));
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
    fn enqueue(&self, operands: &AttentionOperands<'_>) -> Result<()> {
        let given = Given::new(&self.shape.problem, operands)?;
        let run = Run { plan: self, tiles: Tiles { shape: &self.shape, given: &given } };
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
        // Done in a wider type than that of Q or of K and V.
        let p = &self.shape.problem;
        let wider = [p.dtype, p.kv].iter().any(|d| *d != self.shape.work);
        if wider || self.shape.widens() { Support::Emulated } else { Support::Native }
    }

    fn config(&self) -> BTreeMap<String, String> {
        let s = &self.shape;
        let lanes = if s.narrow { "the head dimension" } else { "queries" };
        BTreeMap::from([
            ("kernel".into(), format!("{}, lanes along {lanes}", s.engine.name)),
            ("tile".into(), format!("{} queries × {TILE} keys", s.width)),
            ("blocks a task".into(), s.span.to_string()),
            ("parts of the keys".into(), s.parts.to_string()),
            ("keys".into(), if s.gathers { format!("copied together as {}", s.work) } else { "read in place".into() }),
            ("threads".into(), self.pool.threads().to_string()),
        ])
    }
}

/// The next of `0..end` from a counter that all threads share.
fn take(counter: &AtomicUsize, end: usize) -> Option<usize> {
    let at = counter.fetch_add(1, Ordering::Relaxed);
    (at < end).then_some(at)
}

/// One execution.
struct Run<'a> {
    plan: &'a Plan,
    tiles: Tiles<'a>,
}

impl Run<'_> {
    fn task(&self, thread: usize, task: usize) {
        let s = self.tiles.shape;
        let (task, part) = (task / s.parts, task % s.parts);
        let head = task / s.chunks();
        // The last rows of a causal mask see most keys: they come first, so that the end of a run is made of short tasks.
        let chunk = s.chunks() - 1 - task % s.chunks();
        let blocks = chunk * s.span..((chunk + 1) * s.span).min(s.blocks);
        let scratch: Shared<f32> = Shared::new(self.plan.scratch[thread].address() as *mut f32);
        // SAFETY: the buffer is this thread's alone and holds `scratch()` f32.
        let scratch = unsafe { scratch.slice_mut(0..s.scratch()) };
        let (scores, rest) = scratch.split_at_mut(TILE * s.width);
        let (copies, states) = rest.split_at_mut(s.gathered() + s.k_copy() + s.v_copy());
        let states = blocks.clone().zip(states.chunks_exact_mut(s.state()));
        let ready: Vec<Ready> = states.map(|(block, state)| self.tiles.start(head, block, part, state)).collect();
        // Rows are in the order of queries, and later ones see later keys.
        let low = ready.first().map_or(0, |r| r.first.0);
        let last = ready.last().map_or(-1, |r| r.last.1);
        let stretch = s.stretch();
        let all = if last < low { 0..0 } else { low as usize / stretch..last as usize / stretch + 1 };
        let (from, count) = (all.start, all.len());
        for at in from + count * part / s.parts..from + count * (part + 1) / s.parts {
            let behind = (at + 1) * stretch;
            for first in (at * stretch..behind).step_by(TILE) {
                let end = (first + TILE).min(if s.gathers { last as usize + 1 } else { self.tiles.end(head, behind) });
                if first as isize > last || end as isize <= low {
                    continue;
                }
                let mut tile = self.tiles.tile(head, first, end - first, copies);
                for Ready { block, first: (from, latest_from), last: (least, greatest) } in &ready {
                    if first as isize > *greatest || end as isize <= *from {
                        continue;
                    }
                    // On the diagonal, nothing behind the last key that any row sees; whole register tiles all the same.
                    tile.keys = ((*greatest as usize + 1 - first).next_multiple_of(16)).min(end - first);
                    tile.windowed = *latest_from > first as isize;
                    tile.masked = tile.windowed || *least < (first + tile.keys) as isize - 1;
                    // SAFETY: operands were checked for their lengths; block and scores are this thread's and of this shape.
                    unsafe { (s.kernel.step)(&tile, block, scores.as_mut_ptr()) };
                }
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
        let (n, parts) = (self.tiles.shape.part(), self.tiles.shape.parts);
        let at = (block * parts + part) * n;
        let base = self.plan.parts.as_ref().map_or(0, Buffer::address) as *mut f32;
        // SAFETY: the buffer holds a part for each block and part, and exists where there is more than one.
        unsafe { Shared::new(base).slice_mut(at..at + n) }
    }

    /// Adds the parts of a block up.
    fn combine(&self, block: usize) {
        let s = self.tiles.shape;
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
        let s = self.tiles.shape;
        let p = &s.problem;
        let size = p.output.element_bytes().unwrap_or(4);
        let given = self.tiles.given;
        for lane in 0..s.width.min(s.rows - block * s.width) {
            let (query_head, i) = s.row(head, block * s.width + lane);
            let at = (query_head * p.sq + i) * p.dv * size;
            // SAFETY: O was checked for its length, and this row is this task's alone.
            let row = unsafe { given.o.slice_mut(at..at + p.dv * size) };
            let norm = if sum[lane] == 0.0 { 0.0 } else { given.value / sum[lane] };
            for (column, bytes) in row.chunks_exact_mut(size).enumerate() {
                convert::store(p.output, o[s.o_at(lane, column)] * norm, bytes);
            }
        }
    }
}
