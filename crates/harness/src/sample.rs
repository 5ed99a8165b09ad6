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

/// Samples until the median is known as well as the policy wants.
fn until_known(timer: &mut Timer<'_>, ready: &mut dyn Ready, window: &Window) -> Result<Course> {
    let (policy, executions) = (timer.policy, timer.executions(ready));
    let started = Instant::now();
    let (mut seconds, mut throttled, mut observed_mhz) = (Vec::new(), Vec::new(), Vec::new());
    let mut next_check = policy.min_samples;
    let mut clock;
    let stop = loop {
        let timing = timer.batch(ready)?;
        clock = timing.clock;
        if window.throttled() {
            throttled.push(seconds.len());
        }
        seconds.push(timing.seconds.0 / executions as f64);
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
            observed_mhz.extend(timer.device.observed_mhz()?);
        }
    };
    Ok(Course { seconds, clock, stop, observed_mhz, throttled })
}
