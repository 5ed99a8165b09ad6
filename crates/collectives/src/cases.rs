//! The cases: shapes, their ids, and which of them a scope holds.

use crate::work::work;
use ridgepoint_core::{Bytes, Cache, Case, CaseId, Component, Distribution, Dtype, Level, Metric};
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

/// Named as nccl-tests names its programs.
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

    /// The case of it.
    pub(crate) fn case(self) -> Option<Case> {
        Some(Case {
            id: CaseId::new(self.id()).ok()?,
            component: Component::Collectives,
            dtype: self.dtype,
            metric: Metric::BusBandwidth,
            level: Level::Peer,
            work: work(self),
            // As nccl-tests: the same buffers each time.
            cache: Cache::Hot,
            data: Distribution::Normal,
        })
    }
}

/// Largest S of a class: on a CPU beyond any last-level cache of today for two ranks' buffers.
const fn largest(class: Class) -> u64 {
    match class {
        Class::Gpu => 4 << 30,
        Class::Cpu | Class::SoftwareGpu => 64 << 20,
    }
}

/// The shapes of a scope: an all-reduce from 4 KiB on, where latency shows, and every op at a few sizes (with every profile more).
pub(crate) fn list(scope: &Scope) -> Vec<Shape> {
    let ranks = scope.ranks.max(2) as u64;
    let largest = largest(scope.class);
    let middle = largest / 4;
    let ladder =
        |step: u64| std::iter::successors(Some(4u64 << 10), move |s| s.checked_mul(step)).take_while(move |s| *s <= largest);
    let (reduce, others, dtypes): (Vec<u64>, Vec<u64>, &[Dtype]) = match scope.profile {
        // Not the largest: checking every element of it takes longer than all else together.
        Profile::Quick => (ladder(16).filter(|s| *s < middle).collect(), vec![middle], &[]),
        Profile::Standard => (ladder(4).collect(), vec![64 << 10, 1 << 20, middle, largest], &[Dtype::Bf16]),
        Profile::Full => (ladder(4).collect(), ladder(4).collect(), &[Dtype::Bf16, Dtype::F16]),
    };
    // Whole elements of any width for each rank.
    let at = |op, bytes: u64, dtype| Shape { op, ranks, bytes: Bytes(bytes / ranks / 4 * ranks * 4), dtype };
    let mut shapes: Vec<Shape> = reduce.iter().map(|s| at(CollectiveOp::AllReduce, *s, Dtype::F32)).collect();
    for op in CollectiveOp::ALL {
        shapes.extend(others.iter().map(|s| at(op, *s, Dtype::F32)));
    }
    for dtype in dtypes {
        let sizes: &[u64] = if scope.profile == Profile::Full { &[64 << 10, middle] } else { &[middle] };
        let ops: &[CollectiveOp] = if scope.profile == Profile::Full { &CollectiveOp::ALL } else { &[CollectiveOp::AllReduce] };
        shapes.extend(ops.iter().flat_map(|op| sizes.iter().map(|s| at(*op, *s, *dtype))));
    }
    let mut seen: Vec<Shape> = Vec::new();
    for shape in shapes.into_iter().filter(|s| s.bytes.0 > 0 && fits(s, scope)) {
        if !seen.contains(&shape) {
            seen.push(shape);
        }
    }
    seen
}

/// Send and receive buffers take no more than half of the memory: that of one GPU each, or the host's for all ranks.
fn fits(shape: &Shape, scope: &Scope) -> bool {
    let sharing = if scope.class == Class::Gpu { 1 } else { shape.ranks };
    2 * shape.bytes.0 * sharing <= scope.memory.0 / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_size_that_does_not_divide_is_no_id() {
        assert!(Shape::parse("collectives/all_reduce/r3/12B/f32").is_some());
        for id in [
            "collectives/all_reduce/r3/16B/f32",
            "collectives/all_reduce/r0/16B/f32",
            "collectives/all_reduce/r02/16B/f32",
            "collectives/all_reduce/r2/1024KiB/f32",
            "collectives/all_reduce/r2/4KiB/e2m1",
            "collectives/all_reduce/r2/4KiB/e4m3fnuz",
            "collectives/sing/r2/16B/f32",
            "collectives/all_reduce/2/16B/f32",
            "collectives/all_reduce/r2/18446744073709551615B/f32",
        ] {
            assert_eq!(Shape::parse(id), None, "{id}");
        }
    }

    proptest! {
        #[test]
        fn ids_parse_back(op in 0usize..5, ranks in 1u64..=65536, part in 1u64..1 << 20, dtype in 0usize..Dtype::ALL.len()) {
            let dtype = Dtype::ALL[dtype];
            let size = dtype.element_bytes().unwrap_or(1) as u64;
            let shape = Shape { op: CollectiveOp::ALL[op], ranks, bytes: Bytes(part * ranks * size), dtype };
            let expected = (dtype.element_bytes().is_some() && dtype.class() == dtype && shape.bytes.0 <= 1 << 40).then_some(shape);
            prop_assert_eq!(Shape::parse(&shape.id()), expected);
        }

        #[test]
        fn what_parses_is_canonical(text in "(collectives/)?[a-z_]{3,14}/r[0-9]{1,3}/[0-9]{1,4}(B|KiB|MiB)/(f32|bf16|i8)") {
            if let Some(shape) = Shape::parse(&text) {
                prop_assert_eq!(shape.id(), text);
            }
        }

        #[test]
        fn lists_fit_and_divide_for_any_number_of_ranks(ranks in 0usize..=300, mib in 1u64..1 << 18) {
            for class in [Class::Cpu, Class::SoftwareGpu, Class::Gpu] {
                for profile in [Profile::Quick, Profile::Standard, Profile::Full] {
                    let scope = Scope { ranks, memory: Bytes::mib(mib), ..Scope::typical(class, profile) };
                    for shape in list(&scope) {
                        prop_assert!(fits(&shape, &scope));
                        prop_assert_eq!(Shape::parse(&shape.id()), Some(shape));
                    }
                }
            }
        }
    }

    #[test]
    fn a_first_look_is_short_and_shows_every_op_and_the_latency() {
        for class in [Class::Cpu, Class::Gpu] {
            let shapes = list(&Scope::typical(class, Profile::Quick));
            assert!((7..=11).contains(&shapes.len()), "{shapes:?}");
            assert!(CollectiveOp::ALL.into_iter().all(|op| shapes.iter().any(|s| s.op == op)));
            assert!(shapes.iter().any(|s| s.bytes == Bytes::kib(4)));
        }
        let standard = list(&Scope::typical(Class::Gpu, Profile::Standard));
        assert!(standard.iter().any(|s| s.bytes.0 == 4 << 30));
    }
}
