//! The suite and the harness on a device that fails on purpose: each fault has its outcome, and none reads as a number.

use ridgepoint_core::record::Stop;
use ridgepoint_core::{Bytes, Case, Outcome};
use ridgepoint_device::Device;
use ridgepoint_device::fake::{FakeDevice, Settings};
use ridgepoint_harness::{Measured, Policy, Profile, Scope, Suite, measure};
use ridgepoint_memory::Memory;

fn device(settings: &str) -> FakeDevice {
    FakeDevice::new(settings.parse().expect("settings of the fake device"))
}

fn run(device: &FakeDevice, case: &Case, provider: &str) -> Measured {
    measure(&Memory, case, provider, device, &Policy::of(Profile::Quick), 1)
}

fn case(id: &str) -> Case {
    Memory.parse(id).expect("an id of this suite")
}

#[test]
fn every_case_of_a_first_look_is_measured_on_a_healthy_device() {
    let device = device("healthy");
    let cases = Memory.cases(&Scope::of(device.info(), Profile::Quick, 1));
    assert!(cases.len() > 8);
    for case in cases {
        let providers = Memory.providers(&case, &device);
        assert!(!providers.is_empty(), "{}", case.id);
        for provider in providers {
            let measured = run(&device, &case, &provider);
            let Outcome::Measured { samples, verification, .. } = &measured.outcome else {
                panic!("{} {provider}: {:?}", case.id, measured.outcome)
            };
            assert!(samples.seconds.len() >= 10 && verification.passed());
        }
    }
}

#[test]
fn an_element_left_unwritten_is_wrong_whatever_the_op() {
    let device = device("unwritten");
    for op in ["read", "write", "copy", "scale", "add", "triad", "dot"] {
        for rest in ["64KiB/f32/hot", "1MiB/f32"] {
            let case = case(&format!("memory/{op}/{rest}"));
            let outcome = run(&device, &case, "native").outcome;
            let Outcome::Wrong { verification } = &outcome else { panic!("{}: {outcome:?}", case.id) };
            assert!((1..=2).contains(&verification.wrong), "{}: {verification:?}", case.id);
        }
    }
    let outcome = run(&device, &case("memory/latency/64KiB"), "native").outcome;
    assert!(matches!(outcome, Outcome::Wrong { .. }), "{outcome:?}");
}

#[test]
fn links_and_patterns_are_verified_and_an_unwritten_row_is_seen() {
    let (healthy, unwritten) = (device("devices=3"), device("unwritten"));
    for id in [
        "memory/h2d/1MiB",
        "memory/d2h/1MiB",
        "memory/bidir/1MiB",
        "memory/d2h/1MiB/pageable",
        "memory/h2d/1MiB/node0",
        "memory/h2d/1MiB/devices3",
        "memory/d2h/1MiB/devices2",
        "memory/p2p/1MiB/to1",
        "memory/p2p/1MiB/to2/bidir",
    ] {
        let outcome = run(&healthy, &case(id), "copy-engine").outcome;
        assert!(matches!(&outcome, Outcome::Measured { verification, .. } if verification.passed()), "{id}: {outcome:?}");
    }
    for id in ["memory/kvpages/1MiB/tokens16", "memory/rows/1MiB/row512B", "memory/strided/1MiB/f32/stride8"] {
        let outcome = run(&healthy, &case(id), "native").outcome;
        assert!(matches!(outcome, Outcome::Measured { .. }), "{id}: {outcome:?}");
        let outcome = run(&unwritten, &case(id), "native").outcome;
        assert!(matches!(outcome, Outcome::Wrong { .. }), "{id}: {outcome:?}");
    }
    for id in ["memory/p2p/1MiB/to0", "memory/p2p/1MiB/to3", "memory/h2d/1MiB/devices4", "memory/h2d/1MiB/node7"] {
        let outcome = run(&healthy, &case(id), "copy-engine").outcome;
        assert!(matches!(outcome, Outcome::Skipped { .. }), "{id}: {outcome:?}");
    }
}

#[test]
fn copies_that_do_not_overlap_are_told_from_those_that_do() {
    let overlap = |settings: &str, id: &str| {
        let device = device(settings);
        let case = case(id);
        let measured = run(&device, &case, "copy-engine");
        let record = measured.record(&case, "copy-engine", ridgepoint_device::Device::info(&device), "e", String::new());
        let parts: f64 = record.config["overlap"].split(' ').next().unwrap().parse().unwrap();
        let Outcome::Measured { samples, .. } = &record.outcome else { panic!("{:?}", record.outcome) };
        (parts, record.work.bytes.0 as f64 / samples.seconds[0].0 / 1e9, record.work.links)
    };
    // A link of the model carries 10 GB/s each way.
    let (parts, gbps, links) = overlap("noise=0", "memory/bidir/8MiB");
    assert!((1.95..2.001).contains(&parts) && (19.0..20.001).contains(&gbps) && links == Some(2), "{parts} {gbps}");
    let (parts, gbps, _) = overlap("noise=0,serial", "memory/bidir/8MiB");
    assert!((0.99..1.05).contains(&parts) && (9.5..10.001).contains(&gbps), "{parts} {gbps}");
    let (parts, gbps, links) = overlap("noise=0,devices=4", "memory/h2d/8MiB/devices4");
    assert!((3.8..4.001).contains(&parts) && (38.0..40.001).contains(&gbps) && links == Some(4), "{parts} {gbps}");
}

#[test]
fn a_chase_over_pages_takes_the_lines_it_names() {
    let measured = run(&device("noise=0"), &case("memory/latency/1MiB/stride4KiB"), "native");
    let outcome = &measured.outcome;
    assert!(matches!(outcome, Outcome::Measured { verification, .. } if verification.passed()), "{outcome:?}");
}

#[test]
fn a_sustained_case_keeps_its_course() {
    let policy = Policy { sustain: Some(ridgepoint_core::Seconds(0.5)), ..Policy::of(Profile::Quick) };
    let device = device("throttled,noise=0");
    let outcome = measure(&Memory, &case("memory/copy/1MiB/f32"), "native", &device, &policy, 1).outcome;
    let Outcome::Measured { samples, telemetry, verification } = outcome else { panic!() };
    assert!(verification.passed() && samples.stop == Stop::TimeLimit);
    let course = &telemetry.timeline;
    assert!((2..=5).contains(&course.len()) && course.len() == samples.seconds.len());
    assert_eq!(samples.throttled, (0..course.len()).collect::<Vec<_>>());
    assert!(course.windows(2).all(|w| w[0].at < w[1].at) && course[course.len() - 1].at.0 >= 0.5);
    for (moment, seconds) in course.iter().zip(&samples.seconds) {
        assert_eq!(moment.execution, *seconds);
        assert_eq!((moment.sensors["observed_mhz"], moment.sensors["clock_mhz"]), (800.0, 800.0));
    }
}

#[test]
fn throttling_is_kept_and_marked() {
    let (throttled, healthy) = (device("throttled,noise=0"), device("noise=0"));
    let case = case("memory/triad/8MiB/f32");
    let Outcome::Measured { samples, telemetry, .. } = run(&throttled, &case, "native").outcome else { panic!() };
    assert_eq!(telemetry.throttle_reasons, ["fake heat"]);
    assert_eq!(samples.throttled.len(), samples.seconds.len());
    let Outcome::Measured { samples: full, telemetry, .. } = run(&healthy, &case, "native").outcome else { panic!() };
    assert!(telemetry.throttle_reasons.is_empty() && full.throttled.is_empty());
    assert!((samples.seconds[0].0 / full.seconds[0].0 - 1.25).abs() < 1e-9);
    assert_eq!((samples.observed_mhz[0], full.observed_mhz[0]), (800.0, 1000.0));
}

#[test]
fn a_device_without_noise_converges_at_once_on_the_models_time() {
    let device = device("noise=0");
    let Outcome::Measured { samples, .. } = run(&device, &case("memory/copy/8MiB/f32"), "native").outcome else { panic!() };
    assert_eq!((samples.stop, samples.seconds.len(), samples.steady), (Stop::Converged, 10, true));
    // 16 MiB at 50 GB/s; the launch is hidden behind the held queue.
    let expected = (16 << 20) as f64 / 50e9;
    assert!((samples.seconds[9].0 / expected - 1.0).abs() < 1e-9, "{:?} against {expected}", samples.seconds);
}

#[test]
fn a_lost_device_fails_the_case_and_says_that_it_is_lost() {
    let measured = run(&device("lost=30"), &case("memory/triad/64KiB/f32/hot"), "native");
    assert!(measured.lost);
    assert!(matches!(&measured.outcome, Outcome::Failed { reason } if reason.contains("lost")), "{:?}", measured.outcome);
}

#[test]
fn a_case_too_large_fails_alone() {
    let device = device("memory=4MiB");
    let measured = run(&device, &case("memory/triad/8MiB/f32"), "native");
    assert!(!measured.lost);
    assert!(matches!(&measured.outcome, Outcome::Failed { reason } if reason.contains("out of device memory")));
    let latency = run(&device, &case("memory/latency/1024GiB"), "native");
    assert!(!matches!(latency.outcome, Outcome::Measured { .. }));
    assert!(matches!(run(&device, &case("memory/triad/1MiB/f32"), "native").outcome, Outcome::Measured { .. }));
}

#[test]
fn lists_fit_the_memory_there_is() {
    let settings = Settings { memory: Bytes::mib(24), ..Settings::default() };
    let device = FakeDevice::new(settings);
    for profile in [Profile::Quick, Profile::Standard, Profile::Full] {
        for case in Memory.cases(&Scope::of(device.info(), profile, 1)) {
            assert!(case.work.bytes.0 <= 12 << 20, "{} needs {}", case.id, case.work.bytes);
        }
    }
}
