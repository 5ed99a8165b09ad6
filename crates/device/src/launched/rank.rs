//! A rank of a launched job: a process of its own, started by its launched process, which does what it is told and gives a sign of
//! life four times a second. What connects it to the others is a [`Worker`]'s business.

use super::agent::between_relatives;
use super::beside::Own;
use super::channel::{MOST_BODY, Receiver, Secret, Sender, Side, greet};
use super::descriptors;
use super::device::OnDevice;
use super::host::Buffers;
use super::message::{Connected, Order, Report, Start};
use super::mpi::Mpi;
use super::tcp::{Listening, Tcp};
use super::world::{self, MOST_RANKS, World};
use crate::beside::MakeBeside;
use crate::transport::{Log, Said};
use crate::{Checked, CollectiveProblem, DeviceError, Result};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::fd::FromRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The hidden first argument of such a process; a descriptor and what to start follow it.
pub(super) const FLAG: &str = "__launched-rank";
/// Time between two signs of life.
const PULSE: Duration = Duration::from_millis(250);

/// How far a rank has got, for the signs of life.
#[derive(Default)]
pub(super) struct Progress {
    begun: AtomicU64,
    steps: AtomicU64,
}

impl Progress {
    /// So many executions have begun: all ranks count alike.
    pub(super) fn begin(&self, executions: u64) {
        self.begun.fetch_add(executions, Ordering::Relaxed);
    }

    /// A step of what this rank does by itself.
    pub(super) fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    fn report(&self) -> Report {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Report::Progress { begun: read(&self.begun), steps: read(&self.steps) }
    }
}

/// What a rank does.
pub(super) trait Worker {
    /// Who it is among the others.
    fn connected(&self) -> Connected;

    /// Makes and fills the buffers of a collective. The token is what the device's library of rank 0 made for it.
    fn prepare(&mut self, problem: &CollectiveProblem, token: &[u8]) -> Result<()>;

    /// Overwrites what was received, and gives the rank its input anew.
    fn poison(&mut self) -> Result<()>;

    /// Runs the collective so many times, and gives the nanoseconds of all.
    fn run(&mut self, times: u64) -> Result<u64>;

    /// Comes to a collective so many times from a common start, and gives the nanoseconds that it waited for the last to come, and
    /// for whatever all do alike then: who waits least is the latest.
    fn look(&mut self, times: u64) -> Result<Vec<u64>>;

    /// Compares every element that was received with what it must be; None where rank 0 has to.
    fn check(&mut self, tolerance: f64) -> Result<Option<Checked>>;

    /// What was received.
    fn output(&mut self) -> Result<Vec<u8>>;

    /// Sends `times` messages of `bytes` to a partner and receives as many: nanoseconds of the first, and bytes that came wrong.
    fn pair(&mut self, partner: Option<usize>, bytes: u64, times: u64, token: &[u8]) -> Result<(u64, u64)>;

    /// Id of the device that is this rank's alone; None for a share of a host.
    fn device(&self) -> Option<&str> {
        None
    }

    /// What the device's library has written of how it connects the ranks.
    fn tell(&mut self) -> Result<Said> {
        Err(DeviceError::unsupported("no device's library connects this rank"))
    }

    /// What else is known of why something failed.
    fn explain(&mut self, error: DeviceError) -> DeviceError {
        error
    }

    /// Takes leave of the others.
    fn leave(&mut self);
}

/// To be called first in `main`: if this process was started as such a rank, serves until the job is over, and returns true.
#[must_use]
pub(super) fn main(make: Option<MakeBeside>) -> bool {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_none_or(|first| first != FLAG) {
        return false;
    }
    let mut text = || args.next().and_then(|a| a.to_str().map(str::to_owned));
    let (fd, start) = (text().and_then(|a| a.parse::<i32>().ok()), text().and_then(|a| serde_json::from_str(&a).ok()));
    // SAFETY: takes no pointer; only asks whether there is such a descriptor.
    let fd = fd.filter(|fd| *fd > 2 && unsafe { libc::fcntl(*fd, libc::F_GETFD) } >= 0);
    let (Some(fd), Some(start)) = (fd, start) else {
        let _ = writeln!(std::io::stderr(), "ridgepoint: {FLAG} starts a rank of a launched job; it is not for use by hand");
        std::process::exit(2);
    };
    // SAFETY: it is open, was inherited for this purpose and is owned here from now on. No child of this process shall have it.
    let stream = unsafe {
        libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
        UnixStream::from_raw_fd(fd)
    };
    keep_memory();
    // SAFETY: no other thread runs yet.
    let log = unsafe { listen(&start) };
    if let Err(error) = serve(stream, &start, log, Own::none_yet(make)) {
        let _ = writeln!(std::io::stderr(), "ridgepoint: a rank lost its launched process: {error}");
        std::process::exit(1);
    }
    true
}

/// Sets what a library reads before its first call: where to write, and of a sweep what to use.
///
/// # Errors
/// An order that would set what no sweep sets.
///
/// # Safety
/// No other thread may run: variables are set.
unsafe fn listen(start: &Start) -> Result<Log> {
    let Start::Device { swept, .. } = start else { return Ok(Log::default()) };
    let told = swept.as_ref().map_or_else(|| Ok(Vec::new()), |swept| swept.variables()).map_err(DeviceError::invalid)?;
    // SAFETY: no other thread runs, says the caller.
    told.into_iter().for_each(|(name, value)| unsafe { std::env::set_var(name, value) });
    // SAFETY: as above.
    Ok(unsafe { Log::begin(swept.is_some()) })
}

/// Has the allocator keep what is freed. An MPI library allocates as much as it reduces in every call, and whether the next call finds
/// those pages again hung on what the process had allocated before: a reduce-scatter of 16 MiB took 15 ms with their faults, 7 without.
fn keep_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: sets two numbers of the allocator's, before any other thread runs. 32 MiB is the most that it takes of the second.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
    }
}

type Out = Arc<Mutex<Sender<UnixStream>>>;
type In = Receiver<UnixStream>;

fn say(out: &Out, report: &Report, body: &[u8]) -> std::io::Result<()> {
    out.lock().unwrap_or_else(PoisonError::into_inner).send(report, body)
}

fn serve(stream: UnixStream, start: &Start, log: Result<Log>, mut beside: Own) -> std::io::Result<()> {
    let (out, mut input) = greet(stream.try_clone()?, stream, &between_relatives(), Side::Listener)?;
    let out: Out = Arc::new(Mutex::new(out));
    let progress = Arc::new(Progress::default());
    let (pulse, beats) = (Arc::clone(&out), Arc::clone(&progress));
    std::thread::spawn(move || {
        while say(&pulse, &beats.report(), &[]).is_ok() {
            std::thread::sleep(PULSE);
        }
    });
    let mut worker = match log.and_then(|log| connect(start, log, &progress, &out, &mut input)) {
        Ok(worker) => worker,
        Err(error) => {
            say(&out, &answer(Err(error)), &[])?;
            // Nothing was connected: there is no going on, and nothing to take leave of.
            while !matches!(input.receive::<Order>()?.0, Order::Leave) {}
            return Ok(());
        }
    };
    say(&out, &Report::Connected(worker.connected()), &[])?;
    const DONE: Report = Report::Done { nanoseconds: 0 };
    loop {
        let done = match input.receive::<Order>()?.0 {
            Order::Leave => {
                worker.leave();
                return Ok(());
            }
            Order::Prepare { problem, token } => {
                beside.end();
                worker.prepare(&problem, &token).map(|()| DONE)
            }
            Order::Poison => worker.poison().and_then(|()| beside.poison()).map(|()| DONE),
            Order::Run(times) => worker.run(times).map(|nanoseconds| Report::Done { nanoseconds }),
            Order::Look(times) => worker.look(times).map(|waited| Report::Looked { waited }),
            Order::Output => match worker.output() {
                Ok(bytes) => {
                    // At least one message, the last of which says so.
                    let parts = bytes.len().div_ceil(MOST_BODY).max(1);
                    for part in 0..parts {
                        let range = part * MOST_BODY..((part + 1) * MOST_BODY).min(bytes.len());
                        say(&out, &Report::Output { last: part + 1 == parts }, &bytes[range])?;
                    }
                    continue;
                }
                Err(error) => Err(error),
            },
            Order::Check { tolerance } => worker.check(tolerance).and_then(|found| match found {
                Some(found) => Ok(checked(found)),
                None => Err(DeviceError::unsupported("this rank checks nothing by itself")),
            }),
            Order::Pair { partner, bytes, times, token } => {
                worker.pair(partner, bytes, times, &token).map(|(nanoseconds, wrong)| Report::Paired { nanoseconds, wrong })
            }
            Order::Beside { size, dtype, seed } => {
                beside.ready(worker.as_ref(), &size, dtype, seed).map(|by| Report::Beside { by })
            }
            Order::Together { times, collective, beside: with } => {
                let took = beside.together(worker.as_mut(), times, collective, with);
                took.map(|nanoseconds| Report::Done { nanoseconds })
            }
            Order::CheckBeside => beside.check().map(checked),
            Order::Tell => worker.tell().map(Report::Said),
            Order::Start(_) | Order::Addresses(_) | Order::Connect { .. } | Order::Join { .. } | Order::Dismiss => {
                Err(DeviceError::invalid("no order for a rank"))
            }
        };
        let done = done.map_err(|error| worker.explain(error));
        say(&out, &answer(done), &[])?;
    }
}

fn checked(Checked { checked, wrong, error }: Checked) -> Report {
    Report::Checked { checked, wrong, error: error.to_bits() }
}

fn answer(done: Result<Report>) -> Report {
    match done {
        Ok(report) => report,
        Err(DeviceError::Unsupported(reason)) => Report::Unable { reason },
        Err(error) => Report::Failed { reason: error.to_string() },
    }
}

/// Hears of all ranks' addresses, and by what they prove themselves.
fn others(input: &mut Receiver<impl Read>) -> Result<(Vec<SocketAddr>, Secret)> {
    let mut all = Vec::new();
    loop {
        match input.receive::<Order>() {
            Ok((Order::Addresses(part), _)) if all.len() + part.len() <= MOST_RANKS => all.extend(part),
            Ok((Order::Connect { secret }, _)) => return Ok((all, Secret::new(secret).map_err(DeviceError::invalid)?)),
            Ok(_) => return Err(DeviceError::invalid("the addresses of the others did not come")),
            Err(error) => return Err(DeviceError::invalid(format!("the launched process: {error}"))),
        }
    }
}

/// Connects this rank to the others.
fn connect(start: &Start, log: Log, progress: &Arc<Progress>, out: &Out, input: &mut In) -> Result<Box<dyn Worker>> {
    let world: Option<World> = world::find(&|name| std::env::var(name).ok()).map_err(DeviceError::invalid)?;
    let world = world.ok_or_else(|| DeviceError::invalid("no launcher's variables are set"))?;
    match start {
        Start::Mpi => Ok(Box::new(Buffers::new(Mpi::connect(world.launcher)?, progress))),
        Start::Device { backend, .. } => Ok(Box::new(OnDevice::open(&world, backend, log, progress)?)),
        Start::Tcp { address } => {
            let lost = |e: std::io::Error| DeviceError::invalid(format!("the launched process: {e}"));
            let (listening, address) = Listening::on(*address)?;
            say(out, &Report::Listening { address }, &[]).map_err(lost)?;
            let (addresses, secret) = others(input)?;
            descriptors::room(&format!("rank {}", world.rank), addresses.len(), 1).map_err(DeviceError::unsupported)?;
            Ok(Box::new(Buffers::new(Tcp::new(listening.connect(world.rank, &addresses, &secret)?), progress)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv6Addr;

    /// What rank 0 tells a rank, by way of the messages themselves.
    fn heard(all: &[SocketAddr]) -> Result<(Vec<SocketAddr>, Secret)> {
        let (near, far) = UnixStream::pair().unwrap();
        let told = all.to_vec();
        let rank_0 = std::thread::spawn(move || {
            let (mut out, _) = greet(near.try_clone().unwrap(), near, &between_relatives(), Side::Caller).unwrap();
            let orders = Order::of_addresses(&told).chain([Order::Connect { secret: "a secret of enough bytes".into() }]);
            // A rank that refuses them has hung up.
            orders.into_iter().try_for_each(|order| out.send(&order, &[]))
        });
        let (_, mut input) = greet(far.try_clone().unwrap(), far, &between_relatives(), Side::Listener).unwrap();
        let heard = others(&mut input);
        drop(input);
        let sent = rank_0.join().unwrap();
        assert!(sent.is_ok() || heard.is_err(), "{sent:?}");
        heard
    }

    #[test]
    fn addresses_of_twenty_thousand_ranks_arrive_in_their_order() {
        let longest = Ipv6Addr::new(0xfd00, 0xaaaa, 0xbbbb, 0xcccc, 0xdddd, 0xeeee, 0xffff, 0x9999);
        let all: Vec<SocketAddr> = (0..20_000).map(|rank| SocketAddr::new(longest.into(), 40_000 + rank)).collect();
        assert!(heard(&all).unwrap().0 == all);
        let most = vec![all[0]; MOST_RANKS + 1];
        assert_eq!(heard(&most[1..]).unwrap().0.len(), MOST_RANKS);
        assert!(heard(&most).err().unwrap().to_string().contains("did not come"));
    }
}
