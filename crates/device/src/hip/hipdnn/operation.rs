//! An attention as hipDNN is told of it: one operation, whose masks are bounds beside a diagonal and not a graph of their own.

use super::numbers::{BOTTOM_RIGHT, attribute, class, element, kind};
use crate::gpu::dnn::{self, Builder, Descriptor, Dnn, Outcome, Source, Tensors};
use crate::gpu::sys::Handle;
use crate::{AttentionProblem, DeviceError};
use ridgepoint_core::Dtype;
use std::sync::Arc;

/// hipDNN's numbers of the types of Q, of K and V, and of O.
///
/// # Errors
/// `Unsupported` for a type that it has no number for.
pub(super) fn types(p: &AttentionProblem) -> Result<[i32; 3], DeviceError> {
    let number = |dtype: Dtype| match dtype {
        Dtype::F32 => Ok(element::F32),
        Dtype::F16 => Ok(element::F16),
        Dtype::Bf16 => Ok(element::BF16),
        Dtype::E4m3 => Ok(element::E4M3),
        Dtype::E5m2 => Ok(element::E5M2),
        Dtype::E4m3fnuz => Ok(element::E4M3_FNUZ),
        Dtype::E5m2fnuz => Ok(element::E5M2_FNUZ),
        other => Err(DeviceError::unsupported(format!("hipDNN has no attention in {other}"))),
    };
    Ok([number(p.dtype)?, number(p.kv)?, number(p.output)?])
}

/// The graph of a problem in these types, and what its tensors are, by their ids.
pub(super) fn describe(
    api: &Arc<Dnn>,
    handle: Handle,
    p: &AttentionProblem,
    [q_type, kv_type, o_type]: [i32; 3],
) -> Outcome<(Descriptor, Vec<(i64, Source)>)> {
    let [b, hq, hkv, sq, sk, dqk, dv] = [p.batch, p.hq, p.hkv, p.sq, p.sk, p.dqk, p.dv].map(|n| n as i64);
    let mut t = Tensors::new(api);
    // Sequences, or pages, of so many keys.
    let (blocks, keys) = p.paged.map_or((b, sk), |pages| (pages.pool as i64, pages.tokens as i64));
    let mut operation = Builder::new(api, kind::ATTENTION)
        .part(attribute::ATTENTION_Q, &t.packed(Source::Q, q_type, [b, hq, sq, dqk])?)
        .part(attribute::ATTENTION_K, &t.packed(Source::K, kv_type, [blocks, hkv, keys, dqk])?)
        // A latent that is both lies in K, whose rows are longer.
        .part(attribute::ATTENTION_V, &{
            let (source, row) = if p.shared_kv { (Source::K, dqk) } else { (Source::V, dv) };
            t.strided(source, kv_type, [blocks, hkv, keys, dv], row)?
        })
        .part(attribute::ATTENTION_O, &t.packed(Source::O, o_type, [b, hq, sq, dv])?)
        .real(attribute::ATTENTION_SCALE, p.softmax_scale() as f32)
        .code(attribute::ATTENTION_COMPUTE, dnn::class::DATA_TYPE, element::F32);
    if p.ragged || p.paged.is_some() {
        let [queries, keys] = t.lengths(b)?;
        operation = operation
            .part(attribute::ATTENTION_LENGTHS_Q, &queries)
            .part(attribute::ATTENTION_LENGTHS_KV, &keys)
            .flag(attribute::ATTENTION_PADDED);
    }
    if let Some(pages) = p.paged {
        let dims = [b, 1, p.sk.div_ceil(pages.tokens) as i64, 1];
        for attribute in [attribute::ATTENTION_PAGES_K, attribute::ATTENTION_PAGES_V] {
            operation = operation.part(attribute, &t.packed(Source::Pages, element::I32, dims)?);
        }
        operation = operation.code(attribute::ATTENTION_MOST_KEYS, class::INT32, p.sk as i32);
    }
    // A query sees so many keys to the left and to the right of its own, which is the last one's last.
    if p.causal {
        operation = operation.numbers(attribute::ATTENTION_RIGHT, &[0]);
    }
    if let Some(window) = p.window {
        operation = operation.numbers(attribute::ATTENTION_LEFT, &[window.max(1) as i64 - 1]);
    }
    if p.causal || p.window.is_some() {
        operation = operation.code(attribute::ATTENTION_ALIGNMENT, class::ALIGNMENT, BOTTOM_RIGHT);
    }
    if p.sinks {
        operation = operation.part(attribute::ATTENTION_SINKS, &t.packed(Source::Sinks, element::F32, [1, hq, 1, 1])?);
    }
    // Weights and O keep their range: O of FP8 operands is wider.
    let narrow = [
        (p.dtype, attribute::ATTENTION_DESCALE_Q),
        (p.kv, attribute::ATTENTION_DESCALE_K),
        (p.kv, attribute::ATTENTION_DESCALE_V),
    ];
    for (index, (dtype, attribute)) in narrow.into_iter().enumerate() {
        if dtype.bits() == 8 {
            operation = operation.part(attribute, &t.number(Source::Factor(index))?);
        }
    }
    let graph = Builder::new(api, kind::GRAPH)
        .part(attribute::GRAPH_OPERATIONS, &operation.finish()?)
        .code(attribute::GRAPH_COMPUTE, dnn::class::DATA_TYPE, element::F32)
        .code(attribute::GRAPH_INTERMEDIATE, dnn::class::DATA_TYPE, element::F32)
        .code(attribute::GRAPH_IO, dnn::class::DATA_TYPE, q_type)
        .library(attribute::GRAPH_HANDLE, handle)
        .finish()?;
    Ok((graph, t.sources))
}
