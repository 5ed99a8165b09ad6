//! The binary on an NVIDIA node, without one: a stub driver whose kernels run on this host stands where NVIDIA's would, and what
//! our launches must hand to each kernel is checked by what comes out.
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]
#![expect(clippy::print_stdout, reason = "a test that skips says so")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder with a driver, and with a compiler where `compiler` says so; None without a C compiler.
struct Node {
    folder: PathBuf,
}

impl Node {
    fn new(name: &str, driver: &[&str], compiler: bool) -> Option<Self> {
        let node = Self { folder: std::env::temp_dir().join(format!("ridgepoint-cuda-{}-{name}", std::process::id())) };
        std::fs::create_dir_all(&node.folder).unwrap();
        node.build("driver.c", "libcuda.so.1", driver)?;
        if compiler {
            node.build("compiler.c", "libnvrtc.so.13", &["-DMAJOR=13"])?;
        }
        Some(node)
    }

    /// The same, whose driver has our attention kernels from their own source too: those that `-DAMPERE` and the like choose.
    fn with_attention(name: &str, driver: &[&str], chosen: &[&str]) -> Option<Self> {
        let node = Self::new(name, driver, true)?;
        let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../kernels");
        let includes = ["-O1", "-std=c++17", "-I", kernels.to_str().unwrap()];
        node.build("attention.cpp", "libkernels.so", &[&includes, chosen].concat())?;
        let folder = node.folder.to_str().unwrap();
        let linked = ["-DKERNELS", "-DONCE", &format!("-L{folder}"), &format!("-Wl,-rpath,{folder}"), "-l:libkernels.so"];
        node.build("driver.c", "libcuda.so.1", &[driver, &linked].concat())?;
        Some(node)
    }

    fn build(&self, source: &str, library: &str, options: &[&str]) -> Option<()> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../device/src/cuda/stubs").join(source);
        let compiler = if source.extension().is_some_and(|e| e == "cpp") { "g++" } else { "cc" };
        let mut command = Command::new(compiler);
        command.args(["-shared", "-fPIC", "-w", "-O2"]).arg(source).args(options).arg("-lm");
        let Ok(built) = command.arg("-o").arg(self.folder.join(library)).output() else {
            println!("SKIP: host compiler: {compiler} is not installed (apt-get install {compiler})");
            return None;
        };
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        Some(())
    }

    fn ridgepoint(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_ridgepoint"))
            .args(args)
            .current_dir(&self.folder)
            .env("RIDGEPOINT_CUDA_PATH", &self.folder)
            .env("RIDGEPOINT_CACHE", self.folder.join("cache"))
            .env("VIRTUAL_ENV", &self.folder)
            .output()
            .unwrap()
    }

    /// Measures `cases` and gives their records.
    fn records(&self, cases: &[&str]) -> Vec<serde_json::Value> {
        let out = self.folder.join("out");
        let _ = std::fs::remove_dir_all(&out);
        let output = self.ridgepoint(&[&["run"], cases, &["--device", "cuda:0", "--quick", "--out", "out"]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!said.contains("panicked"), "{said}");
        let raw = std::fs::read_to_string(out.join("raw.jsonl")).unwrap_or_else(|_| panic!("{said}"));
        let lines: Vec<serde_json::Value> = raw.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let device = &lines[0]["devices"][0];
        assert!(device["uuid"].as_str().is_some_and(|u| u.starts_with("GPU-")) && device["pci"] == "ffff:ff:00.0", "{device}");
        lines.into_iter().filter(|line| line["kind"] == "record").collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn one_binary_starts_whatever_is_there() {
    let Some(node) = Node::new("starts", &[], false) else { return };
    let library = node.folder.join("libcuda.so.1");
    let none = node.folder.join("none.c");
    std::fs::write(&none, "int cuInit(unsigned f) { return 100; }").unwrap();
    let no_device = || node.build(none.to_str().unwrap(), "libcuda.so.1", &[]).unwrap();
    let states: [(&str, &dyn Fn(), &str); 4] = [
        ("a driver and nothing else", &|| {}, "CUDA 13.0 from "),
        ("a driver without a device", &no_device, "cuInit returned 100"),
        ("a file that is none", &|| std::fs::write(&library, "text").unwrap(), "libcuda.so.1 was found but "),
        ("no driver", &|| std::fs::remove_file(&library).unwrap(), "libcuda.so"),
    ];
    for (state, make, expected) in states {
        make();
        for command in ["doctor", "devices"] {
            let output = node.ridgepoint(&[command]);
            let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(0), "{state}, {command}: {said}");
            assert!(said.contains("cpu:0") || command == "doctor", "{state}: {said}");
            assert!(!said.contains("panicked") && (command == "devices" || said.contains(expected)), "{state}: {said}");
        }
    }
}

#[test]
fn a_run_on_a_chip_before_hopper_is_verified_from_end_to_end() {
    let Some(node) = Node::new("ampere", &["-DCAPABILITY=8"], true) else { return };
    let cases = [
        ("launch/stream", "cuda"),
        ("launch/graph", "cuda"),
        ("launch/sync", "cuda"),
        ("memory/copy/1MiB/f32", "kernel"),
        ("memory/triad/1MiB/f32", "kernel"),
        ("memory/latency/64KiB", "kernel"),
        ("memory/latency/1MiB/stride4KiB", "kernel"),
        ("memory/read/64KiB/f32/hot", "kernel"),
        ("memory/copy/1MiB/f32/hot", "kernel"),
        ("memory/init/1MiB/f32", "fill"),
        ("memory/kvpages/1MiB/tokens16", "kernel"),
        ("memory/rows/1MiB/row512B", "kernel"),
        ("memory/strided/1MiB/f32/stride8", "kernel"),
        ("memory/atomics/1MiB/f32/one", "kernel"),
        ("memory/atomics/1MiB/f32/each", "kernel"),
        ("memory/h2d/1MiB", "copy-engine"),
        ("memory/d2h/1MiB/pageable", "copy-engine"),
        ("memory/bidir/1MiB", "copy-engine"),
        ("memory/d2h/1MiB/devices2", "copy-engine"),
        ("memory/p2p/1MiB/to1", "copy-engine"),
        ("memory/p2p/1MiB/to1/bidir", "copy-engine"),
        ("memory/p2p/1MiB/to1", "kernel"),
        ("memory/p2p/1MiB/to1/bidir", "kernel"),
        ("gemm/m33n50k65/f32", "tile"),
        ("gemm/m40n48k72/bf16", "mma-sync"),
        ("attention/prefill/b1hq2hkv1sq40sk56d64/bf16/causal", "flash-sm80"),
        ("attention/prefill/b1hq2hkv1sq33sk50d64/f32/causal", "flash-portable"),
        ("attention/prefill/b1hq2hkv2sq33sk50d64/f32", "flash-portable"),
    ];
    let records = node.records(&cases.map(|(id, _)| id));
    for (id, provider) in cases {
        let of_case: Vec<_> = records.iter().filter(|r| r["case"] == id).collect();
        let measured = of_case.iter().find(|r| r["provider"] == provider && r["outcome"] == "measured");
        assert!(measured.is_some(), "{id} by {provider}: {of_case:?}");
        assert!(of_case.iter().all(|r| r["outcome"] != "wrong" && r["outcome"] != "failed"), "{id}: {of_case:?}");
    }
    let of = |id: &str| records.iter().find(|r| r["case"] == id && r["outcome"] == "measured").unwrap();
    assert_eq!(of("memory/latency/64KiB")["config"]["cycles a load"], "30.0");
    assert!(of("memory/bidir/1MiB")["config"]["overlap"].as_str().unwrap().contains(" of 2 at a time: "));
    assert_eq!(of("memory/d2h/1MiB/devices2")["config"]["devices"], "cuda:0, cuda:1");
    // The launch that was searched for is kept for the next run, and that one takes it.
    let searched = of("memory/triad/1MiB/f32")["config"].clone();
    assert!(searched["launches tried"].as_str().unwrap().parse::<usize>().unwrap() > 8, "{searched}");
    let again = node.records(&["memory/triad/1MiB/f32"]);
    assert_eq!(again[0]["config"]["launch"], searched["launch"], "{again:?}");
    assert!(again[0]["config"]["launches tried"].as_str().unwrap().contains("an earlier run"), "{again:?}");
    let graph = records.iter().find(|r| r["case"] == "launch/graph").unwrap();
    assert_eq!(graph["samples"]["graph"], true);
}

/// Each case by the provider named, on a node of its own, and by no other.
fn is_verified_by(node: &Node, cases: &[(&str, &str)]) -> Vec<serde_json::Value> {
    let records = node.records(&cases.iter().map(|(id, _)| *id).collect::<Vec<_>>());
    for (id, provider) in cases {
        let of_case: Vec<_> = records.iter().filter(|r| r["case"] == *id).collect();
        assert!(
            matches!(of_case[..], [r] if r["provider"] == *provider && r["outcome"] == "measured"),
            "{id} by {provider}: {of_case:?}"
        );
    }
    records
}

#[test]
fn heads_of_256_are_decoded_in_the_shared_memory_that_a_chip_has() {
    // A block of sm_86, sm_89 and sm_120 has 99 KB, which is half of what Hopper's takes.
    let Some(node) = Node::with_attention("decode", &["-DCAPABILITY=8", "-DL2=4096"], &["-DAMPERE"]) else { return };
    is_verified_by(
        &node,
        &[
            ("attention/decode/b2hq8hkv2sq1sk600d256/bf16", "decode-splitkv"),
            ("attention/decode/b3hq4hkv2sq2sk90d256/f16/causal/ragged", "decode-splitkv"),
            ("attention/decode/b2hq4hkv2sq2sk600d256/bf16/kv=e4m3/causal/w300/page16/sinks/ragged", "decode-splitkv"),
        ],
    );
}

#[test]
fn every_kernel_of_hopper_is_handed_what_it_is_written_for() {
    let Some(node) = Node::with_attention("hopper", &["-DL2=4096"], &["-DHOPPER"]) else { return };
    is_verified_by(
        &node,
        &[
            ("attention/prefill/b2hq4hkv2sq70sk300d64/bf16", "flash-sm90"),
            ("attention/prefill/b1hq4hkv2sq150sk200d128/f16/causal", "flash-sm90"),
            ("attention/prefill/b3hq4hkv2sq130sk200d64/f16/causal/w70/page16/sinks/ragged", "flash-sm90"),
            ("attention/mla-prefill/b2hq2hkv1sq70sk150d192v128/bf16/ragged", "flash-sm90"),
            ("attention/prefill/b2hq2hkv1sq70sk190d256/bf16/page64", "flash-sm90"),
            ("attention/prefill/b3hq4hkv2sq70sk300d96/e4m3/page64/sinks/ragged", "flash-fp8-sm90"),
            ("attention/prefill/b2hq4hkv2sq130sk300d64/e4m3/causal/w70/page16", "flash-fp8-sm90"),
            ("attention/prefill/b1hq2hkv1sq140sk150d256/e4m3/causal", "flash-fp8-sm90"),
            ("attention/mla-decode/b1hq16hkv1sq1sk1100d576v512/bf16", "mla-decode-sm90"),
            ("attention/mla-decode/b3hq24hkv1sq3sk150d576v512/f16/causal/page16/ragged", "mla-decode-sm90"),
            ("attention/mla-decode/b2hq16hkv1sq1sk150d576v512/bf16/kv=e4m3/page64/ragged", "mla-decode-sm90"),
            ("attention/mla-decode/b2hq16hkv1sq1sk150d576v512/f16/kv=e4m3", "mla-decode-sm90"),
            ("attention/decode/b2hq8hkv2sq1sk600d64/f16", "decode-splitkv"),
            ("attention/decode/b2hq8hkv2sq2sk300d128/bf16/kv=e4m3/causal/w200/page32/sinks/ragged", "decode-splitkv"),
            ("attention/prefill/b2hq4hkv2sq140sk200d96/bf16/causal/w70/sinks/ragged", "flash-sm90"),
        ],
    );
}

#[test]
fn a_kernel_of_an_older_generation_is_labelled_so() {
    let Some(node) = Node::with_attention("blackwell", &["-DCAPABILITY=10", "-DL2=4096"], &["-DBLACKWELL"]) else { return };
    let cases = [
        ("attention/prefill/b1hq4hkv2sq150sk200d128/f16/causal", "flash-sm80"),
        ("attention/prefill/b2hq2hkv2sq70sk90d128/bf16", "flash-sm80"),
        ("attention/prefill/b2hq4hkv2sq140sk200d96/bf16/causal/w70/page4/sinks/ragged", "flash-sm80"),
    ];
    let records = is_verified_by(&node, &cases);
    assert!(records.iter().all(|r| r["labels"][0] == "fallback"), "{records:?}");
}

#[test]
fn a_chip_before_ampere_is_given_the_portable_kernel() {
    let Some(node) = Node::with_attention("turing", &["-DCAPABILITY=7", "-DL2=4096"], &["-DAMPERE"]) else { return };
    is_verified_by(
        &node,
        &[
            ("attention/prefill/b1hq2hkv1sq40sk56d64/bf16/causal", "flash-portable"),
            ("attention/decode/b2hq4hkv2sq1sk90d64/bf16", "flash-portable"),
        ],
    );
}

/// The library's products are f32 alone here; what it is told of other types, the device's own tests ask. It multiplies at once, and
/// knows nothing of graphs: each case takes longer than what a batch goes through one for.
#[test]
fn a_matrix_library_does_the_products_of_materialised_attention() {
    let Some(node) = Node::new("materialised", &["-DCAPABILITY=8"], true) else { return };
    let blas = Path::new(env!("CARGO_MANIFEST_DIR")).join("../device/src/hip/stubs/blas.c");
    let source = node.folder.join("cublaslt.c");
    std::fs::write(&source, std::fs::read_to_string(blas).unwrap().replace("hipblasLt", "cublasLt")).unwrap();
    node.build(source.to_str().unwrap(), "libcublasLt.so.13", &["-DCUBLAS"]).unwrap();
    let cases = [
        "attention/prefill/b2hq8hkv2sq20sk28d64/f32/causal",
        "attention/prefill/b1hq4hkv4sq69sk65d32/f32/causal",
        "attention/decode/b3hq8hkv2sq1sk300d64/f32",
        "attention/mla-prefill/b1hq4hkv4sq66sk100d24v16/f32",
    ];
    let records = node.records(&[&cases[..], &["--provider", "materialised"]].concat());
    assert_eq!(records.len(), cases.len(), "{records:?}");
    for record in &records {
        assert!(record["outcome"] == "measured" && record["provider"] == "materialised", "{record}");
        let config = &record["config"];
        assert!(config["library"] == "cublasLt 13.2.5", "{config}");
        assert_eq!(config["tried"].as_str().unwrap().split(',').count(), 4, "{config}");
        for product in ["product of scores", "product of values"] {
            assert!(config[product].as_str().unwrap().contains("of the library's ranking: "), "{config}");
        }
    }
}

/// The stub has not all these kernels, which then is the reason; that their code was not built ahead must not be.
#[test]
fn what_a_first_look_launches_was_built_ahead_for_a_node_without_a_compiler() {
    for (name, capability) in [("ptx-80", "-DCAPABILITY=8"), ("ptx-90", "-DCAPABILITY=9")] {
        let Some(node) = Node::new(name, &[capability], false) else { return };
        let records = node.records(&[
            "launch/stream",
            "memory/copy/1MiB/f32",
            "memory/read/1MiB/f32",
            "memory/read/64KiB/f32/hot",
            "memory/latency/64KiB",
            "memory/kvpages/1MiB/tokens16",
            "memory/shared/32KiB",
            "gemm/m64n64k64/bf16",
            "gemm/m64n64k64/f16",
            "gemm/m64n64k64/tf32",
            "gemm/m64n64k64/f32",
            "attention/prefill/b1hq2hkv2sq64sk64d128/bf16",
            "attention/prefill/b1hq2hkv2sq64sk64d128/bf16/causal",
            "attention/mla-prefill/b1hq2hkv2sq64sk64d192v128/bf16/causal",
            "attention/decode/b1hq8hkv2sq1sk512d128/bf16",
        ]);
        assert!(records.len() >= 14);
        for record in &records {
            let reason = record["reason"].as_str().unwrap_or_default();
            assert!(!reason.contains("was built ahead"), "{}: {reason}", record["case"]);
        }
        let measured = |id: &str| records.iter().any(|r| r["case"] == id && r["outcome"] == "measured");
        assert!(measured("launch/stream") && measured("memory/copy/1MiB/f32") && measured("gemm/m64n64k64/f32"));
    }
}

#[test]
fn all_gpus_at_once_stand_beside_each_alone() {
    let Some(node) = Node::new("together", &["-DCAPABILITY=8"], true) else { return };
    let cases = ["memory/copy/1MiB/f32", "gemm/m64n64k64/f32", "gemm/m64n64k64/i8"];
    let run = |args: &[&str]| node.ridgepoint(&[&["run"], &cases[..], &["--quick", "--out", "out"], args].concat());
    let refused = run(&["--device", "cuda:0", "--together"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(2) && said.contains("at least two GPUs; of those chosen, cuda:0"), "{said}");

    let output = run(&["--device", "all", "--together"]);
    let table = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}{table}", String::from_utf8_lossy(&output.stderr));
    let raw = std::fs::read_to_string(node.folder.join("out/raw.jsonl")).unwrap();
    let records: Vec<serde_json::Value> = raw.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut together: Vec<(&str, &str, &str)> = records
        .iter()
        .filter(|r| r["provider"].as_str().unwrap().ends_with("-together"))
        .map(|r| {
            assert_eq!(r["outcome"], "measured", "{r}");
            let other = if r["device"] == "cuda:0" { "cuda:1" } else { "cuda:0" };
            assert_eq!(r["config"]["together with"], other, "{r}");
            (r["device"].as_str().unwrap(), r["case"].as_str().unwrap(), r["provider"].as_str().unwrap())
        })
        .collect();
    together.sort_unstable();
    // What none of them can do alone, they are not asked for together, and a CPU is no GPU.
    let of = |device| {
        [(device, cases[1], "tile-together"), (device, cases[0], "copy-engine-together"), (device, cases[0], "kernel-together")]
    };
    assert_eq!(together, [of("cuda:0"), of("cuda:1")].concat());
    assert_eq!(table.matches("% of alone").count(), 6, "{table}");
    assert!(std::fs::read_to_string(node.folder.join("out/report.html")).unwrap().contains("% of alone"));
}

/// The whole of scripts/gpu-node, with a carried binary and a carried test program.
#[test]
fn a_node_is_gathered_in_one_folder() {
    let Some(node) = Node::new("gathered", &["-DCAPABILITY=8"], true) else { return };
    let carried = |text: &str| {
        let tests = node.folder.join("tests");
        std::fs::create_dir_all(&tests).unwrap();
        let program = tests.join("device");
        std::fs::write(&program, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        tests
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/gpu-node");
    let gather = |out: &str, tests: &Path, filter: &str| {
        let output = Command::new(&script)
            .args([out, "--binary", env!("CARGO_BIN_EXE_ridgepoint"), "--device", "cuda:0", "--seconds", "3000", "--tests"])
            .arg(tests)
            .arg(filter)
            .current_dir(&node.folder)
            .env("RIDGEPOINT_CUDA_PATH", &node.folder)
            .env("RIDGEPOINT_CACHE", node.folder.join("cache"))
            .output()
            .unwrap();
        let summary = std::fs::read_to_string(node.folder.join(out).join("summary.txt")).unwrap_or_default();
        (output.status.code(), summary, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let right = carried("echo 'test result: ok. 15 passed; 0 failed'");
    let (code, summary, error) = gather("out", &right, "launch/");
    for line in [
        "doctor: exit 0",
        "devices: cuda:0 cuda:1 ",
        "run: exit 0 ",
        "results: 3 measured 0 skipped",
        "tests of cuda, device: exit 0, 15 passed",
    ] {
        assert!(summary.contains(line), "{line}: {summary}{error}");
    }
    assert_eq!(code, Some(0), "{summary}{error}");
    for file in ["raw.jsonl", "report.html", "tables.txt", "doctor.txt", "devices.json", "tests.txt"] {
        assert!(node.folder.join("out").join(file).metadata().is_ok_and(|m| m.len() > 0), "{file}");
    }
    let (code, _, error) = gather("out", &right, "launch/");
    assert!(code == Some(2) && error.contains("holds a run already"), "{error}");
    // A test that fails, or that skips though its GPU is here, is a failure.
    let skips = carried("echo 'SKIP: cuda device: there is none here'; echo 'test result: ok. 15 passed; 0 failed'");
    assert_eq!(gather("skips", &skips, "launch/sync").0, Some(1));
}
