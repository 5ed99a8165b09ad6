//! What one run found out and the next need not search again: which launch or algorithm is fastest for a case. Kept by chip,
//! architecture, driver and version of Ridgepoint. A result is verified all the same, whatever it was run with.

use ridgepoint_core::Backend;
use ridgepoint_device::{Device, notes};

/// Under which name a device's finding is kept.
fn key(device: &dyn Device, what: &str) -> Option<String> {
    let info = device.info();
    // What a fake device finds out is the test's alone.
    (info.backend != Backend::Fake).then(|| {
        let (name, arch, driver, units) = (&info.name, &info.arch, &info.driver, info.units);
        format!("{} {} {name} {arch} {units} {driver}\n{what}", env!("CARGO_PKG_VERSION"), info.backend)
    })
}

/// What an earlier run found of `what` on such a device.
#[must_use]
pub fn recall(device: &dyn Device, what: &str) -> Option<String> {
    notes::recall(&key(device, what)?)
}

/// Keeps what was found of `what`. Losing it costs a search, so nothing here fails.
pub fn remember(device: &dyn Device, what: &str, found: &str) {
    if let Some(key) = key(device, what) {
        notes::remember(&key, found);
    }
}
