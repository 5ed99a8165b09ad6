//! Which cores this process may use, one hardware thread a core, and how a thread stays on one.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::marker::PhantomData;
use std::sync::OnceLock;

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

/// Every hardware thread that this process was allowed when it first asked. Asked once: a thread that is pinned later must
/// not make the machine look smaller.
pub fn allowed() -> &'static [usize] {
    static ALLOWED: OnceLock<Vec<usize>> = OnceLock::new();
    ALLOWED.get_or_init(|| mask().unwrap_or_else(|| (0..std::thread::available_parallelism().map_or(1, usize::from)).collect()))
}

/// Hardware threads of the whole machine, whether this process may use them or not.
#[must_use]
pub(crate) fn online() -> usize {
    // SAFETY: takes a number.
    #[cfg(unix)]
    let online = usize::try_from(unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }).unwrap_or(0);
    #[cfg(not(unix))]
    let online = 0;
    online.max(allowed().len())
}

#[cfg(target_os = "linux")]
fn mask() -> Option<Vec<usize>> {
    // SAFETY: an all-zero cpu_set_t is a valid empty set, and the call writes at most its size.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) != 0 {
            return None;
        }
        set
    };
    // SAFETY: the index stays below CPU_SETSIZE.
    Some((0..libc::CPU_SETSIZE as usize).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) }).collect())
}

#[cfg(not(target_os = "linux"))]
fn mask() -> Option<Vec<usize>> {
    None
}

/// Keeps the calling thread on `cpu` for good; where that is not allowed the thread stays as it is.
pub fn pin(cpu: usize) {
    confine(&[cpu]);
}

#[cfg(target_os = "linux")]
fn confine(cpus: &[usize]) {
    // SAFETY: an all-zero cpu_set_t is a valid empty set, and every index is below CPU_SETSIZE.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        for cpu in cpus.iter().filter(|cpu| **cpu < libc::CPU_SETSIZE as usize) {
            libc::CPU_SET(*cpu, &mut set);
        }
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set);
    }
}

/// Threads stay free where there is no affinity.
#[cfg(not(target_os = "linux"))]
fn confine(_cpus: &[usize]) {}

/// Keeps the calling thread on a core until it is dropped. Not for the whole life of a thread that starts others: they would
/// inherit the one core, and so would the libraries that count cores when they are loaded.
pub(crate) struct Pinned {
    // A guard is of the thread that it pinned.
    _thread: PhantomData<*const ()>,
}

impl Pinned {
    /// None where there is no core to be pinned to.
    pub(crate) fn to(cpu: Option<&usize>) -> Option<Self> {
        enter(*cpu?);
        Some(Self { _thread: PhantomData })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        leave();
    }
}

thread_local! {
    /// How many have entered and not left.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Pins the calling thread until as many have left as have entered.
pub(crate) fn enter(cpu: usize) {
    if DEPTH.replace(DEPTH.get() + 1) == 0 {
        pin(cpu);
    }
}

/// The other half of [`enter`]: the last one lets the thread run again wherever the process may.
pub(crate) fn leave() {
    if DEPTH.replace(DEPTH.get().saturating_sub(1)) == 1 {
        confine(allowed());
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_does_not_make_the_machine_smaller() {
        let before = cores();
        {
            let _pinned = Pinned::to(before.first());
            assert_eq!(cores(), before);
            drop(Pinned::to(before.last()));
            #[cfg(target_os = "linux")]
            assert_eq!(mask().unwrap(), before[..1]);
        }
        #[cfg(target_os = "linux")]
        assert_eq!(mask().unwrap(), allowed());
    }
}
