//! The least that a kernel can do and still be seen to have run: what is timed is the parallel region around it.

use super::{Args, NativeFn, Shared};
use crate::cpu::pool::Pool;
use crate::{Arg, Result};

/// Entry names and kernels.
pub(crate) const KERNELS: &[(&str, NativeFn)] = &[("rp_count", count)];

/// `(count)`: adds one to a u32, once, with every thread of the pool taking part.
fn count(pool: &Pool, args: &[Arg<'_>]) -> Result<()> {
    let mut a = Args::of("rp_count", args);
    let count = Shared::new(a.pointer::<u32>(1)?);
    a.end()?;
    pool.run(&|thread, _| {
        if thread == 0 {
            // SAFETY: the buffer was checked to hold a word, which this thread alone touches.
            let count = unsafe { count.slice_mut(0..1) };
            count[0] = count[0].wrapping_add(1);
        }
    });
    Ok(())
}
