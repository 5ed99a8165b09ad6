//! Matrix products of every input type by cublasLt or hipBLASLt, with the library's own ranking of algorithms. The second was
//! made after the first: its functions are the same under names of their own, its attributes have other numbers.
//!
//! The libraries are column-major; a row-major C = A·B is their column-major Cᵀ = Bᵀ·Aᵀ, so the operands change places here
//! and nowhere else.

use super::sys::{Handle, Ptr};
use crate::ScaleOrder;
use crate::dl::{CallError, text};
use std::ffi::{c_char, c_int, c_void};
use std::sync::Arc;

/// How a library numbers what it is told, and how it lays out an algorithm.
#[derive(Debug)]
pub(crate) struct Numbers {
    /// How its functions begin.
    pub(crate) prefix: &'static str,
    /// As its makers write it.
    pub(crate) name: &'static str,
    pub(crate) operation: [i32; 2],
    pub(crate) trans_a: i32,
    pub(crate) trans_b: i32,
    pub(crate) a_scale: i32,
    pub(crate) b_scale: i32,
    pub(crate) a_scale_mode: i32,
    pub(crate) b_scale_mode: i32,
    /// Where FP8 sums can be kept in fewer bits.
    pub(crate) fast_accum: Option<i32>,
    /// Attributes of a matrix: products of a batch, and elements from one to the next.
    pub(crate) batch_count: i32,
    pub(crate) batch_stride: i32,
    pub(crate) preference_workspace: i32,
    pub(crate) compute: ComputeNumbers,
    /// Its answer for what it cannot do.
    pub(crate) not_supported: i32,
    /// A result of its heuristic: the algorithm comes first, and these are the result's bytes and the offsets of the rest.
    pub(crate) result_bytes: usize,
    pub(crate) workspace_at: usize,
    pub(crate) state_at: usize,
    /// What an algorithm says of itself: attribute, name, bytes.
    pub(crate) describes: &'static [(i32, &'static str, usize)],
}

/// Numbers of [`Compute`].
#[derive(Debug)]
pub(crate) struct ComputeNumbers {
    pub(crate) f32: i32,
    pub(crate) f64: i32,
    pub(crate) i32: i32,
    pub(crate) tf32: i32,
}

crate::dl::table! {
    /// `libcublasLt.so`, or `libhipblaslt.so`: bound with the prefix of one.
    pub struct Lt;
    status {
        fn create(h: *mut Handle) = ["cublasLtCreate", "hipblasLtCreate"];
        fn destroy(h: Handle) = ["cublasLtDestroy", "hipblasLtDestroy"];
        fn desc_create(d: *mut Handle, compute: c_int, scale: c_int) = ["cublasLtMatmulDescCreate", "hipblasLtMatmulDescCreate"];
        fn desc_destroy(d: Handle) = ["cublasLtMatmulDescDestroy", "hipblasLtMatmulDescDestroy"];
        fn desc_set(d: Handle, attribute: c_int, p: *const c_void, n: usize) = ["cublasLtMatmulDescSetAttribute", "hipblasLtMatmulDescSetAttribute"];
        fn layout_create(l: *mut Handle, t: c_int, rows: u64, cols: u64, ld: i64) = ["cublasLtMatrixLayoutCreate", "hipblasLtMatrixLayoutCreate"];
        fn layout_set(l: Handle, attribute: c_int, p: *const c_void, n: usize) = ["cublasLtMatrixLayoutSetAttribute", "hipblasLtMatrixLayoutSetAttribute"];
        fn layout_destroy(l: Handle) = ["cublasLtMatrixLayoutDestroy", "hipblasLtMatrixLayoutDestroy"];
        fn preference_create(p: *mut Handle) = ["cublasLtMatmulPreferenceCreate", "hipblasLtMatmulPreferenceCreate"];
        fn preference_destroy(p: Handle) = ["cublasLtMatmulPreferenceDestroy", "hipblasLtMatmulPreferenceDestroy"];
        fn preference_set(p: Handle, attribute: c_int, v: *const c_void, n: usize) = ["cublasLtMatmulPreferenceSetAttribute", "hipblasLtMatmulPreferenceSetAttribute"];
        fn heuristic(h: Handle, d: Handle, a: Handle, b: Handle, c: Handle, out: Handle, p: Handle, want: c_int,
                     results: *mut c_void, got: *mut c_int) = ["cublasLtMatmulAlgoGetHeuristic", "hipblasLtMatmulAlgoGetHeuristic"];
        fn config_get(a: *const c_void, attribute: c_int, p: *mut c_void, n: usize, written: *mut usize) = ["cublasLtMatmulAlgoConfigGetAttribute"];
        fn version_of(h: Handle, v: *mut c_int) = ["hipblasLtGetVersion"];
        fn matmul(h: Handle, d: Handle, alpha: *const c_void, a: *const c_void, la: Handle, b: *const c_void, lb: Handle,
                  beta: *const c_void, c: *const c_void, lc: Handle, out: *mut c_void, lout: Handle, algo: *const c_void,
                  workspace: *mut c_void, n: usize, stream: Handle) = ["cublasLtMatmul", "hipblasLtMatmul"];
    }
    raw {
        fn version_number() -> usize = ["cublasLtGetVersion"];
        fn status_string(code: i32) -> *const c_char = ["cublasLtGetStatusString"];
    }
}

impl Lt {
    fn meaning(&self, code: i32) -> String {
        // SAFETY: returns a static string for any code. hipBLASLt has no such function.
        unsafe { self.status_string(code).map(|p| text(p)) }.unwrap_or_default()
    }
}

/// Element types by the number that both vendors' libraries give them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Type {
    F32 = 0,
    F64 = 1,
    F16 = 2,
    I8 = 3,
    I32 = 10,
    Bf16 = 14,
    E4m3 = 28,
    E5m2 = 29,
    E2m1 = 33,
    /// AMD's own encodings, before gfx950.
    E4m3fnuz = 1000,
    E5m2fnuz = 1001,
}

/// How products are summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compute {
    F32,
    F64,
    I32,
    /// f32 operands rounded to tf32.
    Tf32,
}

/// What a library calls a kind of scales, for A and for B, how it wants them to lie, and since which version it knows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Modes {
    pub(crate) modes: [i32; 2],
    pub(crate) orders: [ScaleOrder; 2],
    pub(crate) since: (u32, u32),
}

/// Row-major products: C (m×n) = A·B, leading dimensions tight, a batch's operands behind each other. `a_t`: A is stored as k×m.
/// `b_t`: B is stored as n×k.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Problem {
    pub(crate) batch: u64,
    pub(crate) m: u64,
    pub(crate) n: u64,
    pub(crate) k: u64,
    pub(crate) a: Type,
    pub(crate) b: Type,
    pub(crate) out: Type,
    pub(crate) compute: Compute,
    pub(crate) a_t: bool,
    pub(crate) b_t: bool,
    /// FP8 only: sums in fewer bits for longer, which is what frameworks use.
    pub(crate) fast_accum: bool,
    /// Where there are scales in memory: the modes of A's and B's.
    pub(crate) scales: Option<[i32; 2]>,
}

impl Problem {
    /// With the accumulator that the type wants.
    pub(crate) fn new(m: u64, n: u64, k: u64, t: Type, out: Type) -> Self {
        let compute = match t {
            Type::I8 => Compute::I32,
            Type::F64 => Compute::F64,
            _ => Compute::F32,
        };
        Self { batch: 1, m, n, k, a: t, b: t, out, compute, a_t: false, b_t: true, fast_accum: false, scales: None }
    }
}

/// A library that was started on a device.
pub(crate) struct Library {
    api: Arc<Lt>,
    pub(crate) numbers: &'static Numbers,
    handle: Handle,
}
// SAFETY: the handle is documented as usable from several threads.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

impl Library {
    /// The device must be current.
    pub(crate) fn start(api: Arc<Lt>, numbers: &'static Numbers) -> Result<Self, CallError> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: writes one handle.
        unsafe { api.create(&mut handle) }?;
        Ok(Self { api, numbers, handle })
    }

    /// `13.1.0`.
    pub(crate) fn version(&self) -> String {
        let mut v = 0;
        // SAFETY: the first takes nothing and returns a number; the second writes one.
        let version = unsafe {
            let mut of_handle = || self.api.version_of(self.handle, &mut v).ok().map(|()| v as usize);
            self.api.version_number().map(|v| (v, 10_000)).or_else(|| Some((of_handle()?, 100_000)))
        };
        version.map_or_else(|| "unknown".into(), |(v, major)| format!("{}.{}.{}", v / major, v % major / 100, v % 100))
    }

    pub(crate) fn path(&self) -> String {
        self.api.library.path.display().to_string()
    }

    /// Up to `want` algorithms, the library's favourite first; empty where it has none for this problem. `somewhere` is an address of
    /// the device, which stands for scales until there are some.
    pub(crate) fn plan(self: &Arc<Self>, p: &Problem, somewhere: Ptr, workspace: usize, want: usize) -> Result<Plan, CallError> {
        let (api, numbers) = (&self.api, self.numbers);
        let told = Description::new(api, numbers, p)?;
        if p.scales.is_some() {
            told.scales([somewhere; 2])?;
        }
        let mut preference = NULL;
        // Whole words, so that every result is aligned as the library wants it.
        let words = numbers.result_bytes.div_ceil(8);
        let (mut found, mut got) = (vec![0_u64; words * want.max(1)], 0);
        // SAFETY: each call writes one handle or reads one value that lives across it; the results have room for all that are wanted.
        unsafe {
            api.preference_create(&mut preference)?;
            let asked =
                api.preference_set(preference, numbers.preference_workspace, (&raw const workspace).cast(), 8).and_then(|()| {
                    api.heuristic(
                        self.handle,
                        told.desc,
                        told.a,
                        told.b,
                        told.c,
                        told.c,
                        preference,
                        want.max(1) as c_int,
                        found.as_mut_ptr().cast(),
                        &mut got,
                    )
                });
            let _ = api.preference_destroy(preference);
            asked?;
        }
        let found = found.chunks_exact(words).take(usize::try_from(got).unwrap_or(0));
        let mut algorithms: Vec<Algorithm> = found.map(|words| words.into()).collect();
        algorithms.retain(|a| a.state(numbers) == 0 && a.workspace(numbers) <= workspace);
        Ok(Plan { lib: Arc::clone(self), problem: *p, told, algorithms })
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // SAFETY: made in `start`, destroyed once.
        let _ = unsafe { self.api.destroy(self.handle) };
    }
}

const NULL: Handle = std::ptr::null_mut();

/// A result of the heuristic, as the library wrote it.
pub(crate) struct Algorithm(Vec<u64>);

impl From<&[u64]> for Algorithm {
    fn from(words: &[u64]) -> Self {
        Self(words.to_vec())
    }
}

impl Algorithm {
    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        let all = |i: usize| (self.0[i / 8] >> (8 * (i % 8))) as u8;
        std::array::from_fn(|i| all(at + i))
    }

    fn workspace(&self, numbers: &Numbers) -> usize {
        u64::from_le_bytes(self.bytes(numbers.workspace_at)) as usize
    }

    fn state(&self, numbers: &Numbers) -> i32 {
        i32::from_le_bytes(self.bytes(numbers.state_at))
    }
}

/// A problem as a library is told it; needs no device.
pub(crate) struct Description {
    api: Arc<Lt>,
    numbers: &'static Numbers,
    desc: Handle,
    a: Handle,
    b: Handle,
    c: Handle,
}

impl Description {
    pub(crate) fn new(api: &Arc<Lt>, numbers: &'static Numbers, p: &Problem) -> Result<Self, CallError> {
        let mut told = Self { api: Arc::clone(api), numbers, desc: NULL, a: NULL, b: NULL, c: NULL };
        let scale = match p.compute {
            Compute::F64 => Type::F64,
            Compute::I32 => Type::I32,
            _ => Type::F32,
        };
        let compute = match p.compute {
            Compute::F32 => numbers.compute.f32,
            Compute::F64 => numbers.compute.f64,
            Compute::I32 => numbers.compute.i32,
            Compute::Tf32 => numbers.compute.tf32,
        };
        // Rows, columns and leading dimension as stored, for the column-major library.
        let stored = |t: bool, rows: u64, cols: u64| if t { (rows, cols, rows) } else { (cols, rows, cols) };
        // SAFETY: each call writes one handle or reads one value that lives across it; what was made is freed with this.
        unsafe {
            api.desc_create(&mut told.desc, compute, scale as c_int)?;
            // The library's first operand is our B.
            told.set(numbers.trans_a, numbers.operation[usize::from(p.b_t)])?;
            told.set(numbers.trans_b, numbers.operation[usize::from(p.a_t)])?;
            if let (true, Some(attribute)) = (p.fast_accum, numbers.fast_accum) {
                let on = 1_i8;
                api.desc_set(told.desc, attribute, (&raw const on).cast(), 1)?;
            }
            // A library before 12.8 has no modes: scalar is then all there is, and needs no saying.
            if let Some([a, b]) = p.scales.filter(|modes| *modes != [0, 0]) {
                told.set(numbers.a_scale_mode, b)?;
                told.set(numbers.b_scale_mode, a)?;
            }
            let layout = |of: Type, (rows, cols, ld): (u64, u64, u64)| -> Result<Handle, CallError> {
                let mut layout = NULL;
                api.layout_create(&mut layout, of as c_int, rows, cols, ld as i64)?;
                if p.batch > 1 {
                    let (count, stride) = (p.batch as i32, (rows * cols) as i64);
                    api.layout_set(layout, numbers.batch_count, (&raw const count).cast(), 4)
                        .and_then(|()| api.layout_set(layout, numbers.batch_stride, (&raw const stride).cast(), 8))
                        .inspect_err(|_| drop(api.layout_destroy(layout)))?;
                }
                Ok(layout)
            };
            told.a = layout(p.b, stored(p.b_t, p.k, p.n))?;
            told.b = layout(p.a, stored(p.a_t, p.m, p.k))?;
            told.c = layout(p.out, (p.n, p.m, p.n))?;
        }
        Ok(told)
    }

    fn set(&self, attribute: c_int, value: i32) -> Result<(), CallError> {
        // SAFETY: reads one value that lives across the call.
        unsafe { self.api.desc_set(self.desc, attribute, (&raw const value).cast(), 4) }
    }

    /// Where the scales of A and B lie.
    pub(crate) fn scales(&self, [a, b]: [Ptr; 2]) -> Result<(), CallError> {
        for (attribute, address) in [(self.numbers.a_scale, b), (self.numbers.b_scale, a)] {
            // SAFETY: reads one address that lives across the call; what it points to is read when the product runs.
            unsafe { self.api.desc_set(self.desc, attribute, (&raw const address).cast(), 8) }?;
        }
        Ok(())
    }

    /// The handle of the product's description, for a test that asks the library what it was told.
    #[cfg(test)]
    pub(crate) fn handle(&self) -> Handle {
        self.desc
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: each was made by `new` or is null, and is destroyed once.
        unsafe {
            for l in [self.a, self.b, self.c].into_iter().filter(|l| !l.is_null()) {
                let _ = self.api.layout_destroy(l);
            }
            if !self.desc.is_null() {
                let _ = self.api.desc_destroy(self.desc);
            }
        }
    }
}

pub(crate) struct Plan {
    lib: Arc<Library>,
    problem: Problem,
    told: Description,
    pub(crate) algorithms: Vec<Algorithm>,
}

impl Plan {
    /// # Safety
    /// The addresses hold the problem's operands and, where it has them, the scales of A and B; the workspace has at least the algorithm's size, and the stream belongs to
    /// the current context.
    pub(crate) unsafe fn run(
        &self,
        index: usize,
        [a, b, c]: [Ptr; 3],
        scales: Option<[Ptr; 2]>,
        factor: f32,
        workspace: (Ptr, usize),
        stream: Handle,
    ) -> Result<(), CallError> {
        let (alpha, zero) = scalars(self.problem.compute, factor);
        if let Some(scales) = scales {
            self.told.scales(scales)?;
        }
        // SAFETY: as the caller promises; alpha and beta are read before the call returns (host pointer mode).
        unsafe {
            self.lib.api.matmul(
                self.lib.handle,
                self.told.desc,
                alpha.as_ptr().cast(),
                b as *const c_void,
                self.told.a,
                a as *const c_void,
                self.told.b,
                zero.as_ptr().cast(),
                c as *const c_void,
                self.told.c,
                c as *mut c_void,
                self.told.c,
                self.algorithms[index].0.as_ptr().cast(),
                workspace.0 as *mut c_void,
                workspace.1,
                stream,
            )
        }
    }

    /// `algo 66, tile 20, stages 36, split-k 1, cluster 3, workspace 0`: as the library numbers them.
    pub(crate) fn describe(&self, index: usize) -> String {
        let (a, numbers) = (&self.algorithms[index], self.lib.numbers);
        let mut out = Vec::new();
        for (attribute, name, bytes) in numbers.describes {
            let (mut v, mut written) = (0_u64, 0_usize);
            // SAFETY: writes at most `bytes` bytes.
            let said =
                unsafe { self.lib.api.config_get(a.0.as_ptr().cast(), *attribute, (&raw mut v).cast(), *bytes, &mut written) };
            if said.is_ok() {
                out.push(format!("{name} {v}"));
            }
        }
        if numbers.describes.is_empty() {
            out.push(format!("solution {}", i32::from_le_bytes(a.bytes(0))));
        }
        out.push(format!("workspace {}", a.workspace(numbers)));
        out.join(", ")
    }
}

/// `alpha` and zero in the type that the accumulator wants.
fn scalars(c: Compute, alpha: f32) -> ([u8; 8], [u8; 8]) {
    let mut bytes = [0; 8];
    match c {
        Compute::F64 => bytes = f64::from(alpha).to_ne_bytes(),
        Compute::I32 => bytes[..4].copy_from_slice(&(alpha as i32).to_ne_bytes()),
        _ => bytes[..4].copy_from_slice(&alpha.to_ne_bytes()),
    }
    (bytes, [0; 8])
}
