//! Where a number lies under its roofs. Arithmetic alone: a record, the device it was taken on, the table of models.
//!
//! Up to three roofs stand beside each other. The datasheet peak is what was bought; the peak at the observed clock is what
//! power and heat left of it; the empirical roof is the best that this very run showed the device can do. The gap between
//! the first two is power and thermals, the gap below them is the kernel.

use crate::case::{Level, Metric};
use crate::record::{Outcome, Record};
use crate::specs::{Spec, Specs};
use crate::stats::Summary;
use crate::{DeviceInfo, Dtype, Seconds};

/// Where a roof comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoofKind {
    /// The model's datasheet.
    Datasheet,
    /// The datasheet's operations per clock at the clock that was observed.
    ObservedClock,
    /// Measured on this device.
    Empirical,
}

impl RoofKind {
    /// A word for tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Datasheet => "datasheet",
            Self::ObservedClock => "at clock",
            Self::Empirical => "empirical",
        }
    }
}

/// A limit in the unit of the figure it bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Roof {
    /// Where it comes from.
    pub kind: RoofKind,
    /// GB/s or TFLOP/s.
    pub value: f64,
    /// What it is, in words: `H100-SXM HBM3 3350 GB/s`.
    pub source: String,
    /// What bounds the case: its bytes or its operations.
    pub bound: Bound,
}

/// What bounds a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Bytes.
    Memory,
    /// Operations.
    Compute,
}

impl Bound {
    /// A word for tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Compute => "compute",
        }
    }
}

/// A measured record under its roofs.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    /// The headline figure, median: GB/s, TFLOP/s or ns.
    pub achieved: f64,
    /// Its unit.
    pub unit: &'static str,
    /// FLOPs per byte; None where either is not counted.
    pub intensity: Option<f64>,
    /// TFLOP/s, where operations are counted.
    pub tflops: Option<f64>,
    /// GB/s, where bytes are counted.
    pub gbps: Option<f64>,
    /// Bytes per clock and unit at the observed clock, for caches and shared memory.
    pub bytes_per_clock: Option<f64>,
    /// Core clocks of a dependent step at the observed clock, for latency.
    pub clocks: Option<f64>,
    /// The roofs, the datasheet's first.
    pub roofs: Vec<Roof>,
    /// Why there is no roof, where there is none.
    pub unknown: Option<String>,
    /// Statistics of the samples, in seconds.
    pub summary: Summary,
    /// A switch may have done part of the work: busbw then exceeds the wire by up to the twofold, and is no error.
    pub in_switch: bool,
}

impl Placement {
    /// Above the wire, which a switch that reduces or copies (NVLS, SHARP) makes possible.
    #[must_use]
    pub fn above_the_wire(&self) -> bool {
        self.in_switch && self.fraction().is_some_and(|f| f > 1.0) && !self.suspect()
    }

    /// Achieved over the first roof; never clamped.
    #[must_use]
    pub fn fraction(&self) -> Option<f64> {
        Some(self.achieved / self.roofs.first()?.value)
    }

    /// Achieved over the roof of one kind.
    #[must_use]
    pub fn fraction_of(&self, kind: RoofKind) -> Option<f64> {
        self.roofs.iter().find(|r| r.kind == kind).map(|r| self.achieved / r.value)
    }

    /// Above the peak at the observed clock (or, without one, the datasheet's) by more than the clock's own error: the number
    /// or the roof is wrong, and a reader must know.
    #[must_use]
    pub fn suspect(&self) -> bool {
        let physical = self.fraction_of(RoofKind::ObservedClock).or_else(|| self.fraction_of(RoofKind::Datasheet));
        physical.is_some_and(|f| f > if self.in_switch { 2.04 } else { 1.02 })
    }
}

/// Places a record under the roofs of `info`. None for a record that was not measured or has no valid samples.
#[must_use]
pub fn place(record: &Record, info: &DeviceInfo, specs: &Specs) -> Option<Placement> {
    let Outcome::Measured { samples, .. } = &record.outcome else { return None };
    let seconds: Vec<f64> = samples.seconds.iter().map(|s| s.0).collect();
    let summary = Summary::of(&seconds).filter(|s| s.min > 0.0)?;
    let time = Seconds(summary.median);
    let work = record.work;
    let tflops = (work.flops.0 > 0).then(|| work.flops.tflop_per_s(time));
    let gbps = (work.bytes.0 > 0).then(|| work.bytes.gb_per_s(time));
    let (achieved, unit) = match record.metric {
        Metric::Bandwidth => (gbps?, "GB/s"),
        Metric::Arithmetic => (tflops?, "TFLOP/s"),
        Metric::Latency => (time.0 * 1e9 / work.steps.max(1) as f64, "ns"),
        Metric::BusBandwidth => (gbps? * work.bus_factor.unwrap_or(1.0), "GB/s"),
    };
    let mhz = observed_mhz(record);
    let (roofs, unknown) = match record.metric {
        Metric::Latency => (Vec::new(), Some("latency has no roof".to_owned())),
        _ => roofs(record, info, specs, mhz),
    };
    let on_chip = matches!(record.level, Level::Cache | Level::Shared) && record.metric == Metric::Bandwidth && work.steps == 0;
    let bytes_per_clock =
        mhz.filter(|_| on_chip && !info.software).map(|mhz| achieved * 1e3 / (mhz * f64::from(info.units.max(1))));
    let clocks = mhz.filter(|_| record.metric == Metric::Latency && !info.software).map(|mhz| achieved * mhz / 1e3);
    Some(Placement {
        achieved,
        unit,
        intensity: work.intensity().filter(|i| *i > 0.0),
        tflops,
        gbps,
        bytes_per_clock,
        clocks,
        roofs,
        unknown,
        in_switch: in_switch(record),
        summary,
    })
}

/// The clock during the timed runs: the device's own counters first, the sensor's median next.
#[must_use]
pub fn observed_mhz(record: &Record) -> Option<f64> {
    let Outcome::Measured { samples, telemetry, .. } = &record.outcome else { return None };
    let mut counters: Vec<f64> = samples.observed_mhz.iter().copied().filter(|f| f.is_finite() && *f > 0.0).collect();
    counters.sort_by(f64::total_cmp);
    if !counters.is_empty() {
        return Some(crate::stats::median_of_sorted(&counters));
    }
    let sensor = telemetry.sensors.get("sm_clock_mhz").or_else(|| telemetry.sensors.get("clock_mhz"));
    sensor.map(|r| r.median).filter(|f| *f > 0.0)
}

fn roofs(record: &Record, info: &DeviceInfo, specs: &Specs, mhz: Option<f64>) -> (Vec<Roof>, Option<String>) {
    if record.labels.iter().any(|l| l == "emulated") && record.metric == Metric::Arithmetic {
        return (Vec::new(), Some(format!("{} is emulated on this device: it has no peak", record.dtype)));
    }
    if info.software {
        // Its roof is that of the CPU it runs on, measured when it was opened.
        let roofs: Vec<Roof> = from_measured(record, info).into_iter().collect();
        let unknown = roofs.is_empty().then(|| "a software device has no roof of this kind".to_owned());
        return (roofs, unknown);
    }
    let mut roofs = Vec::new();
    let mut missing = None;
    if let Some(spec) = specs.find(info) {
        for kind in [RoofKind::Datasheet, RoofKind::ObservedClock] {
            match from_spec(record, info, spec, kind, mhz) {
                Ok(roof) => roofs.extend(roof),
                Err(reason) => missing = Some(reason),
            }
        }
    }
    match from_measured(record, info) {
        Some(roof) => roofs.push(roof),
        None if roofs.is_empty() && missing.is_none() => {
            missing = Some(match specs.find(info) {
                Some(spec) => format!("no published limit for this level of {}", spec.id),
                None if info.backend == crate::Backend::Cpu => "no limit of this kind was measured on this CPU".into(),
                None => format!("'{}' is not in specs.toml: measured all the same, roof unknown", info.name),
            });
        }
        None => {}
    }
    if let Some(network) = crate::network::roof(record) {
        // What holds within a host holds still, where it is lower.
        roofs.retain(|roof| roof.value <= network.value);
        if !roofs.iter().any(|roof| roof.kind == RoofKind::Datasheet) {
            roofs.insert(0, network);
        }
    }
    let unknown = if roofs.is_empty() { missing } else { None };
    (roofs, unknown)
}

/// The datasheet's roof, or the same at the observed clock. `Ok(None)` where a clock has no say in it.
fn from_spec(record: &Record, info: &DeviceInfo, spec: &Spec, kind: RoofKind, mhz: Option<f64>) -> Result<Option<Roof>, String> {
    let per_package = f64::from(spec.devices_per_package.max(1));
    let units = if info.units > 0 { info.units } else { spec.units_per_device() };
    // A MIG slice has fewer units than the model, and its share of the memory is not published. AMD's partitions say how the
    // memory is divided: NPS4 gives each quarter of the dies its own quarter of it, NPS1 gives all of it to each.
    let whole = units >= spec.units_per_device();
    let domains = memory_domains(info);
    let memory = match record.level {
        Level::Dram if !whole && domains.is_none() => {
            return Err(format!("a slice of {} ({units} units): its share of the memory is not published", spec.id));
        }
        Level::Dram => {
            let domains = domains.unwrap_or(1);
            let share = if domains > 1 { format!(", a domain of {domains}") } else { String::new() };
            Some((spec.memory.gbps / per_package / f64::from(domains), format!("{} {}{share}", spec.id, spec.memory.r#type)))
        }
        Level::Host | Level::Peer => link(record, info, spec, kind).map(|(gbps, source)| match record.work.links {
            Some(links) => (gbps * f64::from(links), format!("{links} × {source}")),
            None => (gbps, source),
        }),
        Level::Shared | Level::Cache => None,
    };
    let clock = |quoted: Option<f64>| match kind {
        RoofKind::ObservedClock => mhz,
        _ => quoted,
    };
    if matches!(record.level, Level::Shared | Level::Cache) && record.metric == Metric::Bandwidth {
        // Serialised steps are bounded by no path's width.
        if record.level == Level::Cache && record.work.steps > 0 {
            return Ok(None);
        }
        // NVIDIA's units read their first cache and their shared memory by one path, AMD's by two: no cached read is faster.
        let own = if record.level == Level::Cache && spec.vendor == "AMD" {
            spec.l1_bytes_per_clock
        } else {
            spec.shared_bytes_per_clock
        };
        let path = own
            .zip(clock(spec.max_clock_mhz))
            .map(|(bytes, mhz)| (f64::from(units) * bytes * mhz / 1e3, format!("{units} × {bytes} B/clk at {mhz:.0} MHz")));
        let share = f64::from(units) / f64::from(spec.units_per_device()) / per_package;
        let beyond = cached(record, info, spec, kind, mhz).map(|(gbps, source)| (gbps * share, source));
        let lowest = path.into_iter().chain(beyond).min_by(|a, b| a.0.total_cmp(&b.0));
        return Ok(lowest.map(|(value, source)| Roof { kind, value, source, bound: Bound::Memory }));
    }
    let compute = || -> Result<Option<(f64, String)>, String> {
        let peak = spec.peak(record.dtype).ok_or_else(|| format!("{} has no peak for {}", spec.id, record.dtype))?;
        Ok(match (kind, peak.ops_per_clock, mhz) {
            (RoofKind::ObservedClock, Some(ops), Some(mhz)) => {
                Some((f64::from(units) * ops * mhz / 1e6, format!("{} {} at {mhz:.0} MHz", spec.id, record.dtype)))
            }
            (RoofKind::ObservedClock, ..) => None,
            _ => {
                let share = f64::from(units) / f64::from(spec.units_per_device());
                Some((peak.tflops / per_package * share, format!("{} {} dense", spec.id, record.dtype)))
            }
        })
    };
    match record.metric {
        Metric::Bandwidth | Metric::BusBandwidth => {
            let roof = narrower(memory, compute().ok().flatten(), record, kind);
            let clocked = kind == RoofKind::Datasheet || record.level == Level::Host;
            Ok(roof.filter(|roof| clocked || roof.bound == Bound::Compute))
        }
        Metric::Latency => Ok(None),
        Metric::Arithmetic => Ok(compute()?.map(|(tflops, source)| lower(tflops, memory, record, kind, source))),
    }
}

/// What the cache gives that serves a working set which is too large for the first one, where that is published.
fn cached(record: &Record, info: &DeviceInfo, spec: &Spec, kind: RoofKind, mhz: Option<f64>) -> Option<(f64, String)> {
    // A set that all units share fits a cache of one unit where it fits at all.
    let shared = record.config.contains_key("set");
    let exceeds = |name: &str| {
        let level = info.caches.iter().find(|cache| cache.name == name)?;
        let instances = if shared { 1 } else { u64::from(level.instances.max(1)) };
        Some(record.work.bytes.0 > level.bytes.0 * instances)
    };
    if record.level != Level::Cache || !exceeds("L1")? {
        return None;
    }
    if let Some(gbps) = spec.infinity_cache_gbps.filter(|_| exceeds("L2") == Some(true)) {
        // It has a clock of its own, whatever the core's.
        return Some((gbps, format!("{} Infinity Cache", spec.id)));
    }
    let gbps = spec.l2_gbps?;
    match kind {
        RoofKind::ObservedClock => Some((gbps * mhz? / spec.max_clock_mhz?, format!("{} L2 at {:.0} MHz", spec.id, mhz?))),
        _ => Some((gbps, format!("{} L2", spec.id))),
    }
}

/// One direction of the link that a case's bytes cross, GB/s. What a clock is to a core, the negotiated generation and width are to
/// PCIe: [`RoofKind::ObservedClock`] is the link as it was seen under load.
fn link(record: &Record, info: &DeviceInfo, spec: &Spec, kind: RoofKind) -> Option<(f64, String)> {
    let per_package = f64::from(spec.devices_per_package.max(1));
    let link = spec.link.as_ref();
    let ranks = ranks(record);
    if record.level == Level::Peer && ranks == Some(1) {
        return None;
    }
    if let Some(l) = link.filter(|_| record.level == Level::Peer && info.facts.get("nvlinks_up").is_none_or(|up| up != "0")) {
        // Where each link goes to another device, no more of them are used than there are peers.
        let meshed = l.links.zip(ranks).map(|(links, ranks)| (links, links.min(ranks - 1))).filter(|(links, used)| used < links);
        let (share, of) = match meshed {
            Some((links, used)) => (f64::from(used) / f64::from(links), format!(", {used} of {links} links")),
            None => (1.0, String::new()),
        };
        return Some((l.gbps / per_package * share, format!("{} {}{of}", spec.id, l.r#type)));
    }
    if let Some(c2c) = link.and_then(|l| l.c2c_gbps).filter(|_| record.level == Level::Host) {
        return (kind == RoofKind::Datasheet).then(|| (c2c, format!("{} C2C", spec.id)));
    }
    let pcie = match kind {
        RoofKind::ObservedClock => negotiated(record)?,
        _ => spec.pcie.clone()?,
    };
    Some((crate::specs::pcie_gbps(&pcie)?, format!("PCIe {pcie}")))
}

/// Ranks of a collective, by its id; None for a case of another kind.
pub(crate) fn ranks(record: &Record) -> Option<u32> {
    let mut segments = record.case.as_str().split('/');
    (segments.next() == Some("collectives")).then(|| segments.nth(1)?.strip_prefix('r')?.parse().ok().filter(|n| *n > 0))?
}

/// Whether a collective may have been reduced or copied by the switch (NVLS, SHARP), so that a rank's links carry less than busbw
/// counts: by its algorithm, or, where the library chose that, by not being known to be another.
fn in_switch(record: &Record) -> bool {
    let named = |text: &str| ["nvls", "collnet"].iter().any(|name| text.to_lowercase().contains(name));
    let algorithm = record.config.get("algorithm");
    let chosen =
        algorithm.is_some_and(|a| a == "the library's choice") && record.config.get("NVLS").is_none_or(|n| n == "available");
    record.metric == Metric::BusBandwidth
        && (record.labels.iter().any(|l| named(l)) || algorithm.is_some_and(|a| named(a)) || chosen)
}

/// The PCIe link that the sensors saw during the timed runs, at its best: `4.0x16`. It rests at a lower one.
#[must_use]
pub fn negotiated(record: &Record) -> Option<String> {
    let Outcome::Measured { telemetry, .. } = &record.outcome else { return None };
    let most = |name: &str| telemetry.sensors.get(name).map(|range| range.max);
    let generation = most("pcie_gen").or_else(|| {
        let rates = [(8.0, 3.0), (16.0, 4.0), (32.0, 5.0), (64.0, 6.0)];
        let gts = most("pcie_gts")?;
        rates.iter().find(|(rate, _)| (gts - rate).abs() < 0.5).map(|(_, generation)| *generation)
    })?;
    Some(format!("{generation:.0}.0x{:.0}", most("pcie_width")?))
}

/// Domains that the memory of an AMD package is divided into (`NPS4`: four); None for a device that does not say.
fn memory_domains(info: &DeviceInfo) -> Option<u32> {
    let mode = info.facts.get("memory partition").filter(|_| info.backend == crate::Backend::Hip)?;
    mode.strip_prefix("NPS")?.parse().ok().filter(|domains| (1..=8).contains(domains))
}

/// The lower of the compute roof and bandwidth × intensity, in TFLOP/s.
fn lower(compute: f64, memory: Option<(f64, String)>, record: &Record, kind: RoofKind, source: String) -> Roof {
    if let (Some((gbps, memory_source)), Some(intensity)) = (memory, record.work.intensity()) {
        let slope = gbps * intensity / 1e3;
        if slope < compute {
            return Roof {
                kind, value: slope, source: format!("{memory_source} × {intensity:.1} FLOP/B"), bound: Bound::Memory
            };
        }
    }
    Roof { kind, value: compute, source, bound: Bound::Compute }
}

/// The lower of bandwidth and the compute roof ÷ intensity, in GB/s: what reads much may compute more yet (MLA decode with 128 heads).
fn narrower(memory: Option<(f64, String)>, compute: Option<(f64, String)>, record: &Record, kind: RoofKind) -> Option<Roof> {
    let (gbps, source) = memory?;
    let intensity = record.work.intensity().filter(|intensity| *intensity > 0.0);
    if let (Some((tflops, source)), Some(intensity)) = (compute, intensity) {
        let value = tflops * 1e3 / intensity;
        if value < gbps {
            return Some(Roof { kind, value, source: format!("{source} ÷ {intensity:.1} FLOP/B"), bound: Bound::Compute });
        }
    }
    Some(Roof { kind, value: gbps, source, bound: Bound::Memory })
}

fn from_measured(record: &Record, info: &DeviceInfo) -> Option<Roof> {
    let kind = RoofKind::Empirical;
    // One rank has no link: what it does is a copy from its own cache.
    if record.level == Level::Peer && ranks(record) == Some(1) {
        return None;
    }
    let memory = measured_gbps(info, record.level).filter(|_| record.level != Level::Cache || record.work.steps == 0);
    match record.metric {
        Metric::Bandwidth | Metric::BusBandwidth => narrower(memory, measured_tflops(info, record.dtype), record, kind),
        Metric::Latency => None,
        Metric::Arithmetic => {
            let (compute, source) = measured_tflops(info, record.dtype)?;
            Some(lower(compute, memory, record, kind, source))
        }
    }
}

/// The device's own measured bandwidth for a level, GB/s.
#[must_use]
pub fn measured_gbps(info: &DeviceInfo, level: Level) -> Option<(f64, String)> {
    let prefix = match level {
        Level::Dram => "dram",
        Level::Peer => "peer",
        Level::Cache => "cache",
        _ => return None,
    };
    let best = info
        .measured
        .iter()
        .filter(|m| m.unit == "B/s" && m.what.starts_with(prefix))
        .max_by(|a, b| a.value.total_cmp(&b.value))?;
    Some((best.value / 1e9, format!("{} ({})", best.what, best.method)))
}

/// The device's own measured arithmetic peak for a dtype, TFLOP/s.
#[must_use]
pub fn measured_tflops(info: &DeviceInfo, dtype: Dtype) -> Option<(f64, String)> {
    let best = info.measured.iter().find(|m| m.unit == "FLOP/s" && m.dtype == Some(dtype))?;
    Some((best.value / 1e12, format!("{} ({})", best.what, best.method)))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::case::{Cache, CaseId, Component, Distribution, Work};
    use crate::record::{Clock, Samples, Stop, Telemetry, Verification};
    use crate::{Bytes, Flops, MeasuredRoof};
    use proptest::prelude::*;

    fn record(work: Work, metric: Metric, level: Level, dtype: Dtype, seconds: f64, mhz: Option<f64>) -> Record {
        Record {
            environment: "e".into(),
            device: "cuda:0".into(),
            case: CaseId::new("gemm/x").unwrap(),
            component: Component::Gemm,
            provider: "p".into(),
            dtype,
            metric,
            level,
            work,
            cache: Cache::Cold,
            data: Distribution::Normal,
            config: Default::default(),
            labels: vec![],
            started: String::new(),
            tuning: None,
            soak: None,
            outcome: Outcome::Measured {
                samples: Samples {
                    seconds: vec![Seconds(seconds); 10],
                    batch: 1,
                    clock: Clock::Device,
                    warmup: Seconds(0.1),
                    steady: true,
                    stop: Stop::Converged,
                    graph: false,
                    observed_mhz: mhz.into_iter().collect(),
                    throttled: vec![],
                },
                verification: Verification { method: "m".into(), error: 0.0, tolerance: 1.0, checked: 1, wrong: 0 },
                telemetry: Telemetry::default(),
            },
        }
    }

    pub(crate) fn h100() -> DeviceInfo {
        DeviceInfo { name: "NVIDIA H100 80GB HBM3".into(), ..crate::device::tests::unknown() }
    }

    /// A collective of so many GB/s of busbw.
    pub(crate) fn bus(case: &str, gbps: f64, algorithm: &str) -> Record {
        let work = Work { bus_factor: Some(1.0), ..Work::bytes(Bytes(1_000_000_000)) };
        let mut r = record(work, Metric::BusBandwidth, Level::Peer, Dtype::F32, 1.0 / gbps, None);
        r.case = CaseId::new(case).unwrap();
        r.config.insert("algorithm".into(), algorithm.into());
        r
    }

    #[test]
    fn a_gemm_stands_under_two_roofs() {
        let n = 8192u64;
        let work = Work::arithmetic(Flops(2 * n * n * n), Bytes(3 * 2 * n * n));
        let r = record(work, Metric::Arithmetic, Level::Dram, Dtype::Bf16, work.flops.0 as f64 / 800e12, Some(1500.0));
        let p = place(&r, &h100(), Specs::built_in()).unwrap();
        assert!((p.achieved - 800.0).abs() < 1e-6);
        assert_eq!(p.roofs[0].kind, RoofKind::Datasheet);
        assert!((p.roofs[0].value - 989.4).abs() < 1.0, "{:?}", p.roofs);
        assert!((p.roofs[1].value - 132.0 * 4096.0 * 1500.0 / 1e6).abs() < 0.1);
        assert_eq!(p.roofs[1].bound, Bound::Compute);
        assert!(!p.suspect());
    }

    #[test]
    fn busbw_stands_under_the_links_that_are_used_and_a_switch_may_exceed_them() {
        let on = |name: &str, r: &Record| {
            let info = DeviceInfo { name: name.into(), ..crate::device::tests::unknown() };
            place(r, &info, Specs::built_in()).unwrap()
        };
        let h100 = "NVIDIA H100 80GB HBM3";
        // 450 GB/s of NVLink through a switch, whatever the number of ranks.
        let p = on(h100, &bus("collectives/all_reduce/r2/1GiB/f32", 480.0, "Ring"));
        assert_eq!((p.roofs[0].value, p.suspect(), p.above_the_wire()), (450.0, true, false));
        for algorithm in ["NVLS", "CollnetDirect", "the library's choice"] {
            let p = on(h100, &bus("collectives/all_reduce/r8/1GiB/f32", 480.0, algorithm));
            assert!(p.fraction().unwrap() > 1.06 && !p.suspect() && p.above_the_wire(), "{algorithm}");
            assert!(on(h100, &bus("collectives/all_reduce/r8/1GiB/f32", 1000.0, algorithm)).suspect(), "{algorithm}");
        }
        // Seven links of a mesh, each to another device: two ranks have one.
        let mi300x = |ranks| bus(&format!("collectives/all_reduce/r{ranks}/1GiB/f32"), 40.0, "Ring");
        let roofs: Vec<f64> = [2, 4, 8].map(|n| on("AMD Instinct MI300X", &mi300x(n)).roofs[0].value).into();
        assert_eq!(roofs, [64.0, 192.0, 448.0]);
        // One rank alone has no wire, and a card without links has PCIe.
        assert!(on(h100, &bus("collectives/all_reduce/r1/1GiB/f32", 40.0, "Ring")).roofs.is_empty());
        let l40s = on("NVIDIA L40S", &bus("collectives/all_reduce/r2/1GiB/f32", 20.0, "Ring"));
        assert!((l40s.roofs[0].value - 31.5).abs() < 0.1 && l40s.roofs[0].source.contains("PCIe 4.0x16"), "{:?}", l40s.roofs);
    }

    #[test]
    fn a_skinny_gemm_is_bound_by_memory() {
        let work = Work::arithmetic(Flops(2 * 16 * 8192 * 8192), Bytes(2 * 8192 * 8192));
        let r = record(work, Metric::Arithmetic, Level::Dram, Dtype::Bf16, 50e-6, None);
        let p = place(&r, &h100(), Specs::built_in()).unwrap();
        assert_eq!(p.roofs[0].bound, Bound::Memory);
        assert!((p.roofs[0].value - 3.35 * 16.0).abs() < 0.1);
    }

    #[test]
    fn what_reads_much_may_compute_more_yet() {
        // MLA decode of 128 heads: 235 FLOP/B, between the ridges of an H200 (206) and an H100 (295).
        let (kv, heads) = (8192u64, 128u64);
        let work = Work::arithmetic(Flops(2 * heads * kv * 1088), Bytes(2 * (kv * 576 + heads * 1088)));
        let r = record(work, Metric::Bandwidth, Level::Dram, Dtype::Bf16, 1e-3, Some(1980.0));
        let on = |name: &str| {
            let info = DeviceInfo { name: name.into(), units: 132, ..crate::device::tests::unknown() };
            place(&r, &info, Specs::built_in()).unwrap().roofs
        };
        let h100 = on("NVIDIA H100 80GB HBM3");
        assert_eq!((h100.len(), h100[0].bound, h100[0].value), (1, Bound::Memory, 3350.0));
        let h200 = on("NVIDIA H200");
        assert_eq!((h200[0].bound, h200[1].bound, h200[1].kind), (Bound::Compute, Bound::Compute, RoofKind::ObservedClock));
        assert!((h200[0].value - 989_400.0 / 234.9).abs() < 20.0, "{h200:?}");
    }

    #[test]
    fn what_exceeds_physics_is_suspect_and_not_clamped() {
        let r = record(Work::bytes(Bytes(4_000_000_000)), Metric::Bandwidth, Level::Dram, Dtype::F32, 1e-3, None);
        let p = place(&r, &h100(), Specs::built_in()).unwrap();
        assert!(p.fraction().unwrap() > 1.19 && p.suspect());
    }

    #[test]
    fn an_unknown_gpu_is_measured_and_says_so() {
        let r = record(Work::bytes(Bytes(1_000_000)), Metric::Bandwidth, Level::Dram, Dtype::F32, 1e-3, None);
        let p = place(&r, &crate::device::tests::unknown(), Specs::built_in()).unwrap();
        assert!(p.roofs.is_empty() && p.unknown.unwrap().contains("specs.toml"));
    }

    #[test]
    fn a_slice_has_its_share_of_the_arithmetic_and_no_memory_roof() {
        let slice = DeviceInfo { units: 16, name: "NVIDIA H100 80GB HBM3 MIG 1g.10gb".into(), ..h100() };
        let r = record(Work::arithmetic(Flops(1 << 40), Bytes(0)), Metric::Arithmetic, Level::Cache, Dtype::Bf16, 1.0, None);
        let p = place(&r, &slice, Specs::built_in()).unwrap();
        assert!((p.roofs[0].value - 989.4 * 16.0 / 132.0).abs() < 0.5);
        let r = record(Work::bytes(Bytes(1_000_000)), Metric::Bandwidth, Level::Dram, Dtype::F32, 1e-3, None);
        assert!(place(&r, &slice, Specs::built_in()).unwrap().unknown.unwrap().contains("slice"));
    }

    /// MI300X has 304 compute units, 1307.4 TFLOP/s of bf16 and 5300 GB/s; MI250X, two devices of 110, 383 and 3277.
    #[test]
    fn peaks_follow_the_partition() {
        let amd = |name: &str, units: u32, mode: Option<&str>| DeviceInfo {
            backend: crate::Backend::Hip,
            name: name.into(),
            units,
            facts: mode.iter().map(|mode| ("memory partition".to_owned(), (*mode).to_owned())).collect(),
            ..crate::device::tests::unknown()
        };
        let arithmetic =
            record(Work::arithmetic(Flops(1 << 40), Bytes(0)), Metric::Arithmetic, Level::Cache, Dtype::Bf16, 1.0, None);
        let stream = record(Work::bytes(Bytes(1_000_000)), Metric::Bandwidth, Level::Dram, Dtype::F32, 1e-3, None);
        let roof =
            |r: &Record, info: &DeviceInfo| place(r, info, Specs::built_in()).unwrap().roofs.first().map(|roof| roof.value);
        let mi300x = "AMD Instinct MI300X";
        for (name, units, mode, tflops, gbps) in [
            (mi300x, 304, Some("NPS1"), 1307.4, Some(5300.0)),
            // CPX: eight devices of 38 units, over one memory or each pair of them over a quarter.
            (mi300x, 38, Some("NPS1"), 1307.4 / 8.0, Some(5300.0)),
            (mi300x, 38, Some("NPS4"), 1307.4 / 8.0, Some(1325.0)),
            (mi300x, 152, Some("NPS2"), 1307.4 / 2.0, Some(2650.0)),
            (mi300x, 304, None, 1307.4, Some(5300.0)),
            // A part without a mode that it says, and modes that are none.
            (mi300x, 38, None, 1307.4 / 8.0, None),
            (mi300x, 38, Some("NPS0"), 1307.4 / 8.0, None),
            (mi300x, 38, Some("nonsense"), 1307.4 / 8.0, None),
            ("AMD Instinct MI250X", 110, None, 191.5, Some(1638.5)),
            ("AMD Instinct MI250X / MI250", 104, Some("NPS1"), 191.5 * 104.0 / 110.0, Some(1638.5)),
        ] {
            let info = amd(name, units, mode);
            let value = roof(&arithmetic, &info).unwrap();
            assert!((value / tflops - 1.0).abs() < 1e-3, "{name} {units} {mode:?}: {value} TFLOP/s");
            assert_eq!(roof(&stream, &info), gbps, "{name} {units} {mode:?}");
        }
        let source = place(&stream, &amd(mi300x, 38, Some("NPS4")), Specs::built_in()).unwrap().roofs[0].source.clone();
        assert_eq!(source, "MI300X HBM3, a domain of 4");
        // At the observed clock, too: 38 units × 2048 × 1.9 GHz.
        let clocked =
            record(Work::arithmetic(Flops(1 << 40), Bytes(0)), Metric::Arithmetic, Level::Cache, Dtype::Bf16, 1.0, Some(1900.0));
        let placed = place(&clocked, &amd(mi300x, 38, Some("NPS4")), Specs::built_in()).unwrap();
        assert!((placed.roofs[1].value - 38.0 * 2048.0 * 1900.0 / 1e6).abs() < 0.1, "{:?}", placed.roofs);
    }

    #[test]
    fn links_stand_under_what_they_are_and_what_was_negotiated() {
        let copy = |level, links, sensors: &[(&str, f64)]| {
            let work = Work { links, ..Work::bytes(Bytes(50_000_000)) };
            let mut r = record(work, Metric::Bandwidth, level, Dtype::F32, 1e-3, Some(1980.0));
            let Outcome::Measured { telemetry, .. } = &mut r.outcome else { panic!() };
            let range = |x: f64| crate::record::Range { min: 1.0, median: x, max: x };
            telemetry.sensors = sensors.iter().map(|(name, x)| ((*name).to_owned(), range(*x))).collect();
            r
        };
        let roofs = |r: &Record, info: &DeviceInfo| -> Vec<(f64, RoofKind, String)> {
            let placed = place(r, info, Specs::built_in()).unwrap();
            placed.roofs.into_iter().map(|r| (r.value, r.kind, r.source)).collect()
        };
        // An H100 in a slot of half the generation.
        let seen = roofs(&copy(Level::Host, None, &[("pcie_gen", 4.0), ("pcie_width", 16.0)]), &h100());
        assert!((seen[0].0 - 63.0).abs() < 0.1 && (seen[1].0 - 31.5).abs() < 0.1, "{seen:?}");
        assert_eq!((seen[1].1, seen[1].2.as_str()), (RoofKind::ObservedClock, "PCIe 4.0x16"));
        // AMD's sensors say gigatransfers; both ways at once have two roofs.
        let both = roofs(&copy(Level::Host, Some(2), &[("pcie_gts", 32.0), ("pcie_width", 8.0)]), &h100());
        assert!((both[0].0 - 126.0).abs() < 0.2 && (both[1].0 - 63.0).abs() < 0.2, "{both:?}");
        assert_eq!(roofs(&copy(Level::Host, None, &[]), &h100()).len(), 1);
        // NVLink where it is up, PCIe where it is not.
        let nvlink = roofs(&copy(Level::Peer, None, &[]), &h100());
        assert!((nvlink[0].0 - 450.0).abs() < 0.1, "{nvlink:?}");
        let without = DeviceInfo { facts: [("nvlinks_up".to_owned(), "0".to_owned())].into(), ..h100() };
        assert!((roofs(&copy(Level::Peer, None, &[]), &without)[0].0 - 63.0).abs() < 0.1);
        // Grace's chip-to-chip link.
        let grace = Specs::built_in().devices.iter().find(|s| s.link.as_ref().is_some_and(|l| l.c2c_gbps.is_some())).unwrap();
        let info = DeviceInfo { name: grace.names[0].clone(), units: grace.units_per_device(), ..h100() };
        let c2c = roofs(&copy(Level::Host, None, &[("pcie_gen", 5.0), ("pcie_width", 16.0)]), &info);
        assert_eq!((c2c[0].0, c2c.len()), (grace.link.as_ref().unwrap().c2c_gbps.unwrap(), 1));
    }

    #[test]
    fn what_is_on_the_chip_is_also_told_in_clocks() {
        // 132 units, 128 bytes a clock at 1980 MHz: 33.45 TB/s.
        let bytes = Bytes(132 * 128 * 1_980_000);
        let read = record(Work::bytes(bytes), Metric::Bandwidth, Level::Cache, Dtype::F32, 1e-3, Some(1980.0));
        let placed = place(&read, &h100(), Specs::built_in()).unwrap();
        assert!((placed.bytes_per_clock.unwrap() - 128.0).abs() < 1e-6 && !placed.suspect());
        assert!((placed.fraction().unwrap() - 1.0).abs() < 1e-6, "{:?}", placed.roofs);
        let chase = Work { steps: 1000, ..Work::bytes(Bytes(1 << 14)) };
        let chase = record(chase, Metric::Latency, Level::Cache, Dtype::F32, 16e-6, Some(2000.0));
        let placed = place(&chase, &h100(), Specs::built_in()).unwrap();
        assert!((placed.clocks.unwrap() - 32.0).abs() < 1e-9 && placed.bytes_per_clock.is_none());
        // Serialised adds are bounded by no path's width.
        let adds = Work { steps: 1000, ..Work::bytes(Bytes(4000)) };
        let adds = record(adds, Metric::Bandwidth, Level::Cache, Dtype::F32, 1e-6, Some(2000.0));
        assert!(place(&adds, &h100(), Specs::built_in()).unwrap().roofs.is_empty());
    }

    #[test]
    fn a_set_has_the_roof_of_the_cache_that_serves_it() {
        let cache = |name: &str, kib: u64, instances| crate::CacheLevel { name: name.into(), bytes: Bytes::kib(kib), instances };
        let caches = vec![cache("L1", 32, 304), cache("L2", 4096, 8), cache("Infinity Cache", 256 << 10, 1)];
        let info = DeviceInfo {
            backend: crate::Backend::Hip,
            name: "AMD Instinct MI300X".into(),
            units: 304,
            caches,
            ..crate::device::tests::unknown()
        };
        let roofs = |kib: u64| {
            let mut r = record(Work::bytes(Bytes::kib(kib)), Metric::Bandwidth, Level::Cache, Dtype::F32, 1e-6, Some(1050.0));
            r.config.insert("set".into(), "shared by all units".into());
            place(&r, &info, Specs::built_in()).unwrap().roofs
        };
        let path: f64 = 304.0 * 128.0 * 2.1;
        let seen: Vec<Vec<f64>> = [16, 1024, 64 << 10].map(|kib| roofs(kib).iter().map(|r| r.value.round()).collect()).into();
        let half = |x: f64| (x / 2.0).round();
        assert_eq!(seen[0], [path.round(), half(path)]);
        assert_eq!(seen[1], [34_400.0, 17_200.0]);
        // The Infinity Cache does not slow down with the core.
        assert_eq!(seen[2], [17_203.0; 2]);
        assert!(roofs(1024)[0].source == "MI300X L2" && roofs(64 << 10)[0].source == "MI300X Infinity Cache");
    }

    #[test]
    fn a_cpu_has_its_measured_roofs() {
        let measured = vec![
            MeasuredRoof {
                what: "fma f32".into(),
                value: 2e11,
                unit: "FLOP/s".into(),
                dtype: Some(Dtype::F32),
                method: "probe".into(),
            },
            MeasuredRoof { what: "dram read".into(), value: 3e10, unit: "B/s".into(), dtype: None, method: "probe".into() },
        ];
        let info = DeviceInfo { backend: crate::Backend::Cpu, measured, ..crate::device::tests::unknown() };
        let work = Work::arithmetic(Flops(2 << 30), Bytes(3 << 20));
        let r = record(work, Metric::Arithmetic, Level::Dram, Dtype::F32, 0.02, None);
        let p = place(&r, &info, Specs::built_in()).unwrap();
        assert_eq!((p.roofs.len(), p.roofs[0].kind), (1, RoofKind::Empirical));
        assert!((p.roofs[0].value - 0.2).abs() < 1e-9);
    }

    #[test]
    fn what_ranks_share_is_a_roof_for_two_and_none_for_one() {
        let measured =
            vec![MeasuredRoof { what: "peer copy".into(), value: 20e9, unit: "B/s".into(), dtype: None, method: "probe".into() }];
        let info = DeviceInfo { backend: crate::Backend::Cpu, measured, ..crate::device::tests::unknown() };
        let roofs = |case: &str| {
            let work = Work { bus_factor: Some(1.0), ..Work::bytes(Bytes(1_000_000_000)) };
            let mut r = record(work, Metric::BusBandwidth, Level::Peer, Dtype::F32, 0.1, None);
            r.case = CaseId::new(case).unwrap();
            place(&r, &info, Specs::built_in()).unwrap().roofs.len()
        };
        assert_eq!((roofs("collectives/all_reduce/r2/1GiB/f32"), roofs("collectives/all_reduce/r1/1GiB/f32")), (1, 0));
    }

    proptest! {
        #[test]
        fn busbw_is_algbw_times_the_factor(bytes in 1u64..1 << 40, seconds in 1e-6f64..10.0, factor in 0.0f64..2.0) {
            let work = Work { bus_factor: Some(factor), ..Work::bytes(Bytes(bytes)) };
            let r = record(work, Metric::BusBandwidth, Level::Peer, Dtype::F32, seconds, None);
            let p = place(&r, &h100(), Specs::built_in()).unwrap();
            prop_assert!((p.achieved - bytes as f64 / seconds / 1e9 * factor).abs() <= 1e-9 * p.achieved.max(1e-12));
        }
    }
}
