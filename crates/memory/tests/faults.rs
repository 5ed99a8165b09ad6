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
