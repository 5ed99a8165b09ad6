//! A collective and a matrix product at the same time, as training runs them: what does the longer one hide of the shorter?
//!
//! `collectives/overlap/all_reduce/r8/256MiB/bf16/m8192n8192k8192`: one execution is one collective and, beside it, one product on
//! each rank's GPU, in a launched job in each rank's process. On a CPU the cores are divided, half of them for the ranks and half for one product, and so they stay when each
//! runs alone. Each sample times the collective alone, the product alone and both, in turn; the figure is the time of both.

use crate::cases::Shape;
use crate::ready::{Outputs, outputs};
use crate::variants;
use crate::work::work;
use ridgepoint_core::record::Clock;
use ridgepoint_core::{Backend, Case, CaseId, Component, Dtype, Flops, Level, Metric, Seconds, Verification, Work, stats};
use ridgepoint_device::beside::{Beside, RanksBeside};
use ridgepoint_device::{CollectiveProblem, Collectives, Communicator, Device, DeviceError, Result, Timing, open};
use ridgepoint_harness::{Prepared, Ready};
use std::collections::BTreeMap;
use std::time::Instant;

pub(crate) use product::Product;
use product::Size;

mod product;

/// One such case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overlap {
    pub(crate) collective: Shape,
    pub(crate) product: Size,
}

impl Overlap {
    fn id(self) -> Option<String> {
        let case = self.collective.case()?;
        let rest = case.id.as_str().strip_prefix("collectives/")?.to_owned();
        Some(format!("collectives/overlap/{rest}/{}", self.product))
    }

    /// The case of an id in its canonical spelling.
    pub(crate) fn parse(id: &str) -> Option<Self> {
        let (collective, product) = id.strip_prefix("collectives/overlap/")?.rsplit_once('/')?;
        let parsed = Self { collective: Shape::parse(&format!("collectives/{collective}"))?, product: product.parse().ok()? };
        let sensible = parsed.collective.ranks > 1 && matches!(parsed.collective.dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16);
        (sensible && parsed.id().as_deref() == Some(id)).then_some(parsed)
    }

    /// The case of it: how long both take.
    pub(crate) fn case(self) -> Option<Case> {
        let case = self.collective.case()?;
        Some(Case {
            id: CaseId::new(self.id()?).ok()?,
            component: Component::Collectives,
            metric: Metric::Latency,
            level: Level::Peer,
            work: Work { flops: Flops(self.product.flops()), steps: 1, bus_factor: None, ..work(self.collective) },
            ..case
        })
    }
}

/// The ranks' engine and where each product runs, or why there is no such thing here.
struct Parties {
    #[cfg(target_os = "linux")]
    own: Option<ridgepoint_device::cpu::collectives::SharedMemory>,
    /// None where each rank of a job has one in its own process.
    products: Option<Vec<Place>>,
    how: String,
}

/// Where a product runs.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// A device of this id.
    Device(String),
    /// These cores of the host.
    Cores(Vec<usize>),
}

impl Place {
    pub(crate) fn open(&self) -> Result<Box<dyn Device>> {
        match self {
            Self::Device(id) => open(id),
            Self::Cores(cores) => Ok(Box::new(ridgepoint_device::cpu::CpuDevice::on(cores)?)),
        }
    }
}

impl Parties {
    fn of(device: &dyn Device, collectives: &dyn Collectives, ranks: usize) -> Result<Self> {
        let info = device.info();
        let launched = !collectives.places().is_empty();
        if launched && info.backend == Backend::Cpu {
            return Err(DeviceError::unsupported(
                "a launched rank on a CPU has no cores for a product that are not its collective's: without a launcher the cores are divided",
            ));
        }
        if info.backend == Backend::Cpu {
            #[cfg(not(target_os = "linux"))]
            return Err(DeviceError::unsupported("ranks of a host need Linux"));
            #[cfg(target_os = "linux")]
            return Self::of_cores(info.last_level_cache());
        }
        let (backend, first) = info.id.split_once(':').unwrap_or((info.id.as_str(), "0"));
        let first: usize = first.parse().unwrap_or(0);
        let all = device.siblings().max(1);
        Ok(Self {
            #[cfg(target_os = "linux")]
            own: None,
            products: (!launched)
                .then(|| (0..ranks).map(|rank| Place::Device(format!("{backend}:{}", (first + rank) % all))).collect()),
            how: "a product on each rank's device, in a stream of its own".into(),
        })
    }

    #[cfg(target_os = "linux")]
    fn of_cores(last_level_cache: ridgepoint_core::Bytes) -> Result<Self> {
        let cores = ridgepoint_device::cpu::affinity::cores();
        if cores.len() < 2 {
            return Err(DeviceError::unsupported("ranks and a product each need cores of their own, and there is one in all"));
        }
        let (ranks, product) = cores.split_at(cores.len() / 2);
        let list = |cores: &[usize]| cores.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        Ok(Self {
            own: Some(ridgepoint_device::cpu::collectives::SharedMemory::new(ranks, last_level_cache)),
            products: Some(vec![Place::Cores(product.to_vec())]),
            how: format!("ranks on cores {}, the product on cores {}", list(ranks), list(product)),
        })
    }
}

pub(crate) fn prepare<'d>(overlap: Overlap, provider: &str, device: &'d dyn Device, seed: u64) -> Result<Prepared<'d>> {
    let shape = overlap.collective;
    let collectives = variants::find(device, provider, shape.ranks as usize)?;
    let parties = Parties::of(device, collectives, shape.ranks as usize)?;
    #[cfg(target_os = "linux")]
    let collectives = parties.own.as_ref().map_or(collectives, |own| own);
    let problem = shape.problem(collectives.encoding(shape.dtype), seed);
    let mut communicator = collectives.communicator(&problem)?;
    let mut config = communicator.config();
    config.insert("overlap".into(), parties.how);
    let products = match parties.products {
        Some(places) => {
            let start = |place| Product::start(place, overlap.product, shape.dtype, seed);
            let products = places.into_iter().map(start).collect::<Result<Vec<Product>>>()?;
            config.extend(products.first().map(|product| ("product".into(), product.by())));
            Some(products)
        }
        None => {
            let by = at_ranks(communicator.as_mut())?.ready(&overlap.product.to_string(), shape.dtype, seed)?;
            config.insert("product".into(), by);
            None
        }
    };
    let mut labels = Vec::new();
    if provider == "shared-memory" {
        labels.push("shared-memory engine".into());
    }
    if config.contains_key("oversubscribed") {
        labels.push("oversubscribed".into());
    }
    let ready = Both { communicator, problem, products, seconds: Vec::new() };
    Ok(Prepared { ready: Box::new(ready), config, labels, dtype: problem.dtype })
}

/// The ranks of a job, which have their products themselves.
fn at_ranks(communicator: &mut dyn Communicator) -> Result<&mut dyn RanksBeside> {
    communicator.beside().ok_or_else(|| DeviceError::unsupported("these ranks run nothing beside their collective"))
}

struct Both {
    // Before the products, whose threads it does not need.
    communicator: Box<dyn Communicator>,
    problem: CollectiveProblem,
    /// None where each rank has its own.
    products: Option<Vec<Product>>,
    /// Of each sample: an execution of the collective alone, of the product alone, and of both.
    seconds: Vec<[f64; 3]>,
}

impl Both {
    /// `n` executions of what is asked for, by the host's clock.
    fn time(&mut self, n: usize, collective: bool, product: bool) -> Result<f64> {
        let Some(products) = &self.products else {
            return Ok(at_ranks(self.communicator.as_mut())?.time(n, collective, product)?.0);
        };
        let start = Instant::now();
        if product {
            products.iter().try_for_each(|p| p.begin(n))?;
        }
        let ran = if collective { self.communicator.run(n).map(drop) } else { Ok(()) };
        // Those that have begun are waited for in any case.
        let ended = if product { products.iter().map(Product::end).collect::<Vec<_>>() } else { Vec::new() };
        ran?;
        ended.into_iter().collect::<Result<Vec<()>>>()?;
        Ok(start.elapsed().as_secs_f64())
    }

    /// Medians of the three.
    fn medians(&self) -> Option<[f64; 3]> {
        let of = |which: usize| {
            let mut all: Vec<f64> = self.seconds.iter().map(|s| s[which]).collect();
            all.sort_by(f64::total_cmp);
            stats::median_of_sorted(&all)
        };
        (!self.seconds.is_empty()).then(|| [of(0), of(1), of(2)])
    }
}

/// The part of the shorter one that took no time of its own: 1 where both take as long as the longer alone, 0 as long as one after
/// the other. Below 0 they hinder each other.
fn hidden([collective, product, both]: [f64; 3]) -> f64 {
    (collective + product - both) / collective.min(product).max(f64::MIN_POSITIVE)
}

impl Ready for Both {
    fn enqueue(&mut self, _turn: usize) -> Result<()> {
        self.time(1, true, true).map(drop)
    }

    fn poison(&mut self) -> Result<()> {
        // A rank of a job overwrites what it has beside the collective with that.
        self.communicator.poison()?;
        self.products.iter().flatten().try_for_each(Product::poison)
    }

    fn run_timed(&mut self, _first: usize, n: u64) -> Option<Result<Timing>> {
        let n = n as usize;
        let mut once = || -> Result<Timing> {
            let (collective, product) = (self.time(n, true, false)?, self.time(n, false, true)?);
            let both = self.time(n, true, true)?;
            self.seconds.push([collective, product, both].map(|s| s / n as f64));
            Ok(Timing { seconds: Seconds(both), clock: Clock::Host })
        };
        Some(once())
    }

    fn observed(&self) -> BTreeMap<String, String> {
        let Some(medians) = self.medians() else { return BTreeMap::new() };
        let micro = medians.map(|s| format!("{:.1} µs", s * 1e6));
        let [collective, product, _] = micro;
        BTreeMap::from([
            ("collective alone".into(), collective),
            ("product alone".into(), product),
            ("hidden".into(), format!("{:.3}", hidden(medians))),
        ])
    }

    fn remarks(&self) -> Vec<String> {
        let shorter = |[collective, product, _]: [f64; 3]| if collective <= product { "collective" } else { "product" };
        self.medians().map(|m| format!("{:.0} % of the {} hidden", hidden(m) * 100.0, shorter(m))).into_iter().collect()
    }

    fn check(&mut self) -> Result<Verification> {
        let Outputs { found, tolerance, how } = outputs(self.communicator.as_mut(), &self.problem)?;
        // Both errors as multiples of what passes.
        let relative = if found.error == 0.0 { 0.0 } else { found.error / tolerance };
        // JSON has no NaN.
        let relative = if relative.is_finite() { relative } else { f64::MAX };
        let mut total = Verification {
            method: format!("{how}; the product: all written, and {} rows against f64; over the tolerance", product::ROWS),
            error: relative,
            tolerance: 1.0,
            checked: found.checked,
            wrong: found.wrong,
        };
        let seen = match &self.products {
            Some(products) => products.iter().map(Product::check).collect::<Result<Vec<_>>>()?,
            None => vec![at_ranks(self.communicator.as_mut())?.check()?],
        };
        for seen in seen {
            total.checked += seen.checked;
            total.wrong += seen.wrong;
            if seen.error > total.error || seen.error.is_nan() {
                total.error = seen.error;
            }
        }
        total.error = if total.error.is_finite() { total.error } else { f64::MAX };
        Ok(total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_parse_back_and_only_the_canonical_spelling_does() {
        for id in [
            "collectives/overlap/all_reduce/r2/16MiB/f32/m512n512k512",
            "collectives/overlap/reduce_scatter/r8/256MiB/bf16/max/inplace/m8192n8192k8192",
        ] {
            assert_eq!(Overlap::parse(id).and_then(Overlap::id).as_deref(), Some(id));
            assert_eq!(Overlap::parse(id).unwrap().case().unwrap().id.as_str(), id);
        }
        for id in [
            "collectives/overlap/all_reduce/r2/16MiB/f32",
            "collectives/overlap/all_reduce/r1/16MiB/f32/m512n512k512",
            "collectives/overlap/all_reduce/r2/16MiB/e4m3/m512n512k512",
            "collectives/overlap/all_reduce/r2/16384KiB/f32/m512n512k512",
            "collectives/overlap/all_reduce/r2/16MiB/f32/m0512n512k512",
            "collectives/overlap/all_reduce/r2/16MiB/f32/m512n512",
            "collectives/overlap/all_reduce/r2/16MiB/f32/m0n512k512",
            "collectives/overlap/overlap/all_reduce/r2/16MiB/f32/m512n512k512",
        ] {
            assert_eq!(Overlap::parse(id), None, "{id}");
        }
    }

    #[test]
    fn what_is_hidden_is_a_part_of_the_shorter() {
        assert_eq!(hidden([1.0, 2.0, 2.0]), 1.0);
        assert_eq!(hidden([1.0, 2.0, 3.0]), 0.0);
        assert_eq!(hidden([2.0, 1.0, 2.5]), 0.5);
        assert_eq!(hidden([1.0, 1.0, 3.0]), -1.0);
    }
}
