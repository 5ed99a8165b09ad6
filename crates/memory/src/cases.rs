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

/// What a memory case measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Stream(Stream),
    /// A pointer chase over so many bytes.
    Latency(Bytes),
}

impl Shape {
    /// The id's text, of which [`Shape::parse`] is the inverse.
    fn id(self) -> String {
        match self {
            Self::Stream(s) if s.cache == Cache::Hot => format!("memory/{}/{}/f32/hot", s.op.name(), s.array),
            Self::Stream(s) => format!("memory/{}/{}/f32", s.op.name(), s.array),
            Self::Latency(footprint) => format!("memory/latency/{footprint}"),
        }
    }

    /// The shape of an id. Only the canonical spelling counts, so that one case has one id.
    pub(crate) fn parse(id: &str) -> Option<Self> {
        let segments: Vec<&str> = id.split('/').collect();
        let (name, size, rest) = match segments.as_slice() {
            ["memory", name, size, rest @ ..] => (*name, size.parse::<Bytes>().ok()?, rest),
            _ => return None,
        };
        let shape = if name == "latency" {
            rest.is_empty().then_some(Self::Latency(size))?
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
        })
    }
}

/// The shapes of a scope.
pub(crate) fn list(scope: &Scope) -> Vec<Shape> {
    let quick = scope.profile == Profile::Quick;
    let dram = dram_array(scope);
    let mut shapes: Vec<Shape> =
        Op::ALL.into_iter().map(|op| Shape::Stream(Stream { op, array: dram, cache: Cache::Cold })).collect();
    let ops: &[Op] = match scope.profile {
        Profile::Quick => &[Op::Read],
        Profile::Standard => &[Op::Read, Op::Copy, Op::Triad],
        Profile::Full => &Op::ALL,
    };
    let step = if quick { 4 } else { 2 };
    // To twice the last-level cache and on into memory.
    let end = (2 * scope.last_level_cache.0).next_power_of_two().min(dram.0);
    for &op in ops {
        let steps = std::iter::successors(Some(16 << 10), |s| Some(s * step)).take_while(|s| *s <= end);
        shapes.extend(steps.map(|s| Shape::Stream(Stream { op, array: Bytes(s), cache: Cache::Hot })));
    }
    let step = if quick { 16 } else { 2 };
    let steps = std::iter::successors(Some(16 << 10), |s| Some(s * step)).take_while(|s| *s <= end.max(256 << 20));
    shapes.extend(steps.map(|s| Shape::Latency(Bytes(s))));
    shapes
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

    #[test]
    fn only_the_canonical_spelling_is_an_id() {
        for id in ["memory/copy/256MiB/f32", "memory/read/16KiB/f32/hot", "memory/latency/1MiB"] {
            assert_eq!(Shape::parse(id).map(Shape::id).as_deref(), Some(id));
        }
        for id in [
            "memory/copy/1024KiB/f32",
            "memory/copy/1MiB",
            "memory/jump/1MiB/f32",
            "memory/copy/1B/f32",
            "memory/latency/1MiB/f32",
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
}
