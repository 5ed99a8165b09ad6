//! A soak: loads in turn for a given time, every result held against a verified one, and what the sensors said all the while.
//!
//! The device compares: each output is set beside a copy of a verified one, bit by bit, before the next execution overwrites it,
//! so that a device that computes wrong once in a million executions is found and never waits for the host. Now and then the
//! host checks the outputs against the reference too, and poisons them, so that an execution that does nothing is found as well.

use crate::suite::Suite;
use crate::window::{PERIOD, Timed, Window, summarise};
use crate::{Measured, Prepared};
use ridgepoint_core::record::{Soak, Span, Stop, Telemetry};
use ridgepoint_core::stats::median_of_sorted;
use ridgepoint_core::{Case, CaseId, Component, Outcome, Samples, Seconds, Verification};
use ridgepoint_device::{Arg, Buffer, Device, DeviceError, Geometry, Kernel, Program, Reading, Result};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Most samples of a record; of more, neighbours are joined.
const MOST_SAMPLES: usize = 2000;
/// Most readings kept, whatever the length.
const MOST_READINGS: u32 = 20_000;
/// Most timed groups in a batch, so that a queue is not filled.
const MOST_GROUPS: usize = 128;
/// Executions of each operand set by which it is found out whether a load gives the same bits every time.
const TRIALS: usize = 16;

/// How long, and in which rhythm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// The whole.
    pub length: Duration,
    /// How long one load runs before it is the next one's turn; under a second the loads are as good as mixed.
    pub turn: Duration,
    /// Time between checks on the host.
    pub check_every: Duration,
}

impl Plan {
    /// Work is enqueued in batches of about this length: short enough to end soon when asked to.
    fn batch(&self) -> Duration {
        self.turn.clamp(Duration::from_millis(20), Duration::from_millis(250))
    }
}

/// A load: a case that is repeated.
#[derive(Clone)]
pub struct Load {
    /// The suite that makes it ready.
    pub suite: &'static dyn Suite,
    /// What is repeated.
    pub case: Case,
    /// Who does it.
    pub provider: String,
}

impl Load {
    /// The case of the soak itself: `soak/gemm/m8192n8192k8192/bf16`.
    ///
    /// # Errors
    /// One sentence for an id that would be too long.
    pub fn soak(&self) -> std::result::Result<Case, String> {
        Ok(Case { id: CaseId::new(format!("soak/{}", self.case.id))?, component: Component::Soak, ..self.case.clone() })
    }
}

/// What is seen of a soak under way.
#[derive(Clone, Debug, Default)]
pub struct Glance {
    /// Since its beginning.
    pub elapsed: Duration,
    /// The latest time of one execution of each load; None before its first turn.
    pub executions: Vec<Option<Seconds>>,
    /// Words that differed and checks that failed, so far.
    pub wrong: u64,
    /// The newest reading of the sensors.
    pub reading: Option<Reading>,
}

/// Soaks a device; `watch` is called after every batch and ends it by returning false. A result for each load, in their order:
/// never a panic, what went wrong is the result.
pub fn soak(
    loads: &[Load],
    device: &dyn Device,
    plan: &Plan,
    seed: u64,
    watch: &mut dyn FnMut(&Glance) -> bool,
) -> Vec<Measured> {
    let mut made: Vec<Measured> = loads.iter().map(|l| Measured::of(&l.case)).collect();
    let mut running = Vec::new();
    for (index, load) in loads.iter().enumerate() {
        match Running::start(load, device, seed, index, &mut made[index]) {
            Ok(ready) => running.push(ready),
            Err(error) => made[index] = made[index].clone().ended(Err(error)),
        }
    }
    if running.is_empty() {
        return made;
    }
    let period = PERIOD.max(plan.length / MOST_READINGS);
    let window = Window::every(period, device.sensors());
    let started = Instant::now();
    let outcome = keep_up(&mut running, loads.len(), plan, &window, started, watch);
    let length = started.elapsed();
    let readings = window.end();
    let error = outcome.err();
    for (nth, load) in running.into_iter().enumerate() {
        let index = load.index;
        // The counters of the whole time belong to the device: told once, or a rule that adds them up would count them twice.
        let telemetry = telemetry(&readings, nth == 0);
        made[index].soak = Some(Box::new(load.soak(length, &readings)));
        let outcome = match &error {
            Some(error) => Err(error.clone()),
            None => load.outcome(telemetry),
        };
        made[index] = made[index].clone().ended(outcome);
    }
    made
}

/// Gives each load its turns until the time is over.
fn keep_up(
    running: &mut [Running<'_>],
    loads: usize,
    plan: &Plan,
    window: &Window,
    started: Instant,
    watch: &mut dyn FnMut(&Glance) -> bool,
) -> Result<()> {
    let (mut at, mut turn) = (0, Instant::now());
    let mut glance = Glance { executions: vec![None; loads], ..Glance::default() };
    while started.elapsed() < plan.length {
        let load = &mut running[at];
        let execution = load.batch(plan.batch(), started)?;
        if window.throttled() {
            load.mark_throttled();
        }
        if load.checked.elapsed() >= plan.check_every {
            load.check()?;
        }
        glance.executions[load.index] = Some(execution);
        glance.elapsed = started.elapsed();
        glance.wrong = running.iter().map(|r| r.different + u64::from(r.wrong_checks)).sum();
        glance.reading = window.newest();
        if !watch(&glance) {
            break;
        }
        if turn.elapsed() >= plan.turn {
            (at, turn) = ((at + 1) % running.len(), Instant::now());
        }
    }
    // What the last executions left behind counts too.
    running.iter_mut().filter(|r| r.unchecked).try_for_each(Running::check)
}

/// A batch that was timed.
struct Batch {
    /// Its end, seconds since the beginning.
    until: f64,
    /// One execution.
    seconds: f64,
    throttled: bool,
    different: u64,
}

/// A load under way.
struct Running<'d> {
    device: &'d dyn Device,
    /// Its place among the loads asked for.
    index: usize,
    prepared: Prepared<'d>,
    /// What outputs are compared with; None where they cannot be.
    witness: Option<Witness>,
    batches: Vec<Batch>,
    busy: f64,
    executions: u64,
    compared: u64,
    different: u64,
    checks: u32,
    wrong_checks: u32,
    /// All checks together.
    verification: Verification,
    /// When the outputs were last checked, and whether anything ran since: what was checked is poison afterwards.
    checked: Instant,
    unchecked: bool,
    /// Operand sets executed between two timestamps, and how many such groups make a batch.
    groups: usize,
}

impl<'d> Running<'d> {
    /// Makes a load ready and verifies it; a wrong result here is counted like one later.
    fn start(load: &Load, device: &'d dyn Device, seed: u64, index: usize, made: &mut Measured) -> Result<Self> {
        let mut prepared = load.suite.prepare(&load.case, &load.provider, device, seed)?;
        made.config = std::mem::take(&mut prepared.config);
        made.labels = std::mem::take(&mut prepared.labels);
        made.dtype = prepared.dtype;
        let verification = Verification { method: String::new(), error: 0.0, tolerance: 0.0, checked: 0, wrong: 0 };
        let mut running = Self {
            device,
            index,
            prepared,
            witness: None,
            batches: Vec::new(),
            busy: 0.0,
            executions: 0,
            compared: 0,
            different: 0,
            checks: 0,
            wrong_checks: 0,
            verification,
            checked: Instant::now(),
            unchecked: false,
            groups: 1,
        };
        running.prepared.ready.poison()?;
        running.all_turns()?;
        running.check()?;
        // A copy of a wrong result is no witness.
        if running.wrong_checks == 0 {
            running.all_turns()?;
            running.witness = Witness::of(device, running.prepared.ready.as_ref())?;
            running.try_witness()?;
        }
        let how = if running.witness.is_some() { "each result, on the device" } else { "samples, by the host" };
        made.config.insert("compared".into(), how.into());
        Ok(running)
    }

    fn turns(&self) -> usize {
        self.prepared.ready.turns()
    }

    fn all_turns(&mut self) -> Result<()> {
        (0..self.turns()).try_for_each(|turn| self.prepared.ready.enqueue(turn))?;
        self.device.synchronize()
    }

    /// A load whose results differ from run to run in their last bits (sums in the order in which threads arrive) has no witness.
    /// One that differs once, or by more than its tolerance, has one, and is wrong.
    fn try_witness(&mut self) -> Result<()> {
        let Some(witness) = &mut self.witness else { return Ok(()) };
        let (mut differed, mut words) = (0, 0);
        for turn in (0..self.prepared.ready.turns()).cycle().take(TRIALS * self.prepared.ready.turns()) {
            self.prepared.ready.enqueue(turn)?;
            witness.compare(self.device, turn)?;
            let different = witness.take(self.device)?;
            if different > 0 {
                (differed, words) = (differed + 1, words + different);
            }
        }
        if differed > 0 {
            self.check()?;
        }
        if differed > 1 && self.wrong_checks == 0 {
            self.witness = None;
        } else {
            self.different += words;
        }
        Ok(())
    }

    /// Runs for about `length`, and compares every result that has a witness. Gives the time of one execution.
    fn batch(&mut self, length: Duration, started: Instant) -> Result<Seconds> {
        let (device, turns) = (self.device, self.turns());
        self.unchecked = true;
        let mut stamps = Vec::with_capacity(self.groups);
        let whole = device.record()?;
        for _ in 0..self.groups {
            let start = device.record()?;
            (0..turns).try_for_each(|turn| self.prepared.ready.enqueue(turn))?;
            stamps.push((start, device.record()?));
            if let Some(witness) = &mut self.witness {
                (0..turns).try_for_each(|turn| witness.compare(device, turn))?;
            }
        }
        let end = device.record()?;
        let busy = device.elapsed(&whole, &end)?.0;
        let mut worked = 0.0;
        for (start, end) in &stamps {
            worked += device.elapsed(start, end)?.0;
        }
        let different = self.witness.as_mut().map_or(Ok(0), |w| w.take(device))?;
        let executions = (self.groups * turns) as u64;
        let seconds = worked / (executions * self.prepared.ready.passes()) as f64;
        self.executions += executions;
        self.compared += if self.witness.is_some() { executions } else { 0 };
        self.different += different;
        self.busy += busy;
        self.batches.push(Batch { until: started.elapsed().as_secs_f64(), seconds, throttled: false, different });
        let fit = length.as_secs_f64() / (busy / self.groups as f64).max(1e-9);
        self.groups = (fit as usize).clamp(1, MOST_GROUPS).min(self.groups * 4);
        Ok(Seconds(seconds))
    }

    fn mark_throttled(&mut self) {
        if let Some(batch) = self.batches.last_mut() {
            batch.throttled = true;
        }
    }

    /// Checks what lies in the outputs against the reference, and poisons them.
    fn check(&mut self) -> Result<()> {
        self.device.synchronize()?;
        let found = self.prepared.ready.check()?;
        self.checks += 1;
        self.wrong_checks += u32::from(!found.passed());
        let all = &mut self.verification;
        all.checked = all.checked.saturating_add(found.checked);
        all.wrong = all.wrong.saturating_add(found.wrong);
        if found.error > all.error || found.error.is_nan() {
            all.error = found.error;
        }
        (all.method, all.tolerance) = (found.method, found.tolerance);
        self.prepared.ready.poison()?;
        (self.checked, self.unchecked) = (Instant::now(), false);
        Ok(())
    }

    fn soak(&self, length: Duration, readings: &[Timed]) -> Soak {
        Soak {
            seconds: Seconds(length.as_secs_f64()),
            busy: Seconds(self.busy),
            executions: self.executions,
            compared: self.compared,
            different: self.different,
            checks: self.checks,
            wrong_checks: self.wrong_checks,
            throttled: throttled(readings),
            timeline: timeline(&self.batches, readings, length.as_secs_f64()),
        }
    }

    fn outcome(self, telemetry: Telemetry) -> Result<Outcome> {
        let Verification { method, error, tolerance, checked, wrong } = self.verification;
        let compared = if self.compared > 0 { "; each result against a verified one, bit by bit" } else { "" };
        let verification = Verification {
            method: format!("{method}, {} times{compared}", self.checks),
            error,
            tolerance,
            checked,
            wrong: wrong.saturating_add(self.different),
        };
        if self.wrong_checks > 0 || !verification.passed() {
            return Ok(Outcome::Wrong { verification });
        }
        if self.batches.is_empty() {
            return Err(DeviceError::unsupported("the soak ended before it was this load's turn"));
        }
        let samples = samples(&self.batches, self.executions * self.prepared.ready.passes(), self.device.clock());
        Ok(Outcome::Measured { samples, verification, telemetry })
    }
}

/// Copies of verified outputs, and a counter of words that differ from them.
struct Witness {
    kernel: Kernel,
    count: Buffer,
    seen: u32,
    /// By operand set: the outputs and their copies.
    pairs: Vec<Vec<(Buffer, Buffer)>>,
    units: u32,
}

impl Witness {
    /// Of outputs that were just verified. None where there are none to compare, no kernel for it or no memory left.
    fn of(device: &dyn Device, ready: &dyn crate::Ready) -> Result<Option<Self>> {
        let most = device.binding_limit().unwrap_or(u64::MAX);
        let mut pairs = Vec::new();
        for turn in 0..ready.turns() {
            let outputs = ready.outputs(turn);
            if outputs.is_empty() || outputs.iter().any(|o| o.len() as u64 > most || o.len() < 4) {
                return Ok(None);
            }
            let copied = outputs.into_iter().map(|output| {
                let copy = device.alloc(output.len())?;
                device.copy(&output, 0, &copy, 0, output.len())?;
                Ok((output, copy))
            });
            match copied.collect::<Result<Vec<_>>>() {
                Ok(copied) => pairs.push(copied),
                Err(DeviceError::OutOfMemory { .. } | DeviceError::Unsupported(_)) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        let kernel = match device.compile(&Program { name: "common/differ", ..Program::default() }, "rp_differ") {
            Err(DeviceError::Unsupported(_)) => return Ok(None),
            kernel => kernel?,
        };
        let count = device.alloc(4)?;
        device.upload(&count, 0, &[0; 4])?;
        device.synchronize()?;
        Ok(Some(Self { kernel, count, seen: 0, pairs, units: device.info().units.max(1) }))
    }

    /// Enqueues the comparison of an operand set's outputs.
    fn compare(&mut self, device: &dyn Device, turn: usize) -> Result<()> {
        for (output, copy) in &self.pairs[turn] {
            let words = output.len() as u64 / 4;
            let blocks = words.div_ceil(256).min(u64::from(self.units) * 32).clamp(1, 65_535) as u32;
            let args = [Arg::Buffer(output, 0), Arg::Buffer(copy, 0), Arg::Buffer(&self.count, 0), Arg::U64(words)];
            device.launch(&self.kernel, Geometry::linear(blocks, 256), &args)?;
        }
        Ok(())
    }

    /// Words that differed since it was last asked.
    fn take(&mut self, device: &dyn Device) -> Result<u64> {
        let mut bytes = [0; 4];
        device.download(&self.count, 0, &mut bytes)?;
        let now = u32::from_le_bytes(bytes);
        let since = now.wrapping_sub(self.seen);
        self.seen = now;
        Ok(since.into())
    }
}

/// What the sensors said, in a few numbers.
fn telemetry(readings: &[Timed], with_counters: bool) -> Telemetry {
    let all: Vec<Reading> = readings.iter().map(|(_, r)| r.clone()).collect();
    let mut telemetry = summarise(&all);
    if !with_counters {
        telemetry.counter_deltas.clear();
    }
    telemetry
}

/// Seconds by throttle reason: a reading speaks for the time since the one before.
fn throttled(readings: &[Timed]) -> BTreeMap<String, Seconds> {
    let mut found: BTreeMap<String, Seconds> = BTreeMap::new();
    for pair in readings.windows(2) {
        for reason in &pair[1].1.throttle_reasons {
            found.entry((*reason).to_owned()).or_default().0 += pair[1].0 - pair[0].0;
        }
    }
    found
}

/// A record's samples: one a batch, or the median of several neighbours.
fn samples(batches: &[Batch], executions: u64, clock: ridgepoint_core::record::Clock) -> Samples {
    let joined: Vec<&[Batch]> = batches.chunks(batches.len().div_ceil(MOST_SAMPLES).max(1)).collect();
    let seconds: Vec<Seconds> = joined.iter().map(|b| Seconds(median(b.iter().map(|b| b.seconds)).unwrap_or_default())).collect();
    let mostly = |b: &[Batch]| b.iter().filter(|b| b.throttled).count() * 2 > b.len();
    Samples {
        seconds,
        batch: (executions / batches.len().max(1) as u64).max(1),
        clock,
        warmup: Seconds(0.0),
        steady: true,
        stop: Stop::TimeLimit,
        graph: false,
        observed_mhz: Vec::new(),
        throttled: joined.iter().enumerate().filter(|(_, b)| mostly(b)).map(|(i, _)| i).collect(),
    }
}

/// The course of a load in spans of equal length, none shorter than a second.
fn timeline(batches: &[Batch], readings: &[Timed], length: f64) -> Vec<Span> {
    let spans = (length.ceil() as usize).clamp(1, Soak::SPANS);
    let span = length / spans as f64;
    (0..spans)
        .map(|i| {
            let within = |t: f64| t > i as f64 * span && (t <= (i + 1) as f64 * span || i + 1 == spans);
            let here = || batches.iter().filter(|b| within(b.until));
            let mut sensors: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
            for (name, value) in readings.iter().filter(|(t, _)| within(*t)).flat_map(|(_, r)| &r.sensors) {
                sensors.entry(name).or_default().push(*value);
            }
            Span {
                until: Seconds((i + 1) as f64 * span),
                execution: median(here().map(|b| b.seconds)).map(Seconds),
                sensors: sensors.into_iter().filter_map(|(n, v)| Some((n.to_owned(), median(v.into_iter())?))).collect(),
                different: here().map(|b| b.different).sum(),
            }
        })
        .collect()
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.filter(|v| v.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    (!sorted.is_empty()).then(|| median_of_sorted(&sorted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(until: f64, seconds: f64) -> Batch {
        Batch { until, seconds, throttled: until > 2.0, different: u64::from(until > 3.5) }
    }

    fn reading(reasons: &[&'static str], mhz: f64) -> Reading {
        Reading { sensors: BTreeMap::from([("clock_mhz", mhz)]), throttle_reasons: reasons.to_vec(), ..Reading::default() }
    }

    #[test]
    fn throttled_time_is_counted_by_reason() {
        let readings = [
            (0.0, reading(&[], 1.0)),
            (1.0, reading(&["heat"], 1.0)),
            (1.5, reading(&["heat", "power"], 1.0)),
            (2.0, reading(&[], 1.0)),
        ];
        let found = throttled(&readings);
        assert_eq!(found, BTreeMap::from([("heat".to_owned(), Seconds(1.5)), ("power".to_owned(), Seconds(0.5))]));
    }

    #[test]
    fn a_timeline_has_every_batch_and_a_long_soak_few_samples() {
        let batches = [batch(0.5, 1.0), batch(1.5, 2.0), batch(3.9, 4.0), batch(4.01, 6.0)];
        let line = timeline(&batches, &[(0.1, reading(&[], 900.0)), (3.5, reading(&[], 700.0))], 4.0);
        assert_eq!(line.len(), 4);
        let executions: Vec<_> = line.iter().map(|m| m.execution.map(|s| s.0)).collect();
        assert_eq!(executions, [Some(1.0), Some(2.0), None, Some(5.0)]);
        assert_eq!((line[0].sensors["clock_mhz"], line[3].sensors["clock_mhz"]), (900.0, 700.0));
        assert_eq!(line.iter().map(|m| m.different).sum::<u64>(), 2);
        let long: Vec<Batch> = (0..9000).map(|i| batch(f64::from(i) * 0.25, 1.0)).collect();
        let samples = samples(&long, 90_000, ridgepoint_core::record::Clock::Device);
        assert_eq!((samples.seconds.len(), samples.batch), (1800, 10));
        assert_eq!(timeline(&long, &[], 9000.0 / 4.0).len(), Soak::SPANS);
    }
}
