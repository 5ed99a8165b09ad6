//! Streams through memory and the pointer chase, f32, by the same names and operand order as kernels/memory/stream.cu:
//! x, y are read and z is written. The last argument is how often each thread goes over its own part, so that a working set
//! that fits a cache is read from it and not from the caller's loop.
//!
//! `rp_copy` is the C library's memcpy, as a C compiler makes of STREAM's copy. The `_nt` entries store around the caches:
//! they save the read of the line that an ordinary store needs first, which STREAM's counting does not see.

use super::{Args, NativeFn, Shared, Simd, simd};
use crate::cpu::pool::Pool;
use crate::{Arg, Result};
use std::hint::black_box;

/// Entry names and kernels.
pub(crate) const KERNELS: &[(&str, NativeFn)] = &[
    ("rp_read", |p, a| fold(p, a, "rp_read", 1)),
    ("rp_dot", |p, a| fold(p, a, "rp_dot", 2)),
    ("rp_write", write),
    ("rp_copy", |p, a| map(p, a, Op::Copy, false)),
    ("rp_scale", |p, a| map(p, a, Op::Scale, false)),
    ("rp_add", |p, a| map(p, a, Op::Add, false)),
    ("rp_triad", |p, a| map(p, a, Op::Triad, false)),
    ("rp_write_nt", |p, a| map(p, a, Op::Write, true)),
    ("rp_copy_nt", |p, a| map(p, a, Op::Copy, true)),
    ("rp_scale_nt", |p, a| map(p, a, Op::Scale, true)),
    ("rp_add_nt", |p, a| map(p, a, Op::Add, true)),
    ("rp_triad_nt", |p, a| map(p, a, Op::Triad, true)),
    ("rp_chase", chase),
];

/// Threads meet at multiples of this many floats: two cache lines, so that no line is shared and NT stores are aligned.
const GRAIN: usize = 32;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Op {
    Write,
    Copy,
    Scale,
    Add,
    Triad,
}

impl Op {
    const fn entry(self) -> &'static str {
        match self {
            Self::Write => "rp_write",
            Self::Copy => "rp_copy",
            Self::Scale => "rp_scale",
            Self::Add => "rp_add",
            Self::Triad => "rp_triad",
        }
    }

    const fn inputs(self) -> usize {
        match self {
            Self::Write => 0,
            Self::Copy | Self::Scale => 1,
            Self::Add | Self::Triad => 2,
        }
    }

    const fn scaled(self) -> bool {
        matches!(self, Self::Write | Self::Scale | Self::Triad)
    }
}

/// `rp_write`, for whoever needs memory written through the caches.
pub(crate) fn write(pool: &Pool, args: &[Arg<'_>]) -> Result<()> {
    map(pool, args, Op::Write, false)
}

/// `(x, y, z, s, n, repeats)`, without the operands that the op has not.
fn map(pool: &Pool, args: &[Arg<'_>], op: Op, non_temporal: bool) -> Result<()> {
    let mut a = Args::of(op.entry(), args);
    let n = a.peek_u64(op.inputs() + 1 + usize::from(op.scaled()))?;
    let mut input = |wanted: bool| if wanted { a.input::<f32>(n) } else { Ok(std::ptr::null_mut()) };
    let (x, y) = (Shared::new(input(op.inputs() > 0)?), Shared::new(input(op.inputs() > 1)?));
    let z = Shared::new(a.pointer::<f32>(n)?);
    let s = if op.scaled() { a.f32()? } else { 0.0 };
    let (n, repeats) = (a.u64()? as usize, a.u32()?);
    a.end()?;
    let simd = simd();
    pool.split(n, GRAIN, &|_, range| {
        // SAFETY: the pointers were checked to hold n floats, and each thread has a range of its own.
        let (x, y, z) = unsafe {
            let input = |p: Shared<f32>, wanted| if wanted { p.slice(range.clone()) } else { &[][..] };
            (input(x, op.inputs() > 0), input(y, op.inputs() > 1), z.slice_mut(range.clone()))
        };
        for _ in 0..repeats {
            stream(op, non_temporal, simd, black_box(x), black_box(y), black_box(&mut *z), s);
        }
    });
    Ok(())
}

fn stream(op: Op, non_temporal: bool, simd: Simd, x: &[f32], y: &[f32], z: &mut [f32], s: f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: each branch is taken only where the CPU has the feature.
    unsafe {
        match (simd, non_temporal) {
            (Simd::Avx512, true) => return x86::stream_nt_avx512(op, x, y, z, s),
            (Simd::Avx2, true) => return x86::stream_nt_avx2(op, x, y, z, s),
            (Simd::Avx512, false) => return x86::stream_avx512(op, x, y, z, s),
            (Simd::Avx2, false) => return x86::stream_avx2(op, x, y, z, s),
            _ => {}
        }
    }
    let _ = (simd, non_temporal);
    temporal(op, x, y, z, s);
}

/// The plain loops; inlined into functions compiled for wider SIMD.
#[inline(always)]
fn temporal(op: Op, x: &[f32], y: &[f32], z: &mut [f32], s: f32) {
    match op {
        Op::Write => z.fill(s),
        Op::Copy => z.copy_from_slice(x),
        Op::Scale => z.iter_mut().zip(x).for_each(|(z, x)| *z = s * x),
        Op::Add => z.iter_mut().zip(x.iter().zip(y)).for_each(|(z, (x, y))| *z = x + y),
        Op::Triad => z.iter_mut().zip(x.iter().zip(y)).for_each(|(z, (x, y))| *z = x + s * y),
    }
}

/// `(x, out, n, repeats)` or `(x, y, out, n, repeats)`: out holds one partial sum for each thread, in f64 so that the
/// check can be tight; each thread's is that of its last pass.
fn fold(pool: &Pool, args: &[Arg<'_>], entry: &'static str, inputs: usize) -> Result<()> {
    let mut a = Args::of(entry, args);
    let n = a.peek_u64(inputs + 1)?;
    let x = Shared::new(a.input::<f32>(n)?);
    let y = if inputs > 1 { Shared::new(a.input::<f32>(n)?) } else { x };
    let out = Shared::new(a.pointer::<f64>(pool.threads() as u64)?);
    let (n, repeats) = (a.u64()? as usize, a.u32()?);
    a.end()?;
    let simd = simd();
    pool.split(n, GRAIN, &|thread, range| {
        // SAFETY: the pointers were checked to hold n floats and a sum for each thread; inputs are only read.
        let (x, y, out) = unsafe { (x.slice(range.clone()), y.slice(range), out.slice_mut(thread..thread + 1)) };
        for _ in 0..repeats {
            out[0] = black_box(sum(simd, black_box(x), black_box(y), inputs > 1));
        }
    });
    Ok(())
}

fn sum(simd: Simd, x: &[f32], y: &[f32], product: bool) -> f64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: each branch is taken only where the CPU has the feature.
    unsafe {
        match simd {
            Simd::Avx512 => return x86::sum_avx512(x, y, product),
            Simd::Avx2 => return x86::sum_avx2(x, y, product),
            Simd::Baseline => {}
        }
    }
    let _ = simd;
    plain_sum(x, y, product)
}

/// Independent sums of a reduction.
const LANES: usize = 128;

/// Independent sums, enough to hide the latency of an addition; each block is added up in f64.
#[inline(always)]
fn plain_sum(x: &[f32], y: &[f32], product: bool) -> f64 {
    const BLOCK: usize = 64 * LANES;
    let mut total = 0.0;
    for (x, y) in x.chunks(BLOCK).zip(y.chunks(BLOCK)) {
        let mut acc = [0f32; LANES];
        let (xs, ys) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
        let tail: f64 = if product {
            xs.remainder().iter().zip(ys.remainder()).map(|(x, y)| f64::from(x * y)).sum()
        } else {
            xs.remainder().iter().map(|x| f64::from(*x)).sum()
        };
        if product {
            xs.zip(ys).for_each(|(x, y)| (0..LANES).for_each(|i| acc[i] += x[i] * y[i]));
        } else {
            xs.for_each(|x| (0..LANES).for_each(|i| acc[i] += x[i]));
        }
        total += tail + lanes(acc);
    }
    total
}

/// The sum of all lanes, as a tree: added up one by one it would take as long as reading a first-level cache. In f32, whose
/// rounding here is far below that of the sums in the lanes.
#[inline(always)]
fn lanes(mut acc: [f32; LANES]) -> f64 {
    for width in [64, 32, 16, 8, 4, 2, 1] {
        let (low, high) = acc.split_at_mut(width);
        low.iter_mut().zip(high).for_each(|(a, b)| *a += *b);
    }
    f64::from(acc[0])
}

/// `(ring, out, elements, start, steps)`: follows addresses from `start` for `steps` dependent loads on one thread and stores
/// the last. The ring's u64 elements are addresses within it, since an index would cost a cycle more a step to turn into one; a
/// chase that is led out of the ring ends there, and its result is wrong.
fn chase(_pool: &Pool, args: &[Arg<'_>]) -> Result<()> {
    let mut a = Args::of("rp_chase", args);
    let elements = a.peek_u64(2)?;
    let ring = a.input::<u64>(elements)?.expose_provenance() as u64;
    let out = Shared::new(a.pointer::<u64>(1)?);
    let (_, start, steps) = (a.u64()?, a.u64()?, a.u64()?);
    a.end()?;
    let mut at = start;
    for _ in 0..steps {
        // One comparison for both: an address that is not a multiple of 8 from the start rotates to a huge number. The branch is
        // predicted, so that the load does not wait for it.
        if at.wrapping_sub(ring).rotate_right(3) >= elements {
            break;
        }
        // SAFETY: the address was just found to be one of the `elements` u64s of the ring, which nothing writes meanwhile.
        at = unsafe { *std::ptr::with_exposed_provenance::<u64>(at as usize) };
    }
    // SAFETY: the pointer was checked to hold an element that is no part of the ring.
    let out = unsafe { out.slice_mut(0..1) };
    out[0] = black_box(at);
    Ok(())
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Op, plain_sum, temporal};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
    pub(super) fn stream_avx512(op: Op, x: &[f32], y: &[f32], z: &mut [f32], s: f32) {
        temporal(op, x, y, z, s);
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn stream_avx2(op: Op, x: &[f32], y: &[f32], z: &mut [f32], s: f32) {
        temporal(op, x, y, z, s);
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
    pub(super) fn sum_avx512(x: &[f32], y: &[f32], product: bool) -> f64 {
        plain_sum(x, y, product)
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn sum_avx2(x: &[f32], y: &[f32], product: bool) -> f64 {
        plain_sum(x, y, product)
    }

    /// Defines a stream whose stores go around the caches, four vectors at a time. What is not a whole, aligned group at
    /// either end is stored the ordinary way.
    macro_rules! non_temporal {
        ($name:ident, $feature:literal, $lanes:literal, $load:ident, $stream:ident, $set:ident, $add:ident, $mul:ident) => {
            #[target_feature(enable = $feature)]
            pub(super) fn $name(op: Op, x: &[f32], y: &[f32], z: &mut [f32], s: f32) {
                const GROUP: usize = 4 * $lanes;
                let head = z.as_ptr().align_offset($lanes * 4).min(z.len());
                let body = (z.len() - head) / GROUP * GROUP;
                let (first, last) = (head, head + body);
                let part = |v: &'_ [f32], from: usize, to: usize| -> std::ops::Range<usize> {
                    if v.is_empty() { 0..0 } else { from..to }
                };
                temporal(op, &x[part(x, 0, first)], &y[part(y, 0, first)], &mut z[..first], s);
                let scale = $set(s);
                for i in (first..last).step_by(GROUP) {
                    for j in (i..i + GROUP).step_by($lanes) {
                        // SAFETY: j + lanes ≤ len of z and of every operand that the op has, and z + j is aligned.
                        unsafe {
                            let value = match op {
                                Op::Write => scale,
                                Op::Copy => $load(x.as_ptr().add(j)),
                                Op::Scale => $mul(scale, $load(x.as_ptr().add(j))),
                                Op::Add => $add($load(x.as_ptr().add(j)), $load(y.as_ptr().add(j))),
                                Op::Triad => $add($load(x.as_ptr().add(j)), $mul(scale, $load(y.as_ptr().add(j)))),
                            };
                            $stream(z.as_mut_ptr().add(j), value);
                        }
                    }
                }
                _mm_sfence();
                let end = z.len();
                temporal(op, &x[part(x, last, end)], &y[part(y, last, end)], &mut z[last..], s);
            }
        };
    }

    non_temporal!(
        stream_nt_avx512,
        "avx512f,avx2,fma",
        16,
        _mm512_loadu_ps,
        _mm512_stream_ps,
        _mm512_set1_ps,
        _mm512_add_ps,
        _mm512_mul_ps
    );
    non_temporal!(stream_nt_avx2, "avx2,fma", 8, _mm256_loadu_ps, _mm256_stream_ps, _mm256_set1_ps, _mm256_add_ps, _mm256_mul_ps);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_and_store_computes_the_same_at_any_alignment() {
        let widths = [Simd::Baseline, Simd::Avx2, Simd::Avx512];
        for simd in widths.into_iter().filter(|w| *w <= simd()) {
            for n in [0, 1, 31, 64, 1000] {
                for shift in 0..3 {
                    let x: Vec<f32> = (0..n).map(|i| i as f32 * 0.37 - 5.0).collect();
                    let y: Vec<f32> = (0..n).map(|i| 3.0 - i as f32 * 0.11).collect();
                    for op in [Op::Write, Op::Copy, Op::Scale, Op::Add, Op::Triad] {
                        let mut expected = vec![0.0; n];
                        temporal(op, &x, &y, &mut expected, 1.5);
                        for non_temporal in [false, true] {
                            let mut z = vec![f32::NAN; n + shift];
                            stream(op, non_temporal, simd, &x, &y, &mut z[shift..], 1.5);
                            assert_eq!(z[shift..], expected, "{simd:?} n {n} shift {shift}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn sums_agree_with_f64() {
        let x: Vec<f32> = (0..100_003).map(|i| ridgepoint_core::data::normal(1, i)).collect();
        let y: Vec<f32> = (0..100_003).map(|i| ridgepoint_core::data::normal(2, i)).collect();
        let read: f64 = x.iter().map(|v| f64::from(*v)).sum();
        let dot: f64 = x.iter().zip(&y).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        for simd in [Simd::Baseline, Simd::Avx2, Simd::Avx512].into_iter().filter(|w| *w <= simd()) {
            assert!((sum(simd, &x, &y, false) - read).abs() < 1e-2);
            assert!((sum(simd, &x, &y, true) - dot).abs() < 1e-2);
        }
    }
    #[test]
    fn a_chase_stays_in_its_ring() {
        let pool = Pool::new(&[]);
        let account = std::sync::Arc::default();
        let (ring, out) = (crate::cpu::allocate(&pool, &account, 64).unwrap(), crate::cpu::allocate(&pool, &account, 8).unwrap());
        let end_of = |elements: [u64; 8], start: u64, steps: u64| {
            let bytes: Vec<u8> = elements.iter().flat_map(|e| e.to_le_bytes()).collect();
            crate::cpu::write(&ring, 0, &bytes).unwrap();
            let args = [Arg::Buffer(&ring, 0), Arg::Buffer(&out, 0), Arg::U64(8), Arg::U64(start), Arg::U64(steps)];
            chase(&pool, &args).unwrap();
            let mut end = [0; 8];
            crate::cpu::read(&out, 0, &mut end).unwrap();
            u64::from_le_bytes(end)
        };
        let at = |i: u64| ring.address() + 8 * i;
        let cycle = [3, 0, 1, 7, 2, 4, 5, 6].map(at);
        assert_eq!(end_of(cycle, at(0), 3), at(6));
        assert_eq!(end_of(cycle, at(5), 0), at(5));
        // A null, an address just past the end, one before it, and one between two elements end the chase.
        for stray in [0, at(8), ring.address() - 8, at(3) + 4, u64::MAX] {
            let mut broken = cycle;
            broken[7] = stray;
            assert_eq!(end_of(broken, at(0), 100), stray);
        }
    }
}
