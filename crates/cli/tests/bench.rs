//! `cargo bench` as a user meets it: the same program, on the fake device, whose own clock gives the same on every machine, so that
//! a slow-down is a slow-down and nothing else. The program runs itself, which a test of the usual kind cannot; so it has a `main`.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test program: it reports and it fails")]

#[path = "../benches/suites/main.rs"]
mod suites;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};

/// Set for the program as a benchmark.
const CHILD: &str = "RIDGEPOINT_TEST_BENCH";

const TESTS: &[(&str, fn())] = &[
    ("a_slow_down_is_a_regression_against_a_saved_baseline", a_slow_down_is_a_regression_against_a_saved_baseline),
    ("what_is_wrong_has_no_number", what_is_wrong_has_no_number),
    ("what_cannot_be_done_is_skipped_with_its_reason", what_cannot_be_done_is_skipped_with_its_reason),
    ("ids_are_those_of_the_command_and_any_can_be_made", ids_are_those_of_the_command_and_any_can_be_made),
    ("it_runs_where_it_is_carried_to", it_runs_where_it_is_carried_to),
];

fn main() -> ExitCode {
    if std::env::var_os(CHILD).is_some() {
        return suites::main();
    }
    let filters: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    for (name, test) in TESTS.iter().filter(|(name, _)| filters.is_empty() || filters.iter().any(|f| name.contains(f.as_str()))) {
        test();
        println!("test {name} ... ok");
    }
    println!("test result: ok");
    ExitCode::SUCCESS
}

/// A folder of this test's own.
fn scratch(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("ridgepoint-bench-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// The benchmark as cargo would start it, on a device with short samples.
fn bench(home: &Path, device: &str, fake: &str, args: &[&str]) -> Output {
    let short = ["--bench", "--noplot", "--warm-up-time", "0.02", "--measurement-time", "0.05", "--sample-size", "10"];
    Command::new(std::env::current_exe().unwrap())
        .env(CHILD, "1")
        .env("RIDGEPOINT_DEVICE", device)
        .env("RIDGEPOINT_FAKE", fake)
        .env("CRITERION_HOME", home)
        .args(short)
        .args(args)
        .output()
        .unwrap()
}

fn text(output: &Output, code: i32) -> String {
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    text
}

const COPY: &str = "memory/copy/1MiB/f32";

fn a_slow_down_is_a_regression_against_a_saved_baseline() {
    let home = scratch("baseline");
    let first = text(&bench(&home, "fake:0", "healthy", &[COPY, "--save-baseline", "before"]), 0);
    assert!(first.contains("memory/copy/1MiB/f32/native") && first.contains("GB/s"), "{first}");
    assert!(home.join("memory_copy_1MiB_f32/native/before/estimates.json").is_file(), "{first}");
    let same = text(&bench(&home, "fake:0", "healthy", &[COPY, "--baseline", "before"]), 0);
    assert!(!same.contains("regressed") && !same.contains("improved"), "{same}");
    let slower = text(&bench(&home, "fake:0", "throttled", &[COPY, "--baseline", "before"]), 0);
    assert!(slower.contains("Performance has regressed."), "{slower}");
    let absent = bench(&home, "fake:0", "healthy", &[COPY, "--baseline", "never"]);
    assert!(!absent.status.success() && String::from_utf8_lossy(&absent.stderr).contains("Baseline 'never' must exist"));
    std::fs::remove_dir_all(home).unwrap();
}

fn what_is_wrong_has_no_number() {
    // From the first kernel on, and only from the timed runs on.
    for fake in ["unwritten", "fading=4"] {
        let home = scratch("wrong");
        let output = text(&bench(&home, "fake:0", fake, &[COPY, "--save-baseline", "wrong"]), 1);
        assert!(output.contains("memory/copy/1MiB/f32/native") && output.contains(" wrong: "), "{fake}: {output}");
        assert!(!output.contains("time:   [") && !output.contains("GB/s"), "{fake}: {output}");
        assert!(!home.join("memory_copy_1MiB_f32/native/wrong").exists(), "{fake}: {output}");
        std::fs::remove_dir_all(home).unwrap();
    }
    // Run once and checked, as `cargo test --benches` does.
    let home = scratch("once");
    assert!(text(&bench(&home, "fake:0", "unwritten", &[COPY, "--test"]), 1).contains(" wrong: "));
    std::fs::remove_dir_all(home).unwrap();
}

fn what_cannot_be_done_is_skipped_with_its_reason() {
    let home = scratch("skipped");
    let output = text(&bench(&home, "fake:0", "healthy", &["gemm/m64n48k80/f32"]), 0);
    assert!(output.contains(" skipped: no GEMM library was found for fake:0"), "{output}");
    assert!(text(&bench(&home, "abacus", "healthy", &[]), 2).contains("unknown device 'abacus'"));
    assert!(text(&bench(&home, "fake:0", "lost=30", &[COPY]), 3).contains("the device is lost"));
    assert!(text(&bench(&home, "fake:0", "healthy", &["gemm/*/bf16"]), 2).contains("regular expression"));
    std::fs::remove_dir_all(home).unwrap();
}

fn ids_are_those_of_the_command_and_any_can_be_made() {
    let home = scratch("ids");
    let listed = text(&bench(&home, "cpu", "healthy", &["--list"]), 0);
    let ours: Vec<String> =
        listed.lines().filter_map(|l| Some(l.strip_suffix(": benchmark")?.rsplit_once('/')?.0.to_owned())).collect();
    assert!(ours.len() > 30, "{listed}");
    let command = Command::new(env!("CARGO_BIN_EXE_ridgepoint")).arg("list").args(&ours).output().unwrap();
    let known: BTreeSet<String> = String::from_utf8_lossy(&command.stdout).lines().map(str::to_owned).collect();
    assert!(command.status.success() && ours.iter().all(|id| known.contains(id)), "{ours:?} {known:?}");
    // A product that no list holds, in both units, on the CPU's clock.
    let made = text(&bench(&home, "cpu", "healthy", &["gemm/m64n48k80/f32/native"]), 0);
    assert!(made.contains("TFLOP/s") && made.contains("GB/s"), "{made}");
    let latency = text(&bench(&home, "fake:0", "healthy", &["memory/latency/16KiB"]), 0);
    assert!(latency.contains("thrpt:") && latency.contains(" ns"), "{latency}");
    std::fs::remove_dir_all(home).unwrap();
}

fn it_runs_where_it_is_carried_to() {
    let folder = scratch("carried");
    let program = folder.join("suites");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let output = Command::new(&program)
        .env(CHILD, "1")
        .env("RIDGEPOINT_DEVICE", "fake:0")
        .env("RIDGEPOINT_FAKE", "healthy")
        .env_remove("CARGO")
        .env_remove("CARGO_TARGET_DIR")
        .current_dir(&folder)
        .args(["--bench", "--warm-up-time", "0.02", "--measurement-time", "0.05", "--sample-size", "10", COPY])
        .output()
        .unwrap();
    text(&output, 0);
    // Where nothing else is said, beside itself, and with the pages that criterion draws.
    assert!(folder.join("target/criterion/memory_copy_1MiB_f32/native/report/index.html").is_file());
    std::fs::remove_dir_all(folder).unwrap();
}
