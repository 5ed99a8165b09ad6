//! A rank: a process of this program (or a thread of it) that does nothing but its share of collectives, and ends with its parent.

use super::joined::Elsewhere;
use super::ops::Member;
use super::segment::{Command, Segment};
use crate::cpu::affinity;
use crate::{DeviceError, Result};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command as Process, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

/// The hidden first argument.
const FLAG: &str = "__rank";

/// A rank as its parent holds it.
pub(super) enum Rank {
    Process(Child),
    /// Another process's child.
    Elsewhere(Arc<dyn Elsewhere>, usize),
    Thread(Option<JoinHandle<()>>),
}

impl Rank {
    /// Starts rank `rank` on `core`, as a process of this program.
    pub(super) fn process(segment: &Segment, rank: usize, core: usize) -> Result<Self> {
        let failed = |error: std::io::Error| DeviceError::Call {
            call: "starting a rank",
            code: i64::from(error.raw_os_error().unwrap_or(0)),
            message: error.to_string(),
        };
        let fd = segment.fd();
        // By this name it is found even if the file was replaced meanwhile, as by a build.
        let mut process = Process::new("/proc/self/exe");
        process.arg0("ridgepoint").arg(FLAG);
        process.args([fd.to_string(), rank.to_string(), core.to_string(), std::process::id().to_string()]);
        process.stdin(Stdio::null()).stdout(Stdio::null());
        // In a process group of its own a rank does not get the terminal's Ctrl-C: the parent decides when it ends.
        process.process_group(0);
        // SAFETY: between fork and exec only two system calls are made, which allocate nothing and take no lock.
        unsafe {
            process.pre_exec(move || {
                // The descriptor is kept over exec in this child alone. The child dies with the thread that started it, which
                // holds the communicator: that is no `Send`.
                if libc::fcntl(fd, libc::F_SETFD, 0) != 0 || libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        process.spawn().map(Self::Process).map_err(failed)
    }

    /// Starts rank `rank` as a thread of this process: for tests, whose program knows no ranks.
    pub(super) fn thread(segment: &Segment, rank: usize) -> Result<Self> {
        let segment = segment.again()?;
        let work = move || {
            serve(&segment, rank, &|| true);
        };
        let handle = std::thread::Builder::new().name(format!("rank-{rank}")).spawn(work);
        let failed = |error: std::io::Error| DeviceError::Call { call: "starting a rank", code: 0, message: error.to_string() };
        handle.map(|handle| Self::Thread(Some(handle))).map_err(failed)
    }

    /// How it ended, if it did.
    pub(super) fn gone(&mut self) -> Option<String> {
        match self {
            Self::Process(child) => child.try_wait().ok().flatten().map(|status| status.to_string()),
            Self::Elsewhere(elsewhere, rank) => elsewhere.gone(*rank),
            Self::Thread(handle) => handle.as_ref().is_none_or(JoinHandle::is_finished).then(|| "its thread ended".to_owned()),
        }
    }

    /// Makes sure that nothing of it stays. A thread must have been told to end.
    pub(super) fn end(&mut self) {
        match self {
            Self::Process(child) => {
                // Either it has ended already, or it would not: both calls fail only in the first case.
                let _ = child.kill();
                let _ = child.wait();
            }
            Self::Elsewhere(elsewhere, _) => elsewhere.dismiss(),
            Self::Thread(handle) => drop(handle.take().map(JoinHandle::join)),
        }
    }
}

/// To be called first in `main`: if this process was started as a rank, serves until the parent is done, and returns true.
#[must_use]
pub fn main() -> bool {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_none_or(|first| first != FLAG) {
        return false;
    }
    let numbers: Vec<i64> = args.filter_map(|a| a.to_str()?.parse().ok()).collect();
    match attend(&numbers) {
        Ok(true) => true,
        // Stopped by its parent, which knows.
        Ok(false) => std::process::exit(1),
        Err(reason) => {
            // Whoever gave the argument by hand learns why. There is no one else to tell.
            let _ = writeln!(std::io::stderr(), "ridgepoint: {reason}");
            std::process::exit(2);
        }
    }
}

/// Serves as the rank that the arguments name: descriptor, rank, core, parent. True if it was told to end.
fn attend(numbers: &[i64]) -> Result<bool> {
    let &[fd, rank, core, parent] = numbers else {
        return Err(DeviceError::invalid(format!("{FLAG} starts a rank of a collective; it is not for use by hand")));
    };
    // SAFETY: takes nothing.
    let alive = move || i64::from(unsafe { libc::getppid() }) == parent;
    // A parent that died before the child asked to die with it is noticed here.
    if !alive() {
        return Err(DeviceError::invalid(format!("a rank whose parent (process {parent}) is gone has nothing to do")));
    }
    let segment = Segment::open(i32::try_from(fd).unwrap_or(-1))?;
    let rank = usize::try_from(rank).ok().filter(|r| *r < segment.problem().ranks);
    let rank = rank.ok_or_else(|| DeviceError::invalid("there is no such rank"))?;
    affinity::pin(usize::try_from(core).unwrap_or_default());
    Ok(serve(&segment, rank, &alive))
}

/// Does what the parent posts until it says to end; false if that never came.
fn serve(segment: &Segment, rank: usize, alive: &dyn Fn() -> bool) -> bool {
    let mut member = Member::new(segment, rank, alive);
    let slot = segment.slot(rank);
    let mut epoch = 0;
    while let Some((next, command, argument)) = segment.next(epoch, &mut || segment.aborted() || !alive()) {
        epoch = next;
        let done = match command {
            Command::Exit => return true,
            Command::Start => {
                member.fill();
                Some(())
            }
            Command::Poison => {
                member.poison();
                Some(())
            }
            Command::Run => member.run(argument).map(|(nanoseconds, working)| {
                slot.nanoseconds.store(nanoseconds, Ordering::Relaxed);
                slot.working.store(working, Ordering::Relaxed);
            }),
        };
        if done.is_none() {
            return false;
        }
        slot.done.set(epoch);
    }
    false
}
