//! What one run found out and the next need not search again: which launch or algorithm is fastest for a case. Kept by chip,
//! architecture, driver and version of Ridgepoint. A result is verified all the same, whatever it was run with.

use crate::Profile;
use ridgepoint_core::Backend;
use ridgepoint_device::{Device, notes};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Most algorithms that a search tries.
static DEPTH: AtomicUsize = AtomicUsize::new(depth_of(Profile::Standard));
/// Whether what earlier runs found is left aside.
static ANEW: AtomicBool = AtomicBool::new(false);

/// How many of a library's algorithms are worth a profile's time.
const fn depth_of(profile: Profile) -> usize {
    match profile {
        Profile::Quick => 8,
        Profile::Standard => 32,
        Profile::Full => 128,
    }
}

/// Says, for the whole process, how deep suites search and whether they search anew what an earlier run has found.
pub fn search(profile: Profile, anew: bool) {
    DEPTH.store(depth_of(profile), Ordering::Relaxed);
    ANEW.store(anew, Ordering::Relaxed);
}

/// Most algorithms that a search may try.
#[must_use]
pub fn depth() -> usize {
    DEPTH.load(Ordering::Relaxed)
}

/// Under which name a device's finding is kept.
fn key(device: &dyn Device, what: &str) -> Option<String> {
    let info = device.info();
    // What a fake device finds out is the test's alone, kept where that says so.
    let kept = info.backend != Backend::Fake || std::env::var_os("RIDGEPOINT_CACHE").is_some();
    kept.then(|| {
        let (name, arch, driver, units) = (&info.name, &info.arch, &info.driver, info.units);
        format!("{} {} {name} {arch} {units} {driver}\n{what}", env!("CARGO_PKG_VERSION"), info.backend)
    })
}

/// What an earlier run found of `what` on such a device: a text from a file that anyone may have written. Nothing where the search is
/// to be made anew.
#[must_use]
pub fn recall(device: &dyn Device, what: &str) -> Option<String> {
    if ANEW.load(Ordering::Relaxed) {
        return None;
    }
    notes::recall(&key(device, what)?)
}

/// Keeps what was found of `what`. Losing it costs a search, so nothing here fails.
pub fn remember(device: &dyn Device, what: &str, found: &str) {
    if let Some(key) = key(device, what) {
        notes::remember(&key, found);
    }
}
