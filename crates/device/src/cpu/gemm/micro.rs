//! The innermost loops of GEMM: a tile of C in registers, one rank-1 (or rank-2, rank-4) update a step.
//!
//! A step consumes one 32-bit *unit* of k from each row of A and each column of B: one f32, two bf16 or four int8, which is
//! what vfmadd, vdpbf16ps and vpdpbusd take a lane. A comes as panels of `mr` rows, B as panels of `nr` columns, both with k
//! outermost (see pack.rs). 8 × 48 with 512-bit registers uses 24 of 32 as accumulators: 24 independent chains hide the
//! latency of 4 on two ports with room, and 8 broadcasts + 3 loads for 24 multiply-adds keep the load ports below one half.

use crate::cpu::kernels::{Simd, simd};
use ridgepoint_core::Dtype;

/// Computes a tile over `k` units: C = (first ? 0 : C) + A·B, rows of C `ldc` elements apart. C holds f32, or i32 for int8.
pub(super) type Micro = unsafe fn(k: usize, a: *const u32, b: *const u32, c: *mut u32, ldc: usize, first: bool);

/// A micro-kernel and its shape.
#[derive(Clone, Copy)]
pub(super) struct Kernel {
    pub(super) name: &'static str,
    pub(super) micro: Micro,
    pub(super) mr: usize,
    pub(super) nr: usize,
    /// How operands are stored in units.
    pub(super) packing: Packing,
    /// True where the dtype is done in instructions of its own.
    pub(super) native: bool,
}

/// What a unit holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// The 32-bit element as it is.
    F32,
    /// f16 widened to f32.
    F16ToF32,
    /// bf16 widened to f32.
    Bf16ToF32,
    /// Two bf16.
    Bf16Pair,
    /// int8 widened to i32.
    I8ToI32,
    /// Four int8.
    I8Quad,
}

impl Packing {
    /// Elements of k in a unit.
    pub(super) const fn group(self) -> usize {
        match self {
            Self::Bf16Pair => 2,
            Self::I8Quad => 4,
            _ => 1,
        }
    }

    /// Bytes of an element in memory.
    pub(super) const fn element_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16ToF32 | Self::Bf16ToF32 | Self::Bf16Pair => 2,
            Self::I8ToI32 | Self::I8Quad => 1,
        }
    }

    /// True if C is summed in i32.
    pub(super) const fn integer(self) -> bool {
        matches!(self, Self::I8ToI32 | Self::I8Quad)
    }
}

/// The best micro-kernel of this CPU for inputs of `dtype`.
pub(super) fn best(dtype: Dtype) -> Option<Kernel> {
    let kernel = |name, micro, mr, nr, packing, native| Some(Kernel { name, micro, mr, nr, packing, native });
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        let simd = simd();
        match dtype {
            Dtype::Bf16 if simd == Simd::Avx512 && has!("avx512bf16") => {
                return kernel("8x48 vdpbf16ps", x86::bf16_8x48, 8, 48, Packing::Bf16Pair, true);
            }
            Dtype::I8 if simd == Simd::Avx512 && has!("avx512vnni") => {
                return kernel("8x48 vpdpbusd", x86::i8_8x48, 8, 48, Packing::I8Quad, true);
            }
            _ => {}
        }
        if let Some((packing, native)) = f32_packing(dtype) {
            match simd {
                Simd::Avx512 => return kernel("8x48 AVX-512 fma", x86::f32_8x48, 8, 48, packing, native),
                Simd::Avx2 => return kernel("6x16 AVX2 fma", x86::f32_6x16, 6, 16, packing, native),
                Simd::Baseline => {}
            }
        }
    }
    if dtype == Dtype::I8 {
        return kernel("4x16 i32", portable_i32, 4, 16, Packing::I8ToI32, false);
    }
    let (packing, native) = f32_packing(dtype)?;
    let _ = simd;
    kernel("4x16 f32", portable_f32, 4, 16, packing, native)
}

const fn f32_packing(dtype: Dtype) -> Option<(Packing, bool)> {
    match dtype {
        Dtype::F32 => Some((Packing::F32, true)),
        Dtype::F16 => Some((Packing::F16ToF32, false)),
        Dtype::Bf16 => Some((Packing::Bf16ToF32, false)),
        _ => None,
    }
}

/// Defines a micro-kernel in plain Rust for any architecture.
macro_rules! portable {
    ($name:ident, $element:ty, |$acc:ident, $a:ident, $b:ident| $update:expr, |$sum:ident, $old:ident| $add:expr) => {
        unsafe fn $name(k: usize, a: *const u32, b: *const u32, c: *mut u32, ldc: usize, first: bool) {
            const MR: usize = 4;
            const NR: usize = 16;
            // SAFETY: the caller hands panels of k units and a tile of C, all of this kernel's shape.
            let (a, b) = unsafe {
                (
                    std::slice::from_raw_parts(a.cast::<$element>(), k * MR),
                    std::slice::from_raw_parts(b.cast::<$element>(), k * NR),
                )
            };
            let mut tile = [[<$element>::default(); NR]; MR];
            for (a, b) in a.chunks_exact(MR).zip(b.chunks_exact(NR)) {
                for (row, $a) in tile.iter_mut().zip(a) {
                    for ($acc, $b) in row.iter_mut().zip(b) {
                        *$acc = $update;
                    }
                }
            }
            for (i, row) in tile.iter().enumerate() {
                for (j, $sum) in row.iter().enumerate() {
                    // SAFETY: within the tile of C.
                    unsafe {
                        let at = c.add(i * ldc + j).cast::<$element>();
                        let $old = if first { <$element>::default() } else { *at };
                        *at = $add;
                    }
                }
            }
        }
    };
}

portable!(portable_f32, f32, |acc, a, b| *acc + a * b, |sum, old| old + *sum);
portable!(portable_i32, i32, |acc, a, b| acc.wrapping_add(a.wrapping_mul(*b)), |sum, old| old.wrapping_add(*sum));

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// Defines a micro-kernel of `$mr` rows and `$vectors` vectors of `$lanes` columns.
    macro_rules! micro {
        ($name:ident, $feature:literal, $mr:literal, $vectors:literal, $lanes:literal, $vector:ty,
         zero $zero:expr, update |$sum:ident, $a:ident, $b:ident| $update:expr,
         broadcast |$ap:ident| $broadcast:expr, load |$lp:ident| $load:expr, store |$sp:ident, $sv:ident| $store:expr, add $add:ident) => {
            #[target_feature(enable = $feature)]
            pub(super) unsafe fn $name(k: usize, mut a: *const u32, mut b: *const u32, c: *mut u32, ldc: usize, first: bool) {
                // SAFETY: the caller hands panels of k units and a tile of C, all of this kernel's shape.
                unsafe {
                    for i in 0..$mr {
                        for j in 0..$vectors {
                            _mm_prefetch::<_MM_HINT_T0>(c.add(i * ldc + j * $lanes).cast());
                        }
                    }
                    let mut tile: [[$vector; $vectors]; $mr] = [[$zero; $vectors]; $mr];
                    for _ in 0..k {
                        let mut columns = [$zero; $vectors];
                        for (j, column) in columns.iter_mut().enumerate() {
                            let $lp = b.add(j * $lanes);
                            *column = $load;
                        }
                        for (i, row) in tile.iter_mut().enumerate() {
                            let $ap = a.add(i);
                            let $a = $broadcast;
                            for (sum, column) in row.iter_mut().zip(&columns) {
                                let ($sum, $b) = (*sum, *column);
                                *sum = $update;
                            }
                        }
                        a = a.add($mr);
                        b = b.add($vectors * $lanes);
                    }
                    for (i, row) in tile.iter().enumerate() {
                        for (j, sum) in row.iter().enumerate() {
                            let $sp = c.add(i * ldc + j * $lanes);
                            let $lp = $sp.cast_const();
                            let $sv = if first { *sum } else { $add(*sum, $load) };
                            $store;
                        }
                    }
                }
            }
        };
    }

    micro!(f32_8x48, "avx512f", 8, 3, 16, __m512, zero _mm512_setzero_ps(),
        update |s, a, b| _mm512_fmadd_ps(a, b, s), broadcast |p| _mm512_set1_ps(*p.cast::<f32>()),
        load |p| _mm512_loadu_ps(p.cast()), store |q, v| _mm512_storeu_ps(q.cast(), v), add _mm512_add_ps);
    micro!(f32_6x16, "avx2,fma", 6, 2, 8, __m256, zero _mm256_setzero_ps(),
        update |s, a, b| _mm256_fmadd_ps(a, b, s), broadcast |p| _mm256_set1_ps(*p.cast::<f32>()),
        load |p| _mm256_loadu_ps(p.cast()), store |q, v| _mm256_storeu_ps(q.cast(), v), add _mm256_add_ps);
    micro!(bf16_8x48, "avx512f,avx512bf16", 8, 3, 16, __m512, zero _mm512_setzero_ps(),
        update |s, a, b| _mm512_dpbf16_ps(s, std::mem::transmute::<__m512, __m512bh>(a), std::mem::transmute::<__m512, __m512bh>(b)),
        broadcast |p| _mm512_castsi512_ps(_mm512_set1_epi32(*p as i32)),
        load |p| _mm512_loadu_ps(p.cast()), store |q, v| _mm512_storeu_ps(q.cast(), v), add _mm512_add_ps);
    micro!(i8_8x48, "avx512f,avx512vnni", 8, 3, 16, __m512i, zero _mm512_setzero_si512(),
        update |s, a, b| _mm512_dpbusd_epi32(s, a, b), broadcast |p| _mm512_set1_epi32(*p as i32),
        load |p| _mm512_loadu_si512(p.cast()), store |q, v| _mm512_storeu_si512(q.cast(), v), add _mm512_add_epi32);
}
