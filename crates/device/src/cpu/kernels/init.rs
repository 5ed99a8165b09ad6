//! Fills buffers from the counter-based streams of `ridgepoint_core::data`, in each dtype, on all threads.

use super::{Args, NativeFn, Shared};
use crate::cpu::pool::Pool;
use crate::{Arg, Result};
use ridgepoint_core::minifloat::bf16_bits;
use ridgepoint_core::{Dtype, data};

/// Entry names and kernels, `(z, seed, n)`.
pub(crate) const KERNELS: &[(&str, NativeFn)] = &[
    ("rp_init_f32", |p, a| fill::<f32>(p, a, "rp_init_f32", |x| x)),
    ("rp_init_f16", |p, a| fill::<u16>(p, a, "rp_init_f16", |x| encode(Dtype::F16, x) as u16)),
    ("rp_init_bf16", |p, a| fill::<u16>(p, a, "rp_init_bf16", bf16_bits)),
    ("rp_init_e4m3", |p, a| fill::<u8>(p, a, "rp_init_e4m3", |x| encode(Dtype::E4m3, x) as u8)),
    ("rp_init_e5m2", |p, a| fill::<u8>(p, a, "rp_init_e5m2", |x| encode(Dtype::E5m2, x) as u8)),
    ("rp_init_i8", |p, a| fill::<i8>(p, a, "rp_init_i8", |x| (x * data::I8_SCALE).round_ties_even() as i8)),
];

fn fill<T: Send>(pool: &Pool, args: &[Arg<'_>], entry: &'static str, convert: fn(f32) -> T) -> Result<()> {
    let mut a = Args::of(entry, args);
    let n = a.peek_u64(2)?;
    let z = Shared::new(a.pointer::<T>(n)?);
    let (seed, n) = (a.u64()?, a.u64()? as usize);
    a.end()?;
    pool.split(n, 4096, &|_, range| {
        // SAFETY: the pointer was checked to hold n elements, and each thread has a range of its own.
        let z = unsafe { z.slice_mut(range.clone()) };
        for (i, z) in range.zip(z) {
            *z = convert(data::normal(seed, i as u64));
        }
    });
    Ok(())
}

fn encode(dtype: Dtype, x: f32) -> u32 {
    use ridgepoint_core::minifloat::Overflow;
    dtype.format().map_or(0, |format| format.encode(f64::from(x), Overflow::Saturate))
}
