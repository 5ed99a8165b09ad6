// Attention kernels of ours for the stub driver: their own source, as fibres on the host, each in the forms that a test asks for by the
// definitions that the host must give. Pointers, tensor maps, grids and shared memory are then what our launches hand over: a wrong
// stride, order, swizzle or box makes a wrong output, or a wait that never ends.
// Built as kernels.cpp is. -DAMPERE, -DHOPPER, -DBLACKWELL: what a chip of that generation is asked for.
#include "registry.h"

#ifdef AMPERE
#define RP_WARPS 2
#include "attention/decode_splitkv.cu"
#define RP_GENERAL 1
#define RP_DECODE wide
#define RP_NAME wide_entry
#define RP_D 256
#define RP_F16 0
#define RP_KV8 1
#include "attention/decode_splitkv.cu"
#define RP_D 64
#define RP_DV 64
#define RP_TYPE 2
#include "attention/flash_portable.cu"
#undef RP_D
#undef RP_TYPE
#define RP_NAME combine_bf16
#define RP_TYPE 2
#define RP_D 256
#include "attention/combine.cu"
#undef RP_D
#undef RP_TYPE
#define RP_NAME combine_f16
#define RP_TYPE 1
#define RP_D 256
#include "attention/combine.cu"
#undef RP_D
#undef RP_TYPE
static bool all[] = {
    registry::add("rp_decode_bf16_d256 RP_WARPS=2", rp_decode_bf16_d256, 64),
    registry::add("rp_decode_f16_d256 RP_WARPS=2", rp_decode_f16_d256, 64),
    registry::add("rp_decode_general RP_GENERAL=1 RP_D=256 RP_F16=0 RP_KV8=1 RP_WARPS=2", wide_entry, 64),
    registry::add("rp_flash_portable RP_D=64 RP_DV=64 RP_TYPE=2", rp_flash_portable, 256),
    registry::add("rp_combine RP_D=256 RP_TYPE=2", combine_bf16, 128),
    registry::add("rp_combine RP_D=256 RP_TYPE=1", combine_f16, 128),
};
#endif

#ifdef BLACKWELL
#define RP_SLABS 1
#include "attention/flash_sm80.cu"
#define RP_GENERAL 1
#define RP_FLASH sm80_d96
#define RP_NAME sm80_d96_entry
#define RP_D 96
#define RP_DV 96
#define RP_CAUSAL 1
#define RP_F16 0
#include "attention/flash_sm80.cu"
static bool all[] = {
    registry::add("rp_flash_sm80_f16_d128_causal ", rp_flash_sm80_f16_d128_causal, 128),
    registry::add("rp_flash_sm80_bf16_d128_full ", rp_flash_sm80_bf16_d128_full, 128),
    registry::add("rp_flash_sm80 RP_GENERAL=1 RP_D=96 RP_DV=96 RP_CAUSAL=1 RP_F16=0", sm80_d96_entry, 128),
};
#endif

#ifdef HOPPER
#include "attention/flash_sm90.cu"
#define RP_GENERAL 1
#define RP_FLASH causal_d64
#define RP_NAME causal_d64_entry
#define RP_D 64
#define RP_DV 64
#define RP_N 128
#define RP_CAUSAL 1
#define RP_F16 1
#include "attention/flash_sm90.cu"
#define RP_GENERAL 1
#define RP_FLASH full_d192
#define RP_NAME full_d192_entry
#define RP_D 192
#define RP_DV 128
#define RP_N 128
#define RP_CAUSAL 0
#define RP_F16 0
#include "attention/flash_sm90.cu"
#define RP_GENERAL 1
#define RP_FLASH full_d256
#define RP_NAME full_d256_entry
#define RP_D 256
#define RP_DV 256
#define RP_N 80
#define RP_CAUSAL 0
#define RP_F16 0
#include "attention/flash_sm90.cu"
#define RP_FLASH fp8_wide
#define RP_NAME fp8_wide_entry
#define RP_D 256
#define RP_N 96
#define RP_CAUSAL 1
#define RP_LEAN 0
#include "attention/flash_fp8_sm90.cu"
#define RP_FLASH fp8_wide_lean
#define RP_NAME fp8_wide_lean_entry
#define RP_D 256
#define RP_N 96
#define RP_CAUSAL 1
#define RP_LEAN 1
#include "attention/flash_fp8_sm90.cu"
#define RP_GENERAL 1
#define RP_FLASH fp8_d96
#define RP_NAME fp8_d96_entry
#define RP_D 96
#define RP_N 192
#define RP_CAUSAL 0
#define RP_LEAN 1
#include "attention/flash_fp8_sm90.cu"
#define RP_GENERAL 1
#define RP_FLASH fp8_d64
#define RP_NAME fp8_d64_entry
#define RP_D 64
#define RP_N 128
#define RP_CAUSAL 1
#define RP_LEAN 1
#include "attention/flash_fp8_sm90.cu"
#define RP_GENERAL 1
#define RP_FLASH causal_d96
#define RP_NAME causal_d96_entry
#define RP_D 96
#define RP_DV 96
#define RP_N 128
#define RP_CAUSAL 1
#define RP_F16 0
#include "attention/flash_sm90.cu"
#include "attention/mla_decode_sm90.cu"
#define RP_MLA mla_of_fp8
#define RP_KV8 1
#include "attention/mla_decode_sm90.cu"
#include "attention/decode_splitkv.cu"
#define RP_GENERAL 1
#define RP_DECODE kv8_d128
#define RP_NAME kv8_d128_entry
#define RP_D 128
#define RP_F16 0
#define RP_KV8 1
#include "attention/decode_splitkv.cu"
#define RP_NAME combine_f16_d64
#define RP_TYPE 1
#define RP_D 64
#include "attention/combine.cu"
#undef RP_D
#undef RP_TYPE
#define RP_NAME combine_bf16_d128
#define RP_TYPE 2
#define RP_D 128
#include "attention/combine.cu"
#undef RP_D
#undef RP_TYPE
#define RP_NAME combine_bf16_d512
#define RP_TYPE 2
#define RP_D 512
#include "attention/combine.cu"
#undef RP_D
#undef RP_TYPE
#define RP_NAME combine_f16_d512
#define RP_TYPE 1
#define RP_D 512
#include "attention/combine.cu"
#undef RP_D
#undef RP_TYPE
static bool all[] = {
    registry::add("rp_flash_sm90_bf16_d64_full ", rp_flash_sm90_bf16_d64_full, 384),
    registry::add("rp_flash_sm90_f16_d128_causal ", rp_flash_sm90_f16_d128_causal, 384),
    registry::add("rp_flash_sm90 RP_GENERAL=1 RP_D=64 RP_DV=64 RP_N=128 RP_CAUSAL=1 RP_F16=1", causal_d64_entry, 384),
    registry::add("rp_flash_sm90 RP_GENERAL=1 RP_D=192 RP_DV=128 RP_N=128 RP_CAUSAL=0 RP_F16=0", full_d192_entry, 384),
    registry::add("rp_flash_sm90 RP_GENERAL=1 RP_D=256 RP_DV=256 RP_N=80 RP_CAUSAL=0 RP_F16=0", full_d256_entry, 384),
    registry::add("rp_flash_fp8_sm90 RP_D=256 RP_N=96 RP_CAUSAL=1 RP_LEAN=0", fp8_wide_entry, 384),
    registry::add("rp_flash_fp8_sm90 RP_D=256 RP_N=96 RP_CAUSAL=1 RP_LEAN=1", fp8_wide_lean_entry, 384),
    registry::add("rp_flash_fp8_sm90 RP_D=96 RP_N=192 RP_CAUSAL=0 RP_LEAN=1 RP_GENERAL=1", fp8_d96_entry, 384),
    registry::add("rp_flash_fp8_sm90 RP_D=64 RP_N=128 RP_CAUSAL=1 RP_LEAN=1 RP_GENERAL=1", fp8_d64_entry, 384),
    registry::add("rp_flash_sm90 RP_GENERAL=1 RP_D=96 RP_DV=96 RP_N=128 RP_CAUSAL=1 RP_F16=0", causal_d96_entry, 384),
    registry::add("rp_mla_decode_sm90_bf16 ", rp_mla_decode_sm90_bf16, 384),
    registry::add("rp_mla_decode_sm90_kv8_bf16 RP_KV8=1", rp_mla_decode_sm90_kv8_bf16, 384),
    registry::add("rp_mla_decode_sm90_f16 ", rp_mla_decode_sm90_f16, 384),
    registry::add("rp_mla_decode_sm90_kv8_f16 RP_KV8=1", rp_mla_decode_sm90_kv8_f16, 384),
    registry::add("rp_decode_f16_d64 ", rp_decode_f16_d64, 128),
    registry::add("rp_decode_general RP_GENERAL=1 RP_D=128 RP_F16=0 RP_KV8=1", kv8_d128_entry, 128),
    registry::add("rp_combine RP_D=64 RP_TYPE=1", combine_f16_d64, 128),
    registry::add("rp_combine RP_D=128 RP_TYPE=2", combine_bf16_d128, 128),
    registry::add("rp_combine RP_D=512 RP_TYPE=2", combine_bf16_d512, 128),
    registry::add("rp_combine RP_D=512 RP_TYPE=1", combine_f16_d512, 128),
};
#endif
