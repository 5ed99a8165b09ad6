//! The host's own cores as a device in their own right: pinned threads, native kernels, host clock, and roofs measured when
//! it is opened, since no datasheet says what a virtual machine's share of a processor can do.

pub mod affinity;
mod attention;
mod clock;
mod closure;
#[cfg(target_os = "linux")]
pub mod collectives;
mod doctor;
mod foreign;
pub(crate) mod gemm;
mod info;
pub(crate) mod kernels;
pub mod pool;
mod roofs;
mod sensors;

use crate::probe::{Discovery, Finding, Found, Probe};
use crate::{Arg, AttentionKernels, Blas, Buffer, Device, DeviceError, Event, Geometry, Kernel, Program, Result, Sensors};
use affinity::Pinned;
use kernels::NativeFn;
use pool::Pool;
use ridgepoint_core::record::Clock;
use ridgepoint_core::{Backend, Bytes, DeviceInfo, Seconds};
use std::alloc::Layout;
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

pub use closure::{HostCall, Plain, host_kernel};

/// To be called first in `main`: if this process was started as a rank, of its parent's own or of a launched job, serves until
/// the parent is done, and returns true. `make` makes what such a rank may run beside its collective.
#[cfg(target_os = "linux")]
#[must_use]
pub fn rank_main(make: Option<crate::beside::MakeBeside>) -> bool {
    collectives::rank_main() || crate::launched::rank_main(make)
}

/// Ranks are processes over Linux's shared memory; elsewhere there are none.
#[cfg(not(target_os = "linux"))]
#[must_use]
pub fn rank_main(_make: Option<crate::beside::MakeBeside>) -> bool {
    false
}

/// The CPU backend.
pub const PROBE: Probe = Probe { backend: Backend::Cpu, discover, open: |_| Ok(Box::new(CpuDevice::open()?)), doctor };

fn discover() -> Discovery {
    let info = info::observe(&affinity::cores());
    let detail = format!("{} cores, {}, {:.0} GB", info.units, info.arch, info.memory.0 as f64 / 1e9);
    Discovery { devices: vec![Found { id: info.id, name: info.name, detail, software: false }], absent: None }
}

fn doctor() -> Vec<Finding> {
    let mut findings = doctor::findings();
    findings.extend(gemm::doctor());
    #[cfg(target_os = "linux")]
    findings.extend(crate::launched::doctor());
    findings
}

/// What the host's cores and caches are, for a device that runs on them.
pub(crate) fn facts() -> DeviceInfo {
    info::observe(&affinity::cores())
}

/// The limits of the host's cores, for a device that runs on them.
///
/// # Errors
/// Out of memory for the arrays.
pub(crate) fn measured_roofs() -> Result<Vec<ridgepoint_core::MeasuredRoof>> {
    let cores = affinity::cores();
    roofs::measure(&Pool::new(&cores), &info::observe(&cores))
}

/// The host's sensors, for a device that runs on it.
pub(crate) fn sensors() -> Box<dyn Sensors> {
    Box::new(sensors::CpuSensors::new(affinity::cores()))
}

pub(crate) use info::available_memory;

/// Page-aligned host memory, first touched by the threads that will use it.
pub(crate) struct Memory {
    pointer: *mut u8,
    layout: Layout,
    /// Where a device counts what it has handed out.
    account: Arc<AtomicU64>,
}

// SAFETY: plain memory; who may touch it when is the business of the kernels that get its address.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Drop for Memory {
    fn drop(&mut self) {
        self.account.fetch_sub(self.layout.size() as u64, Ordering::Relaxed);
        // SAFETY: allocated with this very layout and freed once.
        unsafe { std::alloc::dealloc(self.pointer, self.layout) };
    }
}

/// The CPU.
pub struct CpuDevice {
    info: DeviceInfo,
    pool: Arc<Pool>,
    scratch: Buffer,
    allocated: Arc<AtomicU64>,
    /// The calling thread is pinned, from an event on until its time is asked for.
    timing: Cell<bool>,
    native: gemm::Native,
    vendors: Vec<gemm::Vendor>,
    flash: attention::Flash,
    materialised: attention::Materialised<gemm::Native>,
    #[cfg(target_os = "linux")]
    ranks: Box<dyn crate::Collectives + Send + Sync>,
}

impl CpuDevice {
    /// Starts the threads and measures the roofs (under a second).
    ///
    /// # Errors
    /// Out of memory for the buffer that evicts the caches.
    pub fn open() -> Result<Self> {
        let mut device = Self::on(&affinity::cores())?;
        device.info.measured = roofs::measure(&device.pool, &device.info)?;
        Ok(device)
    }

    /// Some of the host's cores, for work beside a measurement: their roofs are not measured.
    ///
    /// # Errors
    /// As [`CpuDevice::open`].
    pub fn on(cores: &[usize]) -> Result<Self> {
        let mut info = info::observe(cores);
        let pool = Arc::new(Pool::new(cores));
        let allocated = Arc::new(AtomicU64::new(0));
        let scratch = allocate(&pool, &allocated, 2 * info.last_level_cache().0 as usize)?;
        let vendors = gemm::find_vendors(&pool);
        info.libraries = vendors.iter().filter_map(Blas::library).collect();
        let native = gemm::Native::new(&pool, &allocated);
        let flash = attention::Flash::new(&pool, &allocated);
        let materialised = attention::Materialised::new(gemm::Native::new(&pool, &allocated), &pool, &allocated);
        Ok(Self {
            #[cfg(target_os = "linux")]
            ranks: Box::new(collectives::SharedMemory::new(pool.cores(), info.last_level_cache())),
            info,
            pool,
            scratch,
            allocated,
            timing: Cell::new(false),
            native,
            vendors,
            flash,
            materialised,
        })
    }

    /// The pinned threads, for kernels that are called and not launched.
    #[must_use]
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }
}

/// Zeroed memory, in huge pages where one fits, so that the TLB stays out of a bandwidth; first touched by the threads that
/// will work on it, each its own part.
pub(crate) fn allocate(pool: &Pool, account: &Arc<AtomicU64>, len: usize) -> Result<Buffer> {
    const HUGE: usize = 2 << 20;
    let out_of_memory = || DeviceError::OutOfMemory { requested: Bytes(len as u64), free: info::available_memory() };
    // Linux promises more than it has and kills whoever touches it; asking first turns that into an error.
    if info::available_memory().is_some_and(|free| len as u64 > free.0) {
        return Err(out_of_memory());
    }
    let align = if len >= HUGE { HUGE } else { 4096 };
    let layout = Layout::from_size_align(len.max(1), align).map_err(|_| out_of_memory())?;
    // SAFETY: the layout has a size above 0.
    let pointer = unsafe { std::alloc::alloc(layout) };
    if pointer.is_null() {
        return Err(out_of_memory());
    }
    #[cfg(target_os = "linux")]
    // SAFETY: advice on memory that was just allocated; it changes no content.
    unsafe {
        libc::madvise(pointer.cast(), layout.size(), libc::MADV_HUGEPAGE);
    }
    account.fetch_add(layout.size() as u64, Ordering::Relaxed);
    let memory = kernels::Shared::new(pointer);
    let _pinned = Pinned::to(pool.cores().first());
    pool.split(len, 4096, &|_, range| {
        // SAFETY: the allocation holds len bytes; each thread touches its own range.
        unsafe { memory.slice_mut(range) }.fill(0);
    });
    Ok(Buffer::new(len, pointer as u64, Arc::new(Memory { pointer, layout, account: Arc::clone(account) })))
}

/// The bytes `offset..offset + len` of a buffer of this device.
fn range(buffer: &Buffer, offset: usize, len: usize) -> Result<*mut u8> {
    if buffer.owner::<Memory>().is_none() {
        return Err(DeviceError::invalid("the buffer belongs to another device"));
    }
    if offset.checked_add(len).is_none_or(|end| end > buffer.len()) {
        return Err(DeviceError::invalid(format!(
            "bytes {offset} to {offset}+{len} are past the end of a buffer of {}",
            buffer.len()
        )));
    }
    Ok((buffer.address() as *mut u8).wrapping_add(offset))
}

/// Copies host bytes into a buffer.
pub(crate) fn write(dst: &Buffer, offset: usize, src: &[u8]) -> Result<()> {
    let to = range(dst, offset, src.len())?;
    // SAFETY: the range was checked, and a caller's slice cannot overlap memory that only the device hands out.
    unsafe { std::ptr::copy_nonoverlapping(src.as_ptr(), to, src.len()) };
    Ok(())
}

/// Copies a buffer's bytes to the host.
pub(crate) fn read(src: &Buffer, offset: usize, dst: &mut [u8]) -> Result<()> {
    let from = range(src, offset, dst.len())?;
    // SAFETY: as in `write`.
    unsafe { std::ptr::copy_nonoverlapping(from, dst.as_mut_ptr(), dst.len()) };
    Ok(())
}

/// Copies between buffers on all threads.
pub(crate) fn copy(pool: &Pool, src: &Buffer, src_offset: usize, dst: &Buffer, dst_offset: usize, len: usize) -> Result<()> {
    let (from, to) = (range(src, src_offset, len)?, range(dst, dst_offset, len)?);
    if from.addr().abs_diff(to.addr()) < len {
        return Err(DeviceError::invalid("the ranges of a copy overlap"));
    }
    let (from, to) = (kernels::Shared::new(from), kernels::Shared::new(to));
    pool.split(len, 4096, &|_, part| {
        // SAFETY: both ranges were checked and do not overlap; each thread has its own part.
        unsafe { to.slice_mut(part.clone()).copy_from_slice(from.slice(part)) };
    });
    Ok(())
}

/// Fills a buffer on all threads.
pub(crate) fn fill(pool: &Pool, dst: &Buffer, byte: u8) -> Result<()> {
    let to = kernels::Shared::new(range(dst, 0, dst.len())?);
    pool.split(dst.len(), 4096, &|_, part| {
        // SAFETY: the range was checked; each thread has its own part.
        unsafe { to.slice_mut(part) }.fill(byte);
    });
    Ok(())
}

/// The kernel with this entry name, compiled long ago, or a user's own in C.
pub(crate) fn compile(program: &Program<'_>, entry: &str) -> Result<Kernel> {
    if let Some(source) = program.c {
        return foreign::compile(program.name, source, entry);
    }
    // The one definition that a kernel of the CPU heeds: which values a fill makes.
    let data = program.defines.iter().find(|(name, _)| *name == "RP_DATA").map(|(_, value)| value.as_str());
    let native = data
        .map_or_else(|| kernels::find(entry), |data| kernels::init::find(entry, data))
        .ok_or_else(|| DeviceError::unsupported(format!("the CPU has no kernel {entry} of {}", program.name)))?;
    Ok(Kernel::new(entry, None, Arc::new(native)))
}

/// Runs a kernel on the threads of `pool`.
pub(crate) fn run(kernel: &Kernel, pool: &Pool, args: &[Arg<'_>]) -> Result<()> {
    if let Some(native) = kernel.inner::<NativeFn>() {
        return native(pool, args);
    }
    if let Some(function) = kernel.inner::<foreign::Function>() {
        return function.run(pool, args);
    }
    match kernel.inner::<closure::Closure>() {
        Some(closure) => closure.run(&kernel.entry, pool, args),
        None => Err(DeviceError::invalid(format!("{} was compiled for another device", kernel.entry))),
    }
}

impl Device for CpuDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&self, len: usize) -> Result<Buffer> {
        allocate(&self.pool, &self.allocated, len)
    }

    fn upload(&self, dst: &Buffer, offset: usize, src: &[u8]) -> Result<()> {
        write(dst, offset, src)
    }

    fn download(&self, src: &Buffer, offset: usize, dst: &mut [u8]) -> Result<()> {
        read(src, offset, dst)
    }

    fn copy(&self, src: &Buffer, src_offset: usize, dst: &Buffer, dst_offset: usize, len: usize) -> Result<()> {
        copy(&self.pool, src, src_offset, dst, dst_offset, len)
    }

    fn fill(&self, dst: &Buffer, byte: u8) -> Result<()> {
        fill(&self.pool, dst, byte)
    }

    fn compile(&self, program: &Program<'_>, entry: &str) -> Result<Kernel> {
        compile(program, entry)
    }

    fn launch(&self, kernel: &Kernel, _geometry: Geometry, args: &[Arg<'_>]) -> Result<()> {
        run(kernel, &self.pool, args)
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn record(&self) -> Result<Event> {
        // Only while something is timed: a thread pinned for good would hand its one core on to every thread and library that
        // is started after it, and pinning for each launch would take longer than the launch.
        if !self.timing.replace(true) {
            affinity::enter(self.pool.cores().first().copied().unwrap_or_default());
        }
        Ok(Event(Box::new(Instant::now())))
    }

    fn elapsed(&self, start: &Event, end: &Event) -> Result<Seconds> {
        if self.timing.replace(false) {
            affinity::leave();
        }
        let at = |event: &Event| {
            event.0.downcast_ref::<Instant>().copied().ok_or_else(|| DeviceError::invalid("an event of another device"))
        };
        Ok(Seconds(at(end)?.saturating_duration_since(at(start)?).as_secs_f64()))
    }

    fn clock(&self) -> Clock {
        Clock::Host
    }

    fn evict(&self) -> Result<()> {
        // Plain stores of floats: a large memset may store around the caches and would leave in them what must go.
        let args = [Arg::Buffer(&self.scratch, 0), Arg::F32(1.0), Arg::U64(self.scratch.len() as u64 / 4), Arg::U32(1)];
        kernels::memory::write(&self.pool, &args)
    }

    fn observed_mhz(&self) -> Result<Option<f64>> {
        Ok(clock::mhz(&self.pool))
    }

    fn blas(&self) -> Vec<&dyn Blas> {
        let vendors = self.vendors.iter().map(|v| v as &dyn Blas);
        std::iter::once(&self.native as &dyn Blas).chain(vendors).collect()
    }

    fn attention(&self) -> Vec<&dyn AttentionKernels> {
        vec![&self.flash, &self.materialised]
    }

    #[cfg(target_os = "linux")]
    fn collectives(&self) -> Option<&dyn crate::Collectives> {
        Some(self.ranks.as_ref())
    }

    #[cfg(target_os = "linux")]
    fn join(&mut self, job: &Arc<crate::launched::Job>) -> Result<()> {
        self.ranks = job.engine(self.pool.cores(), self.info.last_level_cache())?;
        self.info.libraries.extend(self.ranks.library());
        Ok(())
    }

    fn sensors(&self) -> Option<Box<dyn Sensors>> {
        Some(Box::new(sensors::CpuSensors::new(self.pool.cores().to_vec())))
    }
}
