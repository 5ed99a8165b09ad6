//! Words of two arrays that differ, as kernels/common/differ.cu counts them.

use super::{Args, NativeFn, Shared};
use crate::cpu::pool::Pool;
use crate::{Arg, Result};
use std::sync::atomic::{AtomicU32, Ordering};

/// Entry names and kernels.
pub(crate) const KERNELS: &[(&str, NativeFn)] = &[("rp_differ", differ)];

/// Two cache lines.
const GRAIN: usize = 32;

/// `(x, y, count, words)`: adds to a u32 how many words of x are not those of y.
fn differ(pool: &Pool, args: &[Arg<'_>]) -> Result<()> {
    let mut a = Args::of("rp_differ", args);
    let n = a.peek_u64(3)?;
    let (x, y) = (Shared::new(a.input::<u32>(n)?), Shared::new(a.input::<u32>(n)?));
    let count = Shared::new(a.pointer::<u32>(1)?);
    let n = a.u64()? as usize;
    a.end()?;
    let total = AtomicU32::new(0);
    pool.split(n, GRAIN, &|_, range| {
        // SAFETY: both were checked to hold n words, and nobody writes them meanwhile.
        let (x, y) = unsafe { (x.slice(range.clone()), y.slice(range)) };
        let differ: u32 = x.iter().zip(y).map(|(x, y)| u32::from(x != y)).sum();
        total.fetch_add(differ, Ordering::Relaxed);
    });
    // SAFETY: the buffer was checked to hold a word, and the threads are done.
    let count = unsafe { count.slice_mut(0..1) };
    count[0] = count[0].wrapping_add(total.into_inner());
    Ok(())
}
