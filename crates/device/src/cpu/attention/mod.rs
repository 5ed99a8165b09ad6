//! Attention on the CPU, two ways: `flash`, which never writes the scores to memory, and `materialised`, two products of the
//! built-in GEMM with a softmax between them, which is what flash attention is measured against.

mod engine;
mod flash;
mod materialised;
mod narrow;
mod rearrange;
mod shape;
mod softmax;
mod unit;
mod wide;

use super::range;
use crate::{AttentionOperands, AttentionProblem, DeviceError, Result};
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
    let extras = p.extras().join(", ");
    if !extras.is_empty() {
        return Err(DeviceError::unsupported(format!("attention on the CPU does not do {extras}")));
    }
    if !matches!(p.dtype, Dtype::F32 | Dtype::Bf16) {
        return Err(DeviceError::unsupported(format!("attention on the CPU takes f32 and bf16, not {}", p.dtype)));
    }
    let fits =
        |factors: &[usize]| factors.iter().try_fold(4usize, |n, x| n.checked_mul(*x)).is_some_and(|n| n < isize::MAX as usize);
    let d = p.dqk.max(p.dv);
    if !fits(&[p.batch, p.hq, p.sq, d]) || !fits(&[p.batch, p.hkv, p.sk, d]) {
        return Err(DeviceError::invalid("the operands of this attention have more bytes than there are addresses"));
    }
    Ok(())
}

/// Addresses of Q, K, V and O, found long enough and O apart from the others.
fn operands(p: &AttentionProblem, given: &AttentionOperands<'_>) -> Result<[*mut u8; 4]> {
    let AttentionOperands { q, k, v, o, .. } = *given;
    let bytes = |elements: usize| p.dtype.bytes(elements as u64).0 as usize;
    let (queries, keys) = (p.batch * p.hq * p.sq, p.batch * p.hkv * p.sk);
    let needed = [bytes(queries * p.dqk), bytes(keys * p.dqk), bytes(keys * p.dv), bytes(queries * p.dv)];
    let v = if p.shared_kv { k } else { v };
    let needed = if p.shared_kv { [needed[0], needed[1], needed[1], needed[3]] } else { needed };
    let mut found = [std::ptr::null_mut(); 4];
    for ((buffer, len), at) in [q, k, v, o].into_iter().zip(needed).zip(&mut found) {
        *at = range(buffer, 0, len)?;
    }
    let [.., result] = found;
    if found[..3].iter().zip(needed).any(|(x, len)| x.addr() < result.addr() + needed[3] && result.addr() < x.addr() + len) {
        return Err(DeviceError::invalid("the output of attention overlaps one of its operands"));
    }
    Ok(found)
}

/// log₂e / √d: logits are kept times log₂e.
fn scale(p: &AttentionProblem) -> f32 {
    std::f32::consts::LOG2_E / (p.dqk as f32).sqrt()
}

fn from_bf16(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}

#[cfg(test)]
mod tests;
