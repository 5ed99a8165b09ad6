//! What the operating system says of the CPU.

use super::kernels::{Simd, simd};
use ridgepoint_core::{Backend, Bytes, CacheLevel, DeviceInfo};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::read_to_string;

/// Facts about the given cores.
pub(crate) fn observe(cores: &[usize]) -> DeviceInfo {
    let cpuinfo = read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|l| l.split(':').next().is_some_and(|k| k.trim() == name));
        line.and_then(|l| l.split_once(':')).map(|(_, v)| v.trim().to_owned())
    };
    let flags = field("flags").or_else(|| field("Features")).unwrap_or_default();
    let mut facts = BTreeMap::new();
    let known = [
        "avx2",
        "fma",
        "avx512f",
        "avx512_bf16",
        "avx512_vnni",
        "avx_vnni",
        "avx512_fp16",
        "amx_tile",
        "amx_bf16",
        "sve",
        "asimd",
    ];
    let simd_facts: Vec<&str> = flags.split(' ').filter(|f| known.contains(f)).collect();
    facts.insert("simd".into(), simd_facts.join(" "));
    facts.insert("cores".into(), cores.iter().map(usize::to_string).collect::<Vec<_>>().join(","));
    let nodes: BTreeSet<usize> = cores.iter().map(|c| super::affinity::node(*c)).collect();
    facts.insert("numa nodes".into(), nodes.iter().map(usize::to_string).collect::<Vec<_>>().join(","));
    if flags.split(' ').any(|f| f == "hypervisor") {
        facts.insert("virtual machine".into(), "yes: clock and memory speed are the host's business".into());
    }
    for (name, path) in [
        ("governor", "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        ("boost", "/sys/devices/system/cpu/cpufreq/boost"),
        ("huge pages", "/sys/kernel/mm/transparent_hugepage/enabled"),
    ] {
        if let Ok(value) = read_to_string(path) {
            facts.insert(name.into(), value.trim().into());
        }
    }
    let max_khz = read_to_string("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq").ok();
    DeviceInfo {
        id: "cpu:0".into(),
        backend: Backend::Cpu,
        vendor: field("vendor_id").unwrap_or_else(|| "unknown".into()),
        name: field("model name").unwrap_or_else(|| std::env::consts::ARCH.into()),
        arch: arch(),
        uuid: None,
        pci: None,
        units: cores.len() as u32,
        max_clock_mhz: max_khz.and_then(|k| k.trim().parse::<f64>().ok()).map(|k| k / 1e3),
        memory: memory("MemTotal:").unwrap_or_default(),
        caches: caches(cores),
        driver: read_to_string("/proc/sys/kernel/osrelease")
            .map_or_else(|_| std::env::consts::OS.into(), |r| format!("Linux {}", r.trim())),
        software: false,
        libraries: Vec::new(),
        measured: Vec::new(),
        facts,
    }
}

/// The microarchitecture level, as the x86-64 psABI numbers them.
fn arch() -> String {
    match simd() {
        Simd::Avx512 => "x86-64-v4".into(),
        Simd::Avx2 => "x86-64-v3".into(),
        Simd::Baseline => std::env::consts::ARCH.replace("x86_64", "x86-64"),
    }
}

/// Memory that can be had without swapping.
pub(crate) fn available_memory() -> Option<Bytes> {
    memory("MemAvailable:")
}

fn memory(field: &str) -> Option<Bytes> {
    let text = read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|l| l.starts_with(field))?;
    Some(Bytes::kib(line.split_whitespace().nth(1)?.parse().ok()?))
}

/// Data and unified caches of the cores in use; each instance counted once however many cores share it.
fn caches(cores: &[usize]) -> Vec<CacheLevel> {
    let mut instances: BTreeMap<(u32, u64), BTreeSet<String>> = BTreeMap::new();
    for core in cores {
        for index in 0..8 {
            let read = |name: &str| read_to_string(format!("/sys/devices/system/cpu/cpu{core}/cache/index{index}/{name}")).ok();
            let Some(kind) = read("type") else { break };
            if kind.trim() == "Instruction" {
                continue;
            }
            let level = read("level").and_then(|l| l.trim().parse().ok());
            let kib = read("size").and_then(|s| s.trim().trim_end_matches('K').parse::<u64>().ok());
            if let (Some(level), Some(kib)) = (level, kib) {
                instances.entry((level, kib)).or_default().insert(read("shared_cpu_list").unwrap_or_else(|| core.to_string()));
            }
        }
    }
    let level = |((level, kib), shared): ((u32, u64), BTreeSet<String>)| CacheLevel {
        name: format!("L{level}"),
        bytes: Bytes::kib(kib),
        instances: shared.len() as u32,
    };
    instances.into_iter().map(level).collect()
}
