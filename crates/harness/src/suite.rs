//! What a suite must say of itself, and the one function that turns a case into a record.

use crate::{Bench, Policy, Profile, Refused};
use ridgepoint_core::record::{Soak, Tuning};
use ridgepoint_core::{Backend, Bytes, Case, Component, DeviceInfo, Dtype, Outcome, Record, Verification};
use ridgepoint_device::{Buffer, Device, DeviceError, Result, Timing};
use std::collections::BTreeMap;

/// The kind of device that cases are sized for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A CPU.
    Cpu,
    /// A GPU emulated on a CPU.
    SoftwareGpu,
    /// A GPU.
    Gpu,
}

/// What a list of cases depends on besides the suite: no device is needed to make one.
#[derive(Clone, Debug, PartialEq)]
pub struct Scope {
    /// How much time there is.
    pub profile: Profile,
    /// What the sizes are for.
    pub class: Class,
    /// Device memory; cases that need more than half of it are left out.
    pub memory: Bytes,
    /// Total of the largest cache.
    pub last_level_cache: Bytes,
    /// Cores, compute units or streaming multiprocessors that share the work: each has a cache of its own.
    pub units: u32,
    /// Ranks that collectives can use.
    pub ranks: usize,
    /// Devices of the same backend, and which of them this one is.
    pub devices: usize,
    /// See [`Scope::devices`].
    pub index: usize,
    /// NUMA nodes of the host that have memory.
    pub nodes: Vec<usize>,
}

impl Scope {
    /// The scope of a device.
    #[must_use]
    pub fn of(info: &DeviceInfo, profile: Profile, ranks: usize) -> Self {
        let class = match (info.backend, info.software) {
            (_, true) => Class::SoftwareGpu,
            (Backend::Cpu, _) => Class::Cpu,
            // The fake device's own model is small; give it a CPU's sizes.
            (Backend::Fake, _) => Class::Cpu,
            _ => Class::Gpu,
        };
        let index = info.id.split_once(':').and_then(|(_, index)| index.parse().ok()).unwrap_or(0);
        Self {
            profile,
            class,
            memory: info.memory,
            last_level_cache: info.last_level_cache(),
            units: info.units.max(1),
            ranks,
            devices: 1,
            index,
            nodes: vec![0],
        }
    }

    /// The scope of an open device, with the devices beside it and the host's memory nodes.
    #[must_use]
    pub fn on(device: &dyn Device, profile: Profile) -> Self {
        let ranks = device.collectives().map_or(1, |c| c.max_ranks());
        Self { devices: device.siblings(), nodes: ridgepoint_device::nodes(), ..Self::of(device.info(), profile, ranks) }
    }

    /// A typical device of `class`, for listing where there is none.
    #[must_use]
    pub fn typical(class: Class, profile: Profile) -> Self {
        let (memory, last_level_cache, units, ranks, devices, nodes) = match class {
            Class::Cpu | Class::SoftwareGpu => (Bytes::mib(16 << 10), Bytes::mib(32), 2, 2, 1, vec![0]),
            Class::Gpu => (Bytes::mib(80 << 10), Bytes::mib(50), 132, 8, 8, vec![0, 1]),
        };
        Self { profile, class, memory, last_level_cache, units, ranks, devices, index: 0, nodes }
    }
}

/// A component's benchmark: its cases and how each is made ready on a device.
pub trait Suite: Sync {
    /// The component it measures.
    fn component(&self) -> Component;

    /// The cases of a scope, in the order in which they run. Pure.
    fn cases(&self, scope: &Scope) -> Vec<Case>;

    /// The case with this id, listed or not: any well-formed id can be run. None for an id of another suite or grammar.
    fn parse(&self, id: &str) -> Option<Case>;

    /// Who can do this case on this device, the expected best first; never empty. A provider that turns out unable is
    /// Skipped with its reason when it is prepared.
    fn providers(&self, case: &Case, device: &dyn Device) -> Vec<String>;

    /// Allocates operands, compiles, plans, tunes. Fast enough not to need progress of its own.
    ///
    /// # Errors
    /// `Unsupported` becomes Skipped with its reason; all else becomes Failed.
    fn prepare<'d>(&self, case: &Case, provider: &str, device: &'d dyn Device, seed: u64) -> Result<Prepared<'d>>;
}

/// A case that is ready to run, with what must be recorded about how.
pub struct Prepared<'d> {
    /// The work.
    pub ready: Box<dyn Ready + 'd>,
    /// Tunables chosen, algorithm, engine id, threads.
    pub config: BTreeMap<String, String>,
    /// Words a reader must see beside the number.
    pub labels: Vec<String>,
    /// The dtype as encoded on this device.
    pub dtype: Dtype,
}

/// Work that can be repeated.
pub trait Ready {
    /// Operand sets that `enqueue` can rotate over; for a cold case they exceed twice the last-level cache together, or the
    /// harness evicts between executions. At least 1.
    fn turns(&self) -> usize {
        1
    }

    /// True if one execution by itself moves more than twice the last-level cache, so that it is cold by construction.
    fn cold_by_itself(&self) -> bool {
        false
    }

    /// How often one `enqueue` does the case's work: more than once where a pass is too short to launch by itself.
    fn passes(&self) -> u64 {
        1
    }

    /// A user wants this many executions timed, and no more: passes that do not divide them are made fewer.
    fn count(&mut self, _executions: u64) {}

    /// Enqueues one execution over operand set `turn` (below [`Ready::turns`]).
    ///
    /// # Errors
    /// A device error; it ends this case alone.
    fn enqueue(&mut self, turn: usize) -> Result<()>;

    /// The outputs of operand set `turn`, for whoever compares them on the device with a copy of verified ones; empty where they
    /// are not to be compared so. Words that an execution does not write must not change.
    fn outputs(&self, _turn: usize) -> Vec<Buffer> {
        Vec::new()
    }

    /// Overwrites every output with poison, so that an element left out is seen.
    ///
    /// # Errors
    /// A device error.
    fn poison(&mut self) -> Result<()>;

    /// Checks the outputs of all turns against the reference.
    ///
    /// # Errors
    /// A device error; a wrong result is no error but a [`Verification`] that did not pass.
    fn check(&mut self) -> Result<Verification>;

    /// How the provider's algorithm was chosen; None where there was no choice.
    fn tuning(&self) -> Option<Tuning> {
        None
    }

    /// What only the timed runs could tell, such as which rank was slow: goes into the record beside the configuration.
    fn observed(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    /// Words that only the timed runs could tell, and that a reader must see beside the number: go to the labels.
    fn remarks(&self) -> Vec<String> {
        Vec::new()
    }

    /// Runs and times `n` executions from turn `first` on by itself (ranks in other processes, launches as such); None to be
    /// timed by the harness, as nearly all are.
    ///
    /// # Errors
    /// A device error.
    fn run_timed(&mut self, _first: usize, _n: u64) -> Option<Result<Timing>> {
        None
    }

    /// True where what [`Ready::run_timed`] times is the replay of a graph.
    fn replays(&self) -> bool {
        false
    }
}

/// Measures one case with one provider, from nothing to a record. Never panics on a device's failure: what went wrong is
/// the record.
pub fn measure(suite: &dyn Suite, case: &Case, provider: &str, device: &dyn Device, policy: &Policy, seed: u64) -> Measured {
    measure_after(&|| {}, suite, case, provider, device, (policy, seed))
}

/// As [`measure`], with a `gate` that is passed once, between what makes the case ready and its timed runs: where devices that
/// measure at the same moment wait for each other. A case that does not come to its timed runs never passes it.
pub fn measure_after(
    gate: &dyn Fn(),
    suite: &dyn Suite,
    case: &Case,
    provider: &str,
    device: &dyn Device,
    how: (&Policy, u64),
) -> Measured {
    let mut measured = Measured::of(case);
    let outcome = attempt(gate, suite, case, provider, device, how, &mut measured);
    measured.ended(outcome)
}

/// What [`measure`] found, to be completed to a [`Record`] by whoever knows the environment and the time of day.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    pub(crate) config: BTreeMap<String, String>,
    pub(crate) labels: Vec<String>,
    pub(crate) dtype: Dtype,
    pub(crate) tuning: Option<Box<Tuning>>,
    pub(crate) soak: Option<Box<Soak>>,
    /// What came of it.
    pub outcome: Outcome,
    /// The device is gone and must be opened anew before the next case.
    pub lost: bool,
}

impl Measured {
    /// Nothing yet.
    pub(crate) fn of(case: &Case) -> Self {
        Self {
            config: BTreeMap::new(),
            labels: Vec::new(),
            dtype: case.dtype,
            tuning: None,
            soak: None,
            outcome: Outcome::Skipped { reason: String::new() },
            lost: false,
        }
    }

    /// Takes over what is to be recorded about how a case was made ready.
    pub(crate) fn take(&mut self, prepared: &mut Prepared<'_>) {
        self.config = std::mem::take(&mut prepared.config);
        self.labels = std::mem::take(&mut prepared.labels);
        self.dtype = prepared.dtype;
        self.tuning = prepared.ready.tuning().map(Box::new);
    }

    /// With what came of it: what a device cannot do is skipped, any other error is a failure.
    pub(crate) fn ended<E: Into<Refused>>(self, outcome: std::result::Result<Outcome, E>) -> Self {
        match outcome.map_err(Into::into) {
            Ok(outcome) => Self { outcome, ..self },
            Err(refused) => {
                let lost = matches!(refused, Refused::Error(DeviceError::Lost(_)));
                Self { outcome: refused.into(), lost, ..self }
            }
        }
    }

    /// The record of it.
    #[must_use]
    pub fn record(self, case: &Case, provider: &str, device: &DeviceInfo, environment: &str, started: String) -> Record {
        let mut labels = self.labels;
        if device.software {
            labels.insert(0, if device.backend == Backend::Vulkan { "software Vulkan" } else { "software device" }.into());
        }
        Record {
            environment: environment.into(),
            device: device.id.clone(),
            case: case.id.clone(),
            component: case.component,
            provider: provider.into(),
            dtype: self.dtype,
            metric: case.metric,
            level: case.level,
            work: case.work,
            cache: case.cache,
            data: case.data,
            config: self.config,
            labels,
            started,
            tuning: self.tuning,
            soak: self.soak,
            outcome: self.outcome,
        }
    }
}

fn attempt(
    gate: &dyn Fn(),
    suite: &dyn Suite,
    case: &Case,
    provider: &str,
    device: &dyn Device,
    (policy, seed): (&Policy, u64),
    measured: &mut Measured,
) -> std::result::Result<Outcome, Refused> {
    let mut prepared = suite.prepare(case, provider, device, seed)?;
    measured.take(&mut prepared);
    // Correct before fast; and the timed runs themselves must leave correct outputs behind.
    let mut bench = Bench::prove(prepared, case.cache, device, policy)?;
    gate();
    let (samples, telemetry) = bench.sample()?;
    measured.config.extend(bench.observed());
    measured.labels.extend(bench.remarks());
    let verification = bench.verify()?;
    if !verification.passed() {
        return Err(Refused::Wrong(verification));
    }
    Ok(Outcome::Measured { samples, verification, telemetry })
}
