//! Cases made of flags, through the binary on the CPU: sweeps are listed, killed in the middle and resumed.
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use common::{chromium, drive, outcome, ridgepoint, scratch, text};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

/// How every run here ends: on the CPU, by our own code, quickly.
const HERE: [&str; 7] = ["--device", "cpu", "--quick", "--provider", "native", "--provider", "flash"];

/// Ids and outcomes of the whole record lines in a folder.
fn records(folder: &Path) -> Vec<(String, String)> {
    let raw = std::fs::read_to_string(folder.join("raw.jsonl")).unwrap_or_default();
    let lines = raw.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let records = lines.filter(|line| line["kind"] == "record");
    records.map(|r| (r["case"].as_str().unwrap().to_owned(), r["outcome"].as_str().unwrap().to_owned())).collect()
}

/// Runs until `enough` records are there, then ends the process as a scheduler would: without a word.
fn killed(args: &[&str], folder: &Path, enough: usize) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ridgepoint"));
    child.args(args).args(HERE).args(["--out", text(folder)]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = child.spawn().unwrap();
    while records(folder).len() < enough && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A command that was killed in the middle comes to the same end when it is resumed, and measures nothing twice.
fn resumes(name: &str, args: &[&str], expected: &BTreeSet<String>) {
    let folder = scratch(name);
    killed(args, &folder, 2);
    let before = records(&folder).len();
    assert!(before < expected.len(), "{name}: it came to its end before it was killed");
    let (code, out, err) = outcome(&ridgepoint(&[args, &HERE, &["--resume", text(&folder)]].concat()));
    assert_eq!(code, 0, "{out}{err}");
    let found = records(&folder);
    let ids: BTreeSet<String> = found.iter().map(|(id, _)| id.clone()).collect();
    assert_eq!((&ids, found.len()), (expected, expected.len()), "{name}");
    assert!(found.iter().all(|(_, outcome)| outcome == "measured"), "{found:?}");
    std::fs::remove_dir_all(folder).unwrap();
}

fn listed(args: &[&str]) -> BTreeSet<String> {
    let (code, out, err) = outcome(&ridgepoint(&[&["list"], args].concat()));
    assert_eq!(code, 0, "{err}");
    out.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_sweep_runs_as_it_is_listed_and_resumes() {
    let sweep = ["--m", "8,24", "--n", "32:64:32", "--k", "16:32:x2", "--square", "48", "--dtype", "f32,bf16"];
    let expected = listed(&sweep);
    assert_eq!(expected.len(), 18);
    assert!(expected.contains("gemm/m24n64k32/bf16") && expected.contains("gemm/m48n48k48/f32"));
    resumes("sweep", &[&["run"], &sweep[..]].concat(), &expected);
}

/// A decoder that fits a test.
const TINY: &str = r#"{"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 96, "vocab_size": 160}"#;

#[test]
fn a_model_runs_as_it_is_listed_resumes_and_is_summed_to_a_pass() {
    let folder = scratch("model");
    let config = folder.join("config.json");
    std::fs::write(&config, TINY).unwrap();
    let flags = ["--model", text(&config), "--batch", "1,3", "--context", "32", "--tokens", "16", "--tp", "2", "--dtype", "f32"];
    let (_, list, _) = outcome(&ridgepoint(&[&["list"], &flags[..]].concat()));
    assert!(list.contains("decode, batch 3, context 32, tensor parallel 2, f32"), "{list}");
    assert!(list.lines().any(|l| l.starts_with("gemm/m3n64k64/f32 ") && l.ends_with("3 × qkv")), "{list}");
    let expected = listed(&flags);
    assert!(expected.contains("attention/prefill/b1hq2hkv1sq16sk32d16/f32/causal"), "{expected:?}");
    resumes("model-run", &[&["run"], &flags[..]].concat(), &expected);

    // The sum is count × median of what was measured, and says so where a part is missing.
    let out = folder.join("out");
    let run = |more: &[&str]| outcome(&ridgepoint(&[&["run"], more, &flags[..], &HERE, &["--phase", "decode"]].concat()));
    let (code, table, err) = run(&["--out", text(&out), "gemm"]);
    assert_eq!(code, 0, "{err}");
    assert!(table.contains("a forward pass of") && table.contains("at least ") && table.contains("3 × not measured"), "{table}");
    let (code, table, err) = run(&["--resume", text(&out)]);
    assert_eq!(code, 0, "{err}");
    assert!(!table.contains("at least ") && table.contains("decode 3 × 32") && table.contains("lm head"), "{table}");
    std::fs::remove_dir_all(folder).unwrap();
}

/// Latent attention, a dense layer, experts and a shared one.
const LATENT: &str = r#"{"model_type": "deepseek_v3", "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2, "q_lora_rank": 24,
    "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16, "intermediate_size": 64, "moe_intermediate_size": 32,
    "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1, "vocab_size": 80}"#;

#[test]
fn latent_attention_and_experts_are_measured_on_the_cpu() {
    let folder = scratch("latent");
    let config = folder.join("latent.json");
    std::fs::write(&config, LATENT).unwrap();
    let flags = ["--model", text(&config), "--batch", "3", "--context", "20", "--tokens", "12", "--dtype", "f32"];
    let out = folder.join("out");
    let (code, table, err) = outcome(&ridgepoint(&[&["run"], &flags[..], &HERE, &["--out", text(&out)]].concat()));
    assert_eq!(code, 0, "{table}{err}");
    let found = records(&out);
    assert!(found.iter().all(|(_, outcome)| outcome == "measured"), "{found:?}");
    // Absorbed where it decodes: a product a head, and one latent head.
    for part in
        ["/grouped/e4m72n64k48/f32/routed", "/mla-prefill/b3hq2hkv2sq12sk20d24v16/", "/b2m3n32k16/f32", "/mla-decode/b3hq2hkv1"]
    {
        assert!(found.iter().any(|(id, _)| id.contains(part)), "{part}: {found:?}");
    }
    assert!(table.contains("a forward pass of latent") && !table.contains("not measured"), "{table}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn what_is_no_model_is_wrong_usage() {
    let folder = scratch("no-model");
    let config = folder.join("config.json");
    for (content, flags, words) in [
        ("{}", &[][..], "hidden_size is missing"),
        ("[[[[", &[], "no config.json"),
        (TINY, &["--tp", "3"], "3 GPUs do not divide the 4 query heads"),
        (TINY, &["--phase", "sleep"], "prefill"),
    ] {
        std::fs::write(&config, content).unwrap();
        let (code, _, err) = outcome(&ridgepoint(&[&["list", "--model", text(&config)], flags].concat()));
        assert!(code == 2 && err.contains(words), "{flags:?}: {err}");
    }
    let (code, _, err) = outcome(&ridgepoint(&["list", "--model", "nobody"]));
    assert!(code == 2 && err.contains("known: llama-3.1-8b"), "{err}");
    std::fs::remove_dir_all(folder).unwrap();
}

/// The best shape that a search told of, as its id.
fn told(out: &str) -> String {
    let line = out.lines().find(|line| line.starts_with("the most: ")).unwrap_or_else(|| panic!("{out}"));
    let shape = line.split(" at ").nth(1).unwrap().split(" by ").next().unwrap();
    format!("gemm/{shape}")
}

#[test]
fn a_search_ends_with_a_verified_shape_and_resumes_without_trying_again() {
    let folder = scratch("search");
    let search = ["search", "--m", "16:64:16", "--n", "16:64:x2", "--k", "32,64", "--dtype", "f32", "--best", "2"];
    let (code, out, err) = outcome(&ridgepoint(&[&search[..], &HERE, &["--out", text(&folder)]].concat()));
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("best so far: ") && out.contains("of 24 shapes tried"), "{out}{err}");
    let found = records(&folder);
    assert!(found.iter().any(|(id, outcome)| *id == told(&out) && outcome == "measured"), "{found:?}");
    let trials = std::fs::read_to_string(folder.join("trials.jsonl")).unwrap();
    assert_eq!(trials.lines().count(), 24);
    // No trial is a record.
    assert!(found.len() < 24);
    let (code, again, err) = outcome(&ridgepoint(&[&search[..], &HERE, &["--resume", text(&folder)]].concat()));
    assert_eq!((code, told(&again)), (0, told(&out)), "{err}");
    let lines = |text: &str| text.lines().filter(|line| !line.is_empty()).count();
    assert_eq!(lines(&std::fs::read_to_string(folder.join("trials.jsonl")).unwrap()), 24);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
#[cfg(unix)]
fn an_interrupted_search_shows_and_keeps_its_best() {
    let folder = scratch("interrupted");
    let mut search = Command::new(env!("CARGO_BIN_EXE_ridgepoint"));
    search.args(["search", "--m", "32:512:32", "--n", "32:512:32", "--k", "32:512:32", "--dtype", "f32"]).args(HERE);
    search.args(["--out", text(&folder)]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = search.spawn().unwrap();
    let trials = || std::fs::read_to_string(folder.join("trials.jsonl")).map_or(0, |text| text.lines().count());
    while trials() < 3 {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let (code, out, err) = outcome(&child.wait_with_output().unwrap());
    assert_eq!(code, 3, "{err}");
    assert!(err.contains("interrupted") && err.contains("--resume"), "{err}");
    assert!(records(&folder).iter().any(|(id, outcome)| *id == told(&out) && outcome == "measured"), "{out}");
    assert!(folder.join("report.html").exists());
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_reader_sees_the_sweep_as_a_map_and_the_squares_as_a_curve() {
    let Some(chromium) = chromium() else { return };
    let folder = scratch("map");
    let config = folder.join("tiny.json");
    std::fs::write(&config, TINY).unwrap();
    let sweep = ["run", "--m", "16:48:16", "--n", "32,48", "--k", "24", "--square", "16:64:x2", "--dtype", "f32"];
    let model = ["--model", text(&config), "--phase", "decode", "--context", "16"];
    let out = folder.join("out");
    let (code, _, err) = outcome(&ridgepoint(&[&sweep[..], &model, &HERE, &["--out", text(&out)]].concat()));
    assert_eq!(code, 0, "{err}");
    let said = drive(
        chromium,
        &out.join("report.html"),
        r#"
        const all = s => [...document.querySelectorAll(s)];
        const said = { cells: all('#products rect.cell').map(c => c.dataset.case).sort(), titles: all('#products rect.cell title').map(t => t.textContent) };
        said.colors = new Set(all('#products rect.cell').map(c => c.getAttribute('fill'))).size;
        said.table = all('#products details td').map(c => c.textContent);
        const [, figure] = all('#products select');
        figure.value = '% of roof'; figure.dispatchEvent(new Event('change')); said.percent = all('#products details td').map(c => c.textContent);
        all('#products rect.cell')[0].dispatchEvent(new Event('click')); said.detail = all('tr.detail').length;
        said.squares = all('#squares circle').length; said.ridges = all('path[data-ridge]').length;
        said.forward = all('.forward td').map(c => c.textContent);
        // On a phone nothing but tables, which scroll in their own boxes, is wider than the page.
        document.querySelector('main').style.width = '360px';
        const right = document.querySelector('main').getBoundingClientRect().right;
        said.wide = all('main svg, main h2, main select').filter(e => !e.closest('.scroll') && e.getBoundingClientRect().right > right + 1).length;
        return said;
        "#,
    );
    let list = |key: &str| said[key].as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let cells: Vec<String> = [16, 32, 48].iter().flat_map(|m| [32, 48].map(|n| format!("gemm/m{m}n{n}k24/f32"))).collect();
    assert_eq!(list("cells"), cells);
    assert!(list("titles").iter().all(|title| title.contains("TFLOP/s")), "{said}");
    assert!(said["colors"].as_u64() > Some(1) && list("table").len() == 6 && list("table").iter().all(|t| t != "–"), "{said}");
    assert!(list("percent").iter().all(|text| text.ends_with('%')), "{said}");
    assert_eq!((said["detail"].as_u64(), said["squares"].as_u64(), said["wide"].as_u64()), (Some(1), Some(3), Some(0)), "{said}");
    assert!(said["ridges"].as_u64() > Some(0), "{said}");
    let forward = list("forward");
    assert!(forward.contains(&"qkv".to_owned()) && forward.iter().any(|text| text.starts_with("3 × ")), "{forward:?}");
    std::fs::remove_dir_all(folder).unwrap();
}

/// Experts with a few rows each, some without any: what the packs of mixtures are made of.
#[test]
fn grouped_products_are_right_and_few_rows_are_judged_by_their_bytes() {
    let folder = scratch("grouped");
    let cases = [
        "gemm/grouped/e8m37n40k24/f32/routed",
        "gemm/grouped/e3m64n33k48/bf16",
        "gemm/grouped/e16m5n16k16/f16/routed",
        "gemm/m1n2048k4096/f32",
    ];
    let (code, table, err) = outcome(&ridgepoint(&[&["run"], &cases[..], &HERE, &["--out", text(&folder)]].concat()));
    assert_eq!(code, 0, "{table}{err}");
    let found = records(&folder);
    assert!(found.len() == cases.len() && found.iter().all(|(_, outcome)| outcome == "measured"), "{found:?}");
    let row = table.lines().find(|line| line.contains("m1n2048k4096")).unwrap();
    assert!(row.contains(" GB/s"), "{row}");
    let raw = std::fs::read_to_string(folder.join("raw.jsonl")).unwrap();
    let grouped = raw.lines().find(|line| line.contains("e8m37n40k24") && line.contains("\"record\"")).unwrap();
    assert!(grouped.contains("one product after the other") && grouped.contains(" of 8, "), "{grouped}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_reader_sees_attention_over_lengths_and_batches_and_its_side_of_the_ridge() {
    let Some(chromium) = chromium() else { return };
    let folder = scratch("curves");
    let out = folder.join("out");
    let series =
        ["run", "--attention", "decode,prefill", "--hq", "4", "--hkv", "2", "--d", "64", "--batch", "1,2", "--kv", "32:128:x2"];
    let (code, table, err) = outcome(&ridgepoint(&[&series[..], &["--dtype", "f32"], &HERE, &["--out", text(&out)]].concat()));
    assert_eq!(code, 0, "{err}");
    assert!(table.contains("memory-bound") || table.contains("compute-bound"), "{table}");
    let said = drive(
        chromium,
        &out.join("report.html"),
        r#"
        const all = s => [...document.querySelectorAll(s)];
        const dots = all('#attention-curves circle');
        const said = { heads: all('#attention-curves h3').map(h => h.textContent), lines: all('#attention-curves path.curve').length, dots: dots.length };
        said.hollow = dots.filter(d => d.getAttribute('fill') === 'var(--paper)').length;
        said.decode = all('#attention-curves .lengths').length;
        dots[0].dispatchEvent(new Event('click')); said.detail = all('tr.detail').length;
        return said;
        "#,
    );
    let heads: Vec<&str> = said["heads"].as_array().unwrap().iter().map(|h| h.as_str().unwrap()).collect();
    assert_eq!(
        heads,
        ["TFLOP/s over keys a sequence", "GB/s over keys a sequence", "TFLOP/s over sequences", "GB/s over sequences",]
    );
    // Two kinds over three lengths for each of two batches, and over two batches for each of three lengths.
    assert_eq!((said["lines"].as_u64(), said["dots"].as_u64(), said["detail"].as_u64()), (Some(10), Some(24), Some(1)), "{said}");
    assert!(said["hollow"].as_u64() > Some(0), "{said}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn mistakes_in_sizes_are_wrong_usage() {
    for (args, words) in [
        (&["--m", "8", "--n", "8"][..], "--k"),
        (&["--square", "9:8:1"], "is empty"),
        (&["--square", "8:64:0"], "never comes to the end"),
        (&["--square", "8", "--dtype", "f19"], "known: f64"),
        (&["--m", "1:1000:1", "--n", "1:1000:1", "--k", "8"], "larger steps"),
        (&["--dtype", "bf16"], "--square"),
        (&["memory", "--square", "8"], "none of the 1 cases"),
    ] {
        let (code, _, err) = outcome(&ridgepoint(&[&["list"], args].concat()));
        assert_eq!(code, 2, "{err}");
        assert!(err.contains(words), "{args:?}: {err}");
    }
}
