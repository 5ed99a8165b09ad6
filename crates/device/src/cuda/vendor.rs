//! What CUDA does its own way: attributes, compute capability, MIG, the tensor copy engine.

use super::cudnn::Cudnn;
use super::libraries::libraries;
use super::tiled::{self, Tiled};
use super::{cublaslt, nvml, nvrtc, ptx};
use crate::cache::Cache;
use crate::gpu::driver::{self, Buffer as Memory, Context, Driver, Facts, Failure};
use crate::gpu::matmul::Library as Lt;
use crate::gpu::sys::{Attributes, status};
use crate::gpu::{Kind, Matmul, Ranks, Shared, Vendor, WORKSPACE};
use crate::{AttentionKernels, Blas, Buffer, DeviceError, Program, Reading, Result, Sensors, TensorMap};
use ridgepoint_core::{Backend, Bytes, CacheLevel, DeviceInfo, Library};
use std::collections::BTreeMap;
use std::sync::Arc;

/// NVIDIA.
pub(crate) struct Cuda;

pub(crate) const ATTRIBUTES: Attributes =
    Attributes { clock_khz: 13, units: 16, memory_clock_khz: 36, bus_bits: 37, l2_bytes: 38, copy_engines: 40, shared_most: 97 };
pub(crate) const CC_MAJOR: u32 = 75;
pub(crate) const CC_MINOR: u32 = 76;

impl Vendor for Cuda {
    fn prefix(&self) -> &'static str {
        "cu"
    }

    fn has_contexts(&self) -> bool {
        true
    }

    fn attributes(&self) -> &'static Attributes {
        &ATTRIBUTES
    }

    /// `sm_90a`: the exact target where the architecture has instructions of its own.
    fn target(&self, driver: &Driver, device: i32) -> driver::Result<String> {
        let [major, minor] = [CC_MAJOR, CC_MINOR].map(|which| driver.attribute(device, which));
        Ok(format!("sm_{major}{minor}{}", if major >= 9 { "a" } else { "" }))
    }

    fn version(&self, driver: i32) -> String {
        format!("CUDA {}.{}", driver / 1000, driver % 1000 / 10)
    }

    fn advice(&self, failure: &Failure) -> String {
        let status = if let Failure::Call(error) = failure { error.status() } else { None };
        match status {
            Some(status::NO_DEVICE) => {
                "is a GPU in this machine or container (nvidia-smi), and what does CUDA_VISIBLE_DEVICES say?"
            }
            Some(status::DRIVER_MISMATCH) => {
                "the library and the kernel module are of two versions: reboot after a driver update"
            }
            Some(status::FABRIC_NOT_READY) => "the NVSwitch fabric is not up: systemctl status nvidia-fabricmanager",
            _ => "see whether nvidia-smi works, and dmesg if it does not",
        }
        .to_owned()
    }

    fn summary(&self, f: &Facts) -> String {
        format!("{} SMs, {}, {:.0} GB, PCI {}", f.units, f.target, f.memory_bytes as f64 / 1e9, f.pci)
    }

    fn describe(&self, index: usize, ctx: &Context) -> DeviceInfo {
        let f = &ctx.facts;
        let [major, minor] = [CC_MAJOR, CC_MINOR].map(|which| ctx.driver.attribute(ctx.device, which));
        let mut facts = BTreeMap::from([
            ("compute capability".into(), format!("{major}.{minor}")),
            ("memory clock MHz".into(), (f.memory_clock_khz / 1000).to_string()),
            ("memory bus bits".into(), f.bus_bits.to_string()),
            ("shared memory a block".into(), f.shared_most.to_string()),
            ("copy engines".into(), f.copy_engines.to_string()),
        ]);
        let nvml = libraries().nvml.as_ref();
        let driver = nvml.and_then(|n| n.versions().ok()).map_or_else(String::new, |(driver, _)| driver);
        if let Some(sensors) = nvml.and_then(|n| nvml::Sensors::open(Arc::clone(n), &f.pci).ok()) {
            facts.extend(sensors.fixed().into_iter().map(|(name, value)| (name.to_owned(), value.to_string())));
        }
        let mut used = vec![];
        match &libraries().nvrtc {
            Ok(nvrtc) => used.push(Library {
                name: "NVRTC".into(),
                version: nvrtc.version().map_or_else(|e| e.to_string(), |(a, b)| format!("{a}.{b}")),
                path: Some(nvrtc.library.path.display().to_string()),
            }),
            Err(reason) => {
                facts.insert("no NVRTC".into(), reason.clone());
                facts.insert("kernels".into(), "PTX that was built ahead, assembled by the driver".into());
            }
        }
        DeviceInfo {
            id: format!("cuda:{index}"),
            backend: Backend::Cuda,
            vendor: "NVIDIA".into(),
            name: f.name.clone(),
            arch: f.target.clone(),
            uuid: Some(uuid(f)),
            pci: Some(f.pci.clone()),
            units: f.units.max(0) as u32,
            max_clock_mhz: Some(f64::from(f.clock_khz) / 1e3),
            memory: Bytes(f.memory_bytes as u64),
            caches: vec![CacheLevel { name: "L2".into(), bytes: Bytes(f.l2_bytes.max(0) as u64), instances: 1 }],
            driver: format!("{driver} ({})", self.version(ctx.driver.version)),
            software: false,
            libraries: used,
            measured: vec![],
            facts,
        }
    }

    fn code(&self, program: &Program<'_>, source: &str, target: &str, cache: Option<&Cache>) -> Result<Vec<u8>> {
        let compiled = match &libraries().nvrtc {
            Ok(nvrtc) => nvrtc::compile(nvrtc, program, source, target, cache),
            Err(reason) => Err(DeviceError::unsupported(reason.clone())),
        };
        match compiled {
            // No NVRTC, or one that is too old for the chip: what was built ahead is left.
            Err(DeviceError::Unsupported(reason)) => {
                let driver = libraries().driver.as_ref().map_or(0, |driver| driver.version);
                ptx::find(program.name, program.defines, source, target, driver)
                    .map_err(|why| DeviceError::unsupported(format!("{reason}; {why}")))
            }
            outcome => outcome,
        }
    }

    fn blas(&self, shared: &Arc<Shared>) -> std::result::Result<Vec<Box<dyn Blas + Send>>, String> {
        let table = libraries().cublaslt.as_ref().map_err(String::clone)?;
        shared.ctx.api().map_err(|error| error.to_string())?;
        let library = Lt::start(Arc::clone(table), &cublaslt::NUMBERS).map_err(|error| error.to_string())?;
        let library = Arc::new(library);
        let workspace = Arc::new(Memory::new(&shared.ctx, WORKSPACE).map_err(|error| format!("its workspace: {error}"))?);
        let provider = |fast| -> Box<dyn Blas + Send> {
            Box::new(Matmul {
                provider: if fast { "cublaslt-fast" } else { "cublaslt" },
                library: Arc::clone(&library),
                shared: Arc::clone(shared),
                workspace: Arc::clone(&workspace),
                fast,
                support: cublaslt::support,
                modes: cublaslt::modes,
            })
        };
        Ok(vec![provider(false), provider(true)])
    }

    fn attention(&self, shared: &Arc<Shared>) -> std::result::Result<Vec<Box<dyn AttentionKernels + Send>>, String> {
        let table = libraries().cudnn.as_ref().map_err(String::clone)?;
        let [compiler, gemm] =
            [libraries().nvrtc.as_ref().map(|l| &l.library), libraries().cublaslt.as_ref().map(|l| &l.library)];
        let paths = [compiler, gemm].into_iter().filter_map(|library| Some(library.ok()?.path.parent()?.to_owned()));
        Ok(vec![Box::new(Cudnn::new(Arc::clone(table), Arc::clone(shared), paths.collect()))])
    }

    fn ranks(&self, ctx: &Context, index: usize) -> std::result::Result<Ranks, String> {
        const NCCL: Kind = Kind { provider: "nccl", name: "NCCL", fnuz: |_| false };
        Ranks::new(&NCCL, libraries().nccl.as_ref().map_err(String::clone)?, ctx, index)
    }

    fn sensors(&self, facts: &Facts) -> Option<Box<dyn Sensors>> {
        let nvml = libraries().nvml.as_ref()?;
        Some(Box::new(Nvml(nvml::Sensors::open(Arc::clone(nvml), &facts.pci).ok()?)))
    }

    fn tensor_map(&self, ctx: &Context, buffer: &Buffer, map: &TensorMap) -> Result<Vec<u8>> {
        let data_type = match (map.element_bytes, map.bf16) {
            (1, _) => 0,
            (2, false) => 6,
            (2, true) => 9,
            (4, _) => 7,
            (bytes, _) => return Err(DeviceError::invalid(format!("a tensor map has elements of 1, 2 or 4 bytes, not {bytes}"))),
        };
        let tiled = Tiled {
            data_type,
            dims: map.dims.clone(),
            strides: map.strides.clone(),
            tile: map.tile.clone(),
            swizzle: map.swizzle,
        };
        let encoded = tiled::encode(ctx, buffer.address(), buffer.len(), &tiled)?;
        Ok(encoded.0.iter().flat_map(|word| word.to_ne_bytes()).collect())
    }
}

/// As nvidia-smi writes it; the driver gives an instance's own where the GPU is split, and says so in its name.
fn uuid(f: &Facts) -> String {
    let hex = |r: std::ops::Range<usize>| f.uuid[r].iter().map(|b| format!("{b:02x}")).collect::<String>();
    let kind = if f.name.contains("MIG ") { "MIG" } else { "GPU" };
    format!("{kind}-{}-{}-{}-{}-{}", hex(0..4), hex(4..6), hex(6..8), hex(8..10), hex(10..16))
}

struct Nvml(nvml::Sensors);

impl Sensors for Nvml {
    fn read(&mut self) -> Reading {
        self.0.read()
    }

    fn glance(&mut self) -> Reading {
        self.0.glance()
    }
}
