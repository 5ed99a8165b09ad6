//! A user's kernel in C: built by the host's compiler into a library and called on every thread. It is the user's own program and
//! runs as this process, as a kernel of theirs would run on a GPU: nothing keeps it within its arrays.

use super::pool::Pool;
use crate::{Arg, DeviceError, Kernel, Result};
use std::ffi::{c_char, c_void};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// `entry(args, thread, threads)`: `args[i]` points at the i-th argument, which for a buffer is its address.
type Entry = unsafe extern "C" fn(*const *const c_void, u32, u32);

/// Most of a compiler's words that are shown.
const MAX_LOG: usize = 4000;

/// A function of a loaded library.
pub(super) struct Function {
    entry: Entry,
    _library: libloading::Library,
}

/// A folder that is gone when this is dropped: a loaded library needs its file no more.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> std::io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ridgepoint-c-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        // Fails where something of this name is there already, whoever made it.
        std::fs::create_dir(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Builds `source` with the compiler that `CC` names, or `cc`, for this very machine.
pub(super) fn compile(program: &str, source: &str, entry: &str) -> Result<Kernel> {
    let compiler = std::env::var_os("CC").filter(|c| !c.is_empty()).unwrap_or_else(|| "cc".into());
    let named = compiler.to_string_lossy().into_owned();
    let failed = |what: &str, error: &dyn std::fmt::Display| DeviceError::unsupported(format!("{program}: {what}: {error}"));
    let scratch = Scratch::new().map_err(|e| failed("no folder to build it in", &e))?;
    let (text, library) = (scratch.0.join("kernel.c"), scratch.0.join("kernel.so"));
    std::fs::write(&text, source).map_err(|e| failed("its source cannot be written", &e))?;
    let output = Command::new(compiler)
        // A function that is not there is a mistake to be told now, not a process that ends when it is called.
        .args(["-std=gnu11", "-O3", "-march=native", "-Werror=implicit-function-declaration", "-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&text)
        .arg("-lm")
        .stdin(Stdio::null())
        .output()
        .map_err(|e| {
            DeviceError::unsupported(format!(
                "{program} needs a C compiler, and '{named}' cannot be run ({e}): apt-get install gcc, or name one by CC"
            ))
        })?;
    if !output.status.success() {
        let log: String = String::from_utf8_lossy(&output.stderr).chars().take(MAX_LOG).collect();
        return Err(DeviceError::Compile {
            program: program.into(),
            arch: format!("the host by {named}"),
            log: log.trim().into(),
        });
    }
    let loaded = load(&library).map_err(|e| failed("it cannot be loaded", &e))?;
    // SAFETY: whoever wrote the source gave this function the type that `Program::c` asks for.
    let function = unsafe { loaded.get::<Entry>(entry.as_bytes()) }.map(|symbol| *symbol);
    let function = function.map_err(|_| DeviceError::unsupported(format!("{program} has no function {entry}")))?;
    Ok(Kernel::new(entry, None, Arc::new(Function { entry: function, _library: loaded })))
}

#[cfg(unix)]
fn load(library: &std::path::Path) -> std::result::Result<libloading::Library, libloading::Error> {
    use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
    // SAFETY: the user asked for this library to be built of their source and run.
    unsafe { Library::open(Some(library), RTLD_NOW | RTLD_LOCAL) }.map(Into::into)
}

#[cfg(not(unix))]
fn load(library: &std::path::Path) -> std::result::Result<libloading::Library, libloading::Error> {
    // SAFETY: as above.
    unsafe { libloading::Library::new(library) }
}

/// Addresses that every thread reads.
struct Addresses(Vec<*const c_void>);
// SAFETY: what they point at outlives the call and is only read.
unsafe impl Sync for Addresses {}

impl Function {
    pub(super) fn run(&self, pool: &Pool, args: &[Arg<'_>]) -> Result<()> {
        let mut values = Vec::with_capacity(args.len());
        for arg in args {
            values.push(match arg {
                Arg::Buffer(buffer, offset) if buffer.owner::<super::Memory>().is_some() && *offset <= buffer.len() => {
                    buffer.address() + *offset as u64
                }
                Arg::Buffer(..) => return Err(DeviceError::invalid("a buffer of another device, or an offset past its end")),
                Arg::U32(x) => u64::from(*x),
                Arg::I32(x) => u64::from(*x as u32),
                Arg::U64(x) => *x,
                Arg::F32(x) => u64::from(x.to_bits()),
                Arg::Bytes(_) => return Err(DeviceError::unsupported("the CPU passes no structures by value")),
            });
        }
        // Little-endian or not, a narrow value is where a pointer to it points.
        let place = |(value, arg): (&u64, &Arg<'_>)| -> *const c_void {
            let narrow = matches!(arg, Arg::U32(_) | Arg::I32(_) | Arg::F32(_)) && cfg!(target_endian = "big");
            std::ptr::from_ref(value).cast::<c_char>().wrapping_add(if narrow { 4 } else { 0 }).cast()
        };
        let addresses = Addresses(values.iter().zip(args).map(place).collect());
        let addresses = &addresses;
        pool.run(&|thread, threads| {
            // SAFETY: the arguments live until every thread has returned; what the function does with them is its author's affair.
            unsafe { (self.entry)(addresses.0.as_ptr(), thread as u32, threads as u32) };
        });
        Ok(())
    }
}
