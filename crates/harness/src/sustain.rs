//! Heat: a case kept running for as long as the user says, cut into moments, so that bandwidth or TFLOP/s, clock, power and
//! temperature are seen over time. A burst of a second says what a device can do; a minute says what its cooling lets it do.

use crate::Window;
use crate::sample::Course;
use ridgepoint_core::Seconds;
use ridgepoint_core::record::{Clock, Stop};
use ridgepoint_device::{Device, Result, Timing};
use std::time::Instant;

/// Most moments of a case: enough for a curve, few enough for a record's line.
const MOST_MOMENTS: f64 = 240.0;
/// Shortest moment: sensors change no faster.
const SHORTEST: f64 = 0.1;

/// Runs `batch`, which makes `executions`, for `time`. A sample is the mean over a moment.
pub(crate) fn sustain(
    time: Seconds,
    executions: u64,
    batch: &mut dyn FnMut() -> Result<Timing>,
    device: &dyn Device,
    window: &Window,
) -> Result<Course> {
    let every = (time.0 / MOST_MOMENTS).max(SHORTEST);
    let mut course =
        Course { seconds: vec![], clock: Clock::Host, stop: Stop::TimeLimit, observed_mhz: vec![], throttled: vec![] };
    let started = Instant::now();
    let elapsed = || started.elapsed().as_secs_f64();
    // The last moment may end late, by one batch, but there is always one.
    while course.seconds.is_empty() || elapsed() < time.0 {
        let until = (elapsed() + every).min(time.0.max(every));
        let (mut seconds, mut batches) = (0.0, 0u64);
        while batches == 0 || elapsed() < until {
            let timing = batch()?;
            course.clock = timing.clock;
            seconds += timing.seconds.0;
            batches += 1;
        }
        if window.throttled() {
            course.throttled.push(course.seconds.len());
        }
        let execution = seconds / (batches * executions) as f64;
        let mhz = device.observed_mhz()?;
        course.observed_mhz.extend(mhz);
        course.seconds.push(execution);
        window.mark(Seconds(elapsed()), Seconds(execution), mhz);
    }
    Ok(course)
}
