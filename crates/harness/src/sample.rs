//! Samples until the median is known well enough: the stopping rule of method version 1.

use crate::sustain::sustain;
use crate::timer::Timer;
use crate::{Ready, Window};
use ridgepoint_core::record::{Clock, Stop};
use ridgepoint_core::stats::Summary;
use ridgepoint_core::{Samples, Seconds};
use ridgepoint_device::Result;
use std::time::Instant;

/// Times a warm case by the rules of the timer's policy.
///
/// # Errors
/// The first device error.
pub(crate) fn sample(timer: &mut Timer<'_>, ready: &mut dyn Ready, window: &Window) -> Result<Samples> {
    let executions = timer.executions(ready);
    let mut course = match timer.policy.sustain {
        Some(time) => {
            let device = timer.device;
            sustain(time, executions, &mut || timer.batch(ready), device, window)?
        }
        None => until_known(timer, ready, window)?,
    };
    course.observed_mhz.extend(timer.observed_mhz(ready)?);
    Ok(Samples {
        seconds: course.seconds.into_iter().map(Seconds).collect(),
        batch: executions,
        clock: course.clock,
        warmup: timer.warmup,
        steady: timer.steady,
        stop: course.stop,
        graph: timer.has_graph() || ready.replays(),
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

/// Samples until the median is known as well as the policy wants. Work that times itself (ranks that send, launches as such) finds
/// its outputs poisoned before the last sample, which is what is checked: one that wrote nothing would else pass on what the sample
/// before it left. Kernels rotate over sets of operands, each of which was poisoned before its first run.
fn until_known(timer: &mut Timer<'_>, ready: &mut dyn Ready, window: &Window) -> Result<Course> {
    let (policy, executions) = (timer.policy, timer.executions(ready));
    let started = Instant::now();
    let (mut seconds, mut throttled, mut observed_mhz) = (Vec::new(), Vec::new(), Vec::new());
    let mut next_check = policy.min_samples;
    let mut clock;
    let mut last = None;
    let stop = loop {
        if seconds.len() + 1 >= policy.max_samples {
            last = Some(Stop::SampleLimit);
        }
        if last.is_some() && timer.by_itself() {
            timer.start_over(ready)?;
        }
        let timing = timer.batch(ready)?;
        clock = timing.clock;
        if window.throttled() {
            throttled.push(seconds.len());
        }
        seconds.push(timing.seconds.0 / executions as f64);
        if let Some(stop) = last {
            break stop;
        }
        if seconds.len() < policy.min_samples {
            continue;
        }
        if started.elapsed().as_secs_f64() >= policy.time_limit.0 {
            last = Some(Stop::TimeLimit);
        } else if seconds.len() >= next_check {
            // Looking after every sample would stop on the first lucky streak, and sort again each time: look at every tenth more.
            if Summary::of(&seconds).is_some_and(|s| s.ci <= policy.target_ci) {
                last = Some(Stop::Converged);
            }
            next_check = seconds.len() + seconds.len().div_ceil(10);
            observed_mhz.extend(timer.device.observed_mhz()?);
        }
        if let Some(stop) = last.filter(|_| !timer.by_itself()) {
            break stop;
        }
    };
    Ok(Course { seconds, clock, stop, observed_mhz, throttled })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Counts, Policy, Profile};
    use ridgepoint_core::{Cache, Verification};
    use ridgepoint_device::Timing;
    use ridgepoint_device::fake::{FakeDevice, Settings};

    /// Ranks that write what they should in the first batches alone.
    struct Tiring {
        batches: usize,
        written: bool,
    }

    impl Ready for Tiring {
        fn enqueue(&mut self, _turn: usize) -> Result<()> {
            self.written = true;
            Ok(())
        }

        fn poison(&mut self) -> Result<()> {
            self.written = false;
            Ok(())
        }

        fn run_timed(&mut self, _first: usize, n: u64) -> Option<Result<Timing>> {
            self.written |= self.batches > 0;
            self.batches = self.batches.saturating_sub(1);
            Some(Ok(Timing { seconds: Seconds(1e-4 * n as f64), clock: Clock::Host }))
        }

        fn check(&mut self) -> Result<Verification> {
            unreachable!("the outputs themselves are looked at")
        }
    }

    #[test]
    fn what_the_last_timed_batch_wrote_is_what_is_checked() {
        let device = FakeDevice::new(Settings::default());
        // One batch to warm up and ten samples: the tenth writes nothing. Without numbers there are many.
        for (executions, batches) in [(Some(40), 10), (None, 10), (Some(40), 11), (None, usize::MAX)] {
            let mut policy = Policy::of(Profile::Quick);
            policy.counts = Counts { warmup: Some(1), executions };
            let mut ready = Tiring { batches, written: false };
            let mut timer = Timer::start(&mut ready, Cache::Hot, &device, &policy).unwrap();
            sample(&mut timer, &mut ready, &Window::open(None)).unwrap();
            timer.run_the_rest(&mut ready).unwrap();
            assert_eq!(ready.written, batches > 10, "{executions:?} {batches}");
        }
    }
}
