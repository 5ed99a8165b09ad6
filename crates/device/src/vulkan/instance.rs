//! The loader and one instance a process: opened once, kept to the end, since drivers do not all survive being unloaded.

use super::adapter::Adapter;
use ash::vk;
use std::ffi::CStr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Names the loader or its folder; `none` means that no Vulkan is wanted.
const VARIABLE: &str = "RIDGEPOINT_VULKAN_PATH";

#[cfg(windows)]
const LOADER: &str = "vulkan-1.dll";
#[cfg(target_vendor = "apple")]
const LOADER: &str = "libvulkan.1.dylib";
#[cfg(not(any(windows, target_vendor = "apple")))]
const LOADER: &str = "libvulkan.so.1";

/// The version that everything here is written for: timeline semaphores, 16-bit storage, subgroup facts.
pub(super) const NEEDED: u32 = vk::API_VERSION_1_2;

/// Vulkan on this machine.
pub(super) struct Vulkan {
    pub(super) instance: ash::Instance,
    /// Devices that can be used, in the loader's order.
    pub(super) adapters: Vec<Adapter>,
    /// Devices that cannot, and why.
    pub(super) refused: Vec<String>,
    /// The loader's version and where it came from.
    pub(super) version: String,
    pub(super) path: String,
    /// Keeps the library open.
    _entry: ash::Entry,
}

/// Vulkan, or why there is none.
pub(super) fn vulkan() -> &'static Result<Vulkan, String> {
    static VULKAN: OnceLock<Result<Vulkan, String>> = OnceLock::new();
    VULKAN.get_or_init(|| open(std::env::var_os(VARIABLE).map(PathBuf::from).as_deref()))
}

/// `1.4.309` of a packed version.
pub(super) fn spell(version: u32) -> String {
    let (major, minor) = (vk::api_version_major(version), vk::api_version_minor(version));
    format!("{major}.{minor}.{}", vk::api_version_patch(version))
}

fn open(asked: Option<&Path>) -> Result<Vulkan, String> {
    let path = match asked {
        Some(path) if path == Path::new("none") => return Err(format!("{VARIABLE} is 'none'")),
        Some(path) if path.is_dir() => path.join(LOADER),
        Some(path) => path.to_owned(),
        None => LOADER.into(),
    };
    // SAFETY: the loader's initialisers run as those of any library that the user's system or the user provides.
    let entry = unsafe { ash::Entry::load_from(&path) }.map_err(|_| match asked {
        Some(path) => format!("{VARIABLE} names {}, where no Vulkan loader opens", path.display()),
        None => format!("there is no Vulkan loader ({LOADER})"),
    })?;
    // SAFETY: asks for a number; absent in 1.0 loaders, which ash handles.
    let version = unsafe { entry.try_enumerate_instance_version() }.ok().flatten().unwrap_or(vk::API_VERSION_1_0);
    if version < NEEDED {
        return Err(format!("the Vulkan loader is of {}; {} is needed", spell(version), spell(NEEDED)));
    }
    let portability = vk::KHR_PORTABILITY_ENUMERATION_NAME;
    // SAFETY: no layer is named.
    let extensions = unsafe { entry.enumerate_instance_extension_properties(None) }.unwrap_or_default();
    let portable = extensions.iter().any(|e| e.extension_name_as_c_str() == Ok(portability));
    let names: Vec<_> = portable.then_some(portability.as_ptr()).into_iter().collect();
    let application = vk::ApplicationInfo::default().application_name(c"ridgepoint").api_version(vk::API_VERSION_1_3);
    let flags = if portable { vk::InstanceCreateFlags::ENUMERATE_PORTABILITY_KHR } else { vk::InstanceCreateFlags::empty() };
    let info = vk::InstanceCreateInfo::default().application_info(&application).enabled_extension_names(&names).flags(flags);
    // SAFETY: the structures live through the call.
    let instance = unsafe { entry.create_instance(&info, None) }.map_err(|code| match code {
        vk::Result::ERROR_INCOMPATIBLE_DRIVER => "the Vulkan loader is there and found no driver".to_owned(),
        code => format!("the Vulkan loader is there but gives no instance: {code}"),
    })?;
    // SAFETY: the instance lives on in what is returned.
    let handles = unsafe { instance.enumerate_physical_devices() }.unwrap_or_default();
    let (mut adapters, mut refused) = (Vec::new(), Vec::new());
    for handle in handles {
        match Adapter::observe(&entry, &instance, handle) {
            Ok(adapter) => adapters.push(adapter),
            Err(reason) => refused.push(reason),
        }
    }
    let path = entry_path(&entry).unwrap_or_else(|| path.display().to_string());
    Ok(Vulkan { instance, adapters, refused, version: spell(version), path, _entry: entry })
}

/// The file that the loader was opened from.
#[cfg(unix)]
fn entry_path(entry: &ash::Entry) -> Option<String> {
    let address = entry.static_fn().get_instance_proc_addr as *const std::ffi::c_void;
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::uninit();
    // SAFETY: dladdr fills the structure where it returns non-zero, and the name then lives as long as the library.
    unsafe {
        if libc::dladdr(address, info.as_mut_ptr()) == 0 {
            return None;
        }
        let name = info.assume_init().dli_fname;
        (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
    }
}

#[cfg(not(unix))]
fn entry_path(_: &ash::Entry) -> Option<String> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_a_sentence() {
        let reason = |path: &str| open(Some(Path::new(path))).err().unwrap();
        assert_eq!(reason("none"), "RIDGEPOINT_VULKAN_PATH is 'none'");
        assert!(reason("/nonexistent/libvulkan.so.1").contains("no Vulkan loader opens"));
    }
}
