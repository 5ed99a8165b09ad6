//! Batches of executions, timed: warm, of the size that the policy asks for, cold where the case is.

use crate::{Policy, Ready};
use ridgepoint_core::{Cache, Seconds};
use ridgepoint_device::{Device, Graph, Result, Timing};
use std::time::Instant;

/// Batches whose launches are shorter than this go through a captured graph, where the device has them: a stream launch
/// costs about 2.5 µs of the device's time, one inside a graph half of that.
const SHORT_LAUNCH: Seconds = Seconds(50e-6);

/// Executions a batch needs so that it lasts `min_sample`, within what a held queue may hold.
fn batch_size(single: Seconds, policy: &Policy) -> u64 {
    if single.0 <= 0.0 {
        return policy.max_held;
    }
    ((policy.min_sample.0 / single.0).ceil() as u64).clamp(1, policy.max_held)
}

/// So many executions in all, in ten samples or a few more: the size of a batch, and how many there are. Exactly so many where
/// they divide by the passes and that makes no more than `samples`.
fn counted(executions: u64, passes: u64, most: u64, samples: usize) -> (u64, usize) {
    let batch = executions.div_ceil(10 * passes).clamp(1, most);
    let units = executions / passes;
    let even = |batch: &u64| executions.is_multiple_of(batch * passes) && units / batch <= samples as u64;
    let batch = (1..=batch).rev().find(even).unwrap_or(batch);
    (batch, executions.div_ceil(batch * passes) as usize)
}

/// What times the batches of one case.
pub(crate) struct Timer<'a> {
    pub(crate) device: &'a dyn Device,
    pub(crate) policy: Policy,
    graph: Option<(Graph, u64)>,
    /// Executions enqueued in a batch.
    batch: u64,
    /// Which operand sets ran since the outputs were poisoned.
    ran: Vec<bool>,
    turn: usize,
    /// The work times itself: how its launches are made is its own affair.
    by_itself: bool,
    evict: bool,
    /// Time spent until warm.
    pub(crate) warmup: Seconds,
    /// Whether times were steady then.
    pub(crate) steady: bool,
}

impl<'a> Timer<'a> {
    /// Runs `ready` until it is warm, and readies a batch of it.
    ///
    /// # Errors
    /// The first device error.
    pub(crate) fn start(ready: &mut dyn Ready, cache: Cache, device: &'a dyn Device, policy: &Policy) -> Result<Self> {
        let turns = ready.turns();
        let mut timer = Self {
            device,
            policy: *policy,
            graph: None,
            batch: 1,
            ran: vec![false; turns],
            turn: 0,
            by_itself: false,
            evict: cache == Cache::Cold && turns < 2 && !ready.cold_by_itself(),
            warmup: Seconds(0.0),
            steady: false,
        };
        if let Some(executions) = policy.counts.executions {
            ready.count(executions);
        }
        let single = timer.warm_up(ready)?;
        timer.batch = match policy.counts.executions {
            Some(executions) => timer.count(executions, ready.passes()),
            None if timer.evict => 1,
            None => batch_size(single, policy),
        };
        timer.capture(ready, single)?;
        Ok(timer)
    }

    /// Executions of the case in a batch, passes inside a kernel included.
    pub(crate) fn executions(&self, ready: &dyn Ready) -> u64 {
        self.batch * ready.passes()
    }

    /// True if batches go through a captured graph.
    pub(crate) fn has_graph(&self) -> bool {
        self.graph.is_some()
    }

    /// True if the work times itself, as was seen when it warmed up.
    pub(crate) fn by_itself(&self) -> bool {
        self.by_itself
    }

    /// Poisons all outputs: each set has to run again.
    ///
    /// # Errors
    /// A device error.
    pub(crate) fn start_over(&mut self, ready: &mut dyn Ready) -> Result<()> {
        self.ran.fill(false);
        ready.poison()
    }

    /// Times a batch.
    ///
    /// # Errors
    /// A device error.
    pub(crate) fn batch(&mut self, ready: &mut dyn Ready) -> Result<Timing> {
        self.run(ready, self.batch)
    }

    /// Runs until the policy's warm-up time is over and the last four times lie within 2 % of each other.
    /// Returns the last single execution's time.
    fn warm_up(&mut self, ready: &mut dyn Ready) -> Result<Seconds> {
        let started = Instant::now();
        if let Some(executions) = self.policy.counts.warmup {
            // Without any, how many a sample takes is still to be known.
            let least = u64::from(self.policy.counts.executions.is_none());
            let (mut left, mut single) = (executions.max(least).div_ceil(ready.passes()), 0.0);
            while left > 0 {
                let n = left.min(if self.evict { 1 } else { self.policy.max_held });
                single = self.run(ready, n)?.seconds.0 / n as f64;
                left -= n;
            }
            self.warmup = Seconds(started.elapsed().as_secs_f64());
            return Ok(Seconds(single));
        }
        let mut recent = Vec::new();
        let mut n = 1;
        loop {
            let timing = self.run(ready, n)?;
            let single = timing.seconds.0 / n as f64;
            recent.push(single);
            // Grow towards a full sample, so that steadiness is judged at the length that will be measured.
            if !self.evict {
                n = batch_size(Seconds(single), &self.policy).min(n * 8);
            }
            let elapsed = started.elapsed().as_secs_f64();
            self.steady = recent.len() >= 4 && spread(&recent[recent.len() - 4..]) < 0.02;
            let enough = elapsed >= self.policy.warmup.0 && self.steady;
            if enough || (elapsed >= self.policy.warmup_limit.0 && recent.len() >= 2) {
                self.warmup = Seconds(elapsed);
                return Ok(Seconds(single));
            }
        }
    }

    /// Has sampling stop after so many executions, and gives the size of a batch of them.
    fn count(&mut self, executions: u64, passes: u64) -> u64 {
        let most = if self.evict { 1 } else { self.policy.max_held };
        let (batch, samples) = counted(executions, passes, most, self.policy.max_samples);
        (self.policy.min_samples, self.policy.max_samples) = (samples, samples);
        self.policy.time_limit = Seconds(f64::INFINITY);
        batch
    }

    /// Captures a batch of short launches as a graph, so that their gaps do not count.
    fn capture(&mut self, ready: &mut dyn Ready, single: Seconds) -> Result<()> {
        if self.by_itself || self.evict || self.batch < 2 || single.0 > SHORT_LAUNCH.0 {
            return Ok(());
        }
        let (turns, first) = (ready.turns(), self.turn);
        // A graph begins with the same set each time: whole rounds, or the last ones of it would be met again too soon.
        let rounds = self.batch.next_multiple_of(turns as u64);
        if self.policy.counts.executions.is_none() && rounds <= self.policy.max_held {
            self.batch = rounds;
        }
        let batch = self.batch;
        let graph = self.device.capture(&mut || (0..batch as usize).try_for_each(|i| ready.enqueue((first + i) % turns)))?;
        self.graph = graph.map(|g| (g, batch));
        if self.graph.is_some() {
            self.mark(first, batch);
        }
        Ok(())
    }

    /// Times `n` executions.
    fn run(&mut self, ready: &mut dyn Ready, n: u64) -> Result<Timing> {
        let turns = ready.turns();
        let first = self.turn;
        self.turn = (self.turn + n as usize) % turns;
        if self.graph.as_ref().is_none_or(|(_, length)| *length != n) {
            self.mark(first, n);
        }
        if self.evict {
            self.device.evict()?;
            self.device.synchronize()?;
        }
        if let Some(timing) = ready.run_timed(first, n) {
            self.by_itself = true;
            return timing;
        }
        let hold = if n <= self.policy.max_held { self.device.hold()? } else { None };
        let start = self.device.record()?;
        match &self.graph {
            Some((graph, length)) if *length == n => self.device.replay(graph)?,
            _ => (0..n as usize).try_for_each(|i| ready.enqueue((first + i) % turns))?,
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
    ///
    /// # Errors
    /// A device error.
    pub(crate) fn run_the_rest(&mut self, ready: &mut dyn Ready) -> Result<()> {
        for (turn, ran) in self.ran.iter_mut().enumerate() {
            if !std::mem::replace(ran, true) {
                ready.enqueue(turn)?;
            }
        }
        self.device.synchronize()
    }

    /// The clock right after the last timed work, while the device has not yet cooled down or sped up. What times itself ends
    /// before its time is known, and is not run once more: its last timed outputs are those that are checked.
    ///
    /// # Errors
    /// A device error.
    pub(crate) fn observed_mhz(&mut self, ready: &mut dyn Ready) -> Result<Option<f64>> {
        if self.by_itself {
            return self.device.observed_mhz();
        }
        ready.enqueue(self.turn)?;
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
    fn a_fixed_number_is_kept_to_in_ten_samples() {
        let counted = |executions, passes, most| super::counted(executions, passes, most, 2000);
        assert_eq!([counted(20, 1, 512), counted(5, 1, 512), counted(1, 1, 512)], [(2, 10), (1, 5), (1, 1)]);
        // No ten samples are as long as each other: more of them.
        assert_eq!([counted(25, 1, 512), counted(31, 1, 512), counted(20, 10, 512)], [(1, 25), (1, 31), (1, 2)]);
        assert_eq!([counted(100_000, 1, 512), counted(20, 1, 1)], [(500, 200), (1, 20)]);
        // Sixteen passes a launch that do not divide, a number that makes too many samples: a few more than asked for.
        assert_eq!([counted(20, 16, 512), counted(10_007, 1, 512)], [(1, 2), (512, 20)]);
    }

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
