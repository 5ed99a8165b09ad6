//! What a library does on a device, as optional capabilities: GEMM, attention, and (in collectives.rs) collectives. A device
//! gives those that it found at run time; a suite runs each as a provider of its own, so that a fallback never reads as the
//! chip's peak.

use crate::{Buffer, DeviceError, Result, ScaleOrder, Scaling};
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

/// A factor of a product: its type, and how it lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Matrix {
    /// Type of the elements; e2m1 lies packed, the element of the lower index in the lower four bits.
    pub dtype: Dtype,
    /// How it is stored.
    pub stored: Transpose,
}

/// `batch` products C (M×N, row-major) = A·B, accumulated in f32 (i32 for i8, f64 for f64), leading dimensions tight, one
/// product's operands behind the other's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GemmProblem {
    /// Products.
    pub batch: usize,
    /// Rows of C.
    pub m: usize,
    /// Columns of C.
    pub n: usize,
    /// Length of the sums.
    pub k: usize,
    /// A, M×K.
    pub a: Matrix,
    /// B, K×N.
    pub b: Matrix,
    /// Type of C.
    pub output: Dtype,
    /// The scales of A and B.
    pub scaling: Scaling,
}

impl GemmProblem {
    /// One product without scales: A and B of one type, A stored as M×K and B as N×K.
    #[must_use]
    pub const fn new(m: usize, n: usize, k: usize, input: Dtype, output: Dtype) -> Self {
        let (a, b) = (Matrix { dtype: input, stored: Transpose::No }, Matrix { dtype: input, stored: Transpose::Yes });
        Self { batch: 1, m, n, k, a, b, output, scaling: Scaling::None }
    }

    /// The type of A and B where this is one product of one type without scales: all that many a library can do.
    ///
    /// # Errors
    /// `Unsupported` with what else is asked of `provider`.
    pub fn plain(&self, provider: &str) -> Result<Dtype> {
        let beyond = if self.a.dtype != self.b.dtype {
            format!("products of {} with {}", self.a.dtype, self.b.dtype)
        } else if self.scaling != Scaling::None {
            format!("{} with scales ({})", self.a.dtype, self.scaling.name())
        } else if self.batch != 1 {
            "batches".into()
        } else {
            return Ok(self.a.dtype);
        };
        Err(DeviceError::unsupported(format!("{provider} has no {beyond}")))
    }
}

/// What a product reads and writes.
#[derive(Clone, Copy, Debug)]
pub struct GemmOperands<'a> {
    /// A of each product.
    pub a: &'a Buffer,
    /// B of each product.
    pub b: &'a Buffer,
    /// C of each product; overwritten.
    pub c: &'a Buffer,
    /// The scales of A, where the problem has them.
    pub scale_a: Option<&'a Buffer>,
    /// The scales of B.
    pub scale_b: Option<&'a Buffer>,
    /// For scales of whole tensors: their product, for whoever takes it as a number. With [`Scaling::Tensor`] it says the same as
    /// the two buffers and must not be applied beside them. 1 otherwise.
    pub factor: f32,
}

impl<'a> GemmOperands<'a> {
    /// Without scales.
    #[must_use]
    pub const fn new(a: &'a Buffer, b: &'a Buffer, c: &'a Buffer) -> Self {
        Self { a, b, c, scale_a: None, scale_b: None, factor: 1.0 }
    }
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
    /// `Invalid` for operands that are too small or not this device's; a library error.
    fn enqueue(&self, operands: &GemmOperands<'_>) -> Result<()>;

    /// How the scales of A and of B must lie.
    fn scale_orders(&self) -> [ScaleOrder; 2] {
        [ScaleOrder::Lines; 2]
    }

    /// How many algorithms it offers; 1 where the library gives no choice.
    fn candidates(&self) -> usize {
        1
    }

    /// What the `index`-th algorithm is called from run to run, whatever else is offered beside it: what a run finds out about it is kept
    /// under this name.
    fn name(&self, index: usize) -> String {
        index.to_string()
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

    /// True where FP8 products are summed to the end in the fewer bits that Hopper's matrix units keep.
    fn fast_accumulation(&self) -> bool {
        false
    }

    /// Algorithm id, tile, workspace, threads: goes into the record.
    fn config(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }
}

/// O = softmax(scale·Q·Kᵀ)·V, forward. Q is [b, hq, sq, dqk], K [b, hkv, sk, dqk], V [b, hkv, sk, dv], O [b, hq, sq, dv],
/// all contiguous. Query head h reads key head h / (hq / hkv). Scale is 1/√dqk. A query that sees no key gives a row of zeros.
///
/// `..AttentionProblem::default()` stands for the plain form: dense, one sequence, f32, without a mask.
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
    /// Keys a sequence; the most of any where they are ragged.
    pub sk: usize,
    /// Head dimension of Q and K.
    pub dqk: usize,
    /// Head dimension of V and O.
    pub dv: usize,
    /// Query i of a sequence of L keys sees those up to i + L − sq (aligned at the end). L is `sk`, or the sequence's length.
    pub causal: bool,
    /// With `causal`: a query sees only the last so many of those keys, the one at i + L − sq included.
    pub window: Option<usize>,
    /// V is the first `dv` columns of K (absorbed MLA's latent): K is read once and no V is passed.
    pub shared_kv: bool,
    /// Type of Q.
    pub dtype: Dtype,
    /// Type of K and V.
    pub kv: Dtype,
    /// Type of O.
    pub output: Dtype,
    /// K and V lie in pages of a pool, found by a table.
    pub paged: Option<Paged>,
    /// Each query head has one more logit, which joins the sum of its rows' softmax without a value.
    pub sinks: bool,
    /// Each sequence has a length of its own, from 0 to `sk`. What lies behind its last key may be NaN.
    pub ragged: bool,
}

/// Paged K and V: K is [pool, hkv, tokens, dqk], V [pool, hkv, tokens, dv], and key j of sequence b lies in page
/// `table[b][j / tokens]` at `j mod tokens`. The table is i32 [b, ⌈sk / tokens⌉]. Its entries behind a sequence's last key name
/// pages of the pool that must not count; pages that no entry names hold NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Paged {
    /// Keys of a page.
    pub tokens: usize,
    /// Pages in the pool.
    pub pool: usize,
}

impl Default for AttentionProblem {
    fn default() -> Self {
        Self {
            batch: 1,
            hq: 1,
            hkv: 1,
            sq: 1,
            sk: 1,
            dqk: 64,
            dv: 64,
            causal: false,
            window: None,
            shared_kv: false,
            dtype: Dtype::F32,
            kv: Dtype::F32,
            output: Dtype::F32,
            paged: None,
            sinks: false,
            ragged: false,
        }
    }
}

/// Columns of an MLA head's Q and K that do not turn with the position.
const ABSORBED: usize = 128;

impl AttentionProblem {
    /// The same with Q, K, V and O of one type.
    #[must_use]
    pub const fn of(self, dtype: Dtype) -> Self {
        Self { dtype, kv: dtype, output: dtype, ..self }
    }

    /// What dot products of Q and K are multiplied by: 1/√dqk. Where V lies in K the model's own dimension counts, as before its
    /// projections were absorbed (DeepSeek-V2, V3, Kimi K2): 128 and the dqk − dv that turn with the position, 1/√192 for 576/512.
    #[must_use]
    pub fn softmax_scale(&self) -> f64 {
        let dimension = if self.shared_kv { ABSORBED + self.dqk.saturating_sub(self.dv) } else { self.dqk };
        1.0 / (dimension as f64).sqrt()
    }

    /// What it asks beyond dense attention in one type, in words: for the reason of a provider that cannot. Causal masks and
    /// a shared K and V are not among them.
    #[must_use]
    pub fn extras(&self) -> Vec<&'static str> {
        let all = [
            (self.window.is_some(), "a sliding window"),
            (self.paged.is_some(), "paged keys"),
            (self.sinks, "sinks"),
            (self.ragged, "ragged lengths"),
            (self.kv != self.dtype || self.output != self.dtype, "operands of several types"),
        ];
        all.into_iter().filter_map(|(asked, name)| asked.then_some(name)).collect()
    }
}

/// The operands of one pass. Those that a problem does not ask for are None, and are ignored where they are there.
#[derive(Clone, Copy, Debug)]
pub struct AttentionOperands<'a> {
    /// Q.
    pub q: &'a Buffer,
    /// K, or its pool of pages.
    pub k: &'a Buffer,
    /// V, or its pool of pages; ignored for a problem with `shared_kv`.
    pub v: &'a Buffer,
    /// O.
    pub o: &'a Buffer,
    /// `ragged`: `i32 [b]`, the keys of each sequence, 0 to `sk`.
    pub lengths: Option<&'a Buffer>,
    /// `paged`: i32 [b, ⌈sk / tokens⌉], see [`Paged`].
    pub pages: Option<&'a Buffer>,
    /// `sinks`: `f32 [hq]`, logits as they are (not times the scale).
    pub sinks: Option<&'a Buffer>,
    /// Where Q or K and V are FP8: `f32 [3]`, what stored values of Q, K and V are multiplied by; 1 for one that is no FP8.
    /// With `shared_kv` V's is K's.
    pub scales: Option<&'a Buffer>,
}

impl<'a> AttentionOperands<'a> {
    /// Those of a problem without extras.
    #[must_use]
    pub const fn new(q: &'a Buffer, k: &'a Buffer, v: &'a Buffer, o: &'a Buffer) -> Self {
        Self { q, k, v, o, lengths: None, pages: None, sinks: None, scales: None }
    }
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
    /// Enqueues one pass.
    ///
    /// # Errors
    /// `Invalid` where an operand is missing or too short; a library error.
    fn enqueue(&self, operands: &AttentionOperands<'_>) -> Result<()>;

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

    /// Engine id, tile, splits, threads: goes into the record.
    fn config(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }
}
