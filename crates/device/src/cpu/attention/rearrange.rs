//! Copies of a tile that the wide steps read faster, or at all: bf16 widened to f32, and V in panels of the few columns that a
//! step works on at once, so that it reads one stream and not a short piece of each row. Rows that are a power of two long
//! would otherwise fall into the same few sets of a cache.

use super::from_bf16;
use ridgepoint_core::Dtype;

/// bf16 as f32.
pub(super) fn widen(from: &[u8], to: &mut [f32]) {
    for (to, from) in to.iter_mut().zip(from.chunks_exact(2)) {
        *to = from_bf16(u16::from_le_bytes([from[0], from[1]]));
    }
}

/// Panels of f32, one row a key. `[stride, columns]` are elements of a row and those that are taken, `[width, panel]` the
/// columns of a panel and the distance from one to the next.
pub(super) fn singles(dtype: Dtype, from: &[u8], [stride, columns]: [usize; 2], to: &mut [f32], [width, panel]: [usize; 2]) {
    let size = dtype.element_bytes().unwrap_or(4);
    for (j, row) in from.chunks_exact(stride * size).enumerate() {
        for (p, from) in row[..columns * size].chunks(width * size).enumerate() {
            let to = &mut to[p * panel + j * width..][..from.len() / size];
            match dtype {
                Dtype::Bf16 => widen(from, to),
                _ => {
                    let floats = from.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
                    to.iter_mut().zip(floats).for_each(|(to, from)| *to = from);
                }
            }
        }
    }
}

/// Panels of pairs of bf16, one row a pair of keys: the first in the lower halves, the second in the upper. The last of an odd
/// number meets zeros.
pub(super) fn pairs(_bf16: Dtype, from: &[u8], [stride, columns]: [usize; 2], to: &mut [f32], [width, panel]: [usize; 2]) {
    let half = |b: &[u8]| u32::from(u16::from_le_bytes([b[0], b[1]]));
    for (j, rows) in from.chunks(4 * stride).enumerate() {
        let (even, odd) = rows.split_at(2 * stride);
        for (p, even) in even[..2 * columns].chunks(2 * width).enumerate() {
            let to = &mut to[p * panel + j * width..][..even.len() / 2];
            let even = even.chunks_exact(2);
            if odd.is_empty() {
                to.iter_mut().zip(even).for_each(|(to, even)| *to = f32::from_bits(half(even)));
            } else {
                let odd = odd[2 * p * width..].chunks_exact(2);
                to.iter_mut().zip(even.zip(odd)).for_each(|(to, (even, odd))| *to = f32::from_bits(half(even) | half(odd) << 16));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_hold_each_element_once() {
        // Three rows of five bf16, of which four columns are taken, in panels of three.
        let from: Vec<u8> = (0..15u16).flat_map(|i| super::super::to_bf16(f32::from(i)).to_le_bytes()).collect();
        let mut to = [-1.0; 24];
        singles(Dtype::Bf16, &from, [5, 4], &mut to, [3, 12]);
        assert_eq!(to[..9], [0.0, 1.0, 2.0, 5.0, 6.0, 7.0, 10.0, 11.0, 12.0]);
        assert_eq!([to[12], to[15], to[18], to[13]], [3.0, 8.0, 13.0, -1.0]);
        let mut to = [-1.0; 24];
        pairs(Dtype::Bf16, &from, [5, 4], &mut to, [3, 12]);
        let halves = |x: f32| [from_bf16(x.to_bits() as u16), f32::from_bits(x.to_bits() & 0xffff_0000)];
        assert_eq!(
            [to[0], to[2], to[3], to[5], to[12], to[15]].map(halves),
            [[0.0, 5.0], [2.0, 7.0], [10.0, 0.0], [12.0, 0.0], [3.0, 8.0], [13.0, 0.0]]
        );
    }
}
