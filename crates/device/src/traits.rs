//! The device trait. Mechanism alone: what to measure, how often and when to stop is the harness's.

use crate::{Arg, AttentionKernels, Blas, Buffer, Collectives, DeviceError, Geometry, Kernel, Program, Result, TensorMap};
use ridgepoint_core::record::Clock;
use ridgepoint_core::{DeviceInfo, Dtype, Seconds};
use std::any::Any;
use std::collections::BTreeMap;

/// A device in one process. Calls enqueue on one in-order stream unless they say otherwise; methods take `&self` and a
/// device belongs to one thread at a time. A CPU device may execute at once what a GPU only enqueues.
pub trait Device: Send {
    /// Facts, observed when it was opened.
    fn info(&self) -> &DeviceInfo;

    /// Allocates `len` bytes, aligned to at least 256, contents undefined.
    ///
    /// # Errors
    /// `OutOfMemory`, after which the device is as usable as before.
    fn alloc(&self, len: usize) -> Result<Buffer>;

    /// Copies host bytes to `dst` at `offset`; done when it returns.
    ///
    /// # Errors
    /// `Invalid` for a range past the end; a driver error otherwise.
    fn upload(&self, dst: &Buffer, offset: usize, src: &[u8]) -> Result<()>;

    /// Copies from `src` at `offset` to the host; waits for all work enqueued before.
    ///
    /// # Errors
    /// As [`Device::upload`].
    fn download(&self, src: &Buffer, offset: usize, dst: &mut [u8]) -> Result<()>;

    /// Enqueues a copy of `len` bytes by the copy engine (`memcpy` on a CPU).
    ///
    /// # Errors
    /// As [`Device::upload`].
    fn copy(&self, src: &Buffer, src_offset: usize, dst: &Buffer, dst_offset: usize, len: usize) -> Result<()>;

    /// Enqueues a fill of the whole buffer with one byte.
    ///
    /// # Errors
    /// A driver error.
    fn fill(&self, dst: &Buffer, byte: u8) -> Result<()>;

    /// Compiles `entry` of `program`, or takes it from the cache.
    ///
    /// # Errors
    /// `Unsupported` where the program has no form for this backend, `Compile` with the compiler's log.
    fn compile(&self, program: &Program<'_>, entry: &str) -> Result<Kernel>;

    /// Enqueues a launch.
    ///
    /// # Errors
    /// `Invalid` for a geometry or argument that the device cannot take; a driver error otherwise.
    fn launch(&self, kernel: &Kernel, geometry: Geometry, args: &[Arg<'_>]) -> Result<()>;

    /// Waits for everything enqueued, and reports what failed in it.
    ///
    /// # Errors
    /// `Lost` or a driver error of the work itself.
    fn synchronize(&self) -> Result<()>;

    /// Enqueues a timestamp.
    ///
    /// # Errors
    /// A driver error.
    fn record(&self) -> Result<Event>;

    /// Time from `start` to `end`; waits for `end`.
    ///
    /// # Errors
    /// `Invalid` for another device's events.
    fn elapsed(&self, start: &Event, end: &Event) -> Result<Seconds>;

    /// Whose clock the events read.
    fn clock(&self) -> Clock {
        Clock::Device
    }

    /// Keeps work enqueued from now on from starting, until the returned guard is dropped, so that launch gaps stay out of
    /// a measurement. A timeout on the device releases it by itself. None where work starts at once (CPU).
    ///
    /// # Errors
    /// A driver error.
    fn hold(&self) -> Result<Option<Hold>> {
        Ok(None)
    }

    /// Records what `body` enqueues as a graph that [`Device::replay`] launches at once. None where there is no such thing.
    ///
    /// # Errors
    /// A driver error, or that of `body`.
    fn capture(&self, _body: &mut dyn FnMut() -> Result<()>) -> Result<Option<Graph>> {
        Ok(None)
    }

    /// Enqueues a captured graph.
    ///
    /// # Errors
    /// `Invalid` for another device's graph.
    fn replay(&self, _graph: &Graph) -> Result<()> {
        Err(DeviceError::unsupported("this device has no graphs"))
    }

    /// Enqueues whatever drives the contents of the last-level cache out (a write of twice its size).
    ///
    /// # Errors
    /// A driver error.
    fn evict(&self) -> Result<()>;

    /// Core clock in MHz from the device's own counters over a short kernel enqueued now; None where it has none.
    ///
    /// # Errors
    /// A driver error.
    fn observed_mhz(&self) -> Result<Option<f64>> {
        Ok(None)
    }

    /// Sensors that may be read from another thread while work runs; None where there are none.
    fn sensors(&self) -> Option<Box<dyn Sensors>> {
        None
    }

    /// Host memory that the device copies at full speed (page-locked); plain memory where there is no difference.
    ///
    /// # Errors
    /// `OutOfMemory` or a driver error.
    fn alloc_host(&self, _len: usize) -> Result<Buffer> {
        Err(DeviceError::unsupported("this device shares the host's memory: there is no host link to measure"))
    }

    /// Host memory of a kind: pageable, or on one NUMA node.
    ///
    /// # Errors
    /// As [`Device::alloc_host`]; `Unsupported` where the device knows no such kind.
    fn alloc_host_as(&self, len: usize, kind: HostMemory) -> Result<Buffer> {
        if kind == HostMemory::default() {
            return self.alloc_host(len);
        }
        Err(DeviceError::unsupported("this device knows one kind of host memory"))
    }

    /// Enqueues copies that may run at the same time, each in a queue of its own; work enqueued later waits for all of them. A
    /// copy's memory may be this device's, a sibling's or the host's.
    ///
    /// # Errors
    /// As [`Device::copy`]; `Unsupported` where copies only run one after the other.
    fn copy_at_once(&self, _copies: &[Transfer<'_>]) -> Result<()> {
        Err(DeviceError::unsupported("this device has one queue: copies run one after the other"))
    }

    /// Devices of this backend that this process can open, this one among them.
    fn siblings(&self) -> usize {
        1
    }

    /// Opens another device of this backend, for work between the two: each may be named in [`Device::copy_at_once`] of the
    /// other, directly where the two reach each other's memory and else through the host. Where they do, kernels of each may be
    /// given the other's buffers.
    ///
    /// # Errors
    /// `Unsupported` where there is no such device or it is this one.
    fn sibling(&self, index: usize) -> Result<Sibling> {
        Err(DeviceError::unsupported(format!("this machine has no device {index} beside this one")))
    }

    /// A descriptor for the tensor copy engine, to be passed as [`Arg::Bytes`].
    ///
    /// # Errors
    /// `Unsupported` where there is no such engine.
    fn tensor_map(&self, _buffer: &Buffer, _map: &TensorMap) -> Result<Vec<u8>> {
        Err(DeviceError::unsupported("this device has no tensor copy engine"))
    }

    /// Most bytes of one buffer that a kernel may be given; None where there is no such limit.
    fn binding_limit(&self) -> Option<u64> {
        None
    }

    /// Most bytes of shared memory that a kernel's block may ask for; None where the device does not say.
    fn shared_limit(&self) -> Option<u64> {
        None
    }

    /// Matrix products that a subgroup can do at once (Vulkan's cooperative matrices).
    fn matrices(&self) -> Vec<MatrixShape> {
        Vec::new()
    }

    /// GEMM libraries, the preferred one first.
    fn blas(&self) -> Vec<&dyn Blas> {
        Vec::new()
    }

    /// Attention libraries, the preferred one first.
    fn attention(&self) -> Vec<&dyn AttentionKernels> {
        Vec::new()
    }

    /// Communication between ranks, where this device can take part in it.
    fn collectives(&self) -> Option<&dyn Collectives> {
        None
    }

    /// Takes part in a job of several processes, as its rank 0: collectives are then between all of them.
    ///
    /// # Errors
    /// `Unsupported` where this device cannot, or where nothing connects the processes.
    #[cfg(target_os = "linux")]
    fn join(&mut self, _job: &std::sync::Arc<crate::launched::Job>) -> Result<()> {
        let id = &self.info().id;
        Err(DeviceError::unsupported(format!("{id} cannot take part in a launched job yet; --device cpu can")))
    }
}

/// Which host memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HostMemory {
    /// As a program gets it from malloc: a driver copies it in pieces through page-locked memory of its own.
    pub pageable: bool,
    /// The NUMA node that it lies on; None for wherever the system puts it.
    pub node: Option<usize>,
}

/// A copy of a whole range.
#[derive(Clone, Copy, Debug)]
pub struct Transfer<'a> {
    /// From …
    pub src: &'a Buffer,
    /// … at this byte …
    pub src_offset: usize,
    /// … to …
    pub dst: &'a Buffer,
    /// … at this byte …
    pub dst_offset: usize,
    /// … so many bytes.
    pub len: usize,
}

impl<'a> Transfer<'a> {
    /// All of `src` to the start of `dst`.
    #[must_use]
    pub fn whole(src: &'a Buffer, dst: &'a Buffer) -> Self {
        Self { src, src_offset: 0, dst, dst_offset: 0, len: src.len() }
    }
}

/// Another device of the same backend.
pub struct Sibling {
    /// The device.
    pub device: Box<dyn Device>,
    /// True if each reaches the other's memory; false if a copy between the two goes through the host.
    pub direct: bool,
}

/// A product of small matrices that one instruction of a subgroup does: C (m×n) += A (m×k) · B (k×n).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixShape {
    /// Rows of A and C.
    pub m: u32,
    /// Columns of B and C.
    pub n: u32,
    /// Columns of A and rows of B.
    pub k: u32,
    /// Type of A and B.
    pub input: Dtype,
    /// Type of C.
    pub output: Dtype,
    /// Threads of the subgroup.
    pub lanes: u32,
}

/// A timestamp in the stream.
pub struct Event(pub(crate) Box<dyn Any>);

/// A captured graph.
pub struct Graph(pub(crate) Box<dyn Any>);

/// Releases the queue when dropped.
pub struct Hold(pub(crate) Option<Box<dyn FnOnce()>>);

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(release) = self.0.take() {
            release();
        }
    }
}

/// How long a batch took, by which clock.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timing {
    /// The whole batch.
    pub seconds: Seconds,
    /// The clock.
    pub clock: Clock,
}

/// One reading of a device's sensors.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// By name with unit, as in [`ridgepoint_core::Telemetry::sensors`].
    pub sensors: BTreeMap<&'static str, f64>,
    /// Throttle reasons as the vendor's bits.
    pub throttle_bits: Option<u64>,
    /// The bits of them that mean throttling (idle and application clocks do not), as words.
    pub throttle_reasons: Vec<&'static str>,
    /// Counters that only grow: ECC errors, XIDs, PCIe replays.
    pub counters: BTreeMap<&'static str, i64>,
}

/// Reads sensors, without disturbing work on the device.
pub trait Sensors: Send {
    /// Reads all of them now, counters too. A sensor that fails is left out.
    fn read(&mut self) -> Reading;

    /// Reads those that change from moment to moment, at less cost; all of them where that makes no difference.
    fn glance(&mut self) -> Reading {
        self.read()
    }
}

/// What a test's device that stands in front of another leaves to it: memory, launches and time.
#[doc(hidden)]
#[macro_export]
macro_rules! leave_to {
    ($device:ident) => {
        fn alloc(&self, len: usize) -> $crate::Result<$crate::Buffer> {
            self.$device.alloc(len)
        }
        fn upload(&self, dst: &$crate::Buffer, offset: usize, src: &[u8]) -> $crate::Result<()> {
            self.$device.upload(dst, offset, src)
        }
        fn download(&self, src: &$crate::Buffer, offset: usize, dst: &mut [u8]) -> $crate::Result<()> {
            self.$device.download(src, offset, dst)
        }
        fn copy(&self, src: &$crate::Buffer, from: usize, dst: &$crate::Buffer, to: usize, len: usize) -> $crate::Result<()> {
            self.$device.copy(src, from, dst, to, len)
        }
        fn fill(&self, dst: &$crate::Buffer, byte: u8) -> $crate::Result<()> {
            self.$device.fill(dst, byte)
        }
        fn launch(&self, kernel: &$crate::Kernel, geometry: $crate::Geometry, args: &[$crate::Arg<'_>]) -> $crate::Result<()> {
            self.$device.launch(kernel, geometry, args)
        }
        fn synchronize(&self) -> $crate::Result<()> {
            self.$device.synchronize()
        }
        fn record(&self) -> $crate::Result<$crate::Event> {
            self.$device.record()
        }
        fn elapsed(&self, start: &$crate::Event, end: &$crate::Event) -> $crate::Result<::ridgepoint_core::Seconds> {
            self.$device.elapsed(start, end)
        }
        fn evict(&self) -> $crate::Result<()> {
            self.$device.evict()
        }
    };
}
