//! `ridgepoint bench-kernel` with the example that users start from: from its files to records and tables, on the CPU and on
//! Vulkan; and what is wrong is explained by line.
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]
#![expect(clippy::print_stdout, reason = "a test that skips says so")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn example(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/fused_add_relu").join(file)
}

/// A folder of this test's own.
fn scratch(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("ridgepoint-kernel-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn bench_kernel(files: &[&Path], spec: &Path, rest: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ridgepoint"));
    command.arg("bench-kernel").args(files).arg("--spec").arg(spec).args(["--quick"]).args(rest);
    command.current_dir(std::env::temp_dir()).output().unwrap()
}

/// Both outputs, after a look at the exit code.
fn text(output: &Output, code: i32) -> String {
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    text
}

/// Measures the example on one device, and gives its record.
fn measured(device: &str, file: &str) -> Option<serde_json::Value> {
    let folder = scratch(device);
    let out = folder.join("run");
    let rest = ["--size", "n=1000003", "--device", device, "--out", out.to_str().unwrap()];
    let output = bench_kernel(&[&example(file)], &example("spec.toml"), &rest);
    if output.status.code() == Some(3) {
        println!("SKIP: {device} device: {}", String::from_utf8_lossy(&output.stderr).trim());
        return None;
    }
    let table = text(&output, 0);
    assert!(
        table.contains("kernel\n") && table.contains("fused_add_relu/n1000003/f32") && table.contains("user's kernel"),
        "{table}"
    );
    let raw = std::fs::read_to_string(out.join("raw.jsonl")).unwrap();
    assert!(out.join("report.html").is_file());
    let record: serde_json::Value = serde_json::from_str(raw.lines().nth(1).unwrap()).unwrap();
    // Read again by every other command.
    let report =
        Command::new(env!("CARGO_BIN_EXE_ridgepoint")).arg("report").arg(&out).args(["--format", "csv"]).output().unwrap();
    assert!(String::from_utf8_lossy(&report.stdout).contains("kernel/fused_add_relu/n1000003/f32"));
    std::fs::remove_dir_all(folder).unwrap();
    Some(record)
}

#[test]
fn the_example_is_verified_and_measured_where_it_can_run() {
    for (device, file) in [("cpu", "fused_add_relu.c"), ("vulkan", "fused_add_relu.wgsl")] {
        let Some(record) = measured(device, file) else { continue };
        assert_eq!((record["outcome"].as_str(), record["provider"].as_str()), (Some("measured"), Some(file)), "{record}");
        assert_eq!((record["verification"]["error"].as_f64(), record["component"].as_str()), (Some(0.0), Some("kernel")));
        assert!(record["verification"]["checked"].as_u64().unwrap() >= 1_000_003);
        assert_eq!(record["work"]["bytes"].as_u64(), Some(12 * 1_000_003));
    }
}

#[test]
fn a_source_that_is_wrong_fails_with_its_reason() {
    let folder = scratch("wrong");
    let source = std::fs::read_to_string(example("fused_add_relu.c")).unwrap();
    let file = folder.join("mine.c");
    let out = folder.join("run");
    let go = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let _ = std::fs::remove_dir_all(&out);
        let rest = ["--size", "n=5000", "--device", "cpu", "--out", out.to_str().unwrap()];
        bench_kernel(&[&file], &example("spec.toml"), &rest)
    };
    let wrong = text(&go(&source.replace("sum > 0.0f", "sum > 0.5f")), 1);
    assert!(wrong.contains("\nwrong: ") && wrong.contains("kernel/fused_add_relu/n5000/f32 by mine.c"), "{wrong}");
    let broken = text(&go(&source.replace("a[i] + b[i]", "a[i] + c[i]")), 1);
    assert!(broken.contains("mine.c") && broken.contains("undeclared"), "{broken}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn mistakes_are_explained_by_line() {
    let folder = scratch("mistakes");
    let spec = folder.join("spec.toml");
    let good = std::fs::read_to_string(example("spec.toml")).unwrap();
    let source = example("fused_add_relu.c");
    let with = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        std::fs::write(&spec, good.replace(from, to)).unwrap();
        text(&bench_kernel(&[&source], &spec, &["--device", "cpu"]), 2)
    };
    let line = good.lines().position(|l| l.starts_with("out =")).unwrap() + 1;
    let told = with("max(a + b, 0)", "max(a + c, 0)");
    assert!(
        told.contains(&format!("spec.toml:{line}:7: ")) && told.contains("'c' is not known here (names: a, b, count, n, i"),
        "{told}"
    );
    assert!(with("dtype = \"f32\"", "dtyep = \"f32\"").contains("unknown key 'dtyep'; did you mean 'dtype'?"));
    let spec = example("spec.toml");
    assert!(text(&bench_kernel(&[&source], &spec, &["--size", "m=3"]), 2).contains("there is no size 'm'"));
    assert!(text(&bench_kernel(&[&source], &spec, &["--size", "n"]), 2).contains("as in n=16777216"));
    assert!(text(&bench_kernel(&[&spec], &spec, &[]), 2).contains("a kernel is a .cu or .hip"));
    assert!(text(&bench_kernel(&[Path::new("/nonexistent/a.c")], &spec, &[]), 3).contains("cannot read"));
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_device_that_does_not_take_the_source_skips_it() {
    let folder = scratch("other");
    let out = folder.join("run");
    let rest = ["--device", "cpu", "--size", "n=64", "--out", out.to_str().unwrap()];
    let told = text(&bench_kernel(&[&example("fused_add_relu.cu")], &example("spec.toml"), &rest), 3);
    assert!(told.contains("skipped: fused_add_relu.cu is CUDA or HIP C++; cpu:0 takes none of that"), "{told}");
    std::fs::remove_dir_all(folder).unwrap();
}
