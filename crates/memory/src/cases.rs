//! The cases: shapes, their ids, and which of them a scope holds.

use crate::links::{Host, Link, Route};
use crate::patterns::{Pattern, Spread};
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
    /// A fill by the device's own means, such as a memset.
    Init,
}

impl Op {
    pub(crate) const ALL: [Self; 8] =
        [Self::Read, Self::Write, Self::Copy, Self::Scale, Self::Add, Self::Triad, Self::Dot, Self::Init];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Copy => "copy",
            Self::Scale => "scale",
            Self::Add => "add",
            Self::Triad => "triad",
            Self::Dot => "dot",
            Self::Init => "init",
        }
    }

    /// Arrays read.
    pub(crate) const fn inputs(self) -> u64 {
        match self {
            Self::Write | Self::Init => 0,
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

/// A pointer chase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chase {
    pub(crate) footprint: Bytes,
    /// How far apart its elements are beyond a cache line: pages, for what the TLB adds. None for lines side by side.
    pub(crate) stride: Option<Bytes>,
}

/// Bank conflicts that a read of workgroup memory may have, in ways; 1 is none.
pub(crate) const WAYS: [u32; 4] = [1, 2, 4, 8];

/// What a memory case measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Stream(Stream),
    Latency(Chase),
    Link(Link),
    Pattern(Pattern),
    /// Reads of a workgroup's shared memory with conflicts of so many ways.
    Shared(u32),
}

impl Shape {
    /// The id's text, of which [`Shape::parse`] is the inverse.
    fn id(self) -> String {
        match self {
            Self::Stream(s) if s.cache == Cache::Hot => format!("memory/{}/{}/f32/hot", s.op.name(), s.array),
            Self::Stream(s) => format!("memory/{}/{}/f32", s.op.name(), s.array),
            Self::Latency(Chase { footprint, stride: None }) => format!("memory/latency/{footprint}"),
            Self::Latency(Chase { footprint, stride: Some(stride) }) => format!("memory/latency/{footprint}/stride{stride}"),
            Self::Link(link) => link.id(),
            Self::Pattern(pattern) => pattern.id(),
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
        let latency = |stride| Some(Self::Latency(Chase { footprint: size, stride }));
        let shape = if let ("latency", []) = (name, rest) {
            latency(None)?
        } else if let ("latency", [stride]) = (name, rest) {
            let stride = stride.strip_prefix("stride")?.parse::<Bytes>().ok()?;
            // At least a few elements, each with its eight bytes aligned.
            let sane = stride.0.is_multiple_of(64) && stride.0 > 0 && stride.0 <= size.0 / 4;
            latency(Some(stride).filter(|_| sane))?
        } else if let Some(link) = Link::parse(name, size, rest) {
            Self::Link(link)
        } else if let Some(pattern) = Pattern::parse(name, size, rest) {
            Self::Pattern(pattern)
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
                data: if s.op == Op::Init { Distribution::Constant } else { Distribution::Normal },
            },
            Self::Latency(chase) => Case {
                id,
                component: Component::Memory,
                dtype: Dtype::F32,
                metric: Metric::Latency,
                level: Level::Cache,
                work: Work { steps: CHASE_STEPS, ..Work::bytes(chase.footprint) },
                cache: Cache::Hot,
                data: Distribution::None,
            },
            Self::Link(link) => return link.case(),
            Self::Pattern(pattern) => return pattern.case(),
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
        Profile::Full => (&Op::ALL, &Op::ALL[..7], 2),
    };
    let mut shapes: Vec<Shape> =
        ops.iter().map(|op| Shape::Stream(Stream { op: *op, array: dram, cache: Cache::Cold })).collect();
    // From 8 KiB a unit, so that three arrays fit its first cache, to four times the last-level cache and so into memory. Where one
    // size must do for that cache it is twice as large: it still fits, and its loop's ends weigh half.
    let least = if scope.profile == Profile::Quick { 16 << 10 } else { 8 << 10 };
    let first = (u64::from(scope.units) * least).next_power_of_two();
    let last = (4 * scope.last_level_cache.0).next_power_of_two().min(dram.0);
    for &op in staircase {
        // All of a GPU's units can read one set, which is then in each unit's first cache: its staircase begins there.
        let first = if op == Op::Read && scope.class == Class::Gpu { 16 << 10 } else { first };
        shapes.extend(steps(first, last, step).map(|array| Shape::Stream(Stream { op, array, cache: Cache::Hot })));
    }
    if scope.class != Class::Cpu {
        let ways = if scope.profile == Profile::Quick { &WAYS[..1] } else { &WAYS };
        shapes.extend(ways.iter().copied().map(Shape::Shared));
        // Large enough that a link's latency does not matter.
        shapes.extend(links(scope, dram.min(Bytes::mib(256))).into_iter().map(Shape::Link));
    }
    shapes.extend(patterns(scope, dram).into_iter().map(Shape::Pattern));
    // One thread chases, whatever the number of units; its last footprint is all but never in a cache.
    let last = (8 * scope.last_level_cache.0).next_power_of_two().max(128 << 20).min(dram.0);
    let chase = |footprint, stride| Shape::Latency(Chase { footprint, stride });
    shapes.extend(steps(16 << 10, last, step).map(|footprint| chase(footprint, None)));
    if scope.profile != Profile::Quick && scope.class != Class::SoftwareGpu {
        // What the TLB adds: few lines, far apart. A GPU's reaches over gigabytes.
        let (first, last, stride) = match scope.class {
            Class::Gpu => (Bytes::mib(32), Bytes(16 << 30), Bytes::kib(64)),
            _ => (Bytes::mib(1), Bytes(1 << 30), Bytes::kib(4)),
        };
        let last = last.min(Bytes(scope.memory.0 / 4));
        let footprints = steps(first.0, last.0, 8).filter(|footprint| footprint.0.is_power_of_two());
        shapes.extend(footprints.map(|footprint| chase(footprint, Some(stride))));
    }
    shapes
}

/// Links of a scope: to the host, and to every other device.
fn links(scope: &Scope, bytes: Bytes) -> Vec<Link> {
    let host = |route, host| Link::Host(route, bytes, host);
    let one_way = [Route::ToDevice, Route::ToHost];
    let mut links: Vec<Link> = one_way.iter().map(|route| host(*route, Host::Pinned)).collect();
    let peers = (0..scope.devices).filter(|to| *to != scope.index);
    let peer = |to, both| Link::Peer { to, bytes, both };
    if scope.profile == Profile::Quick {
        links.extend(peers.map(|to| peer(to, false)));
        return links;
    }
    if scope.class == Class::Gpu {
        links.push(host(Route::Both, Host::Pinned));
        links.extend(one_way.map(|route| host(route, Host::Pageable)));
        if scope.nodes.len() > 1 {
            links.extend(scope.nodes.iter().flat_map(|node| one_way.map(|route| host(route, Host::Node(*node)))));
        }
        if scope.devices > 1 {
            links.extend(one_way.map(|route| host(route, Host::Devices(scope.devices))));
        }
    }
    links.extend(peers.flat_map(|to| [peer(to, false), peer(to, true)]));
    links
}

/// Access patterns of a scope.
fn patterns(scope: &Scope, dram: Bytes) -> Vec<Pattern> {
    if scope.class == Class::SoftwareGpu {
        return Vec::new();
    }
    let pages = |tokens| Pattern::Pages(dram, tokens);
    let row = |bytes| Pattern::Rows(dram, Bytes(bytes));
    let stride = |floats| Pattern::Strided(dram, floats);
    let mut patterns = match scope.profile {
        Profile::Quick => vec![pages(16)],
        Profile::Standard => vec![pages(16), pages(64), row(512), row(8192), stride(2), stride(8), stride(32)],
        Profile::Full => {
            let mut all = vec![pages(16), pages(64)];
            all.extend([256, 512, 1024, 2048, 4096, 8192, 16384].map(row));
            all.extend([2, 4, 8, 16, 32, 64].map(stride));
            all
        }
    };
    if scope.class == Class::Gpu && scope.profile != Profile::Quick {
        patterns.extend(Spread::ALL.map(|spread| Pattern::Atomics(Bytes::mib(32), spread)));
    }
    patterns
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
        let chase = (size.clone(), prop::option::of(1u64..1 << 20)).prop_map(|(footprint, lines)| {
            let stride = lines.map(|lines| Bytes(lines * 64)).filter(|stride| stride.0 <= footprint.0 / 4);
            Shape::Latency(Chase { footprint, stride })
        });
        let host = prop_oneof![
            Just(Host::Pinned),
            Just(Host::Pageable),
            (0usize..64).prop_map(Host::Node),
            (2usize..64).prop_map(Host::Devices)
        ];
        let link = (prop::sample::select(Route::ALL.to_vec()), size.clone(), host, 0usize..64, prop::bool::ANY).prop_map(
            |(route, bytes, host, to, both)| match (route, host) {
                (Route::Both, Host::Devices(_)) => Shape::Link(Link::Peer { to, bytes, both }),
                _ => Shape::Link(Link::Host(route, bytes, host)),
            },
        );
        let pattern = (0u32..4, 12u32..40, prop::sample::select(Spread::ALL.to_vec())).prop_map(|(kind, bits, spread)| {
            let size = Bytes(1 << bits);
            Shape::Pattern(match kind {
                0 => Pattern::Pages(size, 1 << (bits % 2)),
                1 => Pattern::Rows(size, Bytes((1 << (bits % 5 + 4)).max(size.0 >> 31))),
                2 => Pattern::Strided(size, 1 << (bits % 7)),
                _ => Pattern::Atomics(Bytes(1 << (19 + bits % 7)), spread),
            })
        });
        let shared = prop::sample::select(WAYS.to_vec()).prop_map(Shape::Shared);
        prop_oneof![4 => stream, 1 => chase, 1 => link, 1 => pattern, 1 => shared]
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
            "memory/latency/1GiB/stride64KiB",
            "memory/init/1GiB/f32",
            "memory/h2d/256MiB",
            "memory/bidir/256MiB",
            "memory/d2h/256MiB/pageable",
            "memory/h2d/256MiB/node1",
            "memory/h2d/256MiB/devices8",
            "memory/p2p/256MiB/to3",
            "memory/p2p/256MiB/to3/bidir",
            "memory/kvpages/1GiB/tokens16",
            "memory/rows/1GiB/row8KiB",
            "memory/strided/1GiB/f32/stride8",
            "memory/atomics/32MiB/f32/line",
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
            "memory/latency/1MiB/stride1MiB",
            "memory/latency/1MiB/stride1024B",
            "memory/h2d/256MiB/node01",
            "memory/h2d/256MiB/devices1",
            "memory/bidir/256MiB/devices2",
            "memory/p2p/256MiB",
            "memory/p2p/256MiB/to3/both",
            "memory/p2p/256MiB/to99",
            "memory/kvpages/4KiB/tokens16",
            "memory/rows/1GiB/row10B",
            "memory/atomics/1GiB/f32/one",
            "memory/atomics/32MiB/f32/all",
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
        assert_eq!(Op::ALL.map(bytes), [1, 1, 2, 2, 3, 3, 2, 1]);
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
                assert!(hot(Op::Read).max().unwrap() >= 4 * scope.last_level_cache.0);
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
