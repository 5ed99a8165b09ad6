//! What a step of flash attention works on: a block of queries packed, and a tile of keys and values in place or, where they are
//! of another type or scattered over pages, copied together.

use super::engine::{Block, TILE, Tile};
use super::given::Given;
use super::rearrange::Form;
use super::shape::Shape;
use super::{convert, from_bf16};
use crate::cpu::kernels::Shared;
use ridgepoint_core::Dtype;
use std::ops::Range;

/// A block that meets its tiles, with the keys that its first and its last row see: their first ones, and their last ones.
pub(super) struct Ready {
    pub(super) block: Block,
    pub(super) first: (isize, isize),
    pub(super) last: (isize, isize),
}

/// Makes blocks and tiles of the operands of one execution.
#[derive(Clone, Copy)]
pub(super) struct Tiles<'a> {
    pub(super) shape: &'a Shape,
    pub(super) given: &'a Given,
}

impl Tiles<'_> {
    /// Packs a block's queries and clears what it will find. A sink is there before the first key, in the first part of the keys.
    pub(super) fn start(&self, head: usize, block: usize, part: usize, state: &mut [f32]) -> Ready {
        let (s, p) = (self.shape, &self.shape.problem);
        let width = s.width;
        let (q, rest) = state.split_at_mut(s.depth() * width);
        let (o, rest) = rest.split_at_mut(p.dv * width);
        let (max, rest) = rest.split_at_mut(width);
        let (sum, rest) = rest.split_at_mut(width);
        let (from, limit) = rest.split_at_mut(width);
        o.fill(0.0);
        max.fill(f32::MIN);
        sum.fill(0.0);
        let span = |row: usize| self.given.span(p, head / p.hkv, s.row(head, row).1);
        for lane in 0..width {
            if block * width + lane >= s.rows {
                (0..s.depth()).for_each(|unit| q[s.q_at(lane, unit)] = 0.0);
                (from[lane], limit[lane]) = (0.0, f32::MAX);
                continue;
            }
            let (query_head, i) = s.row(head, block * width + lane);
            let (first, last) = span(block * width + lane);
            (from[lane], limit[lane]) = (first as f32, last as f32);
            if let (0, Some(sink)) = (part, self.given.sink(p, query_head)) {
                (max[lane], sum[lane]) = (sink, 1.0);
            }
            self.pack(query_head * p.sq + i, lane, q);
        }
        let block_of = Block {
            q: q.as_ptr().cast(),
            o: o.as_mut_ptr(),
            max: max.as_mut_ptr(),
            sum: sum.as_mut_ptr(),
            from: from.as_ptr(),
            limit: limit.as_ptr(),
        };
        let ends = [span(block * width), span(((block + 1) * width).min(s.rows) - 1)];
        Ready { block: block_of, first: (ends[0].0, ends[1].0), last: (ends[0].1, ends[1].1) }
    }

    /// Row `row` of Q as units of a block's row `lane`.
    fn pack(&self, row: usize, lane: usize, q: &mut [f32]) {
        let (s, p) = (self.shape, &self.shape.problem);
        let size = p.dtype.element_bytes().unwrap_or(4);
        // SAFETY: Q was checked for its length and is only read.
        let bytes = unsafe { self.given.q.slice(row * p.dqk * size..(row + 1) * p.dqk * size) };
        if s.work == Dtype::Bf16 {
            for (unit, bytes) in bytes.chunks_exact(size * s.engine.group).enumerate() {
                q[s.q_at(lane, unit)] = match *bytes {
                    [a, b] => from_bf16(u16::from_le_bytes([a, b])),
                    [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
                    _ => f32::NAN,
                };
            }
            return;
        }
        const PIECE: usize = 64;
        let mut wide = [0.0; PIECE];
        for (at, bytes) in bytes.chunks(PIECE * size).enumerate() {
            convert::widen(p.dtype, bytes, &mut wide);
            let units = at * PIECE..(at * PIECE + bytes.len() / size);
            units.zip(wide).for_each(|(unit, x)| q[s.q_at(lane, unit)] = x);
        }
    }

    /// The end of what may be read of a stretch of a head's keys that ends at `behind`, where it is read in place: what lies behind
    /// the last key may be NaN.
    pub(super) fn end(&self, head: usize, behind: usize) -> usize {
        let p = &self.shape.problem;
        behind.min(self.given.length(p, head / p.hkv))
    }

    /// Keys `first..first + keys` of a head as the kernels want them: in place where they can read them there.
    pub(super) fn tile(&self, head: usize, first: usize, keys: usize, copies: &mut [f32]) -> Tile {
        let (s, p) = (self.shape, &self.shape.problem);
        let size = s.size();
        // Values are rows of V, or the first columns of rows of K.
        let stride = if p.shared_kv { p.dqk } else { p.dv };
        let (gathered, copies) = copies.split_at_mut(s.gathered());
        let (k, v): (&[u8], &[u8]) = if s.gathers {
            let gathered = bytes_of(gathered);
            let (k, v) = gathered.split_at_mut(TILE * p.dqk * size);
            self.gather(self.given.k, p.dqk, head, first..first + keys, k);
            if p.shared_kv {
                (&k[..keys * p.dqk * size], &k[..keys * p.dqk * size])
            } else {
                self.gather(self.given.v, p.dv, head, first..first + keys, v);
                (&k[..keys * p.dqk * size], &v[..keys * p.dv * size])
            }
        } else {
            let row = self.given.row(p, head, first);
            // SAFETY: K and V were checked for their lengths and are only read; in pages, these keys are of one.
            let rows = |base: Shared<u8>, d: usize| unsafe { base.slice(row * d * size..(row + keys) * d * size) };
            (rows(self.given.k, p.dqk), rows(self.given.v, stride))
        };
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
            windowed: false,
            scale: self.given.scale,
        };
        if s.narrow || (s.work == Dtype::F32 && !s.packs()) {
            return tile;
        }
        let (wide_k, panels) = copies.split_at_mut(s.k_copy());
        if s.widens() {
            convert::widen(Dtype::Bf16, k, wide_k);
            (tile.k, tile.k_stride) = (wide_k.as_ptr().cast(), p.dqk);
        }
        let form = match (s.work, s.engine.group) {
            (Dtype::F32, _) => Form::Copy,
            (_, 1) => Form::Widen,
            _ => Form::Pair,
        };
        // SAFETY: the engine was chosen for this CPU.
        unsafe { (s.kernel.arrange)(form, v, stride, p.dv, panels, s.panel()) };
        (tile.v, tile.v_step, tile.v_panel) = (panels.as_ptr().cast(), s.kernel.size, s.panel());
        tile
    }

    /// Rows of `d` columns of some keys behind each other, in the type of the products.
    pub(super) fn gather(&self, base: Shared<u8>, d: usize, head: usize, keys: Range<usize>, to: &mut [u8]) {
        gather(self.given, &self.shape.problem, self.shape.work, (base, d), head, keys, to);
    }
}

/// Copies rows of `d` columns of some keys of a head together, as `work`: f32, or the type that they have.
pub(super) fn gather(
    given: &Given,
    p: &crate::AttentionProblem,
    work: Dtype,
    (base, d): (Shared<u8>, usize),
    head: usize,
    keys: Range<usize>,
    to: &mut [u8],
) {
    let [from_size, to_size] = [p.kv, work].map(|dtype| dtype.element_bytes().unwrap_or(4));
    let mut to = to.chunks_mut(d * to_size);
    let mut j = keys.start;
    while j < keys.end {
        // As many at once as lie behind each other.
        let end = p.paged.map_or(keys.end, |pages| ((j / pages.tokens + 1) * pages.tokens).min(keys.end));
        let row = given.row(p, head, j);
        // SAFETY: K and V were checked for their lengths and are only read.
        let from = unsafe { base.slice(row * d * from_size..(row + end - j) * d * from_size) };
        for (from, to) in from.chunks_exact(d * from_size).zip(&mut to) {
            if p.kv == work {
                to.copy_from_slice(from);
            } else {
                convert::widen(p.kv, from, floats_of(to));
            }
        }
        j = end;
    }
}

/// The same memory as bytes.
fn bytes_of(floats: &mut [f32]) -> &mut [u8] {
    // SAFETY: any bytes are f32, and these are as many.
    unsafe { std::slice::from_raw_parts_mut(floats.as_mut_ptr().cast(), 4 * floats.len()) }
}

/// The same memory as f32; none where it does not lie on a boundary of four bytes.
fn floats_of(bytes: &mut [u8]) -> &mut [f32] {
    // SAFETY: any bytes are f32.
    unsafe { bytes.align_to_mut() }.1
}
