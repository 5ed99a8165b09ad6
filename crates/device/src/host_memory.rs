//! Host memory as the operating system gives it, on the NUMA node that is asked for: what a copy from pageable memory starts from,
//! and what is page-locked afterwards to measure one node's link to a device.

use crate::{DeviceError, Result};
use ridgepoint_core::Bytes;
use std::ffi::c_void;

/// NUMA nodes of this host that have memory, in ascending order; node 0 where the system does not say.
#[must_use]
pub fn nodes() -> Vec<usize> {
    let text = std::fs::read_to_string("/sys/devices/system/node/has_memory").unwrap_or_default();
    let nodes = list(&text);
    if nodes.is_empty() { vec![0] } else { nodes }
}

/// The numbers of a kernel list, `0-2,5`; what is no list is empty.
fn list(text: &str) -> Vec<usize> {
    let range = |part: &str| -> Option<std::ops::RangeInclusive<usize>> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        (last < MOST_NODES).then_some(first..=last)
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

/// More nodes than a machine has; the kernel's own limit is 1024.
const MOST_NODES: usize = 1024;

/// Mapped memory, given back when dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    pub(crate) pointer: *mut c_void,
    len: usize,
}

// SAFETY: an owned mapping; whoever has it may use it.
unsafe impl Send for Mapping {}

#[cfg(unix)]
impl Mapping {
    /// Maps `len` bytes, on `node` if one is given, and touches every page so that they are there.
    pub(crate) fn new(len: usize, node: Option<usize>) -> Result<Self> {
        let short = || DeviceError::OutOfMemory { requested: Bytes(len as u64), free: crate::cpu::available_memory() };
        if crate::cpu::available_memory().is_some_and(|free| len as u64 > free.0) {
            return Err(short());
        }
        let len = len.max(1);
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a private mapping of no file, wherever the kernel likes.
        let pointer =
            unsafe { libc::mmap(std::ptr::null_mut(), len, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
        if pointer == libc::MAP_FAILED {
            return Err(short());
        }
        let mapping = Self { pointer, len };
        if let Some(node) = node {
            mapping.bind(node)?;
        }
        // SAFETY: the mapping is ours and has len bytes.
        unsafe { std::ptr::write_bytes(pointer.cast::<u8>(), 0, len) };
        Ok(mapping)
    }

    #[cfg(not(target_os = "linux"))]
    fn bind(&self, _node: usize) -> Result<()> {
        Err(DeviceError::unsupported("memory on a NUMA node of its own is only known on Linux"))
    }

    /// Pages of the mapping come from `node` and no other.
    #[cfg(target_os = "linux")]
    fn bind(&self, node: usize) -> Result<()> {
        if !nodes().contains(&node) {
            return Err(DeviceError::unsupported(format!("this host has no memory on NUMA node {node}")));
        }
        let mut mask = [0u64; MOST_NODES / 64];
        mask[node / 64] |= 1 << (node % 64);
        // SAFETY: the range is the mapping, the mask has as many bits as said and one more is asked for, as the call wants it.
        let bound =
            unsafe { libc::syscall(libc::SYS_mbind, self.pointer, self.len, libc::MPOL_BIND, mask.as_ptr(), MOST_NODES + 1, 0) };
        if bound != 0 {
            let error = std::io::Error::last_os_error();
            return Err(DeviceError::unsupported(format!("memory cannot be bound to NUMA node {node}: mbind: {error}")));
        }
        Ok(())
    }
}

#[cfg(not(unix))]
impl Mapping {
    pub(crate) fn new(_len: usize, _node: Option<usize>) -> Result<Self> {
        Err(DeviceError::unsupported("host memory of a kind of its own is only known where there is mmap"))
    }
}

impl Mapping {
    /// What it holds.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: an owned mapping of at least so many bytes, all of which were written.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.cast(), self.len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        #[cfg(unix)]
        // SAFETY: mapped with this very length and unmapped once.
        unsafe {
            libc::munmap(self.pointer, self.len);
        }
        #[cfg(not(unix))]
        let _ = (self.pointer, self.len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lists_are_read_and_nothing_else() {
        assert_eq!(list("0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(list("3"), [3]);
        for junk in ["", "x", "0-", "1-99999999999", "-"] {
            assert!(list(junk).is_empty(), "{junk}");
        }
        assert!(!nodes().is_empty());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_lies_on_the_node_that_was_asked_for() {
        let node = nodes()[0];
        let mapping = match Mapping::new(1 << 20, Some(node)) {
            // Without NUMA in the kernel, or where a container forbids the call, there is a reason.
            Err(DeviceError::Unsupported(reason)) => return assert!(reason.contains("mbind"), "{reason}"),
            mapping => mapping.unwrap(),
        };
        let mut where_it_is = -1i32;
        // MPOL_F_NODE | MPOL_F_ADDR: the node of the page at an address.
        // SAFETY: writes one int; the address is mapped.
        let asked = unsafe { libc::syscall(libc::SYS_get_mempolicy, &raw mut where_it_is, 0, 0, mapping.pointer, 3) };
        assert!(asked != 0 || where_it_is == node as i32, "{where_it_is}");
        assert!(matches!(Mapping::new(4096, Some(1023)), Err(DeviceError::Unsupported(_))));
        assert!(matches!(Mapping::new(usize::MAX / 2, None), Err(DeviceError::OutOfMemory { .. })));
    }
}
