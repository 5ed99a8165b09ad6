//! [`Device`] on one GPU, or on an instance or partition of one.

use super::code::{self, Function, Module};
use super::driver::{self, Buffer as Memory, Context, Driver, Pinned};
use super::stream::{self, Place, Stream, elapsed_ms};
use super::sys::{Ptr, status};
use crate::cache::Cache;
use crate::host_memory::Mapping;
use crate::{
    Arg, AttentionKernels, Blas, Buffer, Collectives, Device, DeviceError, Event, Geometry, Graph, Hold, HostMemory, Kernel,
    Program, Resources, Result, Sensors, Sibling, TensorMap, Transfer, sources,
};
use ridgepoint_core::record::fnv1a;
use ridgepoint_core::{Bytes, DeviceInfo, Seconds};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

/// A held queue lets itself go after this long, so that nothing that goes wrong on the host hangs the device.
const HOLD_LIMIT_NS: u64 = 2_000_000_000;
/// Holds that may be enqueued before the first of them has seen that it was let go.
const HOLDS: usize = 1024;
/// How long the clock is watched: long against the 32 ns to 1 µs steps of the global timer.
const CLOCK_NS: u64 = 100_000;

/// What outlives any one borrow of the device.
pub(crate) struct Shared {
    pub(crate) ctx: Arc<Context>,
    pub(crate) stream: Stream,
}

impl Shared {
    /// Memory that holds these bytes.
    pub(crate) fn holding(&self, bytes: &[u8]) -> driver::Result<Memory> {
        let memory = Memory::new(&self.ctx, bytes.len())?;
        self.stream.upload((&memory).into(), 0, bytes)?;
        Ok(memory)
    }
}

/// One GPU.
pub(crate) struct GpuDevice {
    info: DeviceInfo,
    shared: Arc<Shared>,
    cache: Option<Cache>,
    modules: RefCell<HashMap<u64, Arc<Module>>>,
    /// Our own entries, resolved once: a hold must cost little.
    own: RefCell<HashMap<&'static str, Arc<Function>>>,
    /// Devices whose memory this one's kernels may be given: siblings that it reaches.
    reached: RefCell<Vec<i32>>,
    /// Queues for copies that run at once, of this device or a sibling.
    sides: RefCell<Vec<Stream>>,
    flags: Arc<Pinned>,
    holds: Cell<usize>,
    clock: Memory,
    scratch: Memory,
    blas: Vec<Box<dyn Blas + Send>>,
    attention: Vec<Box<dyn AttentionKernels + Send>>,
    ranks: Option<Arc<dyn Collectives + Send + Sync>>,
}

impl GpuDevice {
    pub(crate) fn open(driver: &Arc<Driver>, index: usize) -> Result<Self> {
        let ctx = Context::open(Arc::clone(driver), index as i32)?;
        let stream = Stream::new(&ctx)?;
        let shared = Arc::new(Shared { ctx: Arc::clone(&ctx), stream });
        let mut info = driver.vendor.describe(index, &ctx);
        // A device without its GEMM library still measures everything else.
        let blas = driver.vendor.blas(&shared).unwrap_or_else(|reason| {
            info.facts.insert("no GEMM library".into(), reason);
            vec![]
        });
        let attention = driver.vendor.attention(&shared).unwrap_or_else(|reason| {
            info.facts.insert("no attention library".into(), reason);
            vec![]
        });
        let peers = driver.peers(index as i32);
        if !peers.is_empty() {
            let names: Vec<String> = peers.iter().map(|peer| format!("{}:{peer}", info.backend)).collect();
            info.facts.insert("peer access".into(), names.join(", "));
        }
        info.libraries.extend(blas.first().and_then(|b| b.library()));
        info.libraries.extend(attention.first().and_then(|a| a.library()));
        let ranks = driver.vendor.ranks(&ctx, index);
        match &ranks {
            Ok(ranks) => info.libraries.extend(ranks.library()),
            Err(reason) => drop(info.facts.insert("no collectives library".into(), reason.clone())),
        }
        let scratch = 2 * (info.last_level_cache().0 as usize).max(32 << 20);
        Ok(Self {
            info,
            cache: Cache::of_user("kernels", &|key| std::env::var_os(key).map(PathBuf::from)),
            modules: RefCell::new(HashMap::new()),
            own: RefCell::default(),
            reached: RefCell::default(),
            sides: RefCell::default(),
            flags: Arc::new(Pinned::new(&ctx, 4 * HOLDS)?),
            holds: Cell::new(0),
            clock: Memory::new(&ctx, 16)?,
            scratch: Memory::new(&ctx, scratch)?,
            shared,
            blas,
            attention,
            ranks: ranks.ok().map(|ranks| -> Arc<dyn Collectives + Send + Sync> { Arc::new(ranks) }),
        })
    }

    fn vendor(&self) -> &'static dyn super::Vendor {
        self.shared.ctx.driver.vendor
    }

    /// Code of a program for this device, compiled once a process and kept on disk.
    fn module(&self, program: &Program<'_>) -> Result<Arc<Module>> {
        let source = program.cpp.or_else(|| sources::cpp(program.name));
        let source = source.ok_or_else(|| DeviceError::unsupported(format!("{} has no C++ source", program.name)))?;
        let key = fnv1a(format!("{}\n{source}\n{:?}", program.name, program.defines).as_bytes());
        if let Some(module) = self.modules.borrow().get(&key) {
            return Ok(Arc::clone(module));
        }
        let compiled = self.vendor().code(program, source, &self.shared.ctx.facts.target, self.cache.as_ref())?;
        let module = Module::load(&self.shared.ctx, &compiled)?;
        self.modules.borrow_mut().insert(key, Arc::clone(&module));
        Ok(module)
    }

    /// A kernel of ours; none where nothing can compile it, and then the device does without.
    fn own(&self, entry: &'static str) -> Result<Option<Arc<Function>>> {
        if let Some(function) = self.own.borrow().get(entry) {
            return Ok(Some(Arc::clone(function)));
        }
        let module = match self.module(&Program { name: "common/clock", ..Program::default() }) {
            Err(DeviceError::Unsupported(_)) => return Ok(None),
            module => module?,
        };
        let function = Arc::new(module.function(entry)?);
        self.own.borrow_mut().insert(entry, Arc::clone(&function));
        Ok(Some(function))
    }

    /// This device's memory behind a buffer, or host memory that it copies.
    fn place<'a>(&self, buffer: &'a Buffer) -> Result<Place<'a>> {
        let place = self.any_place(buffer)?;
        if place.context().is(&self.shared.ctx) { Ok(place) } else { Err(foreign()) }
    }

    /// The same, where it may be that of a sibling whose memory this device reaches.
    fn reachable<'a>(&self, buffer: &'a Buffer) -> Result<Place<'a>> {
        let place = self.any_place(buffer)?;
        let own = place.context().is(&self.shared.ctx) || self.reached.borrow().contains(&place.context().device);
        if own { Ok(place) } else { Err(foreign()) }
    }

    /// The same, where it may be a sibling's too.
    fn any_place<'a>(&self, buffer: &'a Buffer) -> Result<Place<'a>> {
        Place::of(buffer).filter(|place| Arc::ptr_eq(&place.context().driver, &self.shared.ctx.driver)).ok_or_else(foreign)
    }

    /// Memory and what was asked for, where there is no more.
    fn short_of(&self, failure: driver::Failure, len: usize) -> DeviceError {
        match failure.into() {
            DeviceError::OutOfMemory { .. } => {
                let free = self.shared.ctx.free_memory().ok().map(|(free, _)| Bytes(free as u64));
                DeviceError::OutOfMemory { requested: Bytes(len as u64), free }
            }
            other => other,
        }
    }
}

fn foreign() -> DeviceError {
    DeviceError::invalid("the buffer belongs to another device")
}

impl Device for GpuDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&self, len: usize) -> Result<Buffer> {
        // More than there is at all: not every driver calls that "out of memory".
        if len > self.shared.ctx.facts.memory_bytes {
            return Err(DeviceError::OutOfMemory { requested: Bytes(len as u64), free: None });
        }
        let memory = Memory::new(&self.shared.ctx, len).map_err(|failure| self.short_of(failure, len))?;
        Ok(Buffer::new(len, memory.ptr, Arc::new(memory)))
    }

    fn upload(&self, dst: &Buffer, offset: usize, src: &[u8]) -> Result<()> {
        Ok(self.shared.stream.upload(self.place(dst)?, offset, src)?)
    }

    fn download(&self, src: &Buffer, offset: usize, dst: &mut [u8]) -> Result<()> {
        Ok(self.shared.stream.download(self.place(src)?, offset, dst)?)
    }

    fn copy(&self, src: &Buffer, src_offset: usize, dst: &Buffer, dst_offset: usize, len: usize) -> Result<()> {
        Ok(self.shared.stream.copy(self.place(src)?, src_offset, self.place(dst)?, dst_offset, len)?)
    }

    fn fill(&self, dst: &Buffer, byte: u8) -> Result<()> {
        Ok(self.shared.stream.fill(self.place(dst)?, byte)?)
    }

    fn compile(&self, program: &Program<'_>, entry: &str) -> Result<Kernel> {
        let f = self.module(program)?.function(entry).map_err(|failure| match &failure {
            driver::Failure::Call(error) if error.status() == Some(status::NOT_FOUND) => {
                DeviceError::unsupported(format!("{} has no kernel {entry} for {}", program.name, self.info.arch))
            }
            _ => failure.into(),
        })?;
        let resources = Resources {
            registers: f.registers,
            local_bytes: f.local_bytes,
            shared_bytes: f.shared_bytes,
            max_threads: f.max_threads,
        };
        Ok(Kernel::new(entry, Some(resources), Arc::new(f)))
    }

    fn launch(&self, kernel: &Kernel, geometry: Geometry, args: &[Arg<'_>]) -> Result<()> {
        let function = kernel.inner::<Function>().filter(|f| f.context().is(&self.shared.ctx));
        let function =
            function.ok_or_else(|| DeviceError::invalid(format!("{} was compiled for another device", kernel.entry)))?;
        let mut values = Vec::with_capacity(args.len());
        for arg in args {
            values.push(match arg {
                Arg::Buffer(buffer, offset) if *offset <= buffer.len() => {
                    if !self.reachable(buffer)?.seen_by_kernels() {
                        return Err(DeviceError::invalid("a kernel cannot be given pageable memory"));
                    }
                    code::Arg::Ptr(buffer.address() + *offset as Ptr)
                }
                Arg::Buffer(buffer, offset) => {
                    return Err(DeviceError::invalid(format!("offset {offset} is past a buffer of {}", buffer.len())));
                }
                Arg::U32(v) => code::Arg::U32(*v),
                Arg::I32(v) => code::Arg::I32(*v),
                Arg::U64(v) => code::Arg::U64(*v),
                Arg::F32(v) => code::Arg::F32(*v),
                Arg::Bytes(v) => code::Arg::Bytes(v),
            });
        }
        let Geometry { grid, block, shared_bytes, cluster } = geometry;
        Ok(self.shared.stream.launch(function, stream::Shape { grid, block, shared_bytes, cluster }, &values)?)
    }

    fn synchronize(&self) -> Result<()> {
        Ok(self.shared.stream.synchronize()?)
    }

    fn record(&self) -> Result<Event> {
        Ok(Event(Box::new(self.shared.stream.record()?)))
    }

    fn elapsed(&self, start: &Event, end: &Event) -> Result<Seconds> {
        match (start.0.downcast_ref(), end.0.downcast_ref()) {
            (Some(start), Some(end)) => Ok(Seconds(f64::from(elapsed_ms(start, end)?) / 1e3)),
            _ => Err(DeviceError::invalid("an event of another device")),
        }
    }

    fn hold(&self) -> Result<Option<Hold>> {
        // Without a compiler the queue starts at once, and launch gaps count.
        let Some(hold) = self.own("rp_hold")? else { return Ok(None) };
        // Each hold has a word of its own: the last one may not have been seen yet.
        let word = self.holds.get() % HOLDS;
        self.holds.set(word + 1);
        self.flags.store(word, 0);
        let at = self.flags.ptr + 4 * word as Ptr;
        let shape = stream::Shape { grid: [1; 3], block: [1; 3], shared_bytes: 0, cluster: [1; 3] };
        self.shared.stream.launch(&hold, shape, &[code::Arg::Ptr(at), code::Arg::U64(HOLD_LIMIT_NS)])?;
        let (flags, paused) = (Arc::clone(&self.flags), self.shared.ctx.pause());
        Ok(Some(Hold(Some(Box::new(move || {
            flags.store(word, 1);
            drop(paused);
        })))))
    }

    fn capture(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<Option<Graph>> {
        let mut failed = None;
        let graph = self.shared.stream.capture(&mut || {
            body().map_err(|error| {
                let message = error.to_string();
                failed = Some(error);
                super::driver::Failure::Invalid(message)
            })
        });
        match (graph, failed) {
            (_, Some(error)) => Err(error),
            (graph, None) => Ok(Some(Graph(Box::new(graph?)))),
        }
    }

    fn replay(&self, graph: &Graph) -> Result<()> {
        let graph: &stream::Graph = graph.0.downcast_ref().ok_or_else(|| DeviceError::invalid("a graph of another device"))?;
        Ok(self.shared.stream.replay(graph)?)
    }

    fn evict(&self) -> Result<()> {
        Ok(self.shared.stream.fill((&self.scratch).into(), 1)?)
    }

    fn observed_mhz(&self) -> Result<Option<f64>> {
        let Some(clock) = self.own("rp_clock")? else { return Ok(None) };
        let shape = stream::Shape { grid: [1; 3], block: [1; 3], shared_bytes: 0, cluster: [1; 3] };
        self.shared.stream.launch(&clock, shape, &[code::Arg::Ptr(self.clock.ptr), code::Arg::U64(CLOCK_NS)])?;
        let mut out = [0u8; 16];
        self.shared.stream.download((&self.clock).into(), 0, &mut out)?;
        let [cycles, nanoseconds] = [0, 8].map(|at| u64::from_le_bytes(out[at..at + 8].try_into().unwrap_or_default()) as f64);
        Ok((nanoseconds > 0.0).then(|| cycles / nanoseconds * 1e3))
    }

    fn shared_limit(&self) -> Option<u64> {
        u64::try_from(self.shared.ctx.facts.shared_most).ok().filter(|most| *most > 0)
    }

    fn sensors(&self) -> Option<Box<dyn Sensors>> {
        self.vendor().sensors(&self.shared.ctx.facts)
    }

    fn alloc_host(&self, len: usize) -> Result<Buffer> {
        let pinned = Pinned::new(&self.shared.ctx, len).map_err(|failure| match failure.into() {
            DeviceError::OutOfMemory { .. } => DeviceError::OutOfMemory { requested: Bytes(len as u64), free: None },
            other => other,
        })?;
        Ok(Buffer::new(len, pinned.ptr, Arc::new(pinned)))
    }

    fn alloc_host_as(&self, len: usize, kind: HostMemory) -> Result<Buffer> {
        if kind == HostMemory::default() {
            return self.alloc_host(len);
        }
        let memory = Pinned::of(&self.shared.ctx, Mapping::new(len, kind.node)?, len, kind.pageable)?;
        Ok(Buffer::new(len, memory.ptr, Arc::new(memory)))
    }

    fn copy_at_once(&self, copies: &[Transfer<'_>]) -> Result<()> {
        let places = copies.iter().map(|c| Ok((self.any_place(c.src)?, self.any_place(c.dst)?))).collect::<Result<Vec<_>>>()?;
        let start = self.shared.stream.record()?;
        let mut sides = self.sides.borrow_mut();
        let mut ends = Vec::new();
        for (i, (copy, (src, dst))) in copies.iter().zip(places).enumerate() {
            // The source's engines push; the host has none.
            let ctx = if src.on_host() { dst.context() } else { src.context() };
            if sides.get(i).is_none_or(|side| !side.ctx.is(ctx)) {
                let side = Stream::new(ctx)?;
                if i < sides.len() { sides[i] = side } else { sides.push(side) }
            }
            sides[i].wait(&start)?;
            sides[i].copy(src, copy.src_offset, dst, copy.dst_offset, copy.len)?;
            ends.push(sides[i].record()?);
        }
        ends.iter().try_for_each(|end| Ok(self.shared.stream.wait(end)?))
    }

    fn siblings(&self) -> usize {
        self.shared.ctx.driver.count().map_or(1, |n| usize::try_from(n).unwrap_or(1).max(1))
    }

    fn sibling(&self, index: usize) -> Result<Sibling> {
        if index >= self.siblings() || index as i32 == self.shared.ctx.device {
            let (own, all) = (&self.info.id, self.siblings());
            return Err(DeviceError::unsupported(format!("{own} has no sibling {index}: there are {all} devices")));
        }
        let device = Self::open(&self.shared.ctx.driver, index)?;
        let (own, other) = (&self.shared.ctx, &device.shared.ctx);
        let direct = own.reach(other)? && other.reach(own)?;
        if direct {
            self.reached.borrow_mut().push(other.device);
            device.reached.borrow_mut().push(own.device);
        }
        Ok(Sibling { device: Box::new(device), direct })
    }

    fn tensor_map(&self, buffer: &Buffer, map: &TensorMap) -> Result<Vec<u8>> {
        self.place(buffer)?;
        self.vendor().tensor_map(&self.shared.ctx, buffer, map)
    }

    fn blas(&self) -> Vec<&dyn Blas> {
        self.blas.iter().map(|b| b.as_ref() as &dyn Blas).collect()
    }

    fn attention(&self) -> Vec<&dyn AttentionKernels> {
        self.attention.iter().map(|a| a.as_ref() as &dyn AttentionKernels).collect()
    }

    fn collectives(&self) -> Option<&dyn Collectives> {
        self.ranks.as_deref().map(|ranks| ranks as &dyn Collectives)
    }

    #[cfg(target_os = "linux")]
    fn join(&mut self, job: &Arc<crate::launched::Job>) -> Result<()> {
        let id = &self.info.id;
        let none = || DeviceError::unsupported(format!("{id} has no library that connects it to other ranks"));
        let own = self.ranks.as_ref().ok_or_else(none)?;
        self.ranks = Some(job.on_devices(id.split(':').next().unwrap_or_default(), own)?);
        Ok(())
    }
}
