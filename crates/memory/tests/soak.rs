//! A soak on a device that fails on purpose: what computes wrong now and then is found, what is slow for a reason is told, and
//! nothing of it reads as a healthy number.

use ridgepoint_core::record::Soak;
use ridgepoint_core::{Component, DeviceInfo, Outcome, Record};
use ridgepoint_device::Device;
use ridgepoint_device::fake::{FakeDevice, Settings};
use ridgepoint_harness::Suite;
use ridgepoint_harness::soak::{Load, Plan, soak};
use ridgepoint_memory::Memory;
use std::time::Duration;

fn load(id: &str) -> Load {
    Load { suite: &Memory, case: Memory.parse(id).expect("an id of this suite"), provider: "native".into() }
}

/// Soaks a fake device with these settings until `batches` are done, and makes records of it.
fn records(settings: &str, ids: &[&str], batches: usize) -> Vec<Record> {
    let device = FakeDevice::new(settings.parse::<Settings>().expect("settings of the fake device"));
    let loads: Vec<Load> = ids.iter().map(|id| load(id)).collect();
    let plan = Plan { length: Duration::from_secs(600), turn: Duration::ZERO, check_every: Duration::from_millis(100) };
    let mut left = batches;
    let made = soak(&loads, &device, &plan, 1, &mut |glance| {
        assert_eq!(glance.executions.len(), ids.len());
        left -= 1;
        left > 0
    });
    let info: &DeviceInfo = device.info();
    let record = |(load, made): (&Load, ridgepoint_harness::Measured)| {
        made.record(&load.soak().expect("an id"), &load.provider, info, "e", String::new())
    };
    loads.iter().zip(made).map(record).collect()
}

fn told(record: &Record) -> &Soak {
    record.soak.as_ref().expect("a soak tells of itself")
}

const TRIAD: &str = "memory/triad/1MiB/f32";

#[test]
fn a_healthy_device_has_every_result_compared_and_a_record_for_each_load() {
    let records = records("noise=0", &[TRIAD, "memory/copy/1MiB/f32"], 40);
    assert_eq!(records.len(), 2);
    for record in &records {
        assert_eq!(record.component, Component::Soak);
        assert!(record.case.as_str().starts_with("soak/memory/"));
        let Outcome::Measured { samples, verification, telemetry } = &record.outcome else { panic!("{:?}", record.outcome) };
        let soak = told(record);
        assert!(samples.seconds.len() >= 15 && verification.passed() && telemetry.readings > 0);
        assert!(soak.executions > 20 && soak.compared == soak.executions && soak.checks >= 2);
        assert_eq!((soak.different, soak.wrong_checks), (0, 0));
        assert!(soak.busy.0 > 0.0 && soak.throttled.is_empty() && !soak.timeline.is_empty());
        // Three arrays at the model's 200 GB/s of its cache: what is compared costs nothing of the figure.
        let moved = record.work.bytes.gb_per_s(samples.seconds[0]);
        assert!(moved > 20.0, "{moved}");
    }
}

/// One execution in some hundreds has one bit wrong, and is overwritten by a right one at once.
#[test]
fn a_result_that_is_wrong_now_and_then_is_found() {
    let records = records("flips=301", &[TRIAD], 60);
    let soak = told(&records[0]);
    assert!(soak.different > 0 && soak.executions > 600, "{soak:?}");
    // Each flip is one word of one result.
    assert!(soak.different <= soak.executions / 100, "{soak:?}");
    let Outcome::Wrong { verification } = &records[0].outcome else { panic!("{:?}", records[0].outcome) };
    assert!(verification.wrong >= soak.different && verification.method.contains("bit by bit"), "{verification:?}");
    assert_eq!(soak.timeline.iter().map(|m| m.different).sum::<u64>().min(1), 1);
}

#[test]
fn what_is_wrong_from_the_first_is_wrong_without_a_witness() {
    let records = records("unwritten", &[TRIAD, "memory/read/1MiB/f32"], 10);
    for record in &records {
        assert!(matches!(record.outcome, Outcome::Wrong { .. }), "{:?}", record.outcome);
        assert!(told(record).wrong_checks > 0 && told(record).compared == 0);
    }
}

#[test]
fn throttled_time_has_its_reason_and_marks_the_samples() {
    let records = records("throttled", &[TRIAD], 30);
    let soak = told(&records[0]);
    assert!(soak.throttled["fake heat"].0 > 0.0, "{soak:?}");
    let Outcome::Measured { samples, .. } = &records[0].outcome else { panic!("{:?}", records[0].outcome) };
    assert!(samples.throttled.len() * 2 > samples.seconds.len());
}

#[test]
fn a_device_that_is_lost_fails_all_its_loads_and_says_so() {
    let device = FakeDevice::new("lost=200".parse().expect("settings"));
    let plan = Plan { length: Duration::from_secs(600), turn: Duration::ZERO, check_every: Duration::from_secs(30) };
    let made = soak(&[load(TRIAD), load("memory/copy/1MiB/f32")], &device, &plan, 1, &mut |_| true);
    assert!(made.iter().all(|m| m.lost && matches!(m.outcome, Outcome::Failed { .. })), "{made:?}");
}

#[test]
fn a_load_that_does_not_fit_is_skipped_and_the_others_go_on() {
    let records = records("memory=64MiB", &["memory/triad/1GiB/f32", TRIAD], 5);
    assert!(matches!(records[0].outcome, Outcome::Failed { .. } | Outcome::Skipped { .. }), "{:?}", records[0].outcome);
    assert!(matches!(records[1].outcome, Outcome::Measured { .. }), "{:?}", records[1].outcome);
}
