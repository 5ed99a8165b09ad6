//! Narrow floats to f32 and back. Widening is by moving bits, which compilers turn into vectors: the exponent's bias is changed by
//! an addition, and what has no leading one (a subnormal) gets one and loses it again in a subtraction.

use ridgepoint_core::Dtype;
use ridgepoint_core::minifloat::{F16, Overflow, bf16_bits};

/// Values of `from` as f32. `dtype` is f32, f16, bf16 or e4m3.
pub(super) fn widen(dtype: Dtype, from: &[u8], to: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the feature was just detected.
        return unsafe { widen_avx2(dtype, from, to) };
    }
    plain(dtype, from, to);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn widen_avx2(dtype: Dtype, from: &[u8], to: &mut [f32]) {
    plain(dtype, from, to);
}

#[inline(always)]
fn plain(dtype: Dtype, from: &[u8], to: &mut [f32]) {
    let halves = from.chunks_exact(2).map(|b| u32::from(u16::from_le_bytes([b[0], b[1]])));
    match dtype {
        Dtype::E4m3 => to.iter_mut().zip(from).for_each(|(to, x)| *to = minifloat::<4, 3>(u32::from(*x), 0x7f)),
        Dtype::F16 => to.iter_mut().zip(halves).for_each(|(to, x)| *to = minifloat::<5, 10>(x, 0x7c00)),
        Dtype::Bf16 => to.iter_mut().zip(halves).for_each(|(to, x)| *to = f32::from_bits(x << 16)),
        _ => to.iter_mut().zip(from.chunks_exact(4)).for_each(|(to, b)| *to = f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
    }
}

/// A float of a sign, `E` bits of exponent and `M` of mantissa. Magnitudes from `special` on are no finite numbers: infinite where
/// the mantissa is zero, which is never so for a format without infinities.
#[inline(always)]
fn minifloat<const E: u32, const M: u32>(x: u32, special: u32) -> f32 {
    let rebias = 127 - ((1 << (E - 1)) - 1);
    let magnitude = x & ((1 << (E + M)) - 1);
    let moved = magnitude << (23 - M);
    let one = (rebias + 1) << 23;
    let bits = if magnitude >= special {
        0x7f80_0000 | moved
    } else if magnitude < 1 << M {
        (f32::from_bits(moved | one) - f32::from_bits(one)).to_bits()
    } else {
        moved.wrapping_add(rebias << 23)
    };
    f32::from_bits(bits | (x >> (E + M)) << 31)
}

/// The value of `x` rounded to f32, f16 or bf16, as its bytes.
pub(super) fn store(dtype: Dtype, x: f32, to: &mut [u8]) {
    match dtype {
        Dtype::Bf16 => to.copy_from_slice(&bf16_bits(x).to_le_bytes()),
        Dtype::F16 => to.copy_from_slice(&(F16.encode(f64::from(x), Overflow::NonFinite) as u16).to_le_bytes()),
        _ => to.copy_from_slice(&x.to_le_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_is_the_value_that_the_format_gives_it() {
        for dtype in [Dtype::E4m3, Dtype::F16, Dtype::Bf16] {
            let size = dtype.element_bytes().unwrap();
            let bytes: Vec<u8> = (0..1u32 << (8 * size)).flat_map(|x| x.to_le_bytes()[..size].to_vec()).collect();
            let (mut fast, mut slow) = (vec![0.0; bytes.len() / size], vec![0.0; bytes.len() / size]);
            widen(dtype, &bytes, &mut fast);
            plain(dtype, &bytes, &mut slow);
            for ((b, x), y) in bytes.chunks_exact(size).zip(fast).zip(slow) {
                let want = dtype.read(b) as f32;
                assert!(
                    x.to_bits() == y.to_bits() && (x == want || (x.is_nan() && want.is_nan())),
                    "{dtype} {b:?}: {x} for {want}"
                );
            }
        }
    }

    #[test]
    fn what_is_stored_is_what_the_dtype_writes() {
        for dtype in [Dtype::F16, Dtype::Bf16, Dtype::F32] {
            for x in [0.0, -0.3, 1.0, 1e-7, 65_519.0, -3e38] {
                let (mut got, mut want) = ([0; 4], [0; 4]);
                let size = dtype.element_bytes().unwrap();
                store(dtype, x, &mut got[..size]);
                dtype.write(f64::from(x), &mut want[..size]);
                assert_eq!(got, want, "{dtype} {x}");
            }
        }
    }
}
