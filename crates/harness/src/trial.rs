//! The short timing by which a suite chooses between launches or algorithms before it measures the one it chose.

use ridgepoint_core::Seconds;
use ridgepoint_device::{Device, Result};

/// Runs timed together, after one that is not.
const RUNS: usize = 3;

/// Time of one execution of `run(turn)`, over a few after one to warm up.
///
/// # Errors
/// That of `run`, or of the device.
pub fn trial(device: &dyn Device, run: &mut dyn FnMut(usize) -> Result<()>) -> Result<Seconds> {
    run(0)?;
    // Held back as when it is measured, so that a way of two launches pays no gap that it will not have.
    let hold = device.hold()?;
    let start = device.record()?;
    (0..RUNS).try_for_each(run)?;
    let end = device.record()?;
    drop(hold);
    device.elapsed(&start, &end).map(|all| Seconds(all.0 / RUNS as f64))
}
