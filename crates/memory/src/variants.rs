//! Who can do a memory case on which device, and how each launches it. Adding a variant is adding a line to [`VARIANTS`].

use crate::cases::{Op, Shape, Stream};
use ridgepoint_core::Backend;
use ridgepoint_device::Device;

/// The scalar of write, scale and triad: a power of two, so that the product of a triad is exact.
pub(crate) const SCALAR: f32 = 0.5;

/// A way to run streams.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variant {
    /// The provider's name.
    pub(crate) provider: &'static str,
    /// The backends it runs on.
    pub(crate) backends: &'static [Backend],
    /// The kernel's entry is `rp_<op><suffix>`; None for the device's own copy.
    pub(crate) suffix: Option<&'static str>,
    /// The ops that it has.
    pub(crate) ops: &'static [Op],
}

/// All variants.
pub(crate) const VARIANTS: &[Variant] = &[
    Variant { provider: "native", backends: &[Backend::Cpu, Backend::Fake], suffix: Some(""), ops: &Op::ALL },
    Variant {
        provider: "native-nt",
        backends: &[Backend::Cpu],
        suffix: Some("_nt"),
        ops: &[Op::Write, Op::Copy, Op::Scale, Op::Add, Op::Triad],
    },
    Variant { provider: "kernel", backends: &[Backend::Cuda, Backend::Hip, Backend::Vulkan], suffix: Some(""), ops: &Op::ALL },
    Variant {
        provider: "copy-engine",
        backends: &[Backend::Cuda, Backend::Hip, Backend::Vulkan],
        suffix: None,
        ops: &[Op::Copy],
    },
];

impl Variant {
    fn does(&self, stream: Stream, backend: Backend) -> bool {
        // Stores around the caches have no place in a cache's staircase.
        let cached = stream.cache == ridgepoint_core::Cache::Hot;
        self.backends.contains(&backend)
            && self.ops.contains(&stream.op)
            && !(cached && self.provider != "native" && self.provider != "kernel")
    }
}

/// The providers of a shape on a device.
pub(crate) fn providers(shape: Shape, device: &dyn Device) -> Vec<String> {
    let backend = device.info().backend;
    let stream = match shape {
        Shape::Stream(stream) => stream,
        Shape::Host(..) => return vec!["copy-engine".into()],
        Shape::Shared(_) => return vec!["kernel".into()],
        Shape::Latency(_) => {
            return vec![if backend == Backend::Cpu || backend == Backend::Fake { "native" } else { "kernel" }.into()];
        }
    };
    VARIANTS.iter().filter(|v| v.does(stream, backend)).map(|v| v.provider.to_owned()).collect()
}

/// The variant of this name for a device.
pub(crate) fn find(stream: Stream, provider: &str, backend: Backend) -> Option<&'static Variant> {
    VARIANTS.iter().find(|v| v.provider == provider && v.does(stream, backend))
}

/// How a stream's kernel is launched on a GPU: what kernels/memory/stream.cu lets the host choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Launch {
    /// Threads of a block (RP_BLOCK).
    pub(crate) block: u32,
    /// 16-byte loads in flight a thread (RP_UNROLL).
    pub(crate) unroll: u32,
    /// Blocks a unit for a persistent grid; 0 for a block each tile.
    pub(crate) per_unit: u32,
    /// 0: blocks take tiles in turn; 1: each owns one contiguous run.
    pub(crate) order: u32,
    /// How loads and stores treat the caches (RP_HINT_LOAD, RP_HINT_STORE of kernels/common/rp.h).
    pub(crate) hints: [u32; 2],
}

const fn launch(block: u32, unroll: u32, per_unit: u32, order: u32, hints: [u32; 2]) -> Launch {
    Launch { block, unroll, per_unit, order, hints }
}

/// What is tried for a stream through device memory; the fastest is kept and reported.
pub(crate) const LAUNCHES: &[Launch] = &[
    launch(512, 4, 0, 0, [1, 2]),
    launch(512, 2, 0, 0, [1, 2]),
    launch(256, 4, 0, 0, [1, 2]),
    launch(512, 1, 0, 0, [0, 0]),
    launch(256, 4, 8, 0, [1, 2]),
    launch(512, 4, 4, 0, [3, 2]),
    launch(256, 8, 8, 1, [1, 2]),
    launch(1024, 4, 2, 0, [1, 2]),
];

/// What is tried for a sum: the grid is persistent, since each block leaves one partial sum.
pub(crate) const FOLDS: &[Launch] = &[
    launch(512, 4, 4, 0, [1, 0]),
    launch(256, 8, 8, 0, [1, 0]),
    launch(512, 8, 4, 0, [3, 0]),
    launch(1024, 4, 2, 0, [1, 0]),
    launch(256, 4, 32, 0, [1, 0]),
    launch(512, 4, 16, 1, [1, 0]),
];

/// The same for WGSL, which has no cache hints.
pub(crate) const WGSL_LAUNCHES: &[Launch] =
    &[launch(256, 4, 0, 0, [0, 0]), launch(256, 1, 0, 0, [0, 0]), launch(512, 2, 0, 0, [0, 0]), launch(256, 4, 16, 0, [0, 0])];
pub(crate) const WGSL_FOLDS: &[Launch] =
    &[launch(256, 4, 16, 0, [0, 0]), launch(512, 4, 8, 0, [0, 0]), launch(256, 8, 8, 1, [0, 0])];
pub(crate) const WGSL_CACHED: Launch = launch(256, 4, 8, 0, [0, 0]);

/// Inside a cache: loads may use L1, and a persistent grid that fills the device.
pub(crate) const CACHED: Launch = launch(512, 4, 4, 0, [0, 0]);
