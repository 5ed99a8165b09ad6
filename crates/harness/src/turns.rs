//! Cases that differ in one thing, measured in turns: a stretch of the first, one of the second, …, and all of them again. What drifts
//! (heat, a neighbour's load) meets all alike, so that what is seen between them is what they differ in.

use crate::suite::Measured;
use crate::{Bench, Policy, Refused, Suite};
use ridgepoint_core::record::Range;
use ridgepoint_core::stats::median_of_sorted;
use ridgepoint_core::{Case, Outcome, Samples, Seconds, Stop, Telemetry};
use ridgepoint_device::{Device, DeviceError};
use std::collections::BTreeMap;
use std::time::Instant;

/// How often each case has its turn.
const ROUNDS: usize = 3;
/// Shortest turn: sensors of power are a mean over a second.
const SHORTEST: Seconds = Seconds(1.0);
/// Most samples of a turn.
const MOST_SAMPLES: usize = 1000;

/// Measures all of `cases` by one provider, in turns. `go_on` is asked before each.
///
/// A case that cannot run, or is wrong, drops out and the others go on. One that was interrupted is a failure.
pub fn measure_in_turns(
    suite: &dyn Suite,
    cases: &[Case],
    provider: &str,
    device: &dyn Device,
    (policy, seed): (&Policy, u64),
    go_on: &dyn Fn() -> bool,
) -> Vec<Measured> {
    let turn = policy.sustain.map_or(Seconds(policy.time_limit.0.max(SHORTEST.0)), |time| Seconds(time.0 / ROUNDS as f64));
    let policy = Policy { time_limit: turn, target_ci: 0.0, max_samples: MOST_SAMPLES, sustain: None, ..*policy };
    let mut contenders: Vec<Contender<'_>> =
        cases.iter().map(|case| Contender::ready(suite, case, provider, device, &policy, seed)).collect();
    for round in 0..ROUNDS {
        // Each round begins with another, so that none always comes after the same one.
        for at in 0..contenders.len() {
            let next = (at + round) % contenders.len();
            if go_on() {
                contenders[next].turn(turn);
            } else {
                contenders[next].give_up(Refused::Error(DeviceError::invalid("interrupted")));
            }
        }
    }
    contenders.into_iter().map(Contender::end).collect()
}

/// A case that has its turns.
struct Contender<'d> {
    measured: Measured,
    bench: Option<Bench<'d>>,
    refused: Option<Refused>,
    turns: Vec<(Samples, Telemetry)>,
}

impl<'d> Contender<'d> {
    fn ready(suite: &dyn Suite, case: &Case, provider: &str, device: &'d dyn Device, policy: &Policy, seed: u64) -> Self {
        let mut contender = Self { measured: Measured::of(case), bench: None, refused: None, turns: Vec::new() };
        let made = suite.prepare(case, provider, device, seed).map_err(Refused::from).and_then(|mut prepared| {
            contender.measured.take(&mut prepared);
            Bench::prove(prepared, case.cache, device, policy)
        });
        match made {
            Ok(bench) => contender.bench = Some(bench),
            Err(refused) => contender.refused = Some(refused),
        }
        contender
    }

    /// Settles for half a turn, so that clock and power are this case's, and then samples.
    fn turn(&mut self, time: Seconds) {
        let Some(bench) = &mut self.bench else { return };
        let started = Instant::now();
        let mut settle = || -> ridgepoint_device::Result<(Samples, Telemetry)> {
            bench.warm_up()?;
            while started.elapsed().as_secs_f64() < time.0 / 2.0 {
                bench.time(1)?;
            }
            bench.sample()
        };
        match settle() {
            Ok(turn) => self.turns.push(turn),
            Err(error) => self.give_up(Refused::Error(error)),
        }
    }

    fn give_up(&mut self, refused: Refused) {
        if self.bench.take().is_some() {
            self.refused = Some(refused);
        }
    }

    /// All turns as one, once their outputs are found right.
    fn end(mut self) -> Measured {
        let outcome = match (self.bench.take(), self.refused.take()) {
            (Some(mut bench), _) => bench.verify().map_err(Refused::from).and_then(|verification| {
                if !verification.passed() {
                    return Err(Refused::Wrong(verification));
                }
                self.measured.config.extend(bench.observed());
                let (samples, telemetry) = joined(self.turns).ok_or_else(|| DeviceError::invalid("it had no turn"))?;
                Ok(Outcome::Measured { samples, verification, telemetry })
            }),
            (None, refused) => Err(refused.unwrap_or_else(|| DeviceError::invalid("it had no turn").into())),
        };
        self.measured.labels.push("in turns".into());
        self.measured.ended(outcome)
    }
}

/// The turns behind each other. Of a sensor's readings the median of the turns' medians stands for all.
fn joined(turns: Vec<(Samples, Telemetry)>) -> Option<(Samples, Telemetry)> {
    let mut turns = turns.into_iter();
    let (mut samples, mut telemetry) = turns.next()?;
    let mut readings: BTreeMap<String, Vec<Range>> = BTreeMap::new();
    let mut keep = |sensors: BTreeMap<String, Range>| {
        sensors.into_iter().for_each(|(name, range)| readings.entry(name).or_default().push(range));
    };
    keep(std::mem::take(&mut telemetry.sensors));
    for (more, told) in turns {
        samples.throttled.extend(more.throttled.iter().map(|i| i + samples.seconds.len()));
        samples.seconds.extend(more.seconds);
        samples.observed_mhz.extend(more.observed_mhz);
        samples.steady &= more.steady;
        keep(told.sensors);
        telemetry.readings += told.readings;
        telemetry.throttle_bits = telemetry.throttle_bits.into_iter().chain(told.throttle_bits).reduce(|a, b| a | b);
        for reason in told.throttle_reasons {
            if !telemetry.throttle_reasons.contains(&reason) {
                telemetry.throttle_reasons.push(reason);
            }
        }
        for (name, delta) in told.counter_deltas {
            *telemetry.counter_deltas.entry(name).or_default() += delta;
        }
    }
    samples.stop = Stop::TimeLimit;
    let range = |all: Vec<Range>| {
        let mut medians: Vec<f64> = all.iter().map(|r| r.median).collect();
        medians.sort_by(f64::total_cmp);
        let ends = (all.iter().map(|r| r.min).fold(f64::INFINITY, f64::min), all.iter().map(|r| r.max).fold(0.0, f64::max));
        Range { min: ends.0, median: median_of_sorted(&medians), max: ends.1 }
    };
    telemetry.sensors = readings.into_iter().map(|(name, all)| (name, range(all))).collect();
    Some((samples, telemetry))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ridgepoint_core::record::Clock;

    #[test]
    fn turns_are_joined_in_their_order() {
        let turn = |seconds: &[f64], throttled: Vec<usize>, watts: f64| {
            let samples = Samples {
                seconds: seconds.iter().copied().map(Seconds).collect(),
                batch: 2,
                clock: Clock::Device,
                warmup: Seconds(0.1),
                steady: true,
                stop: Stop::Converged,
                graph: false,
                observed_mhz: vec![watts],
                throttled,
            };
            let sensors = BTreeMap::from([("power_w".to_owned(), Range { min: watts - 1.0, median: watts, max: watts + 1.0 })]);
            let counter_deltas = BTreeMap::from([("energy_mj".to_owned(), 5)]);
            (
                samples,
                Telemetry { readings: 2, sensors, throttle_bits: Some(watts as u64), counter_deltas, ..Telemetry::default() },
            )
        };
        let (samples, telemetry) =
            joined(vec![turn(&[1.0, 2.0], vec![1], 8.0), turn(&[3.0], vec![0], 1.0), turn(&[4.0], vec![], 4.0)]).unwrap();
        assert_eq!(samples.seconds, [1.0, 2.0, 3.0, 4.0].map(Seconds));
        assert_eq!((samples.throttled, samples.stop, samples.observed_mhz.len()), (vec![1, 2], Stop::TimeLimit, 3));
        assert_eq!(telemetry.sensors["power_w"], Range { min: 0.0, median: 4.0, max: 9.0 });
        assert_eq!((telemetry.readings, telemetry.throttle_bits, telemetry.counter_deltas["energy_mj"]), (6, Some(13), 15));
        assert!(joined(vec![]).is_none());
    }
}
