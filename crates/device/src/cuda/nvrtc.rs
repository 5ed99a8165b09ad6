//! NVRTC's options, and which architectures it knows.

use crate::cache::Cache;
use crate::gpu::rtc::{CompileError, Request, Rtc};
use crate::{DeviceError, Program, Result, sources};

/// A cubin of a program.
///
/// # Errors
/// `Compile` with the compiler's words; `Unsupported` where this NVRTC does not know the architecture.
pub(crate) fn compile(nvrtc: &Rtc, program: &Program<'_>, source: &str, arch: &str, cache: Option<&Cache>) -> Result<Vec<u8>> {
    let known = nvrtc.architectures().unwrap_or_default();
    let number = arch.trim_start_matches("sm_").trim_end_matches(|c: char| c.is_ascii_alphabetic()).parse::<i32>();
    if let (Ok(n), Some(first), Some(last)) = (number, known.first(), known.last())
        && !known.contains(&n)
    {
        let version = nvrtc.version().map_or_else(|e| e.to_string(), |(a, b)| format!("{a}.{b}"));
        return Err(DeviceError::unsupported(format!(
            "NVRTC {version} knows no {arch} (it knows {first} to {last}): install a newer one (pip install -U nvidia-cuda-nvrtc)"
        )));
    }
    let name = format!("{}.cu", program.name);
    let request = |arch: &str| {
        let mut options = vec![format!("--gpu-architecture={arch}"), "--std=c++17".into(), "-default-device".into()];
        options.extend(program.defines.iter().map(|(k, v)| format!("-D{k}={v}")));
        Request { name: &name, source, headers: sources::CUDA_HEADERS, arch: "", options }
    };
    match nvrtc.compile("nvrtc", &Request { arch, ..request(arch) }, cache) {
        // The architecture's own instructions came later than the architecture: without them, a kernel that needs none
        // of them still runs, and one that does fails with the compiler's words.
        Err(CompileError::Option) if arch.ends_with('a') => {
            let common = arch.trim_end_matches('a');
            Ok(nvrtc.compile("nvrtc", &Request { arch: common, ..request(common) }, cache)?)
        }
        outcome => Ok(outcome?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel as a user writes it, with nothing of ours in it.
    #[test]
    fn a_real_compiler_takes_a_users_kernel_for_every_generation() {
        let nvrtc = match &super::super::libraries::libraries().nvrtc {
            Ok(nvrtc) => nvrtc,
            Err(reason) => return println!("SKIP: real NVRTC: {reason}"),
        };
        let source = include_str!("../../../../examples/fused_add_relu/fused_add_relu.cu");
        let program = Program { name: "fused_add_relu", cpp: Some(source), ..Program::default() };
        for arch in ["sm_80", "sm_89", "sm_90a", "sm_100a", "sm_120a"] {
            let cubin = compile(nvrtc, &program, source, arch, None).unwrap_or_else(|error| panic!("{error}"));
            assert!(cubin.starts_with(b"\x7fELF"), "{arch}");
            assert!(cubin.windows(14).any(|w| w == b"fused_add_relu"), "{arch}: no such entry");
        }
        let wrong = source.replace("fmaxf(x.x", "fmaxg(x.x");
        let error = compile(nvrtc, &program, &wrong, "sm_80", None).unwrap_err().to_string();
        assert!(error.contains("fused_add_relu.cu(") && error.contains("fmaxg"), "{error}");
    }

    #[test]
    fn a_real_compiler_says_what_is_wrong() {
        let nvrtc = match &super::super::libraries::libraries().nvrtc {
            Ok(nvrtc) => nvrtc,
            Err(reason) => return println!("SKIP: real NVRTC: {reason}"),
        };
        let compile = |source, arch| compile(nvrtc, &Program::default(), source, arch, None);
        assert!(matches!(compile("int f( {", "sm_80"), Err(DeviceError::Compile { .. })));
        let unknown = compile("", "sm_20").unwrap_err().to_string();
        assert!(unknown.contains("knows no sm_20"), "{unknown}");
        let nul = compile("\0", "sm_80").unwrap_err().to_string();
        assert!(nul.contains("holds a NUL byte"), "{nul}");
    }
}
