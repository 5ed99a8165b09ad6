//! A user's kernel from source to a verified record, on the CPU and the fake device.

use super::*;
use crate::Profile;
use ridgepoint_core::kernel::Operand;
use ridgepoint_core::{Bytes, Dtype, Flops, Outcome};
use ridgepoint_device::fake::{FakeDevice, Settings};
use ridgepoint_device::open;

const SPEC: &str = include_str!("../../../../examples/fused_add_relu/spec.toml");
const C: &str = include_str!("../../../../examples/fused_add_relu/fused_add_relu.c");

fn fused(n: u64) -> UserKernel {
    UserKernel::new(Spec::parse(SPEC, &[("n".into(), n)]).unwrap()).unwrap()
}

fn measure_on(device: &dyn Device, kernel: &UserKernel, source: &str) -> Outcome {
    kernel.measure(device, source, &Policy::of(Profile::Quick), 1).outcome
}

fn on_cpu(kernel: &UserKernel, source: &str) -> Outcome {
    measure_on(open("cpu:0").unwrap().as_ref(), kernel, source)
}

fn has_compiler() -> bool {
    let found = std::process::Command::new("cc").arg("--version").output().is_ok();
    if !found {
        println!("SKIP: host compiler: no cc here");
    }
    found
}

#[test]
fn a_file_in_c_is_compiled_verified_and_measured() {
    if !has_compiler() {
        return;
    }
    let outcome = on_cpu(&fused(100_003).source("fused.c", Language::C, C), "fused.c");
    let Outcome::Measured { samples, verification, .. } = outcome else { panic!("{outcome:?}") };
    assert!(samples.seconds.len() >= 10 && verification.passed() && verification.checked >= 100_003, "{verification:?}");
    assert_eq!(verification.error, 0.0);
}

#[test]
fn a_kernel_that_is_wrong_is_wrong_and_one_that_does_not_compile_says_where() {
    if !has_compiler() {
        return;
    }
    for (from, to, expected) in [
        ("sum > 0.0f", "sum > 0.5f", "wrong"),
        ("i = first; i < last", "i = first; i + 1 < last", "wrong"),
        ("out[i] = sum", "((float *)a)[i] = 0.0f; out[i] = sum", "wrong"),
        ("a[i] + b[i]", "a[i] + c[i]", "fused.c:7"),
        ("uint64_t n, ", "", "fused.c"),
        ("void fused_add_relu", "void other", "fused_add_relu"),
    ] {
        assert!(C.contains(from), "{from}");
        let outcome = on_cpu(&fused(5000).source("fused.c", Language::C, C.replacen(from, to, 1)), "fused.c");
        match &outcome {
            Outcome::Wrong { verification } => assert!(expected == "wrong" && verification.wrong > 0, "{to}: {verification:?}"),
            Outcome::Failed { reason } => assert!(reason.contains(expected), "{to}: {reason}"),
            other => panic!("{to}: {other:?}"),
        }
    }
}

#[test]
fn a_source_for_another_device_is_skipped_with_the_reason() {
    let kernel = fused(64).source("fused.cu", Language::Cpp, "").source("fused.wgsl", Language::Wgsl, "");
    let cpu = open("cpu:0").unwrap();
    assert_eq!(kernel.providers(kernel.case(), cpu.as_ref()), ["fused.cu", "fused.wgsl"]);
    let outcome = measure_on(cpu.as_ref(), &kernel, "fused.cu");
    assert!(
        matches!(&outcome, Outcome::Skipped { reason } if reason == "fused.cu is CUDA or HIP C++; cpu:0 takes none of that"),
        "{outcome:?}"
    );
    assert_eq!(Language::of_file("a.b.hip"), Some(Language::Cpp));
    assert_eq!(Language::of_file("spec.toml"), None);
}

/// y += 1, in place: what it was before is put back before each execution, or none but the first would be right.
fn add_one(wrong: f32) -> UserKernel {
    let mut y = Operand::input("y", Dtype::F32, 1000);
    y.role = Role::InOut;
    UserKernel::new(Spec::new("add_one", vec![y.into()]).doing(Flops(1000), Bytes(8000)))
        .unwrap()
        .on_host("closure", move |call| call.each::<f32>(0, |_, y| y.iter_mut().for_each(|y| *y += 1.0 + wrong)))
        .verified_by(|arrays| vec![arrays.get("y").iter().map(|y| y + 1.0).collect()])
}

#[test]
fn what_is_read_and_written_is_put_back() {
    let outcome = on_cpu(&add_one(0.0), "closure");
    assert!(matches!(&outcome, Outcome::Measured { verification, .. } if verification.passed()), "{outcome:?}");
    assert!(matches!(on_cpu(&add_one(1e-4), "closure"), Outcome::Wrong { .. }));
    // And on a device whose clock runs otherwise.
    let fake = FakeDevice::new(Settings::default());
    assert!(matches!(measure_on(&fake, &add_one(0.0), "closure"), Outcome::Measured { .. }));
}

#[test]
fn several_results_and_types_are_each_compared() {
    let n = 300;
    let arrays = || {
        vec![
            Operand::input("x", Dtype::Bf16, n).into(),
            Argument::Scalar { name: "s".into(), value: Scalar::F32(2.0) },
            Operand::output("doubled", Dtype::F16, n).into(),
            Operand::output("index", Dtype::I32, n).into(),
        ]
    };
    let kernel = |off: i32| {
        UserKernel::new(Spec::new("two", arrays())).unwrap().on_host("closure", move |call| {
            let (x, s) = (call.input::<u16>(0), call.scalar(0));
            call.each::<u16>(0, |first, out| {
                for (x, out) in x[first..].iter().zip(out) {
                    let mut bytes = [0; 2];
                    Dtype::F16.write(Dtype::Bf16.read(&x.to_le_bytes()) * s, &mut bytes);
                    *out = u16::from_le_bytes(bytes);
                }
            });
            call.each::<i32>(1, |first, out| out.iter_mut().enumerate().for_each(|(i, out)| *out = (first + i) as i32 + off));
        })
    };
    let reference = |arrays: &Arrays| {
        let x = arrays.get("x");
        vec![x.iter().map(|x| 2.0 * x).collect(), (0..x.len()).map(|i| i as f64).collect()]
    };
    let outcome = on_cpu(&kernel(0).verified_by(reference), "closure");
    assert!(matches!(outcome, Outcome::Measured { .. }), "{outcome:?}");
    assert!(matches!(on_cpu(&kernel(1).verified_by(reference), "closure"), Outcome::Wrong { .. }));
    let short = on_cpu(&kernel(0).verified_by(|_| vec![vec![0.0]]), "closure");
    assert!(matches!(&short, Outcome::Failed { reason } if reason.contains("results are of [300, 300]")), "{short:?}");
    let none = on_cpu(&kernel(0), "closure");
    assert!(matches!(&none, Outcome::Failed { reason } if reason.contains("what 'doubled' must be is not said")), "{none:?}");
}

#[test]
fn arrays_may_come_from_files() {
    let npy = |values: &[f32]| {
        let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({},), }}", values.len());
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Npy::parse(&[b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), &data].concat()).unwrap()
    };
    let text = r#"
        name = "negate"
        argument = [
            { buffer = "x", dtype = "f32", elements = 3, data = "x.npy" },
            { buffer = "y", dtype = "f32", elements = 3, role = "out" },
        ]
        reference = { y = { file = "y.npy" } }
    "#;
    let kernel = |y: &[f32]| {
        UserKernel::new(Spec::parse(text, &[]).unwrap())
            .unwrap()
            .file("x.npy", npy(&[1.0, -2.0, 3.5]))
            .file("y.npy", npy(y))
            .on_host("closure", |call| {
                let x = call.input::<f32>(0);
                call.output::<f32>(0).iter_mut().zip(x).for_each(|(y, x)| *y = -x);
            })
    };
    assert_eq!(kernel(&[]).files().collect::<Vec<_>>(), ["x.npy", "y.npy"]);
    let outcome = on_cpu(&kernel(&[-1.0, 2.0, -3.5]), "closure");
    assert!(matches!(outcome, Outcome::Measured { .. }), "{outcome:?}");
    assert!(matches!(on_cpu(&kernel(&[-1.0, 2.0, 3.5]), "closure"), Outcome::Wrong { .. }));
    let short = on_cpu(&kernel(&[-1.0]), "closure");
    assert!(matches!(&short, Outcome::Failed { reason } if reason.contains("y.npy has 1 elements and y 3")), "{short:?}");
}
