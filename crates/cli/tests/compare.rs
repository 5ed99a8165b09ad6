//! Two sets of records side by side, from real files: a device with itself on two dates, the CPU with Vulkan, an H100 with a CPU.
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use common::{outcome, ridgepoint, scratch, text};
use ridgepoint_core::{Line, Outcome};
use serde_json::Value;
use std::path::{Path, PathBuf};

fn compared(args: &[&str]) -> Value {
    let (_, out, err) = outcome(&ridgepoint(&[&["compare"], args, &["--format", "json"]].concat()));
    serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}{err}"))
}

/// Measures `cases` on `device`.
fn measure(device: &str, cases: &[&str], folder: &Path) {
    let (code, out, err) =
        outcome(&ridgepoint(&[&["run"], cases, &["--device", device, "--quick", "--out", text(folder)]].concat()));
    assert_eq!(code, 0, "{out}{err}");
}

fn results(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../results").join(name)
}

const CASES: &[&str] =
    &["memory/copy/16MiB/f32", "memory/latency/16KiB", "gemm/m256n256k256/f32", "attention/prefill/b1hq2hkv1sq64sk64d64/f32"];

#[test]
fn a_run_is_compared_with_one_made_slower() {
    let folder = scratch("dates");
    let (before, after) = (folder.join("before"), folder.join("after"));
    measure("cpu", CASES, &before);
    // The same records, its copies a quarter slower and one case lost.
    std::fs::create_dir_all(&after).unwrap();
    let whole = std::fs::read_to_string(before.join("raw.jsonl")).unwrap();
    let changed = whole.lines().map(|line| {
        let mut line: Line = serde_json::from_str(line).unwrap();
        if let Line::Record(r) = &mut line {
            if let (Outcome::Measured { samples, .. }, true) = (&mut r.outcome, r.case.as_str().contains("copy")) {
                samples.seconds.iter_mut().for_each(|s| s.0 *= 1.25);
            }
            if r.case.as_str().contains("latency") {
                r.outcome = Outcome::Skipped { reason: "<b>no</b> such thing".into() };
            }
        }
        serde_json::to_string(&line).unwrap() + "\n"
    });
    std::fs::write(after.join("raw.jsonl"), changed.collect::<String>()).unwrap();

    let made = compared(&[text(&before), text(&after)]);
    let pairs = made["pairs"].as_array().unwrap();
    assert_eq!(pairs.len(), 3, "{made}");
    for pair in pairs {
        let slower = pair["case"].as_str().unwrap().contains("copy");
        let ratio = pair["ratio"]["value"].as_f64().unwrap();
        assert!((ratio - if slower { 0.8 } else { 1.0 }).abs() < 1e-9, "{pair}");
        assert!(pair["ratio"]["low"].as_f64().unwrap() <= ratio && ratio <= pair["ratio"]["high"].as_f64().unwrap(), "{pair}");
        // The CPU has measured its own roofs.
        assert!(pair["a"]["fraction"].as_f64().unwrap() > 0.0 && pair["a"]["roof_kind"] == "empirical", "{pair}");
    }
    assert_eq!(made["single"][0]["absence"], "skipped");

    let files = [text(&before), text(&after)];
    let code = |extra: &[&str]| outcome(&ridgepoint(&[&["compare"], &files[..], extra].concat())).0;
    // However noisy the machine is: no interval reaches these.
    assert_eq!(code(&[]), 0);
    assert_eq!(code(&["--fail-below", "1e9", "--case", "gemm"]), 1);
    assert_eq!(code(&["--fail-below", "10", "--case", "copy"]), 0);
    assert_eq!(code(&["--fail-below", "10"]), 1, "a case was lost");
    let (_, out, _) = outcome(&ridgepoint(&[&["compare"], &files[..], &["--fail-below", "1e9", "--case", "copy"]].concat()));
    assert!(out.contains("REGRESSION: 1 case surely below 1000000000 %"), "{out}");

    for format in ["table", "csv", "markdown", "html"] {
        let (code, out, err) = outcome(&ridgepoint(&[&["compare"], &files[..], &["--format", format]].concat()));
        assert_eq!(code, 0, "{err}");
        assert!(out.contains("copy/16MiB/f32") && out.contains("no such thing") | out.contains("such thing"), "{format}: {out}");
        assert!(format == "table" || format == "csv" || !out.contains("<b>no"), "{format} lets markup through");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn cpu_and_vulkan_records_line_up() {
    if !ridgepoint_device::all_devices().iter().any(|d| d.id == "vulkan:0") {
        println!("SKIP: vulkan device: there is none here");
        return;
    }
    let folder = scratch("vulkan");
    let (cpu, vulkan) = (folder.join("cpu"), folder.join("vulkan"));
    measure("cpu", CASES, &cpu);
    measure("vulkan:0", CASES, &vulkan);
    let made = compared(&[text(&cpu), text(&vulkan)]);
    let ids: Vec<&str> = made["pairs"].as_array().unwrap().iter().map(|p| p["case"].as_str().unwrap()).collect();
    assert_eq!(ids, CASES, "{made}");
    for pair in made["pairs"].as_array().unwrap() {
        assert!(pair["ratio"]["value"].as_f64().unwrap() > 0.0, "{pair}");
        assert!(pair["notes"].to_string().contains("B: software Vulkan"), "{pair}");
    }
    let (code, out, err) = outcome(&ridgepoint(&["compare", text(&cpu), text(&vulkan)]));
    assert!(code == 0 && out.contains("vulkan:0"), "{out}{err}");

    // Both in one file: a device named for each side.
    let both = folder.join("both.jsonl");
    let joined = [&cpu, &vulkan].map(|f| std::fs::read_to_string(f.join("raw.jsonl")).unwrap()).concat();
    std::fs::write(&both, joined).unwrap();
    let again = compared(&[text(&both), "--device", "cpu:0,vulkan"]);
    assert_eq!(again["pairs"], made["pairs"]);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn runs_that_were_kept_are_compared() {
    // A CPU with an H100: what has the same id on both.
    let (h100, epyc) = (results("2026-11-24-h100/raw.jsonl"), results("2026-11-24-amd-epyc-2-cores/suite/quick.jsonl"));
    let made = compared(&[text(&epyc), text(&h100), "--device", "cpu:0,cuda:0"]);
    let pairs = made["pairs"].as_array().unwrap();
    // The latencies of a CPU's caches are shorter.
    assert!(pairs.len() >= 4 && pairs.iter().all(|p| p["lower_is_better"] == true && p["change"] == "worse"), "{made}");
    assert!(made["single"].as_array().unwrap().len() > 30);
    // The same H100 later on: under its datasheet's roofs, and per watt.
    let made = compared(&[text(&h100), text(&results("2026-11-24-h100/later.jsonl")), "--device", "cuda:0"]);
    let figures: Vec<&Value> = made["pairs"].as_array().unwrap().iter().filter(|p| p["unit"] == "GB/s").collect();
    assert!(figures.len() > 5, "{made}");
    for pair in figures {
        assert!(pair["a"]["roof_kind"] == "datasheet" || pair["a"]["roof"].is_null(), "{pair}");
        assert!((0.5..2.0).contains(&pair["ratio"]["value"].as_f64().unwrap()), "{pair}");
        assert!(pair["ratio_per_watt"].as_f64().unwrap() > 0.0, "{pair}");
    }
    // A folder of eight runs: their medians are the samples.
    let runs = results("2026-11-24-amd-epyc-2-cores/suite");
    let made = compared(&[text(&runs), "--provider", "openblas,native", "--case", "gemm/m2048n2048k2048/f32"]);
    let pair = &made["pairs"][0];
    assert!(pair["a"]["runs"].as_u64().unwrap() >= 8 && pair["a"]["samples"] == pair["a"]["runs"], "{pair}");
    assert_eq!((&pair["a"]["provider"], &pair["b"]["provider"]), (&"openblas".into(), &"native".into()));
}

#[test]
fn what_cannot_be_compared_is_said_in_a_sentence() {
    let h100 = results("2026-11-24-h100/raw.jsonl");
    let file = text(&h100);
    for (args, code, words) in [
        (&[file][..], 2, "two sides"),
        (&[file, "--device", "cuda:0"], 2, "two sides"),
        (&[file, file, "--device", "a,b,c"], 2, "one name or two"),
        (&[file, file, "--device", "hip:0"], 2, "it has cpu:0, cuda:0"),
        (&[file, file, "--provider", "nobody"], 2, "nothing by 'nobody'"),
        (&[file, file, "--fail-below", "0"], 2, "--fail-below"),
        (&[file, file, "--format", "papyrus"], 2, "known: table, csv, json, markdown, html"),
        (&[file, file, "--case", "no/such/case"], 3, "no record of no/such/case"),
        (&[file, "/nonexistent"], 3, "cannot read"),
    ] {
        let (got, _, err) = outcome(&ridgepoint(&[&["compare"], args].concat()));
        assert!(got == code && err.contains(words), "{args:?}: {got} {err}");
    }
    // Nothing in common is no agreement.
    let folder = scratch("apart");
    let halves = std::fs::read_to_string(&h100).unwrap();
    let (first, rest) = halves.split_once('\n').unwrap();
    for (name, op) in [("a.jsonl", "\"memory/read/"), ("b.jsonl", "\"memory/copy/")] {
        let lines: Vec<&str> = std::iter::once(first).chain(rest.lines().filter(|l| l.contains(op))).collect();
        std::fs::write(folder.join(name), lines.join("\n") + "\n").unwrap();
    }
    let (code, out, _) = outcome(&ridgepoint(&["compare", text(&folder.join("a.jsonl")), text(&folder.join("b.jsonl"))]));
    assert!(code == 3 && out.contains("there is no record of it"), "{code} {out}");
    std::fs::remove_dir_all(folder).unwrap();
}
