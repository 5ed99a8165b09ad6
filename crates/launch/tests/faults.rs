//! The suite on a device that fails on purpose: a launch that left nothing behind is no fast launch.

use ridgepoint_core::{Outcome, Seconds};
use ridgepoint_device::Device;
use ridgepoint_device::fake::FakeDevice;
use ridgepoint_harness::{Class, Policy, Profile, Scope, Suite, measure};
use ridgepoint_launch::Launch;

const WAYS: [&str; 3] = ["launch/stream", "launch/graph", "launch/sync"];

fn run(settings: &str, id: &str) -> Outcome {
    let device = FakeDevice::new(settings.parse().expect("settings of the fake device"));
    let case = Launch.parse(id).expect("an id of this suite");
    let providers = Launch.providers(&case, &device);
    assert_eq!(providers, [device.info().backend.name()]);
    measure(&Launch, &case, &providers[0], &device, &Policy::of(Profile::Quick), 1).outcome
}

#[test]
fn each_way_takes_what_the_model_says_it_takes() {
    for (id, microseconds) in WAYS.into_iter().zip([2.5, 1.25]) {
        let Outcome::Measured { samples, verification, .. } = run("noise=0", id) else { panic!("{id} was not measured") };
        let Seconds(one) = samples.seconds[0];
        assert!((one * 1e6 - microseconds).abs() < 1e-3, "{id}: {one}");
        assert!(verification.passed() && samples.batch > 100);
        assert_eq!(samples.graph, id == "launch/graph");
    }
}

#[test]
fn a_launch_that_did_not_happen_is_wrong() {
    for id in WAYS {
        let outcome = run("unwritten", id);
        assert!(matches!(outcome, Outcome::Wrong { .. }), "{id}: {outcome:?}");
    }
}

#[test]
fn a_cpu_is_asked_for_what_it_has() {
    let ids = |class| -> Vec<String> {
        let cases = Launch.cases(&Scope::typical(class, Profile::Full));
        cases.iter().map(|case| case.id.as_str().to_owned()).collect()
    };
    assert_eq!((ids(Class::Cpu), ids(Class::Gpu)), (vec![WAYS[0].to_owned()], WAYS.map(str::to_owned).to_vec()));
    assert!(Launch.parse("launch/stream/f32").is_none() && Launch.parse("launch").is_none());
}
