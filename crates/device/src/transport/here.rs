//! What the library of this very process writes, where all GPUs are its own: arranged before anything else runs, since the library reads
//! its variables from the environment. Children and records see the environment as it was found.

use super::Said;
use std::ffi::OsString;
use std::process::Command;
use std::sync::OnceLock;

/// By which a library is told to write, and where.
const VARIABLES: [&str; 3] = ["NCCL_DEBUG", "NCCL_DEBUG_SUBSYS", "NCCL_DEBUG_FILE"];
/// As they were.
static FOUND: OnceLock<[Option<OsString>; VARIABLES.len()]> = OnceLock::new();

#[cfg(target_os = "linux")]
static LOG: std::sync::Mutex<Option<super::log::Log>> = std::sync::Mutex::new(None);

/// To be called first in `main`, after [`crate::cpu::rank_main`]: has NCCL and RCCL write how they connect the GPUs of this process to
/// where only it reads, unless a user has them write elsewhere. Does nothing where other threads run already.
#[cfg(target_os = "linux")]
pub fn listen() {
    let alone = std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1);
    if !alone || Said::by_the_environment().is_some() {
        return;
    }
    let found = VARIABLES.map(std::env::var_os);
    // SAFETY: no other thread runs, as was just seen.
    let log = unsafe { super::log::Log::begin(false) };
    if log.is_open() && FOUND.set(found).is_ok() {
        *LOG.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(log);
    }
}

/// Elsewhere there is no such memory.
#[cfg(not(target_os = "linux"))]
pub fn listen() {}

/// Gives a child the environment as it was found: what this process's library writes to is not the child's.
pub fn as_found(command: &mut Command) {
    for (name, found) in VARIABLES.iter().zip(FOUND.get().into_iter().flatten()) {
        match found {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
}

/// The environment as it was found.
#[must_use]
pub fn environment() -> Vec<(OsString, OsString)> {
    let Some(found) = FOUND.get() else { return std::env::vars_os().collect() };
    let ours = |name: &OsString| VARIABLES.iter().any(|ours| name == ours);
    let rest = std::env::vars_os().filter(|(name, _)| !ours(name));
    let before = VARIABLES.iter().zip(found).filter_map(|(name, value)| Some((name.into(), value.clone()?)));
    rest.chain(before).collect()
}

/// What the library of this process has written so far, here or where a user has it write; None where nothing is read.
#[must_use]
pub fn said() -> Option<Said> {
    #[cfg(target_os = "linux")]
    if let Some(log) = LOG.lock().unwrap_or_else(std::sync::PoisonError::into_inner).as_mut() {
        return Some(log.said());
    }
    Said::by_the_environment()
}
