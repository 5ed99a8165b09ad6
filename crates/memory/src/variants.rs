//! Who can do a memory case on which device, and how each launches it. Adding a variant is adding a line to [`VARIANTS`].

use crate::bulk;
use crate::cases::{Op, Shape, Stream};
use crate::links::Link;
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
    Variant { provider: "native", backends: &[Backend::Cpu, Backend::Fake], suffix: Some(""), ops: KERNELS },
    Variant { provider: "fill", backends: &[Backend::Cpu, Backend::Fake], suffix: None, ops: &[Op::Init] },
    Variant {
        provider: "native-nt",
        backends: &[Backend::Cpu],
        suffix: Some("_nt"),
        ops: &[Op::Write, Op::Copy, Op::Scale, Op::Add, Op::Triad],
    },
    Variant { provider: "kernel", backends: GPUS, suffix: Some(""), ops: KERNELS },
    Variant {
        provider: bulk::PROVIDER,
        backends: &[Backend::Cuda],
        suffix: Some(""),
        ops: &[Op::Read, Op::Copy, Op::Triad, Op::Dot],
    },
    Variant { provider: "copy-engine", backends: GPUS, suffix: None, ops: &[Op::Copy] },
    Variant { provider: "fill", backends: GPUS, suffix: None, ops: &[Op::Init] },
];

const GPUS: &[Backend] = &[Backend::Cuda, Backend::Hip, Backend::Vulkan];
/// Ops that kernels do.
const KERNELS: &[Op] = &[Op::Read, Op::Write, Op::Copy, Op::Scale, Op::Add, Op::Triad, Op::Dot];

impl Variant {
    fn does(&self, stream: Stream, backend: Backend) -> bool {
        // Stores around the caches have no place in a cache's staircase.
        let cached = stream.cache == ridgepoint_core::Cache::Hot;
        self.backends.contains(&backend)
            && self.ops.contains(&stream.op)
            && !(cached && self.provider != "native" && self.provider != "kernel")
    }

    /// True where a kernel of its own reads a cached set.
    pub(crate) fn climbs(&self, stream: Stream, backend: Backend) -> bool {
        stream.cache == ridgepoint_core::Cache::Hot
            && stream.op == Op::Read
            && self.provider == "kernel"
            && matches!(backend, Backend::Cuda | Backend::Hip | Backend::Vulkan)
    }
}

/// The providers of a shape on a device.
pub(crate) fn providers(shape: Shape, device: &dyn Device) -> Vec<String> {
    let backend = device.info().backend;
    let stream = match shape {
        Shape::Stream(stream) => stream,
        // What one device writes into another's memory by its own stores.
        Shape::Link(Link::Peer { .. }) if matches!(backend, Backend::Cuda | Backend::Hip) => {
            return vec!["copy-engine".into(), "kernel".into()];
        }
        Shape::Link(_) => return vec!["copy-engine".into()],
        Shape::Shared(_) => return vec!["kernel".into()],
        Shape::Pattern(_) => {
            return vec![if backend == Backend::Cpu || backend == Backend::Fake { "native" } else { "kernel" }.into()];
        }
        Shape::Latency(_) => {
            return vec![if backend == Backend::Cpu || backend == Backend::Fake { "native" } else { "kernel" }.into()];
        }
    };
    let there = |v: &&Variant| v.does(stream, backend) && (v.provider != bulk::PROVIDER || bulk::fits(device));
    VARIANTS.iter().filter(there).map(|v| v.provider.to_owned()).collect()
}

/// The variant of this name for a device.
pub(crate) fn find(stream: Stream, provider: &str, backend: Backend) -> Option<&'static Variant> {
    VARIANTS.iter().find(|v| v.provider == provider && v.does(stream, backend))
}
