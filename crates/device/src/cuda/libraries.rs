//! What was found of NVIDIA's libraries on this machine, searched for once a process, and what `doctor` says of it.

use super::cudnn;
use super::vendor::Cuda;
use super::{cublaslt, nvml};
use crate::dl::Opened;
use crate::finder::{Layout, Places, Wanted, find, matching};
use crate::gpu;
use crate::gpu::dnn::Dnn;
use crate::gpu::driver::Driver;
use crate::gpu::matmul::Lt;
use crate::gpu::nccl::Nccl;
use crate::gpu::rtc::Rtc;
use crate::gpu::sys::status;
use crate::probe::Finding;
use std::ffi::c_void;
use std::sync::{Arc, OnceLock};

/// Where NVIDIA's libraries are kept.
pub(crate) const LAYOUT: Layout = Layout {
    variable: "RIDGEPOINT_CUDA_PATH",
    homes: &["CUDA_HOME", "CUDA_PATH"],
    parts: &["lib64", "lib", "targets/x86_64-linux/lib"],
    toolkit: "usr/local/cuda",
    versions: ("usr/local", "cuda-"),
    system: &[
        "usr/local/nvidia/lib64",
        "usr/local/nvidia/lib",
        "usr/lib/wsl/lib",
        "run/opengl-driver/lib",
        "opt/nvidia/lib64",
        "home/kubernetes/bin/nvidia/lib64",
    ],
    site: |site| matching(&site.join("nvidia"), "").into_iter().map(|part| part.join("lib")).collect(),
};

pub(crate) const CUDA: Wanted = Wanted {
    stem: "libcuda.so",
    sonames: &["libcuda.so.1"],
    proof: "cuInit",
    siblings: &[],
    of_driver: true,
    get: &[(0, "install the NVIDIA driver (525 or newer), or start the container with the GPU runtime (--gpus all)")],
};
pub(crate) const NVML: Wanted = Wanted {
    stem: "libnvidia-ml.so",
    sonames: &["libnvidia-ml.so.1"],
    proof: "nvmlInit_v2",
    siblings: &[],
    of_driver: true,
    get: &[(0, "comes with the NVIDIA driver; in a container set NVIDIA_DRIVER_CAPABILITIES=compute,utility")],
};
pub(crate) const NVRTC: Wanted = Wanted {
    stem: "libnvrtc.so",
    sonames: &["libnvrtc.so.13", "libnvrtc.so.12"],
    proof: "nvrtcVersion",
    siblings: &["libnvrtc-builtins.so"],
    of_driver: false,
    get: &[(0, "pip install nvidia-cuda-nvrtc-cu12"), (13, "pip install 'nvidia-cuda-nvrtc==13.*'")],
};
pub(crate) const CUBLASLT: Wanted = Wanted {
    stem: "libcublasLt.so",
    sonames: &["libcublasLt.so.13", "libcublasLt.so.12"],
    proof: "cublasLtCreate",
    siblings: &[],
    of_driver: false,
    get: &[(0, "pip install nvidia-cublas-cu12"), (13, "pip install 'nvidia-cublas==13.*'")],
};
pub(crate) const CUDNN: Wanted = Wanted {
    stem: "libcudnn.so",
    sonames: &["libcudnn.so.9"],
    proof: "cudnnGetVersion",
    siblings: &[],
    of_driver: false,
    get: &[(0, "pip install nvidia-cudnn-cu12"), (13, "pip install nvidia-cudnn-cu13")],
};
pub(crate) const NCCL: Wanted = Wanted {
    stem: "libnccl.so",
    sonames: &["libnccl.so.2"],
    proof: "ncclGetVersion",
    siblings: &[],
    of_driver: false,
    get: &[(0, "pip install nvidia-nccl-cu12"), (13, "pip install nvidia-nccl-cu13")],
};

/// Each library, or the sentence that says why it is not there.
pub(super) struct Libraries {
    pub(super) driver: Result<Arc<Driver>, String>,
    pub(super) nvml: Option<Arc<nvml::Nvml>>,
    pub(super) nvrtc: Result<Rtc, String>,
    pub(super) cublaslt: Result<Arc<Lt>, String>,
    pub(super) cudnn: Result<Arc<Dnn>, String>,
    pub(super) nccl: Result<Arc<Nccl>, String>,
    pub(super) findings: Vec<Finding>,
}

pub(super) fn libraries() -> &'static Libraries {
    static FOUND: OnceLock<Libraries> = OnceLock::new();
    FOUND.get_or_init(|| load(&Places::of_this_machine(&LAYOUT)))
}

fn load(places: &Places) -> Libraries {
    let (driver, driver_finding) = gpu::start(&Cuda, &CUDA, find(&CUDA, places, &refuse_stub));
    let major = driver.as_ref().ok().map(|d| d.version / 1000);
    let mut findings = vec![driver_finding];
    let mut look = |wanted: &Wanted, cuda: Option<fn(&Opened) -> Option<i32>>, version: &dyn Fn(&Opened) -> Option<String>| {
        let built_for = |opened: &Opened| Some((cuda?(opened)?, major?));
        // A library of a newer major than the driver's would start and then fail at its first launch.
        let fits = |opened: &Opened| match built_for(opened) {
            Some((library, driver)) if library > driver => {
                Err(format!("it is for CUDA {library} and the driver is for CUDA {driver}"))
            }
            _ => Ok(()),
        };
        let search = find(wanted, places, &fits);
        let mut finding = search.finding(wanted, major, search.found.as_ref().and_then(version));
        if let Some((library, driver)) = search.found.as_ref().and_then(built_for) {
            finding.detail += &format!("; for CUDA {library}, fits the driver's {driver}");
        }
        findings.push(finding);
        let sentence = search.sentence(wanted, major);
        search.found.ok_or(sentence)
    };
    let nvml = look(&NVML, None, &|_| None);
    let nvrtc =
        look(&NVRTC, Some(|o| Some(nvrtc_version(o)?.0)), &|o| nvrtc_version(o).map(|(major, minor)| format!("{major}.{minor}")));
    let cublaslt = look(&CUBLASLT, Some(|o| i32::try_from(size_version(o, "cublasLtGetVersion")? / 10000).ok()), &|o| {
        size_version(o, "cublasLtGetVersion").map(dotted)
    });
    let cudnn = look(&CUDNN, Some(|o| i32::try_from(size_version(o, "cudnnGetCudartVersion")? / 1000).ok()), &|o| {
        size_version(o, "cudnnGetVersion").map(dotted)
    });
    // NCCL does not say for which CUDA it is.
    let nccl = look(&NCCL, None, &|o| int_version(o, "ncclGetVersion").map(dotted));
    let nvml = nvml.ok().map(|o| Arc::new(nvml::Nvml::bind(o)));
    if let Some((_, version)) = nvml.as_ref().and_then(|n| n.versions().ok()) {
        findings[1].detail = format!("{version} from {}", findings[1].detail);
    }
    if let Some(lacks) = cudnn.as_ref().ok().and_then(|o| cudnn::lacks(size_version(o, "cudnnGetVersion")?)) {
        findings[4].detail += &format!("; {lacks}");
    }
    if nvrtc.is_err() {
        findings[2].detail += "; kernels that were built ahead serve until then";
    }
    Libraries {
        driver,
        nvml,
        nvrtc: nvrtc.map(|o| Rtc::bind_prefixed(o, "nvrtc")),
        cublaslt: cublaslt.map(|o| Arc::new(Lt::bind_prefixed(o, cublaslt::NUMBERS.prefix))),
        cudnn: cudnn.map(|o| Arc::new(Dnn::bind(o, &cudnn::NUMBERS))),
        nccl: nccl.map(|o| Arc::new(Nccl::bind(o))),
        findings,
    }
}

/// The toolkit's own libcuda is there to be linked with; every call of it fails.
fn refuse_stub(opened: &Opened) -> Result<(), String> {
    let Some(init) = opened.address(&["cuInit"]) else { return Ok(()) };
    // SAFETY: the type of that function in every version; it takes no pointers and may be called any number of times.
    let status = unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn(u32) -> i32>(init)(0) };
    match status {
        status::STUB_LIBRARY => Err("it is the toolkit's stub and no driver".into()),
        _ => Ok(()),
    }
}

/// `130100` is 13.1.0; cublasLt, cuDNN 9 and NCCL all count so.
fn dotted(version: usize) -> String {
    format!("{}.{}.{}", version / 10000, version / 100 % 100, version % 100)
}

fn nvrtc_version(o: &Opened) -> Option<(i32, i32)> {
    type F = unsafe extern "C" fn(*mut i32, *mut i32) -> i32;
    let p = o.address(&["nvrtcVersion"])?;
    let (mut major, mut minor) = (0, 0);
    // SAFETY: that function has this type in every version; it writes two ints.
    let status = unsafe { std::mem::transmute::<*mut c_void, F>(p)(&mut major, &mut minor) };
    (status == 0).then_some((major, minor))
}

fn size_version(o: &Opened, symbol: &str) -> Option<usize> {
    let p = o.address(&[symbol])?;
    // SAFETY: a function of no arguments that returns a size.
    Some(unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> usize>(p)() })
}

fn int_version(o: &Opened, symbol: &str) -> Option<usize> {
    let p = o.address(&[symbol])?;
    let mut v = 0;
    // SAFETY: writes one int.
    let status = unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut i32) -> i32>(p)(&mut v) };
    (status == 0).then_some(usize::try_from(v).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_is_for_the_driver_at_hand() {
        for (driver, command) in
            [(Some(12), "nvidia-cublas-cu12"), (Some(13), "'nvidia-cublas==13.*'"), (None, "'nvidia-cublas==13.*'")]
        {
            assert_eq!(CUBLASLT.remedy(driver), format!("pip install {command}"));
        }
        assert_eq!(CUDA.remedy(Some(12)), CUDA.remedy(None));
    }
}
