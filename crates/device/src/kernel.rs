//! Kernels as values: source in every language a backend may want, geometry, arguments.

use crate::Buffer;
use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// A kernel's source in each language it exists in. A backend takes the one it understands and answers
/// [`crate::DeviceError::Unsupported`] where there is none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Program<'a> {
    /// Path below kernels/, `memory/stream`; the name in messages and cache keys.
    pub name: &'a str,
    /// CUDA or HIP C++ (`kernels/common/rp.h` is prepended by the backend).
    pub cpp: Option<&'a str>,
    /// WGSL, for Vulkan.
    pub wgsl: Option<&'a str>,
    /// C, for the CPU: built by the host's compiler. The entry is `void entry(const void *const *args, uint32_t thread, uint32_t
    /// threads)`, called once on each thread; `args[i]` points at the i-th argument, which for a buffer is its address.
    pub c: Option<&'a str>,
    /// Preprocessor definitions, in the order given; in WGSL a number replaces the constant and a word the alias of its name.
    pub defines: &'a [(&'a str, String)],
}

/// A compiled entry point. The CPU and fake devices resolve `entry` to a function of their own by its name.
#[derive(Clone)]
pub struct Kernel {
    /// Entry name, `rp_triad`.
    pub entry: String,
    /// What it needs of the machine, where the compiler says.
    pub resources: Option<Resources>,
    inner: Arc<dyn Any + Send + Sync>,
}

/// Registers and memory of a compiled kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resources {
    /// Registers a thread.
    pub registers: u32,
    /// Bytes of local memory a thread; not 0 means spills or a stack frame.
    pub local_bytes: u32,
    /// Static shared memory a block.
    pub shared_bytes: u32,
    /// Largest block it can be launched with.
    pub max_threads: u32,
}

impl Kernel {
    /// For backends.
    pub fn new(entry: impl Into<String>, resources: Option<Resources>, inner: Arc<dyn Any + Send + Sync>) -> Self {
        Self { entry: entry.into(), resources, inner }
    }

    /// The backend's own part, if it is a `T`.
    #[must_use]
    pub fn inner<T: Any>(&self) -> Option<&T> {
        self.inner.downcast_ref()
    }

    /// The same, shared, for whoever must keep it alive.
    #[must_use]
    pub fn shared<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        Arc::clone(&self.inner).downcast().ok()
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel").field("entry", &self.entry).field("resources", &self.resources).finish_non_exhaustive()
    }
}

/// Shape of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Blocks (workgroups).
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block in bytes.
    pub shared_bytes: u32,
    /// Blocks of a cluster (sm_90 and later); [1, 1, 1] for none.
    pub cluster: [u32; 3],
}

impl Geometry {
    /// A one-dimensional launch.
    #[must_use]
    pub const fn linear(blocks: u32, threads: u32) -> Self {
        Self { grid: [blocks, 1, 1], block: [threads, 1, 1], shared_bytes: 0, cluster: [1, 1, 1] }
    }

    /// With dynamic shared memory.
    #[must_use]
    pub const fn with_shared(mut self, bytes: u32) -> Self {
        self.shared_bytes = bytes;
        self
    }

    /// With clusters of `blocks` along x.
    #[must_use]
    pub const fn with_cluster(mut self, blocks: u32) -> Self {
        self.cluster = [blocks, 1, 1];
        self
    }
}

/// One kernel argument, by value.
#[derive(Clone, Copy, Debug)]
pub enum Arg<'a> {
    /// Address of a buffer plus an offset in bytes.
    Buffer(&'a Buffer, usize),
    /// 32-bit unsigned.
    U32(u32),
    /// 32-bit signed.
    I32(i32),
    /// 64-bit unsigned.
    U64(u64),
    /// 32-bit float.
    F32(f32),
    /// A struct passed by value, aligned to 64 bytes (a tensor map).
    Bytes(&'a [u8]),
}

/// A view of a buffer for a tensor copy engine (Hopper's TMA): the innermost dimension first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// Element width in bytes (1, 2 or 4).
    pub element_bytes: u32,
    /// True for bfloat16: the engine must know for zero fill of reductions.
    pub bf16: bool,
    /// Extents in elements, the contiguous one first.
    pub dims: Vec<u64>,
    /// Strides in bytes of all dimensions but the first.
    pub strides: Vec<u64>,
    /// Box copied at once, in elements.
    pub tile: Vec<u32>,
    /// Swizzle span in bytes: 0, 32, 64 or 128.
    pub swizzle: u32,
}
