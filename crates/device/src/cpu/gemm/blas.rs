//! The CPU's vendor library: OpenBLAS, BLIS or any library with the C interface to BLAS, found at run time.

use super::super::range;
use crate::cpu::pool::Pool;
use crate::{Blas, DeviceError, Finding, GemmOperands, GemmPlan, GemmProblem, Result, Transpose};
use libloading::Library as Dl;
use ridgepoint_core::{Dtype, Library};
use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int};
use std::sync::{Arc, OnceLock};

/// `cblas_sgemm` and `cblas_dgemm` of the C interface to BLAS (netlib, cblas.h); int is 32 bits in the LP64 builds that these names mean.
type Gemm<T> =
    unsafe extern "C" fn(c_int, c_int, c_int, c_int, c_int, c_int, T, *const T, c_int, *const T, c_int, T, *mut T, c_int);
type SetThreads = unsafe extern "C" fn(c_int);

const ROW_MAJOR: c_int = 101;
const NO_TRANSPOSE: c_int = 111;
const TRANSPOSE: c_int = 112;

/// A library, its file names, how to limit its threads and ask its version, and the package that has it.
struct Candidate {
    provider: &'static str,
    files: &'static [&'static str],
    set_threads: &'static [u8],
    version: &'static [u8],
    package: &'static str,
}

const CANDIDATES: &[Candidate] = &[
    Candidate {
        provider: "openblas",
        files: &["libopenblas.so.0", "libopenblas.so", "libopenblas.dylib", "libopenblas.dll"],
        set_threads: b"openblas_set_num_threads\0",
        version: b"openblas_get_config\0",
        package: "apt-get install libopenblas0-pthread",
    },
    Candidate {
        provider: "blis",
        files: &["libblis.so.4", "libblis-mt.so.4", "libblis.so", "libblis-mt.so"],
        set_threads: b"bli_thread_set_num_threads\0",
        version: b"bli_info_get_version_str\0",
        package: "apt-get install libblis4-pthread",
    },
];

/// A loaded library. It is never unloaded: its threads may outlive any handle.
pub(crate) struct Vendor {
    provider: &'static str,
    library: Library,
    sgemm: Gemm<f32>,
    dgemm: Option<Gemm<f64>>,
    set_threads: Option<SetThreads>,
    pool: Arc<Pool>,
}

/// The libraries that are there, each with its pool of callers.
pub(crate) fn find(pool: &Arc<Pool>) -> Vec<Vendor> {
    let load = |candidate: &'static Candidate| {
        let (dl, path) = open(candidate)?;
        // SAFETY: the symbol has this type by the C interface to BLAS.
        let sgemm = unsafe { *dl.get::<Gemm<f32>>(b"cblas_sgemm\0").ok()? };
        // SAFETY: as above; a build for one type alone lacks it.
        let dgemm = unsafe { dl.get::<Gemm<f64>>(b"cblas_dgemm\0").ok().map(|f| *f) };
        // SAFETY: both libraries document this function as taking one int (BLIS: dim_t of the same register).
        let set_threads = unsafe { dl.get::<SetThreads>(candidate.set_threads).ok().map(|f| *f) };
        let library = Library { name: candidate.provider.into(), version: version(dl, candidate), path: Some(path) };
        Some(Vendor { provider: candidate.provider, library, sgemm, dgemm, set_threads, pool: Arc::clone(pool) })
    };
    CANDIDATES.iter().filter_map(load).collect()
}

/// What `doctor` says of them.
pub(crate) fn doctor() -> Vec<Finding> {
    let finding = |candidate: &'static Candidate| {
        let found = open(candidate).map(|(dl, path)| format!("{} from {path}", version(dl, candidate)));
        Finding {
            what: candidate.provider.into(),
            ok: found.is_some(),
            detail: found.clone().unwrap_or_else(|| format!("not found; tried {}", candidate.files.join(", "))),
            remedy: found.is_none().then(|| candidate.package.into()),
        }
    };
    CANDIDATES.iter().map(finding).collect()
}

/// Opens a candidate once a process and keeps it.
fn open(candidate: &'static Candidate) -> Option<(&'static Dl, String)> {
    static OPENED: OnceLock<Vec<Option<(Dl, String)>>> = OnceLock::new();
    let all = OPENED.get_or_init(|| {
        let first = |c: &Candidate| {
            // SAFETY: loading a BLAS runs its initialisers, which set up threads and choose kernels; nothing else.
            c.files.iter().find_map(|file| unsafe { Dl::new(file) }.ok().map(|dl| (dl, (*file).to_owned())))
        };
        CANDIDATES.iter().map(first).collect()
    });
    let index = CANDIDATES.iter().position(|c| c.provider == candidate.provider)?;
    all.get(index)?.as_ref().map(|(dl, path)| (dl, path.clone()))
}

fn version(dl: &Dl, candidate: &Candidate) -> String {
    type Version = unsafe extern "C" fn() -> *const c_char;
    // SAFETY: both functions take nothing and return a static string.
    let text = unsafe {
        dl.get::<Version>(candidate.version)
            .ok()
            .map(|f| f())
            .filter(|p| !p.is_null())
            .map(|p| CStr::from_ptr(p).to_string_lossy().into_owned())
    };
    text.unwrap_or_else(|| "unknown".into())
}

impl Blas for Vendor {
    fn provider(&self) -> &'static str {
        self.provider
    }

    fn library(&self) -> Option<Library> {
        Some(self.library.clone())
    }

    fn plan(&self, problem: &GemmProblem) -> Result<Box<dyn GemmPlan>> {
        let input = GemmProblem { batch: 1, ..*problem }.plain(self.provider)?;
        let call = match (input, problem.output) {
            (Dtype::F32, Dtype::F32) => Call::Single(self.sgemm),
            (Dtype::F64, Dtype::F64) => {
                let lacking = || DeviceError::unsupported(format!("this build of {} has no cblas_dgemm", self.provider));
                Call::Double(self.dgemm.ok_or_else(lacking)?)
            }
            _ => {
                let provider = self.provider;
                return Err(DeviceError::unsupported(format!("{provider} has f32 and f64 of the dtypes measured here")));
            }
        };
        if [problem.m, problem.n, problem.k].iter().any(|x| c_int::try_from(*x).is_err()) {
            return Err(DeviceError::unsupported(format!("{}'s sizes are 32-bit", self.provider)));
        }
        let threads = self.pool.threads();
        if let Some(set) = self.set_threads {
            // SAFETY: documented to take a thread count at any time between calls.
            unsafe { set(threads as c_int) };
        }
        Ok(Box::new(Plan { call, problem: *problem, pool: Arc::clone(&self.pool) }))
    }
}

/// The function for a type.
enum Call {
    Single(Gemm<f32>),
    Double(Gemm<f64>),
}

struct Plan {
    call: Call,
    problem: GemmProblem,
    pool: Arc<Pool>,
}

impl GemmPlan for Plan {
    fn enqueue(&self, &GemmOperands { a, b, c, .. }: &GemmOperands<'_>) -> Result<()> {
        let p = &self.problem;
        for batch in 0..p.batch {
            let of = |buffer, elements: usize| {
                let bytes = p.output.bytes(elements as u64).0 as usize;
                range(buffer, batch * bytes, bytes)
            };
            let operands = [of(a, p.m * p.k)?, of(b, p.k * p.n)?, of(c, p.m * p.n)?];
            match self.call {
                // SAFETY: the buffers hold M×K, K×N and M×N elements of the function's type, as just checked.
                Call::Single(gemm) => unsafe { product(gemm, p, operands, 1.0, 0.0) },
                // SAFETY: as above.
                Call::Double(gemm) => unsafe { product(gemm, p, operands, 1.0, 0.0) },
            }
        }
        Ok(())
    }

    fn config(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("threads".into(), self.pool.threads().to_string())])
    }
}

/// C = one·A·B + zero·C, leading dimensions tight.
///
/// # Safety
/// The pointers are to A, B and C of the problem, in elements of `T`.
unsafe fn product<T>(gemm: Gemm<T>, p: &GemmProblem, [a, b, c]: [*mut u8; 3], one: T, zero: T) {
    let stored = |t: Transpose, plain: usize, transposed: usize| match t {
        Transpose::No => (NO_TRANSPOSE, plain as c_int),
        Transpose::Yes => (TRANSPOSE, transposed as c_int),
    };
    let ((ta, lda), (tb, ldb)) = (stored(p.a.stored, p.k, p.m), stored(p.b.stored, p.n, p.k));
    let [m, n, k] = [p.m, p.n, p.k].map(|extent| extent as c_int);
    // SAFETY: the caller's promise.
    unsafe { gemm(ROW_MAJOR, ta, tb, m, n, k, one, a.cast(), lda, b.cast(), ldb, zero, c.cast(), n) };
}
