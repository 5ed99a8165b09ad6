//! cublasLt or hipBLASLt as a GEMM provider: every algorithm that it offers for a problem can be chosen.

use super::Shared;
use super::driver::Buffer as Memory;
use super::matmul::{Compute, Library, Plan, Problem, Type};
use crate::{Blas, DeviceError, GemmOperands, GemmPlan, GemmProblem, Result, Support, Transpose};
use ridgepoint_core::Dtype;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Workspace offered to the library: what cublasLt's documentation recommends for Hopper.
pub(crate) const WORKSPACE: usize = 64 << 20;
/// Algorithms asked for.
const WANTED: usize = 16;

/// A matrix library on one device.
pub(crate) struct Matmul {
    pub(crate) provider: &'static str,
    pub(crate) library: Arc<Library>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) workspace: Arc<Memory>,
    /// FP8 sums in fewer bits for longer, which is what frameworks use; off by default, as there.
    pub(crate) fast: bool,
    /// How this chip does a type, or why not.
    pub(crate) support: fn(target: &str, dtype: Dtype) -> std::result::Result<Support, String>,
}

impl Blas for Matmul {
    fn provider(&self) -> &'static str {
        self.provider
    }

    fn library(&self) -> Option<ridgepoint_core::Library> {
        let library = &self.library;
        let name = library.numbers.name.into();
        Some(ridgepoint_core::Library { name, version: library.version(), path: Some(library.path()) })
    }

    fn plan(&self, p: &GemmProblem) -> Result<Box<dyn GemmPlan>> {
        let input = p.plain(self.library.numbers.name)?;
        let fp8 = matches!(input, Dtype::E4m3 | Dtype::E5m2);
        if self.fast && !fp8 {
            return Err(DeviceError::unsupported("fast accumulation is a choice of FP8 alone"));
        }
        let support = (self.support)(&self.shared.ctx.facts.target, input).map_err(DeviceError::unsupported)?;
        let name = self.library.numbers.name;
        let kind = |dtype: Dtype| {
            Ok(match dtype {
                Dtype::F32 | Dtype::Tf32 => Type::F32,
                Dtype::F64 => Type::F64,
                Dtype::F16 => Type::F16,
                Dtype::Bf16 => Type::Bf16,
                Dtype::I8 => Type::I8,
                Dtype::I32 => Type::I32,
                Dtype::E4m3 => Type::E4m3,
                Dtype::E5m2 => Type::E5m2,
                Dtype::E4m3fnuz => Type::E4m3fnuz,
                Dtype::E5m2fnuz => Type::E5m2fnuz,
                other => return Err(DeviceError::unsupported(format!("{name} is not asked for {other} yet"))),
            })
        };
        let mut problem = Problem::new(p.m as u64, p.n as u64, p.k as u64, kind(input)?, kind(p.output)?);
        problem.a_t = p.a.stored == Transpose::Yes;
        problem.b_t = p.b.stored == Transpose::Yes;
        problem.fast_accum = self.fast;
        if input == Dtype::Tf32 {
            problem.compute = Compute::Tf32;
        }
        self.shared.ctx.api()?;
        let plan = self.library.plan(&problem, WORKSPACE, WANTED).map_err(|error| match error.status() {
            // The library says so itself.
            Some(code) if code == self.library.numbers.not_supported => DeviceError::unsupported(format!(
                "{name} {} has no {input} GEMM of {}×{}×{} with this layout here",
                self.library.version(),
                p.m,
                p.n,
                p.k
            )),
            _ => error.into(),
        })?;
        if plan.algorithms.is_empty() {
            return Err(DeviceError::unsupported(format!(
                "{name} {} offers no algorithm for {input} {}×{}×{}",
                self.library.version(),
                p.m,
                p.n,
                p.k
            )));
        }
        Ok(Box::new(Run {
            plan,
            index: 0,
            shared: Arc::clone(&self.shared),
            workspace: Arc::clone(&self.workspace),
            problem: *p,
            support,
        }))
    }
}

struct Run {
    plan: Plan,
    index: usize,
    shared: Arc<Shared>,
    workspace: Arc<Memory>,
    problem: GemmProblem,
    support: Support,
}

impl GemmPlan for Run {
    fn enqueue(&self, &GemmOperands { a, b, c, .. }: &GemmOperands<'_>) -> Result<()> {
        let p = &self.problem;
        for (name, buffer, dtype, elements) in
            [("A", a, p.a.dtype, p.m * p.k), ("B", b, p.b.dtype, p.k * p.n), ("C", c, p.output, p.m * p.n)]
        {
            if (buffer.len() as u64) < dtype.bytes(elements as u64).0 || buffer.owner::<Memory>().is_none() {
                return Err(DeviceError::invalid(format!("{name} is too small for the GEMM, or another device's")));
            }
        }
        self.shared.ctx.api()?;
        // SAFETY: the buffers hold the operands (above), the workspace is as large as promised to the library, and stream and
        // buffers belong to the context that was just made current.
        unsafe {
            self.plan.run(
                self.index,
                [a.address(), b.address(), c.address()],
                (self.workspace.ptr, self.workspace.len),
                self.shared.stream.handle,
            )
        }?;
        Ok(())
    }

    fn candidates(&self) -> usize {
        self.plan.algorithms.len()
    }

    fn select(&mut self, index: usize) -> Result<()> {
        if index >= self.candidates() {
            return Err(DeviceError::invalid(format!("algorithm {index} of {}", self.candidates())));
        }
        self.index = index;
        Ok(())
    }

    fn support(&self) -> Support {
        self.support
    }

    fn config(&self) -> BTreeMap<String, String> {
        BTreeMap::from([(
            "algorithm".into(),
            format!("number {} of the library's ranking: {}", self.index, self.plan.describe(self.index)),
        )])
    }
}
