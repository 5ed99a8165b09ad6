//! The access patterns of kernels/memory/gather.cu on the host's threads: pages or rows by a table, and floats a stride apart.

use super::{Args, NativeFn, Shared};
use crate::cpu::pool::Pool;
use crate::{Arg, Result};
use std::hint::black_box;

/// Entry names and kernels.
pub(crate) const KERNELS: &[(&str, NativeFn)] =
    &[("rp_gather_pages", gather), ("rp_gather_rows", gather), ("rp_read_strided", strided)];

/// `(src, table, dst, rows, row_bytes)`: row `i` of `dst` becomes row `table[i]` of `src`, which has as many. A row that the table
/// has not got right is left as it was.
fn gather(pool: &Pool, args: &[Arg<'_>]) -> Result<()> {
    let mut a = Args::of("rp_gather", args);
    let rows = a.peek_u64(3)?;
    let bytes = match args.get(4) {
        Some(Arg::U32(bytes)) => u64::from(*bytes),
        _ => 0,
    };
    // Too many is refused by the buffers' lengths.
    let whole = rows.saturating_mul(bytes);
    let src = Shared::new(a.input::<u8>(whole)?);
    let table = Shared::new(a.input::<u32>(rows)?);
    let dst = Shared::new(a.pointer::<u8>(whole)?);
    let (rows, bytes) = (a.u64()? as usize, a.u32()? as usize);
    a.end()?;
    pool.split(rows, 1, &|_, range| {
        // SAFETY: the pointers were checked to hold so many rows; each thread writes rows of its own.
        let (src, table, dst) = unsafe {
            (src.slice(0..rows * bytes), table.slice(range.clone()), dst.slice_mut(range.start * bytes..range.end * bytes))
        };
        for (to, row) in dst.chunks_exact_mut(bytes.max(1)).zip(table) {
            if let Some(from) = (*row as usize).checked_mul(bytes).and_then(|at| src.get(at..at + bytes)) {
                to.copy_from_slice(from);
            }
        }
    });
    Ok(())
}

/// `(x, out, count, stride)`: out[thread] = sum of the bits of x[i·stride] for the thread's part of `i < count`, modulo 2³².
fn strided(pool: &Pool, args: &[Arg<'_>]) -> Result<()> {
    let mut a = Args::of("rp_read_strided", args);
    let (count, stride) = (a.peek_u64(2)?, a.peek_u64(3)?.max(1));
    let x = Shared::new(a.input::<f32>(count.saturating_mul(stride))?);
    let out = Shared::new(a.pointer::<u32>(pool.threads() as u64)?);
    let (count, stride) = (a.u64()? as usize, a.u64()?.max(1) as usize);
    a.end()?;
    pool.split(count, 1, &|thread, range| {
        // SAFETY: the pointers were checked to hold count · stride floats and a sum for each thread; x is only read.
        let (x, out) = unsafe { (x.slice(range.start * stride..range.end * stride), out.slice_mut(thread..thread + 1)) };
        let sum = x.iter().step_by(stride).fold(0u32, |sum, v| sum.wrapping_add(v.to_bits()));
        out[0] = black_box(sum);
    });
    Ok(())
}
