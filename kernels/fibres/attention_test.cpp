// Proves the attention kernels' numerics on the host against a naive softmax in double (attention.h).
// Usage: attention_test [section]; a build with -DPARTS=… has only some of them, and no edges unless -DEDGES, to be quick.
#define FLASH 1
#define FLASH80 2
#define DECODE 4
#define MLA 8
#define FP8 16
#ifndef PARTS
#define PARTS 31
#define EDGES
#endif
#include "attention.h"
using attention::Operands;
using attention::Shape;
using attention::check;

#if PARTS & (FLASH | MLA | FP8)
#include "../common/nvidia.h"
// All columns of `heads` heads of `rows` rows, in slabs of 64; a box has `tile` rows of `slabs` of them.
static TensorMap tensor_map(const void* t, int d, int rows, int heads, int tile, int slabs) {
    HostMap m{(const unsigned char*)t, {64, (u64)rows, (u64)d / 64, (u64)heads}, {(u64)d * 2, 128, (u64)rows * d * 2}, {64, (u32)tile, (u32)slabs, 1}, 128};
    TensorMap r; memcpy(&r, &m, sizeof m); return r;
}
#endif

#if PARTS & FLASH
#define RP_L2_BUDGET (96 << 10)  // so small that these shapes, too, are walked in sections
#include "../attention/flash_sm90.cu"
typedef void (*Flash)(const TensorMap, const TensorMap, const TensorMap, u16*, u32*, int, int, int, int, float);
static void flash(const char* name, Flash kernel, int n, const Shape& s, int grid) {
    Operands t(s); u32 counter[2] = {0, 0};
    auto mq = tensor_map(t.q.data(), s.d, s.sq, s.b * s.hq, 64, s.d / 64), mk = tensor_map(t.k.data(), s.d, s.sk, s.b * s.hkv, n, s.d / 64), mv = tensor_map(t.v.data(), s.dv, s.sk, s.b * s.hkv, n, s.dv / 64);
    fibres::launch(dim3(grid), dim3(384), [&] { kernel(mq, mk, mv, t.o.data(), counter, s.b * s.hq, s.hq / s.hkv, s.sq, s.sk, t.scale); });
    check(name, t);
    if (counter[0] || counter[1]) { printf("BAD the counters were left at %u, %u\n", counter[0], counter[1]); attention::failures++; }
}
#define RP_GENERAL 1
#define RP_FLASH general_causal_d128
#define RP_NAME rp_flash_general_causal
#define RP_D 128
#define RP_DV 128
#define RP_N 128
#define RP_CAUSAL 1
#define RP_F16 0
#include "../attention/flash_sm90.cu"
#define RP_GENERAL 1
#define RP_FLASH general_full_d256
#define RP_NAME rp_flash_general_d256
#define RP_D 256
#define RP_DV 256
#define RP_N 80
#define RP_CAUSAL 0
#define RP_F16 0
#include "../attention/flash_sm90.cu"
#ifdef EDGES
#define RP_GENERAL 1
#define RP_FLASH general_causal_d192
#define RP_NAME rp_flash_general_d192
#define RP_D 192
#define RP_DV 128
#define RP_N 128
#define RP_CAUSAL 1
#define RP_F16 0
#include "../attention/flash_sm90.cu"
#define RP_GENERAL 1
#define RP_FLASH general_causal_d64
#define RP_NAME rp_flash_general_d64
#define RP_D 64
#define RP_DV 64
#define RP_N 128
#define RP_CAUSAL 1
#define RP_F16 1
#include "../attention/flash_sm90.cu"
#define RP_GENERAL 1
#define RP_FLASH general_full_d128
#define RP_NAME rp_flash_general_full
#define RP_D 128
#define RP_DV 128
#define RP_N 128
#define RP_CAUSAL 0
#define RP_F16 0
#include "../attention/flash_sm90.cu"
#endif
#define RP_GENERAL 1
#define RP_FLASH general_causal_d96
#define RP_NAME rp_flash_general_d96
#define RP_D 96
#define RP_DV 96
#define RP_N 128
#define RP_CAUSAL 1
#define RP_F16 0
#include "../attention/flash_sm90.cu"
typedef void (*FlashGeneral)(const TensorMap, const TensorMap, const TensorMap, u16*, u32*, const int*, const int*, const float*, int, int, int, int, int, int, int, float);
static void flash_general(const char* name, FlashGeneral kernel, int n, const Shape& s, int grid) {
    Operands t(s); u32 counter[2] = {0, 0};
    auto all = [&](const void* x, int d, int rows, int heads, int tile, int slabs) {
        if (d % 64 == 0) return tensor_map(x, d, rows, heads, tile, slabs);
        HostMap m{(const unsigned char*)x, {(u64)d, (u64)rows, 1, (u64)heads}, {(u64)d * 2, (u64)rows * d * 2, (u64)rows * d * 2}, {64, (u32)tile, 1, 1}, 128};
        TensorMap r; memcpy(&r, &m, sizeof m); return r;
    };
    auto map = [&](const std::vector<unsigned char>& x, int d) { return s.page ? all(x.data(), d, t.pool * s.hkv * s.page, 1, std::min(s.page, n & -n), 1) : all(x.data(), d, s.sk, s.b * s.hkv, n, d / 64); };
    auto mq = all(t.q.data(), s.d, s.sq, s.b * s.hq, 64, s.d / 64), mk = map(t.k, s.d), mv = map(t.v, s.dv);
    fibres::launch(dim3(grid), dim3(384), [&] { kernel(mq, mk, mv, t.o.data(), counter, t.lengths(), s.page ? t.table.data() : nullptr, s.sinks ? t.sinks.data() : nullptr, s.b * s.hq, s.hq / s.hkv, s.sq, s.sk, s.hq, __builtin_ctz(s.page | 1 << 30), s.window, t.scale); });
    check(name, t);
    if (counter[0] || counter[1]) { printf("BAD the counters were left at %u, %u\n", counter[0], counter[1]); attention::failures++; }
}
static void flash_section() {
    auto full = rp_flash_sm90_bf16_d128_full, causal = rp_flash_sm90_bf16_d128_causal;
    flash("flash bf16", full, 176, {1, 1, 1, 128, 176, 1, 128, 128, false, false}, 1);
    flash("flash bf16", full, 176, {1, 2, 1, 130, 600, 1, 128, 128, false, false}, 2);
    flash("flash bf16", causal, 128, {1, 2, 1, 300, 300, 1, 128, 128, false, true}, 2);
    flash("flash bf16", causal, 128, {1, 1, 1, 200, 77, 1, 128, 128, false, true}, 1);
    flash("flash bf16", causal, 128, {1, 2, 1, 77, 500, 1, 128, 128, false, true}, 1);
    flash("flash f16 huge", rp_flash_sm90_f16_d64_causal, 128, {2, 2, 2, 129, 257, 60, 64, 64, true, true}, 3);
    flash("flash f16", rp_flash_sm90_f16_d64_full, 176, {1, 1, 1, 1, 1, 1, 64, 64, true, false}, 1);
    flash_general("flash window", rp_flash_general_causal, 128, {1, 2, 1, 300, 420, 1, 128, 128, false, true, 100}, 2);
    flash_general("flash window of one", rp_flash_general_causal, 128, {1, 1, 1, 130, 257, 1, 128, 128, false, true, 1}, 1);
    Shape ragged{3, 1, 1, 130, 260, 1, 128, 128, false, true, 0, 0, true}; ragged.lengths = {260, 0, 70};
    flash_general("flash ragged, sinks", rp_flash_general_causal, 128, ragged, 2);
    Shape sections{4, 4, 2, 140, 200, 1, 128, 128, false, true, 0, 0, true}; sections.lengths = {200, 0, 31, 199};
    flash_general("flash ragged, in sections", rp_flash_general_causal, 128, sections, 2);
    Shape wide{2, 1, 1, 70, 190, 4, 256, 256, false, false, 0, 0, true}; wide.lengths = {190, 81};
    flash_general("flash d256 ragged, sinks", rp_flash_general_d256, 80, wide, 1);
    Shape paged{3, 4, 2, 140, 330, 1, 128, 128, false, true, 0, 16}; paged.lengths = {330, 0, 101};
    flash_general("flash paged 16, ragged", rp_flash_general_causal, 128, paged, 2);
    flash_general("flash paged 256, window", rp_flash_general_causal, 128, {1, 2, 1, 130, 500, 1, 128, 128, false, true, 300, 256}, 1);
    Shape narrow{2, 2, 2, 70, 250, 1, 256, 256, false, false, 0, 64}; narrow.lengths = {250, 100};
    flash_general("flash d256 paged 64, ragged", rp_flash_general_d256, 80, narrow, 1);
    Shape padded{3, 2, 1, 140, 200, 1, 96, 96, false, true, 90, 0, true}; padded.lengths = {200, 0, 130};
    flash_general("flash d96 window, ragged, sinks", rp_flash_general_d96, 128, padded, 2);
    flash_general("flash d96 paged 16", rp_flash_general_d96, 128, {1, 2, 1, 70, 190, 1, 96, 96, false, true, 0, 16}, 1);
#ifdef EDGES
    flash("flash f16", rp_flash_sm90_f16_d128_full, 176, {1, 1, 1, 70, 200, 1, 128, 128, true, false}, 1);
    flash("flash f16 huge", rp_flash_sm90_f16_d128_causal, 128, {1, 1, 1, 70, 150, 60, 128, 128, true, true}, 1);
    flash("flash bf16", causal, 128, {1, 1, 1, 1, 1, 1, 128, 128, false, true}, 1);
    Shape huge{3, 2, 1, 70, 200, 60, 128, 128, false, true, 0, 64, true}; huge.lengths = {200, 0, 65};
    flash_general("flash huge, sinks, paged 64, ragged", rp_flash_general_causal, 128, huge, 2);
    flash_general("flash general, sink", rp_flash_general_causal, 128, {1, 1, 1, 1, 1, 1, 128, 128, false, true, 1, 0, true}, 1);
    flash_general("flash mla prefill", rp_flash_general_d192, 128, {1, 2, 2, 150, 200, 1, 192, 128, false, true, 150}, 2);
    flash_general("flash mla prefill", rp_flash_general_d192, 128, {1, 1, 1, 1, 1, 1, 192, 128, false, true}, 1);
    flash_general("flash d256", rp_flash_general_d256, 80, {1, 1, 1, 1, 1, 1, 256, 256, false, false}, 1);
    Shape none{3, 1, 1, 40, 90, 1, 256, 256, false, false, 0, 0, true}; none.lengths = {90, 0, 1};
    flash_general("flash d256 ragged, sinks", rp_flash_general_d256, 80, none, 1);
    Shape slim{3, 2, 1, 70, 300, 1, 64, 64, true, true, 90, 0, true}; slim.lengths = {300, 0, 150};
    flash_general("flash f16 d64 window, sinks", rp_flash_general_d64, 128, slim, 2);
    flash_general("flash f16 d64 huge, paged 64", rp_flash_general_d64, 128, {1, 1, 1, 70, 200, 60, 64, 64, true, true, 0, 64, true}, 1);
    flash_general("flash f16 d64", rp_flash_general_d64, 128, {1, 1, 1, 1, 1, 1, 64, 64, true, true}, 1);
    Shape entries{3, 2, 1, 70, 200, 1, 128, 128, false, false, 0, 0, true}; entries.lengths = {200, 0, 129};
    flash_general("flash full ragged, sinks", rp_flash_general_full, 128, entries, 2);
    entries.page = 64;
    flash_general("flash full paged 64, sinks", rp_flash_general_full, 128, entries, 1);
#endif
}
#endif

#if PARTS & FP8
#define RP_FLASH fp8_full
#define RP_NAME rp_fp8_full
#define RP_N 224
#define RP_CAUSAL 0
#include "../attention/flash_fp8_sm90.cu"
#define RP_FLASH fp8_full_d64
#define RP_NAME rp_fp8_full_d64
#define RP_D 64
#define RP_N 192
#define RP_CAUSAL 0
#define RP_LEAN 1
#include "../attention/flash_fp8_sm90.cu"
#define RP_FLASH fp8_causal_d256
#define RP_NAME rp_fp8_causal_d256
#define RP_D 256
#define RP_N 96
#define RP_CAUSAL 1
#include "../attention/flash_fp8_sm90.cu"
#define RP_GENERAL 1
#define RP_FLASH fp8_general_causal
#define RP_NAME rp_fp8_general_causal
#define RP_D 128
#define RP_N 128
#define RP_CAUSAL 1
#define RP_LEAN 1
#include "../attention/flash_fp8_sm90.cu"
#define RP_GENERAL 1
#define RP_FLASH fp8_general_d96
#define RP_NAME rp_fp8_general_d96
#define RP_D 96
#define RP_N 192
#define RP_CAUSAL 0
#define RP_LEAN 1
#include "../attention/flash_fp8_sm90.cu"
#ifdef EDGES
#define RP_FLASH fp8_full_lean
#define RP_NAME rp_fp8_full_lean
#define RP_D 128
#define RP_N 192
#define RP_CAUSAL 0
#define RP_LEAN 1
#include "../attention/flash_fp8_sm90.cu"
#define RP_FLASH fp8_causal_lean
#define RP_NAME rp_fp8_causal_lean
#define RP_D 128
#define RP_N 128
#define RP_CAUSAL 1
#define RP_LEAN 1
#include "../attention/flash_fp8_sm90.cu"
#define RP_FLASH fp8_causal
#define RP_NAME rp_fp8_causal
#define RP_D 128
#define RP_N 192
#define RP_CAUSAL 1
#include "../attention/flash_fp8_sm90.cu"
#define RP_GENERAL 1
#define RP_FLASH fp8_general_d64
#define RP_NAME rp_fp8_general_d64
#define RP_D 64
#define RP_N 128
#define RP_CAUSAL 1
#define RP_LEAN 1
#include "../attention/flash_fp8_sm90.cu"
#define RP_GENERAL 1
#define RP_FLASH fp8_general_d256
#define RP_NAME rp_fp8_general_d256
#define RP_D 256
#define RP_N 96
#define RP_CAUSAL 0
#define RP_LEAN 1
#include "../attention/flash_fp8_sm90.cu"
#endif
typedef void (*Fp8)(const TensorMap, const TensorMap, const TensorMap, u16*, u32*, const float*, int, int, int, int, float);
typedef void (*Fp8General)(const TensorMap, const TensorMap, const TensorMap, u16*, u32*, const float*, const int*, const int*, const float*, int, int, int, int, int, int, int, float);
template <class Kernel> static void fp8(const char* name, Kernel kernel, int n, Shape s, int grid) {
    s.kv8 = s.q8 = true; Operands t(s); u32 counter[2] = {0, 0}; const float scales[3] = {0.5, 0.75, 1.25};
    auto map = [&](const void* p, int rows, int heads, int tile, bool paged = false) {
        const u32 w = s.d < 96 ? s.d : 128, slabs = s.d == 96 ? 1 : s.d / w;
        HostMap m{(const unsigned char*)p, {std::min((u32)s.d, w), (u64)rows, slabs, (u64)heads}, {(u64)s.d, w, (u64)rows * s.d}, {w, (u32)tile, paged ? 1 : slabs, 1}, w, 1};
        TensorMap r; memcpy(&r, &m, sizeof m); return r;
    };
    auto keys = [&](const std::vector<unsigned char>& x) { return s.page ? map(x.data(), t.pool * s.hkv * s.page, 1, std::min(s.page, n & -n), true) : map(x.data(), s.sk, s.b * s.hkv, n); };
    auto mq = map(t.q8.data(), s.sq, s.b * s.hq, 64), mk = keys(t.k), mv = keys(t.v);
    fibres::launch(dim3(grid), dim3(384), [&] {
        if constexpr (std::is_same_v<Kernel, Fp8General>)
            kernel(mq, mk, mv, t.o.data(), counter, scales, t.lengths(), s.page ? t.table.data() : nullptr, s.sinks ? t.sinks.data() : nullptr, s.b * s.hq, s.hq / s.hkv, s.sq, s.sk, s.hq, __builtin_ctz(s.page | 1 << 30), s.window, t.scale);
        else kernel(mq, mk, mv, t.o.data(), counter, scales, s.b * s.hq, s.hq / s.hkv, s.sq, s.sk, t.scale);
    });
    t.k_scale = scales[0] * scales[1]; t.v_scale = scales[2];
    check(name, t);
    if (counter[0] || counter[1]) { printf("BAD the counters were left at %u, %u\n", counter[0], counter[1]); attention::failures++; }
}
static void fp8_section() {
    fp8("fp8 flash", rp_fp8_full, 224, {1, 2, 1, 130, 700, 2, 128, 128, false, false}, 1);
    fp8("fp8 flash", rp_fp8_full, 224, {1, 1, 1, 1, 1, 1, 128, 128, false, false}, 1);
    fp8("fp8 flash lean", rp_fp8_full_d64, 192, {1, 1, 1, 70, 300, 2, 64, 64, false, false}, 1);
    fp8("fp8 flash huge", rp_fp8_causal_d256, 96, {2, 1, 1, 70, 260, 60, 256, 256, false, true}, 1);
    fp8("fp8 flash window", rp_fp8_general_causal, 128, {1, 2, 1, 140, 420, 2, 128, 128, false, true, 100}, 2);
    Shape ragged{3, 2, 1, 130, 290, 2, 128, 128, false, true, 0, 0, true}; ragged.lengths = {290, 0, 77};
    fp8("fp8 flash ragged, sinks", rp_fp8_general_causal, 128, ragged, 1);
    Shape paged{3, 4, 2, 70, 420, 2, 128, 128, false, true, 150, 16, true}; paged.lengths = {420, 0, 101};
    fp8("fp8 flash paged 16, window, sinks, ragged", rp_fp8_general_causal, 128, paged, 2);
    Shape slim{2, 2, 2, 70, 590, 2, 96, 96, false, false, 0, 64, true}; slim.lengths = {590, 205};
    fp8("fp8 flash d96 paged 64, ragged", rp_fp8_general_d96, 192, slim, 1);
    fp8("fp8 flash d96", rp_fp8_general_d96, 192, {1, 1, 1, 130, 1100, 2, 96, 96, false, false}, 1);
    fp8("fp8 flash", rp_fp8_general_causal, 128, {1, 1, 1, 200, 77, 4, 128, 128, false, true}, 1);
    fp8("fp8 flash", rp_fp8_general_causal, 128, {1, 1, 1, 200, 290, 4, 128, 128, false, true}, 1);
#ifdef EDGES
    fp8("fp8 flash lean", rp_fp8_full_lean, 192, {1, 1, 1, 130, 1100, 2, 128, 128, false, false}, 1);
    fp8("fp8 flash lean", rp_fp8_causal_lean, 128, {1, 2, 1, 200, 290, 4, 128, 128, false, true}, 2);
    fp8("fp8 flash lean", rp_fp8_causal_lean, 128, {1, 1, 1, 200, 77, 1, 128, 128, false, true}, 1);
    fp8("fp8 flash", rp_fp8_causal, 192, {1, 2, 1, 130, 420, 2, 128, 128, false, true}, 1);
    fp8("fp8 flash", rp_fp8_causal, 192, {1, 1, 1, 1, 1, 1, 128, 128, false, true}, 1);
    fp8("fp8 flash lean huge", rp_fp8_causal_lean, 128, {1, 1, 1, 70, 200, 60, 128, 128, false, true}, 1);
    fp8("fp8 flash d64 paged 8, window", rp_fp8_general_d64, 128, {1, 2, 1, 130, 290, 2, 64, 64, false, true, 128, 8}, 1);
    fp8("fp8 flash d64, sink", rp_fp8_general_d64, 128, {1, 1, 1, 1, 1, 1, 64, 64, false, true, 1, 0, true}, 1);
    Shape wide{3, 1, 1, 70, 200, 2, 256, 256, false, false, 0, 32}; wide.lengths = {200, 0, 1};
    fp8("fp8 flash d256 paged 32, ragged", rp_fp8_general_d256, 96, wide, 1);
    fp8("fp8 flash huge, sinks", rp_fp8_general_causal, 128, {1, 1, 1, 40, 200, 60, 128, 128, false, true, 130, 0, true}, 1);
    fp8("fp8 flash", rp_fp8_causal_d256, 96, {1, 1, 1, 1, 1, 1, 256, 256, false, true}, 1);
#endif
}
#endif

#if PARTS & FLASH80
#include "../attention/flash_sm80.cu"
typedef void (*Flash80)(const u16*, const u16*, const u16*, u16*, int, int, int, float);
static void flash80(const char* name, Flash80 kernel, const Shape& s) {
    Operands t(s);
    fibres::launch(dim3((s.sq + 127) / 128, s.b * s.hq), dim3(128), [&] { kernel(t.q.data(), (const u16*)t.k.data(), (const u16*)t.v.data(), t.o.data(), s.hq / s.hkv, s.sq, s.sk, t.scale); });
    check(name, t);
}
#define RP_GENERAL 1
#define RP_FLASH general80_causal_d96
#define RP_NAME rp_flash80_d96
#define RP_D 96
#define RP_DV 96
#define RP_CAUSAL 1
#define RP_F16 0
#include "../attention/flash_sm80.cu"
#define RP_GENERAL 1
#define RP_FLASH general80_causal_d192
#define RP_NAME rp_flash80_d192
#define RP_D 192
#define RP_DV 128
#define RP_CAUSAL 1
#define RP_F16 0
#include "../attention/flash_sm80.cu"
#define RP_GENERAL 1
#define RP_FLASH general80_full_d256
#define RP_NAME rp_flash80_d256
#define RP_D 256
#define RP_DV 256
#define RP_CAUSAL 0
#define RP_F16 0
#include "../attention/flash_sm80.cu"
#ifdef EDGES
#define RP_GENERAL 1
#define RP_FLASH general80_causal_d128
#define RP_NAME rp_flash80_d128
#define RP_D 128
#define RP_DV 128
#define RP_CAUSAL 1
#define RP_F16 1
#include "../attention/flash_sm80.cu"
#define RP_GENERAL 1
#define RP_FLASH general80_full_d64
#define RP_NAME rp_flash80_d64
#define RP_D 64
#define RP_DV 64
#define RP_CAUSAL 0
#define RP_F16 1
#include "../attention/flash_sm80.cu"
#endif
typedef void (*Flash80General)(const u16*, const u16*, const u16*, u16*, const int*, const int*, const float*, int, int, int, int, int, int, float);
static void flash80_general(const char* name, Flash80General kernel, const Shape& s) {
    Operands t(s); unsigned rows = s.dv > 128 ? 64 : 128;
    fibres::launch(dim3((s.sq + rows - 1) / rows, s.b * s.hq), dim3(128), [&] { kernel(t.q.data(), (const u16*)t.k.data(), (const u16*)t.v.data(), t.o.data(), t.lengths(), s.page ? t.table.data() : nullptr, s.sinks ? t.sinks.data() : nullptr, s.hq / s.hkv, s.sq, s.sk, s.hq, s.page ? __builtin_ctz(s.page) : 0, s.window, t.scale); });
    check(name, t);
}
static void flash80_section() {
    auto full = rp_flash_sm80_bf16_d128_full, causal = rp_flash_sm80_bf16_d128_causal;
    flash80("flash sm80 bf16", full, {1, 2, 1, 130, 200, 1, 128, 128, false, false});
    flash80("flash sm80 bf16", causal, {1, 2, 1, 300, 300, 1, 128, 128, false, true});
    flash80("flash sm80 bf16", causal, {1, 1, 1, 200, 77, 1, 128, 128, false, true});
    flash80("flash sm80 f16 huge", rp_flash_sm80_f16_d64_causal, {2, 2, 2, 77, 257, 60, 64, 64, true, true});
    flash80_general("flash sm80 d96 window", rp_flash80_d96, {1, 2, 1, 140, 400, 1, 96, 96, false, true, 200});
    Shape ragged{3, 2, 1, 30, 100, 2, 192, 128, false, true, 0, 0, true}; ragged.lengths = {100, 0, 41};
    flash80_general("flash sm80 mla, ragged, sinks", rp_flash80_d192, ragged);
    Shape paged{3, 4, 2, 30, 150, 2, 96, 96, false, true, 70, 16}; paged.lengths = {150, 0, 61};
    flash80_general("flash sm80 d96 paged 16, window, ragged", rp_flash80_d96, paged);
    flash80_general("flash sm80 d256 paged 8", rp_flash80_d256, {2, 2, 2, 20, 75, 1, 256, 256, false, false, 0, 8});
    flash80_general("flash sm80 d256", rp_flash80_d256, {1, 1, 1, 70, 75, 1, 256, 256, false, false});
    flash80("flash sm80 f16", rp_flash_sm80_f16_d64_full, {1, 1, 1, 1, 1, 1, 64, 64, true, false});
#ifdef EDGES
    flash80("flash sm80 f16 huge", rp_flash_sm80_f16_d128_causal, {1, 1, 1, 70, 150, 60, 128, 128, true, true});
    flash80("flash sm80 bf16", causal, {1, 1, 1, 1, 1, 1, 128, 128, false, true});
    for (auto kernel : {rp_flash80_d96, rp_flash80_d192, rp_flash80_d256}) {
        const int d = kernel == rp_flash80_d96 ? 96 : kernel == rp_flash80_d192 ? 192 : 256, dv = min(d, d == 192 ? 128 : d); const bool sees = kernel != rp_flash80_d256;
        flash80_general("flash sm80 general", kernel, {1, 1, 1, 1, 1, 1, d, dv, false, sees});
        Shape huge{3, 2, 1, 40, 90, 60, d, dv, false, sees, 0, 0, true}; huge.lengths = {90, 0, 33};
        flash80_general("flash sm80 huge, ragged, sinks", kernel, huge);
    }
    Shape slim{3, 2, 1, 70, 200, 1, 128, 128, true, true, 90, 0, true}; slim.lengths = {200, 0, 150};
    flash80_general("flash sm80 f16 d128 window, sinks", rp_flash80_d128, slim);
    Shape entries{3, 2, 1, 70, 130, 1, 64, 64, true, false, 0, 0, true}; entries.lengths = {130, 0, 65};
    flash80_general("flash sm80 f16 d64 ragged, sinks", rp_flash80_d64, entries);
#endif
}
#endif

#if PARTS & (DECODE | MLA)
#define RP_NAME combine_f16_d64
#define RP_TYPE 1
#define RP_D 64
#include "../attention/combine.cu"
#undef RP_D
#undef RP_TYPE
#define RP_NAME combine_bf16_d128
#define RP_TYPE 2
#define RP_D 128
#include "../attention/combine.cu"
#undef RP_D
#undef RP_TYPE
#define RP_NAME combine_bf16_d256
#define RP_TYPE 2
#define RP_D 256
#include "../attention/combine.cu"
#undef RP_D
#undef RP_TYPE
#define RP_NAME combine_bf16_d512
#define RP_TYPE 2
#define RP_D 512
#include "../attention/combine.cu"
#undef RP_D
#undef RP_TYPE
#define RP_NAME combine_f16_d512
#define RP_TYPE 1
#define RP_D 512
#include "../attention/combine.cu"
#undef RP_D
#undef RP_TYPE
typedef void (*Combine)(const float*, const float*, rp_u16*, const float*, int, int, int, int);
// Partial results of all rows in `splits` splits, poisoned; joined where there are several.
struct Splits {
    int splits; std::vector<float> partial, stats;
    Splits(const Shape& s, int splits) : splits(splits), partial((size_t)s.b * s.hq * s.sq * splits * s.dv, NAN), stats((size_t)s.b * s.hq * s.sq * splits * 2, NAN) {}
    float2* pairs() { return (float2*)stats.data(); }
    void join(Combine combine, Operands& t) {
        int rows = t.s.b * t.s.hq * t.s.sq;
        if (splits > 1) fibres::launch(dim3((rows + 3) / 4), dim3(128), [&] { combine(partial.data(), stats.data(), t.o.data(), t.s.sinks ? t.sinks.data() : nullptr, rows, splits, t.s.sq, t.s.hq); });
    }
};
#endif

#if PARTS & DECODE
#include "../attention/decode_splitkv.cu"
typedef void (*Decode)(const u16*, const u16*, const u16*, u16*, float*, float2*, const int*, int, int, int, int, int, float);
static void decode_case(const char* name, Decode run, Combine combine, const Shape& s, int splits) {
    Operands t(s); int rows = s.hq / s.hkv * s.sq; Splits join(s, splits);
    fibres::launch(dim3(splits, (rows + 15) / 16, s.b * s.hkv), dim3(128), [&] { run(t.q.data(), (const u16*)t.k.data(), (const u16*)t.v.data(), t.o.data(), join.partial.data(), join.pairs(), t.lengths(), rows, s.sq, s.hkv, s.sk, splits, t.scale); });
    join.join(combine, t);
    check(name, t);
}
#define RP_GENERAL 1
#define RP_DECODE general_bf16_d128
#define RP_NAME rp_general_bf16_d128
#define RP_D 128
#define RP_F16 0
#define RP_KV8 0
#include "../attention/decode_splitkv.cu"
#define RP_GENERAL 1
#define RP_DECODE general_kv8_bf16_d128
#define RP_NAME rp_general_kv8_bf16_d128
#define RP_D 128
#define RP_F16 0
#define RP_KV8 1
#include "../attention/decode_splitkv.cu"
#define RP_GENERAL 1
#define RP_DECODE general_kv8_f16_d64
#define RP_NAME rp_general_kv8_f16_d64
#define RP_D 64
#define RP_F16 1
#define RP_KV8 1
#include "../attention/decode_splitkv.cu"
#ifdef EDGES
#define RP_GENERAL 1
#define RP_DECODE general_f16_d64
#define RP_NAME rp_general_f16_d64
#define RP_D 64
#define RP_F16 1
#define RP_KV8 0
#include "../attention/decode_splitkv.cu"
#define RP_GENERAL 1
#define RP_DECODE general_kv8_bf16_d256
#define RP_NAME rp_general_kv8_bf16_d256
#define RP_D 256
#define RP_F16 0
#define RP_KV8 1
#include "../attention/decode_splitkv.cu"
#endif
typedef void (*General)(const u16*, const u16*, const u16*, u16*, float*, float2*, const int*, const int*, const float*, const float*, int, int, int, int, int, int, int, int, float);
static void general_case(const char* name, General run, Combine combine, const Shape& s, int splits) {
    Operands t(s); int rows = s.hq / s.hkv * s.sq, shift = 0; Splits join(s, splits);
    while (1 << shift < s.page) shift++;
    const float scales[3] = {1, 0.5, 2};  // of FP8 K and V
    fibres::launch(dim3(splits, (rows + 15) / 16, s.b * s.hkv), dim3(128), [&] {
        run(t.q.data(), (const u16*)t.k.data(), (const u16*)t.v.data(), t.o.data(), join.partial.data(), join.pairs(), t.lengths(), s.page ? t.table.data() : nullptr,
            s.sinks && splits == 1 ? t.sinks.data() : nullptr, s.kv8 ? scales : nullptr, rows, s.sq, s.hkv, s.sk, splits, shift, s.window, s.causal, t.scale);
    });
    join.join(combine, t);
    if (s.kv8) { t.k_scale = scales[1]; t.v_scale = scales[2]; }
    check(name, t);
}
static void decode_section() {
    decode_case("decode bf16", rp_decode_bf16_d128, combine_bf16_d128, {2, 8, 2, 1, 77, 1, 128, 128, false, true}, 1);
    decode_case("decode bf16 split 3", rp_decode_bf16_d128, combine_bf16_d128, {1, 16, 2, 3, 500, 1, 128, 128, false, true}, 3);
    Shape ragged{3, 6, 2, 4, 300, 1, 64, 64, true, true}; ragged.lengths = {0, 1, 300};
    decode_case("decode f16 ragged", rp_decode_f16_d64, combine_f16_d64, ragged, 5);
    decode_case("decode bf16 d256", rp_decode_bf16_d256, combine_bf16_d256, {1, 4, 4, 2, 200, 1, 256, 256, false, true}, 2);
    // With all that serving asks, each thing alone and together.
    general_case("decode full", rp_general_bf16_d128, combine_bf16_d128, {1, 4, 2, 3, 90, 1, 128, 128, false, false}, 1);
    Shape paged{3, 4, 2, 1, 150, 1, 128, 128, false, false, 0, 16}; paged.lengths = {150, 33, 0};
    general_case("decode paged 16, ragged", rp_general_bf16_d128, combine_bf16_d128, paged, 2);
    general_case("decode window", rp_general_bf16_d128, combine_bf16_d128, {1, 6, 2, 4, 300, 8, 128, 128, false, true, 70}, 2);
    general_case("decode sinks", rp_general_bf16_d128, combine_bf16_d128, {1, 8, 2, 2, 40, 1, 128, 128, false, true, 0, 0, true}, 1);
    Shape all{2, 4, 2, 2, 310, 2, 128, 128, false, true, 100, 64, true, true}; all.lengths = {310, 65};
    general_case("decode kv8 paged 64, window", rp_general_kv8_bf16_d128, combine_bf16_d128, all, 3);
    general_case("decode kv8 d64 sinks", rp_general_kv8_f16_d64, combine_f16_d64, {2, 8, 1, 1, 70, 1, 64, 64, true, false, 0, 16, true, true}, 1);
    general_case("decode huge, sinks, split 2", rp_general_bf16_d128, combine_bf16_d128, {1, 8, 2, 2, 250, 60, 128, 128, false, true, 0, 0, true}, 2);
#ifdef EDGES
    decode_case("decode f16 huge", rp_decode_f16_d64, combine_f16_d64, {1, 4, 2, 1, 200, 60, 64, 64, true, true}, 1);
    decode_case("decode bf16", rp_decode_bf16_d128, combine_bf16_d128, {1, 1, 1, 1, 1, 1, 128, 128, false, true}, 1);
    decode_case("decode bf16 split 2", rp_decode_bf16_d256, combine_bf16_d256, {1, 1, 1, 1, 1, 1, 256, 256, false, true}, 2);
    general_case("decode sink, split 2", rp_general_bf16_d128, combine_bf16_d128, {1, 1, 1, 1, 1, 1, 128, 128, false, true, 0, 0, true}, 2);
    Shape many{3, 4, 2, 2, 200, 60, 64, 64, true, true, 90, 64, true}; many.lengths = {200, 0, 70};
    general_case("decode f16 d64 huge, paged 64", rp_general_f16_d64, combine_f16_d64, many, 2);
    many.window = 0; many.causal = false; many.scale = 1;
    general_case("decode f16 d64 sinks, paged 64", rp_general_f16_d64, combine_f16_d64, many, 1);
    general_case("decode kv8 d256 huge", rp_general_kv8_bf16_d256, combine_bf16_d256, {1, 4, 2, 2, 150, 60, 256, 256, false, true, 0, 0, true, true}, 2);
    general_case("decode kv8", rp_general_kv8_bf16_d128, combine_bf16_d128, {1, 1, 1, 1, 1, 1, 128, 128, false, true, 0, 0, false, true}, 1);
#endif
}
#endif

#if PARTS & MLA
#include "../attention/mla_decode_sm90.cu"
#define RP_MLA mla_of_fp8
#define RP_KV8 1
#include "../attention/mla_decode_sm90.cu"
typedef void (*Mla)(const TensorMap, const TensorMap, const u16*, u16*, float*, float2*, const int*, const int*, const float*, int, int, int, int, int, float);
static void mla(const char* name, Mla run, Combine combine, Shape s, int splits) {
    s.latent = true; Operands t(s); int rows = s.sq * s.hq; Splits join(s, splits);
    auto mq = tensor_map(t.q.data(), 576, rows, s.b, 64, 1), mk = s.page ? tensor_map(t.k.data(), 576, t.pool * s.page, 1, std::min(s.page, 64), 1) : tensor_map(t.k.data(), 576, s.sk, s.b, 64, 1);
    fibres::launch(dim3((rows + 63) / 64, splits, s.b), dim3(384), [&] { run(mq, mk, t.q.data(), t.o.data(), join.partial.data(), join.pairs(), t.lengths(), s.page ? t.table.data() : nullptr, nullptr, __builtin_ctz(s.page | 1 << 30), rows, s.sq, s.sk, splits, t.scale); });
    join.join(combine, t);
    check(name, t);
}
static void mla_kv8(const char* name, Mla run, Combine combine, Shape s, int splits) {
    s.latent = s.kv8 = true; Operands t(s); int rows = s.sq * s.hq; Splits join(s, splits);
    const float scales[3] = {1, 0.5, 3};
    const u64 keys = s.page ? t.pool * s.page : s.sk;
    HostMap m{t.k.data(), {64, keys, 9, s.page ? 1 : (u64)s.b}, {576, 64, 576 * keys}, {64, (u32)(s.page ? std::min(s.page, 64) : 64), 1, 1}, 16, 1};
    TensorMap mk; memcpy(&mk, &m, sizeof m);
    auto mq = tensor_map(t.q.data(), 576, rows, s.b, 64, 1);
    fibres::launch(dim3((rows + 63) / 64, splits, s.b), dim3(384), [&] { run(mq, mk, t.q.data(), t.o.data(), join.partial.data(), join.pairs(), t.lengths(), s.page ? t.table.data() : nullptr, scales, __builtin_ctz(s.page | 1 << 30), rows, s.sq, s.sk, splits, t.scale); });
    join.join(combine, t);
    t.k_scale = t.v_scale = scales[1];
    check(name, t);
}
static void mla_section() {
    mla("mla bf16", rp_mla_decode_sm90_bf16, combine_bf16_d512, {1, 64, 1, 1, 128, 1, 576, 512, false, true}, 1);
    mla("mla bf16", rp_mla_decode_sm90_bf16, combine_bf16_d512, {1, 16, 1, 2, 500, 1, 576, 512, false, true}, 1);
    mla("mla bf16 split 3", rp_mla_decode_sm90_bf16, combine_bf16_d512, {1, 100, 1, 1, 700, 1, 576, 512, false, true}, 3);
    Shape ragged{3, 12, 1, 3, 300, 1, 576, 512, true, true}; ragged.lengths = {0, 1, 300};
    mla("mla f16 ragged", rp_mla_decode_sm90_f16, combine_f16_d512, ragged, 2);
    Shape paged{3, 16, 1, 1, 400, 1, 576, 512, false, true, 0, 16}; paged.lengths = {400, 0, 135};
    mla("mla paged 16, ragged", rp_mla_decode_sm90_bf16, combine_bf16_d512, paged, 1);
    Shape larger{2, 16, 1, 2, 700, 1, 576, 512, false, true, 0, 256}; larger.lengths = {700, 200};
    mla("mla paged 256, ragged", rp_mla_decode_sm90_bf16, combine_bf16_d512, larger, 2);
    mla_kv8("mla kv8", rp_mla_decode_sm90_kv8_bf16, combine_bf16_d512, {1, 70, 1, 1, 256, 1, 576, 512, false, true}, 1);
    mla_kv8("mla kv8 paged 8, ragged", rp_mla_decode_sm90_kv8_f16, combine_f16_d512, {3, 16, 1, 2, 420, 1, 576, 512, true, true, 0, 8, false, false, false, false, {420, 0, 130}}, 2);
    mla_kv8("mla kv8 paged 64, ragged", rp_mla_decode_sm90_kv8_bf16, combine_bf16_d512, {2, 16, 1, 1, 400, 4, 576, 512, false, true, 0, 64, false, false, false, false, {400, 61}}, 1);
    mla("mla paged 64", rp_mla_decode_sm90_f16, combine_f16_d512, {1, 16, 1, 1, 190, 1, 576, 512, true, true, 0, 64}, 1);
#ifdef EDGES
    mla("mla bf16 huge, split 2", rp_mla_decode_sm90_bf16, combine_bf16_d512, {1, 16, 1, 2, 300, 60, 576, 512, false, true}, 2);
    mla("mla f16 huge", rp_mla_decode_sm90_f16, combine_f16_d512, {1, 16, 1, 1, 150, 60, 576, 512, true, true}, 1);
    mla("mla bf16", rp_mla_decode_sm90_bf16, combine_bf16_d512, {1, 1, 1, 1, 1, 1, 576, 512, false, true}, 1);
    mla_kv8("mla kv8 huge, paged 64", rp_mla_decode_sm90_kv8_bf16, combine_bf16_d512, {1, 16, 1, 1, 150, 60, 576, 512, false, true, 0, 64}, 1);
    mla_kv8("mla kv8", rp_mla_decode_sm90_kv8_f16, combine_f16_d512, {1, 1, 1, 1, 1, 1, 576, 512, true, true}, 1);
#endif
}
#endif

int main(int argc, char** argv) {
    std::string what = argc > 1 ? argv[1] : "all";
#define SECTION(NAME) if (what == "all" || what == #NAME) NAME##_section();
#if PARTS & FLASH
    SECTION(flash)
#endif
#if PARTS & FP8
    SECTION(fp8)
#endif
#if PARTS & FLASH80
    SECTION(flash80)
#endif
#if PARTS & DECODE
    SECTION(decode)
#endif
#if PARTS & MLA
    SECTION(mla)
#endif
    printf("%d failures\n", attention::failures); return attention::failures != 0;
}
