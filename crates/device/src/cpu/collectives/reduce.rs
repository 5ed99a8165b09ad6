//! Reductions over ranks: every element widened (to f32, f64 or 64-bit integers), combined in rank order, and rounded once at
//! the end. Sums of the three floats that training uses are vectorised by hand; the rest, by the compiler as far as it can.

use super::fold::fold;
use crate::Redop;
use ridgepoint_core::Dtype;
use ridgepoint_core::minifloat::bf16_bits;
use ridgepoint_core::minifloat::{F16, Overflow};

/// Elements combined at a time: their wide values stay in the first-level cache.
pub(super) const BLOCK: usize = 1024;

/// Dtypes that can be reduced.
pub(crate) const DTYPES: [Dtype; 10] = [
    Dtype::F64,
    Dtype::F32,
    Dtype::F16,
    Dtype::Bf16,
    Dtype::E4m3,
    Dtype::E5m2,
    Dtype::E4m3fnuz,
    Dtype::E5m2fnuz,
    Dtype::I8,
    Dtype::I32,
];

/// Combines `len` elements of `ranks` inputs into `out`.
///
/// # Safety
/// `input(r)` of every rank and `out` point to `len` elements of `dtype`, aligned to their size; no one writes the inputs and
/// no one else touches `out` meanwhile. `out` may be one of the inputs.
pub(crate) unsafe fn reduce(
    dtype: Dtype,
    redop: Redop,
    ranks: usize,
    input: impl Fn(usize) -> *const u8 + Copy,
    out: *mut u8,
    len: usize,
) {
    let by_hand = matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16) && matches!(redop, Redop::Sum | Redop::Avg);
    // SAFETY: the caller's promise, passed on. An input that is `out` is read by a block before that block is written, which
    // only `floats` does not keep to: it takes f32 sums out of place alone.
    unsafe {
        let in_place = (0..ranks).any(|r| std::ptr::eq(input(r), out.cast_const()));
        if by_hand && !(in_place && dtype == Dtype::F32) {
            let over = if redop == Redop::Avg { ranks as f32 } else { 1.0 };
            sum(dtype, over, ranks, input, out, len);
        } else {
            fold(dtype, redop, ranks, input, out, len);
        }
    }
}

/// Sums over `over` (1 for sums).
///
/// # Safety
/// As [`reduce`].
unsafe fn sum(dtype: Dtype, over: f32, ranks: usize, input: impl Fn(usize) -> *const u8 + Copy, out: *mut u8, len: usize) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("f16c") {
        // SAFETY: the features were just found; the rest is the caller's promise.
        return unsafe { x86::sum(dtype, over, ranks, input, out, len) };
    }
    // SAFETY: the caller's promise.
    unsafe { plain(dtype, over, ranks, input, out, len) }
}

/// The loops, inlined into functions compiled for wider SIMD.
#[inline(always)]
unsafe fn plain(dtype: Dtype, over: f32, ranks: usize, input: impl Fn(usize) -> *const u8 + Copy, out: *mut u8, len: usize) {
    // SAFETY: the caller's promise, passed on.
    unsafe {
        match dtype {
            Dtype::Bf16 => blocks::<Bf16>(over, ranks, input, out, len),
            Dtype::F16 => blocks::<Half>(over, ranks, input, out, len),
            _ => floats(over, ranks, |r| input(r).cast(), out.cast(), len),
        }
    }
}

/// f32 needs no widening: a pair at once, then what is left on top of it while it is still in the first-level cache.
#[inline(always)]
unsafe fn floats(over: f32, ranks: usize, input: impl Fn(usize) -> *const f32 + Copy, out: *mut f32, len: usize) {
    for start in (0..len).step_by(BLOCK) {
        let n = BLOCK.min(len - start);
        // SAFETY: the block lies within `len`, which the caller vouches for.
        unsafe {
            let block = |r: usize| std::slice::from_raw_parts(input(r).add(start), n);
            let out = std::slice::from_raw_parts_mut(out.add(start), n);
            if ranks == 1 {
                out.copy_from_slice(block(0));
                continue;
            }
            out.iter_mut().zip(block(0).iter().zip(block(1))).for_each(|(z, (a, b))| *z = a + b);
            for r in 2..ranks {
                out.iter_mut().zip(block(r)).for_each(|(z, a)| *z += a);
            }
            if over != 1.0 {
                out.iter_mut().for_each(|z| *z /= over);
            }
        }
    }
}

/// A 16-bit float, block by block.
trait Narrow {
    fn widen(from: &[u16], to: &mut [f32]);
    fn add(from: &[u16], to: &mut [f32]);
    fn round(from: &[f32], to: &mut [u16]);
}

#[inline(always)]
unsafe fn blocks<T: Narrow>(over: f32, ranks: usize, input: impl Fn(usize) -> *const u8 + Copy, out: *mut u8, len: usize) {
    let mut sums = [0f32; BLOCK];
    for start in (0..len).step_by(BLOCK) {
        let n = BLOCK.min(len - start);
        let sums = &mut sums[..n];
        // SAFETY: the block lies within `len`, which the caller vouches for.
        let block = |r: usize| unsafe { std::slice::from_raw_parts(input(r).cast::<u16>().add(start), n) };
        T::widen(block(0), sums);
        (1..ranks).for_each(|r| T::add(block(r), sums));
        if over != 1.0 {
            sums.iter_mut().for_each(|z| *z /= over);
        }
        // SAFETY: as above.
        T::round(sums, unsafe { std::slice::from_raw_parts_mut(out.cast::<u16>().add(start), n) });
    }
}

struct Bf16;

/// A bf16 is the upper half of an f32.
#[inline(always)]
fn from_bf16(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}

impl Narrow for Bf16 {
    #[inline(always)]
    fn widen(from: &[u16], to: &mut [f32]) {
        to.iter_mut().zip(from).for_each(|(z, x)| *z = from_bf16(*x));
    }

    #[inline(always)]
    fn add(from: &[u16], to: &mut [f32]) {
        to.iter_mut().zip(from).for_each(|(z, x)| *z += from_bf16(*x));
    }

    #[inline(always)]
    fn round(from: &[f32], to: &mut [u16]) {
        to.iter_mut().zip(from).for_each(|(x, z)| *x = bf16_bits(*z));
    }
}

/// f16 by the definition of the format, where no instruction converts it.
struct Half;

pub(super) fn to_f16(x: f32) -> u16 {
    F16.encode(f64::from(x), Overflow::NonFinite) as u16
}

fn from_f16(x: u16) -> f32 {
    F16.decode(u32::from(x)) as f32
}

impl Narrow for Half {
    fn widen(from: &[u16], to: &mut [f32]) {
        to.iter_mut().zip(from).for_each(|(z, x)| *z = from_f16(*x));
    }

    fn add(from: &[u16], to: &mut [f32]) {
        to.iter_mut().zip(from).for_each(|(z, x)| *z += from_f16(*x));
    }

    fn round(from: &[f32], to: &mut [u16]) {
        to.iter_mut().zip(from).for_each(|(z, x)| *z = to_f16(*x));
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Half, Narrow, blocks, plain};
    use ridgepoint_core::Dtype;
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx2,f16c")]
    pub(super) unsafe fn sum(
        dtype: Dtype,
        over: f32,
        ranks: usize,
        input: impl Fn(usize) -> *const u8 + Copy,
        out: *mut u8,
        len: usize,
    ) {
        // SAFETY: the caller's promise; this function runs only where the CPU has F16C.
        unsafe {
            match dtype {
                Dtype::F16 => blocks::<F16c>(over, ranks, input, out, len),
                _ => plain(dtype, over, ranks, input, out, len),
            }
        }
    }

    /// f16 by the CPU's own conversions, eight at a time.
    struct F16c;

    #[inline(always)]
    fn each(from: &[u16], to: &mut [f32], tail: fn(&[u16], &mut [f32]), add: bool) {
        let whole = from.len().min(to.len()) / 8 * 8;
        for i in (0..whole).step_by(8) {
            // SAFETY: eight elements from i on lie in both slices; `F16c` is used only where the CPU has F16C.
            unsafe {
                let wide = _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().add(i).cast()));
                let at = to.as_mut_ptr().add(i);
                _mm256_storeu_ps(at, if add { _mm256_add_ps(_mm256_loadu_ps(at), wide) } else { wide });
            }
        }
        tail(&from[whole..], &mut to[whole..]);
    }

    impl Narrow for F16c {
        #[inline(always)]
        fn widen(from: &[u16], to: &mut [f32]) {
            each(from, to, Half::widen, false);
        }

        #[inline(always)]
        fn add(from: &[u16], to: &mut [f32]) {
            each(from, to, Half::add, true);
        }

        #[inline(always)]
        fn round(from: &[f32], to: &mut [u16]) {
            let whole = from.len().min(to.len()) / 8 * 8;
            for i in (0..whole).step_by(8) {
                // SAFETY: as in `each`.
                unsafe {
                    let narrow = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(from.as_ptr().add(i)));
                    _mm_storeu_si128(to.as_mut_ptr().add(i).cast(), narrow);
                }
            }
            Half::round(&from[whole..], &mut to[whole..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ridgepoint_core::data;

    /// `n` elements of a rank as their bytes, in words so that any element is aligned.
    fn input(dtype: Dtype, rank: u64, n: usize) -> Vec<u32> {
        let bytes: Vec<u8> = (0..n as u64)
            .map(|i| data::normal(rank, i))
            .flat_map(|x| match dtype {
                Dtype::F32 => x.to_le_bytes().to_vec(),
                Dtype::F16 => to_f16(x).to_le_bytes().to_vec(),
                _ => bf16_bits(x).to_le_bytes().to_vec(),
            })
            .chain([0; 4])
            .collect();
        bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }

    #[test]
    fn wide_and_plain_sums_are_the_same_to_the_bit_and_right() {
        for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
            for (ranks, n) in [(1, 17), (2, 3), (2, 2 * BLOCK + 13), (3, BLOCK), (5, 1000)] {
                let inputs: Vec<Vec<u32>> = (0..ranks as u64).map(|r| input(dtype, r, n)).collect();
                let (mut fast, mut slow) = (vec![0u32; n], vec![0u32; n]);
                let from = |r: usize| inputs[r].as_ptr().cast::<u8>();
                // SAFETY: all hold n elements, and the outputs are this test's own.
                unsafe {
                    sum(dtype, 1.0, ranks, from, fast.as_mut_ptr().cast(), n);
                    plain(dtype, 1.0, ranks, from, slow.as_mut_ptr().cast(), n);
                }
                assert_eq!(fast, slow, "{dtype} r{ranks} n {n}");
                let size = dtype.element_bytes().unwrap();
                let read = |words: &[u32], i: usize| {
                    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
                    dtype.read(&bytes[i * size..(i + 1) * size])
                };
                for i in [0, n / 2, n - 1] {
                    let terms: Vec<f64> = inputs.iter().map(|x| read(x, i)).collect();
                    let scale: f64 = terms.iter().map(|x| x.abs()).sum();
                    let limit = scale * (dtype.unit_roundoff() + ranks as f64 * Dtype::F32.unit_roundoff());
                    let error = (read(&fast, i) - terms.iter().sum::<f64>()).abs();
                    assert!(error <= limit, "{dtype} r{ranks} at {i}: {error} over {limit}");
                }
            }
        }
    }

    #[test]
    fn the_fast_bf16_rounds_as_the_reference_does() {
        for i in 0..10_000 {
            let x = data::normal(3, i);
            assert_eq!(f64::from(from_bf16(bf16_bits(x))), Dtype::Bf16.round(f64::from(x)), "{x}");
        }
    }
}
