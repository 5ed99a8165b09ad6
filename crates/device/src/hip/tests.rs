//! The backend without a GPU, on machines of stub libraries: what a broken or old ROCm does (one sentence, never a panic), and
//! the whole way from listing a device to the descriptors of a matrix product.

use super::PROBE;
use crate::machine::{Machine, say_what_is_found, without_addresses};
use crate::{Arg, DeviceError, GemmOperands, GemmProblem, Geometry, HostMemory, Matrix, Program, Scaling, Transfer, Transpose};
use ridgepoint_core::Dtype;

const NAMES: &str = include_str!("stubs/names.h");

fn machine(name: &str) -> Machine {
    Machine::new(name, "RIDGEPOINT_ROCM_PATH")
}

/// CUDA's stub driver under HIP's names, and what HIP has otherwise.
pub(crate) fn runtime() -> String {
    let otherwise = ["cuDriverGetVersion", "cuDeviceGetUuid_v2", "cuDeviceGetAttribute", "cuMemcpyAsync"];
    let hidden: String = otherwise.iter().map(|name| format!("#define {name} cuda_{name}\n")).collect();
    format!("{NAMES}{hidden}{}{}", include_str!("../cuda/stubs/driver.c"), include_str!("stubs/runtime.c"))
}

pub(crate) fn compiler() -> String {
    let inner = include_str!("../cuda/stubs/compiler.c");
    format!("{NAMES}#define MAJOR 9\n#define nvrtcCompileProgram compile\n{inner}{}", include_str!("stubs/compiler.c"))
}

const RCCL: &str = "int ncclGetVersion(int *v) { *v = 22105; return 0; }";

/// With everything that AMD has.
fn whole(name: &str, options: &[&str]) -> Option<Machine> {
    machine(name)
        .with("libamdhip64.so.7", &runtime(), options)?
        .with("libhiprtc.so.7", &compiler(), &[])?
        .with("libhipblaslt.so.1", include_str!("stubs/blas.c"), &[])?
        .with("librccl.so.1", RCCL, &[])
}

#[test]
#[ignore = "run by other tests, on the machine that they make"]
fn child_says_what_it_finds() {
    say_what_is_found(&PROBE);
}

#[test]
fn a_runtime_that_does_not_work_is_one_sentence() {
    let cases = [
        ("nodevice", "int hipInit(unsigned f) { return 100; }", "hipInit returned 100; the amdgpu kernel driver is not loaded"),
        (
            "words",
            "int hipInit(unsigned f) { return 101; } const char *hipGetErrorName(int c) { return \"hipErrorInvalidDevice\"; }",
            "hipInit returned 101: hipErrorInvalidDevice; the amdgpu kernel driver is not loaded",
        ),
        (
            "none",
            "int hipInit(unsigned f) { return 0; } int hipRuntimeGetVersion(int *v) { *v = 60100000; return 0; }
             int hipGetDeviceCount(int *n) { *n = 0; return 100; }",
            "hipGetDeviceCount returned 100; the amdgpu kernel driver is not loaded",
        ),
        ("wrong", "int x;", "was found but it has no hipInit"),
        (
            "empty",
            "int hipInit(unsigned f) { return 0; }",
            "has no hipRuntimeGetVersion: a newer version of this library is needed",
        ),
    ];
    for (name, source, expected) in cases {
        let Some(machine) = machine(name).with("libamdhip64.so.7", source, &[]) else { return };
        let text = machine.run("hip::tests::child_says_what_it_finds");
        let saying: Vec<&str> = text.lines().filter(|l| l.contains(expected)).collect();
        assert!(!saying.is_empty() && saying.iter().all(|l| l.len() < 500), "{name}: {expected}\n{text}");
        assert!(text.contains("open: "), "{name} could be opened\n{text}");
    }
}

#[test]
fn a_file_that_is_no_library_is_one_sentence_and_none_is_a_choice() {
    let machine = machine("junk");
    std::fs::write(machine.dir.join("libamdhip64.so.7"), "not a library\n").unwrap();
    let text = machine.run("hip::tests::child_says_what_it_finds");
    assert!(text.contains("libamdhip64.so.7 was found but ") && text.contains("apt-get install hip-runtime-amd"), "{text}");
    let text = machine.run_with("hip::tests::child_says_what_it_finds", &[("RIDGEPOINT_ROCM_PATH", "none")]);
    assert!(text.contains("absent: libamdhip64.so: RIDGEPOINT_ROCM_PATH is 'none'"), "{text}");
}

#[test]
fn a_runtime_before_rocm_6_is_listed_and_not_opened() {
    let Some(machine) = whole("old", &["-DWITHOUT_PROPERTIES"]) else { return };
    let text = machine.run("hip::tests::child_says_what_it_finds");
    let sentence = "has no hipGetDevicePropertiesR0600: a newer version of this library is needed";
    assert!(text.contains("device hip:0: unknown") && text.contains(sentence), "{text}");
    assert!(text.lines().any(|l| l.starts_with("open: ") && l.contains(sentence)), "{text}");
    assert!(text.contains("; it lacks ") && text.contains("ok libamdhip64.so: HIP 7.2 from "), "{text}");
}

#[test]
fn all_of_rocm_is_found_with_its_versions() {
    let hipdnn = |machine: Machine| machine.with("libhipdnn_backend.so.1", "int hipdnnBackendExecute(void) { return 1; }", &[]);
    let Some(machine) = whole("whole", &[]).and_then(hipdnn) else { return };
    let text = machine.run("hip::tests::child_says_what_it_finds");
    for line in [
        "device hip:0: Stub GPU, 38 CUs, gfx942, 1 GB, PCI ffff:ff:00.0",
        "device hip:1: Stub GPU MIG 1g.5gb, 38 CUs, gfx950,",
        "ok libamdhip64.so: HIP 7.2 from ",
        "ok libhiprtc.so: 7 from /",
        "ok libhipblaslt.so: 1 from /",
        "ok librccl.so: 2.21.5 from /",
        "ok libhipdnn_backend.so: 1 from /",
        "; it has no plugins, which do its work, in /",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(!text.contains("open: "), "{text}");
}

#[test]
fn a_library_of_another_rocm_is_refused() {
    let Some(other) = machine("other").with("libamdhip64.so.6", "int hipInit(unsigned f) { return 0; }", &[]) else { return };
    let dir = other.dir.display();
    let (search, path) = (format!("-L{dir}"), format!("-Wl,-rpath,{dir}"));
    let linked = ["-Wl,--no-as-needed", &search, "-l:libamdhip64.so.6", &path];
    let machine = machine("mixed").with("libamdhip64.so.7", &runtime(), &[]).unwrap();
    let machine = machine.with("libhipblaslt.so.1", include_str!("stubs/blas.c"), &linked).unwrap();
    let machine = machine.with("libhiprtc.so.6", &compiler(), &[]).unwrap();
    let text = machine.run("hip::tests::child_says_what_it_finds");
    assert!(text.contains("libhipblaslt.so.1 was found but it brings a second HIP runtime of its own"), "{text}");
    assert!(text.contains("libhiprtc.so.6 was found but it is of HIP 6 and the runtime is HIP 7"), "{text}");
    assert!(text.contains("device hip:0: Stub GPU"), "{text}");
}

#[test]
fn a_library_without_its_functions_costs_what_it_serves_and_no_more() {
    let lame = |name, blas| {
        machine(name)
            .with("libamdhip64.so.7", &runtime(), &[])?
            .with("libhiprtc.so.7", "int hiprtcCreateProgram(void) { return 0; }", &[])?
            .with("libhipblaslt.so.1", blas, &[])
    };
    let works = "int hipblasLtCreate(void **h) { *h = h; return 0; } int hipblasLtDestroy(void *h) { return 0; }";
    let old = format!("{works} int hipblasLtGetVersion(void *h, int *v) {{ *v = 600; return 0; }}");
    for (name, blas, expected) in [
        ("broken", "int hipblasLtCreate(void **h) { return 1; }", "no GEMM library: hipblasLtCreate returned 1"),
        ("before", &old, "no GEMM library: hipBLASLt 0.6.0 is older than ROCm 6.1's"),
        ("few", works, "product: /"),
    ] {
        let Some(machine) = lame(name, blas) else { return };
        let text = machine.run("hip::tests::child_lacks_its_libraries");
        assert!(text.contains(expected) && text.contains("1 passed"), "{name}: {expected}\n{text}");
        assert!(name != "few" || text.contains("has no hipblasLtMatmulDescCreate: a newer version"), "{text}");
    }
}

#[test]
#[ignore = "run by another test, on the machine that it makes"]
fn child_lacks_its_libraries() {
    let device = (PROBE.open)(0).unwrap();
    println!("no GEMM library: {}", device.info().facts.get("no GEMM library").map_or("", String::as_str));
    let problem = GemmProblem::new(16, 16, 16, Dtype::F32, Dtype::F32);
    for blas in device.blas() {
        let outcome = blas.plan(&problem).map(|_| ());
        assert!(matches!(outcome, Err(DeviceError::Unsupported(_))), "{outcome:?}");
        println!("product: {}", outcome.unwrap_err());
    }
    let outcome = device.compile(&Program { name: "common/init", ..Program::default() }, "rp_init_f32");
    assert!(matches!(&outcome, Err(DeviceError::Unsupported(s)) if s.contains("has no hiprtcVersion")), "{outcome:?}");
    assert!(device.hold().unwrap().is_none() && device.observed_mhz().unwrap().is_none());
}

#[test]
fn every_device_test_holds_on_a_runtime_of_host_memory() {
    let Some(machine) = whole("conformance", &[]) else { return };
    let text = machine.run("conformance::hip::");
    assert!(text.contains(" passed") && !text.contains(" 0 passed") && !text.contains("SKIP"), "{text}");
}

#[test]
fn what_only_hip_has_holds_on_a_runtime_of_host_memory() {
    let Some(machine) = whole("only", &[]) else { return };
    let log = machine.dir.join("log");
    let text = machine.run_with("hip::tests::child_does_what_only_hip_has", &[("RP_STUB_LOG", log.to_str().unwrap())]);
    assert!(text.contains("1 passed"), "{text}");
}

#[test]
#[ignore = "run by another test, on the machine that it makes"]
fn child_does_what_only_hip_has() {
    let (device, other) = ((PROBE.open)(0).unwrap(), (PROBE.open)(1).unwrap());
    let info = device.info();
    assert_eq!((info.arch.as_str(), info.facts["target"].as_str()), ("gfx942", "gfx942:sramecc+:xnack-"));
    assert_eq!((info.uuid.as_deref(), info.units), (Some("GPU-0011223344556677"), 38));
    assert!(info.driver.ends_with("(HIP 7.2)"), "{}", info.driver);
    assert!(info.libraries.iter().any(|l| l.name == "hipBLASLt" && l.version == "1.2.5"), "{:?}", info.libraries);

    // Page-locked memory, from host to host, too: the one copy that HIP is told the direction of.
    let (a, b) = (device.alloc_host(64).unwrap(), device.alloc_host(64).unwrap());
    device.upload(&a, 0, b"page-locked").unwrap();
    device.copy(&a, 5, &b, 0, 6).unwrap();
    let mut back = [0; 6];
    device.download(&b, 0, &mut back).unwrap();
    assert_eq!(&back, b"locked");

    // A sibling, named by its number where CUDA names contexts; and memory that is page-locked after the system gave it.
    let sibling = device.sibling(1).unwrap();
    assert!(sibling.direct && device.sibling(0).is_err());
    let (near, far) = (device.alloc(64).unwrap(), sibling.device.alloc(64).unwrap());
    device.upload(&near, 0, b"near").unwrap();
    device.copy_at_once(&[Transfer::whole(&near, &far), Transfer { len: 4, ..Transfer::whole(&near, &b) }]).unwrap();
    let mut back = [0; 4];
    sibling.device.download(&far, 0, &mut back).unwrap();
    assert_eq!(&back, b"near");
    match device.alloc_host_as(64, HostMemory { pageable: false, node: Some(crate::nodes()[0]) }) {
        Ok(memory) => device.copy(&near, 0, &memory, 0, 64).unwrap(),
        Err(error) => assert!(error.to_string().contains("mbind"), "{error}"),
    }

    // What HIP has not is an answer and no panic.
    let program = Program { name: "common/arguments", ..Program::default() };
    let kernel = device.compile(&program, "rp_arguments").unwrap();
    let memory = device.alloc(64).unwrap();
    let args = [Arg::Buffer(&memory, 0), Arg::U32(1), Arg::I32(2), Arg::U64(3), Arg::F32(4.0)];
    let clustered = device.launch(&kernel, Geometry::linear(2, 1).with_cluster(2), &args);
    assert!(clustered.is_err(), "{clustered:?}");
    let large = device.launch(&kernel, Geometry::linear(1, 1).with_shared(65537), &args);
    assert!(matches!(&large, Err(DeviceError::Invalid(s)) if s.contains("this device has 65536 a block")), "{large:?}");
    device.launch(&kernel, Geometry::linear(1, 1).with_shared(65536), &args).unwrap();
    let elsewhere = other.launch(&kernel, Geometry::linear(1, 1), &args);
    assert!(matches!(elsewhere, Err(DeviceError::Invalid(_))), "{elsewhere:?}");

    let log = std::env::var("RP_STUB_LOG").unwrap();
    let told = |what: &str| std::fs::read_to_string(&log).unwrap().lines().any(|line| line == what);
    assert!(told("--offload-arch=gfx942:sramecc+:xnack- -std=c++17 -O3"));
    let defines = [("RP_BLOCK", "256".to_owned())];
    other.compile(&Program { defines: &defines, ..program }, "rp_arguments").unwrap();
    assert!(told("--offload-arch=gfx950:sramecc+:xnack- -std=c++17 -O3 -DRP_BLOCK=256"));
    let broken = device.compile(&Program { name: "mine", cpp: Some("seeded mistake"), ..Program::default() }, "rp_scale");
    assert!(matches!(&broken, Err(DeviceError::Compile { log, .. }) if log.contains("line 1: mistake")), "{broken:?}");
}

#[test]
fn every_type_is_described_to_hipblaslt_as_it_numbers_it() {
    let Some(machine) = whole("blas", &[]) else { return };
    let log = machine.dir.join("log");
    let text = machine.run_with("hip::tests::child_describes_products", &[("RP_STUB_LOG", log.to_str().unwrap())]);
    assert!(text.contains("1 passed"), "{text}");
}

#[test]
#[ignore = "run by another test, on the machine that it makes"]
fn child_describes_products() {
    let log = std::env::var("RP_STUB_LOG").unwrap();
    let told = || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let _ = std::fs::remove_file(&log);
        text
    };
    let (mi300, mi350) = ((PROBE.open)(0).unwrap(), (PROBE.open)(1).unwrap());
    // C (3×5) = A (3×7) · B (5×7, transposed): column-major, the library's first operand is our B.
    let problem = |input, output| GemmProblem::new(3, 5, 7, input, output);
    let cases = [
        (&mi300, Dtype::F32, Dtype::F32, (2, 0, 0, 0)),
        (&mi300, Dtype::Tf32, Dtype::F32, (6, 0, 0, 0)),
        (&mi300, Dtype::F16, Dtype::F16, (2, 0, 2, 2)),
        (&mi300, Dtype::Bf16, Dtype::Bf16, (2, 0, 14, 14)),
        (&mi300, Dtype::I8, Dtype::I32, (9, 10, 3, 10)),
        (&mi300, Dtype::E4m3fnuz, Dtype::Bf16, (2, 0, 1000, 14)),
        (&mi300, Dtype::E5m2fnuz, Dtype::Bf16, (2, 0, 1001, 14)),
        (&mi350, Dtype::E4m3, Dtype::Bf16, (2, 0, 28, 14)),
        (&mi350, Dtype::E5m2, Dtype::Bf16, (2, 0, 29, 14)),
    ];
    for (device, input, output, (compute, scale, ab, c)) in cases {
        let plan = device.blas()[0].plan(&problem(input, output)).unwrap();
        let expected = format!(
            "compute {compute} scale {scale} 0=112 1=111 [{ab} 7x5 ld 7] [{ab} 7x3 ld 7] [{c} 5x3 ld 5] workspace 1=67108864\n"
        );
        assert_eq!(told(), expected, "{input}");
        // Of four algorithms one wants too much workspace and one does not work.
        assert_eq!(plan.candidates(), 2, "{input}");
    }
    let stored = |stored| Matrix { dtype: Dtype::Bf16, stored };
    let untransposed = GemmProblem { a: stored(Transpose::Yes), b: stored(Transpose::No), ..problem(Dtype::Bf16, Dtype::Bf16) };
    mi300.blas()[0].plan(&untransposed).unwrap();
    assert!(told().contains(" 0=111 1=112 [14 5x7 ld 5] [14 3x7 ld 3] [14 5x3 ld 5]"));

    // Scales, batches, and types apart; what stands for scales until there are some is told with the problem. The first address is
    // of the library's first operand, our B.
    let scaled = |dtype, scaling| GemmProblem { scaling, ..GemmProblem::new(3, 5, 64, dtype, Dtype::Bf16) };
    let with_b = |dtype, problem| GemmProblem { b: Matrix { dtype, stored: Transpose::Yes }, ..problem };
    let (none, bf16) = (Scaling::None, Dtype::Bf16);
    for (device, problem, expected) in [
        (&mi300, scaled(Dtype::E5m2fnuz, Scaling::Tensor), " [1001 64x5 ld 64] [1001 64x3 ld 64] [14 5x3 ld 5] 5=@ 6=@"),
        (&mi300, scaled(Dtype::E4m3fnuz, Scaling::Row), " 31=3 32=3 [1000 64x5 ld 64] [1000 64x3 ld 64] [14 5x3 ld 5] 5=@ 6=@"),
        (&mi350, scaled(Dtype::Mxfp8, Scaling::Mx), " 31=2 32=2 [28 64x5 ld 64] [28 64x3 ld 64] [14 5x3 ld 5] 5=@ 6=@"),
        (&mi350, scaled(Dtype::Mxfp4, Scaling::Mx), " 31=2 32=2 [33 64x5 ld 64] [33 64x3 ld 64] [14 5x3 ld 5] 5=@ 6=@"),
        (&mi350, with_b(Dtype::E5m2, scaled(Dtype::E4m3, none)), " [29 64x5 ld 64] [28 64x3 ld 64] [14 5x3 ld 5]"),
        (&mi350, GemmProblem { output: Dtype::F32, ..scaled(bf16, none) }, " [14 64x5 ld 64] [14 64x3 ld 64] [0 5x3 ld 5]"),
        (
            &mi300,
            GemmProblem { batch: 9, ..scaled(bf16, none) },
            " [14 64x5 ld 64] (0=9) (1=320) [14 64x3 ld 64] (0=9) (1=192) [14 5x3 ld 5] (0=9) (1=15)",
        ),
    ] {
        device.blas()[0].plan(&problem).unwrap();
        let expected = format!("compute 2 scale 0 0=112 1=111{expected} workspace 1=67108864\n");
        assert_eq!(without_addresses(&told()), expected, "{problem:?}");
    }

    let refused = |device: &dyn crate::Device, input| match device.blas()[0].plan(&problem(input, Dtype::Bf16)) {
        Err(DeviceError::Unsupported(reason)) => reason,
        other => panic!("{input}: {:?}", other.map(|_| ())),
    };
    assert!(refused(mi300.as_ref(), Dtype::E4m3).contains("gfx942 has FP8 in the FNUZ encoding alone"));
    assert!(refused(mi350.as_ref(), Dtype::E4m3fnuz).contains("gfx950 has no FP8 in the FNUZ encoding"));
    assert!(refused(mi300.as_ref(), Dtype::F64).contains("hipBLASLt 1.2.5 has no GEMM of f64 to bf16"));
    for (scaling, reason) in [
        (Scaling::Block128, "hipBLASLt 1.2.5 takes no scales of this kind: one f32 for 1×128 of A and 128×128 of B"),
        (Scaling::Nvfp4, "takes no scales of this kind"),
        (Scaling::Mx, "gfx942 has no block scales"),
    ] {
        let outcome = mi300.blas()[0].plan(&scaled(Dtype::E4m3fnuz, scaling)).map(|_| ());
        assert!(outcome.as_ref().is_err_and(|e| e.to_string().contains(reason)), "{scaling:?}: {outcome:?}");
    }
    assert_eq!(mi350.blas()[0].plan(&problem(Dtype::Tf32, Dtype::F32)).unwrap().support(), crate::Support::Emulated);
    told();

    // Run: the right operands in the right places, with one and zero as the accumulator wants them.
    let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
    let (a, b): (Vec<f32>, Vec<f32>) = ((0..21).map(|i| i as f32).collect(), (0..35).map(|i| 1.0 - i as f32).collect());
    let [da, db, dc] = [21, 35, 15].map(|n| mi300.alloc(4 * n).unwrap());
    mi300.upload(&da, 0, &bytes(&a)).unwrap();
    mi300.upload(&db, 0, &bytes(&b)).unwrap();
    let mut plan = mi300.blas()[0].plan(&problem(Dtype::F32, Dtype::F32)).unwrap();
    told();
    plan.select(1).unwrap();
    plan.enqueue(&GemmOperands::new(&da, &db, &dc)).unwrap();
    assert_eq!(told(), "solution 80 alpha 3f800000 beta 00000000 workspace 67108864\n");
    assert!(plan.config()["algorithm"].contains("solution 80, workspace 0"), "{:?}", plan.config());
    let mut out = [0; 60];
    mi300.download(&dc, 0, &mut out).unwrap();
    let expected: Vec<f32> = (0..15).map(|at| (0..7).map(|l| a[at / 5 * 7 + l] * b[at % 5 * 7 + l]).sum()).collect();
    assert_eq!(out.to_vec(), bytes(&expected));
    assert!(matches!(plan.enqueue(&GemmOperands::new(&da, &dc, &dc)), Err(DeviceError::Invalid(_))), "B is too small");
    // With scales the addresses are those of the operands, B's first, and a scale that is missing is an error.
    let [scale_a, scale_b] = [1, 1].map(|n| mi300.alloc(4 * n).unwrap());
    let fp8 = mi300.blas()[0].plan(&GemmProblem { scaling: Scaling::Tensor, ..problem(Dtype::E4m3fnuz, Dtype::Bf16) }).unwrap();
    told();
    let operands = GemmOperands { scale_a: Some(&scale_a), ..GemmOperands::new(&da, &db, &dc) };
    assert!(matches!(fp8.enqueue(&operands), Err(DeviceError::Invalid(_))), "no scale of B");
    fp8.enqueue(&GemmOperands { scale_b: Some(&scale_b), factor: 3.0, ..operands }).unwrap();
    let expected = format!(" 5=@{:x} 6=@{:x}solution 77 alpha 3f800000", scale_b.address(), scale_a.address());
    let text = told();
    assert!(text.starts_with(&expected), "{text}");
    let i8 = mi300.blas()[0].plan(&problem(Dtype::I8, Dtype::I32)).unwrap();
    told();
    i8.enqueue(&GemmOperands::new(&da, &db, &dc)).unwrap();
    assert!(told().starts_with("solution 77 alpha 00000001 beta 00000000"));
}

#[test]
fn without_a_compiler_code_objects_are_asked_for_and_then_taken() {
    let Some(machine) = machine("objects").with("libamdhip64.so.7", &runtime(), &[]) else { return };
    let objects = machine.dir.join("objects");
    let variables = [("RIDGEPOINT_CODE_OBJECTS", objects.to_str().unwrap()), ("LD_LIBRARY_PATH", "")];
    let text = machine.run_with("hip::tests::child_wants_a_code_object", &variables);
    assert!(
        text.contains("no code object of common/arguments.hip for gfx942:sramecc+:xnack-: run scripts/code-objects"),
        "{text}"
    );
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/code-objects");
    let built = std::process::Command::new(script).arg(&objects).output().unwrap();
    let said = String::from_utf8_lossy(&built.stderr).into_owned() + &String::from_utf8_lossy(&built.stdout);
    if built.status.code() == Some(3) {
        println!("SKIP: code objects: {said}");
        return;
    }
    assert!(built.status.success() && said.contains("1 built, 0 failed"), "{said}");
    let text = machine.run_with("hip::tests::child_wants_a_code_object", &variables);
    assert!(text.contains("compiled: Ok"), "{text}");
}

#[test]
#[ignore = "run by another test, on the machine that it makes"]
fn child_wants_a_code_object() {
    let device = (PROBE.open)(0).unwrap();
    let compiled = device.compile(&Program { name: "common/arguments", ..Program::default() }, "rp_arguments");
    println!("compiled: {}", compiled.map_or_else(|e| e.to_string(), |_| "Ok".into()));
}

/// The machine's own runtime, where it has one: in CI Debian's, of ROCm 5.2, which finds no GPU.
#[test]
fn a_real_runtime_without_a_gpu_is_one_sentence() {
    let found = (PROBE.discover)();
    let doctor = (PROBE.doctor)();
    let runtime = doctor.iter().find(|f| f.what == "libamdhip64.so").unwrap();
    if !runtime.detail.contains('/') {
        println!("SKIP: real HIP runtime: {}", runtime.detail);
        return;
    }
    let Some(absent) = found.absent else { return };
    assert!(found.devices.is_empty() && !runtime.ok, "{runtime:?}");
    assert!(absent.starts_with("hip") && absent.contains(" returned 10") && !absent.contains('\n'), "{absent}");
    assert!(absent.len() < 300 && (absent.contains("amdgpu") || absent.contains("/dev/kfd")), "{absent}");
    assert!(matches!((PROBE.open)(0), Err(DeviceError::Unsupported(why)) if why == absent));
}
