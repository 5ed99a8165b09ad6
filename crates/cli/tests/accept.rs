//! Acceptance as an operator meets it: records in, a verdict, the bad GPU and an exit code out; and nothing that a file holds can
//! crash it or speak through it.
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use ridgepoint_core::verdict::simulate::{Fault, Simulation};
use ridgepoint_core::{Line, Outcome};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn ridgepoint(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ridgepoint")).args(args).output().unwrap()
}

fn scratch(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("ridgepoint-accept-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn fleet(fault: Fault) -> Simulation {
    Simulation { seed: 11, nodes: 12, gpus: 8, fault, size_pct: 12.0, every: 12, second_group: (0.0, 0.0) }
}

/// The lines of a node, changed by `change`.
fn lines(simulation: &Simulation, n: u32, change: impl Fn(&mut Line)) -> String {
    let (environment, records) = simulation.node(n);
    let all =
        std::iter::once(Line::Environment(Box::new(environment))).chain(records.into_iter().map(|r| Line::Record(Box::new(r))));
    all.map(|mut line| {
        change(&mut line);
        serde_json::to_string(&line).unwrap() + "\n"
    })
    .collect()
}

/// Writes a rule file that looks at what `case` names, with `limit`.
fn rules(folder: &Path, name: &str, limit: &str) -> PathBuf {
    let path = folder.join(name);
    let text = format!(
        "name = \"test\"\n[[rule]]\nid = \"r\"\ncase = \"memory/read/*/f32\"\n{limit}\nunit = \"GB/s\"\nsource = \"a test\"\n"
    );
    std::fs::write(&path, text).unwrap();
    path
}

/// Code, standard output and error; never a panic.
fn outcome(output: &Output) -> (i32, String, String) {
    let (out, err) = (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(!err.contains("panicked"), "{err}");
    (output.status.code().unwrap(), out, err)
}

#[test]
fn each_verdict_has_its_exit_code() {
    let folder = scratch("codes");
    let good = folder.join("good.jsonl");
    std::fs::write(&good, lines(&fleet(Fault::None), 0, |_| {})).unwrap();
    let throttled = folder.join("throttled.jsonl");
    let throttle = |line: &mut Line| {
        if let Line::Record(r) = line
            && let Outcome::Measured { samples, telemetry, .. } = &mut r.outcome
        {
            samples.throttled = (0..samples.seconds.len()).collect();
            telemetry.throttle_reasons = vec!["hardware thermal".into()];
        }
    };
    std::fs::write(&throttled, lines(&fleet(Fault::None), 0, throttle)).unwrap();
    let pass = rules(&folder, "pass.toml", "min = 1000");
    let warn = rules(&folder, "warn.toml", "min = 9000\nseverity = \"warn\"");
    let fail = rules(&folder, "fail.toml", "min = 9000");
    let other = rules(&folder, "other.toml", "min = 1\nmodels = [\"NoSuchModel\"]");
    let required = rules(&folder, "required.toml", "min = 1000\nrequired = true");
    let missing = rules(&folder, "missing.toml", "min = 1000\nrequired = true\nsize_min = \"64GiB\"");
    // Nothing is judged where the one rule is for other cases, and then there is no PASS.
    let none = folder.join("none.toml");
    std::fs::write(&none, "name=\"n\"\n[[rule]]\nid=\"r\"\ncase=\"gemm/none/*\"\nmax_cv=1\nsource=\"s\"\n").unwrap();
    let skipped = folder.join("skipped.jsonl");
    let skip = |line: &mut Line| {
        if let Line::Record(r) = line {
            r.outcome = Outcome::Skipped { reason: "no such library".into() };
        }
    };
    std::fs::write(&skipped, lines(&fleet(Fault::None), 0, skip)).unwrap();
    for (records, rule, strict, code, verdict) in [
        (&good, &pass, false, 0, "PASS"),
        (&good, &pass, true, 0, "PASS"),
        (&good, &warn, false, 0, "WARN"),
        (&good, &warn, true, 1, "WARN"),
        (&good, &fail, false, 1, "FAIL"),
        (&good, &other, false, 3, "SKIP"),
        (&good, &missing, false, 1, "FAIL"),
        (&skipped, &pass, false, 3, "SKIP"),
        (&skipped, &required, false, 1, "FAIL"),
        (&skipped, &none, false, 3, "SKIP"),
        (&throttled, &pass, false, 3, "INVALID"),
        (&throttled, &required, false, 1, "FAIL"),
    ] {
        let mut args = vec!["accept", text(records), "--rules", text(rule)];
        args.extend(strict.then_some("--strict"));
        let (got, out, err) = outcome(&ridgepoint(&args));
        assert!(got == code && out.starts_with(verdict), "{records:?} {rule:?}: {got} {out}{err}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn the_bad_gpu_is_named_for_every_fault() {
    for fault in Fault::ALL {
        let simulation = fleet(fault);
        let stream: String = (0..simulation.nodes).map(|n| lines(&simulation, n, |_| {})).collect();
        let mut child = Command::new(env!("CARGO_BIN_EXE_ridgepoint"))
            .args(["accept", "-", "--format", "json"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        let writer = std::thread::spawn(move || input.write_all(stream.as_bytes()));
        let (code, out, err) = outcome(&child.wait_with_output().unwrap());
        writer.join().unwrap().unwrap();
        assert_eq!(code, 1, "{fault:?} {err}");
        let judged: serde_json::Value = serde_json::from_str(&out).unwrap();
        let nodes = judged["nodes"].as_array().unwrap();
        let failed: Vec<&str> = nodes.iter().filter(|n| n["verdict"] == "fail").map(|n| n["node"].as_str().unwrap()).collect();
        assert_eq!(failed, [Simulation::name(6)], "{fault:?}: {}", judged["suspects"]);
        let first = &judged["suspects"][0];
        assert_eq!(first["node"], Simulation::name(6), "{fault:?} {first}");
        let gpu = simulation.bad_gpu(6);
        match fault {
            Fault::MissingGpu => {
                assert!(first["text"].as_str().unwrap().contains(&format!("0000:{:02x}:00.0", 0x18 + 0x11 * gpu)), "{first}");
            }
            Fault::WeakLink => assert_eq!(first["fault"], "slow links", "{first}"),
            _ => assert_eq!(first["device"], format!("cuda:{gpu}"), "{fault:?} {first}"),
        }
    }
}

#[test]
fn a_folder_is_searched_and_nothing_is_followed_out_of_it() {
    let folder = scratch("folder");
    let deep = folder.join("rack1/node1");
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("raw.jsonl"), lines(&fleet(Fault::None), 1, |_| {})).unwrap();
    std::fs::write(folder.join("notes.txt"), "not records").unwrap();
    let (code, out, err) = outcome(&ridgepoint(&["accept", text(&folder)]));
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("1 node: 1 PASS"), "{out}");
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("/etc/passwd", folder.join("link.jsonl")).unwrap();
        std::os::unix::fs::symlink(&folder, folder.join("loop")).unwrap();
        let (code, _, err) = outcome(&ridgepoint(&["accept", text(&folder)]));
        assert_eq!(code, 1);
        assert!(err.contains("is a link") && !err.contains("root:"), "{err}");
    }
    let empty = scratch("empty");
    let (code, _, err) = outcome(&ridgepoint(&["accept", text(&empty)]));
    assert!(code == 3 && err.contains("no .jsonl file"), "{code} {err}");
    std::fs::remove_dir_all(folder).unwrap();
    std::fs::remove_dir_all(empty).unwrap();
}

#[test]
fn hostile_records_are_problems_and_cannot_speak_through_the_terminal() {
    let folder = scratch("hostile");
    let evil = |line: &mut Line| {
        if let Line::Environment(e) = line {
            e.host = "<script>alert(1)</script>\u{1b}[2J\r\nPASS".into();
            e.devices[0].name = "\u{1b}]0;owned\u{7}NVIDIA H100 80GB HBM3".into();
        }
    };
    let mut content = lines(&fleet(Fault::WrongResults), 6, evil);
    content += &format!("{{\"kind\":\"record\",\"deep\":{}", "[".repeat(200_000));
    content += "\n{\"kind\":\"record\",\"case\":\"../../etc/passwd\"}\n\u{1b}[31m\n{\"kind\":\"record\",\"samples\":{\"seconds\":[1e999]}}\n";
    content += "{\"kind\":\"environment\",\"schema\":99,\"hash\":\"\",\"version\":\"9\",\"method\":1,\"host\":\"\",\"os\":\"\",\"cpu\":\"\",\"command\":[],\"profile\":\"\",\"seed\":1,\"started\":\"\",\"devices\":[]}\n";
    let file = folder.join("raw.jsonl");
    std::fs::write(&file, content).unwrap();
    for format in ["table", "json"] {
        let (code, out, err) = outcome(&ridgepoint(&["accept", text(&file), "--format", format]));
        assert_eq!(code, 1, "{err}");
        assert!(!out.contains('\u{1b}') && !err.contains('\u{1b}') && !out.contains("\rPASS"), "{out}{err}");
    }
    let (_, _, err) = outcome(&ridgepoint(&["accept", text(&file)]));
    for words in ["EOF while parsing", "is no case id", "number out of range", "schema 99 is newer"] {
        assert!(err.contains(words), "{words}: {err}");
    }
    // A line without an end, larger than any record.
    let huge = folder.join("huge.jsonl");
    std::fs::write(&huge, vec![b'x'; 9 << 20]).unwrap();
    let (code, _, err) = outcome(&ridgepoint(&["accept", text(&huge)]));
    assert!(code != 0 && err.contains("a line of over 8 MiB"), "{code} {err}");
    // Records whose environment is nowhere, or comes after them.
    let whole = lines(&fleet(Fault::None), 2, |_| {});
    let (first, rest) = whole.split_once('\n').unwrap();
    std::fs::write(&file, rest).unwrap();
    let (code, _, err) = outcome(&ridgepoint(&["accept", text(&file)]));
    assert!(code != 0 && err.contains("no environment"), "{err}");
    std::fs::write(&file, format!("{rest}{first}\n")).unwrap();
    let (code, out, err) = outcome(&ridgepoint(&["accept", text(&file)]));
    assert!(code == 0 && out.contains("500 records"), "{out}{err}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn rules_are_explained_by_line_before_they_decide() {
    let folder = scratch("rules");
    let bad = folder.join("bad.toml");
    std::fs::write(&bad, "name = \"x\"\n[[rule]]\nid = \"a\"\ncase = \"memory/read/*/f32\"\nmim = 3\nsource = \"s\"\n").unwrap();
    let (code, out, _) = outcome(&ridgepoint(&["rules", "check", text(&bad)]));
    assert!(code == 2 && out.contains("bad.toml:5:1: unknown key 'mim'; did you mean 'min'?"), "{out}");
    let (code, _, err) = outcome(&ridgepoint(&["accept", ".", "--rules", text(&bad)]));
    assert!(code == 2 && err.contains("did you mean 'min'"), "{err}");
    let (code, _, err) = outcome(&ridgepoint(&["accept", ".", "--rules", "h1000"]));
    assert!(code == 2 && err.contains("packs: a100"), "{err}");
    let (code, out, _) = outcome(&ridgepoint(&["rules", "show", "h100"]));
    let shown = folder.join("mine.toml");
    std::fs::write(&shown, &out).unwrap();
    assert_eq!(code, 0);
    let (code, out, _) = outcome(&ridgepoint(&["rules", "check", text(&shown)]));
    assert!(code == 0 && out.contains("rules and an inventory"), "{out}");
    let (code, out, _) = outcome(&ridgepoint(&["rules", "list"]));
    assert!(code == 0 && out.contains("MI355X"), "{out}");
    let (code, _, err) = outcome(&ridgepoint(&["accept", "/nonexistent", "--rules", "h100"]));
    assert!(code == 3 && err.contains("cannot read"), "{err}");
    std::fs::write(&bad, [0xff, 0xfe, 0]).unwrap();
    let (code, _, err) = outcome(&ridgepoint(&["rules", "check", text(&bad)]));
    assert!(code == 2 && err.contains("UTF-8"), "{err}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_baseline_is_made_compared_with_and_drifted_from() {
    let folder = scratch("baseline");
    let records = folder.join("records");
    std::fs::create_dir_all(&records).unwrap();
    for n in 0..4 {
        std::fs::write(records.join(format!("{n}.jsonl")), lines(&fleet(Fault::None), n, |_| {})).unwrap();
    }
    let file = folder.join("baseline.json");
    let (code, out, err) = outcome(&ridgepoint(&["baseline", "make", text(&records), "-o", text(&file)]));
    assert!(code == 0 && out.contains("metrics of 4 nodes"), "{out}{err}");
    // The same node a month later, its memory 8 % slower.
    let later = folder.join("later.jsonl");
    let slower = |line: &mut Line| match line {
        Line::Environment(e) => {
            e.started = "2026-12-24T00:00:00Z".into();
            e.hash = "later".into();
        }
        Line::Record(r) => {
            r.started = "2026-12-24T00:00:00Z".into();
            r.environment = "later".into();
            if let (Outcome::Measured { samples, .. }, true) = (&mut r.outcome, r.case.as_str().starts_with("memory/read")) {
                samples.seconds.iter_mut().for_each(|s| s.0 *= 1.08);
            }
        }
    };
    std::fs::write(&later, lines(&fleet(Fault::None), 0, slower)).unwrap();
    let only = folder.join("only.toml");
    std::fs::write(
        &only,
        "name=\"b\"\n[[rule]]\nid=\"near\"\ncase=\"memory/read/*\"\nmin_pct_of_baseline=95\nrequired=true\nsource=\"s\"\n",
    )
    .unwrap();
    let args = ["accept", text(&later), "--rules", text(&only), "--baseline", text(&file)];
    let (code, out, err) = outcome(&ridgepoint(&args));
    assert!(code == 1 && out.contains("92.") && out.contains("below-baseline"), "{out}{err}");
    // Without the baseline the required rule has nothing to hold it against, and that is no pass.
    let (code, out, _) = outcome(&ridgepoint(&args[..4]));
    assert!(code == 1 && out.contains("no-baseline"), "{out}");
    let (code, out, err) = outcome(&ridgepoint(&["baseline", "drift", text(&records), text(&later)]));
    assert!(code == 0 && out.contains("2026-11-24") && out.contains("2026-12-24"), "{out}{err}");
    assert!(out.contains("-7.4%  sim-00000  memory/read/1GiB/f32") || out.contains("-7.5%  sim-00000  memory/read"), "{out}");
    let (code, _, err) = outcome(&ridgepoint(&["accept", text(&later), "--baseline", text(&later)]));
    assert!(code == 2 && err.contains("not a baseline"), "{err}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn the_expected_number_of_gpus_is_held_against_the_node() {
    let folder = scratch("gpus");
    let file = folder.join("raw.jsonl");
    std::fs::write(&file, lines(&fleet(Fault::MissingGpu), 6, |_| {})).unwrap();
    let (code, out, _) = outcome(&ridgepoint(&["accept", text(&file), "--gpus", "8"]));
    assert!(code == 1 && out.contains("7 GPUs found, 8 expected") && out.contains("gpu-missing"), "{out}");
    assert_eq!(outcome(&ridgepoint(&["accept", text(&file), "--gpus", "7"])).0, 0);
    std::fs::remove_dir_all(folder).unwrap();
}

/// Without files the node here is measured, stage by stage, and judged; and a second time what is there is kept.
#[test]
fn this_node_is_measured_and_judged() {
    let folder = scratch("here");
    let out = folder.join("out");
    let rules = folder.join("rules.toml");
    let rule =
        "name=\"t\"\n[[rule]]\nid=\"r\"\ncase=\"memory/latency/16KiB\"\nmax=100\nunit=\"ns\"\nrequired=true\nsource=\"a test\"\n";
    std::fs::write(&rules, rule).unwrap();
    let accept = |flag: &str, fake: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ridgepoint"));
        command.env("RIDGEPOINT_FAKE", fake).args([
            "accept",
            "--device",
            "fake",
            "--rules",
            text(&rules),
            flag,
            text(&out),
            "--soak",
            "0",
        ]);
        outcome(&command.args(["--only", "memory/latency/16KiB", "--only", "memory/read/32KiB/f32/hot"]).output().unwrap())
    };
    let (code, shown, err) = accept("--out", "healthy");
    assert!(code == 0 && shown.contains("latency/16KiB") && shown.contains("PASS  1 node: 1 PASS"), "{shown}{err}");
    assert!(err.contains("accepting fake:0") && err.contains("node: 2 measurements"), "{err}");
    let raw = std::fs::read_to_string(out.join("raw.jsonl")).unwrap();
    assert!(raw.contains("\"inventory\":{") && out.join("report.html").exists());
    assert_eq!(accept("--out", "healthy").0, 2, "records are not written over");
    let (code, shown, err) = accept("--resume", "unwritten");
    assert!(code == 0 && shown.contains("PASS"), "{shown}{err}");
    assert_eq!(std::fs::read_to_string(out.join("raw.jsonl")).unwrap().matches("\"kind\":\"record\"").count(), 2);
    // The same on a device that leaves results unwritten.
    std::fs::remove_dir_all(&out).unwrap();
    let (code, shown, err) = accept("--out", "unwritten");
    assert!(code == 1 && shown.contains("wrong-result"), "{shown}{err}");
    std::fs::remove_dir_all(folder).unwrap();
}

/// `burn` on this host's cores, and on devices that fail on purpose: each ending has its exit code.
#[test]
fn a_burn_ends_by_what_it_saw() {
    let folder = scratch("burn");
    let burn = |fake: &str, name: &str, device: &str, cases: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ridgepoint"));
        let fixed = ["--time", "1s", "--turn", "50ms", "--check-every", "300ms", "--device", device, "--out"];
        command.env("RIDGEPOINT_FAKE", fake).arg("burn").args(cases).args(fixed).arg(folder.join(name));
        outcome(&command.output().unwrap())
    };
    let triad = "memory/triad/1MiB/f32";
    let (code, out, err) =
        burn("healthy", "cpu", "cpu", &["gemm/m256n256k256/f32", triad, "attention/decode/b2hq8hkv2sq1sk512d64/f32"]);
    assert_eq!(code, 0, "{out}{err}");
    for words in ["soak of cpu:0", "gemm/m256n256k256/f32 native", "each compared with a verified one", "all right", "soak\n"] {
        assert!(out.contains(words), "{words}: {out}");
    }
    let raw = std::fs::read_to_string(folder.join("cpu/raw.jsonl")).unwrap();
    assert_eq!(raw.matches("\"case\":\"soak/").count(), 3);
    assert!(raw.contains("\"soak\":{\"seconds\":") && folder.join("cpu/report.html").exists());
    // What it wrote is judged like any record.
    let judged = outcome(&ridgepoint(&["accept", text(&folder.join("cpu/raw.jsonl"))]));
    assert!(judged.0 == 0 && judged.1.starts_with("PASS"), "{judged:?}");
    let (code, out, err) = burn("flips=301", "flips", "fake", &[triad]);
    assert!(code == 1 && out.contains("WRONG:"), "{out}{err}");
    let (code, out, _) = outcome(&ridgepoint(&["accept", text(&folder.join("flips/raw.jsonl"))]));
    assert!(code == 1 && out.contains("wrong-result"), "{out}");
    let (code, out, err) = burn("lost=900", "lost", "fake", &[triad]);
    assert!(code == 1 && out.contains("fail after 900 commands"), "{out}{err}");
    let (code, _, err) = burn("healthy", "none", "fake", &["collectives/all_reduce/r2/64KiB/f32"]);
    assert!(code == 2 && err.contains("no load of one device"), "{err}");
    for bad in ["0", "-1s", "soon", "15days"] {
        let (code, _, err) = outcome(&ridgepoint(&["burn", "--time", bad, "--device", "cpu"]));
        assert!(code == 2, "{bad}: {err}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}
