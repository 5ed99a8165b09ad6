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
    let request = Request { name: &name, source, headers: sources::HIP_HEADERS, arch: target, options };
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Programs of other chips' instructions than gfx90a's.
    fn elsewhere(name: &str) -> bool {
        ["_sm80", "_sm90", "_sm100", "_bulk", "_rdna"].iter().any(|chip| name.ends_with(chip))
            || name == "attention/decode_splitkv"
    }

    /// The hipRTC that this machine has; in CI it is Debian's, of ROCm 5.2, which needs no GPU.
    #[test]
    fn a_real_compiler_takes_every_kernel_for_its_chip() {
        if let Err(reason) = &libraries().hiprtc {
            println!("SKIP: real hipRTC: {reason}");
            return;
        }
        let programs: Vec<_> = sources::names().filter(|name| !elsewhere(name)).collect();
        assert!(programs.len() >= 4, "{programs:?}");
        let forms = [
            ("gemm/matrix_amd", "RP_DTYPE=f16 RP_BM=128 RP_BN=128"),
            ("gemm/matrix_amd", "RP_DTYPE=i8"),
            ("gemm/tile", "RP_DTYPE=f16"),
            ("attention/decode_amd", "RP_DTYPE=f16 RP_Q=bf16 RP_KV8=1"),
            ("attention/flash_amd", "RP_DTYPE=f16 RP_D=64 RP_CAUSAL=1"),
            ("attention/flash_portable", "RP_TYPE=1"),
            ("attention/flash_portable", "RP_TYPE=2 RP_KV=4"),
        ];
        for (name, defines) in programs.into_iter().map(|name| (name, "")).chain(forms) {
            let pairs = defines.split_whitespace().filter_map(|define| define.split_once('='));
            let defines: Vec<(&str, String)> = pairs.map(|(key, value)| (key, value.to_owned())).collect();
            let program = Program { name, defines: &defines, ..Program::default() };
            let code = compile(&program, sources::cpp(name).unwrap(), "gfx90a", None);
            let code = code.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(code.starts_with(b"\x7fELF"), "{name}: {:?}", &code[..8.min(code.len())]);
            // EM_AMDGPU.
            assert_eq!(code[18..20], [0xe0, 0], "{name}");
        }
        // A kernel as a user writes it, with nothing of ours in it.
        let source = include_str!("../../../../examples/fused_add_relu/fused_add_relu.cu");
        let program = Program { name: "fused_add_relu", cpp: Some(source), ..Program::default() };
        let code = compile(&program, source, "gfx90a", None).unwrap_or_else(|error| panic!("{error}"));
        assert!(code.starts_with(b"\x7fELF") && code.windows(14).any(|w| w == b"fused_add_relu"));
        let broken = compile(&Program { name: "mine", ..Program::default() }, "int f( {", "gfx90a", None).unwrap_err();
        assert!(matches!(&broken, DeviceError::Compile { log, .. } if log.contains("error:")), "{broken}");
        let nowhere = compile(&Program { name: "mine", ..Program::default() }, "", "gfx0", None);
        assert!(nowhere.is_err(), "{nowhere:?}");
    }
}
