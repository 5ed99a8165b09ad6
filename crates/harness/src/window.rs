//! What a device's sensors read while a case's timed runs go on: a thread of its own, slow enough to disturb nothing. It reads all
//! there is at both ends, only what changes from moment to moment between them, and takes at most a hundredth of one core.

use ridgepoint_core::record::{Moment, Range};
use ridgepoint_core::{Seconds, Telemetry};
use ridgepoint_device::{Reading, Sensors};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Sensors change no faster than this: NVML and SMI average over 100 ms and more.
pub(crate) const PERIOD: Duration = Duration::from_millis(50);

/// A reading, and when it was made: seconds since the window was opened.
pub(crate) type Timed = (f64, Reading);

/// An open telemetry window.
pub struct Window {
    readings: Arc<Mutex<Vec<Timed>>>,
    moments: RefCell<Vec<Moment>>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Window {
    /// Reads once now and then every 50 ms, or less often where a reading costs much, until it is closed. Without sensors it stays empty.
    #[must_use]
    pub fn open(sensors: Option<Box<dyn Sensors>>) -> Self {
        Self::every(PERIOD, sensors)
    }

    /// The same with another time between readings.
    pub(crate) fn every(period: Duration, sensors: Option<Box<dyn Sensors>>) -> Self {
        let readings = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = channel();
        let thread = sensors.and_then(|sensors| {
            let readings = Arc::clone(&readings);
            std::thread::Builder::new().name("telemetry".into()).spawn(move || watch(sensors, period, &readings, &stopped)).ok()
        });
        Self { readings, moments: RefCell::default(), stop: Some(stop), thread }
    }

    /// True if the newest reading says that the device holds its clock back.
    #[must_use]
    pub fn throttled(&self) -> bool {
        self.newest().is_some_and(|r| !r.throttle_reasons.is_empty())
    }

    /// The newest reading.
    pub(crate) fn newest(&self) -> Option<Reading> {
        self.readings.lock().unwrap_or_else(PoisonError::into_inner).last().map(|(_, r)| r.clone())
    }

    /// Keeps a moment of a sustained case, which ended `at` and whose executions took `execution` each, with what the sensors
    /// read last.
    pub(crate) fn mark(&self, at: Seconds, execution: Seconds, observed_mhz: Option<f64>) {
        let readings = self.readings.lock().unwrap_or_else(PoisonError::into_inner);
        let read = readings.last().into_iter().flat_map(|(_, r)| &r.sensors).map(|(name, value)| ((*name).to_owned(), *value));
        let sensors = read.chain(observed_mhz.map(|mhz| ("observed_mhz".to_owned(), mhz))).collect();
        self.moments.borrow_mut().push(Moment { at, execution, sensors });
    }

    /// Reads once more and summarises.
    #[must_use]
    pub fn close(self) -> Telemetry {
        let moments = self.moments.take();
        let readings: Vec<Reading> = self.end().into_iter().map(|(_, r)| r).collect();
        Telemetry { timeline: moments, ..summarise(&readings) }
    }

    /// Reads once more and gives all that was read.
    pub(crate) fn end(mut self) -> Vec<Timed> {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A sensor thread that panicked costs its readings, not the measurement.
            let _ = thread.join();
        }
        std::mem::take(&mut *self.readings.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn watch(mut sensors: Box<dyn Sensors>, period: Duration, readings: &Mutex<Vec<Timed>>, stopped: &Receiver<()>) {
    let opened = Instant::now();
    let keep = |reading| {
        let at = opened.elapsed().as_secs_f64();
        readings.lock().unwrap_or_else(PoisonError::into_inner).push((at, reading));
    };
    let mut wait = period;
    keep(sensors.read());
    while stopped.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
        let started = Instant::now();
        keep(sensors.glance());
        wait = period.max(until_next(started.elapsed()));
    }
    keep(sensors.read());
}

/// How long to leave the device alone after a glance that took so long.
fn until_next(took: Duration) -> Duration {
    PERIOD.max(took * 99)
}

pub(crate) fn summarise(readings: &[Reading]) -> Telemetry {
    let mut values: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let mut reasons: Vec<String> = Vec::new();
    for reading in readings {
        for (name, value) in &reading.sensors {
            values.entry(name).or_default().push(*value);
        }
        for reason in &reading.throttle_reasons {
            if !reasons.iter().any(|r| r == reason) {
                reasons.push((*reason).to_owned());
            }
        }
    }
    let counters = |r: Option<&Reading>| r.map(|r| r.counters.clone()).unwrap_or_default();
    let (first, last) = (counters(readings.first()), counters(readings.last()));
    Telemetry {
        readings: readings.len() as u32,
        sensors: values.into_iter().filter_map(|(name, v)| Some((name.to_owned(), Range::of(&v)?))).collect(),
        throttle_bits: readings.iter().filter_map(|r| r.throttle_bits).reduce(|a, b| a | b),
        throttle_reasons: reasons,
        counter_deltas: last
            .iter()
            .filter_map(|(name, end)| Some(((*name).to_owned(), end - first.get(name)?)))
            .filter(|(_, delta)| *delta != 0)
            .collect(),
        timeline: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sensors_take_at_most_a_hundredth_of_a_core() {
        for took in [0, 20, 400, 600, 5_000, 100_000].map(Duration::from_micros) {
            let share = took.as_secs_f64() / (took + until_next(took)).as_secs_f64();
            assert!(share <= 0.01 + 1e-9, "{took:?}: {share}");
        }
        assert_eq!(until_next(Duration::from_micros(300)), PERIOD);
    }

    struct Counting(std::sync::Arc<Mutex<[u32; 2]>>);

    impl Sensors for Counting {
        fn read(&mut self) -> Reading {
            self.0.lock().unwrap()[0] += 1;
            self.glance()
        }

        fn glance(&mut self) -> Reading {
            let mut calls = self.0.lock().unwrap();
            calls[1] += 1;
            Reading { sensors: BTreeMap::from([("power_w", f64::from(calls[1]))]), ..Reading::default() }
        }
    }

    #[test]
    fn counters_are_read_at_both_ends_alone() {
        let calls = std::sync::Arc::new(Mutex::new([0; 2]));
        let window = Window::open(Some(Box::new(Counting(calls.clone()))));
        while calls.lock().unwrap()[1] < 3 {
            std::thread::sleep(Duration::from_millis(5));
        }
        let telemetry = window.close();
        let [full, all] = *calls.lock().unwrap();
        assert_eq!((full, telemetry.readings), (2, all));
    }

    #[test]
    fn bits_are_joined_and_counters_that_stand_still_are_left_out() {
        let reading = |clock: f64, bits: u64, ecc: i64| Reading {
            sensors: BTreeMap::from([("sm_clock_mhz", clock)]),
            throttle_bits: Some(bits),
            throttle_reasons: if bits & 4 != 0 { vec!["sw power cap"] } else { vec![] },
            counters: BTreeMap::from([("ecc_corrected", ecc), ("xid", 0)]),
        };
        let t = summarise(&[reading(1980.0, 1, 5), reading(1700.0, 4, 5), reading(1800.0, 4, 7)]);
        assert_eq!(t.sensors["sm_clock_mhz"], Range { min: 1700.0, median: 1800.0, max: 1980.0 });
        assert_eq!(t.throttle_bits, Some(5));
        assert_eq!(t.throttle_reasons, ["sw power cap"]);
        assert_eq!(t.counter_deltas, BTreeMap::from([("ecc_corrected".to_owned(), 2)]));
    }
}
