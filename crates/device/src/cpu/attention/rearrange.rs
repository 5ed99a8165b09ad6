//! Copies of a tile that the wide steps read faster, or at all: bf16 widened to f32, and V in panels of the few columns that a
//! step works on at once, so that it reads one stream and not a short piece of each row. Rows that are a power of two long
//! would otherwise fall into the same few sets of a cache.

use super::convert::widen;
use ridgepoint_core::Dtype;

/// Columns converted together; a multiple of every panel's width.
const PIECE: usize = 64;

/// How a value becomes part of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// f32, as it is.
    Copy,
    /// bf16 to f32.
    Widen,
    /// Two keys' bf16: the first in the lower half, the second in the upper. The last of an odd number meets zero.
    Pair,
}

/// The first `columns` of rows of `stride` elements, in panels of `WIDTH` columns, one row a key (or a pair of keys), each panel
/// `panel` units after the one before.
#[inline(always)]
pub(super) fn panels<const WIDTH: usize>(form: Form, from: &[u8], stride: usize, columns: usize, to: &mut [f32], panel: usize) {
    let (size, keys) = match form {
        Form::Copy => (4, 1),
        Form::Widen => (2, 1),
        Form::Pair => (2, 2),
    };
    for (j, rows) in from.chunks(keys * stride * size).enumerate() {
        let (first, second) = rows.split_at(stride * size);
        // A piece is long enough for whole vectors to be converted, and is then dealt out to its panels.
        for start in (0..columns).step_by(PIECE) {
            let end = (start + PIECE).min(columns);
            let piece = |row: &'_ [u8]| if row.is_empty() { 0..0 } else { start * size..end * size };
            if form == Form::Copy {
                for (p, from) in first[piece(first)].chunks(WIDTH * 4).enumerate() {
                    copy::<WIDTH>(from, &mut to[(start / WIDTH + p) * panel + j * WIDTH..][..WIDTH]);
                }
                continue;
            }
            let mut units = [0.0; PIECE];
            convert(form, &first[piece(first)], &second[piece(second)], &mut units);
            for (p, units) in units[..end - start].chunks(WIDTH).enumerate() {
                let to = &mut to[(start / WIDTH + p) * panel + j * WIDTH..][..WIDTH];
                // As arrays, for the same reason as in `copy`.
                match (<&mut [f32; WIDTH]>::try_from(&mut *to), <&[f32; WIDTH]>::try_from(units)) {
                    (Ok(to), Ok(units)) => *to = *units,
                    _ => to[..units.len()].copy_from_slice(units),
                }
            }
        }
    }
}

/// A panel's piece of a row of f32. Whole ones have a length that is known: a call of memcpy would take longer than the copy.
#[inline(always)]
fn copy<const WIDTH: usize>(from: &[u8], to: &mut [f32]) {
    if from.len() == 4 * WIDTH
        && let Ok(to) = <&mut [f32; WIDTH]>::try_from(&mut *to)
    {
        // SAFETY: the slice holds WIDTH f32, and any bits are one.
        *to = unsafe { from.as_ptr().cast::<[f32; WIDTH]>().read_unaligned() };
        return;
    }
    let floats = from.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    to.iter_mut().zip(floats).for_each(|(to, from)| *to = from);
}

/// A piece of one row or of two, of bf16.
#[inline(always)]
fn convert(form: Form, first: &[u8], second: &[u8], to: &mut [f32; PIECE]) {
    let half = |b: &[u8]| u32::from(u16::from_le_bytes([b[0], b[1]]));
    match form {
        Form::Copy => {}
        Form::Widen => widen(Dtype::Bf16, first, to),
        Form::Pair if second.is_empty() => {
            to.iter_mut().zip(first.chunks_exact(2)).for_each(|(to, first)| *to = f32::from_bits(half(first)));
        }
        Form::Pair => {
            let halves = first.chunks_exact(2).zip(second.chunks_exact(2));
            to.iter_mut().zip(halves).for_each(|(to, (first, second))| *to = f32::from_bits(half(first) | half(second) << 16));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::from_bf16;
    use super::*;

    #[test]
    fn panels_hold_each_element_once() {
        // Three rows of five elements, of which three columns are taken, in panels of two.
        let bf16: Vec<u8> = (0..15u16).flat_map(|i| ridgepoint_core::minifloat::bf16_bits(f32::from(i)).to_le_bytes()).collect();
        let f32s: Vec<u8> = (0..15u16).flat_map(|i| f32::from(i).to_le_bytes()).collect();
        for (form, from) in [(Form::Widen, &bf16), (Form::Copy, &f32s)] {
            let mut to = [-1.0; 24];
            panels::<2>(form, from, 5, 3, &mut to, 12);
            assert_eq!(to[..7], [0.0, 1.0, 5.0, 6.0, 10.0, 11.0, -1.0], "{form:?}");
            assert_eq!(to[12..18], [2.0, -1.0, 7.0, -1.0, 12.0, -1.0], "{form:?}");
        }
        let mut to = [-1.0; 24];
        panels::<2>(Form::Pair, &bf16, 5, 3, &mut to, 12);
        let halves = |x: f32| [from_bf16(x.to_bits() as u16), f32::from_bits(x.to_bits() & 0xffff_0000)];
        assert_eq!(
            [to[0], to[1], to[2], to[3], to[12], to[14]].map(halves),
            [[0.0, 5.0], [1.0, 6.0], [10.0, 0.0], [11.0, 0.0], [2.0, 7.0], [12.0, 0.0]]
        );
    }
}
