//! What the suite hands to its kernels for AMD's chips, without one: a HIP runtime of host memory (crates/device/src/hip/stubs) runs each
//! kernel's own source as fibres with the pointers, numbers, grid and macros that it is given, for a gfx942 and a gfx950, and the
//! suite's check in float64 judges the output. A wrong argument, or one in another's place, is a wrong output.
#![cfg(target_os = "linux")]

use ridgepoint_attention::Attention;
use ridgepoint_harness::Suite;
use std::path::Path;
use std::process::Command;

/// A case, the device, who does it, and the launches that it takes.
const CASES: &[(&str, &str, &str, &[&str])] = &[
    // 2 splits; sequence 2 is empty.
    (
        "decode/b3hq6hkv2sq3sk600d64/bf16/kv=e4m3/causal/w520/page16/sinks/ragged",
        "hip:0",
        "decode-mfma",
        &["rp_decode_amd 12x1x1 by 256", "rp_combine 14x1x1 by 128"],
    ),
    ("decode/b1hq36hkv1sq1sk300d64/bf16/kv=e4m3/sinks", "hip:1", "decode-mfma", &["rp_decode_amd 1x2x1 by 256"]),
    (
        "mla-decode/b2hq3hkv1sq2sk600d576v512/bf16/causal/page64/sinks/ragged",
        "hip:0",
        "mla-decode-cdna",
        &["rp_mla_decode_cdna 4x1x1 by 256", "rp_combine 3x1x1 by 128"],
    ),
    (
        "prefill/b3hq2hkv1sq260sk100d64/bf16/causal/w45/page16/sinks/ragged",
        "hip:0",
        "flash-mfma",
        &["rp_flash_cdna 6x2x1 by 512"],
    ),
    ("prefill/b3hq4hkv2sq40sk150d64/e4m3/page64/ragged", "hip:0", "flash-mfma", &["rp_flash_cdna 12x1x1 by 512"]),
    ("mla-prefill/b1hq2hkv2sq40sk130d192v128/bf16/page32", "hip:0", "flash-mfma", &["rp_flash_amd 2x1x1 by 256"]),
];

#[test]
fn kernels_are_given_what_they_ask_for() {
    let folder = std::env::temp_dir().join(format!("ridgepoint-{}-amd", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |file: &str| std::fs::read_to_string(crates.join("device/src").join(file)).unwrap();
    // What HIP has otherwise (runtime.c), and what fibres.c has instead; a small L2, so that one set of operands is cold.
    let otherwise = ["DriverGetVersion", "DeviceGetUuid_v2", "DeviceGetAttribute", "MemcpyAsync"];
    let instead = ["ModuleLoadDataEx", "ModuleUnload", "ModuleGetFunction", "FuncGetAttribute", "LaunchKernel"];
    let hidden: String = otherwise.iter().chain(&instead).map(|n| format!("#undef cu{n}\n#define cu{n} cuda_{n}\n")).collect();
    let fibres = read("hip/stubs/fibres.c");
    let runtime = read("hip/stubs/runtime.c").replace("1 << 20", "4096");
    let driver = [read("hip/stubs/names.h"), hidden, read("cuda/stubs/driver.c"), runtime, fibres.clone()].concat();
    let kernels = format!("-DSOURCES=\"{}\"", crates.join("../kernels").canonicalize().unwrap().display());
    for (library, source, options) in [
        ("libamdhip64.so.7", driver, &["-D_GNU_SOURCE", &kernels, "-lm", "-ldl"][..]),
        ("libhiprtc.so.7", fibres, &["-D_GNU_SOURCE", "-DCOMPILER"]),
    ] {
        let file = folder.join(format!("{library}.c"));
        std::fs::write(&file, source).unwrap();
        let mut command = Command::new("cc");
        command.args(["-shared", "-fPIC", "-w", "-O1"]).arg(&file).args(options).arg("-o").arg(folder.join(library));
        let (Ok(built), Ok(_)) = (command.output(), Command::new("g++").arg("--version").output()) else {
            println!("SKIP: host compiler: cc or g++ is not installed (apt-get install g++)");
            return;
        };
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["child_runs_every_case", "--include-ignored", "--nocapture"])
        .env("RIDGEPOINT_ROCM_PATH", &folder)
        .env("VIRTUAL_ENV", &folder)
        .env("RIDGEPOINT_CACHE", folder.join("cache"))
        .env("RP_STUB_FOLDER", &folder)
        .env("RP_STUB_LOG", folder.join("log"))
        .env("RP_STUB_STILL", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let _ = std::fs::remove_dir_all(&folder);
}

#[test]
#[ignore = "run by another test, on the machine that it makes"]
fn child_runs_every_case() {
    let log = std::env::var("RP_STUB_LOG").unwrap();
    for (id, device, provider, launches) in CASES {
        let device = ridgepoint_device::open(device).unwrap();
        let case = Attention.parse(&format!("attention/{id}")).unwrap();
        assert!(Attention.providers(&case, device.as_ref()).iter().any(|p| p == provider), "{id}");
        let mut ready = Attention.prepare(&case, provider, device.as_ref(), 7).unwrap().ready;
        ready.poison().unwrap();
        let _ = std::fs::remove_file(&log);
        for turn in 0..ready.turns() {
            ready.enqueue(turn).unwrap();
        }
        device.synchronize().unwrap();
        let told = std::fs::read_to_string(&log).unwrap();
        assert_eq!(told.lines().take(launches.len()).collect::<Vec<_>>(), *launches, "{id}");
        let found = ready.check().unwrap();
        assert!(found.passed(), "{id}: {found:?}");
    }
}
