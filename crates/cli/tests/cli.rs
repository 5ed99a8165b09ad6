//! The binary as a stranger meets it: each mistake gets one sentence and the documented exit code, and nothing panics.
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn ridgepoint(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ridgepoint")).args(args).current_dir(std::env::temp_dir()).output().unwrap()
}

/// A folder of this test's own.
fn scratch(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("ridgepoint-cli-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    folder
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Asserts the code, and that standard error holds one sentence with `words` and no panic.
fn fails(output: &Output, code: i32, words: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert!(error.contains(words), "{error}");
    assert!(!error.contains("panicked"), "{error}");
}

/// Measures `cases` on the CPU by our own code into `folder`, and gives the output.
fn run(cases: &[&str], flag: &str, folder: &Path) -> Output {
    let tail = ["--device", "cpu", "--quick", "--provider", "native", flag, text(folder)];
    ridgepoint(&[&["run"], cases, &tail].concat())
}

#[test]
fn wrong_usage_is_2_and_says_what_to_do() {
    fails(&ridgepoint(&["run", "nonsense", "--quick", "--device", "cpu"]), 2, "no case matches 'nonsense'");
    fails(&ridgepoint(&["list", "nonsense"]), 2, "ridgepoint list");
    fails(&ridgepoint(&["run", "--device", "abacus:0"]), 2, "unknown device 'abacus:0'");
    fails(&ridgepoint(&["run", "--format", "papyrus"]), 2, "known: table");
    fails(&ridgepoint(&["run", "--no-such-flag"]), 2, "--no-such-flag");
    fails(
        &ridgepoint(&["run", "memory/latency/16KiB", "--device", "cpu", "--resume", "/nonexistent/folder"]),
        2,
        "no run to go on with",
    );
}

#[test]
fn what_the_machine_cannot_do_is_3() {
    fails(&ridgepoint(&["run", "--device", "cpu:99"]), 3, "present:");
    fails(&ridgepoint(&["report", "/nonexistent/raw.jsonl"]), 3, "cannot read");
    // A file where a folder is needed: not writable whoever asks, root included.
    let file = scratch("file");
    std::fs::write(&file, "").unwrap();
    fails(&run(&["memory/latency/16KiB"], "--out", &file.join("below")), 3, "cannot write");
    std::fs::remove_file(file).unwrap();
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_one_sentence() {
    // /dev/full takes nothing: an empty record file that leads there is a disk that is full.
    let folder = scratch("full");
    std::fs::create_dir_all(&folder).unwrap();
    std::os::unix::fs::symlink("/dev/full", folder.join("raw.jsonl")).unwrap();
    fails(&run(&["memory/latency/16KiB"], "--out", &folder), 3, "No space left on device");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_run_is_recorded_rendered_and_resumed() {
    const CASES: &[&str] = &["memory/read/64KiB/f32/hot", "memory/latency/16KiB", "gemm/m64n48k80/f32"];
    let folder = scratch("run");
    let output = run(CASES, "--out", &folder);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(table.contains("read/64KiB/f32/hot") && table.contains("m64n48k80/f32"), "{table}");
    let raw = folder.join("raw.jsonl");
    let lines: Vec<serde_json::Value> =
        std::fs::read_to_string(&raw).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 4);
    assert_eq!(lines[0]["kind"], "environment");
    for record in &lines[1..] {
        assert_eq!(record["outcome"], "measured", "{record}");
        assert!(record["samples"]["seconds"].as_array().unwrap().len() >= 10);
        assert!(record["verification"]["checked"].as_u64().unwrap() > 0);
        assert_eq!(record["environment"], lines[0]["hash"]);
    }
    assert!(std::fs::read_to_string(folder.join("report.html")).unwrap().contains("m64n48k80"));

    // Again into the same folder: refused, nothing lost.
    fails(&run(CASES, "--out", &folder), 2, "--resume");
    // Cut off in the middle of the last record, as a kill would: reported, and resumed without it.
    let whole = std::fs::read(&raw).unwrap();
    std::fs::write(&raw, &whole[..whole.len() - 40]).unwrap();
    let report = ridgepoint(&["report", text(&folder), "--format", "csv"]);
    fails(&report, 1, "the last record is cut off");
    assert_eq!(String::from_utf8_lossy(&report.stdout).lines().count(), 3);
    let resumed = run(CASES, "--resume", &folder);
    assert_eq!(resumed.status.code(), Some(0), "{}", String::from_utf8_lossy(&resumed.stderr));
    let records = std::fs::read_to_string(&raw).unwrap().lines().filter(|l| l.contains("\"kind\":\"record\"")).count();
    assert_eq!(records, 3);
    // What has no figure is shown as failed, and made again; another machine's run is not gone on with.
    let emptied = |line: &str| {
        let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
        if line["case"] == "memory/latency/16KiB" {
            line["samples"]["seconds"] = serde_json::json!([]);
        }
        line.to_string() + "\n"
    };
    let all = std::fs::read_to_string(&raw).unwrap();
    std::fs::write(&raw, all.lines().map(emptied).collect::<String>()).unwrap();
    assert_eq!(ridgepoint(&["report", text(&folder)]).status.code(), Some(1));
    let resumed = run(CASES, "--resume", &folder);
    assert_eq!(resumed.status.code(), Some(0), "{}", String::from_utf8_lossy(&resumed.stderr));
    let host = format!("\"host\":{}", lines[0]["host"]);
    let all = std::fs::read_to_string(&raw).unwrap();
    assert!(all.contains(&host), "{all}");
    std::fs::write(&raw, all.replace(&host, "\"host\":\"elsewhere\"")).unwrap();
    fails(&run(CASES, "--resume", &folder), 2, "was made on cpu:0");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_device_that_is_gone_from_a_process_is_met_again_by_a_new_one() {
    const CASES: [&str; 4] = ["gemm/m64n64k64/f32", "gemm/m96n64k64/f32", "gemm/m64n96k64/f32", "gemm/m64n64k96/f32"];
    let folder = scratch("gone");
    let arguments = [&["run", "--device", "fake", "--quick", "--out", text(&folder)][..], &CASES].concat();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ridgepoint"));
    command
        .args(arguments)
        .env("RIDGEPOINT_FAKE", "gone=12000,algorithms=1")
        .env("RIDGEPOINT_CACHE", folder.with_extension("cache"));
    let output = command.output().unwrap();
    let (table, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // A failed case is a failed check; all others are there, and nothing was tried twice.
    assert_eq!(output.status.code(), Some(1), "{table}{said}");
    assert!(said.contains("a new process goes on with the rest"), "{said}");
    let raw = std::fs::read_to_string(folder.join("raw.jsonl")).unwrap();
    let records: Vec<serde_json::Value> = raw.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let of = |outcome: &str| records.iter().filter(|r| r["outcome"] == outcome).count();
    assert_eq!(of("measured") + of("failed"), CASES.len(), "{raw}");
    assert!(of("measured") > 0 && of("failed") > 0, "{raw}");
    assert_eq!(records.iter().filter(|r| r["kind"] == "environment").count(), 1 + of("failed"), "a process each");
    let _ = std::fs::remove_dir_all(folder.with_extension("cache"));
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
#[cfg(target_os = "linux")]
fn ranks_are_processes_of_this_program() {
    let folder = scratch("ranks");
    let output =
        ridgepoint(&["run", "collectives/all_reduce/r2/64KiB/f32", "--device", "cpu", "--quick", "--out", text(&folder)]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let raw = std::fs::read_to_string(folder.join("raw.jsonl")).unwrap();
    assert!(raw.contains("\"outcome\":\"measured\"") && raw.contains("shared-memory engine"), "{raw}");
    std::fs::remove_dir_all(folder).unwrap();
}
