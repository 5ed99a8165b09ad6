//! One trait for every device, one folder for every way to drive one: `cuda/`, `hip/`, `vulkan/`, `cpu/`, `fake/`, each
//! with the same file names. The only crate with `unsafe`; everything above it is safe code over [`Device`].
//!
//! Nothing here needs a toolkit to build: vendor libraries are found and loaded at run time, and one that is missing is a
//! sentence in [`Discovery`] and a Skipped in a run.
#![expect(unsafe_code, reason = "the one crate that talks to hardware; each block states why it is sound")]

pub mod beside;
mod buffer;
mod cache;
mod capability;
mod collectives;
#[cfg(test)]
mod conformance;
pub mod cpu;
mod cuda;
mod dl;
mod error;
pub mod fake;
mod finder;
mod gpu;
mod hip;
mod host_memory;
mod kernel;
mod lateness;
#[cfg(target_os = "linux")]
pub mod launched;
#[cfg(test)]
mod machine;
mod mortal;
pub mod network;
pub mod notes;
mod probe;
mod received;
mod scales;
mod sources;
mod traits;
pub mod transport;
mod vulkan;

pub use buffer::Buffer;
pub use capability::{
    AttentionKernels, AttentionOperands, AttentionPlan, AttentionProblem, Blas, GemmOperands, GemmPlan, GemmProblem, Matrix,
    Paged, Support, Transpose,
};
pub use collectives::{
    Checked, CollectiveOp, CollectiveProblem, Collectives, Communicator, Exchange, Piece, RankPlace, Redop, Registration,
    Rounding,
};
pub use error::{DeviceError, Result};
pub use host_memory::nodes;
pub use kernel::{Arg, Geometry, Kernel, Program, Resources, TensorMap};
pub use mortal::die_with_parent;
pub use probe::{Discovery, Finding, Found, PROBES, Probe, Selected, all_devices, open};
pub use received::{Expected, Received};
pub use scales::{ScaleOrder, ScaleType, Scales, Scaling};
pub use traits::{Device, Event, Graph, Hold, HostMemory, MatrixShape, Reading, Sensors, Sibling, Timing, Transfer};
