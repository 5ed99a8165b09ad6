//! PTX that was built ahead, for nodes with a driver and no NVRTC that fits it: the driver assembles it for its chip. What the
//! suites launch first is here, in one form each; `scripts/ptx` builds it, packed a file a program under kernels/ptx (150 KB
//! for 3 MB of text). Tests compile everything anew and compare, and ask the assembler of CUDA 12.0.

use crate::sources;
use std::io::Read;

/// The version that a part is lowered to: what drivers from 525 on (CUDA 12.0) read. The assembler refuses an instruction that
/// came later.
#[cfg(test)]
const ISA: &str = "8.0";
/// The first driver that reads it.
const OLDEST_DRIVER: i32 = 12_000;
/// Most text of one program.
const MOST: u64 = 16 << 20;
/// Begins a part; target and definitions follow on its line.
const MARK: &str = "//! ";

/// A program, its definitions, and the target that it is built for: a chip's own (`sm_90a`), or any from that one on.
#[cfg(test)]
type Form = (&'static str, &'static str, &'static str);

#[cfg(test)]
#[rustfmt::skip]
const FORMS: &[Form] = &[
    ("attention/combine", "RP_D=64 RP_TYPE=1", "sm_80"),
    ("attention/combine", "RP_D=64 RP_TYPE=2", "sm_80"),
    ("attention/combine", "RP_D=128 RP_TYPE=1", "sm_80"),
    ("attention/combine", "RP_D=128 RP_TYPE=2", "sm_80"),
    ("attention/combine", "RP_D=256 RP_TYPE=1", "sm_80"),
    ("attention/combine", "RP_D=256 RP_TYPE=2", "sm_80"),
    ("attention/combine", "RP_D=512 RP_TYPE=1", "sm_80"),
    ("attention/combine", "RP_D=512 RP_TYPE=2", "sm_80"),
    ("attention/decode_splitkv", "", "sm_80"),
    ("attention/decode_splitkv", "RP_GENERAL=1 RP_D=64 RP_F16=0 RP_KV8=0", "sm_80"),
    ("attention/decode_splitkv", "RP_GENERAL=1 RP_D=128 RP_F16=0 RP_KV8=0", "sm_80"),
    ("attention/decode_splitkv", "RP_GENERAL=1 RP_D=128 RP_F16=0 RP_KV8=1", "sm_80"),
    ("attention/flash_portable", "RP_D=128 RP_DV=128 RP_TYPE=0", "sm_80"),
    ("attention/flash_sm80", "", "sm_80"),
    ("attention/flash_sm80", "RP_GENERAL=1 RP_D=192 RP_DV=128 RP_CAUSAL=1 RP_F16=0", "sm_80"),
    ("attention/flash_sm90", "", "sm_90a"),
    ("attention/flash_sm90", "RP_GENERAL=1 RP_D=128 RP_DV=128 RP_N=128 RP_CAUSAL=1 RP_F16=0", "sm_90a"),
    ("attention/flash_sm90", "RP_GENERAL=1 RP_D=192 RP_DV=128 RP_N=128 RP_CAUSAL=1 RP_F16=0", "sm_90a"),
    ("attention/mla_decode_sm90", "", "sm_90a"),
    ("attention/softmax", "", "sm_80"),
    ("collectives/check", "", "sm_80"),
    ("common/arguments", "", "sm_80"),
    ("common/clock", "", "sm_80"),
    ("common/init", "", "sm_80"),
    ("gemm/mma_sm80", "RP_DTYPE=bf16 RP_BN=128 RP_STAGES=4", "sm_80"),
    ("gemm/mma_sm80", "RP_DTYPE=f16 RP_BN=128 RP_STAGES=4", "sm_80"),
    ("gemm/mma_sm80", "RP_DTYPE=tf32 RP_BN=128 RP_STAGES=4", "sm_80"),
    ("gemm/tile", "RP_DTYPE=f32", "sm_80"),
    ("gemm/wgmma_sm90", "RP_DTYPE=bf16 RP_BN=256 RP_STAGES=4 RP_CLUSTER=2 RP_BUFFERS=2", "sm_90a"),
    ("gemm/wgmma_sm90", "RP_DTYPE=f16 RP_BN=256 RP_STAGES=4 RP_CLUSTER=2 RP_BUFFERS=2", "sm_90a"),
    ("gemm/wgmma_sm90", "RP_DTYPE=tf32 RP_BN=256 RP_STAGES=4 RP_CLUSTER=2 RP_BUFFERS=2", "sm_90a"),
    ("gemm/wgmma_sm90", "RP_DTYPE=e4m3 RP_BN=256 RP_STAGES=4 RP_CLUSTER=2 RP_BUFFERS=2", "sm_90a"),
    ("gemm/wgmma_sm90", "RP_DTYPE=e5m2 RP_BN=256 RP_STAGES=4 RP_CLUSTER=2 RP_BUFFERS=2", "sm_90a"),
    ("launch/count", "", "sm_80"),
    ("memory/chase", "", "sm_80"),
    ("memory/gather", "RP_BLOCK=256 RP_UNROLL=4", "sm_80"),
    ("memory/shared", "RP_BLOCK=1024", "sm_80"),
    ("memory/staircase", "RP_BLOCK=512 RP_UNROLL=2 RP_HINT_LOAD=0", "sm_80"),
    ("memory/staircase", "RP_BLOCK=512 RP_UNROLL=2 RP_HINT_LOAD=5", "sm_80"),
    ("memory/stream", "", "sm_80"),
    ("memory/stream", "RP_BLOCK=512 RP_UNROLL=4 RP_HINT_LOAD=1 RP_HINT_STORE=2", "sm_80"),
    ("memory/stream", "RP_BLOCK=512 RP_UNROLL=4 RP_HINT_LOAD=1 RP_HINT_STORE=0", "sm_80"),
    ("memory/stream", "RP_BLOCK=512 RP_UNROLL=4 RP_HINT_LOAD=0 RP_HINT_STORE=0", "sm_80"),
    ("memory/stream_bulk", "RP_BLOCK=256 RP_STAGES=4", "sm_90"),
];

macro_rules! packed {
    ($($program:literal),* $(,)?) => { &[$(($program, include_bytes!(concat!("../../../../kernels/ptx/", $program, ".lzma")))),*] };
}

/// The packed parts of each program.
const PACKED: &[(&str, &[u8])] = packed![
    "attention/combine",
    "attention/decode_splitkv",
    "attention/flash_portable",
    "attention/flash_sm80",
    "attention/flash_sm90",
    "attention/mla_decode_sm90",
    "attention/softmax",
    "collectives/check",
    "common/arguments",
    "common/clock",
    "common/init",
    "gemm/mma_sm80",
    "gemm/tile",
    "gemm/wgmma_sm90",
    "launch/count",
    "memory/chase",
    "memory/gather",
    "memory/shared",
    "memory/staircase",
    "memory/stream",
    "memory/stream_bulk",
];

/// True where a part runs on a chip.
fn runs_on(part: &str, chip: &str) -> bool {
    let number = |name: &str| name.strip_prefix("sm_").and_then(|n| n.parse::<u32>().ok());
    let plain = chip.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    part == chip || number(part).zip(number(plain)).is_some_and(|(part, chip)| part <= chip)
}

fn unpack(packed: &[u8]) -> Option<String> {
    let mut text = String::new();
    // KiB of memory: the packer's dictionary is no larger than the text.
    let reader = lzma_rust2::LzmaReader::new_mem_limit(packed, (2 * MOST / 1024) as u32, None).ok()?;
    reader.take(MOST).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The parts of a program: target, definitions and text.
fn parts(text: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    text.split(MARK).filter_map(|part| {
        let (line, text) = part.split_once('\n')?;
        let (target, defines) = line.split_once(' ')?;
        Some((target, defines, text))
    })
}

/// PTX of a program for a chip, with the NUL that the driver wants.
///
/// # Errors
/// Why there is none, in one sentence.
pub(crate) fn find(program: &str, defines: &[(&str, String)], source: &str, chip: &str, driver: i32) -> Result<Vec<u8>, String> {
    let defines = defines.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ");
    let packed = PACKED.iter().find(|(name, _)| *name == program).and_then(|(_, packed)| unpack(packed)).unwrap_or_default();
    let Some((.., text)) = parts(&packed).find(|(target, with, _)| *with == defines && runs_on(target, chip)) else {
        return Err(format!(
            "no PTX of {program} {defines}{}for {chip} was built ahead",
            if defines.is_empty() { "" } else { " " }
        ));
    };
    // A caller's own text under a name of ours.
    if sources::cpp(program) != Some(source) {
        return Err(format!("the PTX of {program} that was built ahead is of another source"));
    }
    if driver < OLDEST_DRIVER {
        return Err("the PTX that was built ahead needs a driver of 525 or newer".into());
    }
    Ok([text.as_bytes(), &[0]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::libraries::libraries;
    use crate::gpu::rtc::Request;
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::sync::Mutex;

    fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../kernels/ptx")
    }

    /// What the compiler of this machine makes of a form, lowered and without comments; None where there is none.
    fn make((program, defines, target): Form) -> Option<String> {
        let nvrtc = match &libraries().nvrtc {
            Ok(nvrtc) => nvrtc,
            Err(reason) => {
                println!("SKIP: real NVRTC: {reason}");
                return None;
            }
        };
        let arch = target.replace("sm_", "compute_");
        let mut options = vec![format!("--gpu-architecture={arch}"), "--std=c++17".into(), "-default-device".into()];
        options.extend(defines.split_whitespace().map(|d| format!("-D{d}")));
        let source = sources::cpp(program).unwrap();
        let request = Request { name: program, source, headers: sources::CUDA_HEADERS, arch: &arch, options };
        let made = String::from_utf8(nvrtc.ptx(&request).unwrap()).unwrap();
        let mut text = String::new();
        for line in made.trim_end_matches('\0').lines() {
            let line = line.split("//").next().unwrap_or_default();
            let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
            match line.strip_prefix(".version ") {
                _ if line.is_empty() => {}
                Some(_) => text += &format!(".version {ISA}\n"),
                None => text += &(line + "\n"),
            }
        }
        Some(text)
    }

    /// The programs that are packed, each with its forms.
    fn programs() -> Vec<(&'static str, Vec<Form>)> {
        PACKED.iter().map(|(name, _)| (*name, FORMS.iter().copied().filter(|form| form.0 == *name).collect())).collect()
    }

    #[test]
    #[ignore = "scripts/ptx runs it: it writes kernels/ptx"]
    fn build() {
        let work = Mutex::new(programs());
        std::thread::scope(|scope| {
            for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
                scope.spawn(|| {
                    loop {
                        let next = work.lock().unwrap().pop();
                        let Some((program, forms)) = next else { return };
                        let mut text = String::new();
                        for form in forms {
                            let (_, defines, target) = form;
                            let ptx = make(form).expect("scripts/ptx needs NVRTC");
                            text += &format!("{MARK}{target} {defines}\n{ptx}");
                        }
                        pack(&folder().join(program).with_extension("lzma"), &text);
                    }
                });
            }
        });
    }

    fn pack(file: &Path, text: &str) {
        let options = lzma_rust2::LzmaOptions {
            dict_size: (text.len() as u32).next_power_of_two().max(4096),
            ..lzma_rust2::LzmaOptions::with_preset(9)
        };
        let mut writer = lzma_rust2::LzmaWriter::new_use_header(Vec::new(), &options, Some(text.len() as u64)).unwrap();
        std::io::Write::write_all(&mut writer, text.as_bytes()).unwrap();
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, writer.finish().unwrap()).unwrap();
    }

    #[test]
    fn all_that_was_built_ahead_is_what_the_compiler_makes_of_the_sources() {
        assert!(FORMS.iter().all(|(program, ..)| PACKED.iter().any(|(packed, _)| packed == program)));
        let texts: Vec<(&str, String)> = PACKED.iter().map(|(name, packed)| (*name, unpack(packed).unwrap())).collect();
        let kept: usize = texts.iter().map(|(_, text)| parts(text).count()).sum();
        assert_eq!(kept, FORMS.len(), "kernels/ptx holds what is no longer wanted, or lacks what is: run scripts/ptx");
        if libraries().nvrtc.as_ref().is_ok_and(|nvrtc| nvrtc.version().ok() != Some((13, 0))) {
            return println!("SKIP: NVRTC 13.0: kernels/ptx was made by that version");
        }
        let (work, stale) = (Mutex::new(FORMS.to_vec()), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
                scope.spawn(|| {
                    loop {
                        let next = work.lock().unwrap().pop();
                        let Some(form) = next else { return };
                        let Some(made) = make(form) else { return };
                        let text = &texts.iter().find(|(name, _)| *name == form.0).unwrap().1;
                        let kept = parts(text).find(|(target, defines, _)| (*defines, *target) == (form.1, form.2));
                        if kept.is_none_or(|(.., kept)| kept != made) {
                            stale.lock().unwrap().push(form);
                        }
                    }
                });
            }
        });
        let stale = stale.into_inner().unwrap();
        assert!(stale.is_empty(), "a kernel was changed: run scripts/ptx and commit kernels/ptx: {stale:?}");
    }

    /// The oldest driver's assembler, of the wheel nvidia-cuda-nvcc-cu12 12.0.
    #[test]
    fn the_assembler_of_cuda_12_0_takes_all_that_was_built_ahead() {
        let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/python/lib");
        let sites = python.read_dir().into_iter().flatten().flatten();
        let mut tools = sites.map(|site| site.path().join("site-packages/nvidia/cuda_nvcc/bin/ptxas"));
        let Some(ptxas) = tools.find(|tool| tool.exists()) else {
            return println!("SKIP: ptxas 12.0: scripts/tools/python brings it (pip install nvidia-cuda-nvcc-cu12==12.0.*)");
        };
        let scratch = std::env::temp_dir().join(format!("rp-ptx-{}", std::process::id()));
        std::fs::create_dir_all(&scratch).unwrap();
        let mut work = vec![];
        for (program, packed) in PACKED {
            for (i, (target, _, text)) in parts(&unpack(packed).unwrap()).enumerate() {
                let file = scratch.join(format!("{}-{i}.ptx", program.replace('/', "-")));
                std::fs::write(&file, text).unwrap();
                work.push((text.len(), file, target.to_owned()));
            }
        }
        work.sort();
        let (work, said) = (Mutex::new(work), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
                scope.spawn(|| {
                    loop {
                        let next = work.lock().unwrap().pop();
                        let Some((_, file, target)) = next else { return };
                        // Not optimised: that it is taken is asked here; what becomes of it, in claims.rs.
                        let mut command = Command::new(&ptxas);
                        command.args(["-O0", "-arch", &target, "-o", "/dev/null"]).arg(&file);
                        let output = command.output().unwrap();
                        if !output.status.success() {
                            let log = String::from_utf8_lossy(&output.stderr).chars().take(500).collect::<String>();
                            said.lock().unwrap().push(format!("{}: {log}", file.display()));
                        }
                    }
                });
            }
        });
        let _ = std::fs::remove_dir_all(&scratch);
        let said = said.into_inner().unwrap();
        assert!(said.is_empty(), "{}", said.join("\n"));
    }

    #[test]
    fn a_part_runs_on_its_own_chip_or_on_later_ones() {
        for (part, chip, expected) in [
            ("sm_80", "sm_80", true),
            ("sm_80", "sm_90a", true),
            ("sm_80", "sm_120a", true),
            ("sm_80", "sm_75", false),
            ("sm_90a", "sm_90a", true),
            ("sm_90a", "sm_100a", false),
            ("sm_89", "sm_86", false),
        ] {
            assert_eq!(runs_on(part, chip), expected, "{part} {chip}");
        }
    }

    #[test]
    fn what_does_not_fit_is_one_sentence() {
        let source = sources::cpp("common/clock").unwrap();
        let none = |outcome: Result<Vec<u8>, String>| outcome.unwrap_err();
        assert!(none(find("mine", &[], "", "sm_90a", 13_000)).contains("no PTX of mine for sm_90a was built ahead"));
        assert!(none(find("common/clock", &[], source, "sm_75", 13_000)).contains("for sm_75"));
        assert!(none(find("common/clock", &[("A", "1".into())], source, "sm_80", 13_000)).contains("common/clock A=1 for"));
        assert!(none(find("common/clock", &[], "changed", "sm_80", 13_000)).contains("another source"));
        assert!(none(find("common/clock", &[], source, "sm_80", 11_080)).contains("525"));
        assert!(unpack(b"damaged").is_none() && unpack(&[]).is_none());
    }
}
