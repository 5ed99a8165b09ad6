//! Loaded code, its entry points, and the arguments that they take.

use super::driver::{Context, Failure, Result};
use super::stream::owned;
use super::sys::{Handle, Ptr, function, jit, status};
use std::ffi::{CString, c_int, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

owned!(/// Loaded code.
    Module, module_unload);

impl Module {
    /// Loads a cubin, or PTX that the driver compiles (which must end in a NUL).
    pub(crate) fn load(ctx: &Arc<Context>, image: &[u8]) -> Result<Arc<Self>> {
        if !image.starts_with(b"\x7fELF") && image.last() != Some(&0) {
            return Err(Failure::Invalid("a module that is neither a cubin nor NUL-terminated PTX".into()));
        }
        let mut log = vec![0_u8; 8192];
        let mut handle = std::ptr::null_mut();
        let mut options = [jit::ERROR_LOG, jit::ERROR_LOG_BYTES];
        let mut values: [*mut c_void; 2] = [log.as_mut_ptr().cast(), log.len() as *mut c_void];
        // SAFETY: the image is an ELF file or NUL-terminated text; the log buffer has the length given.
        let loaded =
            unsafe { ctx.api()?.module_load(&mut handle, image.as_ptr().cast(), 2, options.as_mut_ptr(), values.as_mut_ptr()) };
        match loaded {
            Ok(()) => Ok(Arc::new(Self { ctx: ctx.clone(), handle })),
            Err(error) => {
                let end = log.iter().position(|c| *c == 0).unwrap_or(log.len());
                Err(Failure::Module { log: String::from_utf8_lossy(&log[..end]).trim().to_owned(), error })
            }
        }
    }

    pub(crate) fn function(self: &Arc<Self>, name: &str) -> Result<Function> {
        let c = CString::new(name).map_err(|_| Failure::Invalid(format!("'{name:?}' is no kernel name")))?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: writes one handle; the name is NUL-terminated.
        unsafe { self.ctx.api()?.module_function(&mut handle, self.handle, c.as_ptr()) }?;
        let mut f = Function {
            module: self.clone(),
            handle,
            name: name.to_owned(),
            registers: 0,
            local_bytes: 0,
            shared_bytes: 0,
            max_threads: 0,
            parameters: None,
            allowed: AtomicU32::new(0),
        };
        f.registers = f.attribute(function::REGISTERS)?;
        f.local_bytes = f.attribute(function::LOCAL_BYTES)?;
        f.shared_bytes = f.attribute(function::SHARED_BYTES)?;
        f.max_threads = f.attribute(function::MAX_THREADS)?;
        f.parameters = f.parameter_sizes();
        Ok(f)
    }
}

/// An entry point, and what the compiler gave it.
pub(crate) struct Function {
    module: Arc<Module>,
    pub(super) handle: Handle,
    pub(crate) name: String,
    pub(crate) registers: u32,
    pub(crate) local_bytes: u32,
    pub(crate) shared_bytes: u32,
    pub(crate) max_threads: u32,
    /// Bytes of each parameter, where the driver says (from 12.4 on).
    pub(super) parameters: Option<Vec<usize>>,
    allowed: AtomicU32,
}
// SAFETY: a token that lives as long as its module.
unsafe impl Send for Function {}
// SAFETY: as above; `allowed` is atomic.
unsafe impl Sync for Function {}

impl Function {
    fn attribute(&self, which: u32) -> Result<u32> {
        let mut v = 0;
        // SAFETY: writes one int.
        unsafe { self.module.ctx.api()?.function_attribute(&mut v, which, self.handle) }?;
        Ok(u32::try_from(v).unwrap_or(0))
    }

    fn parameter_sizes(&self) -> Option<Vec<usize>> {
        let api = self.module.ctx.api().ok()?;
        let (mut sizes, mut offset, mut bytes) = (Vec::new(), 0, 0);
        loop {
            // SAFETY: writes two sizes.
            match unsafe { api.function_parameter(self.handle, sizes.len(), &mut offset, &mut bytes) } {
                Ok(()) if sizes.len() < MOST_PARAMETERS => sizes.push(bytes),
                // Past the last one.
                Err(error) if error.status() == Some(status::INVALID_VALUE) => return Some(sizes),
                _ => return None,
            }
        }
    }

    /// Refuses arguments that are not the kernel's in number or size.
    pub(super) fn takes(&self, args: &[Arg<'_>]) -> Result<()> {
        let given: Vec<usize> = args.iter().map(Arg::bytes).collect();
        match &self.parameters {
            Some(wanted) if *wanted != given => Err(Failure::Invalid(format!(
                "{} takes {} arguments of {wanted:?} bytes and was given {} of {given:?}",
                self.name,
                wanted.len(),
                given.len()
            ))),
            None if given.len() > MOST_PARAMETERS => {
                Err(Failure::Invalid(format!("{}: {} arguments; at most {MOST_PARAMETERS}", self.name, given.len())))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn context(&self) -> &Context {
        &self.module.ctx
    }

    /// Raises the limit on dynamic shared memory; CUDA wants that once past 48 KiB, HIP never.
    pub(super) fn allow_shared(&self, bytes: u32) -> Result<()> {
        if bytes <= 48 * 1024 || self.allowed.load(Relaxed) >= bytes {
            return Ok(());
        }
        let most = self.module.ctx.facts.shared_most.max(0) as u32;
        if bytes.saturating_add(self.shared_bytes) > most {
            return Err(Failure::Invalid(format!(
                "{} wants {bytes} bytes of dynamic and {} of static shared memory; this device has {most} a block",
                self.name, self.shared_bytes
            )));
        }
        if self.module.ctx.driver.vendor.has_contexts() {
            // SAFETY: a live function; the driver checks the value.
            unsafe { self.module.ctx.api()?.function_set_attribute(self.handle, function::MAX_DYNAMIC_SHARED, bytes as c_int) }?;
        }
        self.allowed.store(bytes, Relaxed);
        Ok(())
    }
}

pub(crate) enum Arg<'a> {
    Ptr(Ptr),
    U32(u32),
    I32(i32),
    U64(u64),
    F32(f32),
    Bytes(&'a [u8]),
}

#[repr(C, align(128))]
pub(super) struct Slot(pub(super) [u8; 128]);

/// More than any kernel here takes.
pub(super) const MOST_PARAMETERS: usize = 64;

impl Arg<'_> {
    fn bytes(&self) -> usize {
        match self {
            Self::Ptr(_) | Self::U64(_) => 8,
            Self::U32(_) | Self::I32(_) | Self::F32(_) => 4,
            Self::Bytes(b) => b.len(),
        }
    }

    pub(super) fn slot(&self) -> Result<Slot> {
        let mut slot = Slot([0; 128]);
        let mut put = |bytes: &[u8]| slot.0[..bytes.len()].copy_from_slice(bytes);
        match self {
            Self::Ptr(v) | Self::U64(v) => put(&v.to_ne_bytes()),
            Self::U32(v) => put(&v.to_ne_bytes()),
            Self::I32(v) => put(&v.to_ne_bytes()),
            Self::F32(v) => put(&v.to_ne_bytes()),
            Self::Bytes(b) if b.len() <= 128 => put(b),
            Self::Bytes(b) => {
                return Err(Failure::Invalid(format!("an argument of {} bytes; at most 128 are passed by value", b.len())));
            }
        }
        Ok(slot)
    }
}
