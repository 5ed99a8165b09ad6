//! A product made ready: operands filled on the device, sets of them to rotate over so that each run finds them cold, and the
//! library's algorithm chosen by trying.

use crate::cases::Shape;
use crate::check::{Reference, check};
use crate::{matrix_amd, mma, tile, tiled, variants, wgmma};
use ridgepoint_core::{Dtype, Seconds, Verification, data};
use ridgepoint_device::{Buffer, Device, DeviceError, GemmPlan, Result, Support};
use ridgepoint_harness::{Prepared, Ready, encoding, random, trial};
use std::collections::BTreeMap;

/// Most operand sets: beyond that, eviction would be cheaper, and no device needs it.
const MOST_SETS: u64 = 64;
/// Algorithms of a library's own ranking that are tried.
const TRIED: usize = 8;

pub(crate) fn prepare<'d>(shape: Shape, provider: &str, device: &'d dyn Device, seed: u64) -> Result<Prepared<'d>> {
    let input = encoding(shape.dtype, device);
    let blas = variants::find(device, provider);
    let mut plan: Box<dyn GemmPlan + 'd> = match blas {
        Some(blas) => blas.plan(&variants::problem(shape, input))?,
        None if tiled::providers(shape, device).contains(&provider) => Box::new(tiled::plan(device, shape, provider)?),
        None if provider == wgmma::PROVIDER => Box::new(wgmma::plan(device, shape)?),
        None if provider == mma::PROVIDER => Box::new(mma::plan(device, shape)?),
        None if provider == tile::PROVIDER => Box::new(tile::plan(device, shape)?),
        None if matrix_amd::provider(shape, device) == Some(provider) => Box::new(matrix_amd::plan(device, shape)?),
        None => {
            let device = &device.info().id;
            return Err(DeviceError::unsupported(format!(
                "no GEMM library was found for {device}; `ridgepoint doctor` says how to get one"
            )));
        }
    };
    let sets = (2 * device.info().last_level_cache().0 / shape.operands().0.max(1) + 1).clamp(1, MOST_SETS) + 1;
    let mut operands = Vec::new();
    for set in 0..sets {
        let fill = |operand: u64, elements: u64| random(device, input, data::operand_seed(seed, 2 * set + operand), elements);
        let a = fill(0, shape.m * shape.k)?;
        let b = fill(1, shape.n * shape.k)?;
        let c = device.alloc(shape.output().bytes(shape.m * shape.n).0 as usize)?;
        operands.push([a, b, c]);
    }
    device.synchronize()?;
    let mut config = BTreeMap::new();
    let tried = tune(plan.as_mut(), device, &operands)?;
    if tried > 1 {
        config.insert("algorithms tried".into(), tried.to_string());
    }
    config.extend(plan.config());
    if let Some(library) = blas.and_then(|b| b.library()) {
        config.insert("library".into(), format!("{} {}", library.name, library.version));
    }
    config.insert("operand sets".into(), sets.to_string());
    let labels = if plan.support() == Support::Emulated { vec!["emulated".into()] } else { vec![] };
    let ready = Run { device, shape, input, plan, operands, seed, references: BTreeMap::new() };
    Ok(Prepared { ready: Box::new(ready), config, labels, dtype: input })
}

/// Times the library's first algorithms, and keeps the fastest. A candidate that fails is passed over.
fn tune(plan: &mut (dyn GemmPlan + '_), device: &dyn Device, operands: &[[Buffer; 3]]) -> Result<usize> {
    let candidates = plan.candidates().min(TRIED);
    if candidates < 2 {
        return Ok(candidates);
    }
    let mut best: Option<(Seconds, usize)> = None;
    for index in 0..candidates {
        plan.select(index)?;
        let timed = trial(device, &mut |turn| {
            let [a, b, c] = &operands[turn % operands.len()];
            plan.enqueue(a, b, c)
        });
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
    input: Dtype,
    plan: Box<dyn GemmPlan + 'd>,
    operands: Vec<[Buffer; 3]>,
    seed: u64,
    references: BTreeMap<usize, Reference>,
}

impl Ready for Run<'_> {
    fn turns(&self) -> usize {
        self.operands.len()
    }

    fn enqueue(&mut self, turn: usize) -> Result<()> {
        let [a, b, c] = &self.operands[turn];
        self.plan.enqueue(a, b, c)
    }

    fn outputs(&self, turn: usize) -> Vec<Buffer> {
        vec![self.operands[turn][2].clone()]
    }

    fn poison(&mut self) -> Result<()> {
        self.operands.iter().try_for_each(|[_, _, c]| self.device.fill(c, 0xff))
    }

    /// The first set is checked against a reference; every set is scanned for poison.
    fn check(&mut self) -> Result<Verification> {
        let reference = match self.references.entry(0) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let seeds = [0, 1].map(|operand| data::operand_seed(self.seed, operand));
                let [a, b, _] = &self.operands[0];
                let read = |buffer: &Buffer| -> Result<Vec<u8>> {
                    let mut bytes = vec![0; buffer.len()];
                    self.device.download(buffer, 0, &mut bytes)?;
                    Ok(bytes)
                };
                entry.insert(Reference::new(self.shape, self.input, &read(a)?, &read(b)?, seeds)?)
            }
        };
        check(self.device, self.shape, reference, &self.operands)
    }
}
