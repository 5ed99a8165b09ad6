//! Tensors as a library is told of them, each with an id of its own, and where each comes from when the operation runs.

use super::{Builder, Descriptor, Dnn, Outcome, Source, class};
use crate::AttentionProblem;
use std::sync::Arc;

/// The tensors of one operation.
pub(crate) struct Tensors<'a> {
    pub(crate) api: &'a Arc<Dnn>,
    /// Those that are somewhere in memory, by their ids.
    pub(crate) sources: Vec<(i64, Source)>,
    next: i64,
}

/// The attributes by which a library's attention is told of its operands; of lengths those of Q first, of pages those of K.
pub(crate) struct Operands {
    pub(crate) q: i32,
    pub(crate) k: i32,
    pub(crate) v: i32,
    pub(crate) o: i32,
    pub(crate) lengths: [i32; 2],
    pub(crate) pages: [i32; 2],
}

impl<'a> Tensors<'a> {
    pub(crate) const fn new(api: &'a Arc<Dnn>) -> Self {
        Self { api, sources: Vec::new(), next: 0 }
    }

    /// One that is nowhere yet, and its id.
    pub(crate) fn describe(&mut self, element: i32, dims: [i64; 4], strides: [i64; 4], alignment: i64) -> (i64, Builder) {
        self.next += 1;
        let numbers = self.api.numbers;
        let tensor = Builder::new(self.api, numbers.tensor)
            .code(numbers.tensor_type, class::DATA_TYPE, element)
            .numbers(numbers.tensor_dimensions, &dims)
            .numbers(numbers.tensor_strides, &strides)
            .numbers(numbers.tensor_id, &[self.next]);
        let tensor = match numbers.tensor_alignment {
            Some(attribute) => tensor.numbers(attribute, &[alignment]),
            None => tensor,
        };
        (self.next, tensor)
    }

    /// In device memory, with its rows (of the last dimension) so far apart.
    pub(crate) fn strided(&mut self, source: Source, element: i32, dims: [i64; 4], row: i64) -> Outcome<Descriptor> {
        let strides = [dims[1] * dims[2] * row, dims[2] * row, row, 1];
        let alignment = if matches!(source, Source::Factor(_) | Source::Constant(_)) { 4 } else { 16 };
        let (id, tensor) = self.describe(element, dims, strides, alignment);
        self.sources.push((id, source));
        tensor.finish()
    }

    pub(crate) fn packed(&mut self, source: Source, element: i32, dims: [i64; 4]) -> Outcome<Descriptor> {
        self.strided(source, element, dims, dims[3])
    }

    /// Tells an operation of Q, K, V and O, in the library's types of Q, of K and V, and of O.
    pub(crate) fn operands(
        &mut self,
        operation: Builder,
        at: &Operands,
        p: &AttentionProblem,
        [q_type, kv_type, o_type]: [i32; 3],
    ) -> Outcome<Builder> {
        let [b, hq, hkv, sq, sk, dqk, dv] = [p.batch, p.hq, p.hkv, p.sq, p.sk, p.dqk, p.dv].map(|n| n as i64);
        // Sequences, or pages, of so many keys.
        let (blocks, keys) = p.paged.map_or((b, sk), |pages| (pages.pool as i64, pages.tokens as i64));
        // A latent that is both lies in K, whose rows are longer.
        let (source, row) = if p.shared_kv { (Source::K, dqk) } else { (Source::V, dv) };
        Ok(operation
            .part(at.q, &self.packed(Source::Q, q_type, [b, hq, sq, dqk])?)
            .part(at.k, &self.packed(Source::K, kv_type, [blocks, hkv, keys, dqk])?)
            .part(at.v, &self.strided(source, kv_type, [blocks, hkv, keys, dv], row)?)
            .part(at.o, &self.packed(Source::O, o_type, [b, hq, sq, dv])?))
    }

    /// Tells it of the lengths of sequences, if they have lengths of their own; its mask may need them, too.
    pub(crate) fn lengths(
        &mut self,
        operation: Builder,
        at: &Operands,
        p: &AttentionProblem,
    ) -> Outcome<(Builder, Option<[Descriptor; 2]>)> {
        if !p.ragged && p.paged.is_none() {
            return Ok((operation, None));
        }
        let (element, dims) = (self.api.numbers.i32, [p.batch as i64, 1, 1, 1]);
        let both = [self.packed(Source::Queries, element, dims)?, self.packed(Source::Lengths, element, dims)?];
        let operation = at.lengths.iter().zip(&both).fold(operation, |operation, (at, of)| operation.part(*at, of));
        Ok((operation, Some(both)))
    }

    /// Tells it of the pages, if there are any.
    pub(crate) fn pages(&mut self, mut operation: Builder, at: &Operands, p: &AttentionProblem) -> Outcome<Builder> {
        if let Some(pages) = p.paged {
            let (element, dims) = (self.api.numbers.i32, [p.batch as i64, 1, p.sk.div_ceil(pages.tokens) as i64, 1]);
            for at in at.pages {
                operation = operation.part(at, &self.packed(Source::Pages, element, dims)?);
            }
        }
        Ok(operation)
    }

    /// One float on the device.
    pub(crate) fn number(&mut self, source: Source) -> Outcome<Descriptor> {
        self.packed(source, self.api.numbers.f32, [1; 4])
    }
}
