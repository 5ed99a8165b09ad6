//! C++ to machine code at run time, through NVRTC or hipRTC, whose functions are the same under two names.
//!
//! To code for the exact architecture (for NVIDIA a cubin and not PTX), so that a compiler older or newer than the driver's own
//! still gives code that the driver takes, and so that registers and instructions are those that were checked.

use crate::DeviceError;
use crate::cache;
use crate::dl::{CallError, text};
use std::ffi::{CString, c_char, c_int, c_void};

crate::dl::table! {
    /// `libnvrtc.so`, or `libhiprtc.so`: bound with the prefix of one.
    pub struct Rtc;
    status {
        fn version_numbers(major: *mut c_int, minor: *mut c_int) = ["nvrtcVersion", "hiprtcVersion"];
        fn create(p: *mut *mut c_void, src: *const c_char, name: *const c_char, n: c_int, headers: *const *const c_char,
                  names: *const *const c_char) = ["nvrtcCreateProgram", "hiprtcCreateProgram"];
        fn destroy(p: *mut *mut c_void) = ["nvrtcDestroyProgram", "hiprtcDestroyProgram"];
        fn compile_program(p: *mut c_void, n: c_int, options: *const *const c_char) = ["nvrtcCompileProgram", "hiprtcCompileProgram"];
        fn code_size(p: *mut c_void, n: *mut usize) = ["nvrtcGetCUBINSize", "hiprtcGetCodeSize"];
        fn code(p: *mut c_void, out: *mut c_char) = ["nvrtcGetCUBIN", "hiprtcGetCode"];
        fn ptx_size(p: *mut c_void, n: *mut usize) = ["nvrtcGetPTXSize"];
        fn ptx_text(p: *mut c_void, out: *mut c_char) = ["nvrtcGetPTX"];
        fn log_size(p: *mut c_void, n: *mut usize) = ["nvrtcGetProgramLogSize", "hiprtcGetProgramLogSize"];
        fn log(p: *mut c_void, out: *mut c_char) = ["nvrtcGetProgramLog", "hiprtcGetProgramLog"];
        fn arch_count(n: *mut c_int) = ["nvrtcGetNumSupportedArchs"];
        fn archs(out: *mut c_int) = ["nvrtcGetSupportedArchs"];
    }
    raw {
        fn error_string(code: i32) -> *const c_char = ["nvrtcGetErrorString", "hiprtcGetErrorString"];
    }
}

impl Rtc {
    fn meaning(&self, code: i32) -> String {
        // SAFETY: returns a static string for any code.
        unsafe { self.error_string(code).map(|p| text(p)) }.unwrap_or_default()
    }
}

/// `NVRTC_ERROR_INVALID_OPTION`, `HIPRTC_ERROR_INVALID_OPTION`.
pub(crate) const INVALID_OPTION: i32 = 5;

#[derive(Debug)]
pub(crate) enum CompileError {
    /// The compiler's own words.
    Source {
        program: String,
        arch: String,
        log: String,
    },
    /// The compiler refuses an option, which can only be the architecture or a definition.
    Option,
    Call(CallError),
    /// A name, option or source with a NUL in it.
    Nul(String),
}

impl From<CallError> for CompileError {
    fn from(e: CallError) -> Self {
        Self::Call(e)
    }
}

impl std::fmt::Display for CompileError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Source { program, arch, log } => write!(f, "{program} does not compile for {arch}: {log}"),
            Self::Option => f.write_str("the compiler refuses an option (the architecture, or a definition)"),
            Self::Call(e) => e.fmt(f),
            Self::Nul(what) => write!(f, "{what} holds a NUL byte"),
        }
    }
}

impl From<CompileError> for DeviceError {
    fn from(error: CompileError) -> Self {
        match error {
            CompileError::Source { program, arch, log } => Self::Compile { program, arch, log },
            other => Self::Unsupported(other.to_string()),
        }
    }
}

/// What to compile.
#[derive(Clone)]
pub(crate) struct Request<'a> {
    pub(crate) name: &'a str,
    pub(crate) source: &'a str,
    /// In-memory headers, as (include name, text).
    pub(crate) headers: &'a [(&'a str, &'a str)],
    /// For messages; the compiler is told by an option.
    pub(crate) arch: &'a str,
    pub(crate) options: Vec<String>,
}

impl Request<'_> {
    /// All that the code depends on but the compiler.
    pub(crate) fn key(&self) -> String {
        let mut key = format!("{}\n", self.options.join("\n"));
        for (name, body) in self.headers.iter().chain(&[(self.name, self.source)]) {
            key.push_str(&format!("{name} {}\n{body}\n", body.len()));
        }
        key
    }
}

impl Rtc {
    pub(crate) fn version(&self) -> Result<(i32, i32), CallError> {
        let (mut a, mut b) = (0, 0);
        // SAFETY: writes two ints.
        unsafe { self.version_numbers(&mut a, &mut b) }?;
        Ok((a, b))
    }

    /// NVIDIA's architectures as numbers (80, 90, 100), in rising order; hipRTC does not say.
    pub(crate) fn architectures(&self) -> Result<Vec<i32>, CallError> {
        let mut n = 0;
        // SAFETY: writes one int.
        unsafe { self.arch_count(&mut n) }?;
        let mut v = vec![0; usize::try_from(n).unwrap_or(0)];
        // SAFETY: as many ints as it said.
        unsafe { self.archs(v.as_mut_ptr()) }?;
        v.sort_unstable();
        Ok(v)
    }

    /// Machine code, from the cache where it is there. `name` tells compilers apart in it.
    pub(crate) fn compile(
        &self,
        name: &str,
        request: &Request<'_>,
        store: Option<&cache::Cache>,
    ) -> Result<Vec<u8>, CompileError> {
        let (major, minor) = self.version()?;
        let key = format!("{name} {major}.{minor}\n{}", request.key());
        if let Some(code) = store.and_then(|s| s.get(&key)) {
            return Ok(code);
        }
        let code = self.run(request, Self::code_size, Self::code)?;
        if let Some(s) = store {
            s.put(&key, &code);
        }
        Ok(code)
    }

    /// NVIDIA's portable assembly, for a virtual architecture: what is built ahead.
    #[cfg(test)]
    pub(crate) fn ptx(&self, request: &Request<'_>) -> Result<Vec<u8>, CompileError> {
        self.run(request, Self::ptx_size, Self::ptx_text)
    }

    fn run(&self, r: &Request<'_>, size: Size, read: Read) -> Result<Vec<u8>, CompileError> {
        let c = |s: &str, what: &str| CString::new(s).map_err(|_| CompileError::Nul(what.into()));
        let (source, name) = (c(r.source, r.name)?, c(r.name, "a program's name")?);
        let bodies = r.headers.iter().map(|(n, b)| c(b, n)).collect::<Result<Vec<_>, _>>()?;
        let names = r.headers.iter().map(|(n, _)| c(n, n)).collect::<Result<Vec<_>, _>>()?;
        let options = r.options.iter().map(|o| c(o, "an option")).collect::<Result<Vec<_>, _>>()?;
        let pointers = |v: &[CString]| v.iter().map(|s| s.as_ptr()).collect::<Vec<_>>();
        let (bodies_p, names_p, options_p) = (pointers(&bodies), pointers(&names), pointers(&options));
        let mut program = Program { api: self, handle: std::ptr::null_mut() };
        // SAFETY: every string and array outlives the call, which copies them.
        unsafe {
            self.create(
                &mut program.handle,
                source.as_ptr(),
                name.as_ptr(),
                bodies_p.len() as c_int,
                bodies_p.as_ptr(),
                names_p.as_ptr(),
            )
        }?;
        // SAFETY: a live program.
        let compiled = unsafe { self.compile_program(program.handle, options_p.len() as c_int, options_p.as_ptr()) };
        let log = program
            .bytes(Self::log_size, Self::log)
            .map(|b| String::from_utf8_lossy(&b).trim_end_matches('\0').trim().to_owned());
        match compiled {
            Ok(()) => Ok(program.bytes(size, read)?),
            Err(e) if e.status() == Some(INVALID_OPTION) => Err(CompileError::Option),
            Err(e) if e.status().is_some() => {
                let log = log.ok().filter(|l| !l.is_empty()).unwrap_or_else(|| e.to_string());
                Err(CompileError::Source { program: r.name.into(), arch: r.arch.into(), log })
            }
            Err(e) => Err(e.into()),
        }
    }
}

struct Program<'a> {
    api: &'a Rtc,
    handle: *mut c_void,
}

type Size = unsafe fn(&Rtc, *mut c_void, *mut usize) -> Result<(), CallError>;
type Read = unsafe fn(&Rtc, *mut c_void, *mut c_char) -> Result<(), CallError>;

impl Program<'_> {
    fn bytes(&self, size: Size, read: Read) -> Result<Vec<u8>, CallError> {
        let mut n = 0;
        // SAFETY: writes one size.
        unsafe { size(self.api, self.handle, &mut n) }?;
        let mut v = vec![0_u8; n];
        // SAFETY: as many bytes as it said.
        unsafe { read(self.api, self.handle, v.as_mut_ptr().cast()) }?;
        Ok(v)
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        if !self.handle.is_null() {
            // SAFETY: made by `create`, destroyed once.
            let _ = unsafe { self.api.destroy(&mut self.handle) };
        }
    }
}
