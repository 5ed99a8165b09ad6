//! What each kernel claims to become on AMD's chips: from which instructions, in how many registers. clang 22 compiles every one,
//! and its assembly is held to the claim, on a machine without a GPU.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

const ALL: &[&str] = &["gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1200", "gfx1201", "gfx1250"];
const RDNA: &[&str] = &["gfx1100", "gfx1200", "gfx1201"];
const GFX12: &[&str] = &["gfx1200", "gfx1201"];
const CDNA: &[&str] = &["gfx90a", "gfx942", "gfx950"];
/// Where heads of over 128 columns have registers enough.
const WIDE: &[&str] = &["gfx90a", "gfx942", "gfx950", "gfx1250"];
/// Whose flash kernel for up to 128 columns is that of RDNA4.
const WMMA: &[&str] = &["gfx1200", "gfx1201", "gfx1250"];
/// As gfx90a, 942, 950, gfx12 and gfx1250 name it.
const BF16: &str = "v_mfma_f32_32x32x8bf16_1k/v_mfma_f32_32x32x8_bf16/v_mfma_f32_32x32x16_bf16/v_wmma_f32_16x16x16_bf16/v_wmma_f32_16x16x32_bf16";
const F16: &str =
    "v_mfma_f32_32x32x8f16/v_mfma_f32_32x32x8_f16/v_mfma_f32_32x32x16_f16/v_wmma_f32_16x16x16_f16/v_wmma_f32_16x16x32_f16";

/// A program in one configuration, for some chips.
struct Claim {
    name: &'static str,
    /// `NAME=value …`.
    defines: &'static str,
    architectures: &'static [&'static str],
    /// Instructions that every entry must hold: how one begins, and words that follow. `A/B` is either.
    instructions: &'static [&'static str],
    /// The most vector registers of a lane, over all entries.
    registers: u32,
}

const fn claim(
    name: &'static str,
    defines: &'static str,
    architectures: &'static [&'static str],
    instructions: &'static [&'static str],
    registers: u32,
) -> Claim {
    Claim { name, defines, architectures, instructions, registers }
}

const LOAD: &str = "global_load_dwordx4/global_load_b128";
const STORE: &str = "global_store_dwordx4/global_store_b128";
/// As CDNA2, CDNA3, RDNA3 and what came after RDNA3 spell it.
const LOAD_ONCE: &str =
    "global_load_dwordx4 glc slc/global_load_dwordx4 nt/global_load_b128 slc dlc/global_load_b128 th:TH_LOAD_NT";
const STORE_ONCE: &str =
    "global_store_dwordx4 glc slc/global_store_dwordx4 nt/global_store_b128 glc slc dlc/global_store_b128 th:TH_STORE_NT";
const LDS: &str = "ds_read_b128/ds_load_b128";
const FMA: &str = "v_fma/v_pk_fma/v_dual_fma";

#[rustfmt::skip]
const CLAIMS: &[Claim] = &[
    claim("collectives/check", "", ALL, &["global_load"], 64),
    claim("common/arguments", "", ALL, &[STORE], 32),
    claim("common/clock", "", ALL, &[], 32),
    claim("common/differ", "", ALL, &["global_load"], 32),
    claim("common/init", "", ALL, &["global_store"], 32),
    claim("common/verify", "", ALL, &[], 64),
    claim("launch/count", "", ALL, &[], 32),
    claim("memory/chase", "", ALL, &[], 32),
    claim("memory/shared", "", ALL, &[LDS], 64),
    claim("memory/staircase", "", ALL, &[LOAD], 64),
    claim("memory/gather", "", ALL, &[], 64),
    claim("memory/stream", "RP_BLOCK=256 RP_UNROLL=4 RP_HINT_LOAD=0 RP_HINT_STORE=0", ALL, &[], 96),
    claim("memory/stream", "RP_BLOCK=1024 RP_UNROLL=4 RP_HINT_LOAD=2 RP_HINT_STORE=2", ALL, &[], 96),
    claim("gemm/tile", "RP_DTYPE=f32", ALL, &[FMA, LDS], 256),
    claim("gemm/tile", "RP_DTYPE=bf16", ALL, &[FMA, LDS], 256),
    claim("gemm/tile", "RP_DTYPE=bf16 RP_GROUPED=1", ALL, &[FMA, LDS], 256),
    claim("gemm/gemv", "RP_DTYPE=bf16 RP_M=8", ALL, &[FMA, LOAD, LOAD_ONCE], 256),
    claim("gemm/combine", "RP_OUT=bf16", ALL, &[LOAD], 64),
    claim("gemm/combine", "RP_OUT=i32", ALL, &[LOAD, STORE], 64),
    // Two waves of a compute unit's quarter share 512 registers.
    claim("gemm/matrix_amd", "RP_DTYPE=bf16", &["gfx90a"], &["v_mfma_f32_32x32x8bf16_1k", LOAD, LDS], 256),
    claim("gemm/matrix_amd", "RP_DTYPE=f16 RP_BM=128 RP_BN=128", &["gfx90a"], &["v_mfma_f32_32x32x8f16", LOAD, LDS], 128),
    claim("gemm/matrix_amd", "RP_DTYPE=i8", &["gfx90a"], &["v_mfma_i32_32x32x8i8", LOAD, LDS], 256),
    claim("gemm/matrix_amd", "RP_DTYPE=bf16", &["gfx942"], &["v_mfma_f32_32x32x8_bf16", LOAD, LDS], 256),
    claim("gemm/matrix_amd", "RP_DTYPE=bf16 RP_DIRECT=4", &["gfx942"], &["v_mfma_f32_32x32x8_bf16", "global_load_lds_dword", LDS], 256),
    claim("gemm/matrix_amd", "RP_DTYPE=f16 RP_BM=128 RP_BN=128 RP_XCDS=8", &["gfx942"], &["v_mfma_f32_32x32x8_f16", LOAD, LDS], 128),
    claim("gemm/matrix_amd", "RP_DTYPE=bf16 RP_OUT=f32 RP_BM=128 RP_BN=128 RP_SPLIT=1", &["gfx942"], &["v_mfma_f32_32x32x8_bf16", LOAD, LDS], 128),
    claim("gemm/matrix_amd", "RP_DTYPE=i8 RP_OUT=i32 RP_BM=128 RP_BN=128 RP_SPLIT=1 RP_DIRECT=16", &["gfx950"], &["v_mfma_i32_32x32x32_i8", LDS], 168),
    claim("gemm/matrix_amd", "RP_DTYPE=e4m3fnuz", &["gfx942"], &["v_mfma_f32_32x32x16_fp8_fp8", LOAD, LDS], 256),
    claim("gemm/matrix_amd", "RP_DTYPE=e5m2fnuz", &["gfx942"], &["v_mfma_f32_32x32x16_bf8_bf8", LOAD, LDS], 256),
    claim("gemm/matrix_amd", "RP_DTYPE=i8", &["gfx942"], &["v_mfma_i32_32x32x16_i8", LOAD, LDS], 256),
    claim("gemm/matrix_amd", "RP_DTYPE=bf16 RP_DIRECT=16", &["gfx950"], &["v_mfma_f32_32x32x16_bf16", "global_load_lds_dwordx4", LDS], 256),
    claim("gemm/matrix_amd", "RP_DTYPE=f16", &["gfx950"], &["v_mfma_f32_32x32x16_f16", LOAD, LDS], 256),
    claim("gemm/matrix_amd", "RP_DTYPE=e4m3 RP_DIRECT=16", &["gfx950"], &["v_mfma_f32_32x32x64_f8f6f4", "global_load_lds_dwordx4", LDS], 256),
    claim("gemm/matrix_amd", "RP_DTYPE=e5m2 RP_BM=128 RP_BN=128", &["gfx950"], &["v_mfma_f32_32x32x64_f8f6f4 cbsz:1 blgp:1", LOAD, LDS], 168),
    claim("gemm/matrix_amd", "RP_DTYPE=i8 RP_DIRECT=16", &["gfx950"], &["v_mfma_i32_32x32x32_i8", "global_load_lds_dwordx4", LDS], 256),
    claim("gemm/matrix_amd", "RP_DTYPE=bf16", RDNA, &["v_wmma_f32_16x16x16_bf16", LOAD, LDS], 200),
    claim("gemm/matrix_amd", "RP_DTYPE=f16", RDNA, &["v_wmma_f32_16x16x16_f16", LOAD, LDS], 200),
    claim("gemm/matrix_amd", "RP_DTYPE=i8", RDNA, &["v_wmma_i32_16x16x16_iu8", LOAD, LDS], 200),
    claim("gemm/matrix_amd", "RP_DTYPE=e4m3", GFX12, &["v_wmma_f32_16x16x16_fp8_fp8", LOAD, LDS], 160),
    claim("gemm/matrix_amd", "RP_DTYPE=e5m2", GFX12, &["v_wmma_f32_16x16x16_bf8_bf8", LOAD, LDS], 160),
    claim("gemm/matrix_amd", "RP_DTYPE=bf16 RP_BM=256 RP_BN=256 RP_DIRECT=16", &["gfx1250"], &["v_wmma_f32_16x16x32_bf16", "global_load_async_to_lds_b128", LDS], 512),
    claim("gemm/matrix_amd", "RP_DTYPE=f16", &["gfx1250"], &["v_wmma_f32_16x16x32_f16", LOAD, LDS], 256),
    claim("gemm/matrix_amd", "RP_DTYPE=e4m3 RP_DIRECT=16", &["gfx1250"], &["v_wmma_f32_16x16x128_fp8_fp8", "global_load_async_to_lds_b128", LDS], 256),
    claim("gemm/matrix_amd", "RP_DTYPE=e5m2", &["gfx1250"], &["v_wmma_f32_16x16x128_bf8_bf8", LOAD, LDS], 256),
    claim("gemm/matrix_amd", "RP_DTYPE=i8 RP_DIRECT=16", &["gfx1250"], &["v_wmma_i32_16x16x64_iu8", "global_load_async_to_lds_b128", LDS], 256),
    claim("attention/combine", "RP_D=128 RP_TYPE=2", ALL, &["global_load_dwordx2/global_load_b64", "global_store"], 64),
    claim("attention/combine", "RP_D=512 RP_TYPE=1", ALL, &["global_load_dwordx2/global_load_b64", "global_store"], 64),
    claim("attention/mla_decode_cdna", "RP_DTYPE=bf16", &["gfx90a"], &["v_mfma_f32_32x32x8bf16_1k", LOAD, LDS, "v_exp_f32"], 256),
    claim("attention/mla_decode_cdna", "RP_DTYPE=bf16", &["gfx942"], &["v_mfma_f32_32x32x8_bf16", LOAD, LDS, "v_exp_f32"], 256),
    claim("attention/mla_decode_cdna", "RP_DTYPE=f16", &["gfx90a", "gfx942"], &["v_mfma_f32_32x32x8", LOAD, LDS, "v_exp_f32"], 256),
    claim("attention/mla_decode_cdna", "RP_DTYPE=bf16", &["gfx950"], &["v_mfma_f32_32x32x16_bf16", "v_cvt_pk_bf16_f32", LOAD, LDS], 256),
    claim("attention/mla_decode_cdna", "RP_DTYPE=f16", &["gfx950"], &["v_mfma_f32_32x32x16_f16", LOAD, LDS, "v_exp_f32"], 256),
    claim("attention/softmax", "", ALL, &[LOAD, "v_exp_f32"], 64),
    claim("attention/flash_portable", "", ALL, &[FMA], 256),
    claim("attention/flash_portable", "RP_D=576 RP_DV=512 RP_TYPE=4 RP_SHARED_KV=1", ALL, &[FMA], 256),
    // The forms that the host asks for: each type and each size, with and without the mask, plain and general.
    claim("attention/flash_cdna", "RP_DTYPE=bf16 RP_D=128 RP_CAUSAL=1", &["gfx90a"], &["v_mfma_f32_32x32x8bf16_1k", LOAD, LDS, "v_exp_f32", "s_setprio"], 256),
    claim("attention/flash_cdna", "RP_DTYPE=bf16 RP_D=128", &["gfx942"], &["v_mfma_f32_32x32x8_bf16", LOAD, LDS, "v_exp_f32", "s_setprio"], 256),
    claim("attention/flash_cdna", "RP_DTYPE=bf16 RP_D=128 RP_CAUSAL=1", &["gfx942", "gfx950"], &["v_mfma_f32_32x32x", LOAD, LDS, "v_exp_f32", "s_setprio"], 256),
    claim("attention/flash_cdna", "RP_DTYPE=bf16 RP_D=128", &["gfx950"], &["v_mfma_f32_32x32x16_bf16", "v_cvt_pk_bf16_f32", LOAD, LDS], 256),
    claim("attention/flash_cdna", "RP_DTYPE=bf16 RP_D=128 RP_CAUSAL=1 RP_GENERAL=1", CDNA, &[BF16, LOAD, LDS], 256),
    claim("attention/flash_cdna", "RP_DTYPE=f16 RP_D=128", CDNA, &[F16, LOAD, LDS], 256),
    claim("attention/flash_cdna", "RP_DTYPE=f16 RP_D=128 RP_CAUSAL=1", CDNA, &[F16, LOAD, LDS], 256),
    claim("attention/flash_cdna", "RP_DTYPE=f16 RP_D=128 RP_GENERAL=1", CDNA, &[F16, LOAD, LDS], 256),
    claim("attention/flash_cdna", "RP_DTYPE=bf16 RP_D=64 RP_CAUSAL=1 RP_GENERAL=1", CDNA, &[BF16, LOAD, LDS], 192),
    claim("attention/flash_cdna", "RP_DTYPE=bf16 RP_D=64", CDNA, &[BF16, LOAD, LDS], 192),
    claim("attention/flash_cdna", "RP_DTYPE=f16 RP_D=64 RP_CAUSAL=1 RP_GENERAL=1", CDNA, &[F16, LOAD, LDS], 192),
    claim("attention/flash_cdna", "RP_DTYPE=f16 RP_D=64", CDNA, &[F16, LOAD, LDS], 192),
    claim("attention/flash_cdna", "RP_DTYPE=bf16 RP_D=96 RP_CAUSAL=1 RP_GENERAL=1", CDNA, &[BF16, LOAD, LDS], 240),
    claim("attention/flash_cdna", "RP_DTYPE=bf16 RP_D=96", CDNA, &[BF16, LOAD, LDS], 240),
    claim("attention/flash_cdna", "RP_DTYPE=f16 RP_D=96 RP_CAUSAL=1 RP_GENERAL=1", CDNA, &[F16, LOAD, LDS], 240),
    claim("attention/flash_cdna", "RP_DTYPE=f16 RP_D=96", CDNA, &[F16, LOAD, LDS], 240),
    claim("attention/flash_cdna", "RP_DTYPE=e4m3fnuz RP_D=128 RP_CAUSAL=1 RP_GENERAL=1", &["gfx942"], &["v_mfma_f32_32x32x16_fp8_fp8", "v_cvt_pk_fp8_f32", "v_perm_b32", LOAD, LDS], 240),
    claim("attention/flash_cdna", "RP_DTYPE=e4m3fnuz RP_D=64", &["gfx942"], &["v_mfma_f32_32x32x16_fp8_fp8", "v_cvt_pk_fp8_f32", LOAD, LDS], 192),
    claim("attention/flash_cdna", "RP_DTYPE=e4m3 RP_D=128", &["gfx950"], &["v_mfma_f32_32x32x64_f8f6f4", "v_cvt_pk_fp8_f32", "v_perm_b32", LOAD, LDS], 256),
    claim("attention/flash_cdna", "RP_DTYPE=e4m3 RP_D=64 RP_CAUSAL=1 RP_GENERAL=1", &["gfx950"], &["v_mfma_f32_32x32x64_f8f6f4", "v_cvt_pk_fp8_f32", LOAD, LDS], 192),
    claim("attention/flash_amd", "RP_DTYPE=bf16 RP_D=64 RP_DV=64 RP_CAUSAL=1 RP_GENERAL=1", WMMA, &[BF16, LOAD, LDS, "v_exp_f32"], 256),
    claim("attention/flash_amd", "RP_DTYPE=f16 RP_D=64 RP_DV=64", WMMA, &[F16, LOAD, LDS, "v_exp_f32"], 256),
    claim("attention/flash_amd", "RP_DTYPE=bf16 RP_D=96 RP_DV=96 RP_CAUSAL=1 RP_GENERAL=1", WMMA, &[BF16, LOAD, LDS, "v_exp_f32"], 256),
    claim("attention/flash_amd", "RP_DTYPE=f16 RP_D=96 RP_DV=96", WMMA, &[F16, LOAD, LDS, "v_exp_f32"], 256),
    claim("attention/flash_amd", "RP_DTYPE=bf16 RP_D=128 RP_DV=128 RP_CAUSAL=1 RP_GENERAL=1", WMMA, &[BF16, LOAD, LDS, "v_exp_f32"], 336),
    claim("attention/flash_amd", "RP_DTYPE=f16 RP_D=128 RP_DV=128", WMMA, &[F16, LOAD, LDS, "v_exp_f32"], 336),
    claim("attention/flash_amd", "RP_DTYPE=bf16 RP_D=128 RP_DV=128 RP_CAUSAL=1", GFX12, &["v_wmma_f32_16x16x16_bf16", LOAD, LDS, "v_exp_f32"], 256),
    claim("attention/flash_amd", "RP_DTYPE=f16 RP_D=128 RP_DV=128 RP_GENERAL=1", GFX12, &["v_wmma_f32_16x16x16_f16", LOAD, LDS, "v_exp_f32"], 256),
    // One wave of a compute unit's quarter may have all of its 512 registers.
    claim("attention/flash_amd", "RP_DTYPE=bf16 RP_D=192 RP_DV=128 RP_CAUSAL=1", WIDE, &[BF16, LOAD, LDS], 400),
    claim("attention/flash_amd", "RP_DTYPE=bf16 RP_D=192 RP_DV=128 RP_CAUSAL=1 RP_GENERAL=1", WIDE, &[BF16, LOAD, LDS], 400),
    claim("attention/flash_amd", "RP_DTYPE=f16 RP_D=192 RP_DV=128", WIDE, &[F16, LOAD, LDS], 400),
    claim("attention/flash_amd", "RP_DTYPE=f16 RP_D=192 RP_DV=128 RP_GENERAL=1", WIDE, &[F16, LOAD, LDS], 400),
    claim("attention/flash_amd", "RP_DTYPE=bf16 RP_D=256 RP_DV=256 RP_CAUSAL=1", WIDE, &[BF16, LOAD, LDS], 512),
    claim("attention/flash_amd", "RP_DTYPE=bf16 RP_D=256 RP_DV=256 RP_CAUSAL=1 RP_GENERAL=1", WIDE, &[BF16, LOAD, LDS], 512),
    claim("attention/flash_amd", "RP_DTYPE=f16 RP_D=256 RP_DV=256", WIDE, &[F16, LOAD, LDS], 512),
    claim("attention/flash_amd", "RP_DTYPE=f16 RP_D=256 RP_DV=256 RP_GENERAL=1", WIDE, &[F16, LOAD, LDS], 512),
    // Two blocks a compute unit up to 128 columns.
    claim("attention/decode_amd", "RP_DTYPE=bf16 RP_D=64", &["gfx90a", "gfx942", "gfx950", "gfx1200", "gfx1201"], &[BF16, LOAD, LDS, "v_exp_f32"], 168),
    claim("attention/decode_amd", "RP_DTYPE=f16 RP_D=64", &["gfx90a", "gfx942", "gfx950", "gfx1200", "gfx1201"], &[F16, LOAD, LDS, "v_exp_f32"], 168),
    claim("attention/decode_amd", "RP_DTYPE=f16 RP_Q=bf16 RP_KV8=1 RP_D=64", &["gfx90a", "gfx942", "gfx950", "gfx1200", "gfx1201"], &[F16, "v_pk_mul_f16", LOAD, LDS], 168),
    claim("attention/decode_amd", "RP_DTYPE=f16 RP_KV8=1 RP_D=64", &["gfx942"], &["v_mfma_f32_32x32x8_f16", "v_pk_mul_f16", LOAD, LDS], 168),
    claim("attention/decode_amd", "RP_DTYPE=bf16 RP_D=128", &["gfx90a", "gfx942", "gfx950", "gfx1200", "gfx1201"], &[BF16, LOAD, LDS, "v_exp_f32"], 256),
    claim("attention/decode_amd", "RP_DTYPE=f16 RP_D=128", &["gfx90a", "gfx942", "gfx950", "gfx1200", "gfx1201"], &[F16, LOAD, LDS, "v_exp_f32"], 256),
    claim("attention/decode_amd", "RP_DTYPE=f16 RP_Q=bf16 RP_KV8=1 RP_D=128", &["gfx90a", "gfx942", "gfx950", "gfx1200", "gfx1201"], &[F16, "v_pk_mul_f16", LOAD, LDS], 256),
    claim("attention/decode_amd", "RP_DTYPE=f16 RP_KV8=1 RP_D=128", &["gfx942"], &["v_mfma_f32_32x32x8_f16", "v_pk_mul_f16", LOAD, LDS], 256),
    claim("attention/decode_amd", "RP_DTYPE=bf16 RP_D=256", CDNA, &[BF16, LOAD, LDS, "v_exp_f32"], 400),
    claim("attention/decode_amd", "RP_DTYPE=f16 RP_D=256", CDNA, &[F16, LOAD, LDS, "v_exp_f32"], 400),
    claim("attention/decode_amd", "RP_DTYPE=f16 RP_Q=bf16 RP_KV8=1 RP_D=256", CDNA, &[F16, "v_pk_mul_f16", LOAD, LDS], 400),
    claim("attention/decode_amd", "RP_DTYPE=f16 RP_KV8=1 RP_D=256", &["gfx942"], &["v_mfma_f32_32x32x8_f16", "v_pk_mul_f16", LOAD, LDS], 400),
    claim("attention/decode_amd", "RP_DTYPE=bf16 RP_D=128", &["gfx1250"], &["v_wmma_f32_16x16x32_bf16", LOAD, LDS], 336),
    claim("attention/decode_amd", "RP_DTYPE=f16 RP_Q=bf16 RP_KV8=1 RP_D=128", &["gfx1250"], &["v_wmma_f32_16x16x32_f16", LOAD, LDS], 336),
    claim("attention/decode_amd", "RP_DTYPE=bf16 RP_D=256", &["gfx1250"], &["v_wmma_f32_16x16x32_bf16", LOAD, LDS], 640),
];

/// Entries of a program with many that hold what not all of them do, for a configuration whose defines hold a word.
#[rustfmt::skip]
const ENTRIES: &[(&str, &str, &str)] = &[
    ("rp_copy", "HINT_LOAD=0", LOAD), ("rp_copy", "HINT_LOAD=0", STORE), ("rp_triad", "HINT_LOAD=0", LOAD), ("rp_read", "HINT_LOAD=0", LOAD),
    ("rp_copy", "HINT_LOAD=2", LOAD_ONCE), ("rp_copy", "HINT_STORE=2", STORE_ONCE), ("rp_triad", "HINT_LOAD=2", LOAD_ONCE),
    ("rp_dot", "HINT_LOAD=2", LOAD_ONCE), ("rp_write", "HINT_STORE=2", STORE_ONCE), ("rp_gather_pages", "", LOAD), ("rp_gather_pages", "", STORE),
    ("rp_chase", "", "global_load_dwordx2/global_load_b64"),
];

/// Kernels of NVIDIA's instructions, which claim nothing here.
const NVIDIA: &[&str] = &["_sm80", "_sm89", "_sm90", "_sm100", "_bulk", "_splitkv"];

/// One function of the compiler's assembly.
#[derive(Default)]
struct Function {
    name: String,
    registers: u32,
    /// Registers that had no place, and bytes of scratch memory a lane.
    spilled: u32,
    /// Lines, words parted by one space.
    code: Vec<String>,
}

impl Function {
    fn holds(&self, instruction: &str) -> bool {
        instruction.split('/').any(|one| {
            let (opcode, words) = one.split_once(' ').unwrap_or((one, ""));
            self.code.iter().any(|line| {
                let mut parts = line.split(' ');
                parts.next().is_some_and(|name| name.starts_with(opcode))
                    && words.split_whitespace().all(|word| line.split(' ').any(|part| part == word))
            })
        })
    }
}

/// The functions in what clang printed with `-S`: their code, and the metadata behind it.
fn functions(text: &str) -> Vec<Function> {
    let mut all: Vec<Function> = Vec::new();
    let (mut inside, mut counts) = (false, Function::default());
    for line in text.lines() {
        let field = |key: &str| line.trim().strip_prefix(key).map(str::trim);
        if let Some(name) = line.strip_suffix("@function").and_then(|l| l.trim().strip_prefix(".type")) {
            let name = name.trim().trim_end_matches(',').to_owned();
            (inside, _) = (true, all.push(Function { name, ..Function::default() }));
        } else if line.starts_with(".Lfunc_end") {
            inside = false;
        } else if let (true, Some(last)) = (inside && line.starts_with("\t"), all.last_mut()) {
            let code = line.split(';').next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
            if code.starts_with(|c: char| c.is_ascii_lowercase()) {
                last.code.push(code);
            }
        } else if let Some(name) = field(".name:").filter(|name| all.iter().any(|f| f.name == *name)) {
            counts.name = name.to_owned();
        } else if let Some(number) = field(".vgpr_count:") {
            counts.registers = number.parse().unwrap();
        } else if let Some(number) =
            field(".vgpr_spill_count:").or(field(".sgpr_spill_count:")).or(field(".private_segment_fixed_size:"))
        {
            counts.spilled += number.parse::<u32>().unwrap();
        }
        // The last field of a kernel, in alphabetical order.
        if line.trim().starts_with(".wavefront_size:") {
            let done = std::mem::take(&mut counts);
            let function = all.iter_mut().find(|f| f.name == done.name).unwrap_or_else(|| panic!("{} has no code", done.name));
            (function.registers, function.spilled) = (done.registers, done.spilled);
        }
    }
    all
}

fn kernels() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../kernels")
}

/// What clang makes of a program.
fn assembly(name: &str, defines: &str, arch: &str) -> Result<String, String> {
    let output = Command::new("clang-22")
        .args(["-x", "hip", "--cuda-device-only", "--no-gpu-bundle-output", "-nogpuinc", "-nogpulib", "-mcode-object-version=5"])
        .args(["-O3", "-std=c++17", "-Werror", "-S", "-o", "-", &format!("--offload-arch={arch}")])
        .args(defines.split_whitespace().map(|define| format!("-D{define}")))
        .arg(kernels().join(name).with_extension("cu"))
        .output()
        .map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(String::from_utf8_lossy(&output.stdout).into_owned()) } else { Err(said) }
}

/// What of a claim does not hold for one architecture; empty where all does.
fn broken(claim: &Claim, arch: &str) -> Vec<String> {
    let at = format!("{} {} for {arch}", claim.name, claim.defines);
    let functions = match assembly(claim.name, claim.defines, arch) {
        Ok(text) => functions(&text),
        Err(error) => return vec![format!("{at}: {error}")],
    };
    let mut said = Vec::new();
    if functions.is_empty() || functions.iter().any(|f| f.code.len() < 4 || f.registers == 0) {
        said.push(format!("{at}: nothing to read in the assembly"));
    }
    for f in &functions {
        if f.spilled > 0 {
            said.push(format!("{at}: {} spills {}", f.name, f.spilled));
        }
        if f.registers > claim.registers {
            said.push(format!("{at}: {} takes {} registers and claims {}", f.name, f.registers, claim.registers));
        }
        let own = ENTRIES.iter().filter(|(entry, word, _)| f.name == *entry && claim.defines.contains(word));
        for instruction in claim.instructions.iter().chain(own.map(|(_, _, instruction)| instruction)) {
            if !f.holds(instruction) {
                said.push(format!("{at}: {} has no {instruction}", f.name));
            }
        }
    }
    said
}

/// True where there is a clang 22; else says why nothing is compiled.
fn has_clang() -> bool {
    let missing = Command::new("clang-22").arg("--version").output().is_err();
    if missing {
        println!("SKIP: clang: no clang-22 here (apt-get install clang-22 lld-22)");
    }
    !missing
}

#[test]
fn every_kernel_becomes_what_it_claims_on_every_chip_it_claims() {
    if !has_clang() {
        return;
    }
    for folder in ["common", "launch", "memory", "gemm", "attention"] {
        for file in kernels().join(folder).read_dir().unwrap() {
            let name = file.unwrap().file_name().into_string().unwrap();
            let Some(name) = name.strip_suffix(".cu") else { continue };
            let known =
                CLAIMS.iter().any(|c| c.name == format!("{folder}/{name}")) || NVIDIA.iter().any(|end| name.ends_with(end));
            assert!(known, "{folder}/{name} claims nothing on AMD's chips");
        }
    }
    for arch in ALL {
        assert!(
            CLAIMS.iter().any(|c| c.name == "gemm/matrix_amd" && c.architectures.contains(arch)),
            "no matrix units on {arch}"
        );
    }
    let work = Mutex::new(CLAIMS.iter().flat_map(|c| c.architectures.iter().map(move |arch| (c, *arch))).collect::<Vec<_>>());
    let said = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let next = work.lock().unwrap().pop();
                    let Some((claim, arch)) = next else { return };
                    said.lock().unwrap().extend(broken(claim, arch));
                }
            });
        }
    });
    let said = said.into_inner().unwrap();
    assert!(said.is_empty(), "{} claims do not hold:\n{}", said.len(), said.join("\n"));
}

#[test]
fn a_claim_that_does_not_hold_is_found() {
    if !has_clang() {
        return;
    }
    let found = |claim: Claim, expected: &str| {
        let said = broken(&claim, claim.architectures[0]).join("\n");
        assert!(said.contains(expected), "{expected}: {said}");
    };
    found(claim("memory/shared", "", &["gfx942"], &["v_mfma"], 64), "has no v_mfma");
    found(claim("memory/shared", "", &["gfx1100"], &[LDS], 8), "registers and claims 8");
    // Sums of 256×256 in four waves of 32 lanes are more than there are registers.
    found(claim("gemm/matrix_amd", "RP_BM=256 RP_BN=256 RP_THREADS=128", &["gfx1201"], &[], 256), "spills ");
    // Each chip has one encoding of FP8 or none.
    for (arch, dtype, why) in [
        ("gfx942", "e4m3", "FP8 is FNUZ on gfx942 and OCP elsewhere"),
        ("gfx950", "e4m3fnuz", "FP8 is FNUZ on gfx942 and OCP elsewhere"),
        ("gfx1201", "e5m2fnuz", "FP8 is FNUZ on gfx942 and OCP elsewhere"),
        ("gfx90a", "e4m3", "this chip has no FP8"),
        ("gfx1100", "e5m2", "this chip has no FP8"),
    ] {
        let error = assembly("gemm/matrix_amd", &format!("RP_DTYPE={dtype}"), arch).unwrap_err();
        assert!(error.contains(why), "{arch} {dtype}: {error}");
    }
}

#[test]
fn assembly_is_read_as_it_is_printed() {
    let text = "\t.type\trp_copy,@function\nrp_copy:                                ; @rp_copy\n; %bb.0:\n\ts_load_dwordx4 s[0:3], s[8:9], 0x0
\tglobal_load_dwordx4 v[0:3], v0, s[0:1] offset:16 nt ; 16-byte\n\tv_mfma_f32_32x32x8_bf16 v[0:15], v[2:3], v[4:5], v[0:15]\n.Lfunc_end0:
    .name:           rp_copy\n    .private_segment_fixed_size: 8\n    .sgpr_spill_count: 1\n    .vgpr_count:     37\n    .vgpr_spill_count: 2
    .wavefront_size: 64\n";
    let read = functions(text);
    assert_eq!((read.len(), read[0].name.as_str(), read[0].registers, read[0].spilled), (1, "rp_copy", 37, 11));
    assert_eq!(read[0].code.len(), 3);
    assert!(read[0].holds(LOAD) && read[0].holds("global_load_dwordx4 glc/global_load_dwordx4 nt") && read[0].holds("v_mfma"));
    assert!(!read[0].holds(LDS) && !read[0].holds("global_load_dwordx4 slc"));
}
