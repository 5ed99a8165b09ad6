//! The kernels' numerics without a GPU: the unchanged CUDA source, compiled as host C++ over kernels/fibres, which runs a
//! block as fibres and models TMA, mbarriers, wgmma and mma.sync, compared with float64.

#![expect(clippy::print_stdout, reason = "a skip says why")]

use std::path::Path;
use std::process::Command;

#[test]
fn attention_kernels_agree_with_float64_on_host_fibres() {
    passes("attention_test");
}

#[test]
fn memory_kernels_move_what_they_should_on_host_fibres() {
    passes("memory_test");
}

/// Builds and runs `name`.cpp.
fn passes(name: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../kernels/fibres");
    if Command::new("g++").arg("--version").output().is_err() {
        println!("SKIP: host compiler: g++ is not installed (apt-get install g++)");
        return;
    }
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let built = Command::new("g++")
        .args(["-O2", "-std=c++17", "-w", "-Wno-psabi", "-I../attention"])
        .arg(format!("{name}.cpp"))
        .arg("-o")
        .arg(&program)
        .current_dir(&folder)
        .output();
    let built = built.expect("g++ answered a moment ago");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let ran = Command::new(&program).output().expect("it was just built");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stdout));
}
