//! Ranks connected by an MPI library that is found at run time (`library.rs`).

mod library;

use super::host::Fabric;
use super::message::Connected;
use super::world::Launcher;
use crate::cpu::collectives::reduce::{self, reduce};
use crate::dl::CallError;
use crate::{CollectiveOp as Op, CollectiveProblem, DeviceError, Redop, Result};
use library::{Handle, Library};
pub(super) use library::{findings, search};
use ridgepoint_core::Dtype;
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicU32, Ordering};

/// A rank's side of it.
pub(super) struct Mpi {
    library: Library,
    rank: usize,
    size: usize,
    element: Element,
    block: Option<Block>,
    /// What it counts to.
    most: usize,
}

/// So many bytes as one element, where there are more bytes than MPI counts to.
struct Block {
    datatype: Handle,
    bytes: usize,
}

/// What a reduction is told of its elements; those that MPI lacks are made of bytes, with a function of ours.
struct Element {
    datatype: Handle,
    op: Handle,
    own: bool,
}

const NOTHING: Element = Element { datatype: std::ptr::null_mut(), op: std::ptr::null_mut(), own: false };
/// MPI counts with an int. The calls with wider counts are of MPI 4, which Open MPI 4 is not.
const MOST: usize = c_int::MAX as usize;
/// Another limit, for tests: no test has buffers beyond the real one.
const MOST_VARIABLE: &str = "RIDGEPOINT_TEST_MPI_COUNT";
/// Most bytes of a block, and of a message between two ranks.
const BLOCK: usize = 1 << 20;
const MESSAGE: usize = 1 << 30;

/// The largest block of bytes of which everything that is counted is a multiple; the same at all ranks, so that a library that cuts
/// a message into elements cuts it alike everywhere.
fn block(p: &CollectiveProblem) -> usize {
    let smallest = match p.op {
        Op::AllGather | Op::Gather | Op::Scatter | Op::AllToAll => p.count() / p.ranks,
        Op::AllToAllV => 1,
        _ => p.count(),
    };
    1 << (smallest * p.size()).trailing_zeros().min(BLOCK.trailing_zeros())
}

/// Where pieces of so many elements at most begin, and how long they are.
fn pieces(count: usize, most: usize) -> impl Iterator<Item = (usize, c_int)> {
    (0..count).step_by(most).map(move |start| (start, most.min(count - start) as c_int))
}

/// A library's code is its own: it means nothing to a driver's table.
fn failed(error: CallError) -> DeviceError {
    match error.status() {
        Some(code) => DeviceError::Call { call: error.call, code: i64::from(code), message: error.meaning().to_owned() },
        None => DeviceError::unsupported(error.to_string()),
    }
}

impl Mpi {
    /// Has the library of this launcher connect this process to the others.
    pub(super) fn connect(launcher: Launcher) -> Result<Self> {
        let library = Library::load(launcher)?;
        let errors_return = library.errors_return()?;
        let (mut rank, mut size) = (0, 0);
        // SAFETY: MPI may be initialised without arguments, by the one thread that calls it; the numbers are writable, and the
        // handles are the library's own.
        unsafe {
            let t = &library.table;
            t.init(std::ptr::null_mut(), std::ptr::null_mut()).map_err(failed)?;
            t.comm_set_errhandler(library.world, errors_return).map_err(failed)?;
            t.comm_rank(library.world, &raw mut rank).map_err(failed)?;
            t.comm_size(library.world, &raw mut size).map_err(failed)?;
        }
        let most = std::env::var(MOST_VARIABLE).ok().and_then(|text| text.parse().ok());
        let most = most.map_or(MOST, |n: usize| n.clamp(1, MOST));
        Ok(Self { library, rank: rank as usize, size: size as usize, element: NOTHING, block: None, most })
    }

    /// The datatype and operation of a reduction.
    fn element(&self, problem: &CollectiveProblem) -> Result<Element> {
        let library = &self.library;
        if !problem.op.reduces() {
            return Ok(NOTHING);
        }
        let op = library.op(problem.redop)?;
        if let Some(datatype) = library.datatype(problem.dtype) {
            return Ok(Element { datatype: datatype?, op, own: false });
        }
        if !reduce::DTYPES.contains(&problem.dtype) {
            return Err(DeviceError::unsupported(format!("no rank here combines {}", problem.dtype)));
        }
        OWN_DTYPE.store(position(&Dtype::ALL, problem.dtype), Ordering::Relaxed);
        OWN_REDOP.store(position(&Redop::ALL, problem.redop), Ordering::Relaxed);
        let (datatype, mut op): (Handle, Handle) = (self.contiguous(problem.size())?, std::ptr::null_mut());
        // SAFETY: the handle is writable; the function has MPI's signature and lives as long as the program.
        unsafe { library.table.op_create(combine, 1, &raw mut op) }.map_err(failed)?;
        Ok(Element { datatype, op, own: true })
    }

    fn release(&mut self) {
        let Element { mut datatype, mut op, own } = std::mem::replace(&mut self.element, NOTHING);
        if own {
            // SAFETY: made in `element`, freed once; what a library says to that changes nothing here.
            unsafe {
                let _ = self.library.table.op_free(&raw mut op);
                let _ = self.library.table.type_free(&raw mut datatype);
            }
        }
        if let Some(Block { mut datatype, .. }) = self.block.take() {
            // SAFETY: as above, made in `ready`.
            let _ = unsafe { self.library.table.type_free(&raw mut datatype) };
        }
    }

    /// A type of so many bytes.
    fn contiguous(&self, bytes: usize) -> Result<Handle> {
        let mut datatype: Handle = std::ptr::null_mut();
        // SAFETY: the handle is writable.
        unsafe {
            self.library.table.type_contiguous(bytes as c_int, self.library.byte, &raw mut datatype).map_err(failed)?;
            self.library.table.type_commit(&raw mut datatype).map_err(failed)?;
        }
        Ok(datatype)
    }

    /// The library's call for one execution.
    fn call(&self, p: &CollectiveProblem, send: &mut [u8], receive: &mut [u8]) -> std::result::Result<(), CallError> {
        let (rank, n, size, root) = (self.rank, self.size, p.size(), p.root);
        let is_root = rank == root;
        let (t, world) = (&self.library.table, self.library.world);
        // What is moved is counted in bytes, or in blocks of them.
        let (byte, unit) = self.block.as_ref().map_or((self.library.byte, 1), |block| (block.datatype, block.bytes));
        let whole = receive.as_mut_ptr().cast::<c_void>();
        let in_place = self.library.in_place();
        let from: *const c_void = if p.in_place { in_place } else { send.as_ptr().cast() };
        let counted = |elements: usize| (elements * size / unit) as c_int;
        let (bytes, part) = (counted(p.count()), counted(p.part(rank).len()));
        // SAFETY: a part ends within the buffer.
        let at = |start: usize| unsafe { whole.cast::<u8>().add(start * size) }.cast::<c_void>();
        let root_number = root as c_int;
        let Element { datatype, op, .. } = self.element;
        // SAFETY: every buffer is as long as S, of which counts are parts, and the handles are the library's own or were made by it.
        unsafe {
            match p.op {
                // Longer ones in pieces, as a program without wider counts would.
                Op::AllReduce => pieces(p.count(), self.most).try_for_each(|(start, n)| {
                    let from = if p.in_place { from } else { from.cast::<u8>().add(start * size).cast() };
                    t.allreduce(from, at(start), n, datatype, op, world)
                }),
                Op::ReduceScatter => t.reduce_scatter_block(from, whole, p.part(rank).len() as c_int, datatype, op, world),
                Op::Reduce => pieces(p.count(), self.most).try_for_each(|(start, n)| {
                    let from = match p.in_place {
                        true if is_root => from,
                        true => at(start).cast_const(),
                        false => from.cast::<u8>().add(start * size).cast(),
                    };
                    t.reduce(from, at(start), n, datatype, op, root_number, world)
                }),
                Op::Broadcast => {
                    let buffer = if is_root && !p.in_place { send.as_mut_ptr().cast() } else { whole };
                    t.bcast(buffer, bytes, byte, root_number, world)
                }
                Op::AllGather => t.allgather(from, part, byte, whole, part, byte, world),
                Op::Gather => {
                    let from = if p.in_place && !is_root { at(p.sends_from(rank)).cast_const() } else { from };
                    t.gather(from, part, byte, whole, part, byte, root_number, world)
                }
                Op::Scatter => {
                    let to = match p.in_place {
                        true if is_root => in_place.cast_mut(),
                        true => at(p.receives_from(rank)),
                        false => whole,
                    };
                    let from = if p.in_place { whole.cast_const() } else { from };
                    t.scatter(from, part, byte, to, part, byte, root_number, world)
                }
                Op::AllToAll => {
                    let share = counted(p.count() / n);
                    t.alltoall(from, share, byte, whole, share, byte, world)
                }
                Op::AllToAllV => {
                    let parts = (0..n).map(|peer| p.uneven(rank, peer));
                    let (counts, starts): (Vec<c_int>, Vec<c_int>) =
                        parts.map(|part| (counted(part.len()), counted(part.start))).unzip();
                    // What comes from a peer is as long as what goes there, and lies at the same place.
                    let (c, s) = (counts.as_ptr(), starts.as_ptr());
                    t.alltoallv(from, c, s, byte, whole, c, s, byte, world)
                }
                Op::SendRecv => {
                    let (to, of) = (((rank + 1) % n) as c_int, ((rank + n - 1) % n) as c_int);
                    t.sendrecv(from, bytes, byte, to, 0, whole, bytes, byte, of, 0, world, self.library.no_status())
                }
            }
        }
    }
}

impl Fabric for Mpi {
    fn connected(&self) -> Connected {
        Connected {
            rank: self.rank,
            size: self.size,
            provider: "mpi".into(),
            library: self.library.version(),
            path: Some(self.library.table.library.path.display().to_string()),
        }
    }

    fn ready(&mut self, p: &CollectiveProblem) -> Result<()> {
        self.release();
        let (most, bytes) = (self.most, p.count() * p.size());
        let unit = if bytes > most { block(p) } else { 1 };
        // What is reduced goes in pieces, but for a part that one call gives to each rank.
        let (counted, counts) = match p.op {
            Op::ReduceScatter => (p.part(self.rank).len(), p.dtype.to_string()),
            op if op.reduces() => (0, String::new()),
            _ => (bytes / unit, format!("blocks of {unit} B")),
        };
        if counted > most {
            return Err(DeviceError::unsupported(format!("MPI counts to {most}; {} are more {counts}", p.bytes)));
        }
        self.element = self.element(p)?;
        if unit > 1 && !p.op.reduces() {
            self.block = Some(Block { datatype: self.contiguous(unit)?, bytes: unit });
        }
        Ok(())
    }

    fn meet(&mut self) -> Result<()> {
        // SAFETY: the library's own communicator.
        unsafe { self.library.table.barrier(self.library.world) }.map_err(failed)
    }

    fn before(&self, p: &CollectiveProblem, send: &[u8], receive: &mut [u8]) {
        if p.op == Op::Broadcast && self.rank == p.root && !p.in_place {
            // MPI's broadcast knows one buffer: what the root itself gets is not moved by it.
            receive.copy_from_slice(send);
        }
    }

    fn execute(&mut self, p: &CollectiveProblem, send: &mut [u8], receive: &mut [u8]) -> Result<()> {
        self.call(p, send, receive).map_err(failed)
    }

    fn say(&mut self, bytes: &[u8], peer: usize) -> Result<()> {
        // No bytes are a word too.
        for start in (0..bytes.len().max(1)).step_by(MESSAGE) {
            let part = &bytes[start..bytes.len().min(start + MESSAGE)];
            let (at, n) = (part.as_ptr().cast(), part.len() as c_int);
            // SAFETY: the buffer holds so many bytes.
            unsafe { self.library.table.send(at, n, self.library.byte, peer as c_int, 0, self.library.world) }.map_err(failed)?;
        }
        Ok(())
    }

    fn hear(&mut self, bytes: &mut [u8], peer: usize) -> Result<()> {
        let (len, nowhere) = (bytes.len(), self.library.no_status());
        for start in (0..len.max(1)).step_by(MESSAGE) {
            let part = &mut bytes[start..len.min(start + MESSAGE)];
            let (at, n) = (part.as_mut_ptr().cast(), part.len() as c_int);
            // SAFETY: the buffer holds so many bytes, and the status is one that is ignored.
            unsafe { self.library.table.recv(at, n, self.library.byte, peer as c_int, 0, self.library.world, nowhere) }
                .map_err(failed)?;
        }
        Ok(())
    }

    /// In place MPI leaves a reduced part at the beginning.
    fn leaves_at(&self, p: &CollectiveProblem, rank: usize) -> usize {
        if p.op == Op::ReduceScatter { 0 } else { p.receives_from(rank) }
    }

    fn leave(&mut self) {
        self.release();
        // SAFETY: no other call is under way, and none follows. An error at the end changes nothing.
        let _ = unsafe { self.library.table.finalize() };
    }
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
