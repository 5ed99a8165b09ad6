//! cuDNN's backend interface: descriptors that are created, given attributes and finalized, and freed in the end.

use super::numbers::{class, kind};
use crate::dl::{CallError, text};
use crate::gpu::sys::Handle;
use std::ffi::{c_char, c_int, c_void};
use std::sync::Arc;

crate::dl::table! {
    /// `libcudnn.so`.
    pub struct Dnn;
    status {
        fn create(h: *mut Handle) = ["cudnnCreate"];
        fn destroy(h: Handle) = ["cudnnDestroy"];
        fn set_stream(h: Handle, stream: Handle) = ["cudnnSetStream"];
        fn descriptor_create(kind: c_int, d: *mut Handle) = ["cudnnBackendCreateDescriptor"];
        fn descriptor_destroy(d: Handle) = ["cudnnBackendDestroyDescriptor"];
        fn descriptor_finalize(d: Handle) = ["cudnnBackendFinalize"];
        fn attribute_set(d: Handle, attribute: c_int, class: c_int, count: i64, values: *const c_void) = ["cudnnBackendSetAttribute"];
        fn attribute_get(d: Handle, attribute: c_int, class: c_int, room: i64, count: *mut i64, values: *mut c_void) = ["cudnnBackendGetAttribute"];
        fn execute(h: Handle, plan: Handle, pack: Handle) = ["cudnnBackendExecute"];
    }
    raw {
        fn version() -> usize = ["cudnnGetVersion"];
        fn runtime() -> usize = ["cudnnGetCudartVersion"];
        fn error_string(code: i32) -> *const c_char = ["cudnnGetErrorString"];
        fn last_error(message: *mut c_char, room: usize) -> () = ["cudnnGetLastErrorString"];
    }
}

impl Dnn {
    /// The code's name, and what the library says went wrong.
    fn meaning(&self, code: i32) -> String {
        let mut message = [0 as c_char; 512];
        // SAFETY: the first returns a static string for any code; the second writes a terminated string of at most that room.
        let (name, said) = unsafe {
            self.last_error(message.as_mut_ptr(), message.len());
            message[message.len() - 1] = 0;
            (self.error_string(code).map(|p| text(p)).unwrap_or_default(), text(message.as_ptr()))
        };
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        [name, said].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ")
    }
}

pub(super) type Outcome<T> = Result<T, CallError>;

/// A descriptor, freed with its last owner. One that holds others keeps them.
#[derive(Clone)]
pub(super) struct Descriptor(Arc<Owned>);

struct Owned {
    api: Arc<Dnn>,
    handle: Handle,
    _parts: Vec<Descriptor>,
}

// SAFETY: the library's descriptors are plain memory that any thread may use, one at a time.
unsafe impl Send for Owned {}
// SAFETY: they are not changed once they are finalized.
unsafe impl Sync for Owned {}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: created once, destroyed once.
        let _ = unsafe { self.api.descriptor_destroy(self.handle) };
    }
}

impl Descriptor {
    pub(super) fn handle(&self) -> Handle {
        self.0.handle
    }

    /// One that a query fills.
    fn blank(api: &Arc<Dnn>, kind: i32) -> Outcome<Self> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: writes one handle.
        unsafe { api.descriptor_create(kind, &mut handle) }?;
        Ok(Self(Arc::new(Owned { api: Arc::clone(api), handle, _parts: Vec::new() })))
    }

    /// Whole numbers that an attribute holds; at most one.
    fn get<T: Copy>(&self, attribute: i32, class: i32, mut value: T) -> Outcome<T> {
        let mut count = 0;
        // SAFETY: writes at most one value of the attribute's type, whose size the caller's is.
        unsafe { self.0.api.attribute_get(self.handle(), attribute, class, 1, &mut count, (&raw mut value).cast()) }?;
        Ok(value)
    }

    pub(super) fn number(&self, attribute: i32) -> Outcome<i64> {
        self.get(attribute, class::INT64, 0)
    }

    pub(super) fn code(&self, attribute: i32, class: i32) -> Outcome<i32> {
        self.get(attribute, class, 0)
    }

    /// Up to `most` descriptors of a kind that an attribute holds.
    pub(super) fn parts(&self, attribute: i32, kind: i32, most: usize) -> Outcome<Vec<Self>> {
        let mut parts = (0..most).map(|_| Self::blank(&self.0.api, kind)).collect::<Outcome<Vec<_>>>()?;
        let mut handles: Vec<Handle> = parts.iter().map(Self::handle).collect();
        let mut count = 0;
        // SAFETY: fills at most as many descriptors as there are, and writes their number.
        unsafe {
            self.0.api.attribute_get(
                self.handle(),
                attribute,
                class::DESCRIPTOR,
                most as i64,
                &mut count,
                handles.as_mut_ptr().cast(),
            )
        }?;
        parts.truncate(usize::try_from(count).unwrap_or(0));
        Ok(parts)
    }
}

/// A descriptor that is being described.
pub(super) struct Builder {
    api: Arc<Dnn>,
    handle: Handle,
    parts: Vec<Descriptor>,
    error: Option<CallError>,
}

impl Builder {
    pub(super) fn new(api: &Arc<Dnn>, kind: i32) -> Self {
        let mut handle = std::ptr::null_mut();
        // SAFETY: writes one handle.
        let error = unsafe { api.descriptor_create(kind, &mut handle) }.err();
        Self { api: Arc::clone(api), handle, parts: Vec::new(), error }
    }

    /// Values of a type of C whose layout `T` has.
    fn values<T: Copy>(mut self, attribute: i32, class: i32, values: &[T]) -> Self {
        if self.error.is_none() {
            // SAFETY: reads so many values, which live across the call.
            let set =
                unsafe { self.api.attribute_set(self.handle, attribute, class, values.len() as i64, values.as_ptr().cast()) };
            self.error = set.err();
        }
        self
    }

    pub(super) fn numbers(self, attribute: i32, numbers: &[i64]) -> Self {
        self.values(attribute, class::INT64, numbers)
    }

    /// An enumerator of a class.
    pub(super) fn code(self, attribute: i32, class: i32, code: i32) -> Self {
        self.values(attribute, class, &[code])
    }

    pub(super) fn flag(self, attribute: i32) -> Self {
        self.values(attribute, class::BOOLEAN, &[1_u8])
    }

    pub(super) fn pointers(self, attribute: i32, pointers: &[*mut c_void]) -> Self {
        self.values(attribute, class::POINTER, pointers)
    }

    pub(super) fn library(self, attribute: i32, handle: Handle) -> Self {
        self.values(attribute, class::HANDLE, &[handle])
    }

    #[cfg(test)]
    pub(super) fn text(self, attribute: i32, text: &str) -> Self {
        self.values(attribute, class::CHAR, text.as_bytes())
    }

    pub(super) fn part(self, attribute: i32, part: &Descriptor) -> Self {
        self.all(attribute, std::slice::from_ref(part))
    }

    pub(super) fn all(mut self, attribute: i32, parts: &[Descriptor]) -> Self {
        self.parts.extend_from_slice(parts);
        let handles: Vec<Handle> = parts.iter().map(Descriptor::handle).collect();
        self.values(attribute, class::DESCRIPTOR, &handles)
    }

    /// The descriptor, or the first thing that went wrong.
    pub(super) fn finish(mut self) -> Outcome<Descriptor> {
        if self.error.is_none() {
            // SAFETY: made by `new`.
            self.error = unsafe { self.api.descriptor_finalize(self.handle) }.err();
        }
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        let handle = std::mem::replace(&mut self.handle, std::ptr::null_mut());
        let parts = std::mem::take(&mut self.parts);
        Ok(Descriptor(Arc::new(Owned { api: Arc::clone(&self.api), handle, _parts: parts })))
    }
}

impl Drop for Builder {
    fn drop(&mut self) {
        if !self.handle.is_null() {
            // SAFETY: created and not given away.
            let _ = unsafe { self.api.descriptor_destroy(self.handle) };
        }
    }
}

/// Operations as a graph.
pub(super) fn operations(api: &Arc<Dnn>, handle: Option<Handle>, operations: &[Descriptor]) -> Outcome<Descriptor> {
    let graph = Builder::new(api, kind::GRAPH).all(super::numbers::attribute::GRAPH_OPERATIONS, operations);
    match handle {
        Some(handle) => graph.library(super::numbers::attribute::GRAPH_HANDLE, handle).finish(),
        None => graph.finish(),
    }
}
