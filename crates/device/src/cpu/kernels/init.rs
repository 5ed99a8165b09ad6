//! Fills buffers from the counter-based streams of `ridgepoint_core::data`, in each dtype, on all threads.

use super::{Args, NativeFn, Shared};
use crate::cpu::pool::Pool;
use crate::{Arg, Result};
use ridgepoint_core::minifloat::bf16_bits;
use ridgepoint_core::{Distribution, Dtype, data};

/// Entry names and kernels, `(z, seed, n)`, for normally distributed values.
pub(crate) const KERNELS: &[(&str, NativeFn)] = &kernels::<0>();

/// The kernel with this entry name for the distribution that the GPUs' macro RP_DATA names.
pub(crate) fn find(entry: &str, data: &str) -> Option<NativeFn> {
    let kernels = [kernels::<0>(), kernels::<1>(), kernels::<2>(), kernels::<3>(), kernels::<4>()];
    let all = kernels.get(data.parse::<usize>().ok()?)?;
    all.iter().find(|(name, _)| *name == entry).map(|(_, kernel)| *kernel)
}

const fn kernels<const DATA: usize>() -> [(&'static str, NativeFn); 11] {
    [
        ("rp_init_f64", |p, a| fill::<f64, DATA>(p, a, "rp_init_f64", f64::from)),
        ("rp_init_f32", |p, a| fill::<f32, DATA>(p, a, "rp_init_f32", |x| x)),
        ("rp_init_f16", |p, a| fill::<u16, DATA>(p, a, "rp_init_f16", |x| encode(Dtype::F16, x) as u16)),
        ("rp_init_bf16", |p, a| fill::<u16, DATA>(p, a, "rp_init_bf16", bf16_bits)),
        ("rp_init_e4m3", |p, a| fill::<u8, DATA>(p, a, "rp_init_e4m3", |x| encode(Dtype::E4m3, x) as u8)),
        ("rp_init_e5m2", |p, a| fill::<u8, DATA>(p, a, "rp_init_e5m2", |x| encode(Dtype::E5m2, x) as u8)),
        ("rp_init_i8", |p, a| fill::<i8, DATA>(p, a, "rp_init_i8", |x| (x * data::I8_SCALE).round_ties_even() as i8)),
        ("rp_init_e2m1", |p, a| stream(p, a, "rp_init_e2m1", 2, e2m1::<DATA>)),
        ("rp_init_scale_f32", |p, a| stream(p, a, "rp_init_scale_f32", 1, |seed, i, _| data::scale_f32(seed, i))),
        ("rp_init_scale_e8m0", |p, a| stream(p, a, "rp_init_scale_e8m0", 1, |seed, i, _| data::scale_e8m0(seed, i))),
        ("rp_init_scale_e4m3", |p, a| stream(p, a, "rp_init_scale_e4m3", 1, |seed, i, _| data::scale_e4m3(seed, i))),
    ]
}

fn fill<T: Send, const DATA: usize>(pool: &Pool, args: &[Arg<'_>], entry: &'static str, convert: fn(f32) -> T) -> Result<()> {
    stream(pool, args, entry, 1, |seed, i, _| convert(data::value(Distribution::GENERATED[DATA], seed, i)))
}

/// Element `i` of `n` / `each`, by `make(seed, i, n)`.
fn stream<T: Send>(
    pool: &Pool,
    args: &[Arg<'_>],
    entry: &'static str,
    each: u64,
    make: impl Fn(u64, u64, u64) -> T + Sync,
) -> Result<()> {
    let mut a = Args::of(entry, args);
    let elements = a.peek_u64(2)?.div_ceil(each);
    let z = Shared::new(a.pointer::<T>(elements)?);
    let (seed, n) = (a.u64()?, a.u64()?);
    a.end()?;
    pool.split(elements as usize, 4096, &|_, range| {
        // SAFETY: the pointer was checked to hold the elements, and each thread has a range of its own.
        let z = unsafe { z.slice_mut(range.clone()) };
        for (i, z) in range.zip(z) {
            *z = make(seed, i as u64, n);
        }
    });
    Ok(())
}

/// Two elements a byte, the first in the lower four bits.
fn e2m1<const DATA: usize>(seed: u64, i: u64, n: u64) -> u8 {
    let value = |i: u64| data::value(Distribution::GENERATED[DATA], seed, i) * data::E2M1_SCALE;
    let pattern = |i: u64| if i < n { encode(Dtype::E2m1, value(i)) as u8 } else { 0 };
    pattern(2 * i) | pattern(2 * i + 1) << 4
}

fn encode(dtype: Dtype, x: f32) -> u32 {
    use ridgepoint_core::minifloat::Overflow;
    dtype.format().map_or(0, |format| format.encode(f64::from(x), Overflow::Saturate))
}
