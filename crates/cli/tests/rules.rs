//! The house rules that a compiler does not hold: who may depend on whom, and where `unsafe` may be.
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A crate and those of ours that it may depend on.
const ALLOWED: &[(&str, &[&str])] = &[
    ("ridgepoint-core", &[]),
    ("ridgepoint-device", &["core"]),
    ("ridgepoint-harness", &["core", "device"]),
    ("ridgepoint-memory", &["core", "device", "harness"]),
    ("ridgepoint-gemm", &["core", "device", "harness"]),
    ("ridgepoint-attention", &["core", "device", "harness"]),
    ("ridgepoint-collectives", &["core", "device", "harness"]),
    ("ridgepoint-launch", &["core", "device", "harness"]),
    ("ridgepoint", &["core", "device", "harness", "memory", "gemm", "attention", "collectives", "launch"]),
];

#[test]
fn dependencies_run_one_way_and_suites_do_not_see_each_other() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let allowed: BTreeMap<_, _> = ALLOWED.iter().copied().collect();
    let packages = metadata["packages"].as_array().unwrap();
    assert_eq!(packages.len(), ALLOWED.len(), "a new crate needs its line in ALLOWED");
    for package in packages {
        let name = package["name"].as_str().unwrap();
        for dependency in package["dependencies"].as_array().unwrap() {
            let other = dependency["name"].as_str().unwrap();
            if dependency["kind"].is_null() && other.starts_with("ridgepoint") {
                let short = other.trim_start_matches("ridgepoint-");
                assert!(allowed[name].contains(&short), "{name} must not depend on {other}");
            }
        }
    }
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn unsafe_code_is_in_the_device_crate_alone_and_every_module_says_why_it_exists() {
    let mut files = Vec::new();
    sources(&root().join("crates"), &mut files);
    assert!(files.len() > 40);
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let shown = file.display();
        assert!(text.starts_with("//!"), "{shown} does not open with what it is for");
        let device = file.components().any(|c| c.as_os_str() == "device");
        let marker = concat!("unsafe", " {");
        let holds = text.lines().any(|l| !l.trim_start().starts_with("//") && l.contains(marker));
        assert!(device || !holds, "{shown} holds unsafe code");
    }
}
