//! The CPU's own kernels, found by the same entry names as those of the GPUs. SIMD is chosen at run time, so that one binary
//! runs on any machine of its architecture.

pub(crate) mod arguments;
pub(crate) mod count;
pub(crate) mod differ;
pub(crate) mod init;
pub(crate) mod memory;
pub(crate) mod patterns;

use super::pool::Pool;
use crate::{Arg, Buffer, DeviceError, Result};

/// A kernel of the CPU: runs at once on the pool. Geometry has no meaning here, the pool is the grid.
pub(crate) type NativeFn = fn(&Pool, &[Arg<'_>]) -> Result<()>;

/// The kernel with this entry name.
pub(crate) fn find(entry: &str) -> Option<NativeFn> {
    [memory::KERNELS, patterns::KERNELS, init::KERNELS, arguments::KERNELS, count::KERNELS, differ::KERNELS]
        .into_iter()
        .flatten()
        .find(|(name, _)| *name == entry)
        .map(|(_, kernel)| *kernel)
}

/// Reads arguments one after the other, so that a wrong list is an error and never a wrong address. [`Args::end`] must be
/// called before any memory is touched: it refuses a result that overlaps another operand, which the kernels' slices may not.
pub(crate) struct Args<'a> {
    entry: &'static str,
    args: &'a [Arg<'a>],
    next: usize,
    spans: [Span; MAX_BUFFERS],
    buffers: usize,
}

/// Most buffers that a kernel takes.
const MAX_BUFFERS: usize = 12;

/// The bytes that a buffer argument stands for.
#[derive(Clone, Copy, Default)]
struct Span {
    argument: usize,
    start: u64,
    end: u64,
    written: bool,
}

impl<'a> Args<'a> {
    pub(crate) fn of(entry: &'static str, args: &'a [Arg<'a>]) -> Self {
        Self { entry, args, next: 0, spans: [Span::default(); MAX_BUFFERS], buffers: 0 }
    }

    /// The argument taken last is not what it must be.
    fn wrong(&self, expected: &str) -> DeviceError {
        DeviceError::invalid(format!("{}: argument {} must be {expected}", self.entry, self.next - 1))
    }

    fn take(&mut self, expected: &str) -> Result<Arg<'a>> {
        let arg = self.args.get(self.next).copied();
        self.next += 1;
        arg.ok_or_else(|| self.wrong(expected))
    }

    /// A buffer that is only read and holds at least `elements` of `T` from its offset on, as a pointer to the first. Inputs
    /// may overlap each other.
    pub(crate) fn input<T>(&mut self, elements: u64) -> Result<*mut T> {
        self.buffer(elements, false)
    }

    /// As [`Args::input`], for a buffer that is written: it may overlap no other operand.
    pub(crate) fn pointer<T>(&mut self, elements: u64) -> Result<*mut T> {
        self.buffer(elements, true)
    }

    fn buffer<T>(&mut self, elements: u64, written: bool) -> Result<*mut T> {
        let (buffer, offset): (&Buffer, usize) = match self.take("a buffer")? {
            Arg::Buffer(buffer, offset) => (buffer, offset),
            _ => return Err(self.wrong("a buffer")),
        };
        let needed = elements.checked_mul(size_of::<T>() as u64).and_then(|n| n.checked_add(offset as u64));
        if needed.is_none_or(|n| n > buffer.len() as u64) || !offset.is_multiple_of(align_of::<T>()) {
            return Err(self.wrong(&format!(
                "a buffer of {elements} × {} bytes, aligned; it has {} from offset {offset}",
                size_of::<T>(),
                buffer.len()
            )));
        }
        if buffer.owner::<super::Memory>().is_none() {
            return Err(self.wrong("a buffer of this CPU device"));
        }
        let start = buffer.address() + offset as u64;
        let span = Span { argument: self.next - 1, start, end: start + elements * size_of::<T>() as u64, written };
        *self.spans.get_mut(self.buffers).ok_or_else(|| DeviceError::invalid(format!("{}: too many buffers", self.entry)))? =
            span;
        self.buffers += 1;
        Ok((buffer.address() as *mut T).wrapping_byte_add(offset))
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        match self.take("a u64")? {
            Arg::U64(n) => Ok(n),
            _ => Err(self.wrong("a u64")),
        }
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        match self.take("a u32")? {
            Arg::U32(n) => Ok(n),
            _ => Err(self.wrong("a u32")),
        }
    }

    pub(crate) fn f32(&mut self) -> Result<f32> {
        match self.take("an f32")? {
            Arg::F32(x) => Ok(x),
            _ => Err(self.wrong("an f32")),
        }
    }

    pub(crate) fn i32(&mut self) -> Result<i32> {
        match self.take("an i32")? {
            Arg::I32(n) => Ok(n),
            _ => Err(self.wrong("an i32")),
        }
    }

    /// No argument is left over, and nothing that is written overlaps another operand.
    pub(crate) fn end(&self) -> Result<()> {
        if self.next != self.args.len() {
            return Err(DeviceError::invalid(format!(
                "{}: takes {} arguments, {} given",
                self.entry,
                self.next,
                self.args.len()
            )));
        }
        let spans = &self.spans[..self.buffers];
        for (i, a) in spans.iter().enumerate() {
            let clash = |b: &&Span| (a.written || b.written) && a.start < b.end && b.start < a.end;
            if let Some(b) = spans[i + 1..].iter().find(clash) {
                return Err(DeviceError::invalid(format!(
                    "{}: arguments {} and {} overlap, and one of them is written",
                    self.entry, a.argument, b.argument
                )));
            }
        }
        Ok(())
    }

    /// Looks at a later argument: sizes come after the buffers that they bound.
    pub(crate) fn peek_u64(&self, index: usize) -> Result<u64> {
        match self.args.get(index) {
            Some(Arg::U64(n)) => Ok(*n),
            _ => Err(DeviceError::invalid(format!("{}: argument {index} must be a u64", self.entry))),
        }
    }
}

/// A raw pointer that threads of the pool may share; each touches its own range.
pub(crate) struct Shared<T>(*mut T);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<T> {}

// SAFETY: every use hands disjoint ranges to the threads, or only reads.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub(crate) fn new(pointer: *mut T) -> Self {
        Self(pointer)
    }

    /// Element `i`, for whoever goes on from there in steps that are no range.
    ///
    /// # Safety
    /// It lies within the allocation.
    pub(crate) unsafe fn at(self, i: usize) -> *mut T {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(i) }
    }

    /// Elements `range` for reading.
    ///
    /// # Safety
    /// The range lies within the allocation, is initialised, and is not written meanwhile.
    pub(crate) unsafe fn slice<'a>(self, range: std::ops::Range<usize>) -> &'a [T] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts(self.0.add(range.start), range.len()) }
    }

    /// Elements `range` for writing.
    ///
    /// # Safety
    /// The range lies within the allocation and no one else touches it meanwhile.
    pub(crate) unsafe fn slice_mut<'a>(self, range: std::ops::Range<usize>) -> &'a mut [T] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(range.start), range.len()) }
    }
}

/// The widest SIMD that this CPU has and that the kernels know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Simd {
    /// What the target guarantees.
    Baseline,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, VL, DQ.
    Avx512,
}

/// Looked up once by the standard library.
pub(crate) fn simd() -> Simd {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        if has!("avx512f") && has!("avx512bw") && has!("avx512vl") && has!("avx512dq") && has!("avx2") && has!("fma") {
            return Simd::Avx512;
        }
        if has!("avx2") && has!("fma") {
            return Simd::Avx2;
        }
    }
    Simd::Baseline
}
