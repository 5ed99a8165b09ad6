//! A user's kernel in Rust: a closure that gets its arrays as slices and the device's threads to work with.

use super::kernels::Shared;
use super::pool::Pool;
use crate::{Arg, DeviceError, Kernel, Result};
use std::sync::Arc;

/// A number that lies in an array as it is, and any bytes of whose size are one.
pub trait Plain: private::Sealed + Copy + Send + Sync + 'static {}

mod private {
    /// # Safety
    /// Every pattern of bits is a value.
    pub unsafe trait Sealed {}
}

macro_rules! plain {
    ($($type:ty)*) => { $(
        // SAFETY: a number without padding, of which any bits are one.
        unsafe impl private::Sealed for $type {}
        impl Plain for $type {}
    )* };
}
plain!(u8 i8 u16 i16 u32 i32 u64 i64 f32 f64);

/// What a closure is launched with.
pub struct HostCall<'a> {
    pool: &'a Pool,
    inputs: Vec<&'a [u8]>,
    outputs: Vec<&'a mut [u8]>,
    scalars: Vec<f64>,
}

impl<'a> HostCall<'a> {
    /// The `index`-th of the arrays that are only read; empty where there is none.
    #[must_use]
    pub fn input<T: Plain>(&self, index: usize) -> &'a [T] {
        // SAFETY: any bits are a `T`, which is what sealing `Plain` is for.
        self.inputs.get(index).map_or(&[], |bytes| unsafe { bytes.align_to::<T>() }.1)
    }

    /// The `index`-th of the numbers passed by value; NaN where there is none.
    #[must_use]
    pub fn scalar(&self, index: usize) -> f64 {
        self.scalars.get(index).copied().unwrap_or(f64::NAN)
    }

    /// The `index`-th of the arrays that are written, whole; empty where there is none.
    pub fn output<T: Plain>(&mut self, index: usize) -> &mut [T] {
        // SAFETY: as in `input`.
        self.outputs.get_mut(index).map_or(&mut [], |bytes| unsafe { bytes.align_to_mut::<T>() }.1)
    }

    /// Cuts the `index`-th of the arrays that are written into a part for each of the device's threads, and runs
    /// `job(first, part)` on all of them: `first` is the index of the part's first element.
    pub fn each<T: Plain>(&mut self, index: usize, job: impl Fn(usize, &mut [T]) + Sync) {
        let pool = self.pool;
        let whole = self.output::<T>(index);
        let (n, start) = (whole.len(), Shared::new(whole.as_mut_ptr()));
        pool.split(n, 4096 / size_of::<T>(), &|_, range| {
            // SAFETY: the parts of a split do not overlap, and nothing else has the array while `self` is borrowed.
            job(range.start, unsafe { start.slice_mut(range) });
        });
    }
}

type Body = Box<dyn Fn(&mut HostCall<'_>) + Send + Sync>;

/// A closure as a kernel.
pub(super) struct Closure {
    /// Of each buffer among the arguments, whether it is written.
    written: Vec<bool>,
    body: Body,
}

/// The kernel that `body` is; of each buffer among its arguments, `written` says whether it writes it.
pub fn host_kernel(entry: &str, written: Vec<bool>, body: impl Fn(&mut HostCall<'_>) + Send + Sync + 'static) -> Kernel {
    Kernel::new(entry, None, Arc::new(Closure { written, body: Box::new(body) }))
}

impl Closure {
    pub(super) fn run(&self, entry: &str, pool: &Pool, args: &[Arg<'_>]) -> Result<()> {
        let mut call = HostCall { pool, inputs: vec![], outputs: vec![], scalars: vec![] };
        let mut spans: Vec<(u64, u64, bool)> = Vec::new();
        for arg in args {
            let (buffer, offset) = match arg {
                Arg::Buffer(buffer, offset) => (buffer, *offset),
                Arg::U32(x) => {
                    call.scalars.push(f64::from(*x));
                    continue;
                }
                Arg::I32(x) => {
                    call.scalars.push(f64::from(*x));
                    continue;
                }
                Arg::U64(x) => {
                    call.scalars.push(*x as f64);
                    continue;
                }
                Arg::F32(x) => {
                    call.scalars.push(f64::from(*x));
                    continue;
                }
                Arg::Bytes(_) => return Err(DeviceError::unsupported("the CPU passes no structures by value")),
            };
            let written = *self.written.get(spans.len()).ok_or_else(|| {
                DeviceError::invalid(format!("{entry} takes {} buffers and was given more", self.written.len()))
            })?;
            let start = super::range(buffer, offset, buffer.len().saturating_sub(offset))?;
            let (from, len) = (start.addr() as u64, buffer.len() - offset);
            let span = (from, from + len as u64, written);
            if spans.iter().any(|other| (other.2 || written) && other.0 < span.1 && span.0 < other.1) {
                return Err(DeviceError::invalid(format!("{entry}: two of its buffers overlap, and one of them is written")));
            }
            spans.push(span);
            // SAFETY: the range lies inside the device's memory, which the arguments keep; what is written overlaps nothing.
            unsafe {
                if written {
                    call.outputs.push(std::slice::from_raw_parts_mut(start, len));
                } else {
                    call.inputs.push(std::slice::from_raw_parts(start, len));
                }
            }
        }
        if spans.len() != self.written.len() {
            return Err(DeviceError::invalid(format!(
                "{entry} takes {} buffers and was given {}",
                self.written.len(),
                spans.len()
            )));
        }
        (self.body)(&mut call);
        Ok(())
    }
}
