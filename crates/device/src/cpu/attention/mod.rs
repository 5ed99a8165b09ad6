//! Attention on the CPU, two ways: `flash`, which never writes the scores to memory, and `materialised`, two products of the
//! built-in GEMM with a softmax between them, which is what flash attention is measured against.

mod convert;
mod engine;
mod flash;
mod given;
mod materialised;
mod narrow;
mod rearrange;
mod shape;
mod softmax;
mod tiles;
mod unit;
mod wide;

use crate::{AttentionProblem, DeviceError, Result};
pub(super) use flash::Flash;
pub(super) use materialised::Materialised;
use ridgepoint_core::Dtype;

/// Refuses what neither form can do.
fn check(p: &AttentionProblem) -> Result<()> {
    let sizes = [p.batch, p.hq, p.hkv, p.sq, p.sk, p.dqk, p.dv];
    if sizes.contains(&0) || !p.hq.is_multiple_of(p.hkv) {
        return Err(DeviceError::invalid("attention needs sizes above 0, and query heads in whole groups for each key head"));
    }
    if p.shared_kv && p.dv > p.dqk {
        return Err(DeviceError::invalid("values that are the first columns of the keys cannot have more columns than those"));
    }
    if p.window.is_some_and(|w| w == 0 || !p.causal) {
        return Err(DeviceError::invalid("a window needs a causal mask, and at least one key"));
    }
    if p.paged.is_some_and(|pages| pages.tokens == 0 || pages.pool == 0) {
        return Err(DeviceError::invalid("a pool needs pages, and pages need keys"));
    }
    let floats = [Dtype::F32, Dtype::F16, Dtype::Bf16];
    let inputs = |dtype: Dtype| floats.contains(&dtype) || dtype == Dtype::E4m3;
    if !inputs(p.dtype) || !inputs(p.kv) || !floats.contains(&p.output) {
        let (q, kv, o) = (p.dtype, p.kv, p.output);
        return Err(DeviceError::unsupported(format!(
            "attention on the CPU reads f32, f16, bf16 and e4m3 and writes the first three, not {q} with {kv} to {o}"
        )));
    }
    let fits =
        |factors: &[usize]| factors.iter().try_fold(4usize, |n, x| n.checked_mul(*x)).is_some_and(|n| n < isize::MAX as usize);
    let d = p.dqk.max(p.dv);
    let keys = given::rows(p).is_some_and(|rows| fits(&[rows, d])) && fits(&[p.batch, p.sk, d]);
    if !keys || !fits(&[p.batch, p.hq, p.sq, d]) {
        return Err(DeviceError::invalid("the operands of this attention have more bytes than there are addresses"));
    }
    Ok(())
}

/// What products are done in: bf16 where all is bf16, else f32, to which the rest is widened.
fn work(p: &AttentionProblem) -> Dtype {
    if [p.dtype, p.kv, p.output] == [Dtype::Bf16; 3] { Dtype::Bf16 } else { Dtype::F32 }
}

fn from_bf16(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}

#[cfg(test)]
mod tests;
