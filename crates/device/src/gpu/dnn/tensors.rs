//! Tensors as a library is told of them, each with an id of its own, and where each comes from when the operation runs.

use super::{Builder, Descriptor, Dnn, Outcome, Source, class};
use std::sync::Arc;

/// The tensors of one operation.
pub(crate) struct Tensors<'a> {
    pub(crate) api: &'a Arc<Dnn>,
    /// Those that are somewhere in memory, by their ids.
    pub(crate) sources: Vec<(i64, Source)>,
    next: i64,
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

    /// Queries and keys of each sequence.
    pub(crate) fn lengths(&mut self, batch: i64) -> Outcome<[Descriptor; 2]> {
        let element = self.api.numbers.i32;
        let queries = self.packed(Source::Queries, element, [batch, 1, 1, 1])?;
        Ok([queries, self.packed(Source::Lengths, element, [batch, 1, 1, 1])?])
    }

    /// One float on the device.
    pub(crate) fn number(&mut self, source: Source) -> Outcome<Descriptor> {
        self.packed(source, self.api.numbers.f32, [1; 4])
    }
}
