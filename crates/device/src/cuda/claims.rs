//! What each kernel claims to become: for which architectures, from which instructions, in how many registers. The real NVRTC
//! compiles every one through our own bindings and the disassembly is held to the claim, on a machine without a GPU.

use super::libraries::libraries;
use super::nvrtc::compile;
use crate::Program;
use ridgepoint_core::record::fnv1a;
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

const AMPERE: &[&str] = &["sm_80", "sm_89", "sm_90a", "sm_100a", "sm_103a", "sm_120a"];
/// Without sm_120a, where the bf16 tile spills 8 bytes.
const DATA_CENTRE: &[&str] = &["sm_80", "sm_89", "sm_90a", "sm_100a", "sm_103a"];
/// With FP8 in mma.sync's own hardware: elsewhere the compiler emulates it.
const FP8_MMA: &[&str] = &["sm_89", "sm_120a"];
const BULK: &[&str] = &["sm_90a", "sm_100a", "sm_103a", "sm_120a"];
const HOPPER: &[&str] = &["sm_90a"];
/// With loads of 32 bytes a thread.
const WIDE: &[&str] = &["sm_100a", "sm_103a"];
const TCGEN05: &[&str] = &["sm_100a", "sm_103a"];

/// A program in one configuration.
struct Claim {
    name: &'static str,
    /// `NAME=value …`.
    defines: &'static str,
    architectures: Cow<'static, [&'static str]>,
    /// Instructions that every entry must hold, by opcode and one modifier: `LDG 128` is any LDG with `.128`, `RED/REDG` either.
    instructions: Cow<'static, [&'static str]>,
    /// The most registers of a thread, over all entries.
    registers: u32,
}

const fn claim(
    name: &'static str,
    defines: &'static str,
    architectures: &'static [&'static str],
    instructions: &'static [&'static str],
    registers: u32,
) -> Claim {
    Claim { name, defines, architectures: Cow::Borrowed(architectures), instructions: Cow::Borrowed(instructions), registers }
}

#[rustfmt::skip]
const CLAIMS: &[Claim] = &[
    claim("collectives/check", "", AMPERE, &["LDG", "RED/REDG/ATOMG"], 64),
    claim("common/arguments", "", AMPERE, &["STG"], 32),
    claim("common/clock", "", AMPERE, &[], 32),
    claim("common/differ", "", AMPERE, &["LDG", "RED/REDG/ATOMG"], 32),
    claim("common/init", "", AMPERE, &["STG"], 40),
    claim("common/verify", "", AMPERE, &[], 64),
    claim("launch/count", "", AMPERE, &["RED/REDG/ATOMG"], 16),
    claim("memory/chase", "", AMPERE, &[], 40),
    claim("memory/shared", "", AMPERE, &["LDS 128"], 64),
    claim("memory/staircase", "RP_UNROLL=2", AMPERE, &["LDG 128"], 64),
    claim("memory/staircase", "RP_UNROLL=8", AMPERE, &["LDG 128"], 64),
    claim("memory/gather", "", AMPERE, &[], 104),
    claim("memory/stream", "RP_BLOCK=512 RP_UNROLL=4 RP_HINT_LOAD=1 RP_HINT_STORE=2", AMPERE, &[], 64),
    claim("memory/stream", "RP_BLOCK=1024 RP_UNROLL=4 RP_HINT_LOAD=3 RP_HINT_STORE=2", AMPERE, &[], 64),
    claim("memory/stream", "RP_BLOCK=256 RP_UNROLL=8 RP_HINT_LOAD=0 RP_HINT_STORE=0 RP_PASSES=8", AMPERE, &[], 128),
    claim("memory/stream", "RP_WIDTH=8 RP_BLOCK=512 RP_UNROLL=4", WIDE, &[], 128),
    claim("memory/stream_bulk", "", BULK, &["UBLKCP"], 64),
    claim("gemm/tile", "RP_DTYPE=f32", AMPERE, &["FFMA", "LDS 128"], 128),
    claim("gemm/tile", "RP_DTYPE=bf16", DATA_CENTRE, &["FFMA", "LDS 128"], 128),
    claim("gemm/tile", "RP_DTYPE=f32 RP_GROUPED=1", AMPERE, &["FFMA", "LDS 128"], 128),
    claim("gemm/tile", "RP_DTYPE=bf16 RP_GROUPED=1", AMPERE, &["FFMA", "LDS 128"], 168),
    claim("gemm/gemv", "RP_DTYPE=bf16 RP_M=1", AMPERE, &["LDG 128", "FFMA", "SHFL"], 128),
    claim("gemm/gemv", "RP_DTYPE=bf16 RP_M=8", AMPERE, &["LDG 128", "FFMA", "SHFL"], 168),
    claim("gemm/combine", "RP_OUT=bf16", AMPERE, &["LDG 128", "STG 64"], 40),
    claim("gemm/combine", "RP_OUT=f32", AMPERE, &["LDG 128", "STG 128"], 40),
    claim("gemm/mma_sm80", "RP_DTYPE=bf16 RP_OUT=f32 RP_BN=128 RP_STAGES=4 RP_SPLIT=1", AMPERE, &["HMMA 16816", "LDGSTS 128", "STG 128"], 255),
    claim("gemm/mma_sm80", "RP_DTYPE=bf16 RP_BN=128 RP_STAGES=4", AMPERE, &["HMMA 16816", "LDGSTS 128", "LDSM"], 255),
    claim("gemm/mma_sm80", "RP_DTYPE=f16 RP_BN=256 RP_STAGES=3", AMPERE, &["HMMA 16816", "LDGSTS 128", "LDSM"], 255),
    claim("gemm/mma_sm80", "RP_DTYPE=tf32 RP_BN=128 RP_STAGES=3", AMPERE, &["HMMA TF32", "LDGSTS 128"], 255),
    claim("gemm/mma_sm80", "RP_DTYPE=e4m3 RP_BN=128 RP_STAGES=4", FP8_MMA, &["QMMA", "LDGSTS 128"], 255),
    claim("gemm/wgmma_sm90", "RP_DTYPE=bf16 RP_BN=256 RP_STAGES=4 RP_CLUSTER=2 RP_BUFFERS=2", HOPPER, &["HGMMA 64x256x16", "UTMALDG MULTICAST", "UTMASTG"], 168),
    claim("gemm/wgmma_sm90", "RP_DTYPE=f16 RP_BN=256 RP_STAGES=4 RP_CLUSTER=2 RP_BUFFERS=2", HOPPER, &["HGMMA 64x256x16", "UTMALDG MULTICAST"], 168),
    claim("gemm/wgmma_sm90", "RP_DTYPE=tf32 RP_BN=256 RP_STAGES=4 RP_CLUSTER=2 RP_BUFFERS=2", HOPPER, &["HGMMA 64x256x8", "UTMALDG MULTICAST"], 168),
    claim("gemm/wgmma_sm90", "RP_DTYPE=e4m3 RP_BN=256 RP_STAGES=4 RP_CLUSTER=2 RP_BUFFERS=2", HOPPER, &["QGMMA 64x256x32", "UTMALDG MULTICAST"], 168),
    claim("gemm/wgmma_sm90", "RP_DTYPE=e5m2 RP_BN=256 RP_STAGES=4 RP_CLUSTER=2 RP_BUFFERS=2", HOPPER, &["QGMMA 64x256x32", "UTMALDG MULTICAST"], 168),
    claim("gemm/wgmma_sm90", "RP_DTYPE=bf16 RP_BN=128 RP_STAGES=6 RP_CLUSTER=1 RP_BUFFERS=2", HOPPER, &["HGMMA 64x128x16", "UTMALDG", "UTMASTG"], 168),
    claim("gemm/wgmma_sm90", "RP_DTYPE=bf16 RP_BN=128 RP_STAGES=6 RP_CLUSTER=1 RP_BUFFERS=1 RP_SPLIT=1", HOPPER, &["HGMMA 64x128x16", "UTMALDG", "STG 64"], 168),
    claim("gemm/wgmma_sm90", "RP_DTYPE=e4m3 RP_BN=128 RP_STAGES=6 RP_CLUSTER=1 RP_BUFFERS=1 RP_SPLIT=1", HOPPER, &["QGMMA 64x128x32", "UTMALDG", "STG 64"], 168),
    claim("gemm/wgmma_sm90", "RP_DTYPE=e4m3 RP_BN=256 RP_STAGES=4 RP_CLUSTER=2 RP_BUFFERS=2 RP_DTYPE_B=e5m2 RP_OUT=f32", HOPPER, &["QGMMA 64x256x32 E4M3 E5M2", "UTMALDG MULTICAST", "UTMASTG"], 168),
    claim("gemm/wgmma_sm90", "RP_DTYPE=e4m3 RP_BN=256 RP_STAGES=4 RP_CLUSTER=2 RP_BUFFERS=2 RP_SCALES=1", HOPPER, &["QGMMA 64x256x32", "UTMALDG MULTICAST", "UTMASTG"], 168),
    claim("gemm/wgmma_block_sm90", "RP_DTYPE=e4m3 RP_BN=256 RP_STAGES=4 RP_CLUSTER=2 RP_BUFFERS=2", HOPPER, &["QGMMA 64x128x32", "FFMA", "UTMALDG MULTICAST", "UTMASTG"], 168),
    claim("gemm/wgmma_block_sm90", "RP_DTYPE=e4m3 RP_BN=256 RP_STAGES=4 RP_CLUSTER=2 RP_BUFFERS=2 RP_DTYPE_B=e5m2 RP_OUT=f32", HOPPER, &["QGMMA 64x128x32 E4M3 E5M2", "FFMA", "UTMALDG MULTICAST", "UTMASTG", "BAR"], 168),
    claim("gemm/wgmma_block_sm90", "RP_DTYPE=e4m3 RP_BN=128 RP_STAGES=6 RP_CLUSTER=1 RP_BUFFERS=2", HOPPER, &["QGMMA 64x128x32", "FFMA", "UTMALDG", "UTMASTG"], 168),
    claim("gemm/tcgen05_sm100", "RP_DTYPE=bf16 RP_BN=256 RP_STAGES=4", TCGEN05, &["UTCHMMA", "UTMALDG", "LDTM", "UTCBAR"], 128),
    claim("gemm/tcgen05_sm100", "RP_DTYPE=f16 RP_BN=128 RP_STAGES=6", TCGEN05, &["UTCHMMA", "UTMALDG", "LDTM"], 128),
    claim("gemm/tcgen05_sm100", "RP_DTYPE=tf32 RP_BN=256 RP_STAGES=4", TCGEN05, &["UTCHMMA", "UTMALDG", "LDTM"], 128),
    claim("gemm/tcgen05_sm100", "RP_DTYPE=e4m3 RP_BN=256 RP_STAGES=4", TCGEN05, &["UTCQMMA", "UTMALDG", "LDTM"], 128),
    claim("gemm/tcgen05_sm100", "RP_DTYPE=e5m2 RP_BN=256 RP_STAGES=4", TCGEN05, &["UTCQMMA", "UTMALDG", "LDTM"], 128),
    claim("attention/softmax", "", AMPERE, &["LDG 128", "MUFU EX2"], 48),
];

/// The forms of attention that the suite can ask for, by chip: crates/attention/tests/forms.rs makes the list from its plans.
const ATTENTION: &str = include_str!("attention.forms");

/// The chips that a form is compiled for: each form for some of its own, so that all of them have many forms and the test ends soon.
/// `RIDGEPOINT_CLAIMS=all` takes all.
fn chips_of(form: &'static str, chips: &'static str) -> Cow<'static, [&'static str]> {
    let all: Vec<_> = chips.split(' ').collect();
    let turn = fnv1a(form.as_bytes()) as usize;
    let plain = ["flash_portable", "combine"].iter().any(|name| form.contains(name));
    let chosen = |(i, chip): &(usize, &str)| match *chip {
        _ if std::env::var_os("RIDGEPOINT_CLAIMS").is_some_and(|v| v == "all") => true,
        // Of two types one has the mask, the other has not.
        _ if all.len() == 1 => !form.contains("flash_sm90 RP_G") || form.contains("RP_CAUSAL=1") != form.contains("RP_F16=1"),
        _ if plain => *i == turn % all.len(),
        _ => (turn + i).is_multiple_of(2),
    };
    all.iter().copied().enumerate().filter(chosen).map(|(_, chip)| chip).collect()
}

/// What they claim: matrix instructions of the tile that is asked for, and registers so that as many blocks fit as the kernel wants.
fn attention() -> Vec<Claim> {
    let forms = ATTENTION.lines().map(|line| {
        let (form, chips) = line.split_once(": ").unwrap();
        let (name, defines) = form.split_once(' ').unwrap_or((form, ""));
        let of = |key: &str| defines.split(' ').find_map(|d| d.strip_prefix(key)?.strip_prefix('='));
        // FP8's heads of 96 columns are multiplied as 128, of which the last are zeros.
        let wide = |key: &str, n| if n == "96" && key == "RP_D" { "128" } else { n };
        let product = |kind: &str, key: &str, depth: u32| of(key).map(|n| format!("{kind} 64x{}x{depth}", wide(key, n)));
        // The producer hands registers to the warpgroups that multiply.
        let hopper = ["UTMALDG", "USETMAXREG"].map(String::from).into_iter();
        let (instructions, registers): (Vec<String>, _) = match name {
            "attention/flash_sm90" if defines.is_empty() => (hopper.chain(["HGMMA".into()]).collect(), 168),
            "attention/flash_sm90" => {
                (hopper.chain(product("HGMMA", "RP_N", 16)).chain(product("HGMMA", "RP_DV", 16)).collect(), 168)
            }
            "attention/flash_fp8_sm90" => {
                let products = product("QGMMA", "RP_N", 32).into_iter().chain(product("QGMMA", "RP_D", 32));
                (hopper.chain(products).chain(["LDSM", "STSM"].map(String::from)).collect(), 168)
            }
            "attention/mla_decode_sm90" => (hopper.chain(["HGMMA".into()]).collect(), 168),
            // Two blocks of 128 threads a multiprocessor share 65 536 registers.
            "attention/flash_sm80" => (["HMMA 16816", "LDGSTS 128", "LDSM"].map(String::from).into(), 255),
            "attention/decode_splitkv" => (["HMMA 16816", "LDGSTS 128", "LDSM"].map(String::from).into(), 255),
            "attention/flash_portable" => (vec!["FFMA".into()], 255),
            "attention/combine" => (["LDG 64", "STG"].map(String::from).into(), 64),
            other => panic!("{other} claims nothing"),
        };
        let instructions = instructions.into_iter().map(|i| &*i.leak()).collect();
        Claim { name, defines, architectures: chips_of(form, chips), instructions: Cow::Owned(instructions), registers }
    });
    forms.collect()
}

/// Entries of a program with many that hold what not all of them do.
#[rustfmt::skip]
const ENTRIES: &[(&str, &str)] = &[
    ("rp_copy", "LDG 128/256"), ("rp_copy", "STG 128/256"), ("rp_triad", "LDG 128/256"), ("rp_triad", "STG 128/256"), ("rp_read", "LDG 128/256"),
    ("rp_dot", "LDG 128/256"), ("rp_write", "STG 128/256"), ("rp_gather_pages", "LDG 128"), ("rp_gather_pages", "STG 128"),
    ("rp_chase", "LDG 64"), ("rp_check_stream", "LDG"), ("rp_add_atomic", "RED/REDG/ATOMG"),
];

/// Loads that a loop is made of, and how many of them there must be: a benchmark reads as often as it is written, and an assembler
/// that merged two loads would make a cache look faster than it is.
const LOADS: &[(&str, &str, usize)] = &[
    ("memory/staircase RP_UNROLL=8", "LDG 128", 8),
    ("memory/staircase RP_UNROLL=2", "LDG 128", 2),
    ("memory/shared ", "LDS 128", 16),
];

/// One function of a cubin.
struct Function {
    name: String,
    registers: u32,
    /// Local memory of a thread in bytes: spills.
    local: u32,
    /// Opcodes with their modifiers, `LDG.E.128`.
    opcodes: Vec<String>,
}

impl Function {
    fn holds(&self, instruction: &str) -> bool {
        self.count(instruction) > 0
    }

    /// What ptxas makes of wgmma where it cannot follow the accumulators (its advice C7510 to C7514): one wait a product, for all.
    fn waits_for_each_product(&self) -> bool {
        let products = self.count("HGMMA/QGMMA");
        products > 0 && self.count("WARPGROUP DEPBAR") >= products
    }

    fn count(&self, instruction: &str) -> usize {
        let mut words = instruction.split(' ');
        let opcode = words.next().unwrap_or_default();
        let matches = |o: &&String| {
            let mut parts = o.split('.');
            parts.next().is_some_and(|name| opcode.split('/').any(|one| one == name))
                && words.clone().all(|w| o.split('.').any(|part| w.split('/').any(|one| one == part)))
        };
        self.opcodes.iter().filter(matches).count()
    }
}

/// The functions in what `cuobjdump -res-usage -sass` printed.
fn functions(text: &str) -> Vec<Function> {
    let mut all: Vec<Function> = Vec::new();
    let mut current = None;
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("Function : ") {
            current = all.iter().position(|f| f.name == name);
        } else if let Some(name) = line.strip_prefix("Function ").and_then(|l| l.strip_suffix(':')) {
            all.push(Function { name: name.into(), registers: 0, local: 0, opcodes: Vec::new() });
        } else if let Some(rest) = line.strip_prefix("REG:")
            && let Some(last) = all.last_mut()
        {
            let number = |key: &str| {
                let at = rest.find(key).map(|i| &rest[i + key.len()..])?;
                at.split(' ').next()?.parse().ok()
            };
            last.registers = rest.split(' ').next().and_then(|n| n.parse().ok()).unwrap();
            // A stack frame counts: an array that was meant for registers lies there.
            last.local = number("LOCAL:").unwrap_or(0) + number("STACK:").unwrap_or(0);
        } else if let (Some(f), Some((_, instruction))) = (current, line.strip_prefix("/*").and_then(|l| l.split_once("*/"))) {
            let mut words = instruction.split_whitespace().filter(|w| !w.starts_with('@'));
            if let Some(opcode) = words.next().filter(|w| w.starts_with(|c: char| c.is_ascii_uppercase())) {
                all[f].opcodes.push(opcode.trim_end_matches(';').into());
            }
        }
    }
    all
}

/// The disassembler of the wheel nvidia-cuda-cuobjdump, or the one on PATH.
fn disassembler() -> Option<PathBuf> {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/python/lib");
    let wheels = python.read_dir().into_iter().flatten().flatten();
    let mut tools = wheels.map(|site| site.path().join("site-packages/nvidia/cu13/bin/cuobjdump"));
    tools.find(|tool| tool.exists()).or_else(|| {
        let tool = PathBuf::from("cuobjdump");
        Command::new(&tool).arg("--version").output().ok().map(|_| tool)
    })
}

fn source(name: &str) -> String {
    let file = kernels().join(name).with_extension("cu");
    std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn kernels() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../kernels")
}

/// What of a claim does not hold for one architecture; empty where all does.
fn broken(claim: &Claim, arch: &str, tool: &Path, folder: &Path) -> Vec<String> {
    let nvrtc = libraries().nvrtc.as_ref().expect("looked at before");
    let pairs = claim.defines.split_whitespace().map(|d| d.split_once('=').unwrap());
    let defines: Vec<(&str, String)> = pairs.map(|(k, v)| (k, v.to_owned())).collect();
    let program = Program { name: claim.name, defines: &defines, ..Program::default() };
    let at = format!("{} {} for {arch}", claim.name, claim.defines);
    let cubin = match compile(nvrtc, &program, &source(claim.name), arch, None) {
        Ok(cubin) => cubin,
        Err(error) => return vec![format!("{at}: {error}")],
    };
    let file = folder.join(format!("{}.cubin", at.replace(['/', ' ', '='], "-")));
    std::fs::write(&file, cubin).unwrap();
    let output = Command::new(tool).args(["-res-usage", "-sass"]).arg(&file).output().unwrap();
    let functions = functions(&String::from_utf8_lossy(&output.stdout));
    let mut said = Vec::new();
    if functions.is_empty() || functions.iter().any(|f| f.opcodes.len() < 4) {
        said.push(format!("{at}: nothing to read in {}", String::from_utf8_lossy(&output.stderr)));
    }
    for f in &functions {
        if f.local > 0 {
            said.push(format!("{at}: {} spills {} bytes", f.name, f.local));
        }
        if f.waits_for_each_product() {
            said.push(format!(
                "{at}: {} waits for each product before the next: its accumulators are touched in between",
                f.name
            ));
        }
        if f.registers > claim.registers {
            said.push(format!("{at}: {} takes {} registers and claims {}", f.name, f.registers, claim.registers));
        }
        for (claimed, load, count) in LOADS.iter().filter(|(what, ..)| *what == format!("{} {}", claim.name, claim.defines)) {
            if f.count(load) < *count {
                said.push(format!("{at}: {} has {} of {claimed}'s {count} {load}", f.name, f.count(load)));
            }
        }
        let own = ENTRIES.iter().filter(|(entry, _)| f.name == *entry).map(|(_, instruction)| instruction);
        for instruction in claim.instructions.iter().copied().chain(own.copied()) {
            if !f.holds(instruction) {
                said.push(format!("{at}: {} has no {instruction}", f.name));
            }
        }
    }
    said
}

#[test]
fn every_kernel_becomes_what_it_claims_on_every_architecture_it_claims() {
    let missing = match (&libraries().nvrtc, disassembler()) {
        (Err(reason), _) => reason.clone(),
        (Ok(_), None) => "no cuobjdump (pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm)".into(),
        (Ok(_), Some(tool)) => return hold(&tool),
    };
    println!("SKIP: real NVRTC: {missing}");
}

fn hold(tool: &Path) {
    let attention = attention();
    let claims: Vec<&Claim> = CLAIMS.iter().chain(&attention).collect();
    for folder in ["common", "launch", "memory", "gemm", "attention"] {
        for file in kernels().join(folder).read_dir().unwrap() {
            let name = file.unwrap().file_name().into_string().unwrap();
            let Some(name) = name.strip_suffix(".cu").filter(|name| !name.ends_with("_amd") && !name.ends_with("_cdna")) else {
                continue;
            };
            assert!(claims.iter().any(|c| c.name == format!("{folder}/{name}")), "{folder}/{name} claims nothing");
        }
    }
    let folder = std::env::temp_dir().join(format!("rp-claims-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    // The longest first, so that no worker is left alone with one of them.
    let mut work: Vec<_> = claims.iter().flat_map(|c| c.architectures.iter().map(move |arch| (*c, *arch))).collect();
    work.sort_by_key(|(c, _)| source(c.name).len());
    let (work, said) = (Mutex::new(work), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let next = work.lock().unwrap().pop();
                    let Some((claim, arch)) = next else { return };
                    let broken = broken(claim, arch, tool, &folder);
                    said.lock().unwrap().extend(broken);
                }
            });
        }
    });
    let _ = std::fs::remove_dir_all(&folder);
    let said = said.into_inner().unwrap();
    assert!(said.is_empty(), "{} claims do not hold:\n{}", said.len(), said.join("\n"));
}

/// A product whose accumulators are read before it is waited for.
const TOUCHED: &str = "#include \"../common/nvidia.h\"
    extern \"C\" __global__ void __launch_bounds__(128) touched(float* out, u64 a, u64 b) {
        float s[64] = {};
        wgmma_fence();
        mma_ss<128, false>(s, a, b, 1);
        if (READ && s[0] > 3) out[7] = s[1];
        mma_ss<128, false>(s, a + 2, b + 2, 1);
        wgmma_commit(); wgmma_wait<0>(); pin(s);
        for (int i = 0; i < 64; i++) out[threadIdx.x * 64 + i] = s[i];
    }";

#[test]
fn products_that_wait_for_each_other_are_seen() {
    let (Ok(nvrtc), Some(tool)) = (&libraries().nvrtc, disassembler()) else {
        return println!("SKIP: real NVRTC: none, or no cuobjdump");
    };
    for (read, waits) in [("0", false), ("1", true)] {
        let defines = [("READ", read.to_owned())];
        let program = Program { name: "touched", defines: &defines, ..Program::default() };
        let cubin = compile(nvrtc, &program, TOUCHED, "sm_90a", None).unwrap();
        let file = std::env::temp_dir().join(format!("rp-touched-{}-{read}.cubin", std::process::id()));
        std::fs::write(&file, cubin).unwrap();
        let output = Command::new(&tool).args(["-res-usage", "-sass"]).arg(&file).output().unwrap();
        let _ = std::fs::remove_file(&file);
        let read = functions(&String::from_utf8_lossy(&output.stdout));
        assert!(matches!(&read[..], [f] if f.holds("HGMMA") && f.waits_for_each_product() == waits), "{waits}");
    }
}

#[test]
fn a_disassembly_is_read_as_it_is_printed() {
    let text = "Resource usage:\n Common:\n  GLOBAL:0\n Function rp_copy:\n  REG:24 STACK:8 SHARED:0 LOCAL:16 CONSTANT[0]:564\n
        code for sm_90a\n\t\tFunction : rp_copy\n\t.headerflags @\"EF\"
        /*0000*/                   LDC R1, c[0x0][0x28] ;   /* 0x00000a00ff017b82 */
                                                            /* 0x000fe20000000800 */
        /*0010*/              @!P0 LDG.E.NA.128 R4, [R2] ;  /* 0x0 */
        /*0020*/                   EXIT ;";
    let read = functions(text);
    assert_eq!((read.len(), read[0].registers, read[0].local), (1, 24, 24));
    assert_eq!(read[0].opcodes, ["LDC", "LDG.E.NA.128", "EXIT"]);
    assert!(read[0].holds("LDG 128") && read[0].holds("LDG") && !read[0].holds("LDG 64") && !read[0].holds("STG"));
}
