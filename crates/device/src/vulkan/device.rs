//! [`Device`] on one Vulkan adapter.

use super::adapter::Adapter;
use super::instance::vulkan;
use super::memory::{BASE, Handle, Memory, Place};
use super::shader::{self, Pipeline};
use super::stream::{Keep, Stamp, Stream, Work};
use super::watchdog::{self, Watchdog};
use super::{adapter, failure, patch};
use crate::{Arg, Buffer, Device, DeviceError, Event, Geometry, Kernel, MatrixShape, Program, Result, Sensors, sources};
use ash::vk;
use ridgepoint_core::record::{Clock, fnv1a};
use ridgepoint_core::{DeviceInfo, Seconds};
use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// Bytes that pass through the host's window at once.
const STAGING: usize = 32 << 20;

/// One adapter, opened.
pub(crate) struct VulkanDevice {
    info: DeviceInfo,
    // Declared before the handle that they are made of, and so dropped before it.
    stream: RefCell<Stream>,
    staging: OnceCell<Memory>,
    scratch: OnceCell<Buffer>,
    pipelines: RefCell<HashMap<u64, Arc<Pipeline>>>,
    watchdog: RefCell<Watchdog>,
    /// Longest part of a launch; None where nothing resets the device.
    longest: Option<f64>,
    handle: Arc<Handle>,
}

impl VulkanDevice {
    pub(super) fn open(index: usize) -> Result<Self> {
        let adapter = adapter(index)?;
        Self::with(index, adapter, adapter.transfer, (!adapter.software).then_some(watchdog::LONGEST))
    }

    /// With a lane for copies and a limit of launches as given, so that a test can have both where the adapter has neither.
    pub(super) fn with(
        index: usize,
        adapter: &'static Adapter,
        transfer: Option<adapter::Family>,
        longest: Option<f64>,
    ) -> Result<Self> {
        let families: Vec<u32> = std::iter::once(adapter.compute).chain(transfer).map(|f| f.index).collect();
        let handle = Handle::open(adapter, &families)?;
        let mut info = adapter.info(index);
        if adapter.software {
            info.measured = crate::cpu::measured_roofs()?;
            info.measured.iter_mut().for_each(|roof| roof.method += "; of the CPU that it runs on");
        }
        Ok(Self {
            info,
            stream: RefCell::new(Stream::new(&handle, adapter.compute, transfer)?),
            staging: OnceCell::new(),
            scratch: OnceCell::new(),
            pipelines: RefCell::default(),
            watchdog: RefCell::default(),
            longest,
            handle,
        })
    }

    /// This device's memory behind a buffer, and where in it the buffer begins.
    fn memory<'a>(&self, buffer: &'a Buffer) -> Result<(&'a Memory, u64)> {
        buffer
            .owner::<Memory>()
            .filter(|m| Arc::ptr_eq(&m.handle, &self.handle))
            .map(|m| (m, buffer.address() - BASE))
            .ok_or_else(|| DeviceError::invalid("the buffer belongs to another device"))
    }

    /// The bytes `offset..offset + len`, as an offset into the memory.
    fn range<'a>(&self, buffer: &'a Buffer, offset: usize, len: usize) -> Result<(&'a Memory, u64)> {
        let (memory, start) = self.memory(buffer)?;
        if offset.checked_add(len).is_none_or(|end| end > buffer.len()) {
            let size = buffer.len();
            return Err(DeviceError::invalid(format!("bytes {offset} to {offset}+{len} are past the end of a buffer of {size}")));
        }
        Ok((memory, start + offset as u64))
    }

    /// Host memory that the device copies from and to.
    fn staging(&self) -> Result<&Memory> {
        if self.staging.get().is_none() {
            let _ = self.staging.set(Memory::new(&self.handle, STAGING, Place::Host)?);
        }
        self.staging.get().ok_or_else(|| DeviceError::invalid("no staging memory"))
    }

    fn copy_bytes(&self, work: Work, from: (vk::Buffer, u64), to: (vk::Buffer, u64), len: usize, keep: Vec<Keep>) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        let region = [vk::BufferCopy { src_offset: from.1, dst_offset: to.1, size: len as u64 }];
        self.stream.borrow_mut().enqueue(work, keep, |vk, commands, _| {
            // SAFETY: both ranges were checked, and their memory is kept until the copy is done.
            unsafe { vk.cmd_copy_buffer(commands, from.0, to.0, &region) };
            Ok(())
        })
    }

    fn pipeline(&self, program: &Program<'_>, entry: &str) -> Result<Arc<Pipeline>> {
        let source = program.wgsl.or_else(|| sources::wgsl(program.name));
        let source = source.ok_or_else(|| DeviceError::unsupported(format!("{} has no WGSL source", program.name)))?;
        let text = shader::assemble(sources::WGSL_COMMON, source, program.defines);
        self.allows(program, &text)?;
        let key = fnv1a(format!("{entry}\n{text}").as_bytes());
        if let Some(pipeline) = self.pipelines.borrow().get(&key) {
            return Ok(Arc::clone(pipeline));
        }
        let compiled = shader::compile(&text, entry).map_err(|log| DeviceError::Compile {
            program: program.name.into(),
            arch: self.info.name.clone(),
            log,
        })?;
        let mut compiled =
            compiled.ok_or_else(|| DeviceError::unsupported(format!("{} has no kernel {entry} for Vulkan", program.name)))?;
        let number = |name: &str| program.defines.iter().find(|(n, _)| *n == name).and_then(|(_, v)| v.parse::<u32>().ok());
        if let (true, Some(m), Some(n), Some(k)) = (text.contains(MATRICES), number("RP_M"), number("RP_N"), number("RP_K")) {
            let bfloat16 = number("RP_DTYPE") == Some(BFLOAT16);
            compiled.spirv = patch::retype(&compiled.spirv, [m, n, k], bfloat16)?;
        }
        let lanes = number("RP_SUBGROUP");
        let pipeline = Arc::new(Pipeline::new(&self.handle, program, compiled, lanes)?);
        self.pipelines.borrow_mut().insert(key, Arc::clone(&pipeline));
        Ok(pipeline)
    }

    /// Whether the adapter has the features that a source enables.
    fn allows(&self, program: &Program<'_>, source: &str) -> Result<()> {
        let can = self.handle.adapter.can;
        let needs = [
            ("enable wgpu_int16;", can.storage16 && can.int16, "16-bit storage"),
            ("enable f16;", can.storage16 && can.f16, "f16 arithmetic"),
            (MATRICES, can.matrices && can.fixed_subgroups, "cooperative matrices"),
        ];
        match needs.iter().find(|(directive, has, _)| !has && source.contains(directive)) {
            Some((_, _, what)) => {
                Err(DeviceError::unsupported(format!("{} needs {what}, which {} lacks", program.name, self.info.name)))
            }
            None => Ok(()),
        }
    }

    /// Records one part of a launch.
    fn dispatch(&self, launch: &Launch<'_>, base: [u32; 3], count: [u32; 3]) -> Result<()> {
        let pipeline = launch.pipeline;
        self.stream.borrow_mut().enqueue(Work::Compute, launch.keep.iter().cloned(), |vk, commands, sets| {
            let layouts = [pipeline.set];
            let info = vk::DescriptorSetAllocateInfo::default().descriptor_pool(sets).set_layouts(&layouts);
            // SAFETY: the pool belongs to the batch and outlives its commands; the layout is the pipeline's, which is kept.
            let set = unsafe { vk.allocate_descriptor_sets(&info) }.map_err(failure("vkAllocateDescriptorSets"))?;
            let writes: Vec<_> = pipeline
                .shape
                .bindings
                .iter()
                .zip(&launch.buffers)
                .map(|(binding, buffer)| {
                    vk::WriteDescriptorSet::default()
                        .dst_set(set[0])
                        .dst_binding(*binding)
                        .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
                        .buffer_info(std::slice::from_ref(buffer))
                })
                .collect();
            let (point, stage) = (vk::PipelineBindPoint::COMPUTE, vk::ShaderStageFlags::COMPUTE);
            // SAFETY: buffers, set and pipeline are of this device and kept until the commands are done; sizes were checked.
            unsafe {
                vk.update_descriptor_sets(&writes, &[]);
                vk.cmd_bind_pipeline(commands, point, pipeline.pipeline);
                vk.cmd_bind_descriptor_sets(commands, point, pipeline.layout, 0, &set, &[]);
                if !launch.arguments.is_empty() {
                    vk.cmd_push_constants(commands, pipeline.layout, stage, 0, &launch.arguments);
                }
                vk.cmd_dispatch_base(commands, base[0], base[1], base[2], count[0], count[1], count[2]);
            }
            Ok(())
        })
    }

    /// Runs a launch in parts of at most `longest` seconds. Its first workgroups tell how long it takes.
    fn guarded(&self, launch: &Launch<'_>, grid: [u32; 3], longest: f64) -> Result<()> {
        let axis = watchdog::axis(grid);
        let (key, all) = (launch.key(grid), grid[axis]);
        let run = |from: u32, step: u32| -> Result<()> {
            for (base, count) in watchdog::parts(grid, axis, from, step) {
                self.dispatch(launch, base, count)?;
                if step < all {
                    self.stream.borrow_mut().submit()?;
                }
            }
            Ok(())
        };
        let known = self.watchdog.borrow().plan(key);
        if let Some(plan) = known {
            run(0, plan.step)?;
            return self.stream.borrow_mut().spend(plan.seconds, longest);
        }
        let start = self.record()?;
        let first = watchdog::beginning(grid, axis, self.info.units);
        watchdog::parts(grid, axis, 0, first).take(1).try_for_each(|(base, count)| self.dispatch(launch, base, count))?;
        let seconds = self.elapsed(&start, &self.record()?)?.0;
        let plan = self.watchdog.borrow_mut().learn(key, first, all, seconds, longest);
        run(first, plan.step)?;
        let seconds = self.elapsed(&start, &self.record()?)?.0;
        self.watchdog.borrow_mut().learn(key, all, all, seconds, longest);
        Ok(())
    }
}

/// The directive of a kernel with cooperative matrices; RP_M, RP_N and RP_K are then their shape, and RP_SUBGROUP fixes the
/// subgroup's size.
const MATRICES: &str = "enable wgpu_cooperative_matrix;";
/// RP_DTYPE of bfloat16, which WGSL lacks.
const BFLOAT16: u32 = 2;

/// The adapter of an index.
fn adapter(index: usize) -> Result<&'static Adapter> {
    let vulkan = vulkan().as_ref().map_err(|reason| DeviceError::unsupported(reason.clone()))?;
    vulkan.adapters.get(index).ok_or_else(|| DeviceError::invalid(format!("there is no device vulkan:{index}")))
}

/// A launch whose arguments have been checked.
struct Launch<'a> {
    pipeline: &'a Arc<Pipeline>,
    buffers: Vec<vk::DescriptorBufferInfo>,
    arguments: Vec<u8>,
    keep: Vec<Keep>,
}

impl Launch<'_> {
    /// What decides how long it takes.
    fn key(&self, grid: [u32; 3]) -> u64 {
        fnv1a(format!("{:p} {grid:?} {:?}", Arc::as_ptr(self.pipeline), self.arguments).as_bytes())
    }
}

/// Appends a scalar at its natural alignment.
fn push(arguments: &mut Vec<u8>, bytes: &[u8]) {
    arguments.resize(arguments.len().next_multiple_of(bytes.len()), 0);
    arguments.extend(bytes);
}

impl Device for VulkanDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&self, len: usize) -> Result<Buffer> {
        Ok(Memory::new(&self.handle, len, Place::Device)?.into_buffer(len))
    }

    fn upload(&self, dst: &Buffer, offset: usize, src: &[u8]) -> Result<()> {
        let (memory, at) = self.range(dst, offset, src.len())?;
        let (to, staging) = (memory.buffer, self.staging()?);
        for (i, chunk) in src.chunks(STAGING).enumerate() {
            self.synchronize()?;
            staging.write(0, chunk);
            self.copy_bytes(Work::Compute, (staging.buffer, 0), (to, at + (i * STAGING) as u64), chunk.len(), vec![dst.keep()])?;
        }
        self.synchronize()
    }

    fn download(&self, src: &Buffer, offset: usize, dst: &mut [u8]) -> Result<()> {
        let (memory, at) = self.range(src, offset, dst.len())?;
        let (from, staging) = (memory.buffer, self.staging()?);
        for (i, chunk) in dst.chunks_mut(STAGING).enumerate() {
            let start = at + (i * STAGING) as u64;
            self.copy_bytes(Work::Compute, (from, start), (staging.buffer, 0), chunk.len(), vec![src.keep()])?;
            self.synchronize()?;
            staging.read(0, chunk);
        }
        Ok(())
    }

    fn copy(&self, src: &Buffer, src_offset: usize, dst: &Buffer, dst_offset: usize, len: usize) -> Result<()> {
        let ((from, at), (to, into)) = (self.range(src, src_offset, len)?, self.range(dst, dst_offset, len)?);
        if from.buffer == to.buffer && at.abs_diff(into) < len as u64 {
            return Err(DeviceError::invalid("the ranges of a copy overlap"));
        }
        self.copy_bytes(Work::Copy, (from.buffer, at), (to.buffer, into), len, vec![src.keep(), dst.keep()])
    }

    fn fill(&self, dst: &Buffer, byte: u8) -> Result<()> {
        let (memory, at) = self.range(dst, 0, dst.len())?;
        let (buffer, word) = (memory.buffer, u32::from_le_bytes([byte; 4]));
        if !at.is_multiple_of(4) {
            return Err(DeviceError::invalid("a fill begins at a multiple of 4 bytes"));
        }
        // Fills are of whole words; memory is rounded up, so that those of the last one are nobody else's unless this is a part.
        let size = (dst.len() as u64).next_multiple_of(4).min(memory.size - at);
        self.stream.borrow_mut().enqueue(Work::Compute, [dst.keep()], |vk, commands, _| {
            // SAFETY: the range lies inside the buffer, which is kept.
            unsafe { vk.cmd_fill_buffer(commands, buffer, at, size, word) };
            Ok(())
        })
    }

    fn compile(&self, program: &Program<'_>, entry: &str) -> Result<Kernel> {
        Ok(Kernel::new(entry, None, self.pipeline(program, entry)?))
    }

    fn launch(&self, kernel: &Kernel, geometry: Geometry, args: &[Arg<'_>]) -> Result<()> {
        let found = kernel.shared::<Pipeline>().filter(|p| Arc::ptr_eq(&p.handle, &self.handle));
        let pipeline = &found.ok_or_else(|| DeviceError::invalid(format!("{} was compiled for another device", kernel.entry)))?;
        let (limits, shape) = (&self.handle.adapter.limits, &pipeline.shape);
        let mut launch = Launch { pipeline, buffers: vec![], arguments: vec![], keep: vec![Arc::clone(pipeline) as Keep] };
        geometry.grid.iter().for_each(|n| push(&mut launch.arguments, &n.to_le_bytes()));
        for arg in args {
            match arg {
                Arg::Buffer(buffer, offset) => {
                    let rest = buffer
                        .len()
                        .checked_sub(*offset)
                        .ok_or_else(|| DeviceError::invalid(format!("offset {offset} is past a buffer of {}", buffer.len())))?;
                    let (memory, at) = self.range(buffer, *offset, rest)?;
                    let align = limits.min_storage_buffer_offset_alignment;
                    if !at.is_multiple_of(align) {
                        return Err(DeviceError::invalid(format!("{} binds at multiples of {align} bytes", self.info.name)));
                    }
                    // Whole vectors: a kernel may look at the last one before it finds that half of it is not its own.
                    let range = (rest.max(1) as u64).next_multiple_of(16).min(memory.size - at);
                    if range > u64::from(limits.max_storage_buffer_range) {
                        let most = ridgepoint_core::Bytes(u64::from(limits.max_storage_buffer_range));
                        return Err(DeviceError::unsupported(format!("{} binds at most {most} to a kernel", self.info.name)));
                    }
                    launch.buffers.push(vk::DescriptorBufferInfo { buffer: memory.buffer, offset: at, range });
                    launch.keep.push(buffer.keep());
                }
                Arg::U32(v) => push(&mut launch.arguments, &v.to_le_bytes()),
                Arg::I32(v) => push(&mut launch.arguments, &v.to_le_bytes()),
                Arg::U64(v) => push(&mut launch.arguments, &v.to_le_bytes()),
                Arg::F32(v) => push(&mut launch.arguments, &v.to_bits().to_le_bytes()),
                Arg::Bytes(_) => return Err(DeviceError::unsupported("Vulkan passes no structures by value")),
            }
        }
        // A struct is as long as its alignment, 16 for the grid, makes it.
        launch.arguments.resize(launch.arguments.len().next_multiple_of(16), 0);
        if shape.argument_bytes == 0 && launch.arguments.len() == 16 {
            launch.arguments.clear();
        }
        let (takes, given) =
            ((shape.bindings.len(), shape.argument_bytes as usize), (launch.buffers.len(), launch.arguments.len()));
        if takes != given || geometry.block != shape.block || geometry.shared_bytes != 0 {
            return Err(DeviceError::invalid(format!(
                "{} takes (buffers, bytes) {takes:?} in workgroups of {:?}, and was given {given:?} in {:?}",
                kernel.entry, shape.block, geometry.block
            )));
        }
        if geometry.grid.contains(&0) || geometry.grid.iter().zip(limits.max_compute_work_group_count).any(|(n, most)| *n > most)
        {
            let most = limits.max_compute_work_group_count;
            return Err(DeviceError::invalid(format!("{:?} workgroups: at least 1 and at most {most:?}", geometry.grid)));
        }
        match self.longest {
            // One workgroup cannot be cut.
            Some(longest) if geometry.grid != [1, 1, 1] => self.guarded(&launch, geometry.grid, longest),
            _ => self.dispatch(&launch, [0; 3], geometry.grid),
        }
    }

    fn synchronize(&self) -> Result<()> {
        self.stream.borrow_mut().synchronize()
    }

    fn record(&self) -> Result<Event> {
        let mut stream = self.stream.borrow_mut();
        if stream.has_stamps() {
            return Ok(Event(Box::new(stream.stamp()?)));
        }
        stream.synchronize()?;
        Ok(Event(Box::new(Instant::now())))
    }

    fn elapsed(&self, start: &Event, end: &Event) -> Result<Seconds> {
        if let (Some(start), Some(end)) = (start.0.downcast_ref::<Stamp>(), end.0.downcast_ref::<Stamp>()) {
            let ticks = self.stream.borrow_mut().ticks(start, end)?;
            return Ok(Seconds(ticks as f64 * f64::from(self.handle.adapter.limits.timestamp_period) * 1e-9));
        }
        match (start.0.downcast_ref::<Instant>(), end.0.downcast_ref::<Instant>()) {
            (Some(start), Some(end)) => Ok(Seconds(end.saturating_duration_since(*start).as_secs_f64())),
            _ => Err(DeviceError::invalid("an event of another device")),
        }
    }

    fn clock(&self) -> Clock {
        if self.stream.borrow().has_stamps() { Clock::Device } else { Clock::Host }
    }

    fn evict(&self) -> Result<()> {
        if self.scratch.get().is_none() {
            let wanted = 2 * self.info.last_level_cache().0;
            let _ = self.scratch.set(self.alloc(wanted.min(self.handle.adapter.largest) as usize)?);
        }
        let Some(scratch) = self.scratch.get() else { return Ok(()) };
        // Plain stores by a kernel: a software device's fill may go around the caches and leave in them what must go.
        let kernel = self.compile(&Program { name: "memory/stream", ..Program::default() }, "rp_write")?;
        let piece = (scratch.len()).min(self.binding_limit().map_or(usize::MAX, |most| most as usize));
        for at in (0..scratch.len()).step_by(piece) {
            let len = piece.min(scratch.len() - at);
            let part = scratch.part(at, len).ok_or_else(|| DeviceError::invalid("no such part"))?;
            let args = [Arg::Buffer(&part, 0), Arg::F32(1.0), Arg::U64(len as u64 / 4), Arg::U32(0)];
            self.launch(&kernel, Geometry::linear(1024, 512), &args)?;
        }
        Ok(())
    }

    fn binding_limit(&self) -> Option<u64> {
        Some(u64::from(self.handle.adapter.limits.max_storage_buffer_range) / 4096 * 4096)
    }

    fn alloc_host(&self, len: usize) -> Result<Buffer> {
        Ok(Memory::new(&self.handle, len, Place::Host)?.into_buffer(len))
    }

    fn matrices(&self) -> Vec<MatrixShape> {
        self.handle.adapter.matrices.clone()
    }

    fn sensors(&self) -> Option<Box<dyn Sensors>> {
        self.info.software.then(crate::cpu::sensors)
    }
}
