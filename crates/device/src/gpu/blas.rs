//! cublasLt or hipBLASLt as a GEMM provider: every algorithm that it offers for a problem can be chosen.

use super::Shared;
use super::driver::Buffer as Memory;
use super::matmul::{Compute, Library, Modes, Plan, Problem, Type};
use crate::{
    Blas, Buffer, DeviceError, GemmOperands, GemmPlan, GemmProblem, Result, ScaleOrder, Scales, Scaling, Support, Transpose,
};
use ridgepoint_core::Dtype;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Workspace offered to the library: what cublasLt's documentation recommends for Hopper.
pub(crate) const WORKSPACE: usize = 64 << 20;
/// Algorithms asked for: as many as the deepest search tries.
const WANTED: usize = 128;

/// A matrix library on one device.
pub(crate) struct Matmul {
    pub(crate) provider: &'static str,
    pub(crate) library: Arc<Library>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) workspace: Arc<Memory>,
    /// FP8 sums in fewer bits for longer, which is what frameworks use; off by default, as there.
    pub(crate) fast: bool,
    /// How this chip and the library do a problem, or why not.
    pub(crate) support: fn(target: &str, problem: &GemmProblem) -> std::result::Result<Support, String>,
    /// What the library calls these scales; None where it has no word for them.
    pub(crate) modes: fn(Scaling) -> Option<Modes>,
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
        let fp8 = |dtype: Dtype| matches!(dtype, Dtype::E4m3 | Dtype::E5m2);
        if self.fast && !(fp8(p.a.dtype) && fp8(p.b.dtype)) {
            return Err(DeviceError::unsupported("fast accumulation is a choice of FP8 alone"));
        }
        let support = (self.support)(&self.shared.ctx.facts.target, p).map_err(DeviceError::unsupported)?;
        let (name, version) = (self.library.numbers.name, self.library.version());
        let unsupported = |what: String| DeviceError::unsupported(format!("{name} {version} {what}"));
        let modes = match p.scaling {
            Scaling::None => None,
            scaling => {
                let modes = (self.modes)(scaling);
                let modes = modes.ok_or_else(|| unsupported(format!("takes no scales of this kind: {}", scaling.name())))?;
                let (major, minor) = modes.since;
                if older(&version, modes.since) {
                    return Err(unsupported(format!("takes no scales of this kind ({}): {major}.{minor} does", scaling.name())));
                }
                Some(modes)
            }
        };
        let mut problem = Problem::new(p.m as u64, p.n as u64, p.k as u64, number(p.a.dtype)?, number(p.output)?);
        problem.b = number(p.b.dtype)?;
        problem.batch = p.batch as u64;
        problem.a_t = p.a.stored == Transpose::Yes;
        problem.b_t = p.b.stored == Transpose::Yes;
        problem.fast_accum = self.fast;
        problem.scales = modes.map(|m| m.modes);
        if p.a.dtype == Dtype::Tf32 {
            problem.compute = Compute::Tf32;
        }
        self.shared.ctx.api()?;
        let what = || {
            let types = if p.a.dtype == p.b.dtype { p.a.dtype.to_string() } else { format!("{} × {}", p.a.dtype, p.b.dtype) };
            let batch = if p.batch == 1 { String::new() } else { format!("{} of ", p.batch) };
            let scales = if modes.is_some() { format!(", scales: {}", p.scaling.name()) } else { String::new() };
            format!("{types} to {}, {batch}{}×{}×{}{scales}", p.output, p.m, p.n, p.k)
        };
        let plan = self.library.plan(&problem, self.workspace.ptr, WORKSPACE, WANTED).map_err(|error| match error.status() {
            // The library says so itself.
            Some(code) if code == self.library.numbers.not_supported => unsupported(format!("has no GEMM of {} here", what())),
            _ => error.into(),
        })?;
        if plan.algorithms.is_empty() {
            return Err(unsupported(format!("offers no algorithm for {}", what())));
        }
        Ok(Box::new(Run {
            plan,
            index: 0,
            shared: Arc::clone(&self.shared),
            workspace: Arc::clone(&self.workspace),
            problem: *p,
            orders: modes.map_or_else(Default::default, |m| m.orders),
            fast: self.fast,
            support,
        }))
    }
}

/// A type by the number that both libraries give it.
fn number(dtype: Dtype) -> Result<Type> {
    Ok(match dtype.element() {
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
        Dtype::E2m1 => Type::E2m1,
        other => return Err(DeviceError::unsupported(format!("matrix libraries have no {other}"))),
    })
}

/// True for a version like `12.6.4` before `since`; an unknown one is taken for new.
fn older(version: &str, since: (u32, u32)) -> bool {
    let mut parts = version.split('.').map_while(|part| part.parse().ok());
    matches!((parts.next(), parts.next()), (Some(major), Some(minor)) if (major, minor) < since)
}

struct Run {
    plan: Plan,
    index: usize,
    shared: Arc<Shared>,
    workspace: Arc<Memory>,
    problem: GemmProblem,
    orders: [ScaleOrder; 2],
    fast: bool,
    support: Support,
}

impl GemmPlan for Run {
    fn enqueue(&self, operands: &GemmOperands<'_>) -> Result<()> {
        let p = &self.problem;
        let enough = |name: &str, buffer: &Buffer, bytes: u64| -> Result<u64> {
            if (buffer.len() as u64) < bytes || buffer.owner::<Memory>().is_none() {
                return Err(DeviceError::invalid(format!("{name} is too small for the GEMM, or another device's")));
            }
            Ok(buffer.address())
        };
        let matrix = |name: &str, buffer, dtype: Dtype, rows: usize, columns: usize| {
            enough(name, buffer, dtype.element().bytes((p.batch * rows * columns) as u64).0)
        };
        let a = matrix("A", operands.a, p.a.dtype, p.m, p.k)?;
        let b = matrix("B", operands.b, p.b.dtype, p.k, p.n)?;
        let c = matrix("C", operands.c, p.output, p.m, p.n)?;
        let scales = |name: &str, buffer: Option<&Buffer>, scales: Scales, order| {
            let buffer = buffer.ok_or_else(|| DeviceError::invalid(format!("{name} are missing")))?;
            enough(name, buffer, scales.len(order) * scales.of.bytes() as u64)
        };
        let scales = match Scales::of(p) {
            None => None,
            Some([of_a, of_b]) => Some([
                scales("the scales of A", operands.scale_a, of_a, self.orders[0])?,
                scales("the scales of B", operands.scale_b, of_b, self.orders[1])?,
            ]),
        };
        // What lies in memory is not said twice.
        let factor = if p.scaling == Scaling::Nvfp4 { operands.factor } else { 1.0 };
        self.shared.ctx.api()?;
        // SAFETY: the buffers hold the operands and scales (above), the workspace is as large as promised to the library, and stream
        // and buffers belong to the context that was just made current.
        unsafe {
            self.plan.run(
                self.index,
                [a, b, c],
                scales,
                factor,
                (self.workspace.ptr, self.workspace.len),
                self.shared.stream.handle,
            )
        }?;
        Ok(())
    }

    fn scale_orders(&self) -> [ScaleOrder; 2] {
        self.orders
    }

    fn fast_accumulation(&self) -> bool {
        self.fast
    }

    fn candidates(&self) -> usize {
        self.plan.algorithms.len()
    }

    fn name(&self, index: usize) -> String {
        self.plan.describe(index)
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

#[cfg(test)]
mod tests {
    use super::older;

    #[test]
    fn versions_are_compared_part_by_part() {
        for (version, expected) in [("12.6.4", true), ("12.8.0", true), ("12.9.1", false), ("13.1.0", false), ("unknown", false)]
        {
            assert_eq!(older(version, (12, 9)), expected, "{version}");
        }
    }
}
