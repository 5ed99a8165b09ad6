//! The suite and the harness on a device whose ranks fail on purpose: a corrupted reduction is wrong, not fast; a device without
//! a peer is skipped with the reason; and what was measured is the model's time.
#![cfg(target_os = "linux")]

use ridgepoint_collectives::CollectivesSuite;
use ridgepoint_core::record::Clock;
use ridgepoint_core::{Case, Metric, Outcome, Record};
use ridgepoint_device::Device;
use ridgepoint_device::fake::FakeDevice;
use ridgepoint_harness::{Measured, Policy, Profile, Scope, Suite, measure};

const OPS: [&str; 10] = [
    "all_reduce",
    "all_gather",
    "reduce_scatter",
    "broadcast",
    "alltoall",
    "reduce",
    "alltoallv",
    "gather",
    "scatter",
    "sendrecv",
];

fn device(settings: &str) -> FakeDevice {
    FakeDevice::new(settings.parse().expect("settings of the fake device"))
}

fn case(id: &str) -> Case {
    CollectivesSuite.parse(id).expect("an id of this suite")
}

fn run(device: &FakeDevice, case: &Case) -> Measured {
    let providers = CollectivesSuite.providers(case, device);
    measure(&CollectivesSuite, case, &providers[0], device, &Policy::of(Profile::Quick), 1)
}

fn record(device: &FakeDevice, case: &Case) -> Record {
    run(device, case).record(case, "fake", device.info(), "environment", "now".into())
}

#[test]
fn every_case_of_a_first_look_is_measured_for_any_number_of_ranks() {
    for ranks in [2, 3] {
        let device = device(&format!("ranks={ranks},memory=1GiB"));
        let most = device.collectives().map_or(1, |c| c.max_ranks());
        let cases = CollectivesSuite.cases(&Scope::of(device.info(), Profile::Quick, most));
        assert!(cases.len() >= 7);
        for case in cases.iter().filter(|c| c.work.bytes.0 <= 1 << 20).chain(&OPS.map(|op| case(&id(op, ranks, "f32")))) {
            let Outcome::Measured { samples, verification, .. } = run(&device, case).outcome else { panic!("{}", case.id) };
            assert!(verification.passed() && samples.seconds.len() >= 10 && samples.clock == Clock::Device);
        }
    }
}

fn id(op: &str, ranks: usize, dtype: &str) -> String {
    format!("collectives/{op}/r{ranks}/{}B/{dtype}", 3000 * ranks)
}

#[test]
fn sums_and_moves_of_every_dtype_are_checked_element_for_element() {
    for ranks in [2, 3] {
        let device = device(&format!("ranks={ranks},noise=0"));
        for op in OPS {
            for dtype in ["f32", "bf16", "f16"] {
                let case = case(&id(op, ranks, dtype));
                let Outcome::Measured { verification, .. } = run(&device, &case).outcome else { panic!("{}", case.id) };
                let size = if dtype == "f32" { 4 } else { 2 };
                let parts = if op.ends_with("scatter") { 1 } else { ranks };
                let receivers = if matches!(op, "reduce" | "gather") { 1 } else { ranks };
                assert_eq!(verification.checked, (3000 / size * parts * receivers) as u64, "{}", case.id);
                assert_eq!(verification.tolerance > 0.0, op.contains("reduce"), "{}", case.id);
            }
        }
    }
}

#[test]
fn every_dtype_reduction_and_place_is_checked_and_a_flipped_bit_in_it_found() {
    let (whole, broken) = (device("ranks=3,noise=0"), device("ranks=3,noise=0,corrupt"));
    for op in ["all_reduce", "reduce_scatter", "reduce"] {
        for dtype in ["f64", "f32", "f16", "bf16", "e4m3", "e5m2", "i8", "i32"] {
            for more in ["", "/prod", "/min", "/max", "/avg", "/inplace", "/avg/inplace"] {
                let case = case(&format!("collectives/{op}/r3/2400B/{dtype}{more}"));
                let outcome = run(&whole, &case).outcome;
                assert!(matches!(outcome, Outcome::Measured { .. }), "{}: {outcome:?}", case.id);
                let outcome = run(&broken, &case).outcome;
                let seen = matches!(&outcome, Outcome::Wrong { verification } if verification.wrong == 1);
                assert!(seen, "{}: {outcome:?}", case.id);
            }
        }
    }
    for op in ["all_gather", "broadcast", "gather", "scatter"] {
        let case = case(&format!("collectives/{op}/r3/2400B/f32/inplace"));
        assert!(matches!(run(&whole, &case).outcome, Outcome::Measured { .. }), "{}", case.id);
        assert!(matches!(run(&broken, &case).outcome, Outcome::Wrong { .. }), "{}", case.id);
    }
}

#[test]
fn a_corrupted_result_is_wrong_whatever_the_op_and_dtype() {
    for (settings, elements) in [("corrupt,ranks=2", 1..=1), ("unwritten,ranks=2", 1..=4)] {
        let device = device(settings);
        for op in OPS {
            for dtype in ["f32", "bf16", "f16"] {
                let case = case(&id(op, 2, dtype));
                let outcome = run(&device, &case).outcome;
                let Outcome::Wrong { verification } = &outcome else { panic!("{settings} {}: {outcome:?}", case.id) };
                assert!(elements.contains(&verification.wrong), "{settings} {}: {verification:?}", case.id);
            }
        }
    }
}

#[test]
fn what_cannot_be_done_is_skipped_with_the_reason() {
    let reason = |device: &FakeDevice, id: &str| match run(device, &case(id)).outcome {
        Outcome::Skipped { reason } => reason,
        other => panic!("{id}: {other:?}"),
    };
    let alone = device("healthy");
    assert_eq!(CollectivesSuite.providers(&case("collectives/all_reduce/r2/4KiB/f32"), &alone), ["none"]);
    assert!(reason(&alone, "collectives/all_reduce/r2/4KiB/f32").contains("fake:0 is one rank by itself"));
    let pair = device("ranks=2");
    assert!(reason(&pair, "collectives/all_reduce/r4/4KiB/f32").contains("4 ranks asked for; 2 can take part"));
    assert!(reason(&pair, "collectives/all_reduce/r2/4KiB/f32/symmetric").contains("nothing to register"));
    let Outcome::Failed { reason } = run(&pair, &case("collectives/broadcast/r2/1024GiB/f32")).outcome else { panic!() };
    assert!(reason.contains("out of device memory"), "{reason}");
}

#[test]
fn a_record_says_how_it_was_done_and_which_rank_was_slow() {
    let device = device("ranks=2,noise=0");
    let record = record(&device, &case("collectives/all_reduce/r2/1MiB/f32"));
    assert_eq!(record.metric, Metric::BusBandwidth);
    assert_eq!(record.work.bus_factor, Some(1.0));
    for key in ["algorithm", "transport", "ranks", "cores", "work of ranks", "time of ranks"] {
        assert!(record.config.contains_key(key), "{key} is not in {:?}", record.config);
    }
    assert!(record.labels.iter().any(|l| l == "oversubscribed"), "{:?}", record.labels);
    // 1 MiB at 50 GB/s after a launch, and nothing else.
    let Outcome::Measured { samples, .. } = record.outcome else { panic!() };
    let expected = 2.5e-6 + (1 << 20) as f64 / 50e9;
    assert!(samples.seconds.iter().all(|s| (s.0 / expected - 1.0).abs() < 1e-9), "{:?} for {expected}", samples.seconds);
}
