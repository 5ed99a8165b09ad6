//! An attention as cuDNN is told of it: one operation, the tensors that it reads and writes, and where each of them comes from
//! when it runs. A causal mask or a window is a graph of its own that stands between the logits and their softmax.

use super::numbers::{GREATER, GREATER_OR_EQUAL, attribute, class, element, kind};
use crate::gpu::dnn::{Builder, Descriptor, Dnn, Operands, Outcome, Source, Tensors};
use crate::gpu::sys::Handle;
use crate::{AttentionProblem, DeviceError};
use ridgepoint_core::Dtype;
use std::sync::Arc;

/// Weights are at most 1: as FP8 they are stored times 256, and the products divided by it. O is stored as it is, and its largest
/// value written to the last place.
pub(super) const CONSTANTS: [f32; 4] = [256.0, 1.0 / 256.0, 1.0, 0.0];

/// What hidden logits are replaced by, as cuDNN's own frontend has it since 9.10.
const HIDDEN: f32 = f32::NEG_INFINITY;

/// The operation, and what its tensors are, by their ids.
pub(super) struct Operation {
    pub(super) descriptor: Descriptor,
    pub(super) sources: Vec<(i64, Source)>,
}

/// cuDNN's numbers of the types of Q, of K and V, and of O.
///
/// # Errors
/// `Unsupported` for a type that its attention has not.
pub(super) fn types(p: &AttentionProblem) -> std::result::Result<[i32; 3], DeviceError> {
    let number = |dtype: Dtype| match dtype {
        Dtype::F16 => Ok(element::F16),
        Dtype::Bf16 => Ok(element::BF16),
        Dtype::E4m3 => Ok(element::E4M3),
        Dtype::E5m2 => Ok(element::E5M2),
        // It has no engine for f32 on any chip; saying so needs no search.
        other => Err(DeviceError::unsupported(format!("cuDNN has no attention in {other}"))),
    };
    Ok([number(p.dtype)?, number(p.kv)?, number(p.output)?])
}

/// The least version for what a problem asks, and what that is.
pub(super) fn needs(p: &AttentionProblem) -> (usize, &'static str) {
    let fp8 = [p.dtype, p.kv].iter().any(|d| matches!(d, Dtype::E4m3 | Dtype::E5m2));
    let all = [
        (true, 91301, "attention as one operation"),
        (p.ragged || p.paged.is_some(), 91500, "lengths and pages"),
        (p.causal || p.window.is_some() || p.sinks, 92100, "masks and sinks"),
        (fp8, 92500, "FP8"),
        // Before, the rows of a sequence without keys are NaN but for a single query (seen with 9.19 on an H100; cuDNN's frontend, issue 943).
        (p.ragged && p.sq > 1, 92500, "sequences without keys"),
    ];
    all.into_iter().rev().find(|(asked, ..)| *asked).map_or((0, ""), |(_, version, what)| (version, what))
}

/// One number: a float or a whole number of the host's, or a float on the device.
fn scalar(t: &mut Tensors<'_>, source: Source) -> Outcome<Descriptor> {
    match source {
        Source::Float(_) | Source::Whole(_) => {
            let element = if matches!(source, Source::Whole(_)) { element::I32 } else { element::F32 };
            let (id, tensor) = t.describe(element, [1; 4], [1; 4], 4);
            t.sources.push((id, source));
            tensor.flag(attribute::TENSOR_BY_VALUE).finish()
        }
        _ => t.number(source),
    }
}

/// Between two operations, and nowhere in memory.
fn between(t: &mut Tensors<'_>, dims: [i64; 4]) -> Outcome<(i64, Descriptor)> {
    let strides = [dims[1] * dims[2] * dims[3], dims[2] * dims[3], dims[3], 1];
    let (id, tensor) = t.describe(element::F32, dims, strides, 16);
    Ok((id, tensor.flag(attribute::TENSOR_VIRTUAL).finish()?))
}

/// Operations as a graph.
pub(super) fn operations(api: &Arc<Dnn>, handle: Option<Handle>, operations: &[Descriptor]) -> Outcome<Descriptor> {
    let graph = Builder::new(api, kind::GRAPH).all(attribute::GRAPH_OPERATIONS, operations);
    match handle {
        Some(handle) => graph.library(attribute::GRAPH_HANDLE, handle).finish(),
        None => graph.finish(),
    }
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

/// Describes a problem of these types.
pub(super) fn describe(api: &Arc<Dnn>, p: &AttentionProblem, types: [i32; 3]) -> Outcome<Operation> {
    let fp8 = [p.dtype, p.kv].iter().any(|d| matches!(d, Dtype::E4m3 | Dtype::E5m2));
    let [b, hq, sq, sk] = [p.batch, p.hq, p.sq, p.sk].map(|n| n as i64);
    let mut t = Tensors::new(api);
    let operation = t
        .operands(Builder::new(api, kind::ATTENTION), &OPERANDS, p, types)?
        .part(attribute::ATTENTION_SCALE, &scalar(&mut t, Source::Float(p.softmax_scale() as f32))?);
    let (operation, lengths) = t.lengths(operation, &OPERANDS, p)?;
    let mut operation = t.pages(operation, &OPERANDS, p)?;
    if p.causal || p.window.is_some() {
        let (graph, [input, output]) = mask(&mut t, p, lengths.as_ref())?;
        operation = operation
            .part(attribute::ATTENTION_SUBGRAPH, &graph)
            .numbers(attribute::ATTENTION_SUBGRAPH_INPUT, &[input])
            .numbers(attribute::ATTENTION_SUBGRAPH_OUTPUT, &[output]);
    }
    if p.sinks {
        let softmax = Builder::new(api, kind::SOFTMAX)
            .part(attribute::SOFTMAX_X, &between(&mut t, [b, hq, sq, sk])?.1)
            .part(attribute::SOFTMAX_Y, &between(&mut t, [b, hq, sq, sk])?.1)
            .part(attribute::SOFTMAX_SINK, &t.packed(Source::Sinks, element::F32, [1, hq, 1, 1])?)
            .finish()?;
        operation = operation.part(attribute::ATTENTION_SOFTMAX, &softmax);
    }
    if fp8 {
        for (attribute, source) in [
            (attribute::ATTENTION_DESCALE_Q, Source::Factor(0)),
            (attribute::ATTENTION_DESCALE_K, Source::Factor(1)),
            (attribute::ATTENTION_DESCALE_V, Source::Factor(2)),
            (attribute::ATTENTION_SCALE_S, Source::Constant(0)),
            (attribute::ATTENTION_DESCALE_S, Source::Constant(1)),
            (attribute::ATTENTION_SCALE_O, Source::Constant(2)),
            (attribute::ATTENTION_AMAX_O, Source::Constant(3)),
        ] {
            operation = operation.part(attribute, &scalar(&mut t, source)?);
        }
    }
    Ok(Operation { descriptor: operation.finish()?, sources: t.sources })
}

/// The graph of a causal mask, a window or both, aligned at the end, and the ids of what goes in and comes out. A query keeps
/// a key if row + keys − queries ≥ column, and if column + window − (keys − queries) > row.
fn mask(t: &mut Tensors<'_>, p: &AttentionProblem, lengths: Option<&[Descriptor; 2]>) -> Outcome<(Descriptor, [i64; 2])> {
    let dims = [p.batch, p.hq, p.sq, p.sk].map(|n| n as i64);
    let (input, mut logits) = between(t, dims)?;
    let (mut last, mut bands) = (input, Vec::new());
    let mut band = |t: &mut Tensors<'_>, comparison, edge: &[(i32, Descriptor)]| -> Outcome<()> {
        let (id, kept) = between(t, dims)?;
        let hidden = scalar(t, Source::Float(HIDDEN))?;
        let whole = Builder::new(t.api, kind::BAND_MASK)
            .part(attribute::BAND_X, &logits)
            .part(attribute::BAND_FILL, &hidden)
            .part(attribute::BAND_Y, &kept)
            .code(attribute::BAND_COMPARISON, class::POINTWISE_MODE, comparison);
        let band = edge.iter().fold(whole, |band, (attribute, part)| band.part(*attribute, part)).finish()?;
        bands.push(band);
        (last, logits) = (id, kept);
        Ok(())
    };
    let of_lengths = |queries, keys| [(attribute::BAND_LENGTHS_Q, queries), (attribute::BAND_LENGTHS_KV, keys)];
    if p.causal {
        let edge = match lengths {
            Some([queries, keys]) => of_lengths(queries.clone(), keys.clone()),
            None => of_lengths(scalar(t, Source::Whole(p.sq as i32))?, scalar(t, Source::Whole(p.sk as i32))?),
        };
        band(t, GREATER_OR_EQUAL, &edge)?;
    }
    if let Some(window) = p.window {
        match lengths {
            Some([queries, keys]) => {
                let [a, b] = of_lengths(queries.clone(), keys.clone());
                let left = (attribute::BAND_LEFT, scalar(t, Source::Whole(window as i32))?);
                band(t, GREATER, &[left, a, b])?;
            }
            // Where all lengths are one the whole offset is a number, and a float as cuDNN's own frontend has it.
            None => {
                let left = window as f32 - p.sk as f32 + p.sq as f32;
                let left = (attribute::BAND_LEFT, scalar(t, Source::Float(left))?);
                band(t, GREATER, &[left])?;
            }
        }
    }
    Ok((operations(t.api, None, &bands)?, [input, last]))
}
