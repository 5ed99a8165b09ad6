//! cuBLASLt: matrix products of every input type, with the library's own ranking of algorithms.
//!
//! The library is column-major; a row-major C = A·B is its column-major Cᵀ = Bᵀ·Aᵀ, so the operands change places here
//! and nowhere else.

use crate::dl::{CallError, text};
use crate::gpu::sys::{Handle, Ptr};
use std::ffi::{c_char, c_int, c_void};

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Algorithm {
    pub(crate) algo: [u64; 8],
    pub(crate) workspace: usize,
    pub(crate) state: i32,
    pub(crate) waves: f32,
    pub(crate) reserved: [i32; 4],
}

crate::dl::table! {
    /// `libcublasLt.so`.
    pub struct CublasLt;
    status {
        fn create(h: *mut Handle) = ["cublasLtCreate"];
        fn destroy(h: Handle) = ["cublasLtDestroy"];
        fn desc_create(d: *mut Handle, compute: c_int, scale: c_int) = ["cublasLtMatmulDescCreate"];
        fn desc_destroy(d: Handle) = ["cublasLtMatmulDescDestroy"];
        fn desc_set(d: Handle, attribute: c_int, p: *const c_void, n: usize) = ["cublasLtMatmulDescSetAttribute"];
        fn layout_create(l: *mut Handle, t: c_int, rows: u64, cols: u64, ld: i64) = ["cublasLtMatrixLayoutCreate"];
        fn layout_destroy(l: Handle) = ["cublasLtMatrixLayoutDestroy"];
        fn layout_set(l: Handle, attribute: c_int, p: *const c_void, n: usize) = ["cublasLtMatrixLayoutSetAttribute"];
        fn preference_create(p: *mut Handle) = ["cublasLtMatmulPreferenceCreate"];
        fn preference_destroy(p: Handle) = ["cublasLtMatmulPreferenceDestroy"];
        fn preference_set(p: Handle, attribute: c_int, v: *const c_void, n: usize) = ["cublasLtMatmulPreferenceSetAttribute"];
        fn heuristic(h: Handle, d: Handle, a: Handle, b: Handle, c: Handle, out: Handle, p: Handle, want: c_int,
                     results: *mut Algorithm, got: *mut c_int) = ["cublasLtMatmulAlgoGetHeuristic"];
        fn config_get(a: *const Algorithm, attribute: c_int, p: *mut c_void, n: usize, written: *mut usize) = ["cublasLtMatmulAlgoConfigGetAttribute"];
        fn matmul(h: Handle, d: Handle, alpha: *const c_void, a: *const c_void, la: Handle, b: *const c_void, lb: Handle,
                  beta: *const c_void, c: *const c_void, lc: Handle, out: *mut c_void, lout: Handle, algo: *const Algorithm,
                  workspace: *mut c_void, n: usize, stream: Handle) = ["cublasLtMatmul"];
    }
    raw {
        fn version_number() -> usize = ["cublasLtGetVersion"];
        fn status_string(code: i32) -> *const c_char = ["cublasLtGetStatusString"];
    }
}

impl CublasLt {
    fn meaning(&self, code: i32) -> String {
        // SAFETY: returns a static string for any code.
        unsafe { self.status_string(code).map(|p| text(p)) }.unwrap_or_default()
    }

    /// `13.1.0`.
    pub(crate) fn version(&self) -> String {
        // SAFETY: takes nothing and returns a number.
        match unsafe { self.version_number() } {
            Some(v) => format!("{}.{}.{}", v / 10000, v / 100 % 100, v % 100),
            None => "unknown".into(),
        }
    }
}

/// Element types by the number that CUDA's libraries give them.
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
}

/// How products are summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Compute {
    F32 = 68,
    F64 = 70,
    I32 = 72,
    /// f32 operands rounded to tf32.
    Tf32 = 77,
}

mod desc {
    pub(super) const TRANS_A: i32 = 3;
    pub(super) const TRANS_B: i32 = 4;
    pub(super) const A_SCALE: i32 = 17;
    pub(super) const B_SCALE: i32 = 18;
    pub(super) const FAST_ACCUM: i32 = 25;
    pub(super) const A_SCALE_MODE: i32 = 31;
    pub(super) const B_SCALE_MODE: i32 = 32;
}
const PREFERENCE_WORKSPACE: i32 = 1;

/// A row-major product: C (m×n) = A·B, leading dimensions tight. `a_t`: A is stored as k×m. `b_t`: B is stored as n×k.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Problem {
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
    /// Where a scale is not 1: its mode (0 scalar, 3 outer vector, 4 vec128, 5 block 128×128) and device address, for A and B.
    pub(crate) scales: Option<[(i32, Ptr); 2]>,
}

impl Problem {
    /// With the accumulator that the type wants.
    pub(crate) fn new(m: u64, n: u64, k: u64, t: Type, out: Type) -> Self {
        let compute = match t {
            Type::I8 => Compute::I32,
            Type::F64 => Compute::F64,
            _ => Compute::F32,
        };
        Self { m, n, k, a: t, b: t, out, compute, a_t: false, b_t: true, fast_accum: false, scales: None }
    }
}

pub(crate) struct Library {
    api: std::sync::Arc<CublasLt>,
    handle: Handle,
}
// SAFETY: the handle is documented as usable from several threads.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

impl Library {
    /// A context must be current.
    pub(crate) fn start(api: std::sync::Arc<CublasLt>) -> Result<Self, CallError> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: writes one handle.
        unsafe { api.create(&mut handle) }?;
        Ok(Self { api, handle })
    }

    pub(crate) fn version(&self) -> String {
        self.api.version()
    }

    /// Up to `want` algorithms, the library's favourite first; empty where it has none for this problem.
    pub(crate) fn plan(self: &std::sync::Arc<Self>, p: &Problem, workspace: usize, want: usize) -> Result<Plan, CallError> {
        let mut plan =
            Plan { lib: std::sync::Arc::clone(self), problem: *p, desc: NULL, a: NULL, b: NULL, c: NULL, algorithms: Vec::new() };
        let scale = match p.compute {
            Compute::F64 => Type::F64,
            Compute::I32 => Type::I32,
            _ => Type::F32,
        };
        let api = &self.api;
        // Rows, columns and leading dimension as stored, for the column-major library.
        let stored = |t: bool, rows: u64, cols: u64| if t { (rows, cols, rows) } else { (cols, rows, cols) };
        let (ar, ac, ald) = stored(p.a_t, p.m, p.k);
        let (br, bc, bld) = stored(p.b_t, p.k, p.n);
        // SAFETY: each call writes one handle or reads one value that lives across it; what was made is freed by the plan.
        unsafe {
            api.desc_create(&mut plan.desc, p.compute as c_int, scale as c_int)?;
            let set = |attribute: c_int, v: i32| api.desc_set(plan.desc, attribute, (&raw const v).cast(), 4);
            // The library's first operand is our B.
            set(desc::TRANS_A, i32::from(p.b_t))?;
            set(desc::TRANS_B, i32::from(p.a_t))?;
            if p.fast_accum {
                let on = 1_i8;
                api.desc_set(plan.desc, desc::FAST_ACCUM, (&raw const on).cast(), 1)?;
            }
            if let Some([(a_mode, a_ptr), (b_mode, b_ptr)]) = p.scales {
                // A library before 12.8 has no modes: scalar is then all there is, and needs no saying.
                if (a_mode, b_mode) != (0, 0) {
                    set(desc::A_SCALE_MODE, b_mode)?;
                    set(desc::B_SCALE_MODE, a_mode)?;
                }
                api.desc_set(plan.desc, desc::A_SCALE, (&raw const b_ptr).cast(), 8)?;
                api.desc_set(plan.desc, desc::B_SCALE, (&raw const a_ptr).cast(), 8)?;
            }
            api.layout_create(&mut plan.a, p.b as c_int, br, bc, bld as i64)?;
            api.layout_create(&mut plan.b, p.a as c_int, ar, ac, ald as i64)?;
            api.layout_create(&mut plan.c, p.out as c_int, p.n, p.m, p.n as i64)?;
            let mut preference = NULL;
            api.preference_create(&mut preference)?;
            let none = Algorithm { algo: [0; 8], workspace: 0, state: 0, waves: 0.0, reserved: [0; 4] };
            let (mut found, mut got) = (vec![none; want.max(1)], 0);
            let asked = api.preference_set(preference, PREFERENCE_WORKSPACE, (&raw const workspace).cast(), 8).and_then(|()| {
                api.heuristic(
                    self.handle,
                    plan.desc,
                    plan.a,
                    plan.b,
                    plan.c,
                    plan.c,
                    preference,
                    found.len() as c_int,
                    found.as_mut_ptr(),
                    &mut got,
                )
            });
            let _ = api.preference_destroy(preference);
            asked?;
            found.truncate(usize::try_from(got).unwrap_or(0));
            found.retain(|a| a.state == 0 && a.workspace <= workspace);
            plan.algorithms = found;
        }
        Ok(plan)
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // SAFETY: made in `start`, destroyed once.
        let _ = unsafe { self.api.destroy(self.handle) };
    }
}

const NULL: Handle = std::ptr::null_mut();

pub(crate) struct Plan {
    lib: std::sync::Arc<Library>,
    problem: Problem,
    desc: Handle,
    a: Handle,
    b: Handle,
    c: Handle,
    pub(crate) algorithms: Vec<Algorithm>,
}

impl Plan {
    /// # Safety
    /// The addresses hold the problem's operands, the workspace has at least the algorithm's size, and the stream belongs to
    /// the current context.
    pub(crate) unsafe fn run(
        &self,
        index: usize,
        [a, b, c]: [Ptr; 3],
        workspace: (Ptr, usize),
        stream: Handle,
    ) -> Result<(), CallError> {
        let (one, zero) = scalars(self.problem.compute);
        // SAFETY: as the caller promises; alpha and beta are read before the call returns (host pointer mode).
        unsafe {
            self.lib.api.matmul(
                self.lib.handle,
                self.desc,
                one.as_ptr().cast(),
                b as *const c_void,
                self.a,
                a as *const c_void,
                self.b,
                zero.as_ptr().cast(),
                c as *const c_void,
                self.c,
                c as *mut c_void,
                self.c,
                &self.algorithms[index],
                workspace.0 as *mut c_void,
                workspace.1,
                stream,
            )
        }
    }

    /// `algo 66, tile 20, stages 36, split-k 1, cluster 3, workspace 0`: as the library numbers them.
    pub(crate) fn describe(&self, index: usize) -> String {
        let a = &self.algorithms[index];
        let mut out = Vec::new();
        for (attribute, name, bytes) in
            [(0, "algo", 4), (1, "tile", 4), (6, "stages", 4), (2, "split-k", 4), (4, "swizzle", 4), (8, "cluster", 2)]
        {
            let (mut v, mut written) = (0_u64, 0_usize);
            // SAFETY: writes at most `bytes` bytes.
            if unsafe { self.lib.api.config_get(a, attribute, (&raw mut v).cast(), bytes, &mut written) }.is_ok() {
                out.push(format!("{name} {v}"));
            }
        }
        out.push(format!("workspace {}", a.workspace));
        out.join(", ")
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: each was made by `plan` or is null, and is destroyed once.
        unsafe {
            for l in [self.a, self.b, self.c].into_iter().filter(|l| !l.is_null()) {
                let _ = self.lib.api.layout_destroy(l);
            }
            if !self.desc.is_null() {
                let _ = self.lib.api.desc_destroy(self.desc);
            }
        }
    }
}

/// One and zero in the type that the accumulator wants.
fn scalars(c: Compute) -> ([u8; 8], [u8; 8]) {
    let mut one = [0; 8];
    match c {
        Compute::F64 => one = 1_f64.to_ne_bytes(),
        Compute::I32 => one[..4].copy_from_slice(&1_i32.to_ne_bytes()),
        _ => one[..4].copy_from_slice(&1_f32.to_ne_bytes()),
    }
    (one, [0; 8])
}

#[cfg(test)]
mod tests {
    use super::*;
    use cudarc::cublaslt::sys as oracle;
    use std::mem::{offset_of, size_of};

    #[test]
    fn numbers_and_layouts_agree_with_generated_bindings() {
        use oracle::{cublasComputeType_t as C, cublasLtMatmulDescAttributes_t as D, cudaDataType_t as T};
        assert_eq!(size_of::<Algorithm>(), size_of::<oracle::cublasLtMatmulHeuristicResult_t>());
        assert_eq!(offset_of!(Algorithm, state), offset_of!(oracle::cublasLtMatmulHeuristicResult_t, state));
        assert_eq!(offset_of!(Algorithm, waves), offset_of!(oracle::cublasLtMatmulHeuristicResult_t, wavesCount));
        for (ours, theirs) in [
            (Type::F32, T::CUDA_R_32F),
            (Type::F64, T::CUDA_R_64F),
            (Type::F16, T::CUDA_R_16F),
            (Type::I8, T::CUDA_R_8I),
            (Type::I32, T::CUDA_R_32I),
            (Type::Bf16, T::CUDA_R_16BF),
            (Type::E4m3, T::CUDA_R_8F_E4M3),
            (Type::E5m2, T::CUDA_R_8F_E5M2),
        ] {
            assert_eq!(ours as u32, theirs as u32, "{theirs:?}");
        }
        for (ours, theirs) in [
            (Compute::F32, C::CUBLAS_COMPUTE_32F),
            (Compute::F64, C::CUBLAS_COMPUTE_64F),
            (Compute::I32, C::CUBLAS_COMPUTE_32I),
            (Compute::Tf32, C::CUBLAS_COMPUTE_32F_FAST_TF32),
        ] {
            assert_eq!(ours as u32, theirs as u32, "{theirs:?}");
        }
        for (ours, theirs) in [
            (desc::TRANS_A, D::CUBLASLT_MATMUL_DESC_TRANSA),
            (desc::TRANS_B, D::CUBLASLT_MATMUL_DESC_TRANSB),
            (desc::A_SCALE, D::CUBLASLT_MATMUL_DESC_A_SCALE_POINTER),
            (desc::B_SCALE, D::CUBLASLT_MATMUL_DESC_B_SCALE_POINTER),
            (desc::FAST_ACCUM, D::CUBLASLT_MATMUL_DESC_FAST_ACCUM),
            (desc::A_SCALE_MODE, D::CUBLASLT_MATMUL_DESC_A_SCALE_MODE),
            (desc::B_SCALE_MODE, D::CUBLASLT_MATMUL_DESC_B_SCALE_MODE),
        ] {
            assert_eq!(ours as u32, theirs as u32, "{theirs:?}");
        }
        assert_eq!(
            PREFERENCE_WORKSPACE as u32,
            oracle::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES as u32
        );
    }
}
