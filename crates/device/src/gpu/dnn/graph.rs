//! The backend interface itself: descriptors that are created, given attributes and finalized, and freed in the end.

use crate::dl::{CallError, Opened, text};
use crate::gpu::sys::Handle;
use std::ffi::{c_char, c_int, c_void};
use std::sync::Arc;

/// How a library numbers what it is told.
#[derive(Debug)]
pub(crate) struct Numbers {
    /// How its functions begin.
    pub(crate) prefix: &'static str,
    /// The class of attributes that are descriptors.
    pub(crate) descriptor: i32,
    /// A tensor, and what is said of one.
    pub(crate) tensor: i32,
    pub(crate) tensor_id: i32,
    pub(crate) tensor_type: i32,
    pub(crate) tensor_dimensions: i32,
    pub(crate) tensor_strides: i32,
    /// None where a tensor needs none.
    pub(crate) tensor_alignment: Option<i32>,
    /// A pack of addresses, and what is in it.
    pub(crate) pack: i32,
    pub(crate) pack_ids: i32,
    pub(crate) pack_pointers: i32,
    pub(crate) pack_workspace: i32,
    /// Element types of what stands around Q, K and V.
    pub(crate) f32: i32,
    pub(crate) i32: i32,
}

/// What an attribute's value is made of, where both libraries count alike.
pub(crate) mod class {
    pub(crate) const HANDLE: i32 = 0;
    pub(crate) const DATA_TYPE: i32 = 1;
    pub(crate) const BOOLEAN: i32 = 2;
    pub(crate) const INT64: i32 = 3;
    pub(crate) const FLOAT: i32 = 4;
    pub(crate) const POINTER: i32 = 6;
}

crate::dl::table! {
    /// `libcudnn.so`, or `libhipdnn_backend.so`: bound with the prefix of one.
    pub struct Api;
    status {
        fn create(h: *mut Handle) = ["cudnnCreate", "hipdnnCreate"];
        fn destroy(h: Handle) = ["cudnnDestroy", "hipdnnDestroy"];
        fn set_stream(h: Handle, stream: Handle) = ["cudnnSetStream", "hipdnnSetStream"];
        fn descriptor_create(kind: c_int, d: *mut Handle) = ["cudnnBackendCreateDescriptor", "hipdnnBackendCreateDescriptor"];
        fn descriptor_destroy(d: Handle) = ["cudnnBackendDestroyDescriptor", "hipdnnBackendDestroyDescriptor"];
        fn descriptor_finalize(d: Handle) = ["cudnnBackendFinalize", "hipdnnBackendFinalize"];
        fn attribute_set(d: Handle, attribute: c_int, class: c_int, count: i64, values: *const c_void) = ["cudnnBackendSetAttribute", "hipdnnBackendSetAttribute"];
        fn attribute_get(d: Handle, attribute: c_int, class: c_int, room: i64, count: *mut i64, values: *mut c_void) = ["cudnnBackendGetAttribute", "hipdnnBackendGetAttribute"];
        fn execute(h: Handle, plan: Handle, pack: Handle) = ["cudnnBackendExecute", "hipdnnBackendExecute"];
        fn engine_count(h: Handle, count: *mut usize) = ["hipdnnGetEngineCount_ext"];
        fn engine_info(h: Handle, index: usize, id: *mut i64, name: *mut c_char, name_room: *mut usize, plugin: *mut c_char, plugin_room: *mut usize, version: *mut c_char, version_room: *mut usize, kind: *mut c_char, kind_room: *mut usize) = ["hipdnnGetEngineInfo_ext"];
    }
    raw {
        fn version() -> usize = ["cudnnGetVersion"];
        fn runtime() -> usize = ["cudnnGetCudartVersion"];
        fn version_text() -> *const c_char = ["hipdnnVersionString_ext"];
        fn error_string(code: i32) -> *const c_char = ["cudnnGetErrorString", "hipdnnGetErrorString"];
        fn last_error(message: *mut c_char, room: usize) -> () = ["cudnnGetLastErrorString", "hipdnnGetLastErrorString"];
    }
}

/// A library with its numbers.
pub(crate) struct Dnn {
    api: Api,
    pub(crate) numbers: &'static Numbers,
}

impl std::ops::Deref for Dnn {
    type Target = Api;

    fn deref(&self) -> &Api {
        &self.api
    }
}

impl Dnn {
    pub(crate) fn bind(library: Opened, numbers: &'static Numbers) -> Self {
        Self { api: Api::bind_prefixed(library, numbers.prefix), numbers }
    }
}

impl Api {
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

pub(crate) type Outcome<T> = Result<T, CallError>;

/// A descriptor, freed with its last owner. One that holds others keeps them.
#[derive(Clone)]
pub(crate) struct Descriptor(Arc<Owned>);

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
    pub(crate) fn handle(&self) -> Handle {
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

    pub(crate) fn number(&self, attribute: i32) -> Outcome<i64> {
        self.get(attribute, class::INT64, 0)
    }

    pub(crate) fn code(&self, attribute: i32, class: i32) -> Outcome<i32> {
        self.get(attribute, class, 0)
    }

    /// The descriptor that an attribute holds, as one of its own that the query makes.
    pub(crate) fn part(&self, attribute: i32) -> Outcome<Self> {
        let api = &self.0.api;
        let handle = self.get(attribute, api.numbers.descriptor, std::ptr::null_mut())?;
        Ok(Self(Arc::new(Owned { api: Arc::clone(api), handle, _parts: Vec::new() })))
    }

    /// Finalizes one that a query filled and left open.
    pub(crate) fn close(&self) -> Outcome<()> {
        // SAFETY: it is alive, and nobody else has it yet.
        unsafe { self.0.api.descriptor_finalize(self.handle()) }
    }

    /// Up to `most` descriptors of a kind that an attribute holds.
    pub(crate) fn parts(&self, attribute: i32, kind: i32, most: usize) -> Outcome<Vec<Self>> {
        let mut parts = (0..most).map(|_| Self::blank(&self.0.api, kind)).collect::<Outcome<Vec<_>>>()?;
        let mut handles: Vec<Handle> = parts.iter().map(Self::handle).collect();
        let mut count = 0;
        // SAFETY: fills at most as many descriptors as there are, and writes their number.
        unsafe {
            self.0.api.attribute_get(
                self.handle(),
                attribute,
                self.0.api.numbers.descriptor,
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
pub(crate) struct Builder {
    api: Arc<Dnn>,
    handle: Handle,
    parts: Vec<Descriptor>,
    error: Option<CallError>,
}

impl Builder {
    pub(crate) fn new(api: &Arc<Dnn>, kind: i32) -> Self {
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

    pub(crate) fn numbers(self, attribute: i32, numbers: &[i64]) -> Self {
        self.values(attribute, class::INT64, numbers)
    }

    /// An enumerator of a class.
    pub(crate) fn code(self, attribute: i32, class: i32, code: i32) -> Self {
        self.values(attribute, class, &[code])
    }

    pub(crate) fn flag(self, attribute: i32) -> Self {
        self.values(attribute, class::BOOLEAN, &[1_u8])
    }

    pub(crate) fn pointers(self, attribute: i32, pointers: &[*mut c_void]) -> Self {
        self.values(attribute, class::POINTER, pointers)
    }

    pub(crate) fn real(self, attribute: i32, number: f32) -> Self {
        self.values(attribute, class::FLOAT, &[number])
    }

    pub(crate) fn library(self, attribute: i32, handle: Handle) -> Self {
        self.values(attribute, class::HANDLE, &[handle])
    }

    #[cfg(test)]
    pub(crate) fn text(self, attribute: i32, class: i32, text: &str) -> Self {
        self.values(attribute, class, text.as_bytes())
    }

    pub(crate) fn part(self, attribute: i32, part: &Descriptor) -> Self {
        self.all(attribute, std::slice::from_ref(part))
    }

    pub(crate) fn all(mut self, attribute: i32, parts: &[Descriptor]) -> Self {
        self.parts.extend_from_slice(parts);
        let handles: Vec<Handle> = parts.iter().map(Descriptor::handle).collect();
        let class = self.api.numbers.descriptor;
        self.values(attribute, class, &handles)
    }

    /// The descriptor, or the first thing that went wrong.
    pub(crate) fn finish(mut self) -> Outcome<Descriptor> {
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
