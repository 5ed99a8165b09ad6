//! The driver, its devices, a context, and memory as owned values; streams and code are in stream.rs.
//!
//! Everything holds its context by `Arc`, so no handle outlives what it belongs to, and makes the context current before
//! it calls: a device may be used from whichever thread holds it.

use super::driver_sys::{Cuda, HOST_PORTABLE_MAPPED, Handle, Ptr, attribute, status};
use crate::dl::CallError;
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
    pub(crate) uuid: String,
    pub(crate) pci: String,
    pub(crate) cc: (i32, i32),
    pub(crate) sms: i32,
    pub(crate) clock_khz: i32,
    pub(crate) memory_clock_khz: i32,
    pub(crate) bus_bits: i32,
    pub(crate) memory_bytes: usize,
    pub(crate) l2_bytes: i32,
    pub(crate) shared_optin: i32,
    pub(crate) copy_engines: i32,
}

impl Facts {
    /// As nvidia-smi writes it; the driver gives an instance's own where the GPU is split, and says so in its name.
    pub(crate) fn uuid(&self) -> String {
        format!("{}-{}", if self.name.contains("MIG ") { "MIG" } else { "GPU" }, self.uuid)
    }

    /// `sm_90a`: the exact target where the architecture has instructions of its own.
    pub(crate) fn arch(&self) -> String {
        let (major, minor) = self.cc;
        format!("sm_{major}{minor}{}", if major >= 9 { "a" } else { "" })
    }
}

pub(crate) struct Driver {
    pub(crate) api: Cuda,
    pub(crate) version: i32,
}

impl Driver {
    pub(crate) fn start(api: Cuda) -> Result<Self> {
        // SAFETY: cuInit takes no pointers, and may be called any number of times.
        unsafe { api.init(0) }?;
        let mut version = 0;
        // SAFETY: writes one int.
        unsafe { api.driver_version(&mut version) }?;
        Ok(Self { api, version })
    }

    /// What to do about an answer of the driver's start.
    pub(crate) fn advice(failure: &Failure) -> &'static str {
        let Failure::Call(error) = failure else { return "" };
        match error.status() {
            Some(status::NO_DEVICE) => {
                "is a GPU in this machine or container (nvidia-smi), and what does CUDA_VISIBLE_DEVICES say?"
            }
            Some(status::DRIVER_MISMATCH) => {
                "the library and the kernel module are of two versions: reboot after a driver update"
            }
            Some(status::FABRIC_NOT_READY) => "the NVSwitch fabric is not up: systemctl status nvidia-fabricmanager",
            _ => "see whether nvidia-smi works, and dmesg if it does not",
        }
    }

    pub(crate) fn count(&self) -> Result<i32> {
        let mut n = 0;
        // SAFETY: writes one int.
        unsafe { self.api.device_count(&mut n) }?;
        Ok(n)
    }

    /// An attribute, or 0 where this driver does not know it.
    fn attribute(&self, device: c_int, which: u32) -> i32 {
        let mut v = 0;
        // SAFETY: writes one int.
        match unsafe { self.api.device_attribute(&mut v, which, device) } {
            Ok(()) => v,
            Err(_) => 0,
        }
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
        let a = |which| self.attribute(d, which);
        Ok(Facts {
            name: text(&name),
            uuid: uuid_text(&uuid),
            pci: text(&pci),
            cc: (a(attribute::CC_MAJOR), a(attribute::CC_MINOR)),
            sms: a(attribute::SM_COUNT),
            clock_khz: a(attribute::CLOCK_KHZ),
            memory_clock_khz: a(attribute::MEMORY_CLOCK_KHZ),
            bus_bits: a(attribute::MEMORY_BUS_BITS),
            memory_bytes: memory,
            l2_bytes: a(attribute::L2_BYTES),
            shared_optin: a(attribute::MAX_SHARED_OPTIN),
            copy_engines: a(attribute::COPY_ENGINES),
        })
    }
}

/// The bytes in the order in which nvidia-smi writes them.
fn uuid_text(u: &[u8; 16]) -> String {
    let hex = |r: std::ops::Range<usize>| u[r].iter().map(|b| format!("{b:02x}")).collect::<String>();
    format!("{}-{}-{}-{}-{}", hex(0..4), hex(4..6), hex(6..8), hex(8..10), hex(10..16))
}

pub(crate) struct Context {
    pub(crate) driver: Arc<Driver>,
    pub(crate) facts: Facts,
    device: c_int,
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

#[derive(Clone, Copy)]
enum Memory {
    Device(Ptr),
    Host(*mut c_void),
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
            driver.api.primary_retain(&mut handle, device)?;
        }
        Ok(Arc::new(Self { driver, facts, device, handle, parking: Mutex::default() }))
    }

    /// The driver's functions, with this context current on this thread.
    pub(crate) fn api(&self) -> Result<&Cuda> {
        // SAFETY: the handle is retained until drop.
        unsafe { self.driver.api.ctx_set(self.handle) }?;
        Ok(&self.driver.api)
    }

    /// The same device, whichever handle it was opened by.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.device == other.device
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
        if parking.parked.iter().any(|m| matches!(m, Memory::Host(_))) {
            // SAFETY: takes no pointers. The copies that a stream still has to make must not find the memory gone.
            let _ = unsafe { api.ctx_synchronize() };
        }
        for memory in parking.parked.drain(..) {
            // SAFETY: each came from its owner's `new` and was parked once, by its drop.
            let _ = unsafe {
                match memory {
                    Memory::Device(p) => api.mem_free(p),
                    Memory::Host(p) => api.host_free(p),
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
        // SAFETY: retained once in `open`; everything made in it holds an Arc to it and is gone.
        let _ = unsafe { self.driver.api.primary_release(self.device) };
    }
}

/// Device memory.
pub(crate) struct Buffer {
    pub(super) ctx: Arc<Context>,
    pub(crate) ptr: Ptr,
    pub(crate) len: usize,
}

impl Buffer {
    pub(crate) fn new(ctx: &Arc<Context>, len: usize) -> Result<Self> {
        ctx.sweep();
        let mut ptr = 0;
        // The driver refuses 0 bytes; an empty buffer is nothing to refuse.
        // SAFETY: writes one pointer.
        unsafe { ctx.api()?.mem_alloc(&mut ptr, len.max(1)) }?;
        Ok(Self { ctx: ctx.clone(), ptr, len })
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.ctx.free(Memory::Device(self.ptr));
    }
}

/// Page-locked host memory that the device sees too.
pub(crate) struct Pinned {
    pub(super) ctx: Arc<Context>,
    pub(super) host: *mut c_void,
    pub(crate) ptr: Ptr,
    pub(crate) len: usize,
}

// SAFETY: an owned allocation; whoever has it may use it.
unsafe impl Send for Pinned {}
// SAFETY: shared uses are atomic words or addresses for the driver.
unsafe impl Sync for Pinned {}

impl Pinned {
    pub(crate) fn new(ctx: &Arc<Context>, len: usize) -> Result<Self> {
        let mut host = std::ptr::null_mut();
        // SAFETY: writes one pointer.
        unsafe { ctx.api()?.host_alloc(&mut host, len.max(1), HOST_PORTABLE_MAPPED) }?;
        // Owned from here on, so that a failure below frees it.
        let mut pinned = Self { ctx: ctx.clone(), host, ptr: 0, len };
        let mut ptr = 0;
        // SAFETY: writes one pointer.
        unsafe { ctx.api()?.host_device_pointer(&mut ptr, host, 0) }?;
        pinned.ptr = ptr;
        Ok(pinned)
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
        self.ctx.free(Memory::Host(self.host));
    }
}
