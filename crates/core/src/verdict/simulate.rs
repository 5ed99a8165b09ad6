//! Fleets that do not exist: records of nodes with faults that are known, so that recall and false alarms can be counted.
//! Seeded; the same seed gives the same fleet. Every record of one says `simulated` in its labels.
//!
//! The noise follows what was observed (docs/evidence/fleet.md has the table): memory figures of one GPU repeat to 0.1 %, those of
//! power-limited GEMM and attention to about 1.5 % with a tail to 9 %; GPUs of a model differ by about 1 %, and a node's GPUs
//! share its cooling.

use crate::case::{Cache, CaseId, Component, Distribution, Level, Metric, Work};
use crate::data;
use crate::record::{
    Clock, Environment, METHOD_VERSION, Outcome, Range, Record, SCHEMA_VERSION, Samples, Stop, Telemetry, Verification,
};
use crate::verdict::{Gpu, Inventory, PcieLink};
use crate::{Backend, Bytes, DeviceInfo, Dtype, Flops, Seconds};
use std::collections::BTreeMap;

/// What is wrong with a node's GPU, or with the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Nothing.
    None,
    /// The GPU's memory is slow by the fault's size.
    SlowMemory,
    /// The GPU's core clock is held down by the fault's size, and it says so.
    Throttled,
    /// The same, and nothing says so.
    SlowClock,
    /// One link of the GPU is slow: collectives of the node lose the fault's size.
    WeakLink,
    /// A case computes wrong.
    WrongResults,
    /// A GPU is not there.
    MissingGpu,
}

impl Fault {
    /// All faults.
    pub const ALL: [Self; 6] =
        [Self::SlowMemory, Self::Throttled, Self::SlowClock, Self::WeakLink, Self::WrongResults, Self::MissingGpu];

    /// The name, as `simulate --fault` takes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::SlowMemory => "slow-memory",
            Self::Throttled => "throttled",
            Self::SlowClock => "slow-clock",
            Self::WeakLink => "weak-link",
            Self::WrongResults => "wrong-results",
            Self::MissingGpu => "missing-gpu",
        }
    }

    /// True where a fault has a size.
    #[must_use]
    pub const fn has_size(self) -> bool {
        matches!(self, Self::SlowMemory | Self::Throttled | Self::SlowClock | Self::WeakLink)
    }
}

/// A fleet to simulate.
#[derive(Clone, Debug)]
pub struct Simulation {
    /// Seed of everything random.
    pub seed: u64,
    /// Nodes.
    pub nodes: u32,
    /// GPUs a node.
    pub gpus: u32,
    /// The fault that the faulty nodes have.
    pub fault: Fault,
    /// Its size in percent.
    pub size_pct: f64,
    /// Every so many-th node is faulty; 0 for none.
    pub every: u32,
    /// This part of the nodes has another driver, with which GEMM is so many percent slower; (0, 0) for one group.
    pub second_group: (f64, f64),
}

/// The driver's name for the simulated GPU.
const MODEL: &str = "NVIDIA H100 80GB HBM3";

/// A simulated case: its id, figure and how it behaves.
struct Shape {
    case: CaseId,
    component: Component,
    dtype: Dtype,
    metric: Metric,
    level: Level,
    work: Work,
    provider: &'static str,
    /// What a good GPU shows: GB/s, TFLOP/s or ns.
    usual: f64,
}

/// Random numbers of one purpose: the counter-based stream that the kernels' inputs come from.
struct Dice {
    seed: u64,
    next: u64,
}

impl Dice {
    fn new(seed: u64, parts: [u64; 3]) -> Self {
        let mixed = parts
            .into_iter()
            .fold(seed, |s, p| (s ^ p.wrapping_mul(0x9e37_79b9_7f4a_7c15)).rotate_left(29).wrapping_mul(0xbf58_476d_1ce4_e5b9));
        Self { seed: mixed, next: 0 }
    }

    /// Standard normal.
    fn normal(&mut self) -> f64 {
        self.next += 1;
        f64::from(data::normal(self.seed, self.next))
    }

    /// Student's t with 3 degrees of freedom, scaled to a median absolute value like the normal's, cut at 8: the heavy tail. Of
    /// the scale 1.5 % that GEMM has here, one figure in a hundred lies 6 % off, one in five hundred 10 %, none above 12 %.
    fn heavy(&mut self) -> f64 {
        let n = self.normal();
        let chi: f64 = (0..3).map(|_| self.normal().powi(2)).sum();
        (n / (chi / 3.0).sqrt() * 0.88).clamp(-8.0, 8.0)
    }
}

impl Simulation {
    /// The fault of node `n`.
    #[must_use]
    pub fn fault_of(&self, n: u32) -> Fault {
        if self.every > 0 && n % self.every == self.every / 2 { self.fault } else { Fault::None }
    }

    /// The index of the GPU at fault in node `n`.
    #[must_use]
    pub fn bad_gpu(&self, n: u32) -> u32 {
        (Dice::new(self.seed, [1, n.into(), 0]).normal().abs() * 1e6) as u32 % self.gpus
    }

    /// The name of node `n`.
    #[must_use]
    pub fn name(n: u32) -> String {
        format!("sim-{n:05}")
    }

    /// The environment and the records of node `n`.
    #[must_use]
    pub fn node(&self, n: u32) -> (Environment, Vec<Record>) {
        let environment = self.environment(n);
        let mut dice = Dice::new(self.seed, [2, n.into(), 0]);
        let fault = self.fault_of(n);
        let size = self.size_pct / 100.0;
        let slow_driver = self.in_second_group(n);
        // Cooling and power of the node: shared by its GPUs, felt where power limits.
        let node_compute = 1.0 + 0.005 * dice.normal();
        let node_links = 1.0 + 0.006 * dice.normal();
        let mut records = Vec::new();
        let shapes = shapes();
        for gpu in 0..self.gpus {
            let mut dice = Dice::new(self.seed, [3, n.into(), gpu.into()]);
            let compute = node_compute * (1.0 + 0.009 * dice.normal() + 0.002 * dice.heavy());
            let memory = 1.0 + 0.004 * dice.normal() + 0.001 * dice.heavy();
            let bad = gpu == self.bad_gpu(n);
            if bad && fault == Fault::MissingGpu {
                continue;
            }
            let clock_loss = if bad && matches!(fault, Fault::Throttled | Fault::SlowClock) { size } else { 0.0 };
            let memory_loss = if bad && fault == Fault::SlowMemory { size } else { 0.0 };
            for shape in shapes.iter().filter(|s| s.component != Component::Collectives || gpu == 0) {
                let link_loss = if fault == Fault::WeakLink { size } else { 0.0 };
                let factor = match (shape.component, shape.metric) {
                    (Component::Memory, Metric::Latency) => (1.0 + 0.008 * dice.normal()) * (1.0 + clock_loss * 0.5),
                    (Component::Memory, _) => memory * (1.0 + 0.001 * dice.heavy()) * (1.0 - memory_loss),
                    (Component::Collectives, _) => node_links * (1.0 + 0.006 * dice.heavy()) * (1.0 - link_loss),
                    // A fault that halves nothing else: decode is bound by memory, prefill and GEMM by the clock.
                    (Component::Attention, Metric::Bandwidth) => memory * (1.0 + 0.004 * dice.heavy()) * (1.0 - memory_loss),
                    _ => compute * (1.0 + 0.015 * dice.heavy()) * (1.0 - clock_loss),
                };
                let group =
                    if slow_driver && shape.component == Component::Gemm { 1.0 - self.second_group.1 / 100.0 } else { 1.0 };
                let figure = shape.usual * factor * group;
                let wrong = bad && fault == Fault::WrongResults && shape.case.as_str() == "gemm/m8192n8192k8192/bf16";
                let throttled = bad && fault == Fault::Throttled && shape.component != Component::Memory;
                let context = Context { environment: &environment, gpu, figure, wrong, throttled };
                records.push(record(shape, &context, &mut dice));
            }
        }
        (environment, records)
    }

    fn in_second_group(&self, n: u32) -> bool {
        f64::from(n % 1000) < self.second_group.0 * 1000.0
    }

    fn environment(&self, n: u32) -> Environment {
        let driver = if self.in_second_group(n) { "575.57.08 (CUDA 12.9)" } else { "580.95.05 (CUDA 13.0)" };
        let gone = (self.fault_of(n) == Fault::MissingGpu).then(|| self.bad_gpu(n));
        let present: Vec<u32> = (0..self.gpus).filter(|g| Some(*g) != gone).collect();
        let uuid = |g: u32| format!("GPU-{:08x}-0000-4000-8000-{:012x}", self.seed as u32, u64::from(n) * 16 + u64::from(g));
        let pci = |g: u32| format!("0000:{:02x}:00.0", 0x18 + 0x11 * g);
        let devices = present.iter().map(|g| DeviceInfo {
            id: format!("cuda:{g}"),
            backend: Backend::Cuda,
            vendor: "NVIDIA".into(),
            name: MODEL.into(),
            arch: "sm_90a".into(),
            uuid: Some(uuid(*g)),
            pci: Some(pci(*g)),
            units: 132,
            max_clock_mhz: Some(1980.0),
            memory: Bytes(85_017_493_504),
            driver: driver.into(),
            ..DeviceInfo::nameless()
        });
        let gpus = present.iter().map(|g| Gpu {
            device: format!("cuda:{g}"),
            name: MODEL.into(),
            uuid: Some(uuid(*g)),
            pci: Some(pci(*g)),
            memory: Some(Bytes(85_017_493_504)),
            ecc: Some(true),
            links_up: Some(18),
            pcie: Some(PcieLink { generation: 5, width: 16 }),
            pcie_max: Some(PcieLink { generation: 5, width: 16 }),
            driver: Some(driver.into()),
            ..Gpu::default()
        });
        Environment {
            schema: SCHEMA_VERSION,
            hash: String::new(),
            version: env!("CARGO_PKG_VERSION").into(),
            method: METHOD_VERSION,
            host: Self::name(n),
            os: "simulated".into(),
            cpu: "simulated".into(),
            governor: None,
            command: vec!["ridgepoint".into(), "simulate".into()],
            profile: "standard".into(),
            seed: self.seed,
            started: "2026-11-24T00:00:00Z".into(),
            devices: devices.collect(),
            facts: BTreeMap::from([("simulated".into(), "yes".into())]),
            inventory: Some(Box::new(Inventory { gpus: gpus.collect(), ..Inventory::default() })),
            passes: Vec::new(),
        }
        .hashed()
    }
}

/// What a record is made for.
struct Context<'c> {
    environment: &'c Environment,
    gpu: u32,
    figure: f64,
    wrong: bool,
    throttled: bool,
}

fn record(shape: &Shape, c: &Context<'_>, dice: &mut Dice) -> Record {
    let seconds = match shape.metric {
        Metric::Arithmetic => shape.work.flops.0 as f64 / (c.figure * 1e12),
        Metric::Latency => c.figure * 1e-9 * shape.work.steps.max(1) as f64,
        _ => shape.work.bytes.0 as f64 * shape.work.bus_factor.unwrap_or(1.0) / (c.figure * 1e9),
    };
    let verification = Verification {
        method: "simulated".into(),
        error: if c.wrong { 1.0 } else { 0.001 },
        tolerance: 0.01,
        checked: 1 << 20,
        wrong: if c.wrong { 17 } else { 0 },
    };
    let outcome = if c.wrong {
        Outcome::Wrong { verification }
    } else {
        let n = 10;
        let samples = Samples {
            seconds: (0..n).map(|_| Seconds(seconds * (1.0 + 0.001 * dice.normal()))).collect(),
            batch: 6,
            clock: Clock::Device,
            warmup: Seconds(0.03),
            steady: true,
            stop: Stop::Converged,
            graph: false,
            observed_mhz: vec![if c.throttled { 1755.0 } else { 1980.0 }],
            throttled: if c.throttled { (0..n).collect() } else { vec![] },
        };
        let range = |x: f64| Range { min: x, median: x, max: x };
        let sensors = [
            ("sm_clock_mhz", 1980.0),
            ("mem_clock_mhz", 2619.0),
            ("power_w", 512.0),
            ("temperature_c", 55.0),
            ("memory_temperature_c", 63.0),
        ];
        let reasons = if c.throttled { vec!["hardware thermal".to_owned()] } else { vec![] };
        let telemetry = Telemetry {
            readings: 2,
            sensors: sensors.into_iter().map(|(name, x)| (name.to_owned(), range(x))).collect(),
            throttle_bits: Some(if c.throttled { 0x40 } else { 0 }),
            throttle_reasons: reasons,
            ..Telemetry::default()
        };
        Outcome::Measured { samples, verification, telemetry }
    };
    Record {
        environment: c.environment.hash.clone(),
        device: format!("cuda:{}", c.gpu),
        case: shape.case.clone(),
        component: shape.component,
        provider: shape.provider.into(),
        dtype: shape.dtype,
        metric: shape.metric,
        level: shape.level,
        work: shape.work,
        cache: Cache::Cold,
        data: Distribution::Normal,
        config: BTreeMap::from([
            ("algorithm".into(), "number 0 of the library's ranking: algo 66, tile 24, stages 35, split-k 1".into()),
            ("operand sets".into(), "3".into()),
        ]),
        labels: vec!["simulated".into()],
        started: "2026-11-24T00:00:00Z".into(),
        tuning: None,
        soak: None,
        outcome,
    }
}

/// The cases of a simulated node: 62 a GPU and 20 collectives, some 500 records with eight GPUs.
fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    let mut add = |id: String, component, dtype, metric, level, work, provider, usual| {
        if let Ok(case) = CaseId::new(id) {
            shapes.push(Shape { case, component, dtype, metric, level, work, provider, usual });
        }
    };
    let gib = Bytes(1 << 30);
    for (op, arrays, usual) in [
        ("read", 1, 3131.0),
        ("write", 1, 3283.0),
        ("copy", 2, 3030.0),
        ("scale", 2, 3035.0),
        ("add", 3, 3060.0),
        ("triad", 3, 3063.0),
        ("dot", 2, 3180.0),
    ] {
        let work = Work::bytes(gib * arrays);
        add(
            format!("memory/{op}/1GiB/f32"),
            Component::Memory,
            Dtype::F32,
            Metric::Bandwidth,
            Level::Dram,
            work,
            "kernel",
            usual,
        );
    }
    for (footprint, ns) in [("16KiB", 16.2), ("256KiB", 140.0), ("4MiB", 145.0), ("64MiB", 330.0), ("512MiB", 350.0)] {
        let work = Work { steps: 1 << 16, ..Work::bytes(Bytes(1 << 20)) };
        add(
            format!("memory/latency/{footprint}"),
            Component::Memory,
            Dtype::F32,
            Metric::Latency,
            Level::Cache,
            work,
            "kernel",
            ns,
        );
    }
    for (m, n, k) in
        [(4096u64, 4096u64, 4096u64), (8192, 8192, 8192), (16384, 8192, 8192), (4096, 14336, 4096), (2048, 2048, 2048)]
    {
        for (dtype, usual) in [(Dtype::Bf16, 790.0), (Dtype::F16, 785.0), (Dtype::E4m3, 1400.0), (Dtype::Tf32, 390.0)] {
            for (provider, part) in [("cublaslt", 1.0), ("wgmma", 0.97)] {
                let size = if dtype == Dtype::E4m3 { 1 } else { 2 };
                let work = Work::arithmetic(Flops(2 * m * n * k), Bytes((m * k + k * n + m * n) * size));
                let usual = usual * part * if m == 2048 { 0.8 } else { 1.0 };
                add(
                    format!("gemm/m{m}n{n}k{k}/{dtype}"),
                    Component::Gemm,
                    dtype,
                    Metric::Arithmetic,
                    Level::Dram,
                    work,
                    provider,
                    usual,
                );
            }
        }
    }
    for (name, usual) in
        [("b1hq16hkv16sq16384sk16384d128", 653.0), ("b4hq16hkv16sq4096sk4096d128", 661.0), ("b1hq64hkv8sq8192sk8192d128", 640.0)]
    {
        for (tail, part) in [("", 1.0), ("/causal", 0.92)] {
            let work = Work::arithmetic(Flops(1 << 40), Bytes(1 << 28));
            let id = format!("attention/prefill/{name}/bf16{tail}");
            add(id, Component::Attention, Dtype::Bf16, Metric::Arithmetic, Level::Dram, work, "flash-sm90", usual * part);
        }
    }
    for (name, usual) in [("b128hq64hkv8sq1sk8192d128", 3073.0), ("b1hq64hkv8sq1sk131072d128", 2900.0)] {
        let work = Work::arithmetic(Flops(1 << 34), Bytes(1 << 31));
        let id = format!("attention/decode/{name}/bf16");
        add(id, Component::Attention, Dtype::Bf16, Metric::Bandwidth, Level::Dram, work, "decode-splitkv", usual);
    }
    for (op, factor, top) in [
        ("all_reduce", 1.75, 478.0),
        ("all_gather", 0.875, 361.0),
        ("reduce_scatter", 0.875, 362.0),
        ("alltoall", 0.875, 320.0),
        ("broadcast", 1.0, 330.0),
    ] {
        for (size, part) in [(64u64 << 20, 0.72), (256 << 20, 0.9), (1 << 30, 0.97), (8 << 30, 1.0)] {
            let work = Work { bus_factor: Some(factor), ..Work::bytes(Bytes(size)) };
            let id = format!("collectives/{op}/r8/{}/f32", Bytes(size));
            add(id, Component::Collectives, Dtype::F32, Metric::BusBandwidth, Level::Peer, work, "nccl", top * part);
        }
    }
    shapes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_some_five_hundred_records_and_a_seed_repeats() {
        let simulation = Simulation {
            seed: 1,
            nodes: 10,
            gpus: 8,
            fault: Fault::SlowMemory,
            size_pct: 10.0,
            every: 5,
            second_group: (0.0, 0.0),
        };
        let (environment, records) = simulation.node(3);
        assert!((480..540).contains(&records.len()), "{}", records.len());
        assert_eq!((environment.clone(), records.clone()), simulation.node(3));
        assert_ne!(records, simulation.node(4).1);
        assert_eq!((0..10).filter(|n| simulation.fault_of(*n) != Fault::None).count(), 2);
        let bare = serde_json::to_string(&crate::Line::Record(Box::new(records[20].clone()))).unwrap();
        assert!((900..2000).contains(&bare.len()), "{}", bare.len());
    }
}
