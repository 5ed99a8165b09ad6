//! Which cores this process may use, one hardware thread a core, and how a thread stays on one.

use std::collections::BTreeSet;

/// The environment variable that limits how many cores are used.
pub const THREADS_VARIABLE: &str = "RIDGEPOINT_CPU_THREADS";

/// One allowed hardware thread of each physical core, by NUMA node, at most as many as `RIDGEPOINT_CPU_THREADS` says.
#[must_use]
pub fn cores() -> Vec<usize> {
    let allowed = allowed();
    let mut seen = BTreeSet::new();
    let mut cores: Vec<usize> =
        allowed.iter().copied().filter(|cpu| seen.insert(siblings(*cpu).unwrap_or_else(|| cpu.to_string()))).collect();
    cores.sort_by_key(|cpu| (node(*cpu), *cpu));
    let wanted = std::env::var(THREADS_VARIABLE).ok().and_then(|v| v.parse::<usize>().ok()).filter(|n| *n > 0);
    cores.truncate(wanted.unwrap_or(usize::MAX));
    if cores.is_empty() { vec![0] } else { cores }
}

/// Every hardware thread that the affinity mask allows.
#[cfg(target_os = "linux")]
#[must_use]
pub fn allowed() -> Vec<usize> {
    // SAFETY: an all-zero cpu_set_t is a valid empty set, and the call writes at most its size.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) != 0 {
            return (0..std::thread::available_parallelism().map_or(1, usize::from)).collect();
        }
        set
    };
    // SAFETY: the index stays below CPU_SETSIZE.
    (0..libc::CPU_SETSIZE as usize).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) }).collect()
}

/// Every hardware thread.
#[cfg(not(target_os = "linux"))]
#[must_use]
pub fn allowed() -> Vec<usize> {
    (0..std::thread::available_parallelism().map_or(1, usize::from)).collect()
}

/// Keeps the calling thread on `cpu`; where that is not allowed the thread stays free.
#[cfg(target_os = "linux")]
pub fn pin(cpu: usize) {
    if cpu >= libc::CPU_SETSIZE as usize {
        return;
    }
    // SAFETY: an all-zero cpu_set_t is a valid empty set, and the index is below CPU_SETSIZE.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set);
    }
}

/// Threads stay free where there is no affinity.
#[cfg(not(target_os = "linux"))]
pub fn pin(_cpu: usize) {}

fn siblings(cpu: usize) -> Option<String> {
    std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")).ok()
}

/// The NUMA node of a hardware thread; 0 where there are none.
#[must_use]
pub fn node(cpu: usize) -> usize {
    let Ok(entries) = std::fs::read_dir(format!("/sys/devices/system/cpu/cpu{cpu}")) else { return 0 };
    let names = entries.filter_map(Result::ok).filter_map(|e| e.file_name().into_string().ok());
    names.filter_map(|n| n.strip_prefix("node")?.parse().ok()).next().unwrap_or(0)
}
