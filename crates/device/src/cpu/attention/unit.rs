//! What flash attention asks of a vector unit, for each kind of unit that a CPU may have. Kernels are generic over [`Unit`]
//! and compiled once a unit, each with that unit's instructions.
//!
//! Operands are streams of 32-bit *units*, as in the GEMM: one f32, or two bf16 that one instruction multiplies and adds.

/// 2^f on [−½, ½] as a polynomial: the minimax of degree 5 for the relative error, 7.5e-8, constant term rounded to 1.
const EXP2: [f32; 6] = [1.0, 0.693_146_94, 0.240_221_2, 0.055_507_13, 0.009_675_541, 0.001_327_647_2];

/// Below this, 2^x is 0: the smallest subnormal is 2^−149, and what rounds to it must be 0 as well.
const FLUSH: f32 = -126.0;

/// A vector unit. All methods are to be inlined into a function compiled for its instructions.
///
/// # Safety
/// The CPU has those instructions, and pointers hold as many elements as are named.
pub(super) trait Unit {
    /// A vector of f32.
    type V: Copy;
    /// Its length.
    const LANES: usize;
    /// Elements of a sum in one unit of an operand.
    const GROUP: usize;

    unsafe fn splat(x: f32) -> Self::V;
    /// From [`Unit::LANES`] f32.
    unsafe fn load(from: *const f32) -> Self::V;
    /// To [`Unit::LANES`] f32.
    unsafe fn store(to: *mut f32, x: Self::V);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// a·b + c.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The greater; `b` where either is NaN.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// The nearest integer.
    unsafe fn round(x: Self::V) -> Self::V;
    /// p·2^n for an integer n, and 0 for n below [`FLUSH`].
    unsafe fn scale(p: Self::V, n: Self::V) -> Self::V;
    /// x where a ≤ b, −∞ elsewhere.
    unsafe fn keep_if_le(x: Self::V, a: Self::V, b: Self::V) -> Self::V;
    /// sum + (the unit at `a`, in every lane)·(the units at `b`).
    unsafe fn mac(sum: Self::V, a: *const u32, b: Self::V) -> Self::V;
    /// sum + a·b, lane by lane of units.
    unsafe fn mac_lanes(sum: Self::V, a: Self::V, b: Self::V) -> Self::V;
    /// The sum of all lanes.
    unsafe fn total(x: Self::V) -> f32;
    /// The sums of four vectors, to four f32: together they take a third of the shuffles.
    #[inline(always)]
    unsafe fn totals(x: [Self::V; 4], to: *mut f32) {
        // SAFETY: as the caller promised of this unit and of `to`.
        unsafe { x.iter().enumerate().for_each(|(i, x)| *to.add(i) = Self::total(*x)) }
    }
    /// The greatest of all lanes.
    unsafe fn top(x: Self::V) -> f32;
    /// Twice [`Unit::LANES`] bf16 as f32: those at even places, and those at odd ones.
    unsafe fn halves(from: *const u32) -> [Self::V; 2];
    /// Two vectors as one of units, for a unit of two elements: `even` the lower half of each.
    unsafe fn pair(even: Self::V, odd: Self::V) -> Self::V;

    /// Asks for the line at `at` to be brought into the second cache; any address will do.
    #[inline(always)]
    unsafe fn fetch(at: *const u32) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a hint that reads nothing.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(at.cast());
        }
        let _ = at;
    }

    /// 2^x: 0 for −∞ and for whatever is too small, NaN for NaN.
    #[inline(always)]
    unsafe fn exp2(x: Self::V) -> Self::V {
        // SAFETY: as the caller promised of this unit.
        unsafe {
            // The bound first: it is what `max` gives up where x is NaN.
            let x = Self::max(Self::splat(FLUSH - 2.0), x);
            let n = Self::round(x);
            let f = Self::sub(x, n);
            let mut p = Self::splat(EXP2[5]);
            p = Self::fma(p, f, Self::splat(EXP2[4]));
            p = Self::fma(p, f, Self::splat(EXP2[3]));
            p = Self::fma(p, f, Self::splat(EXP2[2]));
            p = Self::fma(p, f, Self::splat(EXP2[1]));
            p = Self::fma(p, f, Self::splat(EXP2[0]));
            Self::scale(p, n)
        }
    }
}

/// Eight lanes in plain Rust, for any architecture.
pub(super) struct Portable;

impl Unit for Portable {
    type V = [f32; 8];
    const LANES: usize = 8;
    const GROUP: usize = 1;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        [x; 8]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        // SAFETY: eight elements, as the caller promised.
        unsafe { from.cast::<[f32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, x: Self::V) {
        // SAFETY: eight elements, as the caller promised.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(x) }
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // Not mul_add: without such an instruction it is a call that rounds once, and a hundred times slower.
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn round(x: Self::V) -> Self::V {
        // Adding 1.5·2²³ leaves no bits below 1; x is within ±128 here.
        const MAGIC: f32 = 12_582_912.0;
        std::array::from_fn(|i| (x[i] + MAGIC) - MAGIC)
    }
    #[inline(always)]
    unsafe fn scale(p: Self::V, n: Self::V) -> Self::V {
        std::array::from_fn(|i| {
            let bits = p[i].to_bits().wrapping_add((n[i] as i32 as u32) << 23);
            if n[i] < FLUSH + 1.0 { 0.0 } else { f32::from_bits(bits) }
        })
    }
    #[inline(always)]
    unsafe fn keep_if_le(x: Self::V, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] <= b[i] { x[i] } else { f32::NEG_INFINITY })
    }
    #[inline(always)]
    unsafe fn mac(sum: Self::V, a: *const u32, b: Self::V) -> Self::V {
        // SAFETY: one unit, as the caller promised.
        let a = f32::from_bits(unsafe { a.read_unaligned() });
        std::array::from_fn(|i| a * b[i] + sum[i])
    }
    #[inline(always)]
    unsafe fn mac_lanes(sum: Self::V, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i] + sum[i])
    }
    #[inline(always)]
    unsafe fn total(x: Self::V) -> f32 {
        x.iter().sum()
    }
    #[inline(always)]
    unsafe fn top(x: Self::V) -> f32 {
        x.iter().copied().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    unsafe fn halves(from: *const u32) -> [Self::V; 2] {
        // SAFETY: eight units, as the caller promised.
        let units = unsafe { from.cast::<[u32; 8]>().read_unaligned() };
        [units.map(|u| f32::from_bits(u << 16)), units.map(|u| f32::from_bits(u & 0xffff_0000))]
    }
    #[inline(always)]
    unsafe fn pair(even: Self::V, _odd: Self::V) -> Self::V {
        even
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512, Avx512Bf16};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{FLUSH, Unit};
    use std::arch::x86_64::*;

    /// AVX2 and FMA.
    pub(in super::super) struct Avx2;
    /// AVX-512 F, BW, VL, DQ.
    pub(in super::super) struct Avx512;
    /// The same with vdpbf16ps.
    pub(in super::super) struct Avx512Bf16;

    impl Unit for Avx2 {
        type V = __m256;
        const LANES: usize = 8;
        const GROUP: usize = 1;

        #[inline(always)]
        unsafe fn splat(x: f32) -> __m256 {
            // SAFETY: the trait's contract, here and below.
            unsafe { _mm256_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, x: __m256) {
            // SAFETY: as above.
            unsafe { _mm256_storeu_ps(to, x) }
        }
        #[inline(always)]
        unsafe fn add(a: __m256, b: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: __m256, b: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_sub_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: __m256, b: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn max(a: __m256, b: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_max_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn round(x: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x) }
        }
        #[inline(always)]
        unsafe fn scale(p: __m256, n: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe {
                let exponent = _mm256_slli_epi32::<23>(_mm256_cvtps_epi32(n));
                let scaled = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), exponent));
                // NLT and not GE: NaN stays.
                _mm256_and_ps(scaled, _mm256_cmp_ps::<_CMP_NLT_UQ>(n, _mm256_set1_ps(FLUSH + 1.0)))
            }
        }
        #[inline(always)]
        unsafe fn keep_if_le(x: __m256, a: __m256, b: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_blendv_ps(_mm256_set1_ps(f32::NEG_INFINITY), x, _mm256_cmp_ps::<_CMP_LE_OQ>(a, b)) }
        }
        #[inline(always)]
        unsafe fn mac(sum: __m256, a: *const u32, b: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_fmadd_ps(_mm256_set1_ps(a.cast::<f32>().read_unaligned()), b, sum) }
        }
        #[inline(always)]
        unsafe fn mac_lanes(sum: __m256, a: __m256, b: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_fmadd_ps(a, b, sum) }
        }
        #[inline(always)]
        unsafe fn total(x: __m256) -> f32 {
            // SAFETY: as above.
            unsafe {
                let four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
                let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
            }
        }
        #[inline(always)]
        unsafe fn totals(x: [__m256; 4], to: *mut f32) {
            // SAFETY: as above.
            unsafe {
                let sums = _mm256_hadd_ps(_mm256_hadd_ps(x[0], x[1]), _mm256_hadd_ps(x[2], x[3]));
                _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps::<1>(sums)));
            }
        }
        #[inline(always)]
        unsafe fn top(x: __m256) -> f32 {
            // SAFETY: as above.
            unsafe {
                let four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
                let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
            }
        }
        #[inline(always)]
        unsafe fn halves(from: *const u32) -> [__m256; 2] {
            // SAFETY: as above.
            unsafe {
                let units = _mm256_loadu_si256(from.cast());
                let odd = _mm256_and_si256(units, _mm256_set1_epi32(0xffff_0000_u32 as i32));
                [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(units)), _mm256_castsi256_ps(odd)]
            }
        }
        #[inline(always)]
        unsafe fn pair(even: __m256, _odd: __m256) -> __m256 {
            even
        }
    }

    /// Defines a unit of 512-bit vectors; the two differ in how they multiply.
    macro_rules! avx512 {
        ($unit:ident, group $group:literal, mac |$sum:ident, $a:ident, $b:ident| $mac:expr, load |$p:ident| $load:expr, pair |$even:ident, $odd:ident| $pair:expr) => {
            impl Unit for $unit {
                type V = __m512;
                const LANES: usize = 16;
                const GROUP: usize = $group;

                #[inline(always)]
                unsafe fn splat(x: f32) -> __m512 {
                    // SAFETY: the trait's contract, here and below.
                    unsafe { _mm512_set1_ps(x) }
                }
                #[inline(always)]
                unsafe fn load(from: *const f32) -> __m512 {
                    // SAFETY: as above.
                    unsafe { _mm512_loadu_ps(from) }
                }
                #[inline(always)]
                unsafe fn store(to: *mut f32, x: __m512) {
                    // SAFETY: as above.
                    unsafe { _mm512_storeu_ps(to, x) }
                }
                #[inline(always)]
                unsafe fn add(a: __m512, b: __m512) -> __m512 {
                    // SAFETY: as above.
                    unsafe { _mm512_add_ps(a, b) }
                }
                #[inline(always)]
                unsafe fn sub(a: __m512, b: __m512) -> __m512 {
                    // SAFETY: as above.
                    unsafe { _mm512_sub_ps(a, b) }
                }
                #[inline(always)]
                unsafe fn mul(a: __m512, b: __m512) -> __m512 {
                    // SAFETY: as above.
                    unsafe { _mm512_mul_ps(a, b) }
                }
                #[inline(always)]
                unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
                    // SAFETY: as above.
                    unsafe { _mm512_fmadd_ps(a, b, c) }
                }
                #[inline(always)]
                unsafe fn max(a: __m512, b: __m512) -> __m512 {
                    // SAFETY: as above.
                    unsafe { _mm512_max_ps(a, b) }
                }
                #[inline(always)]
                unsafe fn round(x: __m512) -> __m512 {
                    // SAFETY: as above.
                    unsafe { _mm512_roundscale_ps::<_MM_FROUND_TO_NEAREST_INT>(x) }
                }
                #[inline(always)]
                unsafe fn scale(p: __m512, n: __m512) -> __m512 {
                    // SAFETY: as above.
                    unsafe {
                        // NLT and not GE: NaN stays.
                        let kept = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(n, _mm512_set1_ps(FLUSH + 1.0));
                        _mm512_maskz_scalef_ps(kept, p, n)
                    }
                }
                #[inline(always)]
                unsafe fn keep_if_le(x: __m512, a: __m512, b: __m512) -> __m512 {
                    // SAFETY: as above.
                    unsafe {
                        let kept = _mm512_cmp_ps_mask::<_CMP_LE_OQ>(a, b);
                        _mm512_mask_blend_ps(kept, _mm512_set1_ps(f32::NEG_INFINITY), x)
                    }
                }
                #[inline(always)]
                unsafe fn mac($sum: __m512, $a: *const u32, $b: __m512) -> __m512 {
                    // SAFETY: as above.
                    unsafe {
                        let $p = $a;
                        let $a = $load;
                        $mac
                    }
                }
                #[inline(always)]
                unsafe fn mac_lanes($sum: __m512, $a: __m512, $b: __m512) -> __m512 {
                    // SAFETY: as above.
                    unsafe { $mac }
                }
                #[inline(always)]
                unsafe fn total(x: __m512) -> f32 {
                    // SAFETY: as above.
                    unsafe { _mm512_reduce_add_ps(x) }
                }
                #[inline(always)]
                unsafe fn totals(x: [__m512; 4], to: *mut f32) {
                    // SAFETY: as above.
                    unsafe {
                        // Pairs of two vectors, then fours of all, within each 128 bits; then over those.
                        let two = |a: __m512, b: __m512| _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
                        let (ab, cd) = (two(x[0], x[1]), two(x[2], x[3]));
                        let sums = _mm512_add_ps(_mm512_shuffle_ps::<0x44>(ab, cd), _mm512_shuffle_ps::<0xee>(ab, cd));
                        let half = _mm256_add_ps(_mm512_castps512_ps256(sums), _mm512_extractf32x8_ps::<1>(sums));
                        _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps::<1>(half)));
                    }
                }
                #[inline(always)]
                unsafe fn top(x: __m512) -> f32 {
                    // SAFETY: as above.
                    unsafe { _mm512_reduce_max_ps(x) }
                }
                #[inline(always)]
                unsafe fn halves(from: *const u32) -> [__m512; 2] {
                    // SAFETY: as above.
                    unsafe {
                        let units = _mm512_loadu_si512(from.cast());
                        let odd = _mm512_and_si512(units, _mm512_set1_epi32(0xffff_0000_u32 as i32));
                        [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(units)), _mm512_castsi512_ps(odd)]
                    }
                }
                #[inline(always)]
                unsafe fn pair($even: __m512, $odd: __m512) -> __m512 {
                    $pair
                }
            }
        };
    }

    avx512!(Avx512, group 1,
        mac |sum, a, b| _mm512_fmadd_ps(a, b, sum),
        load |p| _mm512_set1_ps(p.cast::<f32>().read_unaligned()),
        pair |even, _odd| even);

    avx512!(Avx512Bf16, group 2,
    // Both are 512 bits of plain data.
    mac |sum, a, b| _mm512_dpbf16_ps(sum, std::mem::transmute::<__m512, __m512bh>(a), std::mem::transmute::<__m512, __m512bh>(b)),
    load |p| _mm512_castsi512_ps(_mm512_set1_epi32(p.read_unaligned() as i32)),
    // SAFETY: the trait's contract.
    pair |even, odd| unsafe {
        let halves = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(odd, even));
        let order = _mm512_set_epi16(
            31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0,
        );
        _mm512_castsi512_ps(_mm512_permutexvar_epi16(order, halves))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp2_is_right_to_a_few_roundings_and_flushes_to_zero() {
        let check = |exp2: &dyn Fn(f32) -> f32, unit: &str| {
            for i in 0..200_000 {
                let x = -124.0 + i as f32 * (252.0 / 200_000.0);
                let want = f64::from(x).exp2();
                assert!((f64::from(exp2(x)) / want - 1.0).abs() < 4e-7, "{unit}: 2^{x}");
            }
            assert_eq!([exp2(0.0), exp2(f32::NEG_INFINITY), exp2(-150.0), exp2(f32::MIN)], [1.0, 0.0, 0.0, 0.0], "{unit}");
            assert!(exp2(f32::NAN).is_nan(), "{unit}");
        };
        // SAFETY: plain Rust.
        check(&|x| unsafe { Portable::exp2([x; 8]) }[3], "portable");
        #[cfg(target_arch = "x86_64")]
        {
            use crate::cpu::kernels::{Simd, simd};
            #[target_feature(enable = "avx2,fma")]
            fn avx2(x: f32) -> f32 {
                let mut out = [0.0; 8];
                // SAFETY: the caller has the feature, and there is room for eight lanes.
                unsafe { Avx2::store(out.as_mut_ptr(), Avx2::exp2(Avx2::splat(x))) };
                out[5]
            }
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
            fn avx512(x: f32) -> f32 {
                let mut out = [0.0; 16];
                // SAFETY: the caller has the feature, and there is room for sixteen lanes.
                unsafe { Avx512::store(out.as_mut_ptr(), Avx512::exp2(Avx512::splat(x))) };
                out[9]
            }
            if simd() >= Simd::Avx2 {
                // SAFETY: the feature was just detected.
                check(&|x| unsafe { avx2(x) }, "AVX2");
            }
            if simd() >= Simd::Avx512 {
                // SAFETY: the feature was just detected.
                check(&|x| unsafe { avx512(x) }, "AVX-512");
            }
        }
    }
}
