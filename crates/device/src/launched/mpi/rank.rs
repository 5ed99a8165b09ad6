//! A rank that an MPI library connects: a process of its own, started by its launched process, which does what it is told and
//! gives a sign of life four times a second.

use super::library::{Handle, Mpi};
use crate::cpu::collectives::Fault;
use crate::cpu::collectives::reduce::reduce;
use crate::dl::CallError;
use crate::launched::agent::{FLAG, between_relatives};
use crate::launched::channel::{MOST_BODY, Sender, Side, greet};
use crate::launched::message::{Connected, Order, Report};
use crate::launched::world;
use crate::{CollectiveOp as Op, CollectiveProblem, DeviceError, Redop, Result};
use ridgepoint_core::{Bytes, Dtype};
use std::ffi::{c_int, c_void};
use std::io::Write;
use std::os::fd::FromRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Time between two signs of life.
const PULSE: Duration = Duration::from_millis(250);
/// What is to go wrong, for tests: `corrupt:1` at rank 1, `die:1:2` once two collectives are done. Records of such a run say so.
pub(in crate::launched) const FAULT: &str = "RIDGEPOINT_TEST_FAULT";
/// How often the messages of a pair are exchanged.
const REPEATS: u32 = 3;
/// How long a slow rank sleeps before each execution.
const SLOW: Duration = Duration::from_millis(2);

/// To be called first in `main`: if this process was started as such a rank, serves until the job is over, and returns true.
#[must_use]
pub(crate) fn main() -> bool {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_none_or(|first| first != FLAG) {
        return false;
    }
    let fd = args.next().and_then(|a| a.to_str()?.parse::<i32>().ok()).filter(|fd| *fd > 2);
    // SAFETY: takes no pointer; only asks whether there is such a descriptor.
    let Some(fd) = fd.filter(|fd| unsafe { libc::fcntl(*fd, libc::F_GETFD) } >= 0) else {
        let _ = writeln!(std::io::stderr(), "ridgepoint: {FLAG} starts a rank of a launched job; it is not for use by hand");
        std::process::exit(2);
    };
    // SAFETY: it is open, was inherited for this purpose and is owned here from now on. No child of this process shall have it.
    let stream = unsafe {
        libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
        UnixStream::from_raw_fd(fd)
    };
    if let Err(error) = serve(stream) {
        let _ = writeln!(std::io::stderr(), "ridgepoint: a rank lost its launched process: {error}");
        std::process::exit(1);
    }
    true
}

type Out = Arc<Mutex<Sender<UnixStream>>>;

fn say(out: &Out, report: &Report, body: &[u8]) -> std::io::Result<()> {
    out.lock().unwrap_or_else(PoisonError::into_inner).send(report, body)
}

fn serve(stream: UnixStream) -> std::io::Result<()> {
    let (out, mut input) = greet(stream.try_clone()?, stream, &between_relatives(), Side::Listener)?;
    let out: Out = Arc::new(Mutex::new(out));
    let begun = Arc::new(AtomicU64::new(0));
    let (pulse, beats) = (Arc::clone(&out), Arc::clone(&begun));
    std::thread::spawn(move || {
        while say(&pulse, &Report::Progress { begun: beats.load(Ordering::Relaxed) }, &[]).is_ok() {
            std::thread::sleep(PULSE);
        }
    });
    let mut rank = match Rank::connect(begun) {
        Ok((rank, connected)) => {
            say(&out, &Report::Connected(connected), &[])?;
            rank
        }
        Err(error) => {
            say(&out, &answer(Err(error)), &[])?;
            // Nothing was connected: there is no going on, and nothing to take leave of.
            while !matches!(input.receive::<Order>()?.0, Order::Leave) {}
            return Ok(());
        }
    };
    loop {
        let done = match input.receive::<Order>()?.0 {
            Order::Leave => {
                rank.leave();
                return Ok(());
            }
            Order::Prepare(problem) => rank.prepare(&problem),
            Order::Poison => rank.poison(),
            Order::Run(times) => rank.run(times),
            Order::Output => {
                let bytes = rank.received();
                let mut parts = bytes.chunks(MOST_BODY).peekable();
                while let Some(part) = parts.next() {
                    if parts.peek().is_some() {
                        say(&out, &Report::Output { last: false }, part)?;
                    } else {
                        say(&out, &Report::Output { last: true }, part)?;
                    }
                }
                if !bytes.is_empty() {
                    continue;
                }
                say(&out, &Report::Output { last: true }, &[])?;
                continue;
            }
            Order::Pair { partner, bytes, times } => rank.pair(partner, bytes, times),
            Order::StartMpi | Order::Join { .. } | Order::Dismiss => Err(DeviceError::invalid("no order for a rank")),
        };
        say(&out, &answer(done), &[])?;
    }
}

fn answer(done: Result<Report>) -> Report {
    match done {
        Ok(report) => report,
        Err(DeviceError::Unsupported(reason)) => Report::Unable { reason },
        Err(error) => Report::Failed { reason: error.to_string() },
    }
}

const DONE: Report = Report::Done { nanoseconds: 0, working: 0 };

/// A rank at work.
struct Rank {
    mpi: Mpi,
    rank: usize,
    size: usize,
    /// Executions begun since the start.
    begun: Arc<AtomicU64>,
    fault: Option<Fault>,
    slow: bool,
    /// Collectives that are still made ready before the fault.
    spared: u64,
    work: Option<Work>,
}

/// A collective made ready.
struct Work {
    problem: CollectiveProblem,
    send: Vec<u8>,
    receive: Vec<u8>,
    element: Element,
}

/// What a reduction is told of its elements; those that MPI lacks are made of bytes, with a function of ours.
struct Element {
    datatype: Handle,
    op: Handle,
    own: bool,
}

/// A library's code is its own: it means nothing to a driver's table.
fn failed(error: CallError) -> DeviceError {
    match error.status() {
        Some(code) => DeviceError::Call { call: error.call, code: i64::from(code), message: error.meaning().to_owned() },
        None => DeviceError::unsupported(error.to_string()),
    }
}

impl Rank {
    fn connect(begun: Arc<AtomicU64>) -> Result<(Self, Connected)> {
        let world = world::find(&|name| std::env::var(name).ok()).map_err(DeviceError::invalid)?;
        let world = world.ok_or_else(|| DeviceError::invalid("no launcher's variables are set"))?;
        let mpi = Mpi::load(world.launcher)?;
        let (mut rank, mut size) = (0, 0);
        // SAFETY: MPI may be initialised without arguments, by the one thread that calls it; the numbers are writable, and the
        // handles are the library's own.
        unsafe {
            mpi.table.init(std::ptr::null_mut(), std::ptr::null_mut()).map_err(failed)?;
            mpi.table.comm_set_errhandler(mpi.world, mpi.errors_return()?).map_err(failed)?;
            mpi.table.comm_rank(mpi.world, &raw mut rank).map_err(failed)?;
            mpi.table.comm_size(mpi.world, &raw mut size).map_err(failed)?;
        }
        let (rank, size) = (rank as usize, size as usize);
        let connected = Connected { rank, size, library: mpi.version(), path: mpi.table.library.path.display().to_string() };
        let (mut fault, mut slow, mut spared) = (None, false, 0);
        let planted = std::env::var(FAULT).unwrap_or_default();
        let mut planted = planted.split(':');
        if let (Some(what), Some(at)) = (planted.next(), planted.next())
            && at.parse() == Ok(rank)
        {
            slow = what == "slow";
            fault = Fault::named(what);
            spared = planted.next().and_then(|n| n.parse().ok()).unwrap_or(0);
        }
        Ok((Self { mpi, rank, size, begun, fault, slow, spared, work: None }, connected))
    }

    fn prepare(&mut self, problem: &CollectiveProblem) -> Result<Report> {
        let done = self.work.is_some();
        self.release();
        self.spared = self.spared.saturating_sub(u64::from(done));
        if problem.ranks != self.size {
            return Err(DeviceError::unsupported(format!("{} ranks were launched, not {}", self.size, problem.ranks)));
        }
        if problem.registration != crate::Registration::None {
            return Err(DeviceError::unsupported("MPI registers buffers by itself"));
        }
        if problem.in_place && !problem.op.in_place() {
            return Err(DeviceError::unsupported(format!("{} has no in-place form", problem.op.name())));
        }
        if problem.bytes.0 > i32::MAX as u64 {
            return Err(DeviceError::unsupported(format!("MPI counts to 2 GiB less one byte; {} is more", problem.bytes)));
        }
        let free = crate::cpu::available_memory();
        if free.is_some_and(|free| problem.bytes.0.saturating_mul(2) > free.0) {
            return Err(DeviceError::OutOfMemory { requested: problem.bytes * 2, free });
        }
        let element = self.element(problem)?;
        let len = problem.count() * problem.size();
        let send = if problem.in_place { Vec::new() } else { vec![0; len] };
        self.work = Some(Work { problem: *problem, send, receive: vec![0; len], element });
        let Some(work) = &mut self.work else { return Ok(DONE) };
        if !problem.in_place {
            let sends = problem.sends(self.rank) * problem.size();
            problem.fill(self.rank, 0, &mut work.send[..sends]);
        }
        self.poison()
    }

    /// The datatype and operation of a reduction.
    fn element(&self, problem: &CollectiveProblem) -> Result<Element> {
        let mpi = &self.mpi;
        if !problem.op.reduces() {
            return Ok(Element { datatype: mpi.byte, op: std::ptr::null_mut(), own: false });
        }
        let op = mpi.op(problem.redop)?;
        if let Some(datatype) = mpi.datatype(problem.dtype) {
            return Ok(Element { datatype: datatype?, op, own: false });
        }
        if !crate::cpu::collectives::reduce::DTYPES.contains(&problem.dtype) {
            return Err(DeviceError::unsupported(format!("no rank here combines {}", problem.dtype)));
        }
        OWN_DTYPE.store(position(&Dtype::ALL, problem.dtype), Ordering::Relaxed);
        OWN_REDOP.store(position(&Redop::ALL, problem.redop), Ordering::Relaxed);
        let (mut datatype, mut op): (Handle, Handle) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: both handles are writable; the function has MPI's signature and lives as long as the program.
        unsafe {
            mpi.table.type_contiguous(problem.size() as c_int, mpi.byte, &raw mut datatype).map_err(failed)?;
            mpi.table.type_commit(&raw mut datatype).map_err(failed)?;
            mpi.table.op_create(combine, 1, &raw mut op).map_err(failed)?;
        }
        Ok(Element { datatype, op, own: true })
    }

    fn release(&mut self) {
        if let Some(Work { element: Element { mut datatype, mut op, own: true }, .. }) = self.work.take() {
            // SAFETY: made in `element`, freed once; what a library says to that changes nothing here.
            unsafe {
                let _ = self.mpi.table.op_free(&raw mut op);
                let _ = self.mpi.table.type_free(&raw mut datatype);
            }
        }
    }

    fn poison(&mut self) -> Result<Report> {
        let work = self.work.as_mut().ok_or_else(|| DeviceError::invalid("no collective was made ready"))?;
        work.receive.fill(0xff);
        if work.problem.in_place {
            refill(work, self.rank);
        }
        Ok(DONE)
    }

    fn run(&mut self, times: u64) -> Result<Report> {
        let Self { mpi, rank, size, begun, fault, slow, spared, work } = self;
        let fault = fault.filter(|_| *spared == 0);
        let work = work.as_mut().ok_or_else(|| DeviceError::invalid("no collective was made ready"))?;
        let p = work.problem;
        let consumes = p.consumes();
        if p.op == Op::Broadcast && *rank == p.root && !p.in_place {
            // MPI's broadcast knows one buffer; what the root itself gets is not moved by it, and not timed.
            work.receive.copy_from_slice(&work.send);
        }
        // SAFETY: the library's own communicator.
        let meet = || unsafe { mpi.table.barrier(mpi.world) }.map_err(failed);
        meet()?;
        meet()?;
        let start = Instant::now();
        let (mut spent, mut working) = (Duration::ZERO, Duration::ZERO);
        for i in 0..times {
            if consumes {
                refill(work, *rank);
                meet()?;
            }
            match fault {
                Some(Fault::Die) => std::process::abort(),
                Some(Fault::Hang) => std::thread::sleep(Duration::from_secs(3600)),
                _ => {}
            }
            begun.fetch_add(1, Ordering::Relaxed);
            // A look at the clock takes as long as a small collective: only the last execution is looked at.
            let looked = (consumes || i + 1 == times).then(Instant::now);
            if *slow && *spared == 0 {
                std::thread::sleep(SLOW);
            }
            execute(mpi, work, *rank, *size).map_err(failed)?;
            if let Some(looked) = looked {
                working = looked.elapsed();
                spent += working;
            }
        }
        let took = if consumes { spent } else { start.elapsed() };
        meet()?;
        let (at, len) = range(&p, *rank);
        match fault {
            // As from a flaky link: a power of two away, whatever the dtype.
            Some(Fault::Corrupt) if len > 0 => work.receive[at + p.size() - 1] ^= 1,
            Some(Fault::Unwritten) => work.receive[at..at + len.min(8)].fill(0xff),
            _ => {}
        }
        Ok(Report::Done { nanoseconds: took.as_nanos() as u64, working: working.as_nanos() as u64 })
    }

    fn received(&self) -> &[u8] {
        let Some(work) = &self.work else { return &[] };
        let (at, len) = range(&work.problem, self.rank);
        &work.receive[at..at + len]
    }

    /// Exchanges messages with one other rank; all meet before and after.
    fn pair(&mut self, partner: Option<usize>, bytes: u64, times: u64) -> Result<Report> {
        self.release();
        let stream = |_: usize| CollectiveProblem::new(Op::SendRecv, self.size, Bytes(bytes), Dtype::F32);
        let len = usize::try_from(bytes).ok().filter(|n| *n <= i32::MAX as usize);
        let len = len.ok_or_else(|| DeviceError::unsupported("MPI counts to 2 GiB less one byte"))?;
        let (mut send, mut receive) = (vec![0u8; len], vec![0xffu8; len]);
        stream(self.rank).fill(self.rank, 0, &mut send);
        let Self { mpi, begun, rank, .. } = self;
        // SAFETY: the library's own communicator.
        let meet = || unsafe { mpi.table.barrier(mpi.world) }.map_err(failed);
        let n = len as c_int;
        let say = |bytes: c_int, peer: c_int| {
            // SAFETY: the buffer holds so many bytes.
            unsafe { mpi.table.send(send.as_ptr().cast(), bytes, mpi.byte, peer, 0, mpi.world) }.map_err(failed)
        };
        let hear = |receive: &mut [u8], bytes: c_int, peer: c_int| {
            // SAFETY: the buffer holds so many bytes; a null status is MPI_STATUS_IGNORE in both ABIs.
            unsafe { mpi.table.recv(receive.as_mut_ptr().cast(), bytes, mpi.byte, peer, 0, mpi.world, std::ptr::null_mut()) }
                .map_err(failed)
        };
        // One way, then the other, so that a link that is slow in one direction is seen: all messages, then a word that they came.
        let exchange = |receive: &mut [u8], times: u64| -> Result<Duration> {
            let Some(partner) = partner else { return Ok(Duration::ZERO) };
            let peer = partner as c_int;
            let mut took = Duration::ZERO;
            for sending in if *rank < partner { [true, false] } else { [false, true] } {
                let start = Instant::now();
                for _ in 0..times {
                    begun.fetch_add(1, Ordering::Relaxed);
                    if sending { say(n, peer)? } else { hear(receive, n, peer)? }
                }
                if sending {
                    hear(receive.get_mut(..0).unwrap_or_default(), 0, peer)?;
                    took = start.elapsed();
                } else {
                    say(0, peer)?;
                }
            }
            Ok(took)
        };
        // Connections are made at the first message.
        exchange(&mut receive, 1)?;
        receive.fill(0xff);
        meet()?;
        // The best of a few, since a host that was busy meanwhile is no slow link.
        let mut best = Duration::MAX;
        for _ in 0..REPEATS {
            best = best.min(exchange(&mut receive, times)?);
        }
        let nanoseconds = best.as_nanos() as u64;
        meet()?;
        let mut wrong = 0;
        if let Some(partner) = partner {
            if self.fault == Some(Fault::Corrupt) && len > 0 {
                receive[0] ^= 1;
            }
            stream(partner).fill(partner, 0, &mut send);
            wrong = send.iter().zip(&receive).filter(|(a, b)| a != b).count() as u64;
        }
        Ok(Report::Paired { nanoseconds, wrong })
    }

    fn leave(&mut self) {
        self.release();
        // SAFETY: no other call is under way, and none follows. An error at the end changes nothing.
        let _ = unsafe { self.mpi.table.finalize() };
    }
}

/// Where what a rank receives lies, in bytes. In place MPI leaves a reduced part at the beginning.
fn range(p: &CollectiveProblem, rank: usize) -> (usize, usize) {
    let at = if p.op == Op::ReduceScatter { 0 } else { p.receives_from(rank) };
    (at * p.size(), p.receives(rank) * p.size())
}

/// In place: gives a rank its input anew.
fn refill(work: &mut Work, rank: usize) {
    let p = work.problem;
    let (at, len) = (p.sends_from(rank) * p.size(), p.sends(rank) * p.size());
    p.fill(rank, 0, &mut work.receive[at..at + len]);
}

/// One execution.
fn execute(mpi: &Mpi, work: &mut Work, rank: usize, n: usize) -> std::result::Result<(), CallError> {
    let Work { problem: p, send, receive, element } = work;
    let (size, root) = (p.size(), p.root);
    let is_root = rank == root;
    let (t, byte, world) = (&mpi.table, mpi.byte, mpi.world);
    let whole = receive.as_mut_ptr().cast::<c_void>();
    /// The same number in both ABIs.
    const IN_PLACE: *const c_void = std::ptr::without_provenance(1);
    let from: *const c_void = if p.in_place { IN_PLACE } else { send.as_ptr().cast() };
    let (elements, bytes) = (p.count() as c_int, (p.count() * size) as c_int);
    let part = (p.part(rank).len() * size) as c_int;
    // Where a rank that is not the root keeps its part, in place.
    // SAFETY: a part ends within the buffer.
    let own = |start: usize| unsafe { whole.cast::<u8>().add(start * size) }.cast::<c_void>();
    let root_number = root as c_int;
    // SAFETY: every buffer holds what its problem says a rank sends and receives (`prepare`), counts are of it, and the handles
    // are the library's own or were made by it.
    unsafe {
        match p.op {
            Op::AllReduce => t.allreduce(from, whole, elements, element.datatype, element.op, world)?,
            Op::ReduceScatter => {
                t.reduce_scatter_block(from, whole, p.part(rank).len() as c_int, element.datatype, element.op, world)?;
            }
            Op::Reduce => {
                let from = if p.in_place && !is_root { whole.cast_const() } else { from };
                t.reduce(from, whole, elements, element.datatype, element.op, root_number, world)?;
            }
            Op::Broadcast => {
                let buffer = if is_root && !p.in_place { send.as_mut_ptr().cast() } else { whole };
                t.bcast(buffer, bytes, byte, root_number, world)?;
            }
            Op::AllGather => t.allgather(from, part, byte, whole, part, byte, world)?,
            Op::Gather => {
                let from = if p.in_place && !is_root { own(p.sends_from(rank)).cast_const() } else { from };
                t.gather(from, part, byte, whole, part, byte, root_number, world)?;
            }
            Op::Scatter => {
                let to = match p.in_place {
                    true if is_root => IN_PLACE.cast_mut(),
                    true => own(p.receives_from(rank)),
                    false => whole,
                };
                let from = if p.in_place { whole.cast_const() } else { from };
                t.scatter(from, part, byte, to, part, byte, root_number, world)?;
            }
            Op::AllToAll => {
                let share = (p.count() / n * size) as c_int;
                t.alltoall(from, share, byte, whole, share, byte, world)?;
            }
            Op::AllToAllV => {
                let parts = (0..n).map(|peer| p.uneven(rank, peer));
                let (counts, starts): (Vec<c_int>, Vec<c_int>) =
                    parts.map(|part| ((part.len() * size) as c_int, (part.start * size) as c_int)).unzip();
                // What comes from a peer is as long as what goes there, and lies at the same place.
                let (c, s) = (counts.as_ptr(), starts.as_ptr());
                t.alltoallv(from, c, s, byte, whole, c, s, byte, world)?;
            }
            Op::SendRecv => {
                let (to, of) = (((rank + 1) % n) as c_int, ((rank + n - 1) % n) as c_int);
                t.sendrecv(from, bytes, byte, to, 0, whole, bytes, byte, of, 0, world, std::ptr::null_mut())?;
            }
        }
    }
    Ok(())
}

/// What [`combine`] combines: MPI passes no word of ours to it.
static OWN_DTYPE: AtomicU32 = AtomicU32::new(0);
static OWN_REDOP: AtomicU32 = AtomicU32::new(0);

fn position<T: PartialEq>(all: &[T], wanted: T) -> u32 {
    all.iter().position(|x| *x == wanted).unwrap_or(0) as u32
}

/// An operation on elements that MPI does not know: widened, combined, rounded to the dtype.
unsafe extern "C" fn combine(from: *mut c_void, to: *mut c_void, length: *mut c_int, _datatype: *mut Handle) {
    let dtype = Dtype::ALL[OWN_DTYPE.load(Ordering::Relaxed) as usize];
    let redop = Redop::ALL[OWN_REDOP.load(Ordering::Relaxed) as usize];
    let inputs = [from.cast::<u8>().cast_const(), to.cast::<u8>().cast_const()];
    // SAFETY: MPI passes two arrays of `length` elements of the type made for this dtype. The second is also the output, as in a
    // reduction in place.
    unsafe { reduce(dtype, redop, 2, |r| inputs[r], to.cast(), *length as usize) };
}
