//! cublasLt's numbers.

use crate::gpu::matmul::{ComputeNumbers, Numbers};

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
    preference_workspace: 1,
    compute: ComputeNumbers { f32: 68, f64: 70, i32: 72, tf32: 77 },
    not_supported: 15,
    result_bytes: 96,
    workspace_at: 64,
    state_at: 72,
    describes: &[(0, "algo", 4), (1, "tile", 4), (6, "stages", 4), (2, "split-k", 4), (4, "swizzle", 4), (8, "cluster", 2)],
};

#[cfg(test)]
mod tests {
    use super::NUMBERS;
    use crate::gpu::matmul::Type;
    use cudarc::cublaslt::sys as oracle;
    use std::mem::{offset_of, size_of};

    #[test]
    fn numbers_and_layouts_agree_with_generated_bindings() {
        use oracle::{
            cublasComputeType_t as C, cublasLtMatmulDescAttributes_t as D, cublasLtMatmulPreferenceAttributes_t as P,
            cublasStatus_t as S, cudaDataType_t as T,
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
            (n.preference_workspace, P::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES as u32),
            (n.not_supported, S::CUBLAS_STATUS_NOT_SUPPORTED as u32),
        ] {
            assert_eq!(ours as u32, theirs);
        }
    }
}
