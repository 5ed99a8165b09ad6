//! CUDA C++ to machine code at run time, through NVRTC.
//!
//! To a cubin for the exact architecture and not to PTX, so that an NVRTC older or newer than the driver's own compiler
//! still gives code that the driver takes, and so that registers and instructions are those that were checked.

use crate::cache;
use crate::dl::{CallError, text};
use std::ffi::{CString, c_char, c_int, c_void};

crate::dl::table! {
    /// `libnvrtc.so`.
    pub struct Nvrtc;
    status {
        fn nvrtc_version(major: *mut c_int, minor: *mut c_int) = ["nvrtcVersion"];
        fn create(p: *mut *mut c_void, src: *const c_char, name: *const c_char, n: c_int, headers: *const *const c_char,
                  names: *const *const c_char) = ["nvrtcCreateProgram"];
        fn destroy(p: *mut *mut c_void) = ["nvrtcDestroyProgram"];
        fn compile_program(p: *mut c_void, n: c_int, options: *const *const c_char) = ["nvrtcCompileProgram"];
        fn cubin_size(p: *mut c_void, n: *mut usize) = ["nvrtcGetCUBINSize"];
        fn cubin(p: *mut c_void, out: *mut c_char) = ["nvrtcGetCUBIN"];
        fn log_size(p: *mut c_void, n: *mut usize) = ["nvrtcGetProgramLogSize"];
        fn log(p: *mut c_void, out: *mut c_char) = ["nvrtcGetProgramLog"];
        fn arch_count(n: *mut c_int) = ["nvrtcGetNumSupportedArchs"];
        fn archs(out: *mut c_int) = ["nvrtcGetSupportedArchs"];
    }
    raw {
        fn error_string(code: i32) -> *const c_char = ["nvrtcGetErrorString"];
    }
}

impl Nvrtc {
    fn meaning(&self, code: i32) -> String {
        // SAFETY: returns a static string for any code.
        unsafe { self.error_string(code).map(|p| text(p)) }.unwrap_or_default()
    }
}

/// `NVRTC_ERROR_INVALID_OPTION`.
const INVALID_OPTION: i32 = 5;

#[derive(Debug)]
pub(crate) enum CompileError {
    /// The compiler's own words.
    Source {
        program: String,
        arch: String,
        log: String,
    },
    /// This NVRTC does not know the architecture.
    Arch {
        arch: String,
        version: (i32, i32),
        known: Vec<i32>,
    },
    /// This NVRTC refuses an option, which can only be the architecture or a definition.
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
            Self::Arch { arch, version: (a, b), known } => write!(
                f,
                "NVRTC {a}.{b} knows no {arch} (it knows {} to {}): install a newer one (pip install -U nvidia-cuda-nvrtc)",
                known.first().unwrap_or(&0),
                known.last().unwrap_or(&0)
            ),
            Self::Option => f.write_str("NVRTC refuses an option (the architecture, or a definition)"),
            Self::Call(e) => e.fmt(f),
            Self::Nul(what) => write!(f, "{what} holds a NUL byte"),
        }
    }
}

/// What to compile.
pub(crate) struct Request<'a> {
    pub(crate) name: &'a str,
    pub(crate) source: &'a str,
    /// In-memory headers, as (include name, text).
    pub(crate) headers: &'a [(&'a str, &'a str)],
    pub(crate) defines: &'a [(&'a str, String)],
    pub(crate) arch: &'a str,
}

impl Nvrtc {
    pub(crate) fn version(&self) -> Result<(i32, i32), CallError> {
        let (mut a, mut b) = (0, 0);
        // SAFETY: writes two ints.
        unsafe { self.nvrtc_version(&mut a, &mut b) }?;
        Ok((a, b))
    }

    /// Architectures as numbers (80, 90, 100), in rising order.
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

    pub(crate) fn compile(&self, request: &Request<'_>, store: Option<&cache::Cache>) -> Result<Vec<u8>, CompileError> {
        let version = self.version()?;
        let mut options = vec![format!("--gpu-architecture={}", request.arch), "--std=c++17".into(), "-default-device".into()];
        options.extend(request.defines.iter().map(|(k, v)| format!("-D{k}={v}")));
        let mut key = format!("nvrtc {}.{}\n{}\n", version.0, version.1, options.join("\n"));
        for (name, body) in request.headers.iter().chain(&[(request.name, request.source)]) {
            key.push_str(&format!("{name} {}\n{body}\n", body.len()));
        }
        if let Some(cubin) = store.and_then(|s| s.get(&key)) {
            return Ok(cubin);
        }
        let cubin = match self.run(request, &options, version) {
            // The architecture's own instructions came later than the architecture: without them, a kernel that needs none
            // of them still runs, and one that does fails with the compiler's words.
            Err(CompileError::Option) if request.arch.ends_with('a') => {
                let common = Request { arch: request.arch.trim_end_matches('a'), ..*request };
                options[0] = format!("--gpu-architecture={}", common.arch);
                self.run(&common, &options, version)
            }
            outcome => outcome,
        }?;
        if let Some(s) = store {
            s.put(&key, &cubin);
        }
        Ok(cubin)
    }

    fn run(&self, r: &Request<'_>, options: &[String], version: (i32, i32)) -> Result<Vec<u8>, CompileError> {
        let known = self.architectures().unwrap_or_default();
        let number = r.arch.trim_start_matches("sm_").trim_end_matches(|c: char| c.is_ascii_alphabetic()).parse::<i32>();
        if let (Ok(n), false) = (number, known.is_empty())
            && !known.contains(&n)
        {
            return Err(CompileError::Arch { arch: r.arch.into(), version, known });
        }
        let c = |s: &str, what: &str| CString::new(s).map_err(|_| CompileError::Nul(what.into()));
        let (source, name) = (c(r.source, r.name)?, c(r.name, "a program's name")?);
        let bodies = r.headers.iter().map(|(n, b)| c(b, n)).collect::<Result<Vec<_>, _>>()?;
        let names = r.headers.iter().map(|(n, _)| c(n, n)).collect::<Result<Vec<_>, _>>()?;
        let options = options.iter().map(|o| c(o, "an option")).collect::<Result<Vec<_>, _>>()?;
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
            Ok(()) => Ok(program.bytes(Self::cubin_size, Self::cubin)?),
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
    api: &'a Nvrtc,
    handle: *mut c_void,
}

type Size = unsafe fn(&Nvrtc, *mut c_void, *mut usize) -> Result<(), CallError>;
type Read = unsafe fn(&Nvrtc, *mut c_void, *mut c_char) -> Result<(), CallError>;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources;

    /// Not in every run, for it needs the compiler: `pip install nvidia-cuda-nvrtc`, and its folder in RIDGEPOINT_CUDA_PATH.
    #[test]
    #[ignore = "needs NVRTC"]
    fn real_compiler_takes_every_kernel() {
        let nvrtc = super::super::libraries::libraries().nvrtc.as_ref().unwrap();
        let known = nvrtc.architectures().unwrap();
        for name in sources::names() {
            let arch = if name.ends_with("sm90") { "sm_90a" } else { "sm_80" };
            let source = sources::cpp(name).unwrap();
            for arch in [arch, "sm_90a"] {
                let request = Request { name, source, headers: &[sources::HEADER], defines: &[], arch };
                let cubin = nvrtc.compile(&request, None).unwrap_or_else(|error| panic!("{name}: {error}"));
                assert!(cubin.starts_with(b"\x7fELF"), "{name} for {arch}");
            }
        }
        let compile = |source, arch| nvrtc.compile(&Request { name: "t.cu", source, headers: &[], defines: &[], arch }, None);
        assert!(matches!(compile("int f( {", "sm_80"), Err(CompileError::Source { .. })));
        let unknown = compile("", "sm_20");
        assert!(matches!(&unknown, Err(CompileError::Arch { known: k, .. }) if *k == known), "{unknown:?}");
        assert!(matches!(compile("\0", "sm_80"), Err(CompileError::Nul(_))));
    }
}
