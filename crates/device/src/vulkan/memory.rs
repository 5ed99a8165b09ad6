//! The logical device, and memory on it: a buffer and an allocation of its own each.

use super::adapter::{Adapter, BFLOAT16_NAME, Bfloat16Features};
use super::{failure, instance::vulkan};
use crate::{Buffer, DeviceError, Result};
use ash::vk;
use ridgepoint_core::Bytes;
use std::ffi::CStr;
use std::sync::Arc;

/// Vulkan's buffers have no addresses: each counts from here, so that parts of it can be told apart.
pub(super) const BASE: u64 = 1 << 32;
/// Sizes are rounded up to this, so that a kernel's last vector of 16 bytes lies inside.
const GRAIN: u64 = 256;

/// An open device; destroyed when nothing on it is left.
pub(super) struct Handle {
    pub(super) vk: ash::Device,
    pub(super) adapter: &'static Adapter,
    /// The families that share buffers.
    families: Vec<u32>,
}

impl Handle {
    /// Opens an adapter with a queue of each of `families` and the features that kernels may use.
    pub(super) fn open(adapter: &'static Adapter, families: &[u32]) -> Result<Arc<Self>> {
        let instance = &vulkan().as_ref().map_err(|reason| DeviceError::unsupported(reason.clone()))?.instance;
        let mut families = families.to_vec();
        families.dedup();
        let queues: Vec<_> = families
            .iter()
            .map(|family| vk::DeviceQueueCreateInfo::default().queue_family_index(*family).queue_priorities(&[1.0]))
            .collect();
        let wanted: &[&CStr] = &[
            vk::KHR_PORTABILITY_SUBSET_NAME,
            vk::EXT_SUBGROUP_SIZE_CONTROL_NAME,
            vk::KHR_COOPERATIVE_MATRIX_NAME,
            BFLOAT16_NAME,
        ];
        let names: Vec<_> = wanted.iter().filter(|n| adapter.has(n)).map(|n| n.as_ptr()).collect();
        let can = adapter.can;
        let base = vk::PhysicalDeviceFeatures::default().shader_int16(can.int16);
        let mut v11 = vk::PhysicalDeviceVulkan11Features::default().storage_buffer16_bit_access(can.storage16);
        let mut v12 = vk::PhysicalDeviceVulkan12Features::default()
            .timeline_semaphore(true)
            .shader_float16(can.f16)
            .vulkan_memory_model(can.matrices)
            .vulkan_memory_model_device_scope(can.matrices);
        let mut sizes =
            vk::PhysicalDeviceSubgroupSizeControlFeatures::default().subgroup_size_control(true).compute_full_subgroups(true);
        let mut matrices = vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default().cooperative_matrix(true);
        let mut info = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queues)
            .enabled_extension_names(&names)
            .enabled_features(&base)
            .push_next(&mut v11)
            .push_next(&mut v12);
        if can.fixed_subgroups {
            info = info.push_next(&mut sizes);
        }
        if can.matrices {
            info = info.push_next(&mut matrices);
        }
        let mut bfloat16 = Bfloat16Features::new(true);
        if can.bfloat16 {
            info = info.push_next(&mut bfloat16);
        }
        // SAFETY: every feature and extension named was found on this adapter, and the structures live through the call.
        let vk = unsafe { instance.create_device(adapter.handle, &info, None) }.map_err(failure("vkCreateDevice"))?;
        Ok(Arc::new(Self { vk, adapter, families }))
    }

    /// The first memory type that `bits` allows, with the flags of the first of `wanted` that there is.
    fn memory_type(&self, bits: u32, wanted: &[vk::MemoryPropertyFlags]) -> Option<u32> {
        let types = &self.adapter.memory.memory_types[..self.adapter.memory.memory_type_count as usize];
        let fits = |flags: &vk::MemoryPropertyFlags| {
            (0..types.len()).find(|i| bits >> i & 1 == 1 && types[*i].property_flags.contains(*flags))
        };
        wanted.iter().find_map(fits).map(|i| i as u32)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: whatever was made on the device holds it alive, so that nothing of it is left.
        unsafe {
            let _ = self.vk.device_wait_idle();
            self.vk.destroy_device(None);
        }
    }
}

/// Where memory is to lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Device,
    /// The host's memory, which the device can reach.
    Host,
}

/// A buffer and its memory.
pub(super) struct Memory {
    pub(super) handle: Arc<Handle>,
    pub(super) buffer: vk::Buffer,
    memory: vk::DeviceMemory,
    /// Bytes of the buffer, at least what was asked for.
    pub(super) size: u64,
    /// Where the host sees it, as an address; 0 where it does not.
    mapped: usize,
}

impl Memory {
    /// Allocates `len` bytes.
    pub(super) fn new(handle: &Arc<Handle>, len: usize, place: Place) -> Result<Self> {
        let out = || DeviceError::OutOfMemory { requested: Bytes(len as u64), free: None };
        let adapter = handle.adapter;
        if len as u64 > adapter.memory_bytes().0 {
            return Err(out());
        }
        // A software device's memory is the host's, which promises more than it has and kills whoever touches it.
        if adapter.software && crate::cpu::available_memory().is_some_and(|free| len as u64 > free.0) {
            return Err(DeviceError::OutOfMemory { requested: Bytes(len as u64), free: crate::cpu::available_memory() });
        }
        let size = (len.max(1) as u64).next_multiple_of(GRAIN);
        if size > adapter.largest {
            let largest = Bytes(adapter.largest);
            return Err(DeviceError::unsupported(format!("{} gives at most {largest} in one allocation", adapter.name)));
        }
        let usage =
            vk::BufferUsageFlags::STORAGE_BUFFER | vk::BufferUsageFlags::TRANSFER_SRC | vk::BufferUsageFlags::TRANSFER_DST;
        let mut info = vk::BufferCreateInfo::default().size(size).usage(usage);
        if handle.families.len() > 1 {
            info = info.sharing_mode(vk::SharingMode::CONCURRENT).queue_family_indices(&handle.families);
        }
        let short = |call| {
            move |code| match failure(call)(code) {
                DeviceError::OutOfMemory { .. } => out(),
                other => other,
            }
        };
        // SAFETY: the device is open; a failure below leaves nothing behind, since the parts are given to `Self` as they come.
        let buffer = unsafe { handle.vk.create_buffer(&info, None) }.map_err(short("vkCreateBuffer"))?;
        let mut made = Self { handle: Arc::clone(handle), buffer, memory: vk::DeviceMemory::null(), size, mapped: 0 };
        // SAFETY: the buffer was just made.
        let needs = unsafe { handle.vk.get_buffer_memory_requirements(buffer) };
        use vk::MemoryPropertyFlags as Flags;
        let host = Flags::HOST_VISIBLE | Flags::HOST_COHERENT;
        let wanted: &[Flags] = match place {
            Place::Device => &[Flags::DEVICE_LOCAL, Flags::empty()],
            Place::Host => &[host | Flags::HOST_CACHED, host],
        };
        let index = handle
            .memory_type(needs.memory_type_bits, wanted)
            .ok_or_else(|| DeviceError::unsupported(format!("{} has no memory of this kind", adapter.name)))?;
        let info = vk::MemoryAllocateInfo::default().allocation_size(needs.size).memory_type_index(index);
        // SAFETY: the type is one of the adapter's; the buffer is bound once, to memory large enough for it.
        unsafe {
            made.memory = handle.vk.allocate_memory(&info, None).map_err(short("vkAllocateMemory"))?;
            handle.vk.bind_buffer_memory(buffer, made.memory, 0).map_err(short("vkBindBufferMemory"))?;
            if place == Place::Host {
                let flags = vk::MemoryMapFlags::empty();
                made.mapped = handle.vk.map_memory(made.memory, 0, vk::WHOLE_SIZE, flags).map_err(short("vkMapMemory"))? as usize;
            }
        }
        Ok(made)
    }

    /// As a buffer of `len` bytes.
    pub(super) fn into_buffer(self, len: usize) -> Buffer {
        Buffer::new(len, BASE, Arc::new(self))
    }

    /// Copies host bytes in. Only for memory in [`Place::Host`] that the device does not use meanwhile.
    pub(super) fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(self.mapped != 0 && offset + bytes.len() <= self.size as usize);
        // SAFETY: the mapping holds `size` bytes, is coherent, and nothing else has a reference into it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), (self.mapped as *mut u8).add(offset), bytes.len()) };
    }

    /// Copies to the host; as [`Memory::write`].
    pub(super) fn read(&self, offset: usize, bytes: &mut [u8]) {
        assert!(self.mapped != 0 && offset + bytes.len() <= self.size as usize);
        // SAFETY: as in `write`.
        unsafe { std::ptr::copy_nonoverlapping((self.mapped as *const u8).add(offset), bytes.as_mut_ptr(), bytes.len()) };
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: commands that use the memory keep it alive until they are done, so nobody is left who could.
        unsafe {
            self.handle.vk.destroy_buffer(self.buffer, None);
            self.handle.vk.free_memory(self.memory, None);
        }
    }
}
