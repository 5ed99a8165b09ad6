//! What a launched process does for its rank: it starts the rank's own process, passes orders and reports on, and sees to it that
//! nothing of it stays. The rank proper is a child, so that one that hangs or dies takes no launcher's process with it.

use super::channel::{Receiver, Secret, Sender, Side, greet};
use super::meeting::{In, Out};
use super::message::{Order, Report, Start};
use super::rank::FLAG;
use crate::cpu::collectives::Joined;
use crate::{DeviceError, Result};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A rank that is told to end gets so long; MPI's own end waits for all ranks.
pub(super) const GRACE: Duration = Duration::from_secs(5);
/// How often a child is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Between a parent and its child there is no stranger: the pair of sockets has no name.
pub(super) fn between_relatives() -> Secret {
    Secret::new(*b"a socket pair without a name").unwrap_or_else(|_| unreachable!("it is long enough"))
}

/// Serves until rank 0 says that the job is over, or is gone.
pub(super) fn serve(mut input: In, out: Out) {
    let out = Arc::new(Mutex::new(out));
    let mut own: Option<Own> = None;
    loop {
        let Ok((order, _)) = input.receive::<Order>() else {
            // Rank 0 is gone, and with it whatever this was for.
            return drop(own);
        };
        match order {
            Order::Leave => {
                if let Some(Own::Told { to, .. }) = &mut own {
                    // One that is gone already has said so.
                    let _ = to.send(&Order::Leave, &[]);
                }
                if let Some(own) = &mut own {
                    own.wait(GRACE);
                }
                return;
            }
            Order::Dismiss => own = None,
            Order::Start(_) | Order::Join { .. } => {
                own = None;
                report(&out, &Report::Starting);
                match Own::start(&order, &out) {
                    Ok(started) => own = Some(started),
                    Err(error) => report(&out, &Report::Unable { reason: error.to_string() }),
                }
            }
            order => match &mut own {
                // A child that is gone is reported by whoever watches it.
                Some(Own::Told { to, .. }) => drop(to.send(&order, &[])),
                _ => report(&out, &Report::Unable { reason: "no process of this rank was started".into() }),
            },
        }
    }
}

fn report(out: &Mutex<Out>, report: &Report) {
    // Where rank 0 is gone there is no one to tell; the next receive ends this.
    let _ = out.lock().unwrap_or_else(PoisonError::into_inner).send(report, &[]);
}

/// The rank's own process.
enum Own {
    /// Does what it is told.
    Told { child: Arc<Mutex<Child>>, to: Sender<UnixStream>, passing: Option<JoinHandle<()>> },
    /// Follows rank 0 through shared memory.
    Shared { rank: Arc<Mutex<Joined>> },
}

impl Own {
    fn start(order: &Order, out: &Arc<Mutex<Out>>) -> Result<Self> {
        match order {
            &Order::Join { process, fd, rank, child } => {
                let rank = Arc::new(Mutex::new(Joined::start(process, fd, rank)?));
                let (watched, out) = (Arc::downgrade(&rank), Arc::clone(out));
                std::thread::spawn(move || {
                    // Until it is dismissed, or gone.
                    while let Some(rank) = watched.upgrade() {
                        let gone = rank.lock().unwrap_or_else(PoisonError::into_inner).gone();
                        drop(rank);
                        if let Some(how) = gone {
                            return report(&out, &Report::Gone { how, child });
                        }
                        std::thread::sleep(LOOK);
                    }
                });
                Ok(Self::Shared { rank })
            }
            Order::Start(start) => Self::told(start, out),
            _ => Err(DeviceError::invalid("no order to start a rank")),
        }
    }

    fn told(start: &Start, out: &Arc<Mutex<Out>>) -> Result<Self> {
        let failed = |e: io::Error| DeviceError::Call {
            call: "starting a rank",
            code: i64::from(e.raw_os_error().unwrap_or(0)),
            message: e.to_string(),
        };
        let (here, there) = UnixStream::pair().map_err(failed)?;
        let fd = there.as_raw_fd();
        // By this name it is found even if the file was replaced meanwhile, as by a build.
        let mut process = Command::new("/proc/self/exe");
        process.arg0("ridgepoint").args([FLAG, &fd.to_string(), &serde_json::to_string(start).unwrap_or_default()]);
        crate::transport::as_found(&mut process);
        // What the library itself has to say goes where errors go.
        process.stdin(Stdio::null()).stdout(io::stderr());
        // Ctrl-C is for rank 0 to act on.
        process.process_group(0);
        // SAFETY: between fork and exec only two system calls are made, which allocate nothing and take no lock.
        unsafe {
            process.pre_exec(move || {
                // The descriptor is kept over exec in this child alone, and the child dies with this thread.
                if libc::fcntl(fd, libc::F_SETFD, 0) != 0 {
                    return Err(io::Error::last_os_error());
                }
                #[cfg(target_os = "linux")]
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = Arc::new(Mutex::new(process.spawn().map_err(failed)?));
        drop(there);
        let reader = here.try_clone().map_err(failed)?;
        let (to, from) = greet(reader, here, &between_relatives(), Side::Caller).map_err(failed)?;
        let (watched, out) = (Arc::clone(&child), Arc::clone(out));
        let passing = std::thread::spawn(move || pass_on(from, &watched, &out));
        Ok(Self::Told { child, to, passing: Some(passing) })
    }

    /// Waits for its end, and makes it end after `grace`.
    fn wait(&mut self, grace: Duration) {
        let deadline = Instant::now() + grace;
        let gone = |own: &mut Self| match own {
            Self::Told { child, .. } => !matches!(child.lock().unwrap_or_else(PoisonError::into_inner).try_wait(), Ok(None)),
            Self::Shared { rank } => rank.lock().unwrap_or_else(PoisonError::into_inner).gone().is_some(),
        };
        while !gone(self) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        match self {
            Self::Told { child, passing, .. } => {
                let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
                // Both fail only where it has ended already.
                let _ = child.kill();
                let _ = child.wait();
                drop(child);
                // Its last words are passed on before those of another.
                let _ = passing.take().map(JoinHandle::join);
            }
            Self::Shared { rank } => rank.lock().unwrap_or_else(PoisonError::into_inner).end(),
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.wait(Duration::ZERO);
    }
}

/// Passes a rank's reports on until it is gone, and says how it went.
fn pass_on(mut from: Receiver<UnixStream>, child: &Mutex<Child>, out: &Mutex<Out>) {
    while let Ok((message, body)) = from.receive::<Report>() {
        if out.lock().unwrap_or_else(PoisonError::into_inner).send(&message, &body).is_err() {
            return;
        }
    }
    // It has closed its end: it is gone, or will be in no time.
    for _ in 0..100 {
        match child.lock().unwrap_or_else(PoisonError::into_inner).try_wait() {
            Ok(Some(status)) => return report(out, &Report::Gone { how: status.to_string(), child: 0 }),
            Ok(None) => std::thread::sleep(LOOK),
            Err(_) => break,
        }
    }
    report(out, &Report::Gone { how: "it closed its connection".into(), child: 0 });
}
