//! [`Device`] on one Vulkan adapter.

use super::adapter::Adapter;
use super::instance::vulkan;
use super::memory::{BASE, Handle, Memory, Place};
use super::shader::{self, Pipeline};
use super::stream::{Keep, Stamp, Stream, Work};
use super::watchdog::{self, Watchdog};
use super::{adapter, patch};
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
    pub(super) info: DeviceInfo,
    // Declared before the handle that they are made of, and so dropped before it.
    pub(super) stream: RefCell<Stream>,
    staging: OnceCell<Memory>,
    scratch: OnceCell<Buffer>,
    pipelines: RefCell<HashMap<u64, Arc<Pipeline>>>,
    pub(super) watchdog: RefCell<Watchdog>,
    /// Longest part of a launch; None where nothing resets the device.
    longest: Option<f64>,
    pub(super) handle: Arc<Handle>,
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
    pub(super) fn range<'a>(&self, buffer: &'a Buffer, offset: usize, len: usize) -> Result<(&'a Memory, u64)> {
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
            log: shader::in_program(log, text.lines().count() - source.lines().count()),
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
        let launch = self.prepare(kernel, geometry, args)?;
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
        let defines = [("RP_BLOCK", "256".to_owned())];
        let kernel = self.compile(&Program { name: "memory/stream", defines: &defines, ..Program::default() }, "rp_write")?;
        let piece = (scratch.len()).min(self.binding_limit().map_or(usize::MAX, |most| most as usize));
        for at in (0..scratch.len()).step_by(piece) {
            let len = piece.min(scratch.len() - at);
            let part = scratch.part(at, len).ok_or_else(|| DeviceError::invalid("no such part"))?;
            let args = [Arg::Buffer(&part, 0), Arg::F32(1.0), Arg::U64(len as u64 / 4), Arg::U32(0)];
            self.launch(&kernel, Geometry::linear(1024, 256), &args)?;
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
