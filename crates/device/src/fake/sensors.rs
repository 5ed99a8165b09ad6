//! The fake device's sensors: a clock, and throttling where it was asked for.

use super::Settings;
use crate::{Reading, Sensors};
use std::collections::BTreeMap;

pub(super) struct FakeSensors {
    pub(super) settings: Settings,
}

/// The clock in MHz.
pub(super) fn mhz(settings: &Settings) -> f64 {
    if settings.throttled { 800.0 } else { 1000.0 }
}

impl Sensors for FakeSensors {
    fn read(&mut self) -> Reading {
        Reading {
            sensors: BTreeMap::from([("clock_mhz", mhz(&self.settings))]),
            throttle_bits: Some(u64::from(self.settings.throttled)),
            throttle_reasons: if self.settings.throttled { vec!["fake heat"] } else { vec![] },
            counters: BTreeMap::new(),
        }
    }
}
