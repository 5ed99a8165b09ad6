//! The driver, its devices, a context, and memory as owned values; streams and code are in stream.rs.
//!
//! Everything holds its context by `Arc`, so no handle outlives what it belongs to, and makes the context current before
//! it calls: a device may be used from whichever thread holds it.

use super::Vendor;
use super::sys::{Api, HOST_PORTABLE_MAPPED, Handle, Ptr, status};
use crate::dl::{CallError, Opened};
use crate::host_memory::Mapping;
use std::ffi::{c_int, c_void};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(crate) type Result<T> = std::result::Result<T, Failure>;

#[derive(Debug, Clone)]
pub(crate) enum Failure {
    Call(CallError),
    /// A request that the driver would refuse, or worse, take.
    Invalid(String),
    Module {
        log: String,
        error: CallError,
    },
}

impl From<CallError> for Failure {
    fn from(e: CallError) -> Self {
        Self::Call(e)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Call(e) => e.fmt(f),
            Self::Invalid(s) => f.write_str(s),
            Self::Module { log, error } if log.is_empty() => error.fmt(f),
            Self::Module { log, error } => write!(f, "{error}: {log}"),
        }
    }
}

/// What a device says of itself.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) name: String,
    pub(crate) uuid: [u8; 16],
    pub(crate) pci: String,
    /// What its code is compiled for: `sm_90a`, `gfx942:sramecc+:xnack-`.
    pub(crate) target: String,
    pub(crate) units: i32,
    pub(crate) clock_khz: i32,
    pub(crate) memory_clock_khz: i32,
    pub(crate) bus_bits: i32,
    pub(crate) memory_bytes: usize,
    pub(crate) l2_bytes: i32,
    pub(crate) shared_most: i32,
    pub(crate) copy_engines: i32,
}

pub(crate) struct Driver {
    pub(crate) api: Api,
    pub(crate) version: i32,
    pub(crate) vendor: &'static dyn Vendor,
}

impl Driver {
    pub(crate) fn start(library: Opened, vendor: &'static dyn Vendor) -> Result<Self> {
        let api = Api::bind_prefixed(library, vendor.prefix());
        // SAFETY: this function takes no pointers, and may be called any number of times.
        unsafe { api.init(0) }?;
        let mut version = 0;
        // SAFETY: writes one int.
        unsafe { api.driver_version(&mut version) }?;
        Ok(Self { api, version, vendor })
    }

    pub(crate) fn count(&self) -> Result<i32> {
        let mut n = 0;
        // SAFETY: writes one int.
        unsafe { self.api.device_count(&mut n) }?;
        Ok(n)
    }

    /// An attribute, or 0 where this driver does not know it.
    pub(crate) fn attribute(&self, device: c_int, which: u32) -> i32 {
        let mut v = 0;
        // SAFETY: writes one int.
        match unsafe { self.api.device_attribute(&mut v, which, device) } {
            Ok(()) => v,
            Err(_) => 0,
        }
    }

    /// Devices whose memory this one reaches by itself.
    pub(crate) fn peers(&self, ordinal: i32) -> Vec<i32> {
        let device = |ordinal| {
            let mut d = 0;
            // SAFETY: writes one int.
            unsafe { self.api.device_get(&mut d, ordinal) }.ok().map(|()| d)
        };
        let reaches = |peer: &i32| {
            let mut can = 0;
            let (Some(own), Some(other)) = (device(ordinal), device(*peer)) else { return false };
            // SAFETY: writes one int.
            unsafe { self.api.can_access_peer(&mut can, own, other) }.is_ok() && can == 1
        };
        (0..self.count().unwrap_or(0)).filter(|peer| *peer != ordinal).filter(reaches).collect()
    }

    pub(crate) fn facts(&self, ordinal: i32) -> Result<Facts> {
        let mut d = 0;
        let (mut name, mut pci, mut uuid, mut memory) = ([0_u8; 256], [0_u8; 32], [0_u8; 16], 0_usize);
        // SAFETY: each call writes within the buffer whose length it is given.
        unsafe {
            self.api.device_get(&mut d, ordinal)?;
            self.api.device_name(name.as_mut_ptr().cast(), 255, d)?;
            self.api.device_pci(pci.as_mut_ptr().cast(), 31, d)?;
            self.api.device_uuid(&mut uuid, d)?;
            self.api.device_memory(&mut memory, d)?;
        }
        let text = |b: &[u8]| String::from_utf8_lossy(b.split(|c| *c == 0).next().unwrap_or(&[])).into_owned();
        let numbers = self.vendor.attributes();
        let a = |which| self.attribute(d, which);
        Ok(Facts {
            name: text(&name),
            uuid,
            pci: text(&pci),
            target: self.vendor.target(self, d)?,
            units: a(numbers.units),
            clock_khz: a(numbers.clock_khz),
            memory_clock_khz: a(numbers.memory_clock_khz),
            bus_bits: a(numbers.bus_bits),
            memory_bytes: memory,
            l2_bytes: a(numbers.l2_bytes),
            shared_most: a(numbers.shared_most),
            copy_engines: a(numbers.copy_engines),
        })
    }
}

pub(crate) struct Context {
    pub(crate) driver: Arc<Driver>,
    pub(crate) facts: Facts,
    pub(crate) device: c_int,
    /// The device's primary context; null for HIP, which has none that a program must know.
    handle: Handle,
    parking: Mutex<Parking>,
}

/// Memory whose owner is gone while a hold or a capture was open. To free it then would wait for work that waits for the
/// hold, or end the capture.
#[derive(Default)]
struct Parking {
    /// Holds and captures that are open.
    open: usize,
    parked: Vec<Memory>,
}

enum Memory {
    Device(Ptr),
    Host(*mut c_void),
    /// The system's memory, which we mapped and may have page-locked.
    Mapped {
        mapping: Mapping,
        registered: bool,
    },
}

/// While one of these lives, nothing is freed.
pub(crate) struct Pause(Arc<Context>);

impl Drop for Pause {
    fn drop(&mut self) {
        self.0.parking().open -= 1;
    }
}

// SAFETY: a context handle is a token that the driver locks internally; any thread may make it current.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    pub(crate) fn open(driver: Arc<Driver>, ordinal: i32) -> Result<Arc<Self>> {
        let facts = driver.facts(ordinal)?;
        let (mut device, mut handle) = (0, std::ptr::null_mut());
        // SAFETY: each writes one value.
        unsafe {
            driver.api.device_get(&mut device, ordinal)?;
            if driver.vendor.has_contexts() {
                driver.api.primary_retain(&mut handle, device)?;
            }
        }
        Ok(Arc::new(Self { driver, facts, device, handle, parking: Mutex::default() }))
    }

    /// The driver's functions, with this context current on this thread.
    pub(crate) fn api(&self) -> Result<&Api> {
        let api = &self.driver.api;
        // SAFETY: the handle is retained until drop; the device is one that the driver named.
        unsafe { if self.handle.is_null() { api.device_set(self.device) } else { api.ctx_set(self.handle) } }?;
        Ok(api)
    }

    /// The same device, whichever handle it was opened by.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.device == other.device && self.driver.vendor.prefix() == other.driver.vendor.prefix()
    }

    /// Lets kernels and copies of this device reach another's memory; false where the two cannot.
    pub(crate) fn reach(&self, other: &Self) -> Result<bool> {
        let (mut can, api) = (0, self.api()?);
        // SAFETY: writes one int.
        unsafe { api.can_access_peer(&mut can, self.device, other.device) }?;
        if can == 0 {
            return Ok(false);
        }
        // SAFETY: this device is current; the other's context is retained for as long as it lives.
        let enabled = unsafe {
            if other.handle.is_null() { api.enable_peer_device(other.device, 0) } else { api.enable_peer(other.handle, 0) }
        };
        match enabled {
            Err(error) if error.status() == Some(status::PEER_ACCESS_ALREADY) => Ok(true),
            outcome => Ok(outcome.map(|()| true)?),
        }
    }

    /// For the functions that take a context by its handle.
    pub(super) fn handle(&self) -> Handle {
        self.handle
    }

    fn parking(&self) -> MutexGuard<'_, Parking> {
        self.parking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn pause(self: &Arc<Self>) -> Pause {
        self.parking().open += 1;
        Pause(Arc::clone(self))
    }

    fn free(&self, memory: Memory) {
        let mut parking = self.parking();
        parking.parked.push(memory);
        self.sweep_locked(&mut parking);
    }

    /// Frees what was parked, unless a hold or a capture is open.
    pub(crate) fn sweep(&self) {
        self.sweep_locked(&mut self.parking());
    }

    fn sweep_locked(&self, parking: &mut Parking) {
        if parking.open > 0 || parking.parked.is_empty() {
            return;
        }
        let Ok(api) = self.api() else { return };
        if parking.parked.iter().any(|m| !matches!(m, Memory::Device(_))) {
            // SAFETY: takes no pointers. The copies that a stream still has to make must not find the memory gone.
            let _ = unsafe { api.ctx_synchronize() };
        }
        for memory in parking.parked.drain(..) {
            // SAFETY: each came from its owner's `new` and was parked once, by its drop.
            let _ = unsafe {
                match memory {
                    Memory::Device(p) => api.mem_free(p),
                    Memory::Host(p) => api.host_free(p),
                    Memory::Mapped { mapping, registered: true } => api.host_unregister(mapping.pointer),
                    Memory::Mapped { .. } => Ok(()),
                }
            };
        }
    }

    pub(crate) fn free_memory(&self) -> Result<(usize, usize)> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: writes two sizes.
        unsafe { self.api()?.mem_info(&mut free, &mut total) }?;
        Ok((free, total))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        self.sweep();
        if !self.handle.is_null() {
            // SAFETY: retained once in `open`; everything made in it holds an Arc to it and is gone.
            let _ = unsafe { self.driver.api.primary_release(self.device) };
        }
    }
}

/// Device memory.
pub(crate) struct Buffer {
    pub(super) ctx: Arc<Context>,
    pub(crate) ptr: Ptr,
    pub(crate) len: usize,
    /// Gives it back to whoever it came from, where that is not the driver.
    release: Option<Release>,
}

/// See [`Buffer::of`].
pub(super) type Release = Box<dyn FnOnce(Ptr) + Send + Sync>;

impl Buffer {
    /// Memory that a library allocated on this device.
    pub(super) fn of(ctx: &Arc<Context>, ptr: Ptr, len: usize, release: Release) -> Self {
        Self { ctx: ctx.clone(), ptr, len, release: Some(release) }
    }

    pub(crate) fn new(ctx: &Arc<Context>, len: usize) -> Result<Self> {
        ctx.sweep();
        let mut ptr = 0;
        // The driver refuses 0 bytes; an empty buffer is nothing to refuse.
        // SAFETY: writes one pointer.
        unsafe { ctx.api()?.mem_alloc(&mut ptr, len.max(1)) }?;
        Ok(Self { ctx: ctx.clone(), ptr, len, release: None })
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        match self.release.take() {
            Some(release) => {
                let _ = self.ctx.api();
                release(self.ptr);
            }
            None => self.ctx.free(Memory::Device(self.ptr)),
        }
    }
}

/// Host memory: page-locked, and then the device sees it too, or pageable.
pub(crate) struct Pinned {
    pub(super) ctx: Arc<Context>,
    pub(super) host: *mut c_void,
    /// Where the device sees it; of pageable memory the host's address, which only copies may be given.
    pub(crate) ptr: Ptr,
    pub(crate) len: usize,
    /// Where it is the system's memory and not the driver's.
    mapped: Option<Mapping>,
    pub(super) pageable: bool,
}

// SAFETY: an owned allocation; whoever has it may use it.
unsafe impl Send for Pinned {}
// SAFETY: shared uses are atomic words or addresses for the driver.
unsafe impl Sync for Pinned {}

impl Pinned {
    pub(crate) fn new(ctx: &Arc<Context>, len: usize) -> Result<Self> {
        let mut host = std::ptr::null_mut();
        // SAFETY: writes one pointer.
        unsafe { ctx.api()?.host_alloc(&mut host, len.max(1), ctx.driver.vendor.host_flags()) }?;
        // Owned from here on, so that a failure in `seen` frees it.
        Self { ctx: ctx.clone(), host, ptr: 0, len, mapped: None, pageable: false }.seen()
    }

    /// Of the system's memory: as it is, or page-locked.
    pub(crate) fn of(ctx: &Arc<Context>, mapping: Mapping, len: usize, pageable: bool) -> Result<Self> {
        let host = mapping.pointer;
        if !pageable {
            // SAFETY: the mapping has len bytes and lives until it is unregistered.
            unsafe { ctx.api()?.host_register(host, len.max(1), HOST_PORTABLE_MAPPED) }?;
        }
        let memory = Self { ctx: ctx.clone(), host, ptr: host as Ptr, len, mapped: Some(mapping), pageable };
        if pageable { Ok(memory) } else { memory.seen() }
    }

    /// Asks where the device sees it.
    fn seen(mut self) -> Result<Self> {
        // SAFETY: writes one pointer.
        unsafe { self.ctx.api()?.host_device_pointer(&mut self.ptr, self.host, 0) }?;
        Ok(self)
    }

    /// Writes a word that a kernel is polling.
    pub(crate) fn store(&self, index: usize, value: u32) {
        assert!((index + 1) * 4 <= self.len, "word {index} of a pinned buffer of {} bytes", self.len);
        // SAFETY: in range (above), aligned (page-locked memory is page-aligned); atomic, as the device reads it meanwhile.
        unsafe {
            (*self.host.cast::<std::sync::atomic::AtomicU32>().add(index)).store(value, std::sync::atomic::Ordering::Release)
        }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let memory = match self.mapped.take() {
            Some(mapping) => Memory::Mapped { mapping, registered: !self.pageable },
            None => Memory::Host(self.host),
        };
        self.ctx.free(memory);
    }
}
