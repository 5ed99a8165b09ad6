//! The fake device's sensors: a clock, throttling where it was asked for, and the power of its matrix library.

use super::Settings;
use crate::{Reading, Sensors};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(super) struct FakeSensors {
    pub(super) settings: Settings,
    pub(super) power: Power,
}

/// What the device draws, in milliwatts; 0 where it has no sensor of that.
pub(super) type Power = Arc<AtomicU64>;

/// The clock in MHz.
pub(super) fn mhz(settings: &Settings) -> f64 {
    if settings.throttled { 800.0 } else { 1000.0 }
}

impl Sensors for FakeSensors {
    fn read(&mut self) -> Reading {
        let mut sensors = BTreeMap::from([("clock_mhz", mhz(&self.settings))]);
        let power = self.power.load(Ordering::Relaxed);
        if power > 0 {
            sensors.insert("power_w", power as f64 / 1000.0);
        }
        Reading {
            sensors,
            throttle_bits: Some(u64::from(self.settings.throttled)),
            throttle_reasons: if self.settings.throttled { vec!["fake heat"] } else { vec![] },
            counters: BTreeMap::new(),
        }
    }
}
