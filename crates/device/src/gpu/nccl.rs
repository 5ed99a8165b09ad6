//! The functions and numbers of NCCL, which RCCL has under the same names: one table for both. Functions that came later are
//! asked for and done without where a library lacks them; `ncclConfig_t`, whose layout changes, is not used.

use super::sys::{Handle, Ptr};
use crate::dl::{CallError, text};
use crate::{DeviceError, Redop};
use ridgepoint_core::Dtype;
use std::ffi::{c_char, c_int};

/// By which the ranks of a communicator find each other; passed by value.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct UniqueId(pub(crate) [u8; 128]);

crate::dl::table! {
    /// `libnccl.so.2` or `librccl.so.1`.
    pub struct Nccl;
    status {
        fn version(v: *mut c_int) = ["ncclGetVersion"];
        fn unique_id(id: *mut UniqueId) = ["ncclGetUniqueId"];
        fn init_rank(comm: *mut Handle, ranks: c_int, id: UniqueId, rank: c_int) = ["ncclCommInitRank"];
        fn init_all(comms: *mut Handle, n: c_int, devices: *const c_int) = ["ncclCommInitAll"];
        fn destroy(comm: Handle) = ["ncclCommDestroy"];
        fn abort(comm: Handle) = ["ncclCommAbort"];
        fn async_error(comm: Handle, status: *mut c_int) = ["ncclCommGetAsyncError"];
        fn register(comm: Handle, buffer: Ptr, bytes: usize, handle: *mut Handle) = ["ncclCommRegister"];
        fn deregister(comm: Handle, handle: Handle) = ["ncclCommDeregister"];
        fn window(comm: Handle, buffer: Ptr, bytes: usize, window: *mut Handle, flags: c_int) = ["ncclCommWindowRegister"];
        fn close_window(comm: Handle, window: Handle) = ["ncclCommWindowDeregister"];
        fn mem_alloc(p: *mut Ptr, bytes: usize) = ["ncclMemAlloc"];
        fn mem_free(p: Ptr) = ["ncclMemFree"];
        fn group_start() = ["ncclGroupStart"];
        fn group_end() = ["ncclGroupEnd"];
        fn all_reduce(s: Ptr, r: Ptr, count: usize, dtype: c_int, op: c_int, comm: Handle, stream: Handle) = ["ncclAllReduce"];
        fn reduce(s: Ptr, r: Ptr, count: usize, dtype: c_int, op: c_int, root: c_int, comm: Handle, stream: Handle) = ["ncclReduce"];
        fn reduce_scatter(s: Ptr, r: Ptr, count: usize, dtype: c_int, op: c_int, comm: Handle, stream: Handle) = ["ncclReduceScatter"];
        fn all_gather(s: Ptr, r: Ptr, count: usize, dtype: c_int, comm: Handle, stream: Handle) = ["ncclAllGather"];
        fn broadcast(s: Ptr, r: Ptr, count: usize, dtype: c_int, root: c_int, comm: Handle, stream: Handle) = ["ncclBroadcast"];
        fn all_to_all(s: Ptr, r: Ptr, count: usize, dtype: c_int, comm: Handle, stream: Handle) = ["ncclAlltoAll", "ncclAllToAll"];
        fn gather(s: Ptr, r: Ptr, count: usize, dtype: c_int, root: c_int, comm: Handle, stream: Handle) = ["ncclGather"];
        fn scatter(s: Ptr, r: Ptr, count: usize, dtype: c_int, root: c_int, comm: Handle, stream: Handle) = ["ncclScatter"];
        fn send(s: Ptr, count: usize, dtype: c_int, peer: c_int, comm: Handle, stream: Handle) = ["ncclSend"];
        fn receive(r: Ptr, count: usize, dtype: c_int, peer: c_int, comm: Handle, stream: Handle) = ["ncclRecv"];
    }
    raw {
        fn error_string(code: i32) -> *const c_char = ["ncclGetErrorString"];
        fn last_error(comm: Handle) -> *const c_char = ["ncclGetLastError"];
    }
}

/// The function that a table's entry stands for, where the library has it.
macro_rules! has {
    ($api:expr, $name:ident) => {
        $api.$name.function.is_some()
    };
}

/// `NCCL_WIN_COLL_SYMMETRIC`.
pub(crate) const SYMMETRIC: c_int = 1;
/// `ncclInt8`.
pub(crate) const INT8: c_int = 0;
/// FP8 came with this version.
const FP8_SINCE: i32 = 22400;

impl Nccl {
    fn meaning(&self, code: i32) -> String {
        // SAFETY: both return static text, or text that lives until the next call; no communicator is asked for.
        let (short, long) = unsafe {
            let of = |p: Option<*const c_char>| p.map_or_else(String::new, |p| text(p));
            (of(self.error_string(code)), of(self.last_error(std::ptr::null_mut())))
        };
        let long = long.split_whitespace().collect::<Vec<_>>().join(" ");
        if long.is_empty() { short } else { format!("{short}: {long}") }
    }

    /// What a status means, in the library's words.
    pub(crate) fn words(&self, code: i32) -> String {
        self.meaning(code)
    }

    pub(crate) fn number(&self) -> Result<i32, CallError> {
        let mut v = 0;
        // SAFETY: writes one int.
        unsafe { self.version(&mut v) }?;
        Ok(v)
    }

    pub(crate) fn has_all_to_all(&self) -> bool {
        has!(self, all_to_all)
    }

    pub(crate) fn has_gather(&self) -> bool {
        has!(self, gather)
    }

    pub(crate) fn has_scatter(&self) -> bool {
        has!(self, scatter)
    }

    pub(crate) fn has_mem_alloc(&self) -> bool {
        has!(self, mem_alloc) && has!(self, mem_free)
    }
}

/// `2.32.3` of 23203; before 2.9 the last two digits alone were the patch and 2708 was 2.7.8.
pub(crate) fn dotted(v: i32) -> String {
    if v < 10_000 {
        format!("{}.{}.{}", v / 1000, v / 100 % 10, v % 100)
    } else {
        format!("{}.{}.{}", v / 10_000, v / 100 % 100, v % 100)
    }
}

/// The number of a dtype, in either encoding of FP8: the chip's own is meant.
///
/// # Errors
/// A sentence for a dtype that the library lacks.
pub(crate) fn dtype(dtype: Dtype, name: &str, version: i32) -> Result<c_int, String> {
    Ok(match dtype {
        Dtype::I8 => INT8,
        Dtype::I32 => 2,
        Dtype::F16 => 6,
        Dtype::F32 => 7,
        Dtype::F64 => 8,
        Dtype::Bf16 => 9,
        Dtype::E4m3 | Dtype::E4m3fnuz | Dtype::E5m2 | Dtype::E5m2fnuz if version < FP8_SINCE => {
            return Err(format!("{name} {} has no FP8; {} has", dotted(version), dotted(FP8_SINCE)));
        }
        Dtype::E4m3 | Dtype::E4m3fnuz => 10,
        Dtype::E5m2 | Dtype::E5m2fnuz => 11,
        other => return Err(format!("{name} has no {other}")),
    })
}

/// The number of a reduction.
pub(crate) const fn redop(redop: Redop) -> c_int {
    match redop {
        Redop::Sum => 0,
        Redop::Prod => 1,
        Redop::Max => 2,
        Redop::Min => 3,
        Redop::Avg => 4,
    }
}

/// A call that did not work out. Its codes are the library's own, not the driver's.
pub(crate) fn failed(error: CallError) -> DeviceError {
    match error.status() {
        Some(code) => DeviceError::Call { call: error.call, code: code.into(), message: error.meaning().to_owned() },
        None => DeviceError::Unsupported(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cudarc::nccl::sys as oracle;

    #[test]
    fn numbers_and_layouts_agree_with_generated_bindings() {
        use oracle::{ncclDataType_t as T, ncclRedOp_t as R};
        assert_eq!(size_of::<UniqueId>(), size_of::<oracle::ncclUniqueId>());
        for (ours, theirs) in [
            (Dtype::I8, T::ncclInt8),
            (Dtype::I32, T::ncclInt32),
            (Dtype::F16, T::ncclFloat16),
            (Dtype::F32, T::ncclFloat32),
            (Dtype::F64, T::ncclFloat64),
            (Dtype::Bf16, T::ncclBfloat16),
        ] {
            assert_eq!(dtype(ours, "NCCL", 22000), Ok(theirs as c_int), "{ours}");
        }
        for (ours, theirs) in [
            (Redop::Sum, R::ncclSum),
            (Redop::Prod, R::ncclProd),
            (Redop::Max, R::ncclMax),
            (Redop::Min, R::ncclMin),
            (Redop::Avg, R::ncclAvg),
        ] {
            assert_eq!(redop(ours), theirs as c_int);
        }
    }

    /// Its wheel is 300 MB, too much for every test run: `pip install nvidia-nccl-cu13`, and name the file.
    #[test]
    fn the_real_library_goes_as_far_as_it_does_without_a_gpu() {
        let Some(path) = std::env::var_os("RIDGEPOINT_TEST_NCCL") else {
            return println!("SKIP: real NCCL: RIDGEPOINT_TEST_NCCL names no libnccl.so.2");
        };
        let api = Nccl::bind(crate::dl::Opened::open(path.as_ref()).unwrap());
        let absent = api.absent();
        assert!(absent.is_empty(), "{absent:?}");
        assert!(api.number().unwrap() >= 22000 && api.has_all_to_all() && api.has_gather() && api.has_mem_alloc());
        let mut id = UniqueId([0; 128]);
        // SAFETY: writes 128 bytes.
        unsafe { api.unique_id(&mut id) }.unwrap();
        assert!(id.0.iter().any(|b| *b != 0));
        let (mut comm, mut all) = (std::ptr::null_mut(), [std::ptr::null_mut(); 2]);
        // SAFETY: each writes as many communicators as it is told of.
        let outcomes = unsafe { [api.init_rank(&mut comm, 1, id, 0), api.init_all(all.as_mut_ptr(), 2, [0, 1].as_ptr())] };
        for outcome in outcomes {
            let error = failed(outcome.unwrap_err()).to_string();
            println!("{error}");
            assert!(error.starts_with("ncclCommInit") && error.contains("failed: ") && error.lines().count() == 1, "{error}");
        }
    }

    #[test]
    fn what_a_library_lacks_is_a_sentence() {
        assert_eq!(dtype(Dtype::E4m3fnuz, "RCCL", 22605), Ok(10));
        assert_eq!(dtype(Dtype::E4m3, "NCCL", 22105).unwrap_err(), "NCCL 2.21.5 has no FP8; 2.24.0 has");
        assert!(dtype(Dtype::Tf32, "NCCL", 23203).unwrap_err().contains("no tf32"));
        assert_eq!((dotted(2708), dotted(23203)), ("2.7.8".into(), "2.32.3".into()));
    }
}
