//! What HIP does its own way: attributes, the target's name, partitions, and where a chip's facts come from.

use super::hipdnn::Hipdnn;
use super::libraries::{libraries, why_none};
use super::sensors::Sensors as Files;
use super::sysfs::Sysfs;
use super::{hipblaslt, hiprtc};
use crate::cache::Cache;
use crate::gpu::driver::{self, Buffer as Memory, Context, Driver, Facts, Failure};
use crate::gpu::matmul::Library as Lt;
use crate::gpu::sys::{Attributes, HOST_COHERENT, HOST_PORTABLE_MAPPED};
use crate::gpu::{Kind, Matmul, Ranks, Shared, Vendor, WORKSPACE};
use crate::{AttentionKernels, Blas, Program, Result, Sensors};
use ridgepoint_core::{Backend, Bytes, CacheLevel, DeviceInfo, Library};
use std::collections::BTreeMap;
use std::sync::Arc;

/// AMD.
pub(crate) struct Hip;

pub(crate) const ATTRIBUTES: Attributes =
    Attributes { clock_khz: 5, units: 63, memory_clock_khz: 60, bus_bits: 59, l2_bytes: 19, copy_engines: 2, shared_most: 74 };
/// Accelerator dies of a device.
pub(crate) const XCCS: u32 = 10018;

/// Bytes of `hipDeviceProp_tR0600`, and where in it the target's name stands. Nothing else of it is read: attributes do not move.
pub(crate) const PROPERTIES_BYTES: usize = 1472;
pub(crate) const TARGET_AT: usize = 1160;

/// Names of Instinct parts by PCI device id, for machines without libdrm's table, where HIP calls them all alike.
const INSTINCT: &[(u32, &str)] = &[
    (0x7408, "AMD Instinct MI250X"),
    (0x740c, "AMD Instinct MI250X / MI250"),
    (0x740f, "AMD Instinct MI210"),
    (0x74a0, "AMD Instinct MI300A"),
    (0x74a1, "AMD Instinct MI300X"),
    (0x74a2, "AMD Instinct MI308X"),
    (0x74a5, "AMD Instinct MI325X"),
    (0x74b5, "AMD Instinct MI300X VF"),
    (0x75a0, "AMD Instinct MI350X"),
    (0x75a3, "AMD Instinct MI355X"),
    (0x75b0, "AMD Instinct MI350X VF"),
    (0x75b3, "AMD Instinct MI355X VF"),
];

impl Vendor for Hip {
    fn prefix(&self) -> &'static str {
        "hip"
    }

    fn has_contexts(&self) -> bool {
        false
    }

    fn host_flags(&self) -> u32 {
        HOST_PORTABLE_MAPPED | HOST_COHERENT
    }

    fn attributes(&self) -> &'static Attributes {
        &ATTRIBUTES
    }

    fn target(&self, driver: &Driver, device: i32) -> driver::Result<String> {
        let mut properties = [0_u64; PROPERTIES_BYTES / 8];
        // SAFETY: the layout that the R0600 in its name stands for has this size in every version.
        unsafe { driver.api.properties(properties.as_mut_ptr().cast(), device) }?;
        let name = properties.iter().flat_map(|word| word.to_ne_bytes()).skip(TARGET_AT).take(256).take_while(|c| *c != 0);
        let name = String::from_utf8_lossy(&name.collect::<Vec<_>>()).into_owned();
        if !name.starts_with("gfx") {
            return Err(Failure::Invalid(format!("HIP names the target of device {device} '{}'", name.escape_debug())));
        }
        Ok(name)
    }

    fn version(&self, driver: i32) -> String {
        format!("HIP {}.{}", driver / 10_000_000, driver / 100_000 % 100)
    }

    fn advice(&self, _failure: &Failure) -> String {
        why_none(&Sysfs::of_this_machine(), &|key| std::env::var(key).ok())
    }

    fn summary(&self, f: &Facts) -> String {
        let card = Sysfs::of_this_machine().card(&f.pci);
        let units = card.as_ref().and_then(|c| c.units()).unwrap_or(f.units.max(0) as u32);
        let mode = |file| card.as_ref().and_then(|c| c.read(file)).map_or_else(String::new, |mode| format!(", {mode}"));
        format!(
            "{units} CUs, {}, {:.0} GB, PCI {}{}{}",
            arch(&f.target),
            f.memory_bytes as f64 / 1e9,
            f.pci,
            mode("current_compute_partition"),
            mode("current_memory_partition")
        )
    }

    fn describe(&self, index: usize, ctx: &Context) -> DeviceInfo {
        let xccs = u32::try_from(ctx.driver.attribute(ctx.device, XCCS)).ok().filter(|n| *n > 0);
        let mut info = describe(&Sysfs::of_this_machine(), index, &ctx.facts, xccs);
        info.driver = format!("{} ({})", info.driver, self.version(ctx.driver.version));
        match &libraries().hiprtc {
            Ok(hiprtc) => info.libraries.push(Library {
                name: "hipRTC".into(),
                version: hiprtc.version().map_or_else(|e| e.to_string(), |(a, b)| format!("{a}.{b}")),
                path: Some(hiprtc.library.path.display().to_string()),
            }),
            Err(reason) => drop(info.facts.insert("no hipRTC".into(), reason.clone())),
        }
        info
    }

    fn code(&self, program: &Program<'_>, source: &str, target: &str, cache: Option<&Cache>) -> Result<Vec<u8>> {
        hiprtc::compile(program, source, target, cache)
    }

    fn blas(&self, shared: &Arc<Shared>) -> std::result::Result<Vec<Box<dyn Blas + Send>>, String> {
        let table = libraries().hipblaslt.as_ref().map_err(String::clone)?;
        shared.ctx.api().map_err(|error| error.to_string())?;
        let library = Lt::start(Arc::clone(table), &hipblaslt::NUMBERS).map_err(|error| error.to_string())?;
        hipblaslt::fits(&library.version())?;
        let workspace = Memory::new(&shared.ctx, WORKSPACE).map_err(|error| format!("its workspace: {error}"))?;
        Ok(vec![Box::new(Matmul {
            provider: "hipblaslt",
            library: Arc::new(library),
            shared: Arc::clone(shared),
            workspace: Arc::new(workspace),
            fast: false,
            support: hipblaslt::support,
            modes: hipblaslt::modes,
        })])
    }

    fn attention(&self, shared: &Arc<Shared>) -> std::result::Result<Vec<Box<dyn AttentionKernels + Send>>, String> {
        let table = libraries().hipdnn.as_ref().map_err(String::clone)?;
        Ok(vec![Box::new(Hipdnn::new(Arc::clone(table), Arc::clone(shared)))])
    }

    fn ranks(&self, ctx: &Context, index: usize) -> std::result::Result<Ranks, String> {
        const RCCL: Kind = Kind { provider: "rccl", name: "RCCL", fnuz: |target| arch(target).starts_with("gfx94") };
        Ranks::new(&RCCL, libraries().rccl.as_ref().map_err(String::clone)?, ctx, index)
    }

    fn sensors(&self, facts: &Facts) -> Option<Box<dyn Sensors>> {
        Some(Box::new(Files::open(&Sysfs::of_this_machine().card(&facts.pci)?)))
    }
}

/// `gfx942` of `gfx942:sramecc+:xnack-`.
fn arch(target: &str) -> &str {
    target.split(':').next().unwrap_or(target)
}

/// A device's facts, from HIP and from the kernel's files.
pub(crate) fn describe(sysfs: &Sysfs, index: usize, f: &Facts, xccs: Option<u32>) -> DeviceInfo {
    let card = sysfs.card(&f.pci);
    let mut facts = card.as_ref().map(|card| card.facts()).unwrap_or_default();
    // HIP counts pairs of compute units in a mode that RDNA starts in; the topology counts the units.
    let units = card.as_ref().and_then(|card| card.units()).unwrap_or(f.units.max(0) as u32);
    let xccs = xccs.or_else(|| card.as_ref()?.xccs()).unwrap_or(1);
    facts.extend(BTreeMap::from([
        ("target".into(), f.target.clone()),
        ("multiprocessors by HIP".into(), f.units.to_string()),
        ("accelerator dies".into(), xccs.to_string()),
        ("memory clock MHz".into(), (f.memory_clock_khz / 1000).to_string()),
        ("memory bus bits".into(), f.bus_bits.to_string()),
        ("LDS a block".into(), f.shared_most.to_string()),
    ]));
    let mut caches = vec![CacheLevel { name: "L2".into(), bytes: Bytes(f.l2_bytes.max(0) as u64), instances: xccs }];
    if let Some(bytes) = card.as_ref().and_then(|card| card.infinity_cache()) {
        caches.push(CacheLevel { name: "Infinity Cache".into(), bytes: Bytes(bytes), instances: 1 });
    }
    let known = card.as_ref().and_then(|card| card.device_id()).and_then(|id| INSTINCT.iter().find(|(part, _)| *part == id));
    let name = match known {
        Some((_, name)) if !f.name.contains("Instinct") => {
            facts.insert("name by HIP".into(), f.name.clone());
            (*name).to_owned()
        }
        _ => f.name.clone(),
    };
    DeviceInfo {
        id: format!("hip:{index}"),
        backend: Backend::Hip,
        vendor: "AMD".into(),
        name,
        arch: arch(&f.target).to_owned(),
        uuid: uuid(&f.uuid),
        pci: Some(f.pci.clone()),
        units,
        max_clock_mhz: Some(f64::from(f.clock_khz) / 1e3),
        memory: Bytes(f.memory_bytes as u64),
        caches,
        driver: format!("amdgpu {}", sysfs.driver_version()),
        software: false,
        libraries: vec![],
        measured: vec![],
        facts,
    }
}

/// As rocminfo writes it: HIP gives sixteen hexadecimal digits as characters.
fn uuid(bytes: &[u8; 16]) -> Option<String> {
    match std::str::from_utf8(bytes) {
        _ if bytes.iter().all(|b| *b == 0) => None,
        Ok(text) if text.chars().all(|c| c.is_ascii_hexdigit()) => Some(format!("GPU-{text}")),
        _ => Some(format!("GPU-{}", bytes.iter().map(|b| format!("{b:02x}")).collect::<String>())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::sysfs::tests::Root;
    use super::*;

    fn facts(name: &str, units: i32) -> Facts {
        Facts {
            name: name.into(),
            uuid: *b"0123456789abcdef",
            pci: "0000:c1:00.0".into(),
            target: "gfx942:sramecc+:xnack-".into(),
            units,
            clock_khz: 2_100_000,
            memory_clock_khz: 1_300_000,
            bus_bits: 8192,
            memory_bytes: 48 << 30,
            l2_bytes: 4 << 20,
            shared_most: 65536,
            copy_engines: 2,
        }
    }

    #[test]
    fn a_nameless_partition_of_mi300x_is_known_by_its_id_and_keeps_its_mode() {
        let dir = "sys/bus/pci/devices/0000:c1:00.0";
        let files = [
            ("vendor", "0x1002"),
            ("device", "0x74a1"),
            ("current_compute_partition", "CPX"),
            ("current_memory_partition", "NPS4"),
        ]
        .map(|(name, text)| (format!("{dir}/{name}"), text));
        let files: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), *text)).collect();
        let root = Root::new("cpx", &files);
        let info = describe(&Sysfs::at(&root.0), 3, &facts("AMD Radeon Graphics", 38), None);
        assert_eq!((info.id.as_str(), info.name.as_str(), info.arch.as_str()), ("hip:3", "AMD Instinct MI300X", "gfx942"));
        assert_eq!((info.units, info.uuid.as_deref()), (38, Some("GPU-0123456789abcdef")));
        assert_eq!((info.facts["compute partition"].as_str(), info.facts["memory partition"].as_str()), ("CPX", "NPS4"));
        assert_eq!(info.facts["name by HIP"], "AMD Radeon Graphics");
        assert_eq!(info.facts["target"], "gfx942:sramecc+:xnack-");
    }

    #[test]
    fn a_device_without_files_has_what_hip_says_of_it() {
        let root = Root::new("bare", &[("x", "")]);
        let info = describe(&Sysfs::at(&root.0), 0, &Facts { uuid: [0; 16], ..facts("AMD Instinct MI300X", 304) }, Some(8));
        assert_eq!((info.units, info.uuid, info.caches[0].instances), (304, None, 8));
        assert_eq!(uuid(&[0xab; 16]).unwrap().len(), 4 + 32);
    }
}
