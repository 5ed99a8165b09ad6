//! What an adapter is and can do, asked once: limits, features, memory, queues, matrix shapes.

use super::instance::{NEEDED, spell};
use crate::MatrixShape;
use ash::vk;
use ridgepoint_core::specs::Specs;
use ridgepoint_core::{Backend, Bytes, CacheLevel, DeviceInfo, Dtype};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CStr;

/// Units where no extension tells: enough blocks for a persistent grid on most GPUs.
const UNITS_UNKNOWN: u32 = 32;

/// A queue family.
#[derive(Clone, Copy, Debug)]
pub(super) struct Family {
    pub(super) index: u32,
    /// Bits of its timestamps; 0 for none.
    pub(super) stamp_bits: u32,
}

/// One adapter, as observed.
pub(super) struct Adapter {
    pub(super) handle: vk::PhysicalDevice,
    pub(super) name: String,
    pub(super) driver: String,
    pub(super) software: bool,
    pub(super) vendor: &'static str,
    pub(super) uuid: String,
    pub(super) pci: Option<String>,
    pub(super) units: Option<u32>,
    pub(super) limits: vk::PhysicalDeviceLimits,
    /// Largest single allocation and buffer.
    pub(super) largest: u64,
    pub(super) memory: vk::PhysicalDeviceMemoryProperties,
    pub(super) compute: Family,
    /// A family that only copies: a GPU's DMA engine.
    pub(super) transfer: Option<Family>,
    pub(super) extensions: BTreeSet<String>,
    pub(super) can: Can,
    /// The matrix products that a subgroup does.
    pub(super) matrices: Vec<MatrixShape>,
    /// Subgroup sizes from and to, and the usual one.
    pub(super) subgroups: (u32, u32, u32),
}

/// Features that a kernel may need, as far as the adapter has them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Can {
    /// 16-bit elements in storage buffers, and arithmetic on 16-bit integers.
    pub(super) storage16: bool,
    pub(super) int16: bool,
    pub(super) f16: bool,
    /// The subgroup size of a pipeline can be fixed.
    pub(super) fixed_subgroups: bool,
    /// Matrices that a subgroup holds together.
    pub(super) matrices: bool,
    /// bfloat16 among them.
    pub(super) bfloat16: bool,
}

/// VkPhysicalDeviceShaderBfloat16FeaturesKHR, newer than the bindings.
#[repr(C)]
pub(super) struct Bfloat16Features {
    s_type: vk::StructureType,
    p_next: *mut std::ffi::c_void,
    types: vk::Bool32,
    dot_product: vk::Bool32,
    matrices: vk::Bool32,
}

/// The extension's name.
pub(super) const BFLOAT16_NAME: &CStr = c"VK_KHR_shader_bfloat16";

impl Bfloat16Features {
    /// Wanted, or to be asked for.
    pub(super) const fn new(wanted: bool) -> Self {
        let wanted = if wanted { vk::TRUE } else { vk::FALSE };
        let s_type = vk::StructureType::from_raw(1_000_141_000);
        Self { s_type, p_next: std::ptr::null_mut(), types: wanted, dot_product: vk::FALSE, matrices: wanted }
    }
}

// SAFETY: the registry lists the structure as extending both, and it begins with type and next as all of them do.
unsafe impl vk::ExtendsPhysicalDeviceFeatures2 for Bfloat16Features {}
// SAFETY: as above.
unsafe impl vk::ExtendsDeviceCreateInfo for Bfloat16Features {}

fn text(raw: &[std::ffi::c_char]) -> String {
    let bytes: Vec<u8> = raw.iter().map(|c| *c as u8).take_while(|b| *b != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

const fn vendor(id: u32) -> &'static str {
    match id {
        0x1002 => "AMD",
        0x10de => "NVIDIA",
        0x8086 => "Intel",
        0x106b => "Apple",
        0x13b5 => "ARM",
        0x5143 => "Qualcomm",
        0x1_0005 => "Mesa",
        _ => "unknown",
    }
}

/// The shapes that a whole subgroup of `lanes` does, of dtypes that we know.
fn matrices(
    entry: &ash::Entry,
    instance: &ash::Instance,
    handle: vk::PhysicalDevice,
    lanes: u32,
    bfloat16: bool,
) -> Vec<MatrixShape> {
    let functions = ash::khr::cooperative_matrix::Instance::new(entry, instance);
    // SAFETY: the extension was found on this adapter.
    let listed = unsafe { functions.get_physical_device_cooperative_matrix_properties(handle) }.unwrap_or_default();
    let dtype = |t: vk::ComponentTypeKHR| match t.as_raw() {
        0 => Some(Dtype::F16),
        1 => Some(Dtype::F32),
        2 => Some(Dtype::F64),
        3 => Some(Dtype::I8),
        5 => Some(Dtype::I32),
        // Newer than the bindings: VK_KHR_shader_bfloat16, VK_EXT_shader_float8.
        1_000_141_000 if bfloat16 => Some(Dtype::Bf16),
        1_000_491_002 => Some(Dtype::E4m3),
        1_000_491_003 => Some(Dtype::E5m2),
        _ => None,
    };
    let shape = |p: &vk::CooperativeMatrixPropertiesKHR<'_>| {
        let whole = p.scope == vk::ScopeKHR::SUBGROUP && p.a_type == p.b_type && p.c_type == p.result_type;
        let (input, output) = (dtype(p.a_type)?, dtype(p.c_type)?);
        whole.then_some(MatrixShape { m: p.m_size, n: p.n_size, k: p.k_size, input, output, lanes })
    };
    listed.iter().filter_map(shape).collect()
}

impl Adapter {
    /// Looks at one device; the reason where it cannot be used.
    pub(super) fn observe(entry: &ash::Entry, instance: &ash::Instance, handle: vk::PhysicalDevice) -> Result<Self, String> {
        // SAFETY: the handle is of this instance, here and below.
        let basic = unsafe { instance.get_physical_device_properties(handle) };
        let name = text(&basic.device_name);
        if basic.api_version < NEEDED {
            return Err(format!("{name} has Vulkan {} and {} is needed", spell(basic.api_version), spell(NEEDED)));
        }
        // SAFETY: as above.
        let listed = unsafe { instance.enumerate_device_extension_properties(handle) }.unwrap_or_default();
        let extensions: BTreeSet<String> = listed.iter().map(|e| text(&e.extension_name)).collect();
        let has = |name: &CStr| name.to_str().is_ok_and(|n| extensions.contains(n));

        let mut v11 = vk::PhysicalDeviceVulkan11Properties::default();
        let mut v12 = vk::PhysicalDeviceVulkan12Properties::default();
        let mut subgroup = vk::PhysicalDeviceSubgroupSizeControlProperties::default();
        let mut pci = vk::PhysicalDevicePCIBusInfoPropertiesEXT::default();
        let mut sms = vk::PhysicalDeviceShaderSMBuiltinsPropertiesNV::default();
        let mut cus = vk::PhysicalDeviceShaderCoreProperties2AMD::default();
        let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut v11).push_next(&mut v12);
        let controls = has(vk::EXT_SUBGROUP_SIZE_CONTROL_NAME) || basic.api_version >= vk::API_VERSION_1_3;
        if controls {
            properties = properties.push_next(&mut subgroup);
        }
        if has(vk::EXT_PCI_BUS_INFO_NAME) {
            properties = properties.push_next(&mut pci);
        }
        if has(vk::NV_SHADER_SM_BUILTINS_NAME) {
            properties = properties.push_next(&mut sms);
        }
        if has(vk::AMD_SHADER_CORE_PROPERTIES2_NAME) {
            properties = properties.push_next(&mut cus);
        }
        // SAFETY: the chain holds structures that the adapter knows.
        unsafe { instance.get_physical_device_properties2(handle, &mut properties) };
        let limits = properties.properties.limits;

        let mut f11 = vk::PhysicalDeviceVulkan11Features::default();
        let mut f12 = vk::PhysicalDeviceVulkan12Features::default();
        let mut sizes = vk::PhysicalDeviceSubgroupSizeControlFeatures::default();
        let mut features = vk::PhysicalDeviceFeatures2::default().push_next(&mut f11).push_next(&mut f12);
        if controls {
            features = features.push_next(&mut sizes);
        }
        let mut cooperative = vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default();
        if has(vk::KHR_COOPERATIVE_MATRIX_NAME) {
            features = features.push_next(&mut cooperative);
        }
        let mut bfloat16 = Bfloat16Features::new(false);
        if has(BFLOAT16_NAME) {
            features = features.push_next(&mut bfloat16);
        }
        // SAFETY: as above.
        unsafe { instance.get_physical_device_features2(handle, &mut features) };
        let int16 = features.features.shader_int16 == vk::TRUE;
        let can = Can {
            storage16: f11.storage_buffer16_bit_access == vk::TRUE,
            int16,
            f16: f12.shader_float16 == vk::TRUE,
            fixed_subgroups: sizes.subgroup_size_control == vk::TRUE && sizes.compute_full_subgroups == vk::TRUE,
            matrices: cooperative.cooperative_matrix == vk::TRUE
                && f12.vulkan_memory_model == vk::TRUE
                && f12.vulkan_memory_model_device_scope == vk::TRUE,
            bfloat16: bfloat16.types == vk::TRUE && bfloat16.matrices == vk::TRUE,
        };
        // SAFETY: as above.
        let memory = unsafe { instance.get_physical_device_memory_properties(handle) };
        // SAFETY: as above.
        let families = unsafe { instance.get_physical_device_queue_family_properties(handle) };
        let family = |wanted: &dyn Fn(vk::QueueFlags) -> bool| {
            let at = families.iter().position(|f| f.queue_count > 0 && wanted(f.queue_flags))?;
            Some(Family { index: at as u32, stamp_bits: families[at].timestamp_valid_bits })
        };
        let compute = family(&|f| f.contains(vk::QueueFlags::COMPUTE)).ok_or_else(|| format!("{name} has no compute queue"))?;
        let busy = vk::QueueFlags::COMPUTE | vk::QueueFlags::GRAPHICS;
        let transfer = family(&|f| f.contains(vk::QueueFlags::TRANSFER) && !f.intersects(busy)).filter(|f| f.stamp_bits > 0);
        let units = [sms.shader_sm_count, cus.active_compute_unit_count].into_iter().find(|n| *n > 0);
        let driver_info = text(&v12.driver_info);
        Ok(Self {
            handle,
            software: basic.device_type == vk::PhysicalDeviceType::CPU,
            vendor: vendor(basic.vendor_id),
            driver: format!("{} {}", text(&v12.driver_name), driver_info).trim().to_owned(),
            name,
            uuid: v11.device_uuid.iter().map(|b| format!("{b:02x}")).collect(),
            pci: has(vk::EXT_PCI_BUS_INFO_NAME)
                .then(|| format!("{:04x}:{:02x}:{:02x}.{}", pci.pci_domain, pci.pci_bus, pci.pci_device, pci.pci_function)),
            units,
            limits,
            largest: v11.max_memory_allocation_size,
            memory,
            compute,
            transfer,
            matrices: if can.matrices { matrices(entry, instance, handle, v11.subgroup_size, can.bfloat16) } else { vec![] },
            extensions,
            can,
            subgroups: match subgroup.max_subgroup_size {
                0 => (v11.subgroup_size, v11.subgroup_size, v11.subgroup_size),
                _ => (subgroup.min_subgroup_size, subgroup.max_subgroup_size, v11.subgroup_size),
            },
        })
    }

    pub(super) fn has(&self, extension: &CStr) -> bool {
        extension.to_str().is_ok_and(|n| self.extensions.contains(n))
    }

    /// The largest heap of the device's own memory.
    pub(super) fn memory_bytes(&self) -> Bytes {
        let heaps = &self.memory.memory_heaps[..self.memory.memory_heap_count as usize];
        let own = heaps.iter().filter(|h| h.flags.contains(vk::MemoryHeapFlags::DEVICE_LOCAL));
        Bytes(own.map(|h| h.size).max().or_else(|| heaps.iter().map(|h| h.size).max()).unwrap_or(0))
    }

    pub(super) fn detail(&self) -> String {
        let kind = if self.software { "software Vulkan" } else { self.vendor };
        format!("{kind}, {}, {:.0} GB", self.driver, self.memory_bytes().0 as f64 / 1e9)
    }

    /// The facts that are recorded. A software device runs on the host's cores and caches.
    pub(super) fn info(&self, index: usize) -> DeviceInfo {
        let mut facts = BTreeMap::new();
        let (least, most, usual) = self.subgroups;
        facts.insert(
            "subgroup size".into(),
            if least == most { most.to_string() } else { format!("{usual} of {least} to {most}") },
        );
        facts.insert("workgroup memory".into(), self.limits.max_compute_shared_memory_size.to_string());
        facts.insert("largest binding".into(), self.limits.max_storage_buffer_range.to_string());
        facts.insert("largest allocation".into(), self.largest.to_string());
        facts.insert("16-bit storage".into(), (self.can.storage16 && self.can.int16).to_string());
        facts.insert("f16 arithmetic".into(), self.can.f16.to_string());
        facts.insert("transfer queue".into(), if self.transfer.is_some() { "of its own" } else { "shared with compute" }.into());
        let host = self.software.then(crate::cpu::facts);
        if self.units.is_none() && host.is_none() {
            facts.insert("units".into(), format!("not told by the driver; {UNITS_UNKNOWN} assumed"));
        }
        let mut info = DeviceInfo {
            id: format!("vulkan:{index}"),
            backend: Backend::Vulkan,
            vendor: self.vendor.into(),
            name: self.name.clone(),
            arch: if self.software { "software".into() } else { "vulkan".into() },
            uuid: Some(self.uuid.clone()),
            pci: self.pci.clone(),
            units: host.as_ref().map(|h| h.units).or(self.units).unwrap_or(UNITS_UNKNOWN),
            max_clock_mhz: None,
            memory: self.memory_bytes(),
            caches: host.map(|h| h.caches).unwrap_or_default(),
            driver: self.driver.clone(),
            software: self.software,
            libraries: vec![],
            measured: vec![],
            facts,
        };
        // Vulkan does not tell a cache's size; the model's datasheet may.
        if let Some(mb) = Specs::built_in().find(&info).and_then(|s| s.infinity_cache_mb.or(s.l2_mb)) {
            info.caches = vec![CacheLevel { name: "last level".into(), bytes: Bytes((mb * 1e6) as u64), instances: 1 }];
        }
        info
    }
}
