//! A product made ready: operands filled on the device, sets of them to rotate over so that each run finds them cold, and the
//! library's algorithm chosen by trying.

use crate::cases::Shape;
use crate::check::{Found, Reference, check, largest, weak};
use crate::operands::{Operands, Seeds};
use crate::{gemv, matrix_amd, mma, tile, tiled, tune, variants, wgmma};
use ridgepoint_core::record::Tuning;
use ridgepoint_core::{Distribution, Dtype, Verification};
use ridgepoint_device::{Buffer, Device, DeviceError, GemmPlan, GemmProblem, Result, Scales, Scaling, Support};
use ridgepoint_harness::{Prepared, Ready, operand_sets_or_two};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

pub(crate) fn prepare<'d>(shape: Shape, provider: &str, device: &'d dyn Device, seed: u64) -> Result<Prepared<'d>> {
    let problem = variants::problem(shape, device);
    let blas = variants::find(device, provider);
    let mut plan: Box<dyn GemmPlan + 'd> = match blas {
        Some(blas) => blas.plan(&problem)?,
        None if tiled::providers(shape, device).contains(&provider) => Box::new(tiled::plan(device, shape, provider)?),
        None if provider == gemv::PROVIDER => Box::new(gemv::plan(device, shape)?),
        None if provider == wgmma::PROVIDER => Box::new(wgmma::plan(device, shape)?),
        None if provider == mma::PROVIDER => Box::new(mma::plan(device, shape)?),
        None if provider == tile::PROVIDER => Box::new(tile::plan(device, shape)?),
        None if matrix_amd::provider(shape, device) == Some(provider) => Box::new(matrix_amd::plan(device, shape)?),
        None => {
            let device = &device.info().id;
            return Err(DeviceError::unsupported(format!(
                "no GEMM library was found for {device}, nor a kernel of ours that does this; `ridgepoint doctor` says how to get one"
            )));
        }
    };
    if shape.output == Dtype::F16 && largest(shape) > Dtype::F16.format().map_or(f64::MAX, |f| f.max()) {
        let k = shape.k;
        return Err(DeviceError::unsupported(format!(
            "sums of {k} such values can be more than f16 holds; take out=f32 or a smaller K"
        )));
    }
    let sets = operand_sets_or_two(device.info(), shape.operands(), shape.operands());
    let mut operands = Vec::new();
    for set in 0..sets {
        operands.push(Operands::fill(device, shape, &problem, plan.scale_orders(), Seeds::of(seed, set))?);
    }
    device.synchronize()?;
    let mut config = BTreeMap::new();
    let library = blas.and_then(|b| b.library()).map(|library| format!("{} {}", library.name, library.version));
    let what = tune::what(provider, library.as_deref(), &shape.of_normal().id(), device.info());
    let mut next = 0;
    let tuning = tune::tune(plan.as_mut(), device, &what, &mut |plan| {
        // The next set each time: one that was used a moment ago is in a cache.
        next = (next + 1) % operands.len();
        plan.enqueue(&operands[next].of())
    })?;
    config.extend(tuning.iter().map(|t| ("algorithms".into(), tune::words(t))));
    config.extend(plan.config());
    config.extend(accumulation(&problem, plan.as_ref()));
    config.extend(library.map(|library| ("library".into(), library)));
    config.insert("operand sets".into(), sets.to_string());
    let labels = if plan.support() == Support::Emulated { vec!["emulated".into()] } else { vec![] };
    let ready = Run { device, shape, problem, plan, operands, seed, tuning, references: BTreeMap::new() };
    Ok(Prepared { ready: Box::new(ready), config, labels, dtype: problem.a.dtype })
}

/// In what a record says that sums were kept.
fn accumulation(problem: &GemmProblem, plan: &dyn GemmPlan) -> Vec<(String, String)> {
    let element = problem.a.dtype.element();
    let sums = match element {
        Dtype::F64 => "f64",
        Dtype::I8 => "i32",
        _ => "f32",
    };
    let mut said = vec![("accumulate".to_owned(), sums.to_owned())];
    if matches!(element, Dtype::E4m3 | Dtype::E5m2 | Dtype::E4m3fnuz | Dtype::E5m2fnuz) {
        said.push(("fast accumulation".into(), if plan.fast_accumulation() { "on" } else { "off" }.into()));
    }
    if problem.scaling != Scaling::None {
        said.push(("scales".into(), problem.scaling.name().into()));
    }
    said
}

struct Run<'d> {
    device: &'d dyn Device,
    shape: Shape,
    problem: GemmProblem,
    plan: Box<dyn GemmPlan + 'd>,
    operands: Vec<Operands>,
    seed: u64,
    tuning: Option<Tuning>,
    /// By what A and B hold: what is timed, and for weak data what the plan is proved on besides.
    references: BTreeMap<&'static str, Reference>,
}

impl Ready for Run<'_> {
    fn turns(&self) -> usize {
        self.operands.len()
    }

    fn enqueue(&mut self, turn: usize) -> Result<()> {
        self.plan.enqueue(&self.operands[turn].of())
    }

    fn outputs(&self, turn: usize) -> Vec<Buffer> {
        vec![self.operands[turn].c.clone()]
    }

    fn poison(&mut self) -> Result<()> {
        self.operands.iter().try_for_each(|set| self.device.fill(&set.c, 0xff))
    }

    /// The first set is checked against a reference; every set is scanned for poison. Weak data show little of what could be wrong, so
    /// that the same plan then computes the first set once more, of normally distributed values, which shows all.
    fn check(&mut self) -> Result<Verification> {
        let timed = self.check_of(self.shape)?;
        if !weak(self.shape.data) || !timed.passed() {
            return Ok(timed);
        }
        let seeds = Seeds::of(self.seed, 0);
        self.operands[0].refill(self.device, self.shape, &self.problem, Distribution::Normal, seeds)?;
        self.device.fill(&self.operands[0].c, 0xff)?;
        self.enqueue(0)?;
        let proved = self.check_of(self.shape.of_normal())?;
        self.operands[0].refill(self.device, self.shape, &self.problem, self.shape.data, seeds)?;
        self.enqueue(0)?;
        self.device.synchronize()?;
        let method =
            format!("{} of {}; and the same plan on normal values: {}", timed.method, self.shape.data.word(), proved.method);
        Ok(Verification { method, checked: timed.checked + proved.checked, ..proved })
    }

    fn tuning(&self) -> Option<Tuning> {
        self.tuning.clone()
    }
}

impl Run<'_> {
    /// Checks the outputs as those of `shape`, which is the case's with whatever values A and B hold now.
    fn check_of(&mut self, shape: Shape) -> Result<Verification> {
        let reference = match self.references.entry(shape.data.word()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let read = |buffer: &Buffer| -> Result<Vec<u8>> {
                    let mut bytes = vec![0; buffer.len()];
                    self.device.download(buffer, 0, &mut bytes)?;
                    Ok(bytes)
                };
                let (set, problem, orders) = (&self.operands[0], &self.problem, self.plan.scale_orders());
                let of_scales = Scales::of(problem);
                let found = |dtype, elements: &Buffer, i: usize, factor| -> Result<Found> {
                    let scales = match (&set.scales, of_scales) {
                        (Some(buffers), Some(scales)) => Some((scales[i], orders[i], read(&buffers[i])?)),
                        _ => None,
                    };
                    Ok(Found { dtype, elements: read(elements)?, scales, factor })
                };
                // Scales of whole tensors that lie in memory are there already.
                let factor = if problem.scaling == Scaling::Tensor { 1.0 } else { set.factor };
                let a = found(problem.a.dtype, &set.a, 0, factor)?;
                let b = found(problem.b.dtype, &set.b, 1, 1.0)?;
                entry.insert(Reference::new(shape, &a, &b, Seeds::of(self.seed, 0))?)
            }
        };
        check(self.device, shape, self.plan.fast_accumulation(), reference, &self.operands)
    }
}
