//! One step of flash attention for many queries: a block of them meets a tile of keys. Everything is transposed, queries along
//! the lanes: Sᵀ = K·Qᵀ, then the softmax's running maximum and sum are plain vector operations with no reduction across lanes,
//! and Oᵀ = Oᵀ·α + Vᵀ·Pᵀ. So K and V are broadcast element by element, K from where it lies in memory, and only Q is packed.
//!
//! The online softmax is that of Milakov and Gimelshein, "Online normalizer calculation for softmax" (2018), as tiled by Dao,
//! "FlashAttention" (2022). Logits are kept times log₂e, so that the exponential is one of 2.

use super::engine::{Block, Tile};
use super::unit::Unit;

/// `VECTORS` vectors of queries, `ROWS` rows of K or columns of V at once: their product is the number of independent chains.
///
/// # Safety
/// As of [`super::engine::Step`].
#[inline(always)]
pub(super) unsafe fn step<U: Unit, const VECTORS: usize, const ROWS: usize>(tile: &Tile, block: &Block, scores: *mut f32) {
    let width = VECTORS * U::LANES;
    // SAFETY: the caller's promise; the loops stay within keys × width of the scores and columns × width of O.
    unsafe {
        let mut j = 0;
        while j + ROWS <= tile.keys {
            dot::<U, VECTORS, ROWS>(tile, block.q, j, scores);
            j += ROWS;
        }
        while j < tile.keys {
            dot::<U, VECTORS, 1>(tile, block.q, j, scores);
            j += 1;
        }
        if tile.masked {
            mask::<U, VECTORS>(tile, block, scores);
        }
        let rescale = weigh::<U, VECTORS>(tile, block, scores);
        let steps = tile.keys.div_ceil(U::GROUP);
        let mut column = 0;
        while column + ROWS <= tile.columns {
            let values = tile.v.add(column / ROWS * tile.v_panel);
            gather::<U, VECTORS, ROWS>(tile, values, steps, scores, block.o.add(column * width), &rescale);
            column += ROWS;
        }
        while column < tile.columns {
            let values = tile.v.add(column / ROWS * tile.v_panel + column % ROWS);
            gather::<U, VECTORS, 1>(tile, values, steps, scores, block.o.add(column * width), &rescale);
            column += 1;
        }
    }
}

/// Scores of keys `j..j + ROWS`.
#[inline(always)]
unsafe fn dot<U: Unit, const VECTORS: usize, const ROWS: usize>(tile: &Tile, q: *const u32, j: usize, scores: *mut f32) {
    let width = VECTORS * U::LANES;
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[U::splat(0.0); VECTORS]; ROWS];
        let mut k = tile.k.add(j * tile.k_stride);
        let mut q = q.cast::<f32>();
        let ahead = k.wrapping_add(ROWS * tile.k_stride);
        for step in 0..tile.k_stride {
            // The next rows, as many bytes a step as a step takes here: these are read side by side, which no prefetcher sees.
            if VECTORS == 1 && step % (16 / ROWS.min(16)) == 0 {
                U::fetch(ahead.wrapping_add(step * ROWS));
            }
            let mut queries = [U::splat(0.0); VECTORS];
            for (v, query) in queries.iter_mut().enumerate() {
                *query = U::load(q.add(v * U::LANES));
            }
            for (i, row) in sums.iter_mut().enumerate() {
                for (sum, query) in row.iter_mut().zip(&queries) {
                    *sum = U::mac(*sum, k.add(i * tile.k_stride), *query);
                }
            }
            k = k.add(1);
            q = q.add(width);
        }
        for (i, row) in sums.iter().enumerate() {
            for (v, sum) in row.iter().enumerate() {
                U::store(scores.add((j + i) * width + v * U::LANES), *sum);
            }
        }
    }
}

/// Puts −∞ where a query does not see a key.
#[inline(always)]
unsafe fn mask<U: Unit, const VECTORS: usize>(tile: &Tile, block: &Block, scores: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        for v in 0..VECTORS {
            let (from, limit) = (U::load(block.from.add(v * U::LANES)), U::load(block.limit.add(v * U::LANES)));
            for j in 0..tile.keys {
                let at = scores.add((j * VECTORS + v) * U::LANES);
                let key = U::splat((tile.first + j) as f32);
                let mut score = U::keep_if_le(U::load(at), key, limit);
                if tile.windowed {
                    score = U::keep_if_le(score, from, key);
                }
                U::store(at, score);
            }
        }
    }
}

/// Turns scores into weights in place, packed as units of steps of keys, and returns what O must be multiplied by.
#[inline(always)]
unsafe fn weigh<U: Unit, const VECTORS: usize>(tile: &Tile, block: &Block, scores: *mut f32) -> [U::V; VECTORS] {
    let width = VECTORS * U::LANES;
    // SAFETY: the caller's promise.
    unsafe {
        let scale = U::splat(tile.scale);
        let mut top = [U::splat(f32::NEG_INFINITY); VECTORS];
        for j in 0..tile.keys {
            for (v, top) in top.iter_mut().enumerate() {
                *top = U::max(*top, U::load(scores.add(j * width + v * U::LANES)));
            }
        }
        let mut rescale = [scale; VECTORS];
        let mut minus_max = [scale; VECTORS];
        let mut sums = [U::splat(0.0); VECTORS];
        for v in 0..VECTORS {
            let at = block.max.add(v * U::LANES);
            let old = U::load(at);
            // Starts at the least finite number and so stays finite: −∞ less it is −∞, and the weight of a masked key 0.
            let new = U::max(U::mul(top[v], scale), old);
            U::store(at, new);
            rescale[v] = U::exp2(U::sub(old, new));
            minus_max[v] = U::sub(U::splat(0.0), new);
        }
        let mut j = 0;
        while j < tile.keys {
            for v in 0..VECTORS {
                let at = scores.add(j * width + v * U::LANES).cast_const();
                let even = U::exp2(U::fma(U::load(at), scale, minus_max[v]));
                sums[v] = U::add(sums[v], even);
                let mut packed = even;
                if U::GROUP == 2 {
                    let mut odd = U::splat(0.0);
                    if j + 1 < tile.keys {
                        odd = U::exp2(U::fma(U::load(at.add(width)), scale, minus_max[v]));
                        sums[v] = U::add(sums[v], odd);
                    }
                    packed = U::pair(even, odd);
                }
                // In place: what is written lies at or before what was just read.
                U::store(scores.add(j / U::GROUP * width + v * U::LANES), packed);
            }
            j += U::GROUP;
        }
        for v in 0..VECTORS {
            let at = block.sum.add(v * U::LANES);
            U::store(at, U::fma(U::load(at), rescale[v], sums[v]));
        }
        rescale
    }
}

/// O of `ROWS` columns, rescaled, plus the weighted values.
#[inline(always)]
unsafe fn gather<U: Unit, const VECTORS: usize, const ROWS: usize>(
    tile: &Tile,
    values: *const u32,
    steps: usize,
    weights: *const f32,
    o: *mut f32,
    rescale: &[U::V; VECTORS],
) {
    let width = VECTORS * U::LANES;
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[U::splat(0.0); VECTORS]; ROWS];
        let mut value = values;
        let mut weights = weights;
        for _ in 0..steps {
            let mut row = [U::splat(0.0); VECTORS];
            for (v, weight) in row.iter_mut().enumerate() {
                *weight = U::load(weights.add(v * U::LANES));
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                for (sum, weight) in sums.iter_mut().zip(&row) {
                    *sum = U::mac(*sum, value.add(i), *weight);
                }
            }
            value = value.add(tile.v_step);
            weights = weights.add(width);
        }
        for (i, sums) in sums.iter().enumerate() {
            for (v, sum) in sums.iter().enumerate() {
                let at = o.add(i * width + v * U::LANES);
                U::store(at, U::fma(U::load(at), rescale[v], *sum));
            }
        }
    }
}
