//! A product made ready: operands filled on the device, sets of them to rotate over so that each run finds them cold, and the
//! library's algorithm chosen by trying.

use crate::cases::Shape;
use crate::check::{Found, Reference, check};
use crate::operands::{Operands, Seeds};
use crate::{gemv, matrix_amd, mma, tile, tiled, variants, wgmma};
use ridgepoint_core::{Dtype, Seconds, Verification};
use ridgepoint_device::{Buffer, Device, DeviceError, GemmPlan, GemmProblem, Result, Scales, Scaling, Support};
use ridgepoint_harness::{Prepared, Ready, trial};
use std::collections::BTreeMap;

/// Most operand sets: beyond that, eviction would be cheaper, and no device needs it.
const MOST_SETS: u64 = 64;
/// Algorithms of a library's own ranking that are tried.
const TRIED: usize = 8;

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
    let sets = (2 * device.info().last_level_cache().0 / shape.operands().0.max(1) + 1).clamp(1, MOST_SETS) + 1;
    let mut operands = Vec::new();
    for set in 0..sets {
        operands.push(Operands::fill(device, shape, &problem, plan.scale_orders(), Seeds::of(seed, set))?);
    }
    device.synchronize()?;
    let mut config = BTreeMap::new();
    let tried = tune(plan.as_mut(), device, &operands)?;
    if tried > 1 {
        config.insert("algorithms tried".into(), tried.to_string());
    }
    config.extend(plan.config());
    config.extend(accumulation(&problem, plan.as_ref()));
    if let Some(library) = blas.and_then(|b| b.library()) {
        config.insert("library".into(), format!("{} {}", library.name, library.version));
    }
    config.insert("operand sets".into(), sets.to_string());
    let labels = if plan.support() == Support::Emulated { vec!["emulated".into()] } else { vec![] };
    let ready = Run { device, shape, problem, plan, operands, seed, references: BTreeMap::new() };
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

/// Times the library's first algorithms, and keeps the fastest. A candidate that fails is passed over.
fn tune(plan: &mut (dyn GemmPlan + '_), device: &dyn Device, operands: &[Operands]) -> Result<usize> {
    let candidates = plan.candidates().min(TRIED);
    if candidates < 2 {
        return Ok(candidates);
    }
    let mut best: Option<(Seconds, usize)> = None;
    for index in 0..candidates {
        plan.select(index)?;
        let timed = trial(device, &mut |turn| plan.enqueue(&operands[turn % operands.len()].of()));
        match timed {
            Ok(seconds) if best.is_none_or(|(least, _)| seconds < least) => best = Some((seconds, index)),
            Ok(_) => {}
            Err(error @ DeviceError::Lost(_)) => return Err(error),
            Err(_) => {}
        }
    }
    let (_, index) = best.ok_or_else(|| DeviceError::unsupported("none of the library's algorithms ran"))?;
    plan.select(index)?;
    Ok(candidates)
}

struct Run<'d> {
    device: &'d dyn Device,
    shape: Shape,
    problem: GemmProblem,
    plan: Box<dyn GemmPlan + 'd>,
    operands: Vec<Operands>,
    seed: u64,
    references: BTreeMap<usize, Reference>,
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

    /// The first set is checked against a reference; every set is scanned for poison.
    fn check(&mut self) -> Result<Verification> {
        let reference = match self.references.entry(0) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
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
                entry.insert(Reference::new(self.shape, &a, &b, Seeds::of(self.seed, 0))?)
            }
        };
        check(self.device, self.shape, self.plan.fast_accumulation(), reference, &self.operands)
    }
}
