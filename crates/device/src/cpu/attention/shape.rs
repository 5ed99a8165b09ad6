//! How flash attention cuts a problem: into blocks of queries, tasks of blocks, and parts of the keys.
//!
//! The query heads that share a key head are one problem of `hq/hkv × sq` rows, ordered query by query, so that a tile of K and
//! V is fetched once for all of them and a block of rows spans few queries of a causal mask. A task is a few blocks of rows
//! over all keys, or, where there are fewer tasks than threads can share (decoding), over a part of them.

use super::engine::{Engine, Kernel, TILE};
use super::work;
use crate::AttentionProblem;
use ridgepoint_core::Dtype;

/// Most blocks of a task: each tile that was fetched, and rearranged where it must be, serves this many.
const SPAN: usize = 4;
/// What the blocks of a task may keep in the second cache.
const STATE: usize = 512 << 10;
/// Tasks a thread should find, so that the last one is short against the whole.
const TASKS_A_THREAD: usize = 4;
/// Fewest keys of a part: less, and combining costs more than it saves.
const PART: usize = 2 * TILE;
/// Keys of a page that is worth a step of its own.
const LEAST_PAGE: usize = 16;
/// Between panels of V, so that they do not all fall into the same sets of a cache.
const GAP: usize = 16;

/// A problem, cut.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) problem: AttentionProblem,
    pub(super) engine: Engine,
    pub(super) kernel: Kernel,
    /// Lanes run along the head dimension and not along queries.
    pub(super) narrow: bool,
    /// What products are done in.
    pub(super) work: Dtype,
    /// True if tiles of K and V are copied together first: from other types, or from pages.
    pub(super) gathers: bool,
    /// Query heads that share a key head.
    pub(super) group: usize,
    /// Rows of a key head's problem.
    pub(super) rows: usize,
    /// Rows of a block.
    pub(super) width: usize,
    /// Blocks of a key head's problem.
    pub(super) blocks: usize,
    /// Blocks of a task.
    pub(super) span: usize,
    /// Parts into which keys are cut.
    pub(super) parts: usize,
}

impl Shape {
    /// Cuts `p`, which was found sane, for so many threads.
    pub(super) fn new(p: &AttentionProblem, engine: Engine, threads: usize) -> Self {
        let group = p.hq / p.hkv;
        let rows = group * p.sq;
        let (kernel, width, narrow) = choose(p, &engine, rows);
        let (blocks, work) = (rows.div_ceil(width), work(p));
        // Few queries read pages in place, if those are not so short that each costs more than its copy.
        let apart = p.paged.is_some_and(|pages| !narrow || pages.tokens < LEAST_PAGE);
        let gathers = p.kv != work || apart;
        let mut shape =
            Self { problem: *p, engine, kernel, narrow, work, gathers, group, rows, width, blocks, span: 1, parts: 1 };
        let wanted = TASKS_A_THREAD * threads;
        shape.span = (STATE / (4 * shape.state())).clamp(1, SPAN).min(blocks);
        while shape.span > 1 && shape.tasks() < wanted {
            shape.span -= 1;
        }
        if threads > 1 {
            let keys = p.window.map_or(p.sk, |w| p.sk.min(w + p.sq));
            shape.parts = wanted.div_ceil(shape.tasks()).min(keys / PART).max(1);
        }
        shape
    }

    pub(super) fn heads(&self) -> usize {
        self.problem.batch * self.problem.hkv
    }

    /// Tasks of a key head, parts not counted.
    pub(super) fn chunks(&self) -> usize {
        self.blocks.div_ceil(self.span)
    }

    /// Tasks, parts not counted.
    pub(super) fn tasks(&self) -> usize {
        self.heads() * self.chunks()
    }

    /// Units of a query.
    pub(super) fn depth(&self) -> usize {
        self.problem.dqk / self.engine.group
    }

    /// f32 that a block keeps: Q, O, the maximum, the sum, and the first and last key of each row.
    pub(super) fn state(&self) -> usize {
        (self.depth() + self.problem.dv + 4) * self.width
    }

    /// Bytes of an element of K and V as a step reads them.
    pub(super) fn size(&self) -> usize {
        self.work.element_bytes().unwrap_or(4)
    }

    /// Keys that lie behind each other: a page where they are read there, else a tile.
    pub(super) fn stretch(&self) -> usize {
        self.problem.paged.map_or(TILE, |pages| if self.gathers { TILE } else { pages.tokens })
    }

    /// f32 that a tile takes where it is copied together.
    pub(super) fn gathered(&self) -> usize {
        let columns = if self.problem.shared_kv { self.problem.dqk } else { self.problem.dqk + self.problem.dv };
        if self.gathers { (TILE * columns * self.size()).div_ceil(4) } else { 0 }
    }

    /// f32 that a part leaves: O, the maximum and the sum of each row.
    pub(super) fn part(&self) -> usize {
        (self.problem.dv + 2) * self.width
    }

    /// True if bf16 has no instructions of its own here and a wide step works on copies in f32.
    pub(super) fn widens(&self) -> bool {
        self.work == Dtype::Bf16 && self.engine.group == 1
    }

    /// True if panels of V are copied, so that a step reads them in one stream; for a single block it would not pay.
    pub(super) fn packs(&self) -> bool {
        self.span > 1
    }

    /// From one panel of V to the next, in units.
    pub(super) fn panel(&self) -> usize {
        TILE * self.kernel.size + GAP
    }

    /// f32 that a tile of K takes where it is copied.
    pub(super) fn k_copy(&self) -> usize {
        if self.widens() && !self.narrow { TILE * self.problem.dqk } else { 0 }
    }

    /// f32 that a tile of V takes where it is copied.
    pub(super) fn v_copy(&self) -> usize {
        if self.narrow { 0 } else { self.problem.dv.div_ceil(self.kernel.size) * self.panel() }
    }

    /// f32 that a thread needs: scores, copies of a tile, and its blocks.
    pub(super) fn scratch(&self) -> usize {
        TILE * self.width + self.gathered() + self.k_copy() + self.v_copy() + self.span * self.state()
    }

    /// Query head and query of a key head's row.
    pub(super) fn row(&self, head: usize, row: usize) -> (usize, usize) {
        (head * self.group + row % self.group, row / self.group)
    }

    /// Where unit `unit` of a block's row `lane` is in Q.
    pub(super) fn q_at(&self, lane: usize, unit: usize) -> usize {
        if self.narrow { lane * self.depth() + self.place(unit, self.engine.group == 1) } else { unit * self.width + lane }
    }

    /// Where column `column` of a block's row `lane` is in O.
    pub(super) fn o_at(&self, lane: usize, column: usize) -> usize {
        if self.narrow { lane * self.problem.dv + self.place(column, true) } else { column * self.width + lane }
    }

    /// A narrow step takes bf16 apart into those at even places and those at odd ones, two vectors at a time.
    fn place(&self, i: usize, apart: bool) -> usize {
        let lanes = self.engine.lanes;
        if apart && self.work == Dtype::Bf16 { i / (2 * lanes) * (2 * lanes) + i % 2 * lanes + i % (2 * lanes) / 2 } else { i }
    }
}

/// The step for so many rows, the rows of its block, and whether it is a narrow one.
fn choose(p: &AttentionProblem, engine: &Engine, rows: usize) -> (Kernel, usize, bool) {
    let cells = 2 * engine.lanes;
    if p.dqk.is_multiple_of(cells)
        && p.dv.is_multiple_of(cells)
        && let Some(kernel) = engine.narrow.iter().find(|k| k.size >= rows)
    {
        return (*kernel, kernel.size, true);
    }
    // The wider a block the fewer loads a product needs, but lanes without a row are wasted.
    let cost = |vectors: &usize| rows.div_ceil(vectors * engine.lanes) * (8 * vectors + 2);
    let vectors = (1..=engine.wide.len()).rev().min_by_key(cost).unwrap_or(1);
    (engine.wide[vectors - 1], vectors * engine.lanes, false)
}

#[cfg(test)]
mod tests {
    use super::super::engine::engines;
    use super::*;

    #[test]
    fn every_place_of_a_block_is_used_once() {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            for engine in engines(dtype) {
                for (hq, sq) in [(1, 1), (4, 1), (8, 1), (2, 100)] {
                    let problem = AttentionProblem { hq, sq, sk: 64, dv: 96, ..AttentionProblem::default().of(dtype) };
                    let s = Shape::new(&problem, engine, 2);
                    let places = |n: usize, at: &dyn Fn(usize, usize) -> usize| {
                        let mut all: Vec<usize> =
                            (0..s.width).flat_map(|lane| (0..n).map(move |i| (lane, i))).map(|(l, i)| at(l, i)).collect();
                        all.sort_unstable();
                        assert!(all.into_iter().eq(0..s.width * n), "{} {dtype} {hq} {sq}", engine.name);
                    };
                    places(s.depth(), &|lane, unit| s.q_at(lane, unit));
                    places(96, &|lane, column| s.o_at(lane, column));
                    assert!(s.width * s.blocks >= s.rows);
                }
            }
        }
    }

    #[test]
    fn threads_find_enough_tasks() {
        let latent = AttentionProblem { dqk: 576, dv: 512, shared_kv: true, ..AttentionProblem::default() };
        let problem = AttentionProblem { hq: 128, sk: 4096, ..latent };
        for threads in [1, 2, 7, 64, 1000] {
            let s = Shape::new(&problem, engines(Dtype::F32)[0], threads);
            assert!(s.tasks() * s.parts >= threads.min(16), "{threads}: {} × {}", s.tasks(), s.parts);
            assert!(s.parts <= 4096 / PART);
        }
    }
}
