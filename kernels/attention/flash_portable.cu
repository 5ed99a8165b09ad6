// Flash attention in plain C++: f32 arithmetic, no tensor core, no inline assembly. The reference the fast kernels are checked against
// where no CPU is fast enough, and the fallback on parts that have nothing better. One source for CUDA and HIP.
//
// Tile: 256 threads own T query rows and walk the keys T at a time, T = 32 (16 once a head dim passes 128, 8 past 256, to stay in 48 KB
// of shared memory). Rows of Q and K have a stride of D + 1 floats, so that threads on neighbouring keys hit different banks. Each
// row's 256 / T threads share its softmax through shared memory and own its output columns between them.
// Limits: shared memory: a score costs two loads for one multiply-add. Expect a few TFLOP/s.
//
// Host contract. Q [B,Hq,Sq,D], K [B,Hkv,Sk,D], V [B,Hkv,Sk,DV], O [B,Hq,Sq,DV], contiguous; group = Hq / Hkv. D, DV ≤ 576.
//   lengths  B numbers of valid keys (at most Sk), or null; sequence b has L keys
//   sinks    Hq logits that join each row's denominator without a value, or null
//   pages    null, or a table [B, ⌈Sk / page⌉]: key j of sequence b lies in page pages[b][j / page] of K [pool,Hkv,page,D] and
//            V [pool,Hkv,page,DV], at j mod page; entries behind a sequence's last key are not read
//   scales   three floats that stored values of Q, K and V are to be multiplied by, or null; the first two's product is positive
//   causal   query i sees keys j ≤ i + L − Sq; window > 0 keeps the last `window` of those (it needs causal)
//   A row that sees nothing gives zeros.
//   grid (⌈Sq / T⌉, B·Hq), block 256, no dynamic shared memory
// Macros: RP_D, RP_DV (128), RP_TYPE of Q and O and RP_KV of K and V (0 f32, 1 f16, 2 bf16, 3 e4m3, 4 e4m3fnuz; O of FP8 is bf16),
// RP_SHARED_KV (1: V is the first DV columns of K), RP_NAME (rp_flash_portable), RP_TILE if T must be smaller.
#include "../common/rp.h"

#ifndef RP_D
#define RP_D 128
#endif
#ifndef RP_DV
#define RP_DV RP_D
#endif
#ifndef RP_TYPE
#define RP_TYPE 2
#endif
#ifndef RP_KV
#define RP_KV RP_TYPE
#endif
#ifndef RP_SHARED_KV
#define RP_SHARED_KV 0
#endif
#ifndef RP_NAME
#define RP_NAME rp_flash_portable
#endif
#ifndef RP_TILE
#define RP_TILE (RP_D > 256 || RP_DV > 256 ? 8 : RP_D > 128 || RP_DV > 128 ? 16 : 32)
#endif

#define RP_JOIN2(a, b) a##b
#define RP_JOIN(a, b) RP_JOIN2(a, b)
#define RP_SCOPE RP_JOIN(RP_NAME, _scope)  // one scope for each instance, so that a program may include several

namespace RP_SCOPE {

constexpr int D = RP_D, DV = RP_DV, T = RP_TILE, THREADS = 256, LANES = THREADS / T, COLUMNS = (DV + LANES - 1) / LANES;
constexpr int V_STRIDE = RP_SHARED_KV ? D : DV;  // of a row of V in memory
static_assert(D <= 576 && DV <= 576, "the tiles would not fit in shared memory");
static_assert(!RP_SHARED_KV || DV <= D, "V is part of K");

union Bits { float f; rp_u32 u; };
RP_DEVICE float from_bits(rp_u32 u) { Bits b; b.u = u; return b.f; }

// How an element lies in memory, by the number in RP_TYPE. bf16 here; f32 and the rest below.
template <int TYPE> struct Stored {
    typedef rp_u16 Element;
    RP_DEVICE float load(const Element* p) { return from_bits((rp_u32)*p << 16); }
    RP_DEVICE void store(Element* p, float x) {  // round to nearest, ties to even; a NaN stays one
        Bits b; b.f = x;
        *p = (Element)(x != x ? 0x7FC0u : (b.u + 0x7FFFu + (b.u >> 16 & 1)) >> 16);
    }
};
template <> struct Stored<0> {
    typedef float Element;
    RP_DEVICE float load(const Element* p) { return *p; }
    RP_DEVICE void store(Element* p, float x) { *p = x; }
};
template <> struct Stored<1> {
#if RP_HIP || RP_HOST
    typedef _Float16 Element;
    RP_DEVICE float load(const Element* p) { return (float)*p; }
    RP_DEVICE void store(Element* p, float x) { *p = (_Float16)x; }
#else
    typedef rp_u16 Element;  // CUDA's half needs a header that NVRTC lacks
    RP_DEVICE float load(const Element* p) { float x; asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(*p)); return x; }
    RP_DEVICE void store(Element* p, float x) { rp_u16 h; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x)); *p = h; }
#endif
};
// FP8 by moving bits: the exponent's bias is changed by an addition, and a subnormal gets a leading one and loses it again.
template <int BIAS> RP_DEVICE float from_e4m3(rp_u8 x) {
    rp_u32 magnitude = x & 0x7Fu, one = (rp_u32)(128 - BIAS) << 23;
    float f = magnitude < 8 ? from_bits(one | magnitude << 20) - from_bits(one) : from_bits((magnitude << 20) + ((rp_u32)(127 - BIAS) << 23));
    bool nan = BIAS == 7 ? magnitude == 0x7F : x == 0x80;
    return nan ? from_bits(0x7FC00000u) : x & 0x80 ? -f : f;
}
template <> struct Stored<3> { typedef rp_u8 Element; RP_DEVICE float load(const Element* p) { return from_e4m3<7>(*p); } };
template <> struct Stored<4> { typedef rp_u8 Element; RP_DEVICE float load(const Element* p) { return from_e4m3<8>(*p); } };

typedef Stored<RP_TYPE> Queries;
typedef Stored<RP_KV> Keys;
typedef Stored<(RP_TYPE >= 3 ? 2 : RP_TYPE)> Output;
typedef Queries::Element Q;
typedef Keys::Element K;
typedef Output::Element O;

struct Problem { int heads, group, queries, keys, causal, window, page; float scale; };

RP_DEVICE void run(const Q* q, const K* k, const K* v, O* o, const int* lengths, const float* sinks, const int* pages, const float* scales, Problem p) {
    constexpr int WIDE = D > DV ? D : DV, STRIDE = D + 1;
    RP_SHARED float sq[T * STRIDE], skv[T * (WIDE + 1)], ss[T * (T + 1)], tops[T], sums[T], shrinks[T];
    const int t = (int)rp_thread(), row0 = (int)rp_block() * T, head = (int)rp_block_y(), sequence = head / p.heads, heads_kv = p.heads / p.group;
    const int kv_head = head / p.group, length = lengths ? lengths[sequence] : p.keys, offset = length - p.queries;
    const int* table = pages ? pages + (rp_u64)sequence * ((p.keys + p.page - 1) / p.page) : nullptr;
    const float scale = scales ? p.scale * scales[0] * scales[1] : p.scale, value = scales ? scales[RP_SHARED_KV ? 1 : 2] : 1.f;
    // Which row of K and V holds a key.
    auto place = [&](int key) -> rp_u64 {
        return table ? ((rp_u64)table[key / p.page] * heads_kv + kv_head % heads_kv) * p.page + key % p.page : (rp_u64)kv_head * p.keys + key;
    };
    q += (rp_u64)head * p.queries * D; o += (rp_u64)head * p.queries * DV;
    for (int i = t; i < T * D; i += THREADS) { int r = i / D, d = i % D; sq[r * STRIDE + d] = row0 + r < p.queries ? Queries::load(q + (rp_u64)(row0 + r) * D + d) : 0.f; }
    const float infinity = 3.402823466e38f * 2;
    // The sink is a key whose value is zero: it is there before the first real one.
    if (t < T) { tops[t] = sinks ? sinks[head % p.heads] : -infinity; sums[t] = sinks ? 1.f : 0.f; }
    const int mine = t / LANES, lane = t % LANES;  // the row and the share of columns whose output this thread holds
    float out[COLUMNS];
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) out[c] = 0;

    int last = row0 + T < p.queries ? row0 + T : p.queries, end = length, begin = 0;
    if (p.causal && last + offset < end) end = last + offset;
    if (p.causal && p.window > 0 && row0 + offset + 1 - p.window > 0) begin = (row0 + offset + 1 - p.window) / T * T;
    for (int key0 = begin; key0 < end; key0 += T) {
        rp_sync();
#pragma unroll 2  // further, and what is on its way takes the registers of the output
        for (int i = t; i < T * D; i += THREADS) { int r = i / D, d = i % D; skv[r * STRIDE + d] = key0 + r < end ? Keys::load(k + place(key0 + r) * D + d) : 0.f; }
        rp_sync();
        for (int i = t; i < T * T; i += THREADS) {
            int r = i / T, c = i % T, key = key0 + c, sees = row0 + r + offset;
            float x = 0;
            for (int d = 0; d < D; d++) x += sq[r * STRIDE + d] * skv[c * STRIDE + d];
            bool visible = key < length && (!p.causal || (key <= sees && (p.window <= 0 || key > sees - p.window)));
            ss[r * (T + 1) + c] = visible ? x * scale : -infinity;
        }
        rp_sync();
        if (t < T) {
            float* row = ss + t * (T + 1); float top = tops[t], sum = 0;
            for (int c = 0; c < T; c++) top = row[c] > top ? row[c] : top;
            float base = top == -infinity ? 0.f : top;  // nothing seen yet: −∞ − −∞ would be NaN
            for (int c = 0; c < T; c++) { row[c] = rp_exp(row[c] - base); sum += row[c]; }
            shrinks[t] = rp_exp(tops[t] - base); sums[t] = sums[t] * shrinks[t] + sum; tops[t] = top;
        }
#pragma unroll 2
        for (int i = t; i < T * DV; i += THREADS) { int r = i / DV, d = i % DV; skv[r * DV + d] = key0 + r < end ? Keys::load(v + place(key0 + r) * V_STRIDE + d) : 0.f; }
        rp_sync();
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            int d = lane + c * LANES;
            float x = out[c] * shrinks[mine];
            if (d < DV) for (int j = 0; j < T; j++) x += ss[mine * (T + 1) + j] * skv[j * DV + d];
            out[c] = x;
        }
    }
    rp_sync();
    if (row0 + mine >= p.queries) return;
    float inverse = sums[mine] > 0 ? value / sums[mine] : 0;
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) { int d = lane + c * LANES; if (d < DV) Output::store(o + (rp_u64)(row0 + mine) * DV + d, out[c] * inverse); }
}

}  // namespace RP_SCOPE

RP_KERNEL(256) RP_NAME(const RP_SCOPE::Q* q, const RP_SCOPE::K* k, const RP_SCOPE::K* v, RP_SCOPE::O* o, const int* lengths, const float* sinks,
    const int* pages, const float* scales, int heads, int group, int queries, int keys, int causal, int window, int page, float scale) {
    RP_SCOPE::run(q, k, v, o, lengths, sinks, pages, scales, {heads, group, queries, keys, causal, window, page, scale});
}
#undef RP_JOIN2
#undef RP_JOIN
#undef RP_SCOPE
