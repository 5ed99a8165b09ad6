//! The operands of one pass, found to be what the problem says before anything is read by an index that stands in them.

use crate::cpu::kernels::Shared;
use crate::cpu::range;
use crate::{AttentionOperands, AttentionProblem, Buffer, DeviceError, Result};

/// Operands that may be read and written as a problem says.
pub(super) struct Given {
    pub(super) q: Shared<u8>,
    pub(super) k: Shared<u8>,
    pub(super) v: Shared<u8>,
    pub(super) o: Shared<u8>,
    /// Keys of each sequence; empty where all have `sk`.
    lengths: Vec<usize>,
    /// Pages of each sequence; empty where there are none.
    table: Vec<usize>,
    /// A logit a query head, times log₂e; empty where there are none.
    sinks: Vec<f32>,
    /// The softmax's scale times log₂e and what stored values of Q and K are multiplied by: logits are kept times log₂e.
    pub(super) scale: f32,
    /// What stored values of V are multiplied by.
    pub(super) value: f32,
}

impl Given {
    /// # Errors
    /// `Invalid` where an operand is missing, too short, overlaps the output, or names what there is not.
    pub(super) fn new(p: &AttentionProblem, operands: &AttentionOperands<'_>) -> Result<Self> {
        let [q, k, v, o] = tensors(p, operands)?;
        let lengths = numbers(p.ragged, operands.lengths, p.batch, "lengths")?;
        let lengths: Vec<usize> =
            lengths.into_iter().map(i32::from_le_bytes).map(|l| usize::try_from(l).unwrap_or(usize::MAX)).collect();
        if let Some(length) = lengths.iter().find(|l| **l > p.sk) {
            return Err(DeviceError::invalid(format!("a sequence of {} keys has a length of {}", p.sk, *length as isize)));
        }
        let sinks = numbers(p.sinks, operands.sinks, p.hq, "sinks")?;
        let sinks = sinks.into_iter().map(|x| (f32::from_le_bytes(x) * std::f32::consts::LOG2_E).max(f32::MIN)).collect();
        let scales = numbers(fp8(p), operands.scales, 3, "FP8 scales")?;
        let scales: Vec<f32> = scales.into_iter().map(f32::from_le_bytes).collect();
        let &[sq, sk, sv] = scales.first_chunk().unwrap_or(&[1.0; 3]);
        if !(sq * sk > 0.0 && (sq * sk).is_finite()) {
            return Err(DeviceError::invalid(format!("FP8 scales of {sq} for Q and {sk} for K are none")));
        }
        let scale = std::f32::consts::LOG2_E * p.softmax_scale() as f32 * sq * sk;
        let mut given = Self { q, k, v, o, lengths, table: Vec::new(), sinks, scale, value: if p.shared_kv { sk } else { sv } };
        if let Some(pages) = p.paged {
            let width = p.sk.div_ceil(pages.tokens);
            let table = numbers(true, operands.pages, p.batch * width, "a page table")?.into_iter().map(i32::from_le_bytes);
            given.table = table.map(|page| usize::try_from(page).unwrap_or(usize::MAX)).collect();
            for b in 0..p.batch {
                // What stands behind the last key is never read.
                let own = &given.table[b * width..][..given.length(p, b).div_ceil(pages.tokens)];
                if let Some(page) = own.iter().find(|page| **page >= pages.pool) {
                    let page = *page as isize;
                    return Err(DeviceError::invalid(format!("the page table names page {page} of {}", pages.pool)));
                }
            }
        }
        Ok(given)
    }

    /// Keys of sequence `b`.
    pub(super) fn length(&self, p: &AttentionProblem, b: usize) -> usize {
        self.lengths.get(b).copied().unwrap_or(p.sk)
    }

    /// The first and the last key that query `i` of sequence `b` sees; the last is before the first where it sees none.
    pub(super) fn span(&self, p: &AttentionProblem, b: usize, i: usize) -> (isize, isize) {
        let length = self.length(p, b) as isize;
        let last = if p.causal { i as isize + length - p.sq as isize } else { length - 1 };
        (p.window.map_or(0, |w| (last + 1).saturating_sub_unsigned(w).max(0)), last)
    }

    /// Which row of K or V holds key `j` of key head `head` of all sequences'.
    pub(super) fn row(&self, p: &AttentionProblem, head: usize, j: usize) -> usize {
        match p.paged {
            None => head * p.sk + j,
            Some(pages) => {
                let page = self.table[head / p.hkv * p.sk.div_ceil(pages.tokens) + j / pages.tokens];
                (page * p.hkv + head % p.hkv) * pages.tokens + j % pages.tokens
            }
        }
    }

    /// The logit that a query head of all sequences' has besides its keys', times log₂e; the least finite number where none.
    pub(super) fn sink(&self, p: &AttentionProblem, query_head: usize) -> Option<f32> {
        self.sinks.get(query_head % p.hq).copied()
    }
}

fn fp8(p: &AttentionProblem) -> bool {
    p.dtype.bits() == 8 || p.kv.bits() == 8
}

/// A small array that a problem asks for; empty where it does not.
fn numbers(asked: bool, buffer: Option<&Buffer>, n: usize, what: &str) -> Result<Vec<[u8; 4]>> {
    if !asked {
        return Ok(Vec::new());
    }
    let buffer = buffer.ok_or_else(|| DeviceError::invalid(format!("this attention needs {what}")))?;
    let from = Shared::new(range(buffer, 0, 4 * n)?);
    // SAFETY: the range was checked, and nothing writes it now.
    let bytes = unsafe { from.slice(0..4 * n) };
    Ok(bytes.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]).collect())
}

/// Rows of K and V's buffers.
pub(super) fn rows(p: &AttentionProblem) -> Option<usize> {
    match p.paged {
        None => p.batch.checked_mul(p.hkv)?.checked_mul(p.sk),
        Some(pages) => pages.pool.checked_mul(p.hkv)?.checked_mul(pages.tokens),
    }
}

/// Q, K, V and O, found long enough and O apart from the others.
fn tensors(p: &AttentionProblem, operands: &AttentionOperands<'_>) -> Result<[Shared<u8>; 4]> {
    let AttentionOperands { q, k, v, o, .. } = *operands;
    let (queries, keys) = (p.batch * p.hq * p.sq, rows(p).unwrap_or(usize::MAX / 4096));
    let (v, columns) = if p.shared_kv { (k, p.dqk) } else { (v, p.dv) };
    let needed = [(p.dtype, queries * p.dqk), (p.kv, keys * p.dqk), (p.kv, keys * columns), (p.output, queries * p.dv)];
    let needed = needed.map(|(dtype, elements)| dtype.bytes(elements as u64).0 as usize);
    let mut found = [std::ptr::null_mut(); 4];
    for ((buffer, len), at) in [q, k, v, o].into_iter().zip(needed).zip(&mut found) {
        *at = range(buffer, 0, len)?;
    }
    let [.., result] = found;
    if found[..3].iter().zip(needed).any(|(x, len)| x.addr() < result.addr() + needed[3] && result.addr() < x.addr() + len) {
        return Err(DeviceError::invalid("the output of attention overlaps one of its operands"));
    }
    Ok(found.map(Shared::new))
}
