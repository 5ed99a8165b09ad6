//! A kernel that writes down what it was given, so that a test sees each argument as the kernel did.

use super::{Args, NativeFn, Shared};
use crate::cpu::pool::Pool;
use crate::{Arg, Result};

/// Entry names and kernels.
pub(crate) const KERNELS: &[(&str, NativeFn)] = &[("rp_arguments", arguments)];

/// `(out, u32, i32, u64, f32)`: out holds the four values in that order, as eight 32-bit words in the device's byte order:
/// u32, i32, u64 low and high, f32, and three words 0.
fn arguments(_pool: &Pool, args: &[Arg<'_>]) -> Result<()> {
    let mut a = Args::of("rp_arguments", args);
    let out = Shared::new(a.pointer::<u32>(8)?);
    let (u, i, wide, f) = (a.u32()?, a.i32()?, a.u64()?, a.f32()?);
    a.end()?;
    // SAFETY: the buffer was checked to hold eight words, and no other thread runs.
    let out = unsafe { out.slice_mut(0..8) };
    out.copy_from_slice(&[u, i as u32, wide as u32, (wide >> 32) as u32, f.to_bits(), 0, 0, 0]);
    Ok(())
}
