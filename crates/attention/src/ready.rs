//! An attention made ready: operands filled on the device, rotated so that each run finds them cold, a provider planned.

use crate::check::{Reference, finish, scan, tolerance};
use crate::layout::{spare, table};
use crate::reference::{Operand, Operands, scales, sinks};
use crate::shape::{Kind, Shape};
use crate::{amd, common, materialised, nvidia, vulkan};
use ridgepoint_core::{Bytes, Dtype, Seconds, Verification, data};
use ridgepoint_device::{
    AttentionKernels, AttentionOperands, AttentionPlan, AttentionProblem, Buffer, Device, DeviceError, Result, Support,
};
use ridgepoint_harness::verify::Comparison;
use ridgepoint_harness::{MOST_SETS, Prepared, Ready, encoding, operand_sets, random, trial};
use std::collections::BTreeMap;

/// The problem in the encoding that the device's matrix units have.
fn encoded(shape: Shape, device: &dyn Device) -> AttentionProblem {
    let problem = shape.problem();
    AttentionProblem { dtype: encoding(problem.dtype, device), kv: encoding(problem.kv, device), ..problem }
}

/// Rounds in which what a plan offers is timed, and what keeps the time of one out of the next, as a part of the least.
const TRIALS: usize = 3;
const FAR: f64 = 1.25;
/// Who can do a shape on a device: its libraries and own code, then our kernels. Never empty.
pub(crate) fn providers(shape: Shape, device: &dyn Device) -> Vec<String> {
    let libraries = device.attention().into_iter().map(|a| a.provider().to_owned());
    let chip = nvidia::provider(shape, device).or_else(|| amd::provider(shape, device));
    let own = chip.or_else(|| common::provider(shape, device)).map(str::to_owned);
    let products = materialised::fits(shape, device).then(|| materialised::PROVIDER.to_owned());
    let portable = vulkan::providers(shape, device).iter().map(|p| (*p).to_owned());
    let names: Vec<String> = libraries.chain(own).chain(products).chain(portable).collect();
    if names.is_empty() { vec!["none".into()] } else { names }
}

fn library<'d>(provider: &str, device: &'d dyn Device) -> Option<&'d dyn AttentionKernels> {
    device.attention().into_iter().find(|a| a.provider() == provider)
}

/// Plans a shape by a provider.
///
/// # Errors
/// `Unsupported` for one that does not do it, with its reason; as each provider.
fn plan<'d>(shape: Shape, provider: &str, device: &'d dyn Device) -> Result<Box<dyn AttentionPlan + 'd>> {
    match library(provider, device) {
        Some(library) => library.plan(&encoded(shape, device)).map(|plan| plan as _),
        None if nvidia::provider(shape, device) == Some(provider) => nvidia::plan(shape, device),
        None if amd::provider(shape, device) == Some(provider) => amd::plan(shape, device),
        None if common::provider(shape, device) == Some(provider) => common::plan(shape, provider, device),
        None if provider == materialised::PROVIDER && materialised::fits(shape, device) => materialised::plan(shape, device),
        None if vulkan::providers(shape, device).contains(&provider) => vulkan::plan(shape, provider, device),
        None => {
            let Shape { dqk, dv, dtype, .. } = shape;
            let extras = shape.problem().extras().join(", ");
            let with = if extras.is_empty() { extras } else { format!(" with {extras}") };
            let arch = &device.info().arch;
            Err(DeviceError::unsupported(format!("no kernel for head dimensions {dqk}/{dv} in {dtype}{with} on {arch}")))
        }
    }
}

pub(crate) fn prepare<'d>(shape: Shape, provider: &str, device: &'d dyn Device, seed: u64) -> Result<Prepared<'d>> {
    let plan = plan(shape, provider, device)?;
    let mut config = BTreeMap::new();
    if let Some(library) = library(provider, device).and_then(|l| l.library()) {
        config.insert("library".into(), format!("{} {}", library.name, library.version));
    }
    let labels = [("emulated", plan.support() == Support::Emulated), ("fallback", common::falls_back(provider, device))];
    let labels = labels.into_iter().filter(|(_, given)| *given).map(|(label, _)| label.to_owned()).collect();
    let sets = operand_sets(device.info(), moved(shape), Bytes(shape.bytes()));
    let sets = (0..sets).map(|set| Set::new(shape, device, seed, set)).collect::<Result<Vec<_>>>()?;
    let around = Around::new(shape, device, seed)?;
    device.synchronize()?;
    config.insert("operand sets".into(), sets.len().to_string());
    if let Some(pages) = shape.problem().paged {
        config.insert("pages".into(), format!("{} of {} keys, shuffled", pages.pool, pages.tokens));
    }
    let mut ready = Run { device, shape, plan, sets, around, seed, reference: None };
    let tried = ready.tune()?;
    if tried.len() > 1 {
        let ms = tried.iter().map(|seconds| seconds.map_or_else(|| "failed".to_owned(), |s| format!("{:.4}", s.0 * 1e3)));
        config.insert("tried".into(), format!("{} ms", ms.collect::<Vec<_>>().join(", ")));
    }
    config.extend(ready.plan.config());
    Ok(Prepared { ready: Box::new(ready), config, labels, dtype: encoding(shape.dtype, device) })
}

/// What an execution reads and writes: of the keys those that a query sees.
fn moved(shape: Shape) -> Bytes {
    shape.work().map_or(Bytes(0), |work| work.bytes)
}

/// The seed of an operand: three to a set, and the sinks behind all sets.
const fn seed_of(seed: u64, set: u64, operand: u64) -> u64 {
    data::operand_seed(seed, 3 * set + operand)
}

const fn seed_of_sinks(seed: u64) -> u64 {
    seed_of(seed, MOST_SETS, 0)
}

/// Bytes of which K and V are NaN.
fn nan(shape: Shape, device: &dyn Device) -> u8 {
    // The one NaN of the FNUZ encodings is what is minus zero elsewhere.
    if matches!(encoding(shape.kv, device), Dtype::E4m3fnuz | Dtype::E5m2fnuz) { 0x80 } else { 0xff }
}

/// What is read and written, in as many sets as it takes to find each cold.
struct Set {
    q: Buffer,
    k: Buffer,
    v: Buffer,
    o: Buffer,
}

impl Set {
    fn new(shape: Shape, device: &dyn Device, seed: u64, set: u64) -> Result<Self> {
        let [q, k, v, o] = shape.elements();
        let fill = |operand: u64, dtype: Dtype, n: u64| random(device, encoding(dtype, device), seed_of(seed, set, operand), n);
        let made = Self {
            q: fill(0, shape.dtype, q)?,
            k: fill(1, shape.kv, k)?,
            v: fill(2, shape.kv, v.max(1))?,
            o: device.alloc(shape.output().bytes(o).0 as usize)?,
        };
        made.poison_spare(shape, device)?;
        Ok(made)
    }

    /// Pages that nobody uses hold NaN, so that one which is read by mistake shows.
    fn poison_spare(&self, shape: Shape, device: &dyn Device) -> Result<()> {
        let (dtype, nan) = (encoding(shape.kv, device), nan(shape, device));
        for (buffer, columns) in [(&self.k, shape.dqk), (&self.v, if shape.kind == Kind::MlaDecode { 0 } else { shape.dv })] {
            let page = dtype.bytes(shape.page.unwrap_or(0) * shape.hkv * columns).0 as usize;
            let poison = vec![nan; page];
            spare(shape).into_iter().try_for_each(|p| device.upload(buffer, p as usize * page, &poison))?;
        }
        Ok(())
    }
}

/// What stands around the tensors, where a shape has it: the same for all sets.
struct Around {
    lengths: Option<Buffer>,
    pages: Option<Buffer>,
    sinks: Option<Buffer>,
    scales: Option<Buffer>,
}

impl Around {
    fn new(shape: Shape, device: &dyn Device, seed: u64) -> Result<Self> {
        let numbers = |wanted: bool, numbers: &dyn Fn() -> Vec<[u8; 4]>| {
            let bytes = if wanted { numbers().concat() } else { return Ok(None) };
            let buffer = device.alloc(bytes.len())?;
            device.upload(&buffer, 0, &bytes)?;
            Ok::<_, DeviceError>(Some(buffer))
        };
        Ok(Self {
            lengths: numbers(shape.ragged, &|| (0..shape.b).map(|b| (shape.length(b) as u32).to_le_bytes()).collect())?,
            pages: numbers(shape.page.is_some(), &|| table(shape).into_iter().map(u32::to_le_bytes).collect())?,
            sinks: numbers(shape.sinks, &|| sinks(shape, seed_of_sinks(seed)).into_iter().map(f32::to_le_bytes).collect())?,
            scales: numbers(shape.narrow(), &|| scales(shape).map(f32::to_le_bytes).to_vec())?,
        })
    }

    /// All operands of a pass.
    fn with<'a>(&'a self, Set { q, k, v, o }: &'a Set) -> AttentionOperands<'a> {
        AttentionOperands {
            lengths: self.lengths.as_ref(),
            pages: self.pages.as_ref(),
            sinks: self.sinks.as_ref(),
            scales: self.scales.as_ref(),
            ..AttentionOperands::new(q, k, v, o)
        }
    }
}

struct Run<'d> {
    device: &'d dyn Device,
    shape: Shape,
    plan: Box<dyn AttentionPlan + 'd>,
    sets: Vec<Set>,
    around: Around,
    seed: u64,
    reference: Option<Reference>,
}

impl Run<'_> {
    /// Times a library's engines, or a kernel's numbers of splits, and keeps the fastest. The least time of each; none of one that
    /// failed, which is passed over.
    fn tune(&mut self) -> Result<Vec<Option<Seconds>>> {
        let (candidates, sets, device) = (self.plan.candidates(), self.sets.len(), self.device);
        if candidates < 2 {
            return Ok(Vec::new());
        }
        let mut tried: Vec<Option<Seconds>> = vec![None; candidates];
        let (mut bound, mut turn) = (f64::INFINITY, 0);
        for round in 0..TRIALS {
            let open = |least: &Option<Seconds>| least.map_or(round == 0, |least| least.0 <= bound);
            for (index, least) in tried.iter_mut().enumerate().filter(|(_, least)| open(least)) {
                self.plan.select(index)?;
                // The next set each time: one that was used a moment ago is in a cache.
                let mut run = |_| {
                    turn += 1;
                    self.enqueue(turn % sets)
                };
                match trial(device, &mut run) {
                    Ok(seconds) => *least = Some(least.map_or(seconds, |least| if seconds < least { seconds } else { least })),
                    Err(error @ DeviceError::Lost(_)) => return Err(error),
                    Err(_) => *least = None,
                }
            }
            // What was far behind is not tried again.
            bound = FAR * tried.iter().flatten().map(|seconds| seconds.0).fold(f64::INFINITY, f64::min);
        }
        let timed = tried.iter().enumerate().filter_map(|(index, seconds)| Some((index, (*seconds)?)));
        let fastest = timed.min_by(|(_, a), (_, b)| a.0.total_cmp(&b.0));
        let (index, _) = fastest.ok_or_else(|| DeviceError::unsupported("none of its ways ran"))?;
        self.plan.select(index)?;
        Ok(tried)
    }

    /// The reference of the first operand set, made once, after its buffers were found to hold what the stream says.
    fn reference(&mut self) -> Result<&Reference> {
        if self.reference.is_none() {
            let shape = self.shape;
            let seeds = [seed_of(self.seed, 0, 0), seed_of(self.seed, 0, 1), seed_of(self.seed, 0, 2), seed_of_sinks(self.seed)];
            let operands = Operands::new(shape, seeds, [shape.dtype, shape.kv].map(|d| encoding(d, self.device)));
            self.probe(&operands)?;
            self.reference = Some(Reference::new(shape, &operands));
        }
        self.reference.as_ref().ok_or_else(|| DeviceError::invalid("there is no reference"))
    }

    /// Compares a few elements of each operand with what the counter makes of them: a fill that went wrong would make any
    /// output right, or none.
    fn probe(&self, operands: &Operands) -> Result<()> {
        let (s, set) = (self.shape, &self.sets[0]);
        let row = |i: u64| {
            let (b, h) = (data::hash(31, i) % s.b, data::hash(37, i) % s.hkv);
            // Of a sequence without keys nothing lies anywhere: the first one's instead.
            let b = if s.length(b) == 0 { 0 } else { b };
            operands.layout.row(b, h, data::hash(41, i) % s.length(b))
        };
        let query = |i: u64| data::hash(43, i) % (s.b * s.hq * s.sq);
        type Rows<'a> = &'a dyn Fn(u64) -> u64;
        let tensors: [(&Buffer, &Operand, u64, Rows<'_>); 3] =
            [(&set.q, &operands.q, s.dqk, &query), (&set.k, &operands.k, s.dqk, &row), (&set.v, &operands.v, s.dv, &row)];
        for (buffer, operand, columns, row) in tensors.into_iter().take(if s.kind == Kind::MlaDecode { 2 } else { 3 }) {
            let mut element = vec![0u8; operand.dtype.element_bytes().unwrap_or(4)];
            for i in (0..64).map(|n| row(n) * columns + data::hash(17, n) % columns) {
                self.device.download(buffer, i as usize * element.len(), &mut element)?;
                let (got, want) = (operand.dtype.read(&element), operand.stored(i));
                if got != want {
                    return Err(DeviceError::invalid(format!(
                        "operand element {i} is {got} and should be {want}: the fill kernel is wrong"
                    )));
                }
            }
        }
        Ok(())
    }
}

impl Ready for Run<'_> {
    fn turns(&self) -> usize {
        self.sets.len()
    }

    fn cold_by_itself(&self) -> bool {
        moved(self.shape).0 > 2 * self.device.info().last_level_cache().0
    }

    fn enqueue(&mut self, turn: usize) -> Result<()> {
        self.plan.enqueue(&self.around.with(&self.sets[turn]))
    }

    fn poison(&mut self) -> Result<()> {
        self.sets.iter().try_for_each(|set| self.device.fill(&set.o, 0xff))
    }

    fn check(&mut self) -> Result<Verification> {
        let shape = self.shape;
        let mut total = Comparison::new(tolerance(shape.dtype));
        self.reference()?;
        for (index, set) in self.sets.iter().enumerate() {
            let mut out = vec![0u8; set.o.len()];
            self.device.download(&set.o, 0, &mut out)?;
            scan(shape, &out, &mut total);
            if let (0, Some(reference)) = (index, &self.reference) {
                reference.check(shape, &out, &mut total);
            }
        }
        Ok(finish(self.reference()?, total))
    }
}

#[cfg(test)]
mod conformance;
