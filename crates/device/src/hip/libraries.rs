//! What was found of AMD's libraries on this machine, searched for once a process, and what `doctor` says of it.

use super::sysfs::Sysfs;
use super::vendor::Hip;
use super::{hipblaslt, hipdnn};
use crate::dl::Opened;
use crate::finder::{Layout, Places, Search, Wanted, find, matching};
use crate::gpu;
use crate::gpu::dnn::Dnn;
use crate::gpu::driver::Driver;
use crate::gpu::matmul::Lt;
use crate::gpu::nccl::Nccl;
use crate::gpu::rtc::Rtc;
use crate::probe::Finding;
use std::ffi::{OsString, c_void};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Where AMD's libraries are kept. pip's wheels put them into `_rocm_sdk_core` and `_rocm_sdk_libraries_<family>`.
pub(crate) const LAYOUT: Layout = Layout {
    variable: "RIDGEPOINT_ROCM_PATH",
    homes: &["ROCM_PATH", "ROCM_HOME", "HIP_PATH"],
    parts: &["lib", "lib64"],
    toolkit: "opt/rocm",
    versions: ("opt", "rocm-"),
    system: &["run/opengl-driver/lib"],
    site: |site| matching(site, "_rocm_sdk_").into_iter().map(|part| part.join("lib")).collect(),
};

pub(crate) const HIP: Wanted = Wanted {
    stem: "libamdhip64.so",
    sonames: &["libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so.5"],
    proof: "hipInit",
    siblings: &[],
    of_driver: false,
    get: &[(0, "apt-get install hip-runtime-amd (from repo.radeon.com, ROCm 6 and 7) or amdrocm-runtime (ROCm 10)")],
};
const HIPRTC: Wanted = Wanted {
    stem: "libhiprtc.so",
    sonames: &["libhiprtc.so.7", "libhiprtc.so.6"],
    proof: "hiprtcCreateProgram",
    siblings: &["libhiprtc-builtins.so"],
    of_driver: false,
    get: &[(0, "apt-get install hip-runtime-amd or amdrocm-runtime, or see RIDGEPOINT_CODE_OBJECTS in the README")],
};
/// Before ROCm 6 the runtime holds the compiler, too.
const HIPRTC_INSIDE: Wanted = Wanted { stem: HIP.stem, sonames: HIP.sonames, ..HIPRTC };
const HIPBLASLT: Wanted = Wanted {
    stem: "libhipblaslt.so",
    sonames: &["libhipblaslt.so.1", "libhipblaslt.so.0"],
    proof: "hipblasLtCreate",
    siblings: &[],
    of_driver: false,
    get: &[(0, "apt-get install hipblaslt (ROCm 6 and 7) or amdrocm-blas (ROCm 10)")],
};
pub(crate) const RCCL: Wanted = Wanted {
    stem: "librccl.so",
    sonames: &["librccl.so.1"],
    proof: "ncclGetVersion",
    siblings: &[],
    of_driver: false,
    get: &[(0, "apt-get install rccl (ROCm 6 and 7) or amdrocm-core-sdk (ROCm 10)")],
};
/// ROCm has it since 10: a node without it lacks nothing.
const HIPDNN: Wanted = Wanted {
    stem: "libhipdnn_backend.so",
    sonames: &["libhipdnn_backend.so.1", "libhipdnn_backend.so.0", "libhipdnn_backend.so"],
    proof: "hipdnnBackendExecute",
    siblings: &[],
    of_driver: false,
    get: &[(0, "it comes with ROCm 10")],
};

/// Each library, or the sentence that says why it is not there.
pub(super) struct Libraries {
    pub(super) driver: Result<Arc<Driver>, String>,
    pub(super) hiprtc: Result<Rtc, String>,
    pub(super) hipblaslt: Result<Arc<Lt>, String>,
    pub(super) rccl: Result<Arc<Nccl>, String>,
    pub(super) hipdnn: Result<Arc<Dnn>, String>,
    pub(super) findings: Vec<Finding>,
}

pub(super) fn libraries() -> &'static Libraries {
    static FOUND: OnceLock<Libraries> = OnceLock::new();
    FOUND.get_or_init(|| load(&Places::of_this_machine(&LAYOUT), &Sysfs::of_this_machine()))
}

fn load(places: &Places, sysfs: &Sysfs) -> Libraries {
    let search = find(&HIP, places, &|_| Ok(()));
    let runtime = search.found.as_ref().map(|o| (o.path.clone(), o.address(&[HIP.proof]).map(|p| p as usize)));
    let (driver, driver_finding) = gpu::start(&Hip, &HIP, search);
    let mut findings = vec![sysfs.kernel_driver(), driver_finding];
    // What belongs to the same installation comes first: ROCm's libraries are made for each other.
    let (path, init) = runtime.unzip();
    let beside = path.as_deref().and_then(Path::parent).map(Path::to_owned).into_iter().collect();
    let places = Places { beside, ..places.clone() };
    let major = path.as_deref().and_then(major);
    // The compiler has no version that could be compared (it long said 9.0), but its file's name has.
    let of_the_runtime = |opened: &Opened| match (self::major(&opened.path), major) {
        (Some(library), Some(runtime)) if library != runtime => {
            Err(format!("it is of HIP {library} and the runtime is HIP {runtime}"))
        }
        _ => Ok(()),
    };
    // A library that was linked with another runtime brings that one along, and the two do not know each other's memory.
    let with_the_runtime = |opened: &Opened| match (opened.address(&[HIP.proof]), init.flatten()) {
        (Some(its), Some(ours)) if its as usize != ours => Err("it brings a second HIP runtime of its own".to_owned()),
        _ => Ok(()),
    };
    let mut hiprtc = find(&HIPRTC, &places, &of_the_runtime);
    if hiprtc.found.is_none() && hiprtc.turned_off.is_none() {
        let inside = find(&HIPRTC_INSIDE, &places, &of_the_runtime);
        if inside.found.is_some() {
            hiprtc = inside;
        }
    }
    let version = hiprtc.found.as_ref().and_then(|o| file_version(&o.path));
    findings.push(hiprtc.finding(&HIPRTC, None, version));
    let hiprtc = {
        let sentence = hiprtc.sentence(&HIPRTC, None);
        hiprtc.found.ok_or(sentence)
    };
    let mut look = |wanted: &Wanted, version: &dyn Fn(&Opened) -> Option<String>| {
        let search = find(wanted, &places, &with_the_runtime);
        findings.push(search.finding(wanted, None, search.found.as_ref().and_then(version)));
        let sentence = search.sentence(wanted, None);
        search.found.ok_or(sentence)
    };
    let hipblaslt = look(&HIPBLASLT, &|o| file_version(&o.path));
    let rccl = look(&RCCL, &rccl_version);
    let (hipdnn, finding) = hipdnn(find(&HIPDNN, &places, &with_the_runtime), &|key| std::env::var_os(key));
    findings.extend(finding);
    Libraries {
        driver,
        hiprtc: hiprtc.map(|o| Rtc::bind_prefixed(o, "hiprtc")),
        hipblaslt: hipblaslt.map(|o| Arc::new(Lt::bind_prefixed(o, hipblaslt::NUMBERS.prefix))),
        rccl: rccl.map(|o| Arc::new(Nccl::bind(o))),
        hipdnn,
        findings,
    }
}

/// hipDNN, and what `doctor` says of it where there is something: its version, and the plugins without which it computes nothing.
fn hipdnn(search: Search, env: &dyn Fn(&str) -> Option<OsString>) -> (Result<Arc<Dnn>, String>, Option<Finding>) {
    let (mut finding, sentence) = (search.finding(&HIPDNN, None, None), search.sentence(&HIPDNN, None));
    let broken = search.failed.iter().any(|(path, _)| path.is_absolute());
    let Some(opened) = search.found else { return (Err(sentence), broken.then_some(finding)) };
    let beside = opened.path.canonicalize().unwrap_or_else(|_| opened.path.clone());
    let folder = env(hipdnn::FOLDER).map_or_else(|| beside.with_file_name(hipdnn::PLUGINS), PathBuf::from);
    let of_the_file = file_version(&opened.path);
    let api = Arc::new(Dnn::bind(opened, &hipdnn::NUMBERS));
    let version = hipdnn::version(&api);
    if let Some(version) = version.as_deref().or(of_the_file.as_deref()) {
        finding.detail = format!("{version} from {}", finding.detail);
    }
    let plugins = plugins(&folder);
    finding.detail += &match (hipdnn::refused(version.as_deref()), plugins.is_empty()) {
        (Some(why), _) => format!("; {why}"),
        (None, true) => format!("; it has no plugins, which do its work, in {}", folder.display()),
        (None, false) => format!("; its plugins are {}", plugins.join(", ")),
    };
    (Ok(api), Some(finding))
}

/// Names of the libraries in a folder, less `lib` and `.so`.
fn plugins(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten().filter_map(|file| file.file_name().into_string().ok());
    let mut names: Vec<String> =
        names.filter_map(|name| Some(name.strip_suffix(".so")?.trim_start_matches("lib").to_owned())).collect();
    names.sort();
    names
}

/// `7.2.70200` of `libhiprtc.so.7.2.70200`, which a link leads to; None for a name without one (PyTorch's wheels).
fn file_version(path: &Path) -> Option<String> {
    let real: PathBuf = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    Some(real.file_name()?.to_str()?.split_once(".so.")?.1.to_owned())
}

fn major(path: &Path) -> Option<u32> {
    file_version(path)?.split('.').next()?.parse().ok()
}

/// `22105` is 2.21.5.
fn rccl_version(o: &Opened) -> Option<String> {
    let p = o.address(&[RCCL.proof])?;
    let mut v = 0;
    // SAFETY: that function has this type in every version; it writes one int.
    let status = unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut i32) -> i32>(p)(&mut v) };
    (status == 0).then(|| format!("{}.{}.{}", v / 10000, v / 100 % 100, v % 100))
}

/// What may hide devices, for a runtime that has none.
pub(super) fn why_none(sysfs: &Sysfs, env: &dyn Fn(&str) -> Option<String>) -> String {
    let hiding = ["HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL"];
    let set: Vec<String> = hiding.iter().filter_map(|key| Some(format!("{key} is '{}'", env(key)?))).collect();
    match (set.is_empty(), sysfs.access()) {
        (_, Err(why)) => why,
        (true, Ok(())) => "see whether rocminfo lists a GPU, and dmesg for what amdgpu says of it".into(),
        (false, Ok(())) => set.join(" and "),
    }
}

#[cfg(test)]
mod tests {
    use super::super::sysfs::tests::Root;
    use super::*;

    #[test]
    fn a_variable_that_hides_devices_is_named_where_the_driver_is_well() {
        let root = Root::new("hidden", &[("sys/module/amdgpu/version", "6.12.12"), ("dev/kfd", "")]);
        let why = |key: &'static str| why_none(&Sysfs::at(&root.0), &|k| (k == key).then(|| "-1".to_owned()));
        assert_eq!(why("HIP_VISIBLE_DEVICES"), "HIP_VISIBLE_DEVICES is '-1'");
        assert_eq!(why("ROCR_VISIBLE_DEVICES"), "ROCR_VISIBLE_DEVICES is '-1'");
        assert!(why("").contains("rocminfo"));
        let bare = Root::new("bare-machine", &[("x", "")]);
        assert!(why_none(&Sysfs::at(&bare.0), &|_| Some("0".into())).contains("amdgpu"));
    }

    #[test]
    fn rocm_is_looked_for_where_it_is_kept() {
        let site = "venv/lib/python3.12/site-packages";
        let folders = [
            "opt/rocm/lib",
            "opt/rocm-6.4.1/lib",
            "opt/rocm-7.0.2/lib",
            "mine/lib",
            "home/lib",
            &format!("{site}/_rocm_sdk_core/lib"),
            &format!("{site}/_rocm_sdk_libraries_gfx94X_dcgpu/lib"),
            &format!("{site}/torch/lib"),
        ]
        .map(|folder| format!("{folder}/x"));
        let files: Vec<_> = folders.iter().map(|f| (f.as_str(), "")).collect();
        let root = Root::new("finder", &files);
        let at = |p: &str| root.0.join(p);
        let env = |key: &str| match key {
            "RIDGEPOINT_ROCM_PATH" => Some(at("mine")),
            "ROCM_PATH" => Some(at("home")),
            _ => None,
        };
        let places = Places::from_env(&LAYOUT, &env, &root.0);
        assert_eq!(places.asked_for, [at("mine"), at("mine/lib")]);
        assert_eq!(places.system, [at("home/lib"), at("opt/rocm/lib"), at("opt/rocm-7.0.2/lib"), at("opt/rocm-6.4.1/lib")]);
        let wheels = ["_rocm_sdk_libraries_gfx94X_dcgpu/lib", "_rocm_sdk_core/lib", "torch/lib"];
        assert_eq!(places.wheels, wheels.map(|part| at(&format!("{site}/{part}"))));
    }

    #[test]
    fn a_files_name_has_its_version() {
        assert_eq!(file_version(Path::new("/no/libhiprtc.so.7.2.70200")).as_deref(), Some("7.2.70200"));
        assert_eq!((major(Path::new("libhiprtc.so.7")), major(Path::new("torch/lib/libhiprtc.so"))), (Some(7), None));
    }
}
