//! The backend without a GPU: small libraries, built by the test, stand where NVIDIA's would, and the same test binary is
//! started again to find them. What is at stake is what a broken or old machine does: one sentence, never a panic.

use super::PROBE;
use crate::machine::{Machine, say_what_is_found, without_addresses};
use crate::{
    Arg, Device, DeviceError, GemmOperands, GemmProblem, Geometry, HostMemory, Matrix, Program, ScaleOrder, Scaling, Transfer,
    Transpose,
};
use ridgepoint_core::Dtype;

fn machine(name: &str) -> Machine {
    Machine::new(name, "RIDGEPOINT_CUDA_PATH")
}

const BLAS: &str = "int cublasLtCreate(void **h) { *h = h; return 0; } int cublasLtDestroy(void *h) { return 0; }
    unsigned long cublasLtGetVersion(void) { return 130205; }";
const CUDNN: &str =
    "unsigned long cudnnGetVersion(void) { return 91400; } unsigned long cudnnGetCudartVersion(void) { return 13000; }";
const NCCL: &str = "int ncclGetVersion(int *v) { *v = 22803; return 0; }";

/// With a driver, a compiler and a GEMM library that work.
fn whole(name: &str, driver: &[&str], compiler: &[&str]) -> Option<Machine> {
    let compiler: Vec<&str> = compiler.iter().chain(&["-DMAJOR=13"]).copied().collect();
    machine(name)
        .with("libcuda.so.1", include_str!("stubs/driver.c"), driver)?
        .with("libnvrtc.so.13", include_str!("stubs/compiler.c"), &compiler)?
        .with("libnvidia-ml.so.1", include_str!("stubs/nvml.c"), &[])?
        .with("libcublasLt.so.13", BLAS, &[])
}

#[test]
#[ignore = "run by other tests, on the machine that they make"]
fn child_says_what_it_finds() {
    say_what_is_found(&PROBE);
}

#[test]
fn a_driver_that_does_not_work_is_one_sentence() {
    const OLD: &str = "int cuInit(unsigned f) { return 0; } int cuDriverGetVersion(int *v) { *v = 12000; return 0; }
        int cuDeviceGetCount(int *n) { *n = 1; return 0; } int cuDeviceGet(int *d, int i) { return 0; }
        int cuDeviceGetName(char *s, int n, int d) { s[0] = 'O'; s[1] = 0; return 0; }";
    let cases = [
        ("nodevice", "int cuInit(unsigned f) { return 100; }", "cuInit returned 100; is a GPU in this machine"),
        (
            "words",
            "int cuInit(unsigned f) { return 803; } int cuGetErrorName(int c, const char **s) { *s = \"MISMATCH\"; return 0; }",
            "cuInit returned 803: MISMATCH; the library and the kernel module are of two versions",
        ),
        (
            "none",
            "int cuInit(unsigned f) { return 0; } int cuDriverGetVersion(int *v) { *v = 12000; return 0; } int cuDeviceGetCount(int *n) { *n = 0; return 0; }",
            "the driver reports no device",
        ),
        ("stub", "int cuInit(unsigned f) { return 34; }", "was found but it is the toolkit's stub and no driver"),
        ("wrong", "int x;", "was found but it has no cuInit"),
        ("empty", "int cuInit(unsigned f) { return 0; }", "has no cuDriverGetVersion: a newer version of this library is needed"),
        ("old", OLD, "has no cuDeviceGetPCIBusId: a newer version of this library is needed"),
    ];
    for (name, source, expected) in cases {
        let Some(machine) = machine(name).with("libcuda.so.1", source, &[]) else { return };
        let text = machine.run("cuda::tests::child_says_what_it_finds");
        let saying: Vec<&str> = text.lines().filter(|l| l.contains(expected)).collect();
        assert!(!saying.is_empty() && saying.iter().all(|l| l.len() < 400), "{name}: {expected}\n{text}");
        assert!(name == "old" || text.contains("not ok libcuda.so") || name == "none", "{name}\n{text}");
        assert!(text.contains("open: "), "{name} could be opened\n{text}");
    }
}

#[test]
fn a_file_that_is_no_library_is_one_sentence() {
    let machine = machine("junk");
    std::fs::write(machine.dir.join("libcuda.so.1"), "not a library\n").unwrap();
    let text = machine.run("cuda::tests::child_says_what_it_finds");
    assert!(text.contains("libcuda.so.1 was found but ") && text.contains("To get it: install the NVIDIA driver"), "{text}");
}

/// Everything there is; then each library missing, of an older CUDA, or without its version, in turn.
#[test]
fn each_library_missing_or_older_is_a_sentence_of_its_own() {
    let libraries = [
        ("libnvidia-ml.so", "libnvidia-ml.so.1", include_str!("stubs/nvml.c"), "ok libnvidia-ml.so: 13.580.65.06 from /"),
        ("libnvrtc.so", "libnvrtc.so.13", include_str!("stubs/compiler.c"), "; for CUDA 13, fits the driver's 13 []"),
        ("libcublasLt.so", "libcublasLt.so.13", BLAS, "ok libcublasLt.so: 13.2.5 from /"),
        ("libcudnn.so", "libcudnn.so.9", CUDNN, "ok libcudnn.so: 9.14.0 from /"),
        ("libnccl.so", "libnccl.so.2", NCCL, "ok libnccl.so: 2.28.3 from /"),
    ];
    let older = [
        ("libnvrtc.so", "-DMAJOR=12", "libnvrtc.so: 12.0 from /"),
        ("libcublasLt.so", "-DcublasLtGetVersion=no", "libcublasLt.so: /"),
        ("libcudnn.so", "-DcudnnGetCudartVersion=no", "libcudnn.so: 9.14.0 from /"),
        ("libnccl.so", "-DncclGetVersion=ncclVersion", "was found but it has no ncclGetVersion [pip install nvidia-nccl-cu13]"),
    ];
    let build = |name: &str, change: &dyn Fn(&str) -> Option<&'static str>| {
        let driver = machine(name).with("libcuda.so.1", include_str!("stubs/driver.c"), &[]);
        libraries.iter().fold(driver, |machine, (stem, file, source, _)| match change(stem) {
            Some("") => machine,
            option => machine?.with(file, source, &[option.unwrap_or("-DMAJOR=13")]),
        })
    };
    let Some(all) = build("all", &|_| None) else { return };
    let text = all.run("cuda::tests::child_says_what_it_finds");
    for (stem, _, _, line) in libraries {
        assert!(text.contains(line) && text.contains(&format!("ok {stem}: ")), "{stem}: {line}\n{text}");
    }
    assert!(!text.contains("not ok") && !text.contains("open: "), "{text}");
    for (stem, ..) in libraries {
        let Some(machine) = build(&format!("no-{stem}"), &|s| (s == stem).then_some("")) else { return };
        let text = machine.run("cuda::tests::child_says_what_it_finds");
        let said: Vec<&str> = text.lines().filter(|line| line.starts_with("not ok ")).collect();
        assert!(
            matches!(said[..], [line] if line.contains(stem) && line.len() < 300 && !line.ends_with("[]")),
            "{stem}: {said:?}"
        );
        assert!(text.contains("device cuda:1: Stub GPU MIG 1g.5gb") && !text.contains("open: "), "{stem}\n{text}");
    }
    for (stem, option, line) in older {
        let Some(machine) = build(&format!("old-{stem}"), &|s| (s == stem).then_some(option)) else { return };
        let text = machine.run("cuda::tests::child_says_what_it_finds");
        assert!(text.contains(line) && !text.contains("open: "), "{stem}: {line}\n{text}");
    }
}

#[test]
fn what_the_user_hides_stays_hidden_and_a_slice_is_a_device() {
    let Some(machine) = whole("visible", &[], &[]) else { return };
    let found = |list| machine.run_with("cuda::tests::child_says_what_it_finds", &[("CUDA_VISIBLE_DEVICES", list)]);
    let one = found("1");
    assert!(one.contains("device cuda:0: Stub GPU MIG 1g.5gb, 4 SMs") && !one.contains("cuda:1"), "{one}");
    let turned = found("1,0");
    assert!(turned.contains("device cuda:0: Stub GPU MIG") && turned.contains("device cuda:1: Stub GPU, "), "{turned}");
    let none = found("");
    assert!(none.contains("absent: the driver reports no device; is CUDA_VISIBLE_DEVICES set to nothing?"), "{none}");
    let text = machine.run_with("cuda::tests::child_is_a_slice", &[("CUDA_VISIBLE_DEVICES", "1")]);
    assert!(text.contains("1 passed"), "{text}");
}

#[test]
#[ignore = "run by another test, on the machine that it makes"]
fn child_is_a_slice() {
    let device = (PROBE.open)(0).unwrap();
    let info = device.info();
    assert_eq!((info.id.as_str(), info.name.as_str()), ("cuda:0", "Stub GPU MIG 1g.5gb"));
    assert_eq!(info.uuid.as_deref(), Some("MIG-10111213-1415-1617-1819-1a1b1c1d1e1f"));
    // The sensors are its whole GPU's, found by the PCI address and not by the place in a list.
    assert_eq!((info.pci.as_deref(), info.facts["mig_mode"].as_str()), (Some("ffff:ff:01.0"), "1"));
    assert!(!info.facts.contains_key("peer access"));
}

#[test]
fn sensors_say_what_a_board_has_and_cost_few_calls() {
    let Some(machine) = whole("sensors", &[], &[]) else { return };
    let text = machine.run("cuda::tests::child_reads_its_sensors");
    assert!(text.contains("1 passed"), "{text}");
}

#[test]
#[ignore = "run by another test, on the machine that it makes"]
fn child_reads_its_sensors() {
    let device = (PROBE.open)(0).unwrap();
    for (fact, value) in
        [("ecc_mode", "1"), ("pcie_gen_max", "5"), ("pcie_width_max", "16"), ("row_remap_pending", "1"), ("sm_mhz_max", "1980")]
    {
        assert_eq!(device.info().facts[fact], value, "{fact}");
    }
    let mut sensors = device.sensors().unwrap();
    let all = sensors.read();
    let expected = [
        ("mem_clock_mhz", 2619.0),
        ("memory_temperature_c", 70.0),
        ("nvlinks_up", 17.0),
        ("pcie_gen", 5.0),
        ("pcie_width", 16.0),
        ("power_instant_w", 701.0),
        ("power_limit_w", 700.0),
        ("power_w", 699.5),
        ("sm_clock_mhz", 1410.0),
        ("temperature_c", 61.0),
    ];
    assert_eq!(all.sensors.iter().map(|(name, value)| (*name, *value)).collect::<Vec<_>>(), expected);
    // Idle is no throttling; the power limit is.
    assert_eq!((all.throttle_bits, &all.throttle_reasons[..]), (Some(5), &["power cap"][..]));
    let counters = |name: &str| all.counters[name];
    assert_eq!(["ecc_corrected", "ecc_uncorrected", "pcie_replays", "rows_remapped", "xid"].map(counters), [3, 0, 7, 3, 1]);
    assert_eq!(sensors.read().counters["xid"], 1, "an error is told of once");

    // What a sampler does between both ends: nine calls, and none of those that can take milliseconds.
    let path = std::env::var_os("RIDGEPOINT_CUDA_PATH").unwrap();
    let library = crate::dl::Opened::open(&std::path::Path::new(&path).join("libnvidia-ml.so.1")).unwrap();
    let count = library.address(&["rp_stub_calls"]).unwrap();
    // SAFETY: the stub's own function, of no arguments.
    let calls = || unsafe { std::mem::transmute::<*mut std::ffi::c_void, unsafe extern "C" fn() -> u32>(count)() };
    let before = calls();
    let glance = sensors.glance();
    assert_eq!(calls() - before, 9);
    assert!(glance.counters.is_empty() && glance.sensors.len() == 9 && glance.throttle_bits == Some(5));
}

#[test]
fn without_a_compiler_every_device_test_holds_on_what_was_built_ahead() {
    let Some(machine) = machine("ptx").with("libcuda.so.1", include_str!("stubs/driver.c"), &[]) else { return };
    let text = machine.run("conformance::cuda::");
    assert!(text.contains(" passed") && !text.contains(" 0 passed") && !text.contains("SKIP"), "{text}");
    let text = machine.run("cuda::tests::child_has_no_compiler");
    assert!(text.contains("1 passed") && text.contains("serve until then [pip install 'nvidia-cuda-nvrtc==13.*']"), "{text}");
    // A driver of before 12.0 does not read it, and a compiler that does not know the chip is no better than none.
    let driver = include_str!("stubs/driver.c").replace("*v = 13000", "*v = 11080");
    let Some(before) = self::machine("ptx-old").with("libcuda.so.1", &driver, &[]) else { return };
    let text = before.run("cuda::tests::child_compiles_the_clock");
    assert!(text.contains("; the PTX that was built ahead needs a driver of 525 or newer"), "{text}");
    let compiler = include_str!("stubs/compiler.c").replace("v[1] = 90", "v[1] = 86");
    let Some(machine) = machine.with("libnvrtc.so.13", &compiler, &["-DMAJOR=13"]) else { return };
    let text = machine.run("cuda::tests::child_compiles_the_clock");
    assert!(text.contains("clock: compiled"), "{text}");
}

#[test]
#[ignore = "run by another test, on the machine that it makes"]
fn child_has_no_compiler() {
    say_what_is_found(&PROBE);
    let device = (PROBE.open)(0).unwrap();
    assert!(device.info().facts["kernels"].contains("built ahead"), "{:?}", device.info().facts);
    assert!(device.hold().unwrap().is_some() && device.observed_mhz().unwrap().is_some());
    let defines = [("RP_BLOCK", "96".to_owned())];
    let other = device.compile(&Program { name: "memory/stream", defines: &defines, ..Program::default() }, "rp_copy");
    let reason = match other {
        Err(DeviceError::Unsupported(reason)) => reason,
        other => panic!("{other:?}"),
    };
    assert!(
        reason.contains("To get it: pip install") && reason.contains("; no PTX of memory/stream RP_BLOCK=96 for sm_90a"),
        "{reason}"
    );
}

#[test]
#[ignore = "run by another test, on the machine that it makes"]
fn child_compiles_the_clock() {
    let device = (PROBE.open)(0).unwrap();
    let compiled = device.compile(&Program { name: "common/clock", ..Program::default() }, "rp_clock");
    println!("clock: {}", compiled.map_or_else(|error| error.to_string(), |_| "compiled".into()));
}

#[test]
fn a_library_of_another_major_version_is_refused_with_the_one_to_get() {
    let driver = include_str!("stubs/driver.c").replace("*v = 13000", "*v = 12080");
    let Some(machine) = machine("newer").with("libcuda.so.1", &driver, &[]) else { return };
    let Some(machine) = machine.with("libnvrtc.so.13", include_str!("stubs/compiler.c"), &["-DMAJOR=13"]) else { return };
    let text = machine.run("cuda::tests::child_says_what_it_finds");
    assert!(text.contains("it is for CUDA 13 and the driver is for CUDA 12; kernels"), "{text}");
    assert!(text.contains("[pip install nvidia-cuda-nvrtc-cu12]"), "{text}");
    assert!(text.contains("device cuda:0: Stub GPU, 4 SMs, sm_90a"), "{text}");
    assert!(!text.contains("open: "), "a device needs no compiler to open\n{text}");
}

#[test]
fn a_library_without_its_functions_costs_what_it_serves_and_no_more() {
    let Some(machine) = whole("lame", &[], &[]) else { return };
    let Some(machine) = machine.with("libcublasLt.so.13", "int cublasLtCreate(void **h) { return 1; }", &[]) else { return };
    let Some(machine) = machine.with("libnvrtc.so.13", "int nvrtcVersion(int *a, int *b) { *a = 13; *b = 0; return 0; }", &[])
    else {
        return;
    };
    let text = machine.run("cuda::tests::child_lacks_its_libraries");
    assert!(text.contains("1 passed"), "{text}");
}

#[test]
#[ignore = "run by another test, on the machine that it makes"]
fn child_lacks_its_libraries() {
    let device = (PROBE.open)(0).unwrap();
    assert!(device.blas().is_empty());
    assert_eq!(device.info().facts["no GEMM library"], "cublasLtCreate returned 1");
    let outcome = device.compile(&Program { name: "mine", cpp: Some("fine"), ..Program::default() }, "rp_init_f32");
    assert!(matches!(&outcome, Err(DeviceError::Unsupported(s)) if s.contains("has no nvrtcCreateProgram")), "{outcome:?}");
    // What was built ahead needs no compiler.
    assert!(device.hold().unwrap().is_some());
}

#[test]
fn every_device_test_holds_on_a_driver_of_host_memory() {
    let Some(machine) = whole("conformance", &[], &[]) else { return };
    let text = machine.run("conformance::cuda::");
    assert!(text.contains(" passed") && !text.contains(" 0 passed") && !text.contains("SKIP"), "{text}");
}

#[test]
fn what_only_cuda_has_holds_on_a_driver_of_host_memory() {
    for (name, driver, compiler) in [("new", &[][..], &[][..]), ("before", &["-DWITHOUT_PARAMETERS"][..], &["-DOLD"][..])] {
        let Some(machine) = whole(name, driver, compiler) else { return };
        let text = machine.run("cuda::tests::child_does_what_only_cuda_has");
        assert!(text.contains("1 passed"), "{text}");
        assert_eq!(text.contains("arguments are counted"), name == "new", "{text}");
    }
}

#[test]
#[ignore = "run by another test, on the machine that it makes"]
fn child_does_what_only_cuda_has() {
    let (device, other) = ((PROBE.open)(0).unwrap(), (PROBE.open)(1).unwrap());
    assert_eq!(device.info().name, "Stub GPU");
    assert_eq!(device.info().uuid.as_deref(), Some("GPU-00010203-0405-0607-0809-0a0b0c0d0e0f"));
    assert!(other.info().uuid.as_deref().unwrap().starts_with("MIG-1011"), "{:?}", other.info().uuid);
    for d in [&device, &other] {
        assert_eq!(d.blas().iter().map(|b| b.library().unwrap().version).collect::<Vec<_>>(), ["13.2.5", "13.2.5"]);
    }

    // Page-locked memory, each way, by offset and length. The driver refuses a copy in the wrong direction.
    let (host, a, b) = (device.alloc_host(1000).unwrap(), device.alloc(1000).unwrap(), device.alloc_host(1000).unwrap());
    device.upload(&host, 100, b"page-locked").unwrap();
    device.copy(&host, 100, &a, 500, 11).unwrap();
    device.copy(&a, 505, &b, 7, 6).unwrap();
    device.copy(&b, 7, &host, 0, 6).unwrap();
    let mut back = [0; 6];
    device.download(&host, 0, &mut back).unwrap();
    assert_eq!(&back, b"locked");
    let invalid =
        |outcome: crate::Result<()>, what: &str| assert!(matches!(outcome, Err(DeviceError::Invalid(_))), "{what}: {outcome:?}");
    invalid(device.copy(&host, 995, &a, 0, 6), "past the end of host memory");
    invalid(other.upload(&a, 0, &[0]), "another device's buffer");

    // Host memory of other kinds: copies may be given it, a kernel only what is page-locked.
    let pageable = device.alloc_host_as(1000, HostMemory { pageable: true, node: None }).unwrap();
    device.upload(&pageable, 3, b"pageable").unwrap();
    device.copy(&pageable, 3, &a, 40, 8).unwrap();
    let mut back = [0; 8];
    device.download(&a, 40, &mut back).unwrap();
    assert_eq!(&back, b"pageable");
    match device.alloc_host_as(1000, HostMemory { pageable: false, node: Some(crate::nodes()[0]) }) {
        Ok(near) => device.copy(&a, 0, &near, 0, 1000).unwrap(),
        Err(error) => assert!(error.to_string().contains("mbind"), "{error}"),
    }
    let none = device.alloc_host_as(1000, HostMemory { pageable: false, node: Some(1000) });
    assert!(matches!(&none, Err(DeviceError::Unsupported(s)) if s.contains("no memory on NUMA node 1000")), "{none:?}");

    // Copies at once: both ways over the host's link, and to and from the other device, which `copy` alone refuses.
    assert_eq!((device.siblings(), device.info().facts["peer access"].as_str()), (2, "cuda:1"));
    for index in [0, 2] {
        assert!(matches!(device.sibling(index), Err(DeviceError::Unsupported(_))), "{index}");
    }
    let peer = device.sibling(1).unwrap();
    assert!(peer.direct && peer.device.info().id == "cuda:1");
    let far = peer.device.alloc(1000).unwrap();
    peer.device.upload(&far, 0, b"far").unwrap();
    device.upload(&a, 0, b"near").unwrap();
    invalid(device.copy(&a, 0, &far, 0, 4), "another device's buffer");
    let part = |src, src_offset, dst, dst_offset, len| Transfer { src, src_offset, dst, dst_offset, len };
    let copies = [part(&a, 0, &far, 100, 4), part(&far, 0, &a, 200, 3), part(&pageable, 3, &a, 300, 8), part(&a, 0, &b, 0, 4)];
    device.copy_at_once(&copies).unwrap();
    let read = |device: &dyn Device, buffer, at, len| {
        let mut bytes = vec![0; len];
        device.download(buffer, at, &mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    };
    let (near, device) = (peer.device.as_ref(), device.as_ref());
    let got = [read(near, &far, 100, 4), read(device, &a, 200, 3), read(device, &a, 300, 8), read(device, &b, 0, 4)];
    assert_eq!(got, ["near", "far", "pageable", "near"]);
    invalid(device.copy_at_once(&[part(&far, 999, &a, 0, 2)]), "past the end of a sibling's memory");
    assert!(device.sibling(1).unwrap().direct, "access that is there already");

    // Memory dropped in a hold or a capture is freed after it: this driver ends the process otherwise.
    let hold = device.hold().unwrap().unwrap();
    drop((device.alloc(64).unwrap(), host));
    drop(hold);
    let graph = device.capture(&mut || {
        let temporary = device.alloc(64)?;
        device.copy(&temporary, 0, &a, 0, 64)
    });
    drop(graph.unwrap());
    device.synchronize().unwrap();

    // Kernels: another device's, wrong shapes, wrong arguments.
    let kernel = device.compile(&Program { name: "common/arguments", ..Program::default() }, "rp_arguments").unwrap();
    let one = Geometry::linear(1, 1);
    let args = [Arg::Buffer(&a, 0), Arg::U32(1), Arg::I32(2), Arg::U64(3), Arg::F32(4.0)];
    device.launch(&kernel, one, &args).unwrap();
    invalid(other.launch(&kernel, one, &args), "another device's kernel");
    for geometry in [
        Geometry::linear(0, 1),
        Geometry::linear(1, 1025),
        Geometry { block: [u32::MAX; 3], ..one },
        Geometry { grid: [1, 70_000, 1], ..one },
        one.with_shared(u32::MAX),
        Geometry::linear(3, 1).with_cluster(2),
    ] {
        invalid(device.launch(&kernel, geometry, &args), &format!("{geometry:?}"));
    }
    invalid(device.launch(&kernel, one, &[Arg::Bytes(&[0; 129])]), "a value of 129 bytes");
    let unseen = [Arg::Buffer(&pageable, 0), args[1], args[2], args[3], args[4]];
    invalid(device.launch(&kernel, one, &unseen), "pageable memory");
    device.fill(&a, 0xff).unwrap();
    match device.launch(&kernel, one, &args[..2]) {
        Ok(()) => {
            let mut out = [1; 32];
            device.download(&a, 0, &mut out).unwrap();
            assert_eq!((out[0], &out[1..]), (1, &[0; 31][..]), "arguments that are not there are zeros");
        }
        Err(error) => {
            assert!(error.to_string().contains("takes 5 arguments of [8, 4, 4, 8, 4] bytes and was given 2"), "{error}");
            invalid(device.launch(&kernel, one, &[args[0], args[1], args[2], args[4], args[3]]), "in another order");
            println!("arguments are counted");
        }
    }

    let broken = device.compile(&Program { name: "mine", cpp: Some("seeded mistake"), ..Program::default() }, "rp_scale");
    assert!(matches!(&broken, Err(DeviceError::Compile { log, .. }) if log.contains("line 1: mistake")), "{broken:?}");
    let absent = device.compile(&Program { name: "mine", cpp: Some("fine"), ..Program::default() }, "rp_absent");
    assert!(matches!(absent, Err(DeviceError::Unsupported(_))), "{absent:?}");
}

/// The stub of hipBLASLt under cublasLt's names.
fn blas() -> String {
    format!("#define CUBLAS 1\n{}", include_str!("../hip/stubs/blas.c").replace("hipblasLt", "cublasLt"))
}

#[test]
fn cublaslt_is_told_every_type_scale_and_batch() {
    for (name, chip) in [("hopper", "-DCAPABILITY=9"), ("blackwell", "-DCAPABILITY=10")] {
        let Some(machine) = whole(name, &[chip], &[]) else { return };
        let Some(machine) = machine.with("libcublasLt.so.13", &blas(), &[]) else { return };
        let log = machine.dir.join("log");
        let text = machine.run_with("cuda::tests::child_describes_products", &[("RP_STUB_LOG", log.to_str().unwrap())]);
        assert!(text.contains("1 passed"), "{text}");
    }
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
    let device = (PROBE.open)(0).unwrap();
    let [plain, fast] = [0, 1].map(|i| device.blas()[i]);
    let hopper = device.info().arch == "sm_90a";
    // C (4×8) = A (4×256) · B (8×256, transposed): column-major, the library's first operand is our B.
    let of = |dtype, output, scaling| GemmProblem { scaling, ..GemmProblem::new(4, 8, 256, dtype, output) };
    let with_b = |dtype, problem| GemmProblem { b: Matrix { dtype, stored: Transpose::Yes }, ..problem };
    let (f32, bf16, e4m3, e5m2) = (Dtype::F32, Dtype::Bf16, Dtype::E4m3, Dtype::E5m2);
    let cases = [
        (of(f32, f32, Scaling::None), true, (68, 0, 0, 0, 0, "")),
        (of(Dtype::Tf32, f32, Scaling::None), true, (77, 0, 0, 0, 0, "")),
        (of(Dtype::F16, Dtype::F16, Scaling::None), true, (68, 0, 2, 2, 2, "")),
        (of(Dtype::F16, f32, Scaling::None), true, (68, 0, 2, 2, 0, "")),
        (of(bf16, bf16, Scaling::None), true, (68, 0, 14, 14, 14, "")),
        (of(bf16, f32, Scaling::None), true, (68, 0, 14, 14, 0, "")),
        (of(Dtype::I8, Dtype::I32, Scaling::None), true, (72, 10, 3, 3, 10, "")),
        (of(e4m3, bf16, Scaling::Tensor), true, (68, 0, 28, 28, 14, "")),
        (of(e4m3, Dtype::F16, Scaling::Tensor), true, (68, 0, 28, 28, 2, "")),
        (with_b(e5m2, of(e4m3, bf16, Scaling::Tensor)), true, (68, 0, 29, 28, 14, "")),
        (with_b(e4m3, of(e5m2, bf16, Scaling::Tensor)), true, (68, 0, 28, 29, 14, "")),
        (of(e4m3, bf16, Scaling::Row), true, (68, 0, 28, 28, 14, " 31=3 32=3")),
        // A's scales are of 1×128, B's of 128×128; B is the library's first.
        (of(e4m3, bf16, Scaling::Block128), true, (68, 0, 28, 28, 14, " 31=5 32=4")),
        (of(Dtype::Mxfp8, bf16, Scaling::Mx), !hopper, (68, 0, 28, 28, 14, " 31=2 32=2")),
        (of(Dtype::Nvfp4, f32, Scaling::Nvfp4), !hopper, (68, 0, 33, 33, 0, " 31=1 32=1")),
    ];
    for (problem, has, (compute, scale, b, a, c, modes)) in cases {
        let plan = plain.plan(&problem);
        let scales = if problem.scaling == Scaling::None { "" } else { " 17=@ 18=@" };
        if !has {
            let reason = plan.map(|_| ()).unwrap_err().to_string();
            assert!(reason.contains("sm_90a has no block scales"), "{problem:?}: {reason}");
            continue;
        }
        let expected = format!(
            "compute {compute} scale {scale} 3=1 4=0{modes} [{b} 256x8 ld 256] [{a} 256x4 ld 256] [{c} 8x4 ld 8]{scales} workspace 1=67108864\n"
        );
        assert_eq!(without_addresses(&told()), expected, "{problem:?}");
        assert_eq!(plan.unwrap().candidates(), 2);
    }
    // Fast accumulation is one attribute more, of FP8 alone; batches are of the matrices.
    fast.plan(&of(e4m3, bf16, Scaling::Tensor)).unwrap();
    assert!(told().starts_with("compute 68 scale 0 3=1 4=0 25=1 ["));
    assert!(fast.plan(&of(bf16, bf16, Scaling::None)).is_err());
    plain.plan(&GemmProblem { batch: 9, ..of(bf16, bf16, Scaling::None) }).unwrap();
    assert!(
        told()
            .contains(" [14 256x8 ld 256] (5=9) (6=2048) [14 256x4 ld 256] (5=9) (6=1024) [14 8x4 ld 8] (5=9) (6=32) workspace")
    );

    for (problem, reason) in [
        (of(e5m2, bf16, Scaling::Tensor), "cublasLt multiplies e5m2 with e4m3 alone"),
        (of(Dtype::F64, Dtype::F64, Scaling::None), "cublasLt 13.2.5 has no GEMM of f64 to f64, 4×8×256 here"),
        (of(Dtype::Mxfp4, bf16, Scaling::Mx), if hopper { "no block scales" } else { "nvfp4" }),
    ] {
        let outcome = plain.plan(&problem).map(|_| ());
        assert!(outcome.as_ref().is_err_and(|e| e.to_string().contains(reason)), "{problem:?}: {outcome:?}");
    }
    told();

    // Run: scales where they lie, those of tensors either there or, NVFP4's, as alpha.
    let [a, b, c, scale_a, scale_b] = [1024, 2048, 4 * 32, 4096, 4096].map(|n| device.alloc(n).unwrap());
    let scales = GemmOperands { scale_a: Some(&scale_a), scale_b: Some(&scale_b), factor: 3.0, ..GemmOperands::new(&a, &b, &c) };
    let addresses = format!(" 17=@{:x} 18=@{:x}", scale_b.address(), scale_a.address());
    let run = |problem: &GemmProblem, alpha: &str| {
        let plan = plain.plan(problem).unwrap();
        told();
        plan.enqueue(&scales).unwrap();
        assert_eq!(told(), format!("{addresses}solution 77 alpha {alpha} beta 00000000 workspace 67108864\n"), "{problem:?}");
        assert!(matches!(plan.enqueue(&GemmOperands::new(&a, &b, &c)), Err(DeviceError::Invalid(_))), "scales are missing");
        told();
    };
    run(&of(e4m3, bf16, Scaling::Tensor), "3f800000");
    run(&of(e4m3, bf16, Scaling::Row), "3f800000");
    if !hopper {
        run(&of(Dtype::Nvfp4, f32, Scaling::Nvfp4), "40400000");
    }
    assert_eq!(
        plain.plan(&of(e4m3, bf16, Scaling::Block128)).unwrap().scale_orders(),
        [ScaleOrder::Blocks, ScaleOrder::LinesBy4]
    );
    told();
}
