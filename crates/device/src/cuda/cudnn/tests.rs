//! cuDNN without a GPU. A stub library attends from nothing but the descriptors and the pack that it was given, so that a wrong
//! stride, id, mask or address is a wrong result; older and broken ones are sentences. Where a real cuDNN is named by
//! RIDGEPOINT_CUDNN (its folder of libraries), its header's numbers are compared, and it plans for chips that are only described.

use super::numbers::tests::{NAMED, enumerators};
use super::numbers::{attribute, class, kind};
use super::{Candidate, NUMBERS, Target, candidates, describe, lacks, needs, types};
use crate::cuda::PROBE;
use crate::dl::Opened;
use crate::gpu::dnn::proof::{self, Operands, plain, variants};
use crate::gpu::dnn::{Builder, Dnn};
use crate::machine::Machine;
use crate::{AttentionOperands, AttentionProblem, DeviceError, Paged};
use ridgepoint_core::Dtype;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const BLAS: &str = "int cublasLtCreate(void **h) { *h = h; return 0; } int cublasLtDestroy(void *h) { return 0; }
    unsigned long cublasLtGetVersion(void) { return 130205; }";

/// A GPU with a compiler, a GEMM library and this cuDNN.
fn machine(name: &str, options: &[&str]) -> Option<Machine> {
    Machine::new(&format!("cudnn-{name}"), "RIDGEPOINT_CUDA_PATH")
        .with("libcuda.so.1", include_str!("../stubs/driver.c"), &[])?
        .with("libnvrtc.so.13", include_str!("../stubs/compiler.c"), &["-DMAJOR=13", "-Wl,-soname,libnvrtc.so.13"])?
        .with("libcublasLt.so.13", BLAS, &["-Wl,-soname,libcublasLt.so.13"])?
        .with("libcudnn.so.9", include_str!("../stubs/cudnn.c"), &[options, &[proof::INCLUDE]].concat())
}

#[test]
fn every_variant_is_described_so_that_a_library_computes_it() {
    let Some(machine) = machine("whole", &[]) else { return };
    let log = machine.dir.join("log");
    let text = machine.run_with("cuda::cudnn::tests::child_attends", &[("RP_STUB_LOG", log.to_str().unwrap())]);
    assert!(text.contains("1 passed"), "{text}");
    let log = std::fs::read_to_string(log).unwrap();
    for line in [
        // Q of the plain problem, its scale, and the operation.
        "tensor 1 type 9 align 16 [1 4 5 16] [320 80 16 1]",
        "tensor 5 type 0 align 4 by value [1 1 1 1] [1 1 1 1]",
        "finalized 41: 2800=#1 2801=#2 2802=#3 2803=#4 2805=#5",
        "finalized 15: 801=(41) 800=*",
        "finalized 5: 400=* 401=(3)",
        // A causal mask between two tensors that are nowhere, then a window behind it: 3 − 9 + 5 as a float.
        "tensor 6 type 0 align 16 between [1 4 5 9] [180 45 9 1]",
        "finalized 44: 3000=#6 3005=#10 3006=#9 3007=303 3002=#7 3001=#8",
        "finalized 44: 3000=#9 3005=#13 3006=#12 3007=302 3003=#11",
        "finalized 41: 2800=#1 2801=#2 2802=#3 2803=#4 2805=#5 2811=(15) 2812=6 2813=12",
        // Pages: 8 of 4 keys, a table of 3 a sequence; with lengths and sinks.
        "tensor 2 type 9 align 16 [8 2 4 16] [128 64 16 1]",
        "tensor 8 type 4 align 16 [2 1 3 1] [3 3 1 1]",
        "2809=#6 2810=#7 2807=#8 2808=#9 2811=(15) 2812=10 2813=11 2814=(45)",
        // The latent: V within K, whose rows are 24 long.
        "tensor 3 type 9 align 16 [2 1 9 16] [216 216 24 1]",
        // FP8.
        "2822=#11 2823=#12 2824=#13 2826=#14 2825=#15 2827=#16 2829=#17",
        "executed engine 9",
        "executed engine 8",
        // Nothing is left behind.
        "destroyed, 0 descriptors left",
    ] {
        assert!(log.lines().any(|l| l == line || (line.starts_with('2') && l.ends_with(line))), "{line}\n{log}");
    }
}

#[test]
#[ignore = "run by another test, on the machine that it makes"]
fn child_attends() {
    let device = (PROBE.open)(0).unwrap();
    let library = device.attention()[0];
    assert_eq!((library.provider(), library.library().unwrap().version.as_str()), ("cudnn", "9.28.1"));
    for p in variants() {
        let mut plan = library.plan(&p).unwrap_or_else(|error| panic!("{p:?}: {error}"));
        assert_eq!(plan.candidates(), 2);
        assert!(plan.select(2).is_err());
        let tensors = Operands::new(device.as_ref(), &p);
        for index in [1, 0] {
            plan.select(index).unwrap();
            device.fill(&tensors.o, 0xff).unwrap();
            // Twice: the second time with the pack that is there.
            plan.enqueue(&tensors.operands()).unwrap();
            plan.enqueue(&tensors.operands()).unwrap();
            tensors.compare(device.as_ref(), &p);
        }
        let engine = &plan.config()["engine"];
        assert_eq!(engine, "number 0 of the library's ranking: engine 9, tile m 3, workspace 256");
        // A missing or short operand is refused before the library sees it.
        let short = device.alloc(2).unwrap();
        for operands in [
            AttentionOperands { q: &short, ..tensors.operands() },
            AttentionOperands { o: &short, ..tensors.operands() },
            AttentionOperands { lengths: None, pages: None, sinks: None, scales: None, k: &short, ..tensors.operands() },
        ] {
            assert!(matches!(plan.enqueue(&operands), Err(DeviceError::Invalid(_))), "{p:?}");
        }
    }
    // What it refuses, in its own words.
    let refused = |p: AttentionProblem, words: &str| match library.plan(&p) {
        Err(DeviceError::Unsupported(why)) => assert!(why.contains(words), "{why}"),
        other => panic!("{p:?}: {:?}", other.err()),
    };
    refused(plain().of(Dtype::F32), "cuDNN has no attention in f32");
    refused(
        AttentionProblem { kv: Dtype::E4m3, ..plain() },
        "cuDNN 9.28.1 does not do this: CUDNN_STATUS_BAD_PARAM: Q, K, and V must either all be FP8 or all be non-FP8",
    );
    refused(
        AttentionProblem { output: Dtype::Bf16, ..plain().of(Dtype::E4m3) },
        "cuDNN 9.28.1 has no engine for this attention on sm_90a",
    );
}

#[test]
fn what_a_version_lacks_is_a_sentence() {
    assert_eq!(lacks(92801), None);
    assert_eq!(lacks(92100).unwrap(), "lacks FP8 attention, and empty sequences in prefill (since 9.25.0)");
    assert!(lacks(91400).unwrap().starts_with("lacks lengths and pages (since 9.15.0), masks and sinks (since 9.21.0)"));
    let p = plain();
    assert_eq!(needs(&p).0, 91301);
    let ragged = AttentionProblem { ragged: true, ..p };
    assert_eq!([needs(&ragged).0, needs(&AttentionProblem { sq: 1, ..ragged }).0], [92500, 91500]);
    assert_eq!(needs(&AttentionProblem { causal: true, ..p.of(Dtype::E4m3) }).0, 92500);
    for (name, options, sentence) in [
        ("plain", &["-DVERSION=91200"][..], "this is cuDNN 9.12.0; attention as one operation came with 9.13.1"),
        ("lengths", &["-DVERSION=91400"], "this is cuDNN 9.14.0; lengths and pages came with 9.15.0"),
        ("masks", &["-DVERSION=91500"], "this is cuDNN 9.15.0; masks and sinks came with 9.21.0"),
        ("fp8", &["-DVERSION=92100"], "this is cuDNN 9.21.0; FP8 came with 9.25.0"),
        ("bare", &["-DcudnnBackendExecute=no"], "has no cudnnBackendExecute: another version of cuDNN is needed"),
        ("broken", &["-DCREATE=1001"], "cudnnCreate returned 1001: CUDNN_STATUS_OTHER"),
        (
            "major",
            &["-DRUNTIME=12000"],
            "cuDNN needs libcublasLt.so.12, which is not here; `ridgepoint doctor` says how to get it",
        ),
    ] {
        let Some(machine) = machine(name, options) else { return };
        let text = machine.run("cuda::cudnn::tests::child_is_refused");
        let said: Vec<&str> = text.lines().filter(|l| l.starts_with("refused: ")).collect();
        assert!(said.iter().any(|l| l.contains(sentence)), "{name}: {said:?}");
        // An older one does what it can.
        let plans = text.lines().filter(|l| *l == "planned").count();
        let expected = [("lengths", 1), ("masks", 3), ("fp8", 11)].into_iter().find(|(n, _)| *n == name).map_or(0, |(_, n)| n);
        assert!(plans >= expected.min(1) && (expected > 0) == (plans > 0), "{name}: {plans} planned\n{text}");
    }
}

#[test]
#[ignore = "run by another test, on the machine that it makes"]
fn child_is_refused() {
    let device = (PROBE.open)(0).unwrap();
    for p in variants() {
        match device.attention()[0].plan(&p) {
            Ok(_) => println!("planned"),
            Err(DeviceError::Unsupported(why)) => println!("refused: {why}"),
            Err(other) => panic!("{other}"),
        }
    }
}

/// The folder of a real cuDNN that someone named.
fn real() -> Option<PathBuf> {
    let folder = std::env::var_os("RIDGEPOINT_CUDNN").map(PathBuf::from);
    if folder.is_none() {
        println!("SKIP: real cuDNN: RIDGEPOINT_CUDNN names none (pip download nvidia-cudnn-cu13, 500 MB, and its folder lib)");
    }
    folder
}

#[test]
fn numbers_are_those_of_the_header() {
    let Some(folder) = real() else { return };
    let header = std::fs::read_to_string(folder.join("../include/cudnn_graph.h")).unwrap();
    let theirs = enumerators(&header);
    for (number, name) in NAMED {
        assert_eq!(theirs.get(*name), Some(number), "{name}");
    }
}

#[test]
fn a_real_library_plans_for_chips_that_are_only_described() {
    let Some(folder) = real() else { return };
    let names = [
        "GetErrorString",
        "GetErrorName",
        "CtxGetCurrent",
        "CtxGetLimit",
        "CtxPopCurrent",
        "CtxPushCurrent",
        "StreamGetCtx",
        "LinkCreate",
        "LinkAddData",
        "LinkComplete",
        "LinkDestroy",
        "LaunchKernel",
        "LaunchKernelEx",
        "LaunchCooperativeKernel",
        "DeviceGet",
        "LibraryLoadData",
        "LibraryLoadFromFile",
        "LibraryGetKernel",
        "LibraryUnload",
        "KernelSetAttribute",
        "KernelGetAttribute",
        "KernelGetFunction",
        "OccupancyMaxPotentialClusterSize",
        "ModuleGetFunction",
        "ModuleLoadData",
        "ModuleUnload",
        "TensorMapEncodeIm2col",
        "TensorMapEncodeTiled",
    ];
    let driver = names.iter().map(|name| format!("int cu{name}(void) {{ return 100; }}\n")).collect::<String>()
        + "int cuDriverGetVersion(int *v) { *v = 13000; return 0; } int cuDeviceGetCount(int *n) { *n = 0; return 0; }";
    let machine = Machine::new("cudnn-real", "RIDGEPOINT_CUDA_PATH")
        .with("libcuda.so.1", &driver, &["-Wl,-soname,libcuda.so.1"])
        .and_then(|machine| machine.with("libcublasLt.so.13", BLAS, &["-Wl,-soname,libcublasLt.so.13"]));
    let Some(machine) = machine else { return };
    let text = machine.run_with("cuda::cudnn::tests::child_plans", &[("RIDGEPOINT_CUDNN", folder.to_str().unwrap())]);
    assert!(text.contains("1 passed"), "{text}");
    println!("{text}");
}

#[test]
#[ignore = "run by another test, on the machine that it makes"]
fn child_plans() {
    let stubs = PathBuf::from(std::env::var_os("RIDGEPOINT_CUDA_PATH").unwrap());
    let wheels = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/python/lib/python3.11/site-packages/nvidia/cu13/lib");
    let needed = [stubs.join("libcuda.so.1"), stubs.join("libcublasLt.so.13"), wheels.join("libnvrtc.so.13")];
    let _open: Vec<Opened> = needed.iter().map(|path| Opened::open(path).unwrap()).collect();
    let folder = PathBuf::from(std::env::var_os("RIDGEPOINT_CUDNN").unwrap());
    let api = Arc::new(Dnn::bind(Opened::open(&folder.join("libcudnn.so.9")).unwrap(), &NUMBERS));
    assert!(api.absent().is_empty(), "{:?}", api.absent());
    let on = |chip: &str, p: AttentionProblem| -> Result<Vec<Candidate>, String> {
        let properties =
            Builder::new(&api, kind::DEVICE_PROPERTIES).text(attribute::DEVICE_JSON, class::CHAR, chip).finish().unwrap();
        let operation = describe(&api, &p, types(&p).unwrap()).map_err(|e| e.to_string())?;
        candidates(&api, &Target::Described(properties), &operation).map_err(|e| e.map_or("no engine".into(), |e| e.to_string()))
    };
    let p = AttentionProblem { batch: 4, hq: 32, hkv: 8, sq: 1024, sk: 1024, dqk: 128, dv: 128, ..plain() };
    let decode = AttentionProblem { batch: 16, sq: 1, sk: 8192, ..p };
    let paged = |tokens| Some(Paged { tokens, pool: 16 * 8192 / tokens + 3 });
    let all = [
        ("full", p),
        ("f16", p.of(Dtype::F16)),
        ("causal", AttentionProblem { causal: true, ..p }),
        ("chunked prefill", AttentionProblem { causal: true, sq: 512, sk: 8192, ..p }),
        ("window", AttentionProblem { causal: true, window: Some(128), ..p }),
        ("sinks", AttentionProblem { causal: true, window: Some(128), sinks: true, dqk: 64, dv: 64, ..p }),
        ("d64", AttentionProblem { dqk: 64, dv: 64, ..p }),
        ("d96", AttentionProblem { dqk: 96, dv: 96, ..p }),
        ("d256", AttentionProblem { dqk: 256, dv: 256, ..p }),
        ("MLA prefill", AttentionProblem { hkv: 32, dqk: 192, dv: 128, causal: true, ..p }),
        ("ragged", AttentionProblem { causal: true, ragged: true, ..p }),
        ("decode", decode),
        ("decode, pages of 16", AttentionProblem { paged: paged(16), ..decode }),
        ("decode, pages of 64, ragged", AttentionProblem { paged: paged(64), ragged: true, ..decode }),
        ("MLA decode", AttentionProblem { hq: 128, hkv: 1, dqk: 576, dv: 512, shared_kv: true, ..decode }),
    ];
    for described in CHIPS {
        for (what, p) in all {
            let name = described.0;
            let plans = on(&chip(described), p).unwrap_or_else(|error| panic!("{what} on {name}: {error}"));
            println!("{name}, {what}: {}", plans.iter().map(Candidate::describe).collect::<Vec<_>>().join("; "));
        }
    }
    let fp8 = p.of(Dtype::E4m3);
    let wider = AttentionProblem { output: Dtype::Bf16, ..fp8 };
    let [a100, h100, b200] = CHIPS.map(chip);
    let [a100, h100, b200] = [&a100, &h100, &b200];
    assert!(on(h100, fp8).is_ok() && on(b200, wider).is_ok(), "{:?}", on(b200, wider).err());
    // Hopper's FP8 engine writes FP8 alone, and Ampere has none.
    assert!(on(h100, wider).is_err() && on(a100, fp8).is_err());
    assert!(on(h100, AttentionProblem { kv: Dtype::E4m3, ..decode }).err().unwrap().contains("all be FP8 or all be non-FP8"));
}

/// Chips as cuDNN writes them down: name, compute capability, multiprocessors, L2, shared memory a block, memory, clocks in kHz, bus.
const CHIPS: [(&str, [u64; 8]); 3] = [
    ("A100", [800, 108, 40 << 20, 166_912, 80 << 30, 1_410_000, 1_593_000, 5120]),
    ("H100", [900, 132, 50 << 20, 232_448, 80 << 30, 1_980_000, 2_619_000, 5120]),
    ("B200", [1000, 148, 126 << 20, 232_448, 180 << 30, 1_965_000, 3_996_000, 8192]),
];

fn chip((name, [version, units, l2, shared, memory, clock, memory_clock, bus]): (&str, [u64; 8])) -> String {
    format!(
        r#"{{"deviceName":"{name}","deviceVer":{version},"multiProcessorCount":{units},"l2CacheSize":{l2},
        "maxSharedMemoryPerBlockOptin":{shared},"totalGlobalMem":{memory},"smClockRateKHz":{clock},"memClockRateKHz":{memory_clock},
        "memoryBusWidth":{bus},"maxGridSize":[2147483647,65535,65535],"maxBlockSize":[1024,1024,64],"regsPerBlock":65536,
        "smCountOrigin":0,"warpSize":32,"maxSharedMemoryPerBlock":49152,"oversizedSharedMemoryPerBlock":0,
        "reservedSharedMemoryPerBlock":1024,"maxRegistersPerSM":65536,"maxCtasPerSM":32,"maxThreadsPerBlock":1024,
        "maxThreadsPerSM":2048,"isTccDriver":0,"supportCoopLaunch":1,"cudaDeviceId":0,"driverVer":13000,"pciDeviceId":0}}"#
    )
}
