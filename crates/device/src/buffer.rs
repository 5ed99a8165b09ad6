//! Device memory as an owned handle: freed when the last clone is dropped, never addressed by arithmetic in safe code.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// A range of device memory. Cheap to clone; all clones are the same memory.
#[derive(Clone)]
pub struct Buffer {
    len: usize,
    address: u64,
    owner: Arc<dyn Any + Send + Sync>,
}

impl Buffer {
    /// For backends: `owner` frees the memory when it is dropped and identifies the backend that made it. `address` is the
    /// device address, or a base of the backend's own where the API has none (Vulkan).
    pub fn new(len: usize, address: u64, owner: Arc<dyn Any + Send + Sync>) -> Self {
        Self { len, address, owner }
    }

    /// The bytes `offset..offset + len` as a buffer of its own that keeps the whole alive; None past the end or where the
    /// memory has no address.
    #[must_use]
    pub fn part(&self, offset: usize, len: usize) -> Option<Self> {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.len);
        (inside && self.address != 0).then(|| Self { len, address: self.address + offset as u64, owner: Arc::clone(&self.owner) })
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for a buffer of no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Address on the device, for kernels' arguments.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.address
    }

    /// What owns the memory, for whoever must keep it alive.
    #[must_use]
    pub fn keep(&self) -> Arc<dyn Any + Send + Sync> {
        Arc::clone(&self.owner)
    }

    /// What owns it, if it was made by the backend whose owner type is `T`.
    #[must_use]
    pub fn owner<T: Any>(&self) -> Option<&T> {
        self.owner.downcast_ref()
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes at {:#x})", self.len, self.address)
    }
}
