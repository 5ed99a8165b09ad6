//! An MPI library found at run time, by one table for all: functions have the same C signatures everywhere, and what differs are
//! the handles of predefined objects. Open MPI's are addresses of its own variables (`ompi_mpi_comm_world`); the standard ABI of
//! MPI 5 (MPICH 5) has small numbers; both are as wide as a pointer. MPICH's own ABI (MPICH 3 and 4, Intel MPI, MVAPICH, Cray MPICH)
//! has numbers of 32 bits: a register or a place on the stack that is twice as wide carries them as well, and what a call makes is
//! written to the lower half of a handle that was null, on machines that begin with that half.
//!
//! Which library is asked for depends on who started the processes: one that another manager bootstraps would find itself alone.

use crate::dl::{Opened, table};
use crate::finder::{Layout, Places, Search, Wanted, files_of, find};
use crate::launched::world::Launcher;
use crate::probe::Finding;
use crate::{DeviceError, Redop};
use ridgepoint_core::Dtype;
use std::ffi::{c_char, c_int, c_void};
use std::path::{Path, PathBuf};

/// The variable that names a folder with an MPI library, or `none`.
pub(in crate::launched) const VARIABLE: &str = "RIDGEPOINT_MPI_PATH";

const LAYOUT: Layout = Layout {
    variable: VARIABLE,
    homes: &["MPI_HOME", "MPI_ROOT", "OPAL_PREFIX", "I_MPI_ROOT", "CRAY_MPICH_DIR"],
    parts: &["lib", "lib64"],
    toolkit: "usr/local/mpi",
    versions: ("opt", "openmpi"),
    system: &[
        "usr/lib64/openmpi/lib",
        "usr/lib64/mpich/lib",
        "opt/hpcx/ompi/lib",
        "opt/amazon/openmpi/lib",
        "opt/amazon/openmpi/lib64",
    ],
    // A wheel of MPICH puts its libraries beside the environment's own: lib/python3/site-packages is below lib.
    site: |site| site.parent().and_then(Path::parent).map(Path::to_owned).into_iter().collect(),
};

const OPEN_MPI: Wanted = Wanted {
    stem: "libmpi.so",
    sonames: &["libmpi.so.40"],
    proof: "ompi_mpi_comm_world",
    siblings: &[],
    of_driver: false,
    get: &[(0, "apt-get install openmpi-bin")],
};

const STANDARD: Wanted = Wanted {
    stem: "libmpi_abi.so",
    sonames: &["libmpi_abi.so.1", "libmpi_abi.so.0"],
    proof: "MPI_Allreduce",
    siblings: &[],
    of_driver: false,
    get: &[(0, "pip install mpich")],
};

/// MPICH's own ABI, of MPICH 3 and 4 and what was made from them.
const MPICH: Wanted = Wanted {
    stem: "libmpi.so",
    sonames: &["libmpi.so.12", "libmpich.so.12", "libmpi_cray.so.12"],
    proof: "MPI_Allreduce",
    siblings: &[],
    of_driver: false,
    get: &[(0, "apt-get install mpich")],
};

/// A handle, as wide as a pointer.
pub(super) type Handle = *mut c_void;
/// A user's operation: (in, in and out, length, datatype).
pub(super) type UserFunction = unsafe extern "C" fn(*mut c_void, *mut c_void, *mut c_int, *mut Handle);

table! {
    /// What is called of MPI.
    pub struct Table;
    status {
        fn init(argc: *mut c_int, argv: *mut *mut *mut c_char) = ["MPI_Init"];
        fn finalize() = ["MPI_Finalize"];
        fn comm_rank(comm: Handle, rank: *mut c_int) = ["MPI_Comm_rank"];
        fn comm_size(comm: Handle, size: *mut c_int) = ["MPI_Comm_size"];
        fn comm_set_errhandler(comm: Handle, handler: Handle) = ["MPI_Comm_set_errhandler"];
        fn library_version(text: *mut c_char, length: *mut c_int) = ["MPI_Get_library_version"];
        fn type_contiguous(count: c_int, of: Handle, made: *mut Handle) = ["MPI_Type_contiguous"];
        fn type_commit(datatype: *mut Handle) = ["MPI_Type_commit"];
        fn type_free(datatype: *mut Handle) = ["MPI_Type_free"];
        fn op_create(function: UserFunction, commutes: c_int, made: *mut Handle) = ["MPI_Op_create"];
        fn op_free(op: *mut Handle) = ["MPI_Op_free"];
        fn barrier(comm: Handle) = ["MPI_Barrier"];
        fn allreduce(from: *const c_void, to: *mut c_void, count: c_int, datatype: Handle, op: Handle, comm: Handle) = ["MPI_Allreduce"];
        fn reduce(from: *const c_void, to: *mut c_void, count: c_int, datatype: Handle, op: Handle, root: c_int, comm: Handle) = ["MPI_Reduce"];
        fn reduce_scatter_block(from: *const c_void, to: *mut c_void, count: c_int, datatype: Handle, op: Handle, comm: Handle) = ["MPI_Reduce_scatter_block"];
        fn bcast(buffer: *mut c_void, count: c_int, datatype: Handle, root: c_int, comm: Handle) = ["MPI_Bcast"];
        fn allgather(from: *const c_void, n: c_int, datatype: Handle, to: *mut c_void, m: c_int, to_type: Handle, comm: Handle) = ["MPI_Allgather"];
        fn gather(from: *const c_void, n: c_int, datatype: Handle, to: *mut c_void, m: c_int, to_type: Handle, root: c_int, comm: Handle) = ["MPI_Gather"];
        fn scatter(from: *const c_void, n: c_int, datatype: Handle, to: *mut c_void, m: c_int, to_type: Handle, root: c_int, comm: Handle) = ["MPI_Scatter"];
        fn alltoall(from: *const c_void, n: c_int, datatype: Handle, to: *mut c_void, m: c_int, to_type: Handle, comm: Handle) = ["MPI_Alltoall"];
        fn alltoallv(
            from: *const c_void, counts: *const c_int, starts: *const c_int, datatype: Handle,
            to: *mut c_void, to_counts: *const c_int, to_starts: *const c_int, to_type: Handle, comm: Handle,
        ) = ["MPI_Alltoallv"];
        fn send(from: *const c_void, n: c_int, datatype: Handle, dest: c_int, tag: c_int, comm: Handle) = ["MPI_Send"];
        fn recv(to: *mut c_void, n: c_int, datatype: Handle, source: c_int, tag: c_int, comm: Handle, status: *mut c_void) = ["MPI_Recv"];
        fn sendrecv(
            from: *const c_void, n: c_int, datatype: Handle, dest: c_int, tag: c_int,
            to: *mut c_void, m: c_int, to_type: Handle, source: c_int, to_tag: c_int, comm: Handle, status: *mut c_void,
        ) = ["MPI_Sendrecv"];
    }
    raw {
        fn error_string(code: c_int, text: *mut c_char, length: *mut c_int) -> c_int = ["MPI_Error_string"];
    }
}

/// Longest text of any library.
const LONGEST: usize = 8192;

impl Table {
    fn meaning(&self, code: i32) -> String {
        let mut text = vec![0u8; LONGEST];
        let mut length = 0;
        // SAFETY: the buffer is longer than any library's MPI_MAX_ERROR_STRING, and the length is writable.
        match unsafe { self.error_string(code, text.as_mut_ptr().cast(), &raw mut length) } {
            Some(0) => line(&text),
            _ => String::new(),
        }
    }
}

/// The first line of a NUL-terminated text.
fn line(text: &[u8]) -> String {
    let text = text.split(|b| *b == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).lines().next().unwrap_or_default().trim().to_owned()
}

/// A library, with its handles.
pub(super) struct Library {
    pub(super) table: Table,
    pub(super) world: Handle,
    pub(super) byte: Handle,
    flavour: Flavour,
}

/// Whose numbers the handles have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::launched) enum Flavour {
    OpenMpi,
    Standard,
    Mpich,
}

impl Flavour {
    const fn wanted(self) -> &'static Wanted {
        match self {
            Self::OpenMpi => &OPEN_MPI,
            Self::Standard => &STANDARD,
            Self::Mpich => &MPICH,
        }
    }

    /// As a provider's name.
    pub(in crate::launched) const fn name(self) -> &'static str {
        match self {
            Self::OpenMpi => "openmpi",
            Self::Standard => "mpi-abi",
            Self::Mpich => "mpich-abi",
        }
    }

    /// Finds it, and nothing else under one of its names.
    fn find(self, places: &Places) -> Search {
        find(self.wanted(), places, &|opened| match self {
            Self::Mpich if opened.address(&["ompi_mpi_comm_world"]).is_some() => Err("it is Open MPI".into()),
            Self::Mpich if cfg!(target_endian = "big") => Err("its handles are read on little-endian machines alone".into()),
            _ => Ok(()),
        })
    }
}

/// A predefined object: Open MPI's variable, the standard's number and MPICH's.
struct Predefined(&'static str, usize, usize);

const WORLD: Predefined = Predefined("ompi_mpi_comm_world", 0x101, 0x4400_0000);
const BYTE: Predefined = Predefined("ompi_mpi_byte", 0x247, 0x4c00_010d);
const ERRORS_RETURN: Predefined = Predefined("ompi_mpi_errors_return", 0x143, 0x5400_0001);
const FLOAT: Predefined = Predefined("ompi_mpi_float", 0x210, 0x4c00_040a);
const DOUBLE: Predefined = Predefined("ompi_mpi_double", 0x214, 0x4c00_080b);
const INT8: Predefined = Predefined("ompi_mpi_int8_t", 0x240, 0x4c00_0137);
const INT32: Predefined = Predefined("ompi_mpi_int32_t", 0x250, 0x4c00_0439);
const SUM: Predefined = Predefined("ompi_mpi_op_sum", 0x21, 0x5800_0003);
const MIN: Predefined = Predefined("ompi_mpi_op_min", 0x22, 0x5800_0002);
const MAX: Predefined = Predefined("ompi_mpi_op_max", 0x23, 0x5800_0001);
const PROD: Predefined = Predefined("ompi_mpi_op_prod", 0x24, 0x5800_0004);

/// Libraries that processes of this launcher can be connected by, the preferred first. Slurm bootstraps Open MPI by PMIx alone.
fn flavours(launcher: Launcher) -> &'static [Flavour] {
    match launcher {
        Launcher::OpenMpi => &[Flavour::OpenMpi],
        _ if launcher != Launcher::Pmi && std::env::var_os("PMIX_RANK").is_some() => {
            &[Flavour::OpenMpi, Flavour::Standard, Flavour::Mpich]
        }
        _ => &[Flavour::Standard, Flavour::Mpich],
    }
}

/// Folders of the libraries that belong to whatever started this process: a launcher bootstraps its own.
fn of_the_launcher() -> Vec<PathBuf> {
    /// How far up it is looked for.
    const GENERATIONS: usize = 8;
    let mut folders = Vec::new();
    // SAFETY: takes nothing and cannot fail.
    let mut process = unsafe { libc::getppid() };
    for _ in 0..GENERATIONS {
        let program = std::fs::read_link(format!("/proc/{process}/exe")).unwrap_or_default();
        let name = program.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if ["hydra", "mpiexec", "mpirun", "orte", "prte"].iter().any(|begin| name.starts_with(begin)) {
            let home = program.parent().and_then(Path::parent).map(Path::to_owned).unwrap_or_default();
            folders.extend(["lib", "lib64", "lib/release"].map(|part| home.join(part)));
        }
        // The parent's number comes after the name, which may hold anything, and a letter.
        let about = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        let parent = about.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)).and_then(|text| text.parse().ok());
        match parent {
            Some(parent) if parent > 1 => process = parent,
            _ => break,
        }
    }
    folders.retain(|folder| folder.is_dir());
    folders
}

/// The library for processes of this launcher.
///
/// # Errors
/// What was looked for, in vain, and how to get it.
pub(in crate::launched) fn search(launcher: Launcher) -> Result<(Opened, Flavour), String> {
    let (mut reasons, places) = (Vec::new(), places());
    // What was asked for comes before what the launcher brings, and that before what the machine has, of whichever kind it is.
    let has = |folders: &[PathBuf], wanted| folders.iter().any(|folder| !files_of(folder, wanted).is_empty());
    let distance = |flavour: &Flavour| {
        let wanted = flavour.wanted();
        if has(&places.asked_for, wanted) { 0 } else { 2 - u8::from(has(&places.beside, wanted)) }
    };
    let mut flavours = flavours(launcher).to_vec();
    flavours.sort_by_key(distance);
    for flavour in flavours {
        let search = flavour.find(&places);
        let sentence = search.sentence(flavour.wanted(), None);
        match search.found {
            Some(opened) => return Ok((opened, flavour)),
            // What was asked for is used or reported, never replaced by another.
            None if distance(&flavour) == 0 => return Err(sentence),
            None => reasons.push(sentence),
        }
    }
    Err(reasons.join("; "))
}

fn places() -> Places {
    Places { beside: of_the_launcher(), ..Places::of_this_machine(&LAYOUT) }
}

/// What `doctor` says of them.
pub(in crate::launched) fn findings() -> Vec<Finding> {
    let places = places();
    let finding = |flavour: &Flavour| flavour.find(&places).finding(flavour.wanted(), None, None);
    let mut all: Vec<Finding> = [Flavour::OpenMpi, Flavour::Standard].iter().map(finding).collect();
    // Said only where it is there: two ways to get an MPI are enough. It has the first one's name but for its number.
    all.extend(Some(finding(&Flavour::Mpich)).filter(|f| f.ok).map(|f| Finding { what: "libmpi.so.12".into(), ..f }));
    all
}

impl Library {
    pub(super) fn load(launcher: Launcher) -> crate::Result<Self> {
        let (opened, flavour) = search(launcher).map_err(DeviceError::unsupported)?;
        let mut mpi = Self { table: Table::bind(opened), world: std::ptr::null_mut(), byte: std::ptr::null_mut(), flavour };
        mpi.world = mpi.handle(&WORLD)?;
        mpi.byte = mpi.handle(&BYTE)?;
        Ok(mpi)
    }

    fn handle(&self, &Predefined(variable, standard, mpich): &Predefined) -> crate::Result<Handle> {
        match self.flavour {
            Flavour::Standard => Ok(std::ptr::without_provenance_mut(standard)),
            Flavour::Mpich => Ok(std::ptr::without_provenance_mut(mpich)),
            Flavour::OpenMpi => self
                .table
                .library
                .address(&[variable])
                .ok_or_else(|| DeviceError::unsupported(format!("{} has no {variable}", self.table.library.path.display()))),
        }
    }

    /// Errors are returned, not the end of the process.
    pub(super) fn errors_return(&self) -> crate::Result<Handle> {
        self.handle(&ERRORS_RETURN)
    }

    /// `MPI_IN_PLACE`.
    pub(super) const fn in_place(&self) -> *const c_void {
        std::ptr::without_provenance(if matches!(self.flavour, Flavour::Mpich) { usize::MAX } else { 1 })
    }

    /// `MPI_STATUS_IGNORE`.
    pub(super) const fn no_status(&self) -> *mut c_void {
        std::ptr::without_provenance_mut(if matches!(self.flavour, Flavour::Mpich) { 1 } else { 0 })
    }

    /// The library's own type for a dtype, where it has one that it can reduce.
    pub(super) fn datatype(&self, dtype: Dtype) -> Option<crate::Result<Handle>> {
        let own = match dtype {
            Dtype::F32 => &FLOAT,
            Dtype::F64 => &DOUBLE,
            Dtype::I8 => &INT8,
            Dtype::I32 => &INT32,
            _ => return None,
        };
        Some(self.handle(own))
    }

    /// The library's own operation; MPI has no average.
    pub(super) fn op(&self, redop: Redop) -> crate::Result<Handle> {
        match redop {
            Redop::Sum => self.handle(&SUM),
            Redop::Min => self.handle(&MIN),
            Redop::Max => self.handle(&MAX),
            Redop::Prod => self.handle(&PROD),
            Redop::Avg => Err(DeviceError::unsupported("MPI has no average")),
        }
    }

    /// The library's own name and version.
    pub(super) fn version(&self) -> String {
        let mut text = vec![0u8; LONGEST];
        let mut length = 0;
        // SAFETY: the buffer is as long as the longest MPI_MAX_LIBRARY_VERSION_STRING, and the length is writable.
        let asked = unsafe { self.table.library_version(text.as_mut_ptr().cast(), &raw mut length) };
        // Open MPI goes on with who built it and when.
        asked.map_or_else(
            |_| self.flavour.name().to_owned(),
            |()| {
                line(&text)
                    .split(',')
                    .next()
                    .unwrap_or_default()
                    .replace("Version:", " ")
                    .split_whitespace()
                    .collect::<Vec<_>>()
                    .join(" ")
            },
        )
    }
}
