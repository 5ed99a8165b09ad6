//! One step of flash attention for few queries, as in decoding: lanes run along the head dimension, so that each row of K and
//! of V is loaded once, in the order in which it lies in memory, and met by every query. There the work is a few multiply-adds
//! an element, and memory is the limit.

use super::engine::{Block, TILE, Tile};
use super::unit::Unit;

/// Keys whose values are gathered together: 32 rows of 128 f32 stay in the first cache while each piece of them has its pass.
const SLICE: usize = 32;

/// Keys that are asked for ahead of their use.
const AHEAD: usize = 16;

/// How K, V and the queries lie in memory, two vectors of elements at a time.
pub(super) trait Cells<U: Unit> {
    /// Two vectors' worth of K.
    type Keys: Copy;
    /// Units that they take in memory.
    const UNITS: usize;
    /// Units that as much of a query takes.
    const QUERY: usize;

    /// # Safety
    /// `at` holds [`Cells::UNITS`] units.
    unsafe fn keys(at: *const u32) -> Self::Keys;
    /// # Safety
    /// `query` holds [`Cells::QUERY`] units.
    unsafe fn dot(sum: U::V, keys: Self::Keys, query: *const u32) -> U::V;
    /// # Safety
    /// `at` holds [`Cells::UNITS`] units.
    unsafe fn values(at: *const u32) -> [U::V; 2];
}

/// f32.
pub(super) struct F32;
/// bf16, done in f32: elements at even places come first, then those at odd ones, which is the order of Q and O as well.
pub(super) struct Halves;
/// bf16 in pairs that one instruction multiplies and adds; values and O as [`Halves`].
pub(super) struct Pairs;

impl<U: Unit> Cells<U> for F32 {
    type Keys = [U::V; 2];
    const UNITS: usize = 2 * U::LANES;
    const QUERY: usize = 2 * U::LANES;

    #[inline(always)]
    unsafe fn keys(at: *const u32) -> [U::V; 2] {
        // SAFETY: the caller's promise.
        unsafe { [U::load(at.cast()), U::load(at.cast::<f32>().add(U::LANES))] }
    }
    #[inline(always)]
    unsafe fn dot(sum: U::V, keys: [U::V; 2], query: *const u32) -> U::V {
        let query = query.cast::<f32>();
        // SAFETY: the caller's promise.
        unsafe { U::fma(keys[1], U::load(query.add(U::LANES)), U::fma(keys[0], U::load(query), sum)) }
    }
    #[inline(always)]
    unsafe fn values(at: *const u32) -> [U::V; 2] {
        // SAFETY: the caller's promise.
        unsafe { <Self as Cells<U>>::keys(at) }
    }
}

impl<U: Unit> Cells<U> for Halves {
    type Keys = [U::V; 2];
    const UNITS: usize = U::LANES;
    const QUERY: usize = 2 * U::LANES;

    #[inline(always)]
    unsafe fn keys(at: *const u32) -> [U::V; 2] {
        // SAFETY: the caller's promise.
        unsafe { U::halves(at) }
    }
    #[inline(always)]
    unsafe fn dot(sum: U::V, keys: [U::V; 2], query: *const u32) -> U::V {
        // SAFETY: the caller's promise.
        unsafe { <F32 as Cells<U>>::dot(sum, keys, query) }
    }
    #[inline(always)]
    unsafe fn values(at: *const u32) -> [U::V; 2] {
        // SAFETY: the caller's promise.
        unsafe { U::halves(at) }
    }
}

impl<U: Unit> Cells<U> for Pairs {
    type Keys = U::V;
    const UNITS: usize = U::LANES;
    const QUERY: usize = U::LANES;

    #[inline(always)]
    unsafe fn keys(at: *const u32) -> U::V {
        // SAFETY: the caller's promise.
        unsafe { U::load(at.cast()) }
    }
    #[inline(always)]
    unsafe fn dot(sum: U::V, keys: U::V, query: *const u32) -> U::V {
        // SAFETY: the caller's promise.
        unsafe { U::mac_lanes(sum, keys, U::load(query.cast())) }
    }
    #[inline(always)]
    unsafe fn values(at: *const u32) -> [U::V; 2] {
        // SAFETY: the caller's promise.
        unsafe { U::halves(at) }
    }
}

/// `QUERIES` queries meet `KEYS` keys at once, and then `WIDE` times two vectors of values.
///
/// # Safety
/// As of [`super::engine::Step`]; head dimensions are multiples of two vectors.
#[inline(always)]
pub(super) unsafe fn step<U: Unit, C: Cells<U>, const QUERIES: usize, const KEYS: usize, const WIDE: usize>(
    tile: &Tile,
    block: &Block,
    scores: *mut f32,
) {
    // SAFETY: the caller's promise; scores are QUERIES rows of TILE.
    unsafe {
        let mut j = 0;
        while j + KEYS <= tile.keys {
            dot::<U, C, QUERIES, KEYS>(tile, block.q, j, scores);
            j += KEYS;
        }
        while j < tile.keys {
            dot::<U, C, QUERIES, 1>(tile, block.q, j, scores);
            j += 1;
        }
        let mut factor: [f32; QUERIES] = weigh::<U, QUERIES>(tile, block, scores);
        let cells = tile.columns / (2 * U::LANES);
        for first in (0..tile.keys).step_by(SLICE) {
            let keys = first..(first + SLICE).min(tile.keys);
            let mut cell = 0;
            while cell + WIDE <= cells {
                gather::<U, C, QUERIES, WIDE>(tile, block.o, cell, keys.clone(), scores, &factor);
                cell += WIDE;
            }
            while cell < cells {
                gather::<U, C, QUERIES, 1>(tile, block.o, cell, keys.clone(), scores, &factor);
                cell += 1;
            }
            factor = [1.0; QUERIES];
        }
    }
}

/// Scores of keys `j..j + KEYS`.
#[inline(always)]
unsafe fn dot<U: Unit, C: Cells<U>, const QUERIES: usize, const KEYS: usize>(
    tile: &Tile,
    q: *const u32,
    j: usize,
    scores: *mut f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[U::splat(0.0); KEYS]; QUERIES];
        let cells = tile.k_stride / C::UNITS;
        let first = tile.k.add(j * tile.k_stride);
        for cell in 0..cells {
            for key in 0..KEYS {
                let keys = C::keys(first.add(key * tile.k_stride + cell * C::UNITS));
                // As many lines as are used here, of keys to come and of these keys' values: with several queries there is too
                // much work between two loads for the core to look ahead, and values are read in pieces of rows, a pass each.
                for line in (0..C::UNITS).step_by(16) {
                    let at = (j * cells + cell * KEYS + key) * C::UNITS + line;
                    U::fetch(tile.k.wrapping_add(AHEAD * tile.k_stride + at));
                    U::fetch(tile.v.wrapping_add(at));
                }
                for (query, sums) in sums.iter_mut().enumerate() {
                    sums[key] = C::dot(sums[key], keys, q.add((query * cells + cell) * C::QUERY));
                }
            }
        }
        // Four sums at a time: those of keys side by side are stored at once.
        for (query, sums) in sums.iter().enumerate() {
            let at = scores.add(query * TILE + j);
            let mut key = 0;
            while key + 4 <= KEYS {
                U::totals([sums[key], sums[key + 1], sums[key + 2], sums[key + 3]], at.add(key));
                key += 4;
            }
            while key < KEYS && !QUERIES.is_multiple_of(4) {
                *at.add(key) = U::total(sums[key]);
                key += 1;
            }
        }
        let mut key = if QUERIES.is_multiple_of(4) { KEYS / 4 * 4 } else { KEYS };
        while key < KEYS {
            for query in (0..QUERIES).step_by(4) {
                let mut four = [0.0; 4];
                U::totals(
                    [sums[query][key], sums[query + 1][key], sums[query + 2][key], sums[query + 3][key]],
                    four.as_mut_ptr(),
                );
                four.iter().enumerate().for_each(|(i, x)| *scores.add((query + i) * TILE + j + key) = *x);
            }
            key += 1;
        }
    }
}

/// Turns scores into weights in place, and returns what O must be multiplied by.
#[inline(always)]
unsafe fn weigh<U: Unit, const QUERIES: usize>(tile: &Tile, block: &Block, scores: *mut f32) -> [f32; QUERIES] {
    let mut rescale = [0.0; QUERIES];
    // SAFETY: the caller's promise; TILE is a multiple of the lanes.
    unsafe {
        for (query, rescale) in rescale.iter_mut().enumerate() {
            let row = scores.add(query * TILE);
            let seen = if tile.masked {
                let limit = *block.limit.add(query) - tile.first as f32;
                if limit < 0.0 { 0 } else { ((limit as usize).saturating_add(1)).min(tile.keys) }
            } else {
                tile.keys
            };
            for j in seen..tile.keys.next_multiple_of(U::LANES) {
                *row.add(j) = f32::NEG_INFINITY;
            }
            if tile.windowed {
                let before = (*block.from.add(query) - tile.first as f32).clamp(0.0, tile.keys as f32) as usize;
                (0..before).for_each(|j| *row.add(j) = f32::NEG_INFINITY);
            }
            let mut top = U::splat(f32::NEG_INFINITY);
            for j in (0..tile.keys).step_by(U::LANES) {
                top = U::max(top, U::load(row.add(j)));
            }
            let (old, best) = (*block.max.add(query), U::top(top) * tile.scale);
            // Starts at the least finite number and so stays finite: −∞ less it is −∞, and the weight of a masked key 0.
            let new = if best > old { best } else { old };
            *block.max.add(query) = new;
            *rescale = (old - new).exp2();
            let (scale, minus_max) = (U::splat(tile.scale), U::splat(-new));
            let mut sum = U::splat(0.0);
            for j in (0..tile.keys).step_by(U::LANES) {
                let weight = U::exp2(U::fma(U::load(row.add(j)), scale, minus_max));
                sum = U::add(sum, weight);
                U::store(row.add(j), weight);
            }
            let at = block.sum.add(query);
            *at = *at * *rescale + U::total(sum);
        }
    }
    rescale
}

/// O of `WIDE` cells of columns, times a factor, plus the weighted values of some keys.
#[inline(always)]
unsafe fn gather<U: Unit, C: Cells<U>, const QUERIES: usize, const WIDE: usize>(
    tile: &Tile,
    o: *mut f32,
    cell: usize,
    keys: std::ops::Range<usize>,
    weights: *const f32,
    factor: &[f32; QUERIES],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[[U::splat(0.0); 2]; WIDE]; QUERIES];
        let mut value = tile.v.add(keys.start * tile.v_step + cell * C::UNITS);
        for j in keys {
            let mut row = [[U::splat(0.0); 2]; WIDE];
            for (w, values) in row.iter_mut().enumerate() {
                *values = C::values(value.add(w * C::UNITS));
            }
            for (query, sums) in sums.iter_mut().enumerate() {
                let weight = U::splat(*weights.add(query * TILE + j));
                for (sums, values) in sums.iter_mut().zip(&row) {
                    sums[0] = U::fma(weight, values[0], sums[0]);
                    sums[1] = U::fma(weight, values[1], sums[1]);
                }
            }
            value = value.add(tile.v_step);
        }
        for (query, sums) in sums.iter().enumerate() {
            let factor = U::splat(factor[query]);
            for (w, sums) in sums.iter().enumerate() {
                for (half, sum) in sums.iter().enumerate() {
                    let at = o.add(query * tile.columns + (2 * (cell + w) + half) * U::LANES);
                    U::store(at, U::fma(U::load(at), factor, *sum));
                }
            }
        }
    }
}
