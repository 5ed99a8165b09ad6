//! A grouped product made ready: A, B and C of all experts in one buffer each, and each expert's part of them checked as the plain
//! product that it is.

use super::{Group, Grouped, looped};
use crate::check::{Found, Reference, check};
use crate::operands::{Operands, Seeds};
use crate::tile;
use ridgepoint_core::{Bytes, Dtype, Verification, data};
use ridgepoint_device::{Buffer, Device, DeviceError, GemmPlan, GemmProblem, Result, Support};
use ridgepoint_harness::{Prepared, Ready, encoding, operand_sets_or_two, random};
use std::collections::BTreeMap;

/// All experts' operands, and each group's part of them.
struct Set {
    whole: Operands,
    parts: Vec<Operands>,
}

impl Set {
    fn fill(device: &dyn Device, shape: Grouped, input: Dtype, groups: &[Group], seed: u64, set: u64) -> Result<Self> {
        let Grouped { experts, m, n, k, .. } = shape;
        let [seed_a, seed_b] = Seeds::of(seed, set).elements;
        let output = shape.product(1).output;
        let a = random(device, input, seed_a, m * k)?;
        let b = random(device, input, seed_b, experts * n * k)?;
        let c = device.alloc(output.bytes(m * n).0 as usize)?;
        let part = |of: &Buffer, dtype: Dtype, first: u64, elements: u64| {
            let part = of.part(dtype.bytes(first).0 as usize, dtype.bytes(elements).0 as usize);
            part.ok_or_else(|| DeviceError::unsupported("this device's buffers have no parts"))
        };
        let parts = groups.iter().map(|g| {
            Ok(Operands::new(
                part(&a, input, g.row * k, g.rows * k)?,
                part(&b, input, g.expert * n * k, n * k)?,
                part(&c, output, g.row * n, g.rows * n)?,
            ))
        });
        let parts = parts.collect::<Result<_>>()?;
        Ok(Self { whole: Operands::new(a, b, c), parts })
    }
}

/// How it is done.
enum Plan<'d> {
    /// By one launch over all groups.
    One(Box<dyn GemmPlan + 'd>),
    /// By a product a group; equally many rows have the same plan.
    Loop(BTreeMap<u64, Box<dyn GemmPlan + 'd>>),
}

impl Plan<'_> {
    fn first(&self) -> Option<&dyn GemmPlan> {
        match self {
            Self::One(plan) => Some(plan.as_ref()),
            Self::Loop(plans) => Some(plans.values().next()?.as_ref()),
        }
    }
}

pub(crate) fn prepare<'d>(shape: Grouped, provider: &str, device: &'d dyn Device, seed: u64) -> Result<Prepared<'d>> {
    let groups = shape.groups();
    let input = encoding(shape.dtype, device);
    let mut config = BTreeMap::new();
    let library = device.blas().into_iter().find(|b| looped(*b) == provider);
    let plan = if let Some(blas) = library {
        let mut plans: BTreeMap<u64, Box<dyn GemmPlan + 'd>> = BTreeMap::new();
        for rows in groups.iter().map(|g| g.rows) {
            if let std::collections::btree_map::Entry::Vacant(entry) = plans.entry(rows) {
                let product = shape.product(rows);
                let problem = GemmProblem::new(rows as usize, product.n as usize, product.k as usize, input, product.output);
                entry.insert(blas.plan(&problem)?);
            }
        }
        config.insert("groups".into(), format!("one product after the other, {} plans", plans.len()));
        if let Some(library) = blas.library() {
            config.insert("library".into(), format!("{} {}", library.name, library.version));
        }
        Plan::Loop(plans)
    } else if provider == tile::PROVIDER {
        config.insert("groups".into(), "one launch, offsets on the device".into());
        Plan::One(Box::new(tile::grouped(device, &shape.offsets(), shape.product(1))?))
    } else {
        return Err(DeviceError::unsupported(format!("nothing here does grouped products on {}", device.info().id)));
    };
    let (operands, memory) = (shape.operands(), device.info().memory.0);
    if 2 * operands > memory / 10 * 9 {
        let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
        let reason = format!("two sets of operands take {:.1} GiB of {:.1} GiB", gib(2 * operands), gib(memory));
        return Err(DeviceError::unsupported(reason));
    }
    let sets = operand_sets_or_two(device.info(), Bytes(shape.moved(groups.len() as u64)), Bytes(operands));
    let sets = (0..sets).map(|set| Set::fill(device, shape, input, &groups, seed, set)).collect::<Result<Vec<_>>>()?;
    device.synchronize()?;
    let rows = groups.iter().map(|g| g.rows);
    config.insert(
        "experts with rows".into(),
        format!("{} of {}, {} to {} rows", groups.len(), shape.experts, rows.clone().min().unwrap_or(0), rows.max().unwrap_or(0)),
    );
    config.insert("operand sets".into(), sets.len().to_string());
    let first = plan.first();
    config.extend(first.map(GemmPlan::config).unwrap_or_default());
    let labels = if first.is_some_and(|p| p.support() == Support::Emulated) { vec!["emulated".into()] } else { vec![] };
    let ready = Run { device, shape, input, groups, plan, sets, seed, references: Vec::new() };
    Ok(Prepared { ready: Box::new(ready), config, labels, dtype: input })
}

struct Run<'d> {
    device: &'d dyn Device,
    shape: Grouped,
    input: Dtype,
    groups: Vec<Group>,
    plan: Plan<'d>,
    sets: Vec<Set>,
    seed: u64,
    /// One a group, of the first set.
    references: Vec<Reference>,
}

impl Run<'_> {
    /// The reference of one group: its elements are a part of the streams of all.
    fn reference(&self, group: &Group, operands: &Operands) -> Result<Reference> {
        let Grouped { n, k, .. } = self.shape;
        let read = |buffer: &Buffer| -> Result<Vec<u8>> {
            let mut bytes = vec![0; buffer.len()];
            self.device.download(buffer, 0, &mut bytes)?;
            Ok(bytes)
        };
        let whole = Seeds::of(self.seed, 0);
        let [a, b] = whole.elements;
        let seeds = Seeds { elements: [data::shifted(a, group.row * k), data::shifted(b, group.expert * n * k)], ..whole };
        let found = |elements: &Buffer| -> Result<Found> {
            Ok(Found { dtype: self.input, elements: read(elements)?, scales: None, factor: operands.factor })
        };
        Reference::new(self.shape.product(group.rows), &found(&operands.a)?, &found(&operands.b)?, seeds)
    }
}

impl Ready for Run<'_> {
    fn turns(&self) -> usize {
        self.sets.len()
    }

    fn enqueue(&mut self, turn: usize) -> Result<()> {
        let set = &self.sets[turn];
        match &self.plan {
            Plan::One(plan) => plan.enqueue(&set.whole.of()),
            Plan::Loop(plans) => {
                let parts = self.groups.iter().zip(&set.parts);
                parts.filter_map(|(g, part)| Some(plans.get(&g.rows)?.enqueue(&part.of()))).collect()
            }
        }
    }

    fn outputs(&self, turn: usize) -> Vec<Buffer> {
        vec![self.sets[turn].whole.c.clone()]
    }

    fn poison(&mut self) -> Result<()> {
        self.sets.iter().try_for_each(|set| self.device.fill(&set.whole.c, 0xff))
    }

    /// Each group as a plain product: the first set against references, every set scanned for poison.
    fn check(&mut self) -> Result<Verification> {
        if self.references.is_empty() {
            let parts = self.groups.iter().zip(&self.sets[0].parts);
            self.references = parts.map(|(group, part)| self.reference(group, part)).collect::<Result<_>>()?;
        }
        let fast = self.plan.first().is_some_and(GemmPlan::fast_accumulation);
        let mut all: Option<Verification> = None;
        for (at, (group, reference)) in self.groups.iter().zip(&self.references).enumerate() {
            let operands: Vec<Operands> = self.sets.iter().map(|set| set.parts[at].clone()).collect();
            let one = check(self.device, self.shape.product(group.rows), fast, reference, &operands)?;
            all = Some(match all {
                None => one,
                Some(all) => both(all, one),
            });
        }
        all.ok_or_else(|| DeviceError::invalid("a grouped product without groups"))
    }
}

/// What two checks say together; a NaN stays one.
fn both(a: Verification, b: Verification) -> Verification {
    let error = if a.error.is_nan() || a.error > b.error { a.error } else { b.error };
    Verification {
        method: a.method,
        error,
        tolerance: a.tolerance.max(b.tolerance),
        checked: a.checked + b.checked,
        wrong: a.wrong + b.wrong,
    }
}
