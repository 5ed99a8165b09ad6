//! The gemm suite.
