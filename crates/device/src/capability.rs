//! What a library does on a device, as optional capabilities: GEMM, attention, and (in collectives.rs) collectives. A device
//! gives those that it found at run time; a suite runs each as a provider of its own, so that a fallback never reads as the
//! chip's peak.

use crate::{Buffer, Result};
use ridgepoint_core::{Dtype, Library};
use std::collections::BTreeMap;

/// Whether an operand is stored transposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transpose {
    /// Row-major as named: A is M×K, B is K×N.
    No,
    /// The transpose is stored row-major: A as K×M, B as N×K.
    Yes,
}

/// How well a device does a dtype.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// In hardware: it has a peak.
    Native,
    /// By conversion to a wider type: correct, labelled `emulated`, and without a peak.
    Emulated,
}

/// C (M×N, row-major) = A·B, accumulated in f32 (i32 for i8), leading dimensions tight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GemmProblem {
    /// Rows of C.
    pub m: usize,
    /// Columns of C.
    pub n: usize,
    /// Length of the sums.
    pub k: usize,
    /// Type of A and B.
    pub input: Dtype,
    /// Type of C.
    pub output: Dtype,
    /// How A is stored.
    pub a: Transpose,
    /// How B is stored.
    pub b: Transpose,
}

/// A GEMM library.
pub trait Blas {
    /// `cublaslt`, `openblas`, `native`.
    fn provider(&self) -> &'static str;

    /// Where it came from.
    fn library(&self) -> Option<Library> {
        None
    }

    /// A plan for `problem`, tuned as far as `candidates` allows: the library's own ranking is tried that deep by the suite.
    ///
    /// # Errors
    /// `Unsupported` with the reason where the library or chip lacks the dtype or layout.
    fn plan(&self, problem: &GemmProblem) -> Result<Box<dyn GemmPlan>>;
}

/// A GEMM ready to be enqueued.
pub trait GemmPlan {
    /// Enqueues C = A·B.
    ///
    /// # Errors
    /// A library error.
    fn enqueue(&self, a: &Buffer, b: &Buffer, c: &Buffer) -> Result<()>;

    /// How many algorithms it offers; 1 where the library gives no choice.
    fn candidates(&self) -> usize {
        1
    }

    /// Uses the `index`-th algorithm from now on.
    ///
    /// # Errors
    /// `Invalid` past the end.
    fn select(&mut self, _index: usize) -> Result<()> {
        Ok(())
    }

    /// Native or emulated.
    fn support(&self) -> Support {
        Support::Native
    }

    /// Algorithm id, tile, workspace, threads: goes into the record.
    fn config(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }
}

/// O = softmax(scale·Q·Kᵀ)·V, forward. Q is [b, hq, sq, dqk], K [b, hkv, sk, dqk], V [b, hkv, sk, dv], O [b, hq, sq, dv],
/// all contiguous. Query head h reads key head h / (hq / hkv). Scale is 1/√dqk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttentionProblem {
    /// Sequences.
    pub batch: usize,
    /// Query heads.
    pub hq: usize,
    /// Key and value heads; divides `hq`.
    pub hkv: usize,
    /// Queries a sequence.
    pub sq: usize,
    /// Keys a sequence.
    pub sk: usize,
    /// Head dimension of Q and K.
    pub dqk: usize,
    /// Head dimension of V and O.
    pub dv: usize,
    /// Query i sees keys up to i + sk − sq (aligned at the end).
    pub causal: bool,
    /// V is the first `dv` columns of K (absorbed MLA's latent): K is read once and no V is passed.
    pub shared_kv: bool,
    /// Type of Q, K, V and O.
    pub dtype: Dtype,
}

/// An attention library, or a device's own attention code.
pub trait AttentionKernels {
    /// `cudnn`, `flash`, `materialised`.
    fn provider(&self) -> &'static str;

    /// Where it came from.
    fn library(&self) -> Option<Library> {
        None
    }

    /// A plan for `problem`.
    ///
    /// # Errors
    /// `Unsupported` with the reason.
    fn plan(&self, problem: &AttentionProblem) -> Result<Box<dyn AttentionPlan>>;
}

/// An attention forward pass ready to be enqueued.
pub trait AttentionPlan {
    /// Enqueues one pass; `v` is ignored for a problem with `shared_kv`.
    ///
    /// # Errors
    /// A library error.
    fn enqueue(&self, q: &Buffer, k: &Buffer, v: &Buffer, o: &Buffer) -> Result<()>;

    /// Native or emulated.
    fn support(&self) -> Support {
        Support::Native
    }

    /// Engine id, tile, splits, threads: goes into the record.
    fn config(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }
}
