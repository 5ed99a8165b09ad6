//! Our hand-written tables against AMD's own declarations, as PyPI's `rocm-bindings-*` carry them: every function's signature,
//! every number, and the two layouts. A test fails if one drifts.

use super::hipdnn::tests::{ATTRIBUTES, OTHERS, RANGES};
use super::{hipblaslt, vendor};
use crate::Scaling;
use crate::gpu::dnn;
use crate::gpu::matmul::{Lt, Type};
use crate::gpu::rtc::{INVALID_OPTION, Rtc};
use crate::gpu::sys::{self, Api, function, jit, status};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A Python that has the bindings, and their folder.
fn bindings() -> Option<(PathBuf, PathBuf)> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/python/bin/python3");
    let candidates = std::env::var_os("RIDGEPOINT_PYTHON").map(PathBuf::from).into_iter().chain([own, "python3".into()]);
    let script = "import rocm.bindings.hipblaslt as m; print(m.__file__)";
    for python in candidates {
        if let Ok(output) = Command::new(&python).args(["-c", script]).output()
            && output.status.success()
        {
            let file = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
            return Some((python, file.parent().unwrap().to_owned()));
        }
    }
    println!("SKIP: rocm bindings: no python3 here has them (scripts/test installs them)");
    None
}

/// What a value is to the calling convention. What a pointer to memory of no known type points to is not compared.
#[derive(Clone, Debug, PartialEq)]
enum Class {
    Integer(u8),
    Float,
    Pointer(Box<Class>),
    Unknown,
}

impl Class {
    fn pointer(self) -> Self {
        Self::Pointer(Box::new(self))
    }

    fn agrees(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Pointer(a), Self::Pointer(b)) => **a == Self::Unknown || **b == Self::Unknown || a.agrees(b),
            (a, b) => a == b,
        }
    }

    /// Of a Rust type as a table spells it.
    fn of_rust(text: &str) -> Self {
        let text = text.trim();
        if let Some(inner) = text.strip_prefix("*mut ").or_else(|| text.strip_prefix("*const ")) {
            return Self::of_rust(inner).pointer();
        }
        match text {
            "c_int" | "i32" | "u32" | "Device" => Self::Integer(4),
            "usize" | "u64" | "i64" => Self::Integer(8),
            "u8" | "c_char" => Self::Integer(1),
            "f32" => Self::Float,
            "Ptr" | "Handle" => Self::Unknown.pointer(),
            _ => Self::Unknown,
        }
    }
}

/// The declarations of one library and of those it builds on.
#[derive(Default)]
struct Declarations {
    /// Name, result and arguments.
    functions: HashMap<String, (Class, Vec<Class>)>,
    types: HashMap<String, Class>,
}

impl Declarations {
    fn read(folder: &Path, modules: &[&str]) -> Self {
        let mut all = Self::default();
        let texts: Vec<_> = modules.iter().map(|m| std::fs::read_to_string(folder.join(format!("cy{m}.pxd"))).unwrap()).collect();
        let lines = || texts.iter().flat_map(|text| text.lines()).map(str::trim);
        for line in lines() {
            let words: Vec<&str> = line.trim_end_matches(':').split_whitespace().collect();
            match words[..] {
                ["cdef" | "ctypedef", "enum", name] => drop(all.types.insert(name.into(), Class::Integer(4))),
                ["ctypedef", "struct", name] => drop(all.types.insert(name.into(), Class::Unknown)),
                ["ctypedef", .., "*", name] => drop(all.types.insert(name.into(), Class::Unknown.pointer())),
                ["ctypedef", of, name] => {
                    let class = all.class(of);
                    all.types.insert(name.into(), class);
                }
                _ => {}
            }
        }
        for line in lines().filter(|line| line.starts_with("cdef ")) {
            let (Some(open), Some(close)) = (line.find('('), line.rfind(')')) else { continue };
            let (result, name) = all.value(&line["cdef ".len()..open]);
            let arguments = line[open + 1..close].split(',').filter(|a| !a.is_empty()).map(|a| all.value(a).0).collect();
            all.functions.insert(name, (result, arguments));
        }
        all
    }

    /// Class and name of `const void * image`.
    fn value(&self, text: &str) -> (Class, String) {
        let spaced = text.replace('*', " * ");
        let words: Vec<&str> = spaced.split_whitespace().filter(|w| *w != "const").collect();
        let Some((name, of)) = words.split_last() else { return (Class::Unknown, String::new()) };
        let stars = of.iter().filter(|w| **w == "*").count();
        let base = of.iter().filter(|w| **w != "*").copied().collect::<Vec<_>>().join(" ");
        ((0..stars).fold(self.class(&base), |class, _| class.pointer()), (*name).to_owned())
    }

    fn class(&self, name: &str) -> Class {
        match name {
            "int" | "unsigned int" | "int32_t" | "uint32_t" => Class::Integer(4),
            "size_t" | "int64_t" | "uint64_t" | "unsigned long long" => Class::Integer(8),
            "char" | "unsigned char" => Class::Integer(1),
            "float" => Class::Float,
            other => self.types.get(other).cloned().unwrap_or(Class::Unknown),
        }
    }
}

/// Compares a table with a library's declarations; gives the number of functions that were.
fn compare(table: Vec<(Vec<&'static str>, Vec<&'static str>, &'static str)>, prefix: &str, library: &Declarations) -> usize {
    let mut compared = 0;
    for (names, arguments, result) in table {
        for name in names.iter().filter(|name| name.starts_with(prefix)) {
            // The header renames one function by a macro, and so do the bindings.
            let declared = name.trim_end_matches("R0600");
            let (of, expected) = library.functions.get(declared).unwrap_or_else(|| panic!("{declared} is not declared"));
            let ours: Vec<_> = arguments.iter().map(|a| Class::of_rust(a)).collect();
            let agree = ours.len() == expected.len() && ours.iter().zip(expected).all(|(a, b)| a.agrees(b));
            assert!(agree, "{name}: ours {arguments:?} {ours:?}, AMD's {expected:?}");
            assert!(Class::of_rust(result).agrees(of), "{name} gives {result}, AMD's {of:?}");
            compared += 1;
        }
    }
    compared
}

#[test]
fn signatures_are_those_that_amd_declares() {
    let Some((_, folder)) = bindings() else { return };
    let hip = Declarations::read(&folder, &["hip"]);
    let compared = compare(Api::declared(), "hip", &hip);
    assert!(compared >= 48, "{compared}");
    let compared = compare(Rtc::declared(), "hiprtc", &Declarations::read(&folder, &["hip", "hiprtc"]));
    assert_eq!(compared, 9);
    let compared = compare(Lt::declared(), "hipblasLt", &Declarations::read(&folder, &["hip", "hipblas", "hipblaslt"]));
    assert_eq!(compared, 14);

    let compared = compare(dnn::Api::declared(), "hipdnn", &Declarations::read(&folder, &["hip", "hipdnn_backend"]));
    assert_eq!(compared, 14);

    // That it can fail: a function with an argument changed, and one with an argument more.
    let wrong = |arguments: Vec<&'static str>| {
        std::panic::catch_unwind(|| compare(vec![(vec!["hipMemGetInfo"], arguments, "i32")], "hip", &hip)).is_err()
    };
    assert!(!wrong(vec!["*mut usize", "*mut usize"]));
    assert!(wrong(vec!["*mut usize", "*mut u32"]) && wrong(vec!["*mut usize", "usize"]) && wrong(vec!["*mut usize"]));
}

#[test]
fn numbers_and_layouts_are_those_that_amd_declares() {
    let Some((python, _)) = bindings() else { return };
    let (a, n) = (&vendor::ATTRIBUTES, &hipblaslt::NUMBERS);
    let device = |name: &str| format!("hip.hipDeviceAttribute_t.hipDeviceAttribute{name}");
    let error = |name: &str| format!("hip.hipError_t.hipError{name}");
    let of = |kind: &str, name: &str| format!("hip.{kind}.{name}");
    let lt = |name: &str| format!("hipblaslt.hipblasLtMatmulDescAttributes_t.HIPBLASLT_MATMUL_DESC_{name}");
    let scale = |name: &str| format!("hipblaslt.hipblasLtMatmulMatrixScale_t.HIPBLASLT_MATMUL_MATRIX_SCALE_{name}");
    let modes = |scaling| hipblaslt::modes(scaling).map_or(-1, |m| m.modes[0]);
    let compute = |name: &str| format!("hipblas.hipblasComputeType_t.HIPBLAS_COMPUTE_{name}");
    let data = |name: &str| format!("hip.hipDataType.HIP_R_{name}");
    let mut table: Vec<(i64, String)> = [
        (a.clock_khz, device("ClockRate")),
        (a.units, device("MultiprocessorCount")),
        (a.memory_clock_khz, device("MemoryClockRate")),
        (a.bus_bits, device("MemoryBusWidth")),
        (a.l2_bytes, device("L2CacheSize")),
        (a.copy_engines, device("AsyncEngineCount")),
        (a.shared_most, device("MaxSharedMemoryPerBlock")),
        (vendor::XCCS, device("NumberOfXccs")),
        (function::MAX_THREADS, of("hipFunction_attribute", "HIP_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK")),
        (function::SHARED_BYTES, of("hipFunction_attribute", "HIP_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES")),
        (function::LOCAL_BYTES, of("hipFunction_attribute", "HIP_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES")),
        (function::REGISTERS, of("hipFunction_attribute", "HIP_FUNC_ATTRIBUTE_NUM_REGS")),
        (jit::ERROR_LOG, of("hipJitOption", "hipJitOptionErrorLogBuffer")),
        (jit::ERROR_LOG_BYTES, of("hipJitOption", "hipJitOptionErrorLogBufferSizeBytes")),
        (sys::CAPTURE_THREAD_LOCAL, of("hipStreamCaptureMode", "hipStreamCaptureModeThreadLocal")),
        (sys::COPY_DEFAULT, of("hipMemcpyKind", "hipMemcpyDefault")),
        (sys::STREAM_NON_BLOCKING, "hip.hipStreamNonBlocking".into()),
        (sys::HOST_COHERENT, "hip.hipHostMallocCoherent".into()),
        (sys::HOST_PORTABLE_MAPPED, "hip.hipHostMallocPortable | hip.hipHostMallocMapped".into()),
    ]
    .map(|(ours, theirs)| (i64::from(ours), theirs))
    .into();
    table.extend(
        [
            (status::INVALID_VALUE, error("InvalidValue")),
            (status::OUT_OF_MEMORY, error("OutOfMemory")),
            (status::INVALID_CONFIGURATION, error("InvalidConfiguration")),
            (status::NO_DEVICE, error("NoDevice")),
            (status::NOT_FOUND, error("NotFound")),
            (status::LOST[0], error("ECCNotCorrectable")),
            (status::LOST[1], error("IllegalAddress")),
            (status::LOST[2], error("LaunchTimeOut")),
            (status::LOST[3], error("Assert")),
            (status::LOST[9], error("LaunchFailure")),
            (status::LOST[10], error("Unknown")),
            (INVALID_OPTION, "hiprtc.hiprtcResult.HIPRTC_ERROR_INVALID_OPTION".into()),
            (n.operation[0], "hipblas.hipblasOperation_t.HIPBLAS_OP_N".into()),
            (n.operation[1], "hipblas.hipblasOperation_t.HIPBLAS_OP_T".into()),
            (n.trans_a, lt("TRANSA")),
            (n.trans_b, lt("TRANSB")),
            (n.a_scale, lt("A_SCALE_POINTER")),
            (n.b_scale, lt("B_SCALE_POINTER")),
            (n.a_scale_mode, lt("A_SCALE_MODE")),
            (n.b_scale_mode, lt("B_SCALE_MODE")),
            (n.batch_count, "hipblaslt.hipblasLtMatrixLayoutAttribute_t.HIPBLASLT_MATRIX_LAYOUT_BATCH_COUNT".into()),
            (n.batch_stride, "hipblaslt.hipblasLtMatrixLayoutAttribute_t.HIPBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET".into()),
            (modes(Scaling::Tensor), scale("SCALAR_32F")),
            (modes(Scaling::Row), scale("OUTER_VEC_32F")),
            (modes(Scaling::Mx), scale("VEC32_UE8M0")),
            (n.compute.f32, compute("32F")),
            (n.compute.f64, compute("64F")),
            (n.compute.i32, compute("32I")),
            (n.compute.tf32, compute("32F_FAST_TF32")),
            (n.not_supported, "hipblas.hipblasStatus_t.HIPBLAS_STATUS_NOT_SUPPORTED".into()),
            (
                n.preference_workspace,
                "hipblaslt.hipblasLtMatmulPreferenceAttributes_t.HIPBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES".into(),
            ),
            (Type::F32 as i32, data("32F")),
            (Type::F64 as i32, data("64F")),
            (Type::F16 as i32, data("16F")),
            (Type::I8 as i32, data("8I")),
            (Type::I32 as i32, data("32I")),
            (Type::Bf16 as i32, data("16BF")),
            (Type::E4m3 as i32, data("8F_E4M3")),
            (Type::E5m2 as i32, data("8F_E5M2")),
            (Type::E2m1 as i32, data("4F_E2M1")),
            (Type::E4m3fnuz as i32, data("8F_E4M3_FNUZ")),
            (Type::E5m2fnuz as i32, data("8F_E5M2_FNUZ")),
        ]
        .map(|(ours, theirs)| (i64::from(ours), theirs)),
    );
    // A value is put where we look for it, and read through AMD's own accessor.
    table.extend([
        (vendor::PROPERTIES_BYTES as i64, "p.c_sizeof()".into()),
        (1, format!("at(p, {}, b'gfx942') or p.gcnArchName.startswith('gfx942')", vendor::TARGET_AT)),
        (n.result_bytes as i64, "r.c_sizeof()".into()),
        (77, format!("at(r, {}, b'\\x4d') or r.workspaceSize", n.workspace_at)),
        (7, format!("at(r, {}, b'\\x07') or r.state", n.state_at)),
    ]);
    let script = "import ctypes, sys
from rocm.bindings import hip, hiprtc, hipblas, hipblaslt
p, r = hip.hipDeviceProp_t(), hipblaslt._hipblasLtMatmulHeuristicResult_t()
def at(struct, offset, what):
    ctypes.memset(int(struct), 0, struct.c_sizeof())
    ctypes.memmove(int(struct) + offset, what, len(what))
for theirs in sys.argv[1:]:
    try: print(int(eval(theirs)))
    except Exception as error: print(error)";
    let output = Command::new(python).args(["-c", script]).args(table.iter().map(|(_, theirs)| theirs)).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    let theirs: Vec<&str> = text.lines().collect();
    assert_eq!(theirs.len(), table.len(), "{text}");
    for ((ours, name), theirs) in table.iter().zip(theirs) {
        assert_eq!(theirs, ours.to_string(), "{name}");
    }
}

/// AMD's listing of hipDNN has the enumerators without their numbers: these follow from their order, and from where a range of
/// attributes begins, which the listing's first words say.
#[test]
fn numbers_of_hipdnn_are_those_that_amd_lists() {
    let Some((_, folder)) = bindings() else { return };
    let listing = std::fs::read_to_string(folder.join("hipdnn_backend.pyi")).unwrap();
    let enumerators: Vec<&str> =
        listing.lines().filter_map(|line| line.trim().strip_prefix("HIPDNN_")?.strip_suffix(": int")).collect();
    let place = |name: &str| enumerators.iter().position(|n| *n == name).unwrap_or_else(|| panic!("HIPDNN_{name}")) as i32;
    let begin = |first: &str| {
        let (what, _) = RANGES.iter().find(|(_, name)| *name == first).unwrap();
        let line = listing.lines().find_map(|line| line.trim().strip_prefix("- ")?.strip_suffix(&format!(": {what}")));
        line.and_then(|range| range.split('-').next()?.parse::<i32>().ok()).unwrap_or_else(|| panic!("{what}"))
    };
    for (ours, name, first) in ATTRIBUTES {
        assert_eq!(*ours, begin(first) + place(name) - place(first), "HIPDNN_{name}");
    }
    for (ours, name, first) in OTHERS {
        assert_eq!(*ours, place(name) - place(first), "HIPDNN_{name}");
    }
}
