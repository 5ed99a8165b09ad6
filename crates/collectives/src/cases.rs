//! The cases: shapes, their ids, and which of them a scope holds.

use crate::overlap::Overlap;
use crate::work::work;
use ridgepoint_core::{Bytes, Cache, Case, CaseId, Component, Distribution, Dtype, Level, Metric};
use ridgepoint_device::{CollectiveOp, CollectiveProblem, Redop, Registration};
use ridgepoint_harness::{Class, Profile, Scope};

/// One collective.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) op: CollectiveOp,
    pub(crate) ranks: u64,
    /// S of nccl-tests.
    pub(crate) bytes: Bytes,
    pub(crate) dtype: Dtype,
    pub(crate) redop: Redop,
    pub(crate) root: u64,
    pub(crate) in_place: bool,
    pub(crate) registration: Registration,
}

impl Shape {
    /// A sum, out of place, from or to rank 0, over plain buffers: what an id need not say.
    pub(crate) const fn new(op: CollectiveOp, ranks: u64, bytes: Bytes, dtype: Dtype) -> Self {
        Self { op, ranks, bytes, dtype, redop: Redop::Sum, root: 0, in_place: false, registration: Registration::None }
    }

    fn id(self) -> String {
        let mut id = format!("collectives/{}/r{}/{}/{}", self.op.name(), self.ranks, self.bytes, self.dtype);
        if self.redop != Redop::Sum {
            id += &format!("/{}", self.redop.name());
        }
        if self.root != 0 {
            id += &format!("/root{}", self.root);
        }
        if self.in_place {
            id += "/inplace";
        }
        if self.registration != Registration::None {
            id += &format!("/{}", self.registration.name());
        }
        id
    }

    /// The shape of an id in its canonical spelling.
    pub(crate) fn parse(id: &str) -> Option<Self> {
        let segments: Vec<&str> = id.split('/').collect();
        let ["collectives", op, ranks, bytes, dtype, rest @ ..] = segments.as_slice() else { return None };
        let mut shape = Self::new(
            CollectiveOp::ALL.into_iter().find(|o| o.name() == *op)?,
            ranks.strip_prefix('r')?.parse().ok().filter(|r| (1..=65536).contains(r))?,
            bytes.parse().ok().filter(|b: &Bytes| (1..=1 << 40).contains(&b.0))?,
            dtype.parse().ok()?,
        );
        for word in rest {
            if let Some(redop) = Redop::ALL.into_iter().find(|r| r.name() == *word) {
                shape.redop = redop;
            } else if let Some(registration) = Registration::ALL.into_iter().find(|r| r.name() == *word) {
                shape.registration = registration;
            } else if let Some(root) = word.strip_prefix("root") {
                shape.root = root.parse().ok()?;
            } else if *word == "inplace" {
                shape.in_place = true;
            } else {
                return None;
            }
        }
        (shape.sensible() && shape.dtype.class() == shape.dtype && shape.id() == id).then_some(shape)
    }

    /// Whole elements, for each rank where S is cut; a reduction only of what is reduced, a root only where there is one.
    fn sensible(self) -> bool {
        let Some(size) = self.dtype.element_bytes() else { return false };
        self.bytes.0.is_multiple_of(size as u64 * if self.op.divides() { self.ranks } else { 1 })
            && (self.op.reduces() || self.redop == Redop::Sum)
            && (self.op.rooted() || self.root == 0)
            && self.root < self.ranks
            && (self.op.in_place() || !self.in_place)
    }

    /// The problem of it, in the dtype as a device encodes it.
    pub(crate) fn problem(self, dtype: Dtype, seed: u64) -> CollectiveProblem {
        CollectiveProblem {
            redop: self.redop,
            root: self.root as usize,
            in_place: self.in_place,
            registration: self.registration,
            seed,
            ..CollectiveProblem::new(self.op, self.ranks as usize, self.bytes, dtype)
        }
    }

    /// The case of it.
    pub(crate) fn case(self) -> Option<Case> {
        Some(Case {
            id: CaseId::new(self.id()).ok()?,
            component: Component::Collectives,
            dtype: self.dtype,
            // Between no two ranks there is no bus: what a library does alone is told by its algbw.
            metric: if self.ranks == 1 { Metric::Bandwidth } else { Metric::BusBandwidth },
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

/// The ops of a first look: those that training and inference spend their time in.
const COMMON: [CollectiveOp; 5] = [
    CollectiveOp::AllReduce,
    CollectiveOp::AllGather,
    CollectiveOp::ReduceScatter,
    CollectiveOp::Broadcast,
    CollectiveOp::AllToAll,
];

/// The shapes of a scope: an all-reduce from 4 KiB on, where latency shows, and the ops at a few sizes (with every profile more).
pub(crate) fn list(scope: &Scope) -> Vec<Shape> {
    // A GPU that is alone is a rank alone; a CPU has as many as it likes.
    let ranks = scope.ranks.max(if scope.class == Class::Gpu { 1 } else { 2 }) as u64;
    let largest = largest(scope.class);
    let middle = largest / 4;
    let ladder =
        |step: u64| std::iter::successors(Some(4u64 << 10), move |s| s.checked_mul(step)).take_while(move |s| *s <= largest);
    let (reduce, others, dtypes): (Vec<u64>, Vec<u64>, &[Dtype]) = match scope.profile {
        // Not the largest: checking every element of it takes longer than all else together.
        Profile::Quick => (ladder(16).filter(|s| *s < middle).collect(), vec![middle], &[]),
        Profile::Standard => (ladder(4).collect(), vec![64 << 10, 1 << 20, middle, largest], &[Dtype::Bf16]),
        Profile::Full => (ladder(4).collect(), ladder(4).collect(), &[Dtype::Bf16, Dtype::F16, Dtype::E4m3]),
    };
    // Whole elements of any width for each rank.
    let at = |op, bytes: u64, dtype| Shape::new(op, ranks, Bytes(bytes / ranks / 4 * ranks * 4), dtype);
    let full = scope.profile == Profile::Full;
    let mut shapes: Vec<Shape> = reduce.iter().map(|s| at(CollectiveOp::AllReduce, *s, Dtype::F32)).collect();
    for op in COMMON {
        shapes.extend(others.iter().map(|s| at(op, *s, Dtype::F32)));
    }
    if scope.profile != Profile::Quick {
        let rest: &[u64] = if full { &others } else { &[64 << 10, middle] };
        for op in CollectiveOp::ALL.into_iter().filter(|op| !COMMON.contains(op)) {
            shapes.extend(rest.iter().map(|s| at(op, *s, Dtype::F32)));
        }
        shapes.extend(
            CollectiveOp::ALL
                .into_iter()
                .filter(|op| op.in_place() && (full || *op == CollectiveOp::AllReduce))
                .map(|op| Shape { in_place: true, ..at(op, middle, Dtype::F32) }),
        );
    }
    if full {
        let all_reduce = at(CollectiveOp::AllReduce, middle, Dtype::F32);
        shapes.extend(Redop::ALL.map(|redop| Shape { redop, ..all_reduce }));
    }
    for dtype in dtypes {
        let sizes: &[u64] = if full { &[64 << 10, middle] } else { &[middle] };
        let ops: &[CollectiveOp] = if full { &COMMON } else { &[CollectiveOp::AllReduce] };
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

/// One overlap where there is time for it: an all-reduce and a product that take about as long by themselves.
pub(crate) fn overlaps(scope: &Scope) -> Vec<Overlap> {
    let ranks = scope.ranks.max(if scope.class == Class::Gpu { 1 } else { 2 }) as u64;
    let (bytes, dtype, side) = match scope.class {
        Class::Gpu => (256 << 20, Dtype::Bf16, 8192),
        Class::Cpu | Class::SoftwareGpu => (16 << 20, Dtype::F32, 512),
    };
    let bytes = Bytes(bytes / ranks / 4 * ranks * 4);
    let collective = Shape::new(CollectiveOp::AllReduce, ranks, bytes, dtype);
    let product = format!("m{side}n{side}k{side}").parse();
    let wanted = scope.profile != Profile::Quick && ranks > 1 && scope.class != Class::SoftwareGpu && fits(&collective, scope);
    product.ok().filter(|_| wanted).map(|product| Overlap { collective, product }).into_iter().collect()
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
        for id in [
            "collectives/all_reduce/r3/12B/f32",
            "collectives/all_reduce/r3/16B/f32",
            "collectives/all_reduce/r2/4KiB/f32/max/inplace",
            "collectives/reduce/r2/4KiB/e4m3/avg/root1/inplace/symmetric",
            "collectives/sendrecv/r2/4KiB/i32/registered",
        ] {
            assert!(Shape::parse(id).is_some(), "{id}");
        }
        for id in [
            "collectives/all_gather/r3/16B/f32",
            "collectives/all_reduce/r3/15B/f32",
            "collectives/all_reduce/r0/16B/f32",
            "collectives/all_reduce/r02/16B/f32",
            "collectives/all_reduce/r2/1024KiB/f32",
            "collectives/all_reduce/r2/4KiB/e2m1",
            "collectives/all_reduce/r2/4KiB/e4m3fnuz",
            "collectives/sing/r2/16B/f32",
            "collectives/all_reduce/2/16B/f32",
            "collectives/all_reduce/r2/18446744073709551615B/f32",
            "collectives/all_reduce/r2/4KiB/f32/sum",
            "collectives/all_reduce/r2/4KiB/f32/root1",
            "collectives/all_reduce/r2/4KiB/f32/inplace/max",
            "collectives/all_reduce/r2/4KiB/f32/max/max",
            "collectives/all_reduce/r2/4KiB/f32/",
            "collectives/broadcast/r2/4KiB/f32/max",
            "collectives/broadcast/r2/4KiB/f32/root2",
            "collectives/alltoall/r2/4KiB/f32/inplace",
        ] {
            assert_eq!(Shape::parse(id), None, "{id}");
        }
    }

    proptest! {
        #[test]
        fn ids_parse_back(
            op in 0usize..10,
            ranks in 1u64..=65536,
            part in 1u64..1 << 20,
            dtype in 0usize..Dtype::ALL.len(),
            redop in 0usize..5,
            registration in 0usize..3,
            root in 0u64..3,
            in_place: bool,
        ) {
            let dtype = Dtype::ALL[dtype];
            let size = dtype.element_bytes().unwrap_or(1) as u64;
            let shape = Shape {
                redop: Redop::ALL[redop],
                registration: Registration::ALL[registration],
                root,
                in_place,
                ..Shape::new(CollectiveOp::ALL[op], ranks, Bytes(part * ranks * size), dtype)
            };
            let expected = (shape.sensible() && dtype.class() == dtype && shape.bytes.0 <= 1 << 40).then_some(shape);
            prop_assert_eq!(Shape::parse(&shape.id()), expected);
        }

        #[test]
        fn what_parses_is_canonical(text in "(collectives/)?[a-z_]{3,14}/r[0-9]{1,3}/[0-9]{1,4}(B|KiB|MiB)/(f32|bf16|i8)(/(max|inplace|root1))?") {
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
            assert!(COMMON.into_iter().all(|op| shapes.iter().any(|s| s.op == op)));
            assert!(shapes.iter().any(|s| s.bytes == Bytes::kib(4)));
        }
        let standard = list(&Scope::typical(Class::Gpu, Profile::Standard));
        assert!(standard.iter().any(|s| s.bytes.0 == 4 << 30) && standard.iter().any(|s| s.in_place));
        assert!(CollectiveOp::ALL.into_iter().all(|op| standard.iter().any(|s| s.op == op)));
    }
}
