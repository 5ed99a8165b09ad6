//! cublasLt's numbers.

use crate::gpu::matmul::{ComputeNumbers, Modes, Numbers};
use crate::{GemmProblem, ScaleOrder, Scaling, Support};
use ridgepoint_core::Dtype;

pub(crate) const NUMBERS: Numbers = Numbers {
    prefix: "cublasLt",
    name: "cublasLt",
    operation: [0, 1],
    trans_a: 3,
    trans_b: 4,
    a_scale: 17,
    b_scale: 18,
    a_scale_mode: 31,
    b_scale_mode: 32,
    fast_accum: Some(25),
    batch_count: 5,
    batch_stride: 6,
    preference_workspace: 1,
    compute: ComputeNumbers { f32: 68, f64: 70, i32: 72, tf32: 77 },
    not_supported: 15,
    result_bytes: 96,
    workspace_at: 64,
    state_at: 72,
    describes: &[
        (0, "algo", 4),
        (1, "tile", 4),
        (6, "stages", 4),
        (2, "split-k", 4),
        (3, "reduction", 4),
        (4, "swizzle", 4),
        (5, "custom", 4),
        (7, "inner shape", 2),
        (8, "cluster", 2),
    ],
};

/// What scales are called: scalars always were there, the rest came with 12.8 and 12.9.
pub(crate) fn modes(scaling: Scaling) -> Option<Modes> {
    use ScaleOrder::{Blocks, Lines, LinesBy4, Tiles};
    let of = |modes, orders, since| Some(Modes { modes, orders, since });
    match scaling {
        Scaling::None => None,
        Scaling::Tensor => of([0, 0], [Lines; 2], (11, 8)),
        Scaling::Row => of([3, 3], [Lines; 2], (12, 9)),
        Scaling::Block128 => of([4, 5], [Blocks, LinesBy4], (12, 9)),
        Scaling::Mx => of([2, 2], [Tiles; 2], (12, 8)),
        Scaling::Nvfp4 => of([1, 1], [Tiles; 2], (12, 8)),
    }
}

/// What a chip has, by its own documentation; sizes and the rest the library says itself.
pub(crate) fn support(target: &str, problem: &GemmProblem) -> Result<Support, String> {
    let digits = target.trim_start_matches("sm_").trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let chip: u32 = digits.parse().unwrap_or(0);
    let (a, b) = (problem.a.dtype, problem.b.dtype);
    let needs = |from: u32, what: &str| if chip < from { Err(format!("{target} has no {what}")) } else { Ok(()) };
    let fp8 = |dtype: Dtype| matches!(dtype, Dtype::E4m3 | Dtype::E5m2);
    if fp8(a) {
        needs(89, "FP8")?;
    }
    if a == Dtype::E5m2 && b == Dtype::E5m2 {
        return Err("cublasLt multiplies e5m2 with e4m3 alone, not with e5m2".into());
    }
    match problem.scaling {
        Scaling::Mx | Scaling::Nvfp4 => needs(100, "block scales in its matrix units")?,
        Scaling::Row | Scaling::Block128 => needs(90, "FP8 products with scales of rows or blocks in cublasLt")?,
        Scaling::None | Scaling::Tensor => {}
    }
    // Its 4-bit products are NVFP4's alone.
    if a == Dtype::Mxfp4 {
        return Err("cublasLt has e2m1 with scales of 16 elements (nvfp4) alone, not of 32".into());
    }
    Ok(Support::Native)
}

#[cfg(test)]
mod tests {
    use super::{NUMBERS, Scaling, modes};
    use crate::gpu::matmul::Type;
    use cudarc::cublaslt::sys as oracle;
    use std::mem::{offset_of, size_of};

    #[test]
    fn numbers_and_layouts_agree_with_generated_bindings() {
        use oracle::{
            cublasComputeType_t as C, cublasLtMatmulDescAttributes_t as D, cublasLtMatmulMatrixScale_t as M,
            cublasLtMatmulPreferenceAttributes_t as P, cublasLtMatrixLayoutAttribute_t as L, cublasStatus_t as S,
            cudaDataType_t as T,
        };
        assert_eq!(NUMBERS.result_bytes, size_of::<oracle::cublasLtMatmulHeuristicResult_t>());
        assert_eq!(NUMBERS.workspace_at, offset_of!(oracle::cublasLtMatmulHeuristicResult_t, workspaceSize));
        assert_eq!(NUMBERS.state_at, offset_of!(oracle::cublasLtMatmulHeuristicResult_t, state));
        assert_eq!(offset_of!(oracle::cublasLtMatmulHeuristicResult_t, algo), 0);
        for (ours, theirs) in [
            (Type::F32, T::CUDA_R_32F),
            (Type::F64, T::CUDA_R_64F),
            (Type::F16, T::CUDA_R_16F),
            (Type::I8, T::CUDA_R_8I),
            (Type::I32, T::CUDA_R_32I),
            (Type::Bf16, T::CUDA_R_16BF),
            (Type::E4m3, T::CUDA_R_8F_E4M3),
            (Type::E5m2, T::CUDA_R_8F_E5M2),
            (Type::E2m1, T::CUDA_R_4F_E2M1),
        ] {
            assert_eq!(ours as u32, theirs as u32, "{theirs:?}");
        }
        let n = &NUMBERS;
        for (ours, theirs) in [
            (n.compute.f32, C::CUBLAS_COMPUTE_32F as u32),
            (n.compute.f64, C::CUBLAS_COMPUTE_64F as u32),
            (n.compute.i32, C::CUBLAS_COMPUTE_32I as u32),
            (n.compute.tf32, C::CUBLAS_COMPUTE_32F_FAST_TF32 as u32),
            (n.trans_a, D::CUBLASLT_MATMUL_DESC_TRANSA as u32),
            (n.trans_b, D::CUBLASLT_MATMUL_DESC_TRANSB as u32),
            (n.a_scale, D::CUBLASLT_MATMUL_DESC_A_SCALE_POINTER as u32),
            (n.b_scale, D::CUBLASLT_MATMUL_DESC_B_SCALE_POINTER as u32),
            (n.fast_accum.unwrap(), D::CUBLASLT_MATMUL_DESC_FAST_ACCUM as u32),
            (n.a_scale_mode, D::CUBLASLT_MATMUL_DESC_A_SCALE_MODE as u32),
            (n.b_scale_mode, D::CUBLASLT_MATMUL_DESC_B_SCALE_MODE as u32),
            (n.batch_count, L::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT as u32),
            (n.batch_stride, L::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET as u32),
            (n.preference_workspace, P::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES as u32),
            (n.not_supported, S::CUBLAS_STATUS_NOT_SUPPORTED as u32),
        ] {
            assert_eq!(ours as u32, theirs);
        }
        for (scaling, [a, b]) in [
            (Scaling::Tensor, [M::CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F; 2]),
            (Scaling::Row, [M::CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F; 2]),
            (Scaling::Block128, [M::CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F, M::CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F]),
            (Scaling::Mx, [M::CUBLASLT_MATMUL_MATRIX_SCALE_VEC32_UE8M0; 2]),
            (Scaling::Nvfp4, [M::CUBLASLT_MATMUL_MATRIX_SCALE_VEC16_UE4M3; 2]),
        ] {
            assert_eq!(modes(scaling).unwrap().modes, [a as i32, b as i32], "{scaling:?}");
        }
    }

    /// Its functions that describe a product need no GPU: the real library takes all that we say, and repeats it.
    #[test]
    fn the_real_library_takes_every_type_scale_and_batch() {
        use crate::gpu::matmul::{Description, Problem};
        use crate::gpu::sys::Handle;
        type Get = unsafe extern "C" fn(Handle, i32, *mut std::ffi::c_void, usize, *mut usize) -> i32;
        let api = match &super::super::libraries::libraries().cublaslt {
            Ok(api) => std::sync::Arc::clone(api),
            Err(reason) => return println!("SKIP: real cublasLt: {reason}"),
        };
        let get = api.library.address(&["cublasLtMatmulDescGetAttribute"]).unwrap();
        // SAFETY: the type of that function in every version.
        let get = unsafe { std::mem::transmute::<*mut std::ffi::c_void, Get>(get) };
        let (bf16, e4m3, e5m2) = (Type::Bf16, Type::E4m3, Type::E5m2);
        for (a, b, out, scaling) in [
            (Type::F32, Type::F32, Type::F32, Scaling::None),
            (Type::F64, Type::F64, Type::F64, Scaling::None),
            (Type::F16, Type::F16, Type::F32, Scaling::None),
            (bf16, bf16, bf16, Scaling::None),
            (Type::I8, Type::I8, Type::I32, Scaling::None),
            (e4m3, e4m3, bf16, Scaling::Tensor),
            (e4m3, e5m2, Type::F16, Scaling::Tensor),
            (e5m2, e4m3, Type::F32, Scaling::Tensor),
            (e4m3, e4m3, bf16, Scaling::Row),
            (e4m3, e4m3, bf16, Scaling::Block128),
            (e4m3, e4m3, bf16, Scaling::Mx),
            (Type::E2m1, Type::E2m1, bf16, Scaling::Nvfp4),
        ] {
            let scales = modes(scaling).map(|m| m.modes);
            for (batch, fast_accum) in [(1, false), (7, false), (1, a == e4m3)] {
                let problem = Problem { batch, b, scales, fast_accum, ..Problem::new(64, 96, 256, a, out) };
                let told = Description::new(&api, &NUMBERS, &problem).unwrap();
                let read = |attribute, bytes| {
                    let (mut value, mut written) = (0_u64, 0);
                    // SAFETY: writes at most `bytes` of the value's eight.
                    let status = unsafe { get(told.handle(), attribute, (&raw mut value).cast(), bytes, &mut written) };
                    assert_eq!((status, written), (0, bytes), "attribute {attribute}");
                    value
                };
                assert_eq!([read(NUMBERS.trans_a, 4), read(NUMBERS.trans_b, 4)], [1, 0]);
                assert_eq!(read(NUMBERS.fast_accum.unwrap(), 1), u64::from(fast_accum));
                let [of_a, of_b] = scales.unwrap_or_default().map(|mode| mode as u64);
                assert_eq!([read(NUMBERS.a_scale_mode, 4), read(NUMBERS.b_scale_mode, 4)], [of_b, of_a], "{scaling:?}");
                told.scales([0x1000, 0x2000]).unwrap();
                assert_eq!([read(NUMBERS.a_scale, 8), read(NUMBERS.b_scale, 8)], [0x2000, 0x1000]);
            }
        }
    }
}
