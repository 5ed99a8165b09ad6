//! The cases: shapes, their ids, and which of them a scope holds.

use ridgepoint_core::{Bytes, Cache, Case, CaseId, Component, Distribution, Dtype, Level, Metric, Work};
use ridgepoint_device::CollectiveOp;
use ridgepoint_harness::{Class, Profile, Scope};

/// One collective.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) op: CollectiveOp,
    pub(crate) ranks: u64,
    /// S of nccl-tests.
    pub(crate) bytes: Bytes,
    pub(crate) dtype: Dtype,
}

const fn name(op: CollectiveOp) -> &'static str {
    match op {
        CollectiveOp::AllReduce => "all_reduce",
        CollectiveOp::AllGather => "all_gather",
        CollectiveOp::ReduceScatter => "reduce_scatter",
        CollectiveOp::Broadcast => "broadcast",
        CollectiveOp::AllToAll => "alltoall",
    }
}

impl Shape {
    fn id(self) -> String {
        format!("collectives/{}/r{}/{}/{}", name(self.op), self.ranks, self.bytes, self.dtype)
    }

    /// The shape of an id in its canonical spelling.
    pub(crate) fn parse(id: &str) -> Option<Self> {
        let segments: Vec<&str> = id.split('/').collect();
        let ["collectives", op, ranks, bytes, dtype] = segments.as_slice() else { return None };
        let shape = Self {
            op: CollectiveOp::ALL.into_iter().find(|o| name(*o) == *op)?,
            ranks: ranks.strip_prefix('r')?.parse().ok().filter(|r| (1..=65536).contains(r))?,
            bytes: bytes.parse().ok().filter(|b: &Bytes| (1..=1 << 40).contains(&b.0))?,
            dtype: dtype.parse().ok()?,
        };
        // Equal parts of whole elements for each rank.
        let size = shape.dtype.element_bytes()? as u64;
        (shape.bytes.0.is_multiple_of(size * shape.ranks) && shape.dtype.class() == shape.dtype && shape.id() == id)
            .then_some(shape)
    }

    /// busbw over algbw: what a rank's link carries for each byte of S (nccl-tests, doc/PERFORMANCE.md).
    pub(crate) fn bus_factor(self) -> f64 {
        let n = self.ranks as f64;
        match self.op {
            CollectiveOp::AllReduce => 2.0 * (n - 1.0) / n,
            CollectiveOp::AllGather | CollectiveOp::ReduceScatter | CollectiveOp::AllToAll => (n - 1.0) / n,
            CollectiveOp::Broadcast => 1.0,
        }
    }

    /// The case of it.
    pub(crate) fn case(self) -> Option<Case> {
        Some(Case {
            id: CaseId::new(self.id()).ok()?,
            component: Component::Collectives,
            dtype: self.dtype,
            metric: Metric::BusBandwidth,
            level: Level::Peer,
            work: Work { bus_factor: Some(self.bus_factor()), ..Work::bytes(self.bytes) },
            // As nccl-tests: the same buffers each time.
            cache: Cache::Hot,
            data: Distribution::Normal,
        })
    }
}

/// The shapes of a scope.
pub(crate) fn list(scope: &Scope) -> Vec<Shape> {
    let ranks = scope.ranks.max(2) as u64;
    let largest: u64 = match scope.class {
        Class::Gpu => 1 << 30,
        Class::Cpu | Class::SoftwareGpu => 64 << 20,
    };
    let quick = scope.profile == Profile::Quick;
    let step = if quick { 128 } else { 4 };
    let sizes = std::iter::successors(Some(4u64 << 10), |s| Some(s * step)).take_while(|s| *s <= largest);
    let mut shapes: Vec<Shape> = sizes
        .map(|s| Shape { op: CollectiveOp::AllReduce, ranks, bytes: Bytes(s / ranks / 4 * ranks * 4), dtype: Dtype::F32 })
        .collect();
    let at = |op, bytes: u64, dtype| Shape { op, ranks, bytes: Bytes(bytes / ranks / 4 * ranks * 4), dtype };
    let middle = largest / 4;
    for op in CollectiveOp::ALL {
        let sizes: &[u64] = if quick { &[middle] } else { &[64 << 10, 1 << 20, middle, largest] };
        shapes.extend(sizes.iter().map(|s| at(op, *s, Dtype::F32)));
    }
    if !quick {
        shapes.push(at(CollectiveOp::AllReduce, middle, Dtype::Bf16));
    }
    let mut seen: Vec<Shape> = Vec::new();
    shapes.retain(|s| {
        !seen.contains(s) && {
            seen.push(*s);
            true
        }
    });
    shapes.retain(|s| 2 * s.bytes.0 * ranks < scope.memory.0 / 2);
    shapes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bus_factors_are_those_of_nccl_tests() {
        let factor = |op, ranks| Shape { op, ranks, bytes: Bytes(1024), dtype: Dtype::F32 }.bus_factor();
        assert_eq!(factor(CollectiveOp::AllReduce, 8), 1.75);
        assert_eq!(factor(CollectiveOp::AllGather, 8), 0.875);
        assert_eq!(factor(CollectiveOp::AllToAll, 4), 0.75);
        assert_eq!(factor(CollectiveOp::Broadcast, 8), 1.0);
        assert_eq!(factor(CollectiveOp::AllReduce, 1), 0.0);
    }

    #[test]
    fn a_size_that_does_not_divide_is_no_id() {
        assert!(Shape::parse("collectives/all_reduce/r3/12B/f32").is_some());
        for id in [
            "collectives/all_reduce/r3/16B/f32",
            "collectives/all_reduce/r0/16B/f32",
            "collectives/sing/r2/16B/f32",
            "collectives/all_reduce/2/16B/f32",
        ] {
            assert_eq!(Shape::parse(id), None, "{id}");
        }
    }
}
