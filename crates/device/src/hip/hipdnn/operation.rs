//! An attention as hipDNN is told of it: one operation, whose masks are bounds beside a diagonal and not a graph of their own.

use super::numbers::{BOTTOM_RIGHT, attribute, class, element, kind};
use crate::gpu::dnn::{self, Builder, Descriptor, Dnn, Operands, Outcome, Source, Tensors};
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

/// Where an attention's operands are told of.
const OPERANDS: Operands = Operands {
    q: attribute::ATTENTION_Q,
    k: attribute::ATTENTION_K,
    v: attribute::ATTENTION_V,
    o: attribute::ATTENTION_O,
    lengths: [attribute::ATTENTION_LENGTHS_Q, attribute::ATTENTION_LENGTHS_KV],
    pages: [attribute::ATTENTION_PAGES_K, attribute::ATTENTION_PAGES_V],
};

/// The graph of a problem in these types, and what its tensors are, by their ids.
pub(super) fn describe(
    api: &Arc<Dnn>,
    handle: Handle,
    p: &AttentionProblem,
    types: [i32; 3],
) -> Outcome<(Descriptor, Vec<(i64, Source)>)> {
    let mut t = Tensors::new(api);
    let operation = t
        .operands(Builder::new(api, kind::ATTENTION), &OPERANDS, p, types)?
        .real(attribute::ATTENTION_SCALE, p.softmax_scale() as f32)
        .code(attribute::ATTENTION_COMPUTE, dnn::class::DATA_TYPE, element::F32);
    let (mut operation, lengths) = t.lengths(operation, &OPERANDS, p)?;
    if lengths.is_some() {
        operation = operation.flag(attribute::ATTENTION_PADDED);
    }
    operation = t.pages(operation, &OPERANDS, p)?;
    if p.paged.is_some() {
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
        operation = operation.part(attribute::ATTENTION_SINKS, &t.packed(Source::Sinks, element::F32, [1, p.hq as i64, 1, 1])?);
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
        .code(attribute::GRAPH_IO, dnn::class::DATA_TYPE, types[0])
        .library(attribute::GRAPH_HANDLE, handle)
        .finish()?;
    Ok((graph, t.sources))
}
