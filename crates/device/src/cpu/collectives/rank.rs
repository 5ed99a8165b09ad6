//! A rank: a process of this program that does nothing but its share of collectives, and ends with its parent.

use super::ops;
use super::segment::{Command, Segment};
use crate::cpu::affinity;
use crate::{DeviceError, Result};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command as Process, Stdio};
use std::time::Instant;

/// The hidden first argument.
const FLAG: &str = "__rank";

/// Starts rank `rank` on `core`.
pub(super) fn spawn(segment: &Segment, rank: usize, core: usize) -> Result<Child> {
    let failed = |error: std::io::Error| DeviceError::Call {
        call: "starting a rank",
        code: i64::from(error.raw_os_error().unwrap_or(0)),
        message: error.to_string(),
    };
    let program = std::env::current_exe().map_err(failed)?;
    let mut process = Process::new(program);
    process
        .arg(FLAG)
        .arg(segment.fd().to_string())
        .arg(rank.to_string())
        .arg(core.to_string())
        .arg(std::process::id().to_string());
    process.stdin(Stdio::null()).stdout(Stdio::null());
    // In a process group of its own a rank does not get the terminal's Ctrl-C: the parent decides when it ends.
    process.process_group(0);
    process.spawn().map_err(failed)
}

/// To be called first in `main`: if this process was started as a rank, serves until the parent is done, and returns true.
#[must_use]
pub fn main() -> bool {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() != Some(FLAG) {
        return false;
    }
    let mut number = || args.next().and_then(|a| a.parse::<i64>().ok());
    let (Some(fd), Some(rank), Some(core), Some(parent)) = (number(), number(), number(), number()) else { return true };
    // SAFETY: asks the kernel to end this process with its parent; takes no pointer.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    // SAFETY: takes nothing. A parent that died before the line above is noticed here.
    if i64::from(unsafe { libc::getppid() }) != parent {
        return true;
    }
    affinity::pin(core as usize);
    if let Ok(segment) = Segment::open(fd as i32)
        && (rank as usize) < segment.problem().ranks
    {
        serve(&segment, rank as usize);
    }
    true
}

/// Does what the parent posts until it says to end.
pub(super) fn serve(segment: &Segment, rank: usize) {
    // SAFETY: takes nothing.
    let parent = unsafe { libc::getppid() };
    // SAFETY: as above.
    let alive = || unsafe { libc::getppid() } == parent;
    let mut epoch = 0;
    while let Some((next, command, argument)) = segment.wait(rank, epoch, &alive) {
        epoch = next;
        let mut nanoseconds = 0;
        match command {
            Command::Exit => return,
            Command::Start => ops::fill(segment, rank),
            Command::Poison => ops::poison(segment, rank),
            Command::Run => {
                // Two barriers: the first collects ranks that wake up late, the second starts them together.
                if !(segment.barrier(super::PATIENCE) && segment.barrier(super::PATIENCE)) {
                    return;
                }
                let start = Instant::now();
                for _ in 0..argument {
                    if !ops::run(segment, rank) {
                        return;
                    }
                }
                nanoseconds = start.elapsed().as_nanos() as u64;
            }
        }
        segment.finish(rank, epoch, nanoseconds);
    }
}
