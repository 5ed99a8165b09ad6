//! What is written about the machine once a run, so that a number can be explained later.

use crate::inventory;
use ridgepoint_core::record::{METHOD_VERSION, SCHEMA_VERSION};
use ridgepoint_core::{Backend, Environment};
use ridgepoint_device::Device;
use ridgepoint_harness::Profile;
use std::collections::BTreeMap;
use std::time::SystemTime;

/// Variables that libraries read and that change a number.
const VARIABLES: &[&str] = &[
    "CUDA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
    "HSA_OVERRIDE_GFX_VERSION",
    "HIPBLASLT_TENSILE_LIBPATH",
    "NVIDIA_TF32_OVERRIDE",
    "CUBLAS_WORKSPACE_CONFIG",
    "OPENBLAS_CORETYPE",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "RIDGEPOINT_CPU_THREADS",
    "RIDGEPOINT_CODE_OBJECTS",
    "RIDGEPOINT_CUDA_PATH",
    "RIDGEPOINT_ROCM_PATH",
    "VK_DRIVER_FILES",
];

/// Whole families of such variables: what chooses algorithms and transports between ranks, and engines of hipDNN.
const PREFIXES: &[&str] =
    &["HIPDNN_", "NCCL_", "RCCL_", "UCX_", "FI_", "MPIR_CVAR_", "OMPI_MCA_btl", "OMPI_MCA_pml", "OMPI_MCA_mtl", "OMPI_MCA_coll"];

/// The environment of a run that starts now; `facts` are those known already.
pub(crate) fn observe(
    devices: &[Box<dyn Device>],
    profile: Profile,
    seed: u64,
    mut facts: BTreeMap<String, String>,
) -> Environment {
    facts.insert("process".into(), std::process::id().to_string());
    for (name, value) in ridgepoint_device::transport::environment() {
        if let (Some(name), Some(value)) = (name.to_str(), value.to_str())
            && (VARIABLES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
        {
            facts.insert(format!("env {name}"), value.to_owned());
        }
    }
    if devices.iter().any(|d| matches!(d.info().backend, Backend::Cuda | Backend::Hip)) {
        facts.insert("GPUDirect RDMA".into(), ridgepoint_device::network::direct_access());
    }
    if let Ok(nodes) = std::fs::read_to_string("/sys/devices/system/node/online") {
        facts.insert("numa nodes".into(), nodes.trim().into());
    }
    if let Ok(load) = std::fs::read_to_string("/proc/loadavg") {
        facts.insert("load at start".into(), load.split(' ').take(3).collect::<Vec<_>>().join(" "));
    }
    Environment {
        schema: SCHEMA_VERSION,
        hash: String::new(),
        version: env!("CARGO_PKG_VERSION").into(),
        method: METHOD_VERSION,
        host: host(),
        os: read("/proc/sys/kernel/osrelease").map_or_else(|| std::env::consts::OS.to_owned(), |r| format!("Linux {r}")),
        cpu: cpu_model(),
        governor: read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        command: std::env::args().collect(),
        profile: profile.name().into(),
        seed,
        started: now(),
        devices: devices.iter().map(|d| d.info().clone()).collect(),
        facts,
        inventory: Some(Box::new(inventory::of_this_node(devices))),
        passes: Vec::new(),
    }
    .hashed()
}

/// The time of day, RFC 3339 UTC to the second.
pub(crate) fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

fn host() -> String {
    read("/proc/sys/kernel/hostname").or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_else(|| "unknown".into())
}

fn cpu_model() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find(|l| l.starts_with("model name")).and_then(|l| l.split_once(": "));
    model.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

fn read(path: &str) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned()).filter(|s| !s.is_empty())
}
