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
}

/// What a reduction is told of its elements; those that MPI lacks are made of bytes, with a function of ours.
struct Element {
    datatype: Handle,
    op: Handle,
    own: bool,
}

const NOTHING: Element = Element { datatype: std::ptr::null_mut(), op: std::ptr::null_mut(), own: false };
/// MPI_IN_PLACE: the same number in both ABIs.
const IN_PLACE: *const c_void = std::ptr::without_provenance(1);
/// MPI counts with an int.
const MOST: u64 = c_int::MAX as u64;

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
        Ok(Self { library, rank: rank as usize, size: size as usize, element: NOTHING })
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
        let (mut datatype, mut op): (Handle, Handle) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: both handles are writable; the function has MPI's signature and lives as long as the program.
        unsafe {
            library.table.type_contiguous(problem.size() as c_int, library.byte, &raw mut datatype).map_err(failed)?;
            library.table.type_commit(&raw mut datatype).map_err(failed)?;
            library.table.op_create(combine, 1, &raw mut op).map_err(failed)?;
        }
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
    }

    /// The library's call for one execution.
    fn call(&self, p: &CollectiveProblem, send: &mut [u8], receive: &mut [u8]) -> std::result::Result<(), CallError> {
        let (rank, n, size, root) = (self.rank, self.size, p.size(), p.root);
        let is_root = rank == root;
        let (t, byte, world) = (&self.library.table, self.library.byte, self.library.world);
        let whole = receive.as_mut_ptr().cast::<c_void>();
        let from: *const c_void = if p.in_place { IN_PLACE } else { send.as_ptr().cast() };
        let (elements, bytes) = (p.count() as c_int, (p.count() * size) as c_int);
        let part = (p.part(rank).len() * size) as c_int;
        // SAFETY: a part ends within the buffer.
        let at = |start: usize| unsafe { whole.cast::<u8>().add(start * size) }.cast::<c_void>();
        let root_number = root as c_int;
        let Element { datatype, op, .. } = self.element;
        // SAFETY: every buffer is as long as S, of which counts are parts, and the handles are the library's own or were made by it.
        unsafe {
            match p.op {
                Op::AllReduce => t.allreduce(from, whole, elements, datatype, op, world),
                Op::ReduceScatter => t.reduce_scatter_block(from, whole, p.part(rank).len() as c_int, datatype, op, world),
                Op::Reduce => {
                    let from = if p.in_place && !is_root { whole.cast_const() } else { from };
                    t.reduce(from, whole, elements, datatype, op, root_number, world)
                }
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
                        true if is_root => IN_PLACE.cast_mut(),
                        true => at(p.receives_from(rank)),
                        false => whole,
                    };
                    let from = if p.in_place { whole.cast_const() } else { from };
                    t.scatter(from, part, byte, to, part, byte, root_number, world)
                }
                Op::AllToAll => {
                    let share = (p.count() / n * size) as c_int;
                    t.alltoall(from, share, byte, whole, share, byte, world)
                }
                Op::AllToAllV => {
                    let parts = (0..n).map(|peer| p.uneven(rank, peer));
                    let (counts, starts): (Vec<c_int>, Vec<c_int>) =
                        parts.map(|part| ((part.len() * size) as c_int, (part.start * size) as c_int)).unzip();
                    // What comes from a peer is as long as what goes there, and lies at the same place.
                    let (c, s) = (counts.as_ptr(), starts.as_ptr());
                    t.alltoallv(from, c, s, byte, whole, c, s, byte, world)
                }
                Op::SendRecv => {
                    let (to, of) = (((rank + 1) % n) as c_int, ((rank + n - 1) % n) as c_int);
                    t.sendrecv(from, bytes, byte, to, 0, whole, bytes, byte, of, 0, world, std::ptr::null_mut())
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
        if p.bytes.0 > MOST {
            return Err(DeviceError::unsupported(format!("MPI counts to 2 GiB less one byte; {} is more", p.bytes)));
        }
        self.element = self.element(p)?;
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
        let (at, n) = (bytes.as_ptr().cast(), bytes.len() as c_int);
        // SAFETY: the buffer holds so many bytes.
        unsafe { self.library.table.send(at, n, self.library.byte, peer as c_int, 0, self.library.world) }.map_err(failed)
    }

    fn hear(&mut self, bytes: &mut [u8], peer: usize) -> Result<()> {
        let (at, n, nowhere) = (bytes.as_mut_ptr().cast(), bytes.len() as c_int, std::ptr::null_mut());
        // SAFETY: the buffer holds so many bytes; a null status is MPI_STATUS_IGNORE in both ABIs.
        unsafe { self.library.table.recv(at, n, self.library.byte, peer as c_int, 0, self.library.world, nowhere) }
            .map_err(failed)
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
