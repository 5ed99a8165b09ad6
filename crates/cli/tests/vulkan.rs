//! Vulkan for real, on Mesa's software device: a bug planted in each family of kernels makes its verification fail, a run prints
//! its tables with every row verified, and a machine without Vulkan says so. scripts/tools/mesa brings the drivers; the
//! cooperative kernels need the newer of them, with a C library of its own, and so run in a process of their own.
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]
#![expect(clippy::print_stdout, reason = "a test that skips says so")]

use ridgepoint_core::record::Clock;
use ridgepoint_core::{DeviceInfo, Outcome, Seconds};
use ridgepoint_device::{Arg, Buffer, Device, Event, Geometry, Kernel, MatrixShape, Program, Result, all_devices, open};
use ridgepoint_harness::{Policy, Profile, Suite, measure};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Runs a program with the Mesa that has cooperative matrices; None where that is not here.
fn newer_mesa() -> Option<Command> {
    let run = root().join("target/tools/mesa/26/run");
    if !run.exists() {
        println!("SKIP: newer mesa: {} is not there; scripts/tools/mesa makes it", run.display());
        return None;
    }
    let mut command = Command::new(run);
    command.env_remove("LD_LIBRARY_PATH");
    Some(command)
}

/// One line of a kernel written otherwise.
struct Bug {
    /// What must find it.
    case: &'static str,
    provider: &'static str,
    program: &'static str,
    right: &'static str,
    wrong: &'static str,
}

const fn bug(case: &'static str, provider: &'static str, program: &'static str, right: &'static str, wrong: &'static str) -> Bug {
    Bug { case, provider, program, right, wrong }
}

const INIT: &str = "common/init";
const STREAM: &str = "memory/stream";
const TILED: &str = "gemm/tiled";
const COOPERATIVE: &str = "gemm/cooperative";
const FLASH: &str = "attention/flash";
const MATERIALISED: &str = "attention/materialised";
const CAUSAL: &str = "attention/prefill/b1hq4hkv2sq40sk56d32/f32/causal";
const DECODE: &str = "attention/decode/b1hq8hkv2sq1sk1001d64/bf16";
const PAGED: &str = "attention/prefill/b3hq4hkv2sq20sk56d32/f16/causal/w17/page8/sinks/ragged";
const SUNK: &str = "attention/decode/b1hq8hkv2sq1sk1001d64/f32/page16/sinks";
const MLA: &str = "attention/mla-decode/b1hq4hkv1sq1sk70d576v512/f32";

const BUGS: &[Bug] = &[
    // The operands themselves.
    bug("gemm/m33n50k65/f32", "tiled", INIT, "vec2<u32>(i, 0u)", "vec2<u32>(i + 1u, 0u)"),
    bug("gemm/m33n50k65/bf16", "tiled", INIT, "rp_to_bf16(element(2u * i + 1u))", "(bitcast<u32>(element(2u * i + 1u)) >> 16u)"),
    // Streams: a load from the wrong place, tiles left out, a sum that is short, a scalar forgotten.
    bug("memory/copy/1MiB/f32", "kernel", STREAM, "a[k] = x[at + k * RP_BLOCK];", "a[k] = x[at];"),
    bug("memory/copy/1MiB/f32", "kernel", STREAM, "z[at + k * RP_BLOCK] = s * a[k];", "z[at] = s * a[k];"),
    bug("memory/write/1MiB/f32", "kernel", STREAM, "return Span(b, tiles, g);", "return Span(b, tiles - 1u, g);"),
    bug("memory/scale/196864B/f32", "kernel", STREAM, "store(v, s * x[v], n)", "store(v, x[v], n)"),
    bug("memory/triad/1MiB/f32", "kernel", STREAM, "a[k] + s * c[k]", "a[k] + c[k]"),
    bug("memory/add/1MiB/f32", "kernel", STREAM, "c[k] = y[at + k * RP_BLOCK];", "c[k] = y[at + k];"),
    bug(
        "memory/read/1MiB/f32",
        "kernel",
        STREAM,
        "k < RP_UNROLL; k++) { sum += a[k]; }",
        "k < RP_UNROLL - 1u; k++) { sum += a[k]; }",
    ),
    bug(
        "memory/dot/1MiB/f32",
        "kernel",
        STREAM,
        "partial[thread] += partial[thread + width];",
        "partial[thread] = partial[thread + width];",
    ),
    bug("memory/dot/64KiB/f32/hot", "kernel", STREAM, "sum *= f32(plain.n.y);", ""),
    // Reads of a shared set: a tile left out, one read twice.
    bug("memory/read/64KiB/f32/hot", "kernel", "memory/staircase", "i < p.steps.x", "i + 1u < p.steps.x"),
    bug("memory/read/64KiB/f32/hot", "kernel", "memory/staircase", "at * TILE + k * RP_BLOCK", "at * TILE"),
    bug("memory/latency/64KiB", "kernel", "memory/chase", "i < p.steps.x", "i + 1u < p.steps.x"),
    bug("memory/shared/32KiB/ways4", "kernel", "memory/shared", "t % 32u * p.ways", "t % 32u"),
    bug("memory/shared/32KiB", "kernel", "memory/shared", "turn < p.passes", "turn + 1u < p.passes"),
    // Products: the last step of K dropped, a bound that is wrong, a transposed store, an element not written.
    bug("gemm/m33n50k65/f32", "tiled", TILED, "k0 < p.k", "k0 + STEP <= p.k"),
    bug("gemm/m33n50k65/f32", "tiled", TILED, "n < p.n && k < p.k", "n <= p.m && k < p.k"),
    bug("gemm/m33n50k65/f32", "tiled", TILED, "c[m * p.n + n] =", "c[n * p.m + m] ="),
    bug("gemm/m33n50k65/f16", "tiled", TILED, "if m < p.m && n < p.n {", "if m < p.m && n + 1u < p.n {"),
    bug("gemm/m100n100k100/bf16", "tiled", TILED, "kk < STEP", "kk < STEP - 1u"),
    // Flash: the usual mistakes.
    bug(CAUSAL, "flash", FLASH, "at + j < min(end, sees)", "at + j <= min(end, sees)"),
    bug(CAUSAL, "flash", FLASH, "out[c] *= rescale;", ""),
    bug(CAUSAL, "flash", FLASH, "sum *= rescale;", ""),
    bug(CAUSAL, "flash", FLASH, "rp_encode(out[c] * over)", "rp_encode(out[c])"),
    bug(CAUSAL, "flash", FLASH, "logit * p.scale", "logit * p.scale * p.scale"),
    bug(CAUSAL, "flash", FLASH, "k[row_of(head, at + key)", "k[row_of(0u, at + key)"),
    bug(CAUSAL, "flash", FLASH, "at < end; at += RP_BK", "at + RP_BK <= end; at += RP_BK"),
    bug(CAUSAL, "flash", FLASH, "if column < RP_DV { o[", "if column + 1u < RP_DV { o["),
    bug(DECODE, "flash", FLASH, "exp(sums[(place + s) * 2u] - top) * sums[", "sums["),
    bug(DECODE, "flash", FLASH, "var at = begin;", "var at = begin + RP_BK;"),
    bug(DECODE, "flash", FLASH, "stats[place * 2u] = top;", "stats[place * 2u] = 0.0;"),
    bug(MLA, "flash", FLASH, "value = keys[column * PITCH + j];", "value = keys[(column + 64u) * PITCH + j];"),
    bug(MLA, "flash", FLASH, "s < RP_SEG; s++) { logit", "s < 1u; s++) { logit"),
    bug(PAGED, "flash", FLASH, "at + j >= from_key", "at + j > from_key"),
    bug(PAGED, "flash", FLASH, "earliest(visible(select(0u", "earliest(visible(select(1u"),
    bug(PAGED, "flash", FLASH, "+ key / p.page]", "+ (key - min(key, p.page)) / p.page]"),
    bug(PAGED, "flash", FLASH, "length = lengths[head / p.heads];", "length = p.sk + 0u * lengths[head / p.heads];"),
    bug(PAGED, "flash", FLASH, "sum = 1.0;", ""),
    bug(SUNK, "flash", FLASH, "p.sunk != 0u && w.y == 0u", "p.sunk != 0u"),
    // Materialised.
    bug(CAUSAL, "materialised", MATERIALISED, "key + lp.sq <= limit", "key + lp.sq < limit"),
    bug(CAUSAL, "materialised", MATERIALISED, "s[base + i] *= over;", ""),
    bug(CAUSAL, "materialised", MATERIALISED, "v[row_of(w.z, k0 + t.y", "v[row_of(0u, k0 + t.y"),
    bug(PAGED, "materialised", MATERIALISED, "lp.window > limit", "lp.window >= limit"),
    bug(PAGED, "materialised", MATERIALISED, "+ key / page]", "+ (key - min(key, page)) / page]"),
    bug(PAGED, "materialised", MATERIALISED, "return lengths[head / heads];", "return sk + 0u * lengths[head / heads];"),
    bug(SUNK, "materialised", MATERIALISED, "select(0.0, exp(sink - top), sp.sunk != 0u)", "0.0"),
    bug(MLA, "materialised", MATERIALISED, "k0 < length", "k0 + STEP <= length"),
];

/// The same for the kernels that need the newer Mesa.
const COOPERATIVE_BUGS: &[Bug] = &[
    bug("gemm/m70n100k65/f16", "cooperative", COOPERATIVE, "k0 < p.k", "k0 + STEP <= p.k"),
    bug("gemm/m70n100k65/f16", "cooperative", COOPERATIVE, "(row + i * RP_M) * STEP", "row * STEP"),
    bug("gemm/m70n100k65/f16", "cooperative", COOPERATIVE, "coopLoad<", "coopLoadT<"),
    bug("gemm/m70n100k65/f16", "cooperative", COOPERATIVE, "(col + j * RP_N) * STEP", "col * STEP"),
    bug("gemm/m70n100k65/f16", "cooperative", COOPERATIVE, "kk += RP_K", "kk += 2u * RP_K"),
    bug("gemm/m70n100k65/f16", "cooperative", COOPERATIVE, "if m < p.m && n < p.n { c[", "if m < p.m && n + 1u < p.n { c["),
];

/// A device that compiles one program from another text.
struct Faulty {
    device: Box<dyn Device>,
    text: Option<(&'static str, String)>,
}

impl Device for Faulty {
    fn info(&self) -> &DeviceInfo {
        self.device.info()
    }
    fn alloc(&self, len: usize) -> Result<Buffer> {
        self.device.alloc(len)
    }
    fn upload(&self, dst: &Buffer, offset: usize, src: &[u8]) -> Result<()> {
        self.device.upload(dst, offset, src)
    }
    fn download(&self, src: &Buffer, offset: usize, dst: &mut [u8]) -> Result<()> {
        self.device.download(src, offset, dst)
    }
    fn copy(&self, src: &Buffer, src_offset: usize, dst: &Buffer, dst_offset: usize, len: usize) -> Result<()> {
        self.device.copy(src, src_offset, dst, dst_offset, len)
    }
    fn fill(&self, dst: &Buffer, byte: u8) -> Result<()> {
        self.device.fill(dst, byte)
    }
    fn compile(&self, program: &Program<'_>, entry: &str) -> Result<Kernel> {
        let text = self.text.as_ref().filter(|(name, _)| *name == program.name).map(|(_, text)| text.as_str());
        self.device.compile(&Program { wgsl: text.or(program.wgsl), ..*program }, entry)
    }
    fn launch(&self, kernel: &Kernel, geometry: Geometry, args: &[Arg<'_>]) -> Result<()> {
        self.device.launch(kernel, geometry, args)
    }
    fn synchronize(&self) -> Result<()> {
        self.device.synchronize()
    }
    fn record(&self) -> Result<Event> {
        self.device.record()
    }
    fn elapsed(&self, start: &Event, end: &Event) -> Result<Seconds> {
        self.device.elapsed(start, end)
    }
    fn clock(&self) -> Clock {
        self.device.clock()
    }
    fn evict(&self) -> Result<()> {
        self.device.evict()
    }
    fn alloc_host(&self, len: usize) -> Result<Buffer> {
        self.device.alloc_host(len)
    }
    fn binding_limit(&self) -> Option<u64> {
        self.device.binding_limit()
    }
    fn matrices(&self) -> Vec<MatrixShape> {
        self.device.matrices()
    }
}

fn suite(case: &str) -> &'static dyn Suite {
    match case.split('/').next() {
        Some("memory") => &ridgepoint_memory::Memory,
        Some("gemm") => &ridgepoint_gemm::Gemm,
        _ => &ridgepoint_attention::Attention,
    }
}

fn outcome(device: &Faulty, case: &str, provider: &str) -> Outcome {
    let suite = suite(case);
    let parsed = suite.parse(case).unwrap_or_else(|| panic!("{case} is no id"));
    assert!(suite.providers(&parsed, device).iter().any(|p| p == provider), "{provider} does no {case}");
    measure(suite, &parsed, provider, device, &Policy::of(Profile::Quick), 1).outcome
}

/// Each case is measured as it is, and is wrong (or its operands are refused) with each bug.
fn all_are_found(bugs: &'static [Bug]) {
    let mut device = Faulty { device: open("vulkan:0").unwrap(), text: None };
    let mut sound: Vec<(&str, &str)> = vec![];
    for Bug { case, provider, program, right, wrong } in bugs {
        device.text = None;
        if !sound.contains(&(case, provider)) {
            let outcome = outcome(&device, case, provider);
            assert!(matches!(outcome, Outcome::Measured { .. }), "{case} by {provider} as it is: {outcome:?}");
            sound.push((case, provider));
        }
        let source = std::fs::read_to_string(root().join(format!("kernels/{program}.wgsl"))).unwrap();
        let code = source.lines().filter(|line| !line.starts_with("//")).flat_map(|l| [l, "\n"]).collect::<String>();
        assert!(code.contains(right), "{program} has no '{right}'");
        device.text = Some((program, code.replace(right, wrong)));
        let found = match outcome(&device, case, provider) {
            Outcome::Wrong { .. } => true,
            Outcome::Failed { reason } => *program == INIT && reason.contains("the fill kernel is wrong"),
            _ => false,
        };
        assert!(found, "{case} by {provider} does not find '{right}' become '{wrong}'");
    }
}

fn present() -> bool {
    let present = all_devices().iter().any(|d| d.id == "vulkan:0");
    if !present {
        println!("SKIP: vulkan device: there is none here");
    }
    present
}

#[test]
fn a_bug_in_any_kernel_is_found() {
    if present() {
        all_are_found(BUGS);
    }
}

#[test]
#[ignore = "needs a driver with cooperative matrices: the next test runs it with one"]
fn a_bug_in_a_cooperative_kernel_is_found() {
    all_are_found(COOPERATIVE_BUGS);
}

fn succeeds(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn cooperative_kernels_are_held_to_the_same_where_a_driver_has_them() {
    let Some(mut mesa) = newer_mesa() else { return };
    let filter = ["--ignored", "--exact", "a_bug_in_a_cooperative_kernel_is_found"];
    let text = succeeds(&mesa.arg(std::env::current_exe().unwrap()).args(filter).output().unwrap());
    assert!(text.contains("1 passed"), "{text}");
}

/// The lines of a run's record file.
fn records(folder: &Path) -> Vec<serde_json::Value> {
    let raw = std::fs::read_to_string(folder.join("raw.jsonl")).unwrap();
    raw.lines().skip(1).map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn scratch(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("ridgepoint-vulkan-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    folder
}

#[test]
fn a_quick_run_verifies_every_row_of_every_table() {
    if !present() {
        return;
    }
    let folder = scratch("quick");
    let mut run = Command::new(env!("CARGO_BIN_EXE_ridgepoint"));
    let output = run.args(["run", "--device", "vulkan:0", "--profile", "quick", "--out"]).arg(&folder).output().unwrap();
    let text = succeeds(&output);
    for component in ["\nmemory\n", "\ngemm\n", "\nattention\n"] {
        assert!(text.contains(component), "{text}");
    }
    let records = records(&folder);
    let mut measured = 0;
    for record in &records {
        match record["outcome"].as_str() {
            Some("measured") => {
                assert_eq!(record["verification"]["wrong"], 0, "{record}");
                assert_eq!(record["labels"][0], "software Vulkan", "{record}");
                // The round trip of a launch is the host's to time; everything else is the device's.
                let clock = if record["case"] == "launch/sync" { "host" } else { "device" };
                assert_eq!(record["samples"]["clock"], clock, "{record}");
                measured += 1;
            }
            // Only what this driver cannot do, with the reason.
            _ => {
                let reason = record["reason"].as_str().unwrap_or_default();
                assert!(
                    record["outcome"] == "skipped"
                        && (reason.contains("has no cooperative matrices") || reason.contains("one rank by itself")),
                    "{record}"
                );
            }
        }
    }
    assert!(measured >= 25, "{measured} of {}", records.len());
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn the_newer_driver_multiplies_with_its_matrices_and_its_layers_find_nothing_to_say() {
    let Some(mut mesa) = newer_mesa() else { return };
    let folder = scratch("matrices");
    let cases = ["gemm/m64n64k64/f16", "gemm/m255n257k256/f16", "gemm/m64n64k64/bf16", DECODE, MLA, "memory/h2d/1MiB"];
    let run = mesa.arg(env!("CARGO_BIN_EXE_ridgepoint")).arg("run").args(cases);
    let run = run.args(["--device", "vulkan:0", "--profile", "quick", "--out"]).arg(&folder);
    let output = run.env("VK_INSTANCE_LAYERS", "VK_LAYER_KHRONOS_validation").output().unwrap();
    let text = succeeds(&output) + &String::from_utf8_lossy(&output.stderr);
    assert!(!text.contains("VUID"), "{text}");
    for record in records(&folder) {
        // bf16 matrices are for adapters that have them; this one says what it has.
        let lacks = record["provider"] == "cooperative" && record["dtype"] == "bf16";
        assert_eq!(record["outcome"], if lacks { "skipped" } else { "measured" }, "{record}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn without_vulkan_it_says_so_and_how_to_get_it() {
    let ridgepoint = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ridgepoint"));
        command.args(args).env("RIDGEPOINT_VULKAN_PATH", "/nonexistent/libvulkan.so.1").current_dir(std::env::temp_dir());
        command.output().unwrap()
    };
    let output = ridgepoint(&["run", "--device", "vulkan:0", "--profile", "quick"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{error}");
    assert!(error.contains("no Vulkan loader") && error.contains("apt-get install mesa-vulkan-drivers"), "{error}");
    for command in ["devices", "doctor"] {
        let text = succeeds(&ridgepoint(&[command]));
        assert!(text.contains("no Vulkan loader") && text.contains("mesa-vulkan-drivers"), "{text}");
    }
    // A loader without a driver.
    if present() {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ridgepoint"));
        let text = succeeds(&command.arg("devices").env("VK_DRIVER_FILES", "/nonexistent.json").output().unwrap());
        assert!(text.contains("found no driver"), "{text}");
    }
}
