//! Input data, made by a counter: element `i` of stream `seed` is the same number on the host, in CUDA, in HIP and in
//! SPIR-V, bit for bit, so a device fills gigabytes by itself and the reference needs no download.
//!
//! The normal distribution is the sum of four uniform 16-bit numbers (Irwin–Hall), centred and scaled by one multiply:
//! no transcendental function, hence no difference between compilers. Its tails end at ±3.46 σ.

use crate::Distribution;

/// The hash behind every stream: SplitMix64's output function at position `i`.
/// Source of the constants: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (2014).
#[must_use]
pub const fn hash(seed: u64, i: u64) -> u64 {
    let mut z = seed.wrapping_add(i.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The seed whose stream is that of `seed` from element `by` on: what makes a part of an array by itself.
#[must_use]
pub const fn shifted(seed: u64, by: u64) -> u64 {
    seed.wrapping_add(by.wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

/// Element `i` of a stream of mean 0 and variance 1.
#[must_use]
pub fn normal(seed: u64, i: u64) -> f32 {
    let h = hash(seed, i);
    let sum = (h & 0xffff) + (h >> 16 & 0xffff) + (h >> 32 & 0xffff) + (h >> 48);
    (sum as i32 - 131_070) as f32 * (1.0 / 37_837.0) as f32
}

/// Element `i` of a stream uniform in [-1, 1).
#[must_use]
pub fn uniform(seed: u64, i: u64) -> f32 {
    ((hash(seed, i) >> 40) as i32 - (1 << 23)) as f32 * (1.0 / (1 << 23) as f32)
}

/// The value that [`Distribution::Constant`] repeats: every dtype holds it, and its products and sums are exact.
pub const CONSTANT: f32 = 1.0;

/// A radian of a turn of 2³².
const RADIAN: u32 = 683_565_276;

/// Element `i` of a sine wave with a radian an element, from a phase by the seed: smooth data, whose neighbours are alike. In integers
/// (a polynomial of fifth order, within 0.0005 of the sine) and one multiply, the same everywhere; divided by a little more than
/// 2¹⁵, so that no bit of the mantissa stays clear.
#[must_use]
pub fn trigonometric(seed: u64, i: u64) -> f32 {
    // A seed is a position: the seed that [`shifted`] makes is so many elements further on, by the inverse of its multiplier.
    let position = seed.wrapping_mul(0xF1DE_83E1_9937_733D).wrapping_add(i);
    let turn = (position as u32).wrapping_mul(RADIAN) as i32;
    // Back into the half turn in which a sine rises.
    let rising = if turn.unsigned_abs() > 1 << 30 { i32::MIN.wrapping_sub(turn) } else { turn };
    let z = rising >> 15;
    let square = (z * z) >> 15;
    let sine = (z * (51_472 - ((square * (21_024 - ((2320 * square) >> 15))) >> 15))) >> 15;
    sine as f32 * (1.0 / 32_771.0) as f32
}

/// Element `i` of a stream of this distribution; 0 where values have no meaning.
#[must_use]
pub fn value(distribution: Distribution, seed: u64, i: u64) -> f32 {
    match distribution {
        Distribution::Normal => normal(seed, i),
        Distribution::Uniform => uniform(seed, i),
        Distribution::Constant => CONSTANT,
        Distribution::Trigonometric => trigonometric(seed, i),
        Distribution::Zeros | Distribution::Given | Distribution::None => 0.0,
    }
}

/// Element `i` of a random order of `0..n`, without a table: kernels/common/rp.h has the same. Mixes within the next power of two
/// and walks on until it is back inside `n`.
#[must_use]
pub const fn permuted(seed: u64, mut i: u64, n: u64) -> u64 {
    let mut bits = 0u32;
    while bits < 63 && (1u64 << bits) < n {
        bits += 1;
    }
    let mask = (1u64 << bits) - 1;
    let half = bits.div_ceil(2) + (bits == 0) as u32;
    loop {
        i = (i ^ (seed & mask)).wrapping_mul(0x9E37_79B9_7F4A_7C15) & mask;
        i ^= i >> half;
        i = i.wrapping_mul(0xBF58_476D_1CE4_E5B9).wrapping_add(seed >> 32) & mask;
        i ^= i >> half;
        i = i.wrapping_mul(0x94D0_49BB_1331_11EB) & mask;
        i ^= i >> half;
        if i < n {
            return i;
        }
    }
}

/// Int8 operands are [`normal`] times this, rounded to nearest even: ±3.46 σ fill 83 of 127 steps, so none saturates.
pub const I8_SCALE: f32 = 24.0;

/// E2m1 operands are [`normal`] times this, rounded to nearest even: the largest comes to 5.2 of 6, so that every value occurs.
pub const E2M1_SCALE: f32 = 1.5;

/// Scale `i` of a stream of f32 scales: in [1.25, 1.75) or twice that, never near 1, and seldom near another, so that one that was
/// left out or stands in a wrong place shows.
#[must_use]
pub const fn scale_f32(seed: u64, i: u64) -> f32 {
    let h = hash(seed, i);
    f32::from_bits(0x3fa0_0000 + (h >> 42) as u32 + (((h & 1) as u32) << 23))
}

/// Scale `i` of a stream of E8M0 scales: ¼, ½, 1 or 2.
#[must_use]
pub const fn scale_e8m0(seed: u64, i: u64) -> u8 {
    125 + (hash(seed, i) & 3) as u8
}

/// Scale `i` of a stream of E4M3 scales: each of the 16 from ½ to 1⅞.
#[must_use]
pub const fn scale_e4m3(seed: u64, i: u64) -> u8 {
    0x30 + (hash(seed, i) & 15) as u8
}

/// A seed of its own for each operand of a case, so that A and B are never the same numbers.
#[must_use]
pub const fn operand_seed(seed: u64, operand: u64) -> u64 {
    hash(seed ^ 0x5269_6467_6570_6F69, operand)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Printed by rp_permute of kernels/common/rp.h, run on the host.
    #[test]
    fn a_permutation_is_the_kernels() {
        let seed = 77 + (5 << 40);
        let first = |n: u64| [0, 1, 2, 3].map(|i| permuted(seed, i % n, n));
        assert_eq!([first(1), first(2)], [[0; 4], [1, 0, 1, 0]]);
        assert_eq!([first(1000), first(100_000)], [[41, 880, 841, 725], [94_691, 39_718, 93_027, 59_853]]);
        let mut all: Vec<u64> = (0..1000).map(|i| permuted(9, i, 1000)).collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..1000));
    }

    #[test]
    fn streams_have_the_moments_they_claim() {
        let n = 200_000;
        for (make, variance) in [(normal as fn(u64, u64) -> f32, 1.0), (uniform, 1.0 / 3.0)] {
            let x: Vec<f64> = (0..n).map(|i| f64::from(make(7, i))).collect();
            let mean = x.iter().sum::<f64>() / n as f64;
            let var = x.iter().map(|v| v * v).sum::<f64>() / n as f64 - mean * mean;
            assert!(mean.abs() < 0.01 && (var - variance).abs() < 0.01, "mean {mean}, variance {var}");
        }
    }

    #[test]
    fn scales_keep_their_distance() {
        for i in 0..1000 {
            let scale = scale_f32(7, i);
            assert!((1.25..1.75).contains(&scale) || (2.5..3.5).contains(&scale), "{scale}");
            assert!((0.25..=2.0).contains(&crate::block::e8m0(scale_e8m0(7, i))));
            let scale = crate::minifloat::E4M3.decode(u32::from(scale_e4m3(7, i)));
            assert!((0.5..=1.875).contains(&scale), "{scale}");
        }
    }

    #[test]
    fn a_sine_is_a_sine() {
        let wave: Vec<f64> = (0..100_000).map(|i| f64::from(trigonometric(7, i))).collect();
        assert!(wave.iter().all(|x| x.abs() < 1.0));
        // One phase fits all of it: the one that its first two elements tell.
        let phase = f64::atan2(wave[0], (wave[1] - wave[0] * 1f64.cos()) / 1f64.sin());
        let worst = wave.iter().enumerate().map(|(i, x)| (x - (phase + i as f64).sin()).abs()).fold(0.0, f64::max);
        assert!(worst < 2e-3, "{worst}");
        assert!((trigonometric(8, 0) - trigonometric(7, 0)).abs() > 1e-3);
    }

    #[test]
    fn a_shifted_stream_is_the_rest_of_it() {
        for (seed, by) in [(7, 1), (u64::MAX, 1 << 40), (3, 0)] {
            assert!((0..100).all(|i| hash(shifted(seed, by), i) == hash(seed, by + i)));
            for data in Distribution::GENERATED {
                assert!((0..100).all(|i| value(data, shifted(seed, by), i) == value(data, seed, by + i)), "{data:?}");
            }
        }
    }

    #[test]
    fn the_first_values_never_change() {
        // Kernels in three languages make the same stream; this pins the definition.
        assert_eq!(hash(1, 0), 0x910a_2dec_8902_5cc1);
        let lanes = [0x910au32, 0x2dec, 0x8902, 0x5cc1];
        let sum = lanes.iter().sum::<u32>() as i32 - 131_070;
        assert_eq!(normal(1, 0), sum as f32 * (1.0 / 37_837.0) as f32);
    }
}
