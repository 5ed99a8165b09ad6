//! hipRTC's options, and code objects that were built ahead where there is no hipRTC.

use super::code_objects::CodeObjects;
use super::libraries::libraries;
use crate::cache::Cache;
use crate::gpu::rtc::Request;
use crate::{DeviceError, Program, Result, sources};

/// A code object of a program for a target such as `gfx942:sramecc+:xnack-`.
///
/// # Errors
/// `Compile` with the compiler's words; `Unsupported` where there is no compiler and no code object.
pub(crate) fn compile(program: &Program<'_>, source: &str, target: &str, cache: Option<&Cache>) -> Result<Vec<u8>> {
    let name = format!("{}.hip", program.name);
    let mut options = vec![format!("--offload-arch={target}"), "-std=c++17".into(), "-O3".into()];
    options.extend(program.defines.iter().map(|(k, v)| format!("-D{k}={v}")));
    let request = Request { name: &name, source, headers: &[sources::HEADER], arch: target, options };
    match &libraries().hiprtc {
        Ok(hiprtc) => {
            // Its version says nothing (it long was 9.0), so the file it came from tells compilers apart in the cache.
            let path = &hiprtc.library.path;
            let file = path.canonicalize().unwrap_or_else(|_| path.clone());
            Ok(hiprtc.compile(&format!("hiprtc {}", file.display()), &request, cache)?)
        }
        Err(reason) => match CodeObjects::of_user(&|key| std::env::var_os(key)) {
            Some(objects) => objects.get(&request).map_err(DeviceError::Unsupported),
            None => Err(DeviceError::Unsupported(reason.clone())),
        },
    }
}
