//! The kernels of a step and what they work on: which ones this CPU can run, and the best of them for a dtype.

use super::rearrange::{Form, panels};
use super::softmax::softmax;
use super::unit::Portable;
#[cfg(target_arch = "x86_64")]
use super::unit::{Avx2, Avx512, Avx512Bf16};
use super::{narrow, wide};
use crate::cpu::kernels::{Simd, simd};
use ridgepoint_core::Dtype;

/// Most keys of a tile: scores of 48 queries then take 24 KiB of the first cache, and rescaling O is a fiftieth of the work.
pub(super) const TILE: usize = 128;

/// A block of queries: what they ask and what they have found so far. Many queries (a wide step) lie along the lanes, element
/// outermost; few (a narrow one) lie one after the other.
#[derive(Clone, Copy)]
pub(super) struct Block {
    /// Q in units.
    pub(super) q: *const u32,
    /// O, not yet divided by `sum`.
    pub(super) o: *mut f32,
    /// Largest logit so far, times log₂e.
    pub(super) max: *mut f32,
    /// Sum of exponentials so far.
    pub(super) sum: *mut f32,
    /// First key that each query sees, and the last.
    pub(super) from: *const f32,
    pub(super) limit: *const f32,
}

/// A tile of keys and values, in units of 32 bits: one f32, or two bf16.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub(super) k: *const u32,
    /// From one key to the next.
    pub(super) k_stride: usize,
    pub(super) v: *const u32,
    /// From one key (or pair of keys) to the next.
    pub(super) v_step: usize,
    /// From one panel of columns to the next, in a wide step.
    pub(super) v_panel: usize,
    /// Columns of V.
    pub(super) columns: usize,
    /// Index of the first key.
    pub(super) first: usize,
    /// Number of keys.
    pub(super) keys: usize,
    /// True if some query of the block does not see all of them.
    pub(super) masked: bool,
    /// True if that is so at the beginning: those before a query's window.
    pub(super) windowed: bool,
    /// log₂e / √d.
    pub(super) scale: f32,
}

/// Advances a block by a tile. `scores` has room for `TILE` f32 a query.
///
/// # Safety
/// The CPU has the step's instructions, all pointers hold what their types say, and only this thread uses the block and the
/// scores.
pub(super) type Step = unsafe fn(tile: &Tile, block: &Block, scores: *mut f32);

/// Turns `seen` logits into weights that add up to 1 (all 0 where none is seen), less what 2^`sink` takes, and zeroes the rest
/// up to `n`.
///
/// # Safety
/// The CPU has its instructions, and `row` holds `n` f32 that only this thread uses.
pub(super) type Softmax = unsafe fn(row: *mut f32, seen: usize, n: usize, scale: f32, sink: f32);

/// [`panels`] as wide as a kernel's.
///
/// # Safety
/// The CPU has its instructions.
pub(super) type Arrange = unsafe fn(form: Form, from: &[u8], stride: usize, columns: usize, to: &mut [f32], panel: usize);

/// A step and the size of its register tile.
#[derive(Clone, Copy)]
pub(super) struct Kernel {
    pub(super) step: Step,
    /// Columns of V in a panel of a wide step; queries of a narrow one.
    pub(super) size: usize,
    /// Makes panels of V, for a wide step.
    pub(super) arrange: Arrange,
}

/// A vector unit's kernels for one dtype.
#[derive(Clone, Copy)]
pub(super) struct Engine {
    pub(super) name: &'static str,
    pub(super) lanes: usize,
    /// Elements in a unit of a product: 2 for bf16 in instructions of its own, else 1.
    pub(super) group: usize,
    /// By vectors of queries, from 1.
    pub(super) wide: &'static [Kernel],
    /// By queries, ascending.
    pub(super) narrow: &'static [Kernel],
    pub(super) softmax: Softmax,
}

/// The best kernels of this CPU for a dtype in memory.
pub(super) fn engine(dtype: Dtype) -> Engine {
    engines(dtype)[0]
}

/// All kernels that this CPU can run, the best first.
pub(super) fn engines(dtype: Dtype) -> Vec<Engine> {
    let bf16 = dtype == Dtype::Bf16;
    let mut engines = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        let mut add = |name, lanes, group, wide, narrow, softmax| {
            engines.push(Engine { name, lanes, group, wide, narrow, softmax });
        };
        if simd() >= Simd::Avx512 {
            if bf16 && std::arch::is_x86_feature_detected!("avx512bf16") {
                add("vdpbf16ps", 16, 2, &x86::BF16[..], &x86::NARROW_PAIRS[..], x86::softmax_avx512 as Softmax);
            }
            let narrow = if bf16 { &x86::NARROW_AVX512_HALVES[..] } else { &x86::NARROW_AVX512[..] };
            add("AVX-512 fma", 16, 1, &x86::AVX512[..], narrow, x86::softmax_avx512);
        }
        if simd() >= Simd::Avx2 {
            let narrow = if bf16 { &x86::NARROW_AVX2_HALVES[..] } else { &x86::NARROW_AVX2[..] };
            add("AVX2 fma", 8, 1, &x86::AVX2[..], narrow, x86::softmax_avx2);
        }
    }
    let _ = simd as fn() -> Simd;
    engines.push(Engine {
        name: "portable",
        lanes: 8,
        group: 1,
        wide: &[Kernel { step: wide::step::<Portable, 1, 4>, size: 4, arrange: panels::<4> }],
        narrow: if bf16 { &PORTABLE_HALVES } else { &PORTABLE_F32 },
        softmax: softmax::<Portable>,
    });
    engines
}

const PORTABLE_F32: [Kernel; 2] = [
    Kernel { step: narrow::step::<Portable, narrow::F32, 1, 4, 2>, size: 1, arrange: panels::<1> },
    Kernel { step: narrow::step::<Portable, narrow::F32, 4, 1, 1>, size: 4, arrange: panels::<4> },
];
const PORTABLE_HALVES: [Kernel; 2] = [
    Kernel { step: narrow::step::<Portable, narrow::Halves, 1, 4, 2>, size: 1, arrange: panels::<1> },
    Kernel { step: narrow::step::<Portable, narrow::Halves, 4, 1, 1>, size: 4, arrange: panels::<4> },
];

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Avx2, Avx512, Avx512Bf16, Block, Form, Kernel, Tile, narrow, panels, softmax, wide};

    /// Compiles steps for a unit's instructions and lists them.
    macro_rules! kernels {
        ($list:ident, $count:literal, $feature:literal: $($size:literal => $path:path),*) => {
            pub(super) const $list: [Kernel; $count] = [$({
                #[target_feature(enable = $feature)]
                unsafe fn step(tile: &Tile, block: &Block, scores: *mut f32) {
                    // SAFETY: the caller's promise.
                    unsafe { $path(tile, block, scores) }
                }
                #[target_feature(enable = $feature)]
                fn arrange(form: Form, from: &[u8], stride: usize, columns: usize, to: &mut [f32], panel: usize) {
                    panels::<$size>(form, from, stride, columns, to, panel);
                }
                Kernel { step, size: $size, arrange }
            }),*];
        };
    }

    // Wide products of 16 and 24 chains: two multiply-adds a cycle of latency 4 need 8, and the more there are the fewer loads
    // each needs. Panels are narrow enough to divide 64, so that no usual head dimension leaves a rest.
    kernels!(AVX512, 3, "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma":
        16 => wide::step::<Avx512, 1, 16>, 8 => wide::step::<Avx512, 2, 8>, 8 => wide::step::<Avx512, 3, 8>);
    kernels!(BF16, 3, "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma":
        16 => wide::step::<Avx512Bf16, 1, 16>, 8 => wide::step::<Avx512Bf16, 2, 8>, 8 => wide::step::<Avx512Bf16, 3, 8>);
    kernels!(AVX2, 2, "avx2,fma": 8 => wide::step::<Avx2, 1, 8>, 4 => wide::step::<Avx2, 2, 4>);

    // Narrow products: queries × keys, and queries × twice the cells, again are the chains.
    kernels!(NARROW_AVX512, 4, "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma":
        1 => narrow::step::<Avx512, narrow::F32, 1, 8, 4>, 2 => narrow::step::<Avx512, narrow::F32, 2, 8, 4>,
        4 => narrow::step::<Avx512, narrow::F32, 4, 4, 2>, 8 => narrow::step::<Avx512, narrow::F32, 8, 2, 1>);
    kernels!(NARROW_AVX512_HALVES, 4, "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma":
        1 => narrow::step::<Avx512, narrow::Halves, 1, 8, 4>, 2 => narrow::step::<Avx512, narrow::Halves, 2, 8, 4>,
        4 => narrow::step::<Avx512, narrow::Halves, 4, 4, 2>, 8 => narrow::step::<Avx512, narrow::Halves, 8, 2, 1>);
    kernels!(NARROW_PAIRS, 4, "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma":
        1 => narrow::step::<Avx512Bf16, narrow::Pairs, 1, 8, 4>, 2 => narrow::step::<Avx512Bf16, narrow::Pairs, 2, 8, 4>,
        4 => narrow::step::<Avx512Bf16, narrow::Pairs, 4, 4, 2>, 8 => narrow::step::<Avx512Bf16, narrow::Pairs, 8, 2, 1>);
    kernels!(NARROW_AVX2, 3, "avx2,fma":
        1 => narrow::step::<Avx2, narrow::F32, 1, 8, 4>, 2 => narrow::step::<Avx2, narrow::F32, 2, 4, 2>,
        4 => narrow::step::<Avx2, narrow::F32, 4, 2, 1>);
    kernels!(NARROW_AVX2_HALVES, 3, "avx2,fma":
        1 => narrow::step::<Avx2, narrow::Halves, 1, 8, 4>, 2 => narrow::step::<Avx2, narrow::Halves, 2, 4, 2>,
        4 => narrow::step::<Avx2, narrow::Halves, 4, 2, 1>);

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
    pub(super) unsafe fn softmax_avx512(row: *mut f32, seen: usize, n: usize, scale: f32, sink: f32) {
        // SAFETY: the caller's promise.
        unsafe { softmax::<Avx512>(row, seen, n, scale, sink) }
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn softmax_avx2(row: *mut f32, seen: usize, n: usize, scale: f32, sink: f32) {
        // SAFETY: the caller's promise.
        unsafe { softmax::<Avx2>(row, seen, n, scale, sink) }
    }
}
