//! The cases: shapes, their ids, and which of them a scope holds.

use ridgepoint_core::{Bytes, Cache, Case, CaseId, Component, Distribution, Dtype, Level, Metric, Work};
use ridgepoint_harness::{Class, Profile, Scope};

/// Dependent loads of one execution of a chase.
pub(crate) const CHASE_STEPS: u64 = 1 << 16;

/// A stream op. Bytes are counted as docs/conventions.md says, each array once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Read,
    Write,
    Copy,
    Scale,
    Add,
    Triad,
    Dot,
}

impl Op {
    pub(crate) const ALL: [Self; 7] = [Self::Read, Self::Write, Self::Copy, Self::Scale, Self::Add, Self::Triad, Self::Dot];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Copy => "copy",
            Self::Scale => "scale",
            Self::Add => "add",
            Self::Triad => "triad",
            Self::Dot => "dot",
        }
    }

    /// Arrays read.
    pub(crate) const fn inputs(self) -> u64 {
        match self {
            Self::Write => 0,
            Self::Read | Self::Copy | Self::Scale => 1,
            Self::Add | Self::Triad | Self::Dot => 2,
        }
    }

    /// True if an array is written, false if the result is a sum.
    pub(crate) const fn writes(self) -> bool {
        !matches!(self, Self::Read | Self::Dot)
    }

    /// Arrays that move.
    pub(crate) const fn arrays(self) -> u64 {
        self.inputs() + if self.writes() { 1 } else { 0 }
    }
}

/// A stream over f32 arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stream {
    pub(crate) op: Op,
    /// Size of one array.
    pub(crate) array: Bytes,
    pub(crate) cache: Cache,
}

impl Stream {
    pub(crate) const fn elements(self) -> u64 {
        self.array.0 / 4
    }
}

/// The array in a workgroup's shared memory; one pass reads it once.
pub(crate) const SHARED: Bytes = Bytes(32 << 10);

/// Which way bytes go between a device and its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    HostToDevice,
    DeviceToHost,
}

impl Direction {
    const ALL: [Self; 2] = [Self::HostToDevice, Self::DeviceToHost];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::HostToDevice => "h2d",
            Self::DeviceToHost => "d2h",
        }
    }
}

/// Bank conflicts that a read of workgroup memory may have, in ways; 1 is none.
pub(crate) const WAYS: [u32; 4] = [1, 2, 4, 8];

/// What a memory case measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Stream(Stream),
    /// A pointer chase over so many bytes.
    Latency(Bytes),
    /// A copy of so many bytes between page-locked host memory and the device.
    Host(Direction, Bytes),
    /// Reads of a workgroup's shared memory with conflicts of so many ways.
    Shared(u32),
}

impl Shape {
    /// The id's text, of which [`Shape::parse`] is the inverse.
    fn id(self) -> String {
        match self {
            Self::Stream(s) if s.cache == Cache::Hot => format!("memory/{}/{}/f32/hot", s.op.name(), s.array),
            Self::Stream(s) => format!("memory/{}/{}/f32", s.op.name(), s.array),
            Self::Latency(footprint) => format!("memory/latency/{footprint}"),
            Self::Host(direction, bytes) => format!("memory/{}/{bytes}", direction.name()),
            Self::Shared(1) => format!("memory/shared/{SHARED}"),
            Self::Shared(ways) => format!("memory/shared/{SHARED}/ways{ways}"),
        }
    }

    /// The shape of an id. Only the canonical spelling counts, so that one case has one id.
    pub(crate) fn parse(id: &str) -> Option<Self> {
        let segments: Vec<&str> = id.split('/').collect();
        let (name, size, rest) = match segments.as_slice() {
            ["memory", name, size, rest @ ..] => (*name, size.parse::<Bytes>().ok()?, rest),
            _ => return None,
        };
        let direction = Direction::ALL.into_iter().find(|d| d.name() == name);
        let shape = if let ("latency", []) = (name, rest) {
            Self::Latency(size)
        } else if let (Some(direction), []) = (direction, rest) {
            Self::Host(direction, size)
        } else if name == "shared" {
            WAYS.into_iter().map(Self::Shared).find(|shape| shape.id() == id)?
        } else {
            let cache = match rest {
                ["f32"] => Cache::Cold,
                ["f32", "hot"] => Cache::Hot,
                _ => return None,
            };
            Self::Stream(Stream { op: Op::ALL.into_iter().find(|op| op.name() == name)?, array: size, cache })
        };
        // 4 KiB is the least that says anything; 1 TiB is more than any device has.
        let sane = (4096..=1 << 40).contains(&size.0) && size.0.is_multiple_of(256);
        (sane && shape.id() == id).then_some(shape)
    }

    /// The case of it.
    pub(crate) fn case(self) -> Option<Case> {
        let id = CaseId::new(self.id()).ok()?;
        Some(match self {
            Self::Stream(s) => Case {
                id,
                component: Component::Memory,
                dtype: Dtype::F32,
                metric: Metric::Bandwidth,
                level: if s.cache == Cache::Hot { Level::Cache } else { Level::Dram },
                work: Work::bytes(s.array * s.op.arrays()),
                cache: s.cache,
                data: Distribution::Normal,
            },
            Self::Latency(footprint) => Case {
                id,
                component: Component::Memory,
                dtype: Dtype::F32,
                metric: Metric::Latency,
                level: Level::Cache,
                work: Work { steps: CHASE_STEPS, ..Work::bytes(footprint) },
                cache: Cache::Hot,
                data: Distribution::None,
            },
            Self::Host(_, bytes) => Case {
                id,
                component: Component::Memory,
                dtype: Dtype::F32,
                metric: Metric::Bandwidth,
                level: Level::Host,
                work: Work::bytes(bytes),
                cache: Cache::Cold,
                data: Distribution::Normal,
            },
            Self::Shared(_) => Case {
                id,
                component: Component::Memory,
                dtype: Dtype::F32,
                metric: Metric::Bandwidth,
                level: Level::Shared,
                work: Work::bytes(SHARED),
                cache: Cache::Hot,
                data: Distribution::Normal,
            },
        })
    }
}

/// The shapes of a scope.
pub(crate) fn list(scope: &Scope) -> Vec<Shape> {
    let dram = dram_array(scope);
    // Scale is copy and add is triad as far as memory is concerned, and dot is read twice: a first look does without them.
    let (ops, staircase, step): (&[Op], &[Op], u64) = match scope.profile {
        Profile::Quick => (&[Op::Read, Op::Write, Op::Copy, Op::Triad], &[Op::Read], 16),
        Profile::Standard => (&Op::ALL, &[Op::Read, Op::Copy, Op::Triad], 2),
        Profile::Full => (&Op::ALL, &Op::ALL, 2),
    };
    let mut shapes: Vec<Shape> =
        ops.iter().map(|op| Shape::Stream(Stream { op: *op, array: dram, cache: Cache::Cold })).collect();
    // From 8 KiB a unit, so that three arrays fit its first cache, to twice the last-level cache and so into memory. Where one
    // size must do for that cache it is twice as large: it still fits, and its loop's ends weigh half.
    let least = if scope.profile == Profile::Quick { 16 << 10 } else { 8 << 10 };
    let first = (u64::from(scope.units) * least).next_power_of_two();
    let last = (2 * scope.last_level_cache.0).next_power_of_two().min(dram.0);
    for &op in staircase {
        shapes.extend(steps(first, last, step).map(|array| Shape::Stream(Stream { op, array, cache: Cache::Hot })));
    }
    if scope.class != Class::Cpu {
        let ways = if scope.profile == Profile::Quick { &WAYS[..1] } else { &WAYS };
        shapes.extend(ways.iter().copied().map(Shape::Shared));
        // Large enough that a link's latency does not matter.
        let bytes = dram.min(Bytes::mib(256));
        shapes.extend(Direction::ALL.map(|direction| Shape::Host(direction, bytes)));
    }
    // One thread chases, whatever the number of units; its last footprint is all but never in a cache.
    let last = (8 * scope.last_level_cache.0).next_power_of_two().max(128 << 20).min(dram.0);
    shapes.extend(steps(16 << 10, last, step).map(Shape::Latency));
    shapes
}

/// Sizes from `first` to `last`, each `step` times the one before; `last` is always among them.
fn steps(first: u64, last: u64, step: u64) -> impl Iterator<Item = Bytes> {
    std::iter::successors(Some(first.min(last)), move |s| (*s < last).then(|| (s * step).min(last))).map(Bytes)
}

/// One array of the DRAM cases: four times the last-level cache at least, so that nothing of one pass is left for the next.
fn dram_array(scope: &Scope) -> Bytes {
    let least = match scope.class {
        Class::Cpu => 256 << 20,
        Class::SoftwareGpu => 64 << 20,
        Class::Gpu => 1 << 30,
    };
    let wanted = (4 * scope.last_level_cache.0).next_power_of_two().max(least);
    // Three arrays must fit in half of the memory.
    let most = (scope.memory.0 / 6).max(1 << 20);
    Bytes(if wanted <= most { wanted } else { 1 << most.ilog2() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_shape() -> impl Strategy<Value = Shape> {
        // Any multiple of 256, and the powers of two that people use.
        let size = prop_oneof![(16u64..1 << 32).prop_map(|n| n * 256), (12u32..=40).prop_map(|bits| 1 << bits)].prop_map(Bytes);
        let stream = (0..Op::ALL.len(), size.clone(), prop::bool::ANY).prop_map(|(op, array, hot)| {
            Shape::Stream(Stream { op: Op::ALL[op], array, cache: if hot { Cache::Hot } else { Cache::Cold } })
        });
        let host = (prop::sample::select(Direction::ALL.to_vec()), size.clone()).prop_map(|(d, bytes)| Shape::Host(d, bytes));
        let shared = prop::sample::select(WAYS.to_vec()).prop_map(Shape::Shared);
        prop_oneof![4 => stream, 1 => size.prop_map(Shape::Latency), 1 => host, 1 => shared]
    }

    proptest! {
        #[test]
        fn an_id_gives_its_shape_back_and_no_other(a in any_shape(), b in any_shape()) {
            prop_assert_eq!(Shape::parse(&a.id()), Some(a));
            prop_assert!(CaseId::new(a.id()).is_ok());
            prop_assert_eq!(a == b, a.id() == b.id());
        }

        #[test]
        fn no_text_panics_the_parser(text in "(memory/)?[a-z0-9/KMGiBx]{0,40}") {
            if let Some(shape) = Shape::parse(&text) {
                prop_assert_eq!(shape.id(), text);
            }
        }
    }

    #[test]
    fn only_the_canonical_spelling_is_an_id() {
        for id in [
            "memory/copy/256MiB/f32",
            "memory/read/16KiB/f32/hot",
            "memory/latency/1MiB",
            "memory/h2d/256MiB",
            "memory/shared/32KiB",
            "memory/shared/32KiB/ways4",
        ] {
            assert_eq!(Shape::parse(id).map(Shape::id).as_deref(), Some(id));
        }
        for id in [
            "memory/copy/1024KiB/f32",
            "memory/copy/1MiB",
            "memory/jump/1MiB/f32",
            "memory/copy/1B/f32",
            "memory/latency/1MiB/f32",
            "memory/latency/01MiB",
            "memory/d2h/1MiB/f32",
            "memory/shared/64KiB",
            "memory/shared/32KiB/ways3",
            "gemm/x",
        ] {
            assert_eq!(Shape::parse(id), None, "{id}");
        }
    }

    #[test]
    fn bytes_are_counted_as_babelstream_does() {
        let bytes =
            |op| Shape::Stream(Stream { op, array: Bytes(1 << 20), cache: Cache::Cold }).case().unwrap().work.bytes.0 >> 20;
        assert_eq!([Op::Read, Op::Write, Op::Copy, Op::Scale, Op::Add, Op::Triad, Op::Dot].map(bytes), [1, 1, 2, 2, 3, 3, 2]);
    }

    #[test]
    fn the_staircase_reaches_from_the_first_cache_into_memory() {
        for class in [Class::Cpu, Class::Gpu] {
            for profile in [Profile::Quick, Profile::Standard, Profile::Full] {
                let scope = Scope::typical(class, profile);
                let shapes = list(&scope);
                let hot = |op: Op| {
                    shapes.iter().filter_map(move |s| match s {
                        Shape::Stream(s) if s.op == op && s.cache == Cache::Hot => Some(s.array.0),
                        _ => None,
                    })
                };
                assert!(hot(Op::Read).min().unwrap() <= (u64::from(scope.units) * (16 << 10)).next_power_of_two());
                assert!(hot(Op::Read).max().unwrap() >= 2 * scope.last_level_cache.0);
                let cold = shapes.iter().filter_map(|s| match s {
                    Shape::Stream(s) if s.cache == Cache::Cold => Some(s.array.0),
                    _ => None,
                });
                assert!(cold.min().unwrap() >= 4 * scope.last_level_cache.0);
            }
        }
    }

    #[test]
    fn three_arrays_fit_in_half_of_a_small_memory() {
        let scope = Scope { memory: Bytes::mib(512), ..Scope::typical(Class::Cpu, Profile::Full) };
        for shape in list(&scope) {
            let case = shape.case().unwrap();
            assert!(case.work.bytes.0 <= 256 << 20, "{}", case.id);
        }
    }
}
