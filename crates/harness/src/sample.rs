//! Method version 1: warm up until steady, size the batch, sample until the median is known well enough.

use crate::sustain::sustain;
use crate::{Policy, Ready, Window};
use ridgepoint_core::record::{Clock, Stop};
use ridgepoint_core::stats::Summary;
use ridgepoint_core::{Cache, Samples, Seconds};
use ridgepoint_device::{Device, Graph, Result, Timing};
use std::time::Instant;

/// Batches whose launches are shorter than this go through a captured graph, where the device has them: a stream launch
/// costs about 2.5 µs of the device's time, one inside a graph half of that.
const SHORT_LAUNCH: Seconds = Seconds(50e-6);

/// Times `ready` by the rules of `policy`.
///
/// # Errors
/// The first device error.
pub fn sample(ready: &mut dyn Ready, cache: Cache, device: &dyn Device, policy: &Policy, window: &Window) -> Result<Samples> {
    let turns = ready.turns();
    let mut runner = Runner {
        device,
        policy,
        graph: None,
        ran: vec![false; turns],
        turn: 0,
        by_itself: false,
        evict: cache == Cache::Cold && ready.turns() < 2 && !ready.cold_by_itself(),
        ready,
    };
    let (single, warmup, steady) = runner.warm_up()?;
    let batch = if runner.evict { 1 } else { batch_size(single, policy) };
    runner.capture(single, batch)?;
    let passes = runner.ready.passes();

    let mut course = match policy.sustain {
        Some(time) => sustain(time, batch * passes, &mut || runner.run(batch), device, window)?,
        None => until_known(&mut runner, batch, policy, window)?,
    };
    course.observed_mhz.extend(runner.observed_mhz()?);
    runner.run_the_rest()?;
    Ok(Samples {
        seconds: course.seconds.into_iter().map(Seconds).collect(),
        batch: batch * passes,
        clock: course.clock,
        warmup,
        steady,
        stop: course.stop,
        graph: runner.graph.is_some() || runner.ready.replays(),
        observed_mhz: course.observed_mhz,
        throttled: course.throttled,
    })
}

/// What the timed runs gave.
pub(crate) struct Course {
    pub(crate) seconds: Vec<f64>,
    pub(crate) clock: Clock,
    pub(crate) stop: Stop,
    pub(crate) observed_mhz: Vec<f64>,
    /// Indices of samples taken while the device held its clock back.
    pub(crate) throttled: Vec<usize>,
}

/// Samples until the median is known as well as the policy wants.
fn until_known(runner: &mut Runner<'_>, batch: u64, policy: &Policy, window: &Window) -> Result<Course> {
    let passes = runner.ready.passes();
    let started = Instant::now();
    let (mut seconds, mut throttled, mut observed_mhz) = (Vec::new(), Vec::new(), Vec::new());
    let mut next_check = policy.min_samples;
    let mut clock;
    let stop = loop {
        let timing = runner.run(batch)?;
        clock = timing.clock;
        if window.throttled() {
            throttled.push(seconds.len());
        }
        seconds.push(timing.seconds.0 / (batch * passes) as f64);
        if seconds.len() < policy.min_samples {
            continue;
        }
        if started.elapsed().as_secs_f64() >= policy.time_limit.0 {
            break Stop::TimeLimit;
        }
        if seconds.len() >= policy.max_samples {
            break Stop::SampleLimit;
        }
        // Looking after every sample would stop on the first lucky streak, and sort again each time: look at every tenth more.
        if seconds.len() >= next_check {
            if Summary::of(&seconds).is_some_and(|s| s.ci <= policy.target_ci) {
                break Stop::Converged;
            }
            next_check = seconds.len() + seconds.len().div_ceil(10);
            observed_mhz.extend(runner.device.observed_mhz()?);
        }
    };
    Ok(Course { seconds, clock, stop, observed_mhz, throttled })
}

/// Executions a batch needs so that it lasts `min_sample`, within what a held queue may hold.
fn batch_size(single: Seconds, policy: &Policy) -> u64 {
    if single.0 <= 0.0 {
        return policy.max_held;
    }
    ((policy.min_sample.0 / single.0).ceil() as u64).clamp(1, policy.max_held)
}

struct Runner<'a> {
    device: &'a dyn Device,
    policy: &'a Policy,
    ready: &'a mut dyn Ready,
    graph: Option<(Graph, u64)>,
    /// Which operand sets ran since the outputs were poisoned.
    ran: Vec<bool>,
    turn: usize,
    /// The work times itself: how its launches are made is its own affair.
    by_itself: bool,
    evict: bool,
}

impl Runner<'_> {
    /// Runs until the policy's warm-up time is over and the last four times lie within 2 % of each other.
    /// Returns the last single execution's time, the time spent, and whether it became steady.
    fn warm_up(&mut self) -> Result<(Seconds, Seconds, bool)> {
        let started = Instant::now();
        let mut recent = Vec::new();
        let mut n = 1;
        loop {
            let timing = self.run(n)?;
            let single = timing.seconds.0 / n as f64;
            recent.push(single);
            // Grow towards a full sample, so that steadiness is judged at the length that will be measured.
            if !self.evict {
                n = batch_size(Seconds(single), self.policy).min(n * 8);
            }
            let elapsed = started.elapsed().as_secs_f64();
            let steady = recent.len() >= 4 && spread(&recent[recent.len() - 4..]) < 0.02;
            if (elapsed >= self.policy.warmup.0 && steady) || (elapsed >= self.policy.warmup_limit.0 && recent.len() >= 2) {
                return Ok((Seconds(single), Seconds(elapsed), steady));
            }
        }
    }

    /// Captures a batch of short launches as a graph, so that their gaps do not count.
    fn capture(&mut self, single: Seconds, batch: u64) -> Result<()> {
        if self.by_itself || self.evict || batch < 2 || single.0 > SHORT_LAUNCH.0 {
            return Ok(());
        }
        let turns = self.ready.turns();
        let (device, ready, first) = (self.device, &mut *self.ready, self.turn);
        let graph = device.capture(&mut || (0..batch as usize).try_for_each(|i| ready.enqueue((first + i) % turns)))?;
        self.graph = graph.map(|g| (g, batch));
        if self.graph.is_some() {
            self.mark(first, batch);
        }
        Ok(())
    }

    /// Times `n` executions.
    fn run(&mut self, n: u64) -> Result<Timing> {
        let turns = self.ready.turns();
        let first = self.turn;
        self.turn = (self.turn + n as usize) % turns;
        if self.graph.as_ref().is_none_or(|(_, length)| *length != n) {
            self.mark(first, n);
        }
        if self.evict {
            self.device.evict()?;
            self.device.synchronize()?;
        }
        if let Some(timing) = self.ready.run_timed(first, n) {
            self.by_itself = true;
            return timing;
        }
        let hold = if n <= self.policy.max_held { self.device.hold()? } else { None };
        let start = self.device.record()?;
        match &self.graph {
            Some((graph, length)) if *length == n => self.device.replay(graph)?,
            _ => (0..n as usize).try_for_each(|i| self.ready.enqueue((first + i) % turns))?,
        }
        let end = self.device.record()?;
        drop(hold);
        Ok(Timing { seconds: self.device.elapsed(&start, &end)?, clock: self.device.clock() })
    }

    /// Notes that `n` executions from set `first` on have run. A graph replays the sets it was captured with, which are noted then.
    fn mark(&mut self, first: usize, n: u64) {
        let turns = self.ran.len();
        (0..(n as usize).min(turns)).for_each(|i| self.ran[(first + i) % turns] = true);
    }

    /// Runs, untimed, the sets that the timed runs did not come to: all outputs are checked, and none may be left as poison.
    fn run_the_rest(&mut self) -> Result<()> {
        for turn in (0..self.ran.len()).filter(|t| !self.ran[*t]) {
            self.ready.enqueue(turn)?;
        }
        self.device.synchronize()
    }

    /// The clock right after the last timed work, while the device has not yet cooled down or sped up.
    fn observed_mhz(&mut self) -> Result<Option<f64>> {
        self.ready.enqueue(self.turn)?;
        let clock = self.device.observed_mhz()?;
        self.device.synchronize()?;
        Ok(clock)
    }
}

/// Largest over smallest, less one.
fn spread(times: &[f64]) -> f64 {
    let (min, max) = times.iter().fold((f64::INFINITY, 0.0f64), |(min, max), t| (min.min(*t), max.max(*t)));
    if min > 0.0 { max / min - 1.0 } else { f64::INFINITY }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Profile;

    #[test]
    fn batches_last_a_millisecond_and_fit_the_queue() {
        let policy = Policy::of(Profile::Standard);
        assert_eq!(batch_size(Seconds(2e-3), &policy), 1);
        assert_eq!(batch_size(Seconds(1e-4), &policy), 10);
        assert_eq!(batch_size(Seconds(1e-9), &policy), 512);
        assert_eq!(batch_size(Seconds(0.0), &policy), 512);
    }

    #[test]
    fn steadiness_is_a_ratio() {
        assert!(spread(&[1.0, 1.01]) < 0.02);
        assert!(spread(&[0.0, 1.0]).is_infinite());
    }
}
