//! NVIDIA GPUs through the driver API. Every library is found and loaded at run time by our own tables (see dl.rs), so that
//! one that is absent, older or newer is a sentence and never a panic; cudarc's bindings are the oracle of their tests.

mod blas;
mod cublaslt;
mod device;
mod driver;
mod driver_sys;
mod nvml;
mod nvrtc;
mod stream;
mod tiled;

use crate::DeviceError;
use crate::dl::Opened;
use crate::finder::{self, Places, Search, Wanted, find};
use crate::probe::{Discovery, Finding, Found, Probe};
use driver::{Driver, Failure};
use ridgepoint_core::Backend;
use std::sync::{Arc, OnceLock};

/// The CUDA backend.
pub(crate) const PROBE: Probe =
    Probe { backend: Backend::Cuda, discover, open: |index| Ok(Box::new(device::CudaDevice::open(index)?)), doctor };

/// Everything that was found, once a process.
struct Libraries {
    driver: std::result::Result<Arc<Driver>, String>,
    nvml: Option<Arc<nvml::Nvml>>,
    nvrtc: std::result::Result<nvrtc::Nvrtc, String>,
    cublaslt: std::sync::Mutex<std::result::Result<cublaslt::CublasLt, String>>,
    findings: Vec<Finding>,
}

fn libraries() -> &'static Libraries {
    static FOUND: OnceLock<Libraries> = OnceLock::new();
    FOUND.get_or_init(load)
}

fn load() -> Libraries {
    let places = Places::of_this_machine();
    let any = |_: &Opened| Ok(());
    let mut findings = Vec::new();
    let mut note = |search: &Search, wanted: &Wanted, version: Option<String>| {
        findings.push(Finding {
            what: wanted.stem.into(),
            ok: search.found.is_some(),
            detail: match (&search.found, version) {
                (Some(opened), Some(version)) => format!("{version} from {}", opened.path.display()),
                _ => search
                    .sentence(wanted)
                    .split(". To get it")
                    .next()
                    .unwrap_or_default()
                    .trim_start_matches(wanted.stem)
                    .trim_start_matches(": ")
                    .into(),
            },
            remedy: search.found.is_none().then(|| wanted.get.into()),
        });
    };
    let cuda = find(&finder::CUDA, &places, &any);
    note(&cuda, &finder::CUDA, None);
    let absent = cuda.sentence(&finder::CUDA);
    let driver = match cuda.found.map(|opened| Driver::start(driver_sys::Cuda::bind(opened))) {
        Some(Ok(driver)) => Ok(Arc::new(driver)),
        Some(Err(error)) => Err(error.to_string()),
        None => Err(absent),
    };
    let major = driver.as_ref().ok().map(|d| d.version / 1000);
    // A library of a newer major than the driver's would start and then fail at its first launch.
    let fits = |version: fn(&Opened) -> Option<i32>| {
        move |opened: &Opened| match (version(opened), major) {
            (Some(library), Some(driver)) if library > driver => {
                Err(format!("it is for CUDA {library} and the driver is for CUDA {driver}"))
            }
            _ => Ok(()),
        }
    };
    let nvml = find(&finder::NVML, &places, &any);
    note(&nvml, &finder::NVML, None);
    let nvrtc = find(&finder::NVRTC, &places, &fits(nvrtc_major));
    note(&nvrtc, &finder::NVRTC, nvrtc.found.as_ref().and_then(nvrtc_major).map(|m| format!("CUDA {m}")));
    let cublaslt = find(&finder::CUBLASLT, &places, &fits(cublaslt_major));
    note(&cublaslt, &finder::CUBLASLT, size_version(cublaslt.found.as_ref(), "cublasLtGetVersion").map(|v| v.to_string()));
    let cudnn = find(&finder::CUDNN, &places, &any);
    note(&cudnn, &finder::CUDNN, size_version(cudnn.found.as_ref(), "cudnnGetVersion").map(|v| v.to_string()));
    let nccl = find(&finder::NCCL, &places, &any);
    note(&nccl, &finder::NCCL, int_version(nccl.found.as_ref(), "ncclGetVersion").map(|v| v.to_string()));
    let missing = |search: &Search, wanted: &Wanted| search.sentence(wanted);
    let (no_nvrtc, no_cublaslt) = (missing(&nvrtc, &finder::NVRTC), missing(&cublaslt, &finder::CUBLASLT));
    Libraries {
        driver,
        nvml: nvml.found.map(|o| Arc::new(nvml::Nvml::bind(o))),
        nvrtc: nvrtc.found.map(nvrtc::Nvrtc::bind).ok_or(no_nvrtc),
        cublaslt: std::sync::Mutex::new(cublaslt.found.map(cublaslt::CublasLt::bind).ok_or(no_cublaslt)),
        findings,
    }
}

fn discover() -> Discovery {
    let absent = |reason: String| Discovery { devices: vec![], absent: Some(reason) };
    let driver = match &libraries().driver {
        Ok(driver) => driver,
        Err(reason) => return absent(reason.clone()),
    };
    let count = match driver.count() {
        Ok(0) => return absent("the driver reports no device; is CUDA_VISIBLE_DEVICES set to nothing?".into()),
        Ok(count) => count,
        Err(error) => return absent(error.to_string()),
    };
    let devices = (0..count).map(|ordinal| match driver.facts(ordinal) {
        Ok(f) => Found {
            id: format!("cuda:{ordinal}"),
            name: f.name.clone(),
            detail: format!("{} SMs, {}, {:.0} GB, PCI {}", f.sms, f.arch(), f.memory_bytes as f64 / 1e9, f.pci),
        },
        Err(error) => Found { id: format!("cuda:{ordinal}"), name: "unknown".into(), detail: error.to_string() },
    });
    Discovery { devices: devices.collect(), absent: None }
}

fn doctor() -> Vec<Finding> {
    libraries().findings.clone()
}

impl From<Failure> for DeviceError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Invalid(message) => Self::Invalid(message),
            Failure::Module { log, error } => Self::Unsupported(format!("the driver does not load the code: {error}: {log}")),
            Failure::Call(error) => error.into(),
        }
    }
}

impl From<crate::dl::CallError> for DeviceError {
    fn from(error: crate::dl::CallError) -> Self {
        /// Errors after which a context is of no more use (cuda.h): illegal address, launch time-out, launch failure, unknown.
        const STICKY: [i32; 6] = [214, 700, 702, 715, 719, 999];
        match error.status() {
            Some(code) if STICKY.contains(&code) => Self::Lost(error.to_string()),
            Some(2) => Self::OutOfMemory { requested: ridgepoint_core::Bytes(0), free: None },
            Some(code) => Self::Call { call: error.call, code: i64::from(code), message: error.to_string() },
            None => Self::Unsupported(error.to_string()),
        }
    }
}

fn nvrtc_major(o: &Opened) -> Option<i32> {
    type F = unsafe extern "C" fn(*mut i32, *mut i32) -> i32;
    let p = o.address(&["nvrtcVersion"])?;
    let (mut a, mut b) = (0, 0);
    // SAFETY: that function has this type in every version; it writes two ints.
    let status = unsafe { std::mem::transmute::<*mut std::ffi::c_void, F>(p)(&mut a, &mut b) };
    (status == 0).then_some(a)
}

fn cublaslt_major(o: &Opened) -> Option<i32> {
    size_version(Some(o), "cublasLtGetVersion").and_then(|v| i32::try_from(v / 10000).ok())
}

fn size_version(o: Option<&Opened>, symbol: &str) -> Option<usize> {
    let p = o?.address(&[symbol])?;
    // SAFETY: a function of no arguments that returns a size.
    Some(unsafe { std::mem::transmute::<*mut std::ffi::c_void, unsafe extern "C" fn() -> usize>(p)() })
}

fn int_version(o: Option<&Opened>, symbol: &str) -> Option<i32> {
    let p = o?.address(&[symbol])?;
    let mut v = 0;
    // SAFETY: writes one int.
    let status = unsafe { std::mem::transmute::<*mut std::ffi::c_void, unsafe extern "C" fn(*mut i32) -> i32>(p)(&mut v) };
    (status == 0).then_some(v)
}
