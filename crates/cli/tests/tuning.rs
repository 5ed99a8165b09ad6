//! Tuning, data and power of GEMM from end to end, on a fake device whose library has algorithms of different speed and whose power
//! follows what its operands toggle.
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use common::{outcome, scratch, text};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

/// Runs the binary with a fake device, what is found out kept in `home`.
fn fake(settings: &str, home: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ridgepoint"));
    command.args(args).env("RIDGEPOINT_FAKE", settings).env("RIDGEPOINT_CACHE", home).current_dir(home);
    command.output().unwrap()
}

/// The records of a run that ended well, and what it printed.
fn run(settings: &str, home: &Path, args: &[&str]) -> (Vec<Value>, String) {
    let out = home.join("run");
    let _ = std::fs::remove_dir_all(&out);
    let output = fake(settings, home, &[&["run", "--device", "fake", "--out", text(&out)], args].concat());
    let (code, shown, said) = outcome(&output);
    assert_eq!(code, 0, "{shown}{said}");
    let raw = std::fs::read_to_string(out.join("raw.jsonl")).unwrap();
    (raw.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect(), shown)
}

#[test]
fn the_fastest_algorithm_is_searched_once_and_kept_as_long_as_it_works() {
    let home = scratch("tuning");
    let case = "gemm/m256n256k256/f32";
    let tuning = |settings: &str, args: &[&str]| {
        let (records, shown) = run(settings, &home, &[&[case], args].concat());
        (records[0]["tuning"].clone(), shown)
    };
    let number = |tuning: &Value, name: &str| tuning[name].as_u64().unwrap();
    // Of twelve, the ninth is the fastest. A quick run looks at eight.
    let (quick, _) = tuning("algorithms=12", &["--quick"]);
    assert_eq!([number(&quick, "offered"), number(&quick, "tried"), number(&quick, "chosen")], [12, 8, 7]);
    // A longer one goes deeper, and says what the library's own first choice would have given.
    let (found, shown) = tuning("algorithms=12", &[]);
    assert_eq!([number(&found, "tried"), number(&found, "chosen")], [12, 8]);
    assert_eq!(found["first"].as_array().unwrap().len(), found["best"].as_array().unwrap().len());
    assert!(shown.contains("tuned 1.80"), "{shown}");
    // The next takes what was found, and measures the first choice beside it all the same.
    let (kept, shown) = tuning("algorithms=12", &["--quick"]);
    assert_eq!([number(&kept, "tried"), number(&kept, "chosen")], [0, 8]);
    assert!(shown.contains("tuned 1.80"), "{shown}");
    // What no longer runs gives way, and is named.
    let (broken, _) = tuning("algorithms=12,broken=8", &[]);
    assert_eq!(number(&broken, "tried"), 12);
    assert!([7, 9].contains(&number(&broken, "chosen")) && broken["note"].as_str().unwrap().contains("told to fail"), "{broken}");
    let (anew, _) = tuning("algorithms=12", &["--retune"]);
    assert_eq!([number(&anew, "tried"), number(&anew, "chosen")], [12, 8]);
    // A damaged file is none, and neither is one that names what is not offered.
    for file in std::fs::read_dir(home.join("tuned")).unwrap() {
        std::fs::write(file.unwrap().path(), b"RPKCACH1 and then nothing of sense").unwrap();
    }
    let (damaged, _) = tuning("algorithms=12", &[]);
    assert_eq!(number(&damaged, "tried"), 12);
    let (fewer, _) = tuning("algorithms=6", &["--quick"]);
    assert_eq!(number(&fewer, "offered"), 6);
    assert!(fewer["note"].as_str().unwrap().contains("no longer offered"), "{fewer}");
    std::fs::remove_dir_all(home).unwrap();
}

#[test]
fn each_kind_of_data_is_measured_in_turns_and_set_beside_the_others() {
    let home = scratch("data");
    let case = ["gemm/m64n64k64/f32", "--data-sweep", "--sustain", "900ms"];
    let (records, shown) = run("algorithms=1", &home, &case);
    let data: Vec<&str> = records.iter().map(|r| r["data"].as_str().unwrap()).collect();
    assert_eq!(data, ["normal", "uniform", "zeros", "constant", "trigonometric"]);
    assert!(records.iter().all(|r| r["outcome"] == "measured" && r["labels"][0] == "in turns"), "{shown}");
    let line =
        |word: &str| shown.lines().find(|l| l.trim_start().starts_with(word)).unwrap_or_else(|| panic!("{shown}")).to_owned();
    // By the device's model zeros take 0.85 of the time, and 60 of 100 W.
    assert!(line("normal ").contains("1.000 ×") && line("normal ").contains("100"), "{shown}");
    assert!(line("zeros ").contains("1.1") && line("zeros ").contains(" 60 "), "{shown}");
    assert!(line("zeros ").contains("TFLOP/s/W"), "{shown}");
    // A weak reference does not let a library pass that multiplies nothing.
    let out = home.join("idle");
    let output = fake(
        "algorithms=1,idle",
        &home,
        &["run", "gemm/m64n64k64/f32/data=zeros", "--quick", "--device", "fake", "--out", text(&out)],
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(std::fs::read_to_string(out.join("raw.jsonl")).unwrap().contains("\"outcome\":\"wrong\""));
    let (code, _, said) = outcome(&fake("healthy", &home, &["run", "memory/latency/16KiB", "--data-sweep", "--device", "fake"]));
    assert!(code == 2 && said.contains("--data-sweep is for GEMM"), "{said}");
    std::fs::remove_dir_all(home).unwrap();
}

#[test]
fn a_sustained_gemm_tells_what_a_watt_gives() {
    let home = scratch("watts");
    let (_, shown) = run("algorithms=1", &home, &["gemm/m64n64k64/f32", "--sustain", "1100ms"]);
    let line = shown.lines().find(|l| l.contains("over 1 s")).unwrap_or_else(|| panic!("{shown}"));
    assert!(line.contains("99.9 to 99.9 W") && line.ends_with("TFLOP/s/W"), "{line}");
    let page = std::fs::read_to_string(home.join("run/report.html")).unwrap();
    assert!(page.contains("\"unit\":\"TFLOP/s/W\""));
    let (_, csv, _) = outcome(&fake("healthy", &home, &["report", text(&home.join("run")), "--format", "csv"]));
    let column = csv.lines().next().unwrap().split(',').position(|name| name == "per_watt").unwrap();
    let watts: f64 = csv.lines().nth(1).unwrap().split(',').nth(column).unwrap().parse().unwrap();
    assert!((0.001..0.1).contains(&watts), "{csv}");
    std::fs::remove_dir_all(home).unwrap();
}
