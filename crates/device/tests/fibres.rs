//! The kernels' numerics without a GPU: the unchanged CUDA and HIP source, compiled as host C++ over kernels/fibres, which runs a
//! block as fibres and models TMA, mbarriers, wgmma, mma.sync, MFMA and WMMA, compared with float64.

#![expect(clippy::print_stdout, reason = "a skip says why")]

use ridgepoint_core::{Distribution, Dtype, data, minifloat};
use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn attention_kernels_agree_with_float64_on_host_fibres() {
    passes("attention_test", &[]);
    passes("portable_test", &[]);
    passes("softmax_test", &[]);
    passes("softmax_test", &["-DRP_LANES=64"]);
}

/// In warps of 32 lanes, and in waves of 64 as on CDNA.
#[test]
fn memory_kernels_move_what_they_should_on_host_fibres() {
    passes("memory_test", &[]);
    passes("memory_test", &["-DRP_LANES=64"]);
}

/// Bit for bit what the host makes of the same stream, FP8 in both encodings.
#[test]
fn fills_round_as_the_host_does() {
    const SEED: u64 = 42;
    const N: usize = 100_000;
    let Some(program) = build("init_test", &[]) else { return };
    let ran = Command::new(program).args([SEED.to_string(), N.to_string()]).output().expect("it was just built");
    let mut rest = &ran.stdout[..];
    for dtype in [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::E4m3, Dtype::E5m2, Dtype::E4m3fnuz, Dtype::E5m2fnuz] {
        let bytes = dtype.element_bytes().unwrap();
        let (filled, others) = rest.split_at(bytes * N);
        rest = others;
        for (i, element) in filled.chunks_exact(bytes).enumerate() {
            let expected = dtype.round(f64::from(data::normal(SEED, i as u64)));
            let got = dtype.read(element);
            assert!(got == expected, "{dtype} element {i}: {got}, not {expected} ({element:02x?})");
        }
    }
    let (packed, rest) = rest.split_at(N / 2);
    for (i, byte) in packed.iter().enumerate() {
        for (at, pattern) in [(2 * i, byte & 15), (2 * i + 1, byte >> 4)] {
            let expected = Dtype::E2m1.round(f64::from(data::normal(SEED, at as u64) * data::E2M1_SCALE));
            assert_eq!(minifloat::E2M1.decode(u32::from(pattern)), expected, "e2m1 element {at}");
        }
    }
    let (f32s, rest) = rest.split_at(4 * N);
    let (e8m0s, rest) = rest.split_at(N);
    let (e4m3s, mut rest) = rest.split_at(N);
    let stream = || 0..N as u64;
    assert!(f32s.chunks_exact(4).zip(stream()).all(|(x, i)| x == data::scale_f32(SEED, i).to_le_bytes()));
    assert!(e8m0s.iter().copied().eq(stream().map(|i| data::scale_e8m0(SEED, i))));
    assert!(e4m3s.iter().copied().eq(stream().map(|i| data::scale_e4m3(SEED, i))));
    for distribution in [Distribution::Uniform, Distribution::Trigonometric] {
        let (filled, others) = rest.split_at(4 * N);
        rest = others;
        for (i, element) in filled.chunks_exact(4).enumerate() {
            let expected = f64::from(data::value(distribution, SEED, i as u64));
            assert_eq!(Dtype::F32.read(element), expected, "{distribution:?} element {i}");
        }
    }
    assert!(rest.is_empty());
}

#[test]
fn gemm_kernels_agree_with_float64_on_host_fibres_and_planted_bugs_show() {
    script("gemm_test.py");
}

#[test]
fn amd_kernels_agree_with_float64_and_amds_layouts_on_host_fibres_and_planted_bugs_show() {
    script("amd_test.py");
}

#[test]
fn bugs_planted_in_the_attention_kernels_show() {
    script("attention_mutants.py");
    script("portable_mutants.py");
}

/// Runs a script of kernels/fibres; each with `--all` does more than a test has time for.
fn script(name: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../kernels/fibres");
    for tool in ["python3", "g++"] {
        if Command::new(tool).arg("--version").output().is_err() {
            println!("SKIP: host compiler: {tool} is not installed (apt-get install {tool})");
            return;
        }
    }
    let ran = Command::new("python3").arg("-B").arg(name).current_dir(folder).output().expect("python3 answered a moment ago");
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && said.contains("caught"), "{said}{}", String::from_utf8_lossy(&ran.stderr));
}

/// Builds and runs `name`.cpp.
fn passes(name: &str, defines: &[&str]) {
    let Some(program) = build(name, defines) else { return };
    let ran = Command::new(&program).output().expect("it was just built");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stdout));
}

/// Builds `name`.cpp; None without a compiler.
fn build(name: &str, defines: &[&str]) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../kernels/fibres");
    if Command::new("g++").arg("--version").output().is_err() {
        println!("SKIP: host compiler: g++ is not installed (apt-get install g++)");
        return None;
    }
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}{}", defines.concat()));
    let built = Command::new("g++")
        .args(["-O1", "-std=c++17", "-w", "-Wno-psabi", "-I../attention"])
        .args(defines)
        .arg(format!("{name}.cpp"))
        .arg("-o")
        .arg(&program)
        .current_dir(&folder)
        .output();
    let built = built.expect("g++ answered a moment ago");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    Some(program)
}
