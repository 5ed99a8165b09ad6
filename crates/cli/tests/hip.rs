//! The binary on an AMD node, without one: a stub runtime, and a hipDNN that attends on this host.
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]
#![expect(clippy::print_stdout, reason = "a test that skips says so")]

use std::path::{Path, PathBuf};
use std::process::Command;

const STUBS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../device/src");

/// A folder with a runtime and a hipDNN; None without a C compiler.
struct Node {
    folder: PathBuf,
}

impl Node {
    fn new(name: &str, options: &[&str]) -> Option<Self> {
        let node = Self { folder: std::env::temp_dir().join(format!("ridgepoint-hip-{}-{name}", std::process::id())) };
        std::fs::create_dir_all(&node.folder).unwrap();
        let text = |file: &str| std::fs::read_to_string(Path::new(STUBS).join(file)).unwrap();
        // CUDA's stub under HIP's names, and what HIP has otherwise, as the device's own tests make it.
        let otherwise = ["cuDriverGetVersion", "cuDeviceGetUuid_v2", "cuDeviceGetAttribute", "cuMemcpyAsync"];
        let hidden: String = otherwise.iter().map(|name| format!("#define {name} cuda_{name}\n")).collect();
        let names = text("hip/stubs/names.h");
        let runtime = format!("{names}{hidden}{}{}", text("cuda/stubs/driver.c"), text("hip/stubs/runtime.c"));
        let compiler = format!(
            "{names}#define MAJOR 9\n#define nvrtcCompileProgram compile\n{}{}",
            text("cuda/stubs/compiler.c"),
            text("hip/stubs/compiler.c")
        );
        node.build(&runtime, "libamdhip64.so.7", &[])?;
        node.build(&compiler, "libhiprtc.so.7", &[])?;
        node.build(&text("hip/stubs/hipdnn.c"), "libhipdnn_backend.so.1", options)?;
        Some(node)
    }

    fn build(&self, source: &str, library: &str, options: &[&str]) -> Option<()> {
        let file = self.folder.join(format!("{library}.c"));
        std::fs::write(&file, source).unwrap();
        let mut command = Command::new("cc");
        command.args(["-shared", "-fPIC", "-w", "-O2", "-I"]).arg(Path::new(STUBS).join("gpu/stubs")).arg(file).args(options);
        let Ok(built) = command.arg("-lm").arg("-o").arg(self.folder.join(library)).output() else {
            println!("SKIP: host compiler: cc is not installed (apt-get install gcc)");
            return None;
        };
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        Some(())
    }

    /// What hipDNN's record says of a case.
    fn record(&self, case: &str) -> serde_json::Value {
        let out = self.folder.join("out");
        let _ = std::fs::remove_dir_all(&out);
        let output = Command::new(env!("CARGO_BIN_EXE_ridgepoint"))
            .args(["run", case, "--provider", "hipdnn", "--device", "hip:0", "--quick", "--out"])
            .arg(&out)
            .env("RIDGEPOINT_ROCM_PATH", &self.folder)
            .env("RIDGEPOINT_CACHE", self.folder.join("cache"))
            .env("VIRTUAL_ENV", &self.folder)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let raw = std::fs::read_to_string(out.join("raw.jsonl")).unwrap_or_else(|_| panic!("{said}"));
        let lines = raw.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.into_iter().find(|line| line["kind"] == "record").unwrap_or_else(|| panic!("{said}"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

const CHUNK: &str = "attention/prefill/b1hq4hkv2sq16sk48d64/bf16/causal";

#[test]
fn hipdnn_is_timed_where_it_is_right_and_says_what_it_has_not() {
    let Some(node) = Node::new("right", &[]) else { return };
    let record = node.record(CHUNK);
    assert_eq!((record["provider"].as_str(), record["outcome"].as_str()), (Some("hipdnn"), Some("measured")), "{record}");
    assert_eq!(record["config"]["library"], "hipDNN 1.3.0.stub", "{record}");
    let engine = record["config"]["engine"].as_str().unwrap();
    assert!(engine.contains("ENGINE_") && engine.contains("(stub_plugin 0.9), workspace "), "{engine}");
    let record = node.record("attention/prefill/b1hq4hkv2sq16sk48d64/f32/causal");
    assert_eq!(record["outcome"], "skipped", "{record}");
    let reason = record.to_string();
    assert!(
        reason.contains("has no engine for this attention on gfx942") && reason.contains("loaded are ENGINE_A, "),
        "{reason}"
    );
}

/// Masked from the first corner instead of the last: never a figure.
#[test]
fn a_hipdnn_that_masks_wrongly_is_found_out() {
    let Some(node) = Node::new("wrong", &["-DLAST_CORNER=2"]) else { return };
    let record = node.record(CHUNK);
    assert_eq!(record["outcome"], "wrong", "{record}");
}
