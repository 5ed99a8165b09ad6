// Attention decode with split-KV: a few new queries (Sq = 1..8) against a long KV cache, bf16 or f16, f32 inside. sm_80 and later.
//
// Tile: the queries of one KV head (group · Sq rows, contiguous in Q) are packed into the 16 rows of mma.sync m16n8k16, so that each
// byte of K and V is read once for the whole group. A block takes one KV head, 16 rows and one split of the keys; its four warps walk
// the split 16 keys at a time, each with its own cp.async ring, maximum, sum and output, and meet only at the end: no barrier
// stands in the loop. combine.cu joins the splits.
// Layout: a row of K or V lies in shared memory as chunks of 16 bytes, chunk c of row r at c ^ (r mod 8), so that ldmatrix and
// cp.async meet no bank conflict. K is read as stored, V transposed by ldmatrix.
// FP8 K and V: a byte's seven low bits, put where a half's exponent and mantissa meet, are the number times 2⁻⁸, exactly; the products are
// f16's, and 2⁸ joins the scales. ldmatrix moves pairs of bytes, so that even and odd columns come apart: of K they are paired with Q's
// in the same order, of V they are tiles of their own.
// Limits: HBM. At 16 rows a tile costs the tensor core a tenth of the time its bytes take to arrive; three stages (six of FP8) in
// eight warps keep 128 KB in flight an SM. With FP8 the instructions that widen it come near.
//
// Host contract. Q [B,Hq,Sq,D], K and V [B,Hkv,Sk,D], O like Q, contiguous, 16-byte aligned; rows = Hq / Hkv · Sq; scale > 0.
// Causal at the end: query i of a sequence of length L sees keys j ≤ i + L − Sq. A row that sees no key gives zeros.
//   lengths      B numbers of valid keys, each at most Sk, or null for Sk
//   partial      f32 [B·Hkv·rows, splits, D], and stats f32x2 (maximum in log2 units, sum) [B·Hkv·rows, splits]; unused if splits is 1
//   grid (splits, ⌈rows / 16⌉, B·Hkv), block 128, dynamic shared memory 768 · D bytes (96 KB at D = 128)
// Splits: enough that B·Hkv·splits fills the device a few times (2 blocks an SM), each split at least 256 keys or so.
// Entries rp_decode_{bf16,f16}_d{64,128,256}; with RP_GENERAL=1 the one entry rp_decode_general, for what serving asks besides:
//   table        i32 [B, ⌈Sk / page⌉] of pages, K and V [pool, Hkv, page, D], or null; page = 2^page_shift ≥ 16
//   sinks        Hq logits that join a row's sum without a value, or null; here only if splits is 1
//   scales       f32 [3], what stored Q, K and V are multiplied by, or null
//   window       with causal: the last so many keys that a query sees; 0 for all. causal 0: every query sees all keys.
// With RP_WARPS=2 half of it: grid as above, block 64, 384 · D bytes, for heads of 256 on chips whose blocks have no 192 KB.
// Macros: RP_WARPS 4 | 2; RP_GENERAL 0 | 1; with it RP_D 64 | 128 | 256, RP_F16 0 | 1, RP_KV8 0 | 1: K and V are e4m3 and Q, clamped to ± 65504, becomes f16.

#include "../common/nvidia.h"

#ifndef RP_GENERAL
#define RP_GENERAL 0
#endif
#ifndef RP_WARPS
#define RP_WARPS 4
#endif
#ifndef RP_DECODE
#define RP_DECODE decode  // a program that includes this file several times names each
#endif

namespace RP_DECODE {

constexpr int WARPS = RP_WARPS, KEYS = 16, ROWS = 16;

struct Problem { int rows, queries, heads_kv, keys, splits; float scale; };
// What only RP_GENERAL knows.
struct Cache { const int* table; const float *sinks, *scales; int page_shift, window, causal; };

template <int D, bool KV8> struct Tile {
    static constexpr int WIDTH = D * (KV8 ? 1 : 2), CHUNKS = WIDTH / 16, BYTES = KEYS * WIDTH, STAGES = KV8 ? 6 : 3;
    // With four chunks a row, two rows share the banks.
    RP_DEVICE u32 at(u32 base, int key, int chunk) { return base + key * WIDTH + ((chunk ^ (CHUNKS == 4 ? key >> 1 & 3 : key & 7)) << 4); }
};

// Issues the copies of 16 keys of K and V, which lie from `origin` on; rows at or past `end` become zeros, so that 0 · V stays 0.
template <int D, bool KV8> RP_DEVICE void fetch(u32 stage, const u16* k, const u16* v, int origin, int first, int end, int lane) {
    using T = Tile<D, KV8>;
#pragma unroll
    for (int i = lane; i < KEYS * T::CHUNKS; i += 32) {
        int key = i / T::CHUNKS, chunk = i % T::CHUNKS;
        bool valid = first + key < end;
        u64 at = valid ? (u64)(origin + key) * (T::WIDTH / 2) + chunk * 8 : 0;
        copy_async(T::at(stage, key, chunk), k + at, valid);
        copy_async(T::at(stage + T::BYTES, key, chunk), v + at, valid);
    }
}

// Of four e4m3 the two of even or of odd place, as halves times 2⁻⁸.
template <int ODD> RP_DEVICE u32 widen8(u32 x) {
    if (!ODD) x <<= 8;
    return (x >> 1 & 0x3F803F80u) | (x & 0x80008000u);
}
// Two numbers of Q as halves.
template <bool F16> RP_DEVICE u32 as_half(u32 x) {
    if (F16) return x;
    const float low = fminf(fmaxf(float_of(x << 16), -65504.f), 65504.f), high = fminf(fmaxf(float_of(x & 0xFFFF0000u), -65504.f), 65504.f);
    return pack<true>(low, high);
}

template <int D, bool F16, bool GENERAL = false, bool KV8 = false>
RP_DEVICE void run(const u16* q, const u16* k, const u16* v, u16* o, float* partial, float2* stats, const int* lengths, Problem p, Cache c = {}) {
    RP_DYNAMIC_SMEM(smem, 128);
    using T = Tile<D, KV8>;
    constexpr int STAGES = T::STAGES;
    constexpr bool P16 = F16 || KV8;  // P and V are f16
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, split = blockIdx.x, row0 = blockIdx.y * ROWS, head = blockIdx.z;
    const int length = lengths ? min(lengths[head / p.heads_kv], p.keys) : p.keys;
    const int start = GENERAL && c.window ? max(0, length - p.queries + 1 - c.window) / 64 * 64 : 0;  // keys before it nobody sees
    const int span = ((length - start + p.splits - 1) / p.splits + 63) / 64 * 64, begin = min(length, start + split * span), end = min(length, begin + span);
    const u32 ring = smem_address(smem) + warp * STAGES * 2 * T::BYTES;
    q += (u64)head * p.rows * D;
    if (!GENERAL || !c.table) { k += (u64)head * p.keys * (T::WIDTH / 2); v += (u64)head * p.keys * (T::WIDTH / 2); }

    const int tiles = (end - begin + KEYS - 1) / KEYS, mine = max(0, (tiles - warp + WARPS - 1) / WARPS);
    // A tile lies in one page, whose number was asked for a tile ahead.
    auto page_of = [&](int t) { return c.table && t < mine ? c.table[(u64)(head / p.heads_kv) * ((p.keys - 1 >> c.page_shift) + 1) + (begin + (t * WARPS + warp) * KEYS >> c.page_shift)] : 0; };
    int page = 0;
    if (GENERAL) page = page_of(0);
    auto fetch_tile = [&](int t) {
        const int first = begin + (t * WARPS + warp) * KEYS;
        int origin = first;
        if (GENERAL && c.table) origin = (page * p.heads_kv + head % p.heads_kv << c.page_shift) + (first & (1 << c.page_shift) - 1);
        if (t < mine) fetch<D, KV8>(ring + t % STAGES * 2 * T::BYTES, k, v, origin, first, end, lane);
        copy_commit();
        if (GENERAL) page = page_of(t + 1);
    };
    for (int t = 0; t < STAGES - 1; t++) fetch_tile(t);

    // Q as the A fragments of every k step: rows r and r + 8, columns 2c, 2c + 1 and eight further.
    u32 query[D / 16][4];
    const int r0 = row0 + lane / 4, r1 = r0 + 8;
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
        if (KV8) {  // columns 4c, 4c + 2 and 4c + 1, 4c + 3, as widen8 finds K's
            const u32 *x = (const u32*)(q + (u64)r0 * D + i * 16 + lane % 4 * 4), *y = (const u32*)(q + (u64)r1 * D + i * 16 + lane % 4 * 4);
            const u32 x0 = r0 < p.rows ? as_half<F16>(x[0]) : 0, x1 = r0 < p.rows ? as_half<F16>(x[1]) : 0, y0 = r1 < p.rows ? as_half<F16>(y[0]) : 0, y1 = r1 < p.rows ? as_half<F16>(y[1]) : 0;
            query[i][0] = (x0 & 0xFFFFu) | x1 << 16; query[i][2] = x0 >> 16 | (x1 & 0xFFFF0000u);
            query[i][1] = (y0 & 0xFFFFu) | y1 << 16; query[i][3] = y0 >> 16 | (y1 & 0xFFFF0000u);
            continue;
        }
        int c = i * 16 + lane % 4 * 2;
        query[i][0] = r0 < p.rows ? *(const u32*)(q + (u64)r0 * D + c) : 0; query[i][2] = r0 < p.rows ? *(const u32*)(q + (u64)r0 * D + c + 8) : 0;
        query[i][1] = r1 < p.rows ? *(const u32*)(q + (u64)r1 * D + c) : 0; query[i][3] = r1 < p.rows ? *(const u32*)(q + (u64)r1 * D + c + 8) : 0;
    }
    float out[D / 8][4] = {}, top[2] = {minus_infinity(), minus_infinity()}, sum[2] = {};
    float scale = p.scale * 1.4426950408889634f;
    if (GENERAL && c.scales) scale *= c.scales[0] * c.scales[1];
    if (KV8) scale *= 256;
    const int last0 = !GENERAL || c.causal ? length - p.queries + r0 % p.queries + 1 : length, last1 = !GENERAL || c.causal ? length - p.queries + r1 % p.queries + 1 : length;
    const int sees0 = min(end, last0), sees1 = min(end, last1);

    for (int t = 0; t < mine; t++) {
        copy_wait<STAGES - 2>();
        __syncwarp();  // every lane's copies of this tile have landed, and every lane has read the tile before it
        fetch_tile(t + STAGES - 1);
        const u32 stage = ring + t % STAGES * 2 * T::BYTES;
        float s[2][4] = {};
#pragma unroll
        for (int i = 0; i < T::CHUNKS / 2; i++) {
            u32 b[4];
            load_matrices(b, T::at(stage, lane / 16 * 8 + lane % 8, 2 * i + lane / 8 % 2));
            if constexpr (KV8) {  // of eight keys sixteen columns a matrix
#pragma unroll
                for (int j = 0; j < 4; j++) mma<true>(s[j / 2], query[2 * i + j % 2], widen8<0>(b[j]), widen8<1>(b[j]));
            } else {
                mma<F16>(s[0], query[i], b[0], b[1]);
                mma<F16>(s[1], query[i], b[2], b[3]);
            }
        }
        const int first = begin + (t * WARPS + warp) * KEYS + lane % 4 * 2;
        float shrink[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int sees = r ? sees1 : sees0, from = GENERAL && c.window ? (r ? last1 : last0) - c.window : 0;
            float m = top[r];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float& x = s[j / 2][2 * r + j % 2];
                x = first + j / 2 * 8 + j % 2 < sees && (!GENERAL || first + j / 2 * 8 + j % 2 >= from) ? x * scale : minus_infinity();
                m = fmaxf(m, x);
            }
            m = fmaxf(m, __shfl_xor_sync(~0u, m, 1));
            m = fmaxf(m, __shfl_xor_sync(~0u, m, 2));
            const float base = m == minus_infinity() ? 0.f : m;  // no key yet: −∞ − −∞ would be NaN
            shrink[r] = exp2_approx(top[r] - base);
            top[r] = m;
            sum[r] *= shrink[r];
#pragma unroll
            for (int j = 0; j < 4; j++) { float& x = s[j / 2][2 * r + j % 2]; x = exp2_approx(x - base); sum[r] += x; }
        }
        const u32 weights[4] = {pack<P16>(s[0][0], s[0][1]), pack<P16>(s[0][2], s[0][3]), pack<P16>(s[1][0], s[1][1]), pack<P16>(s[1][2], s[1][3])};
#pragma unroll
        for (int i = 0; i < T::CHUNKS / 2; i++) {
            u32 b[4];
            load_matrices_transposed(b, T::at(stage + T::BYTES, lane % 16, 2 * i + lane / 16));
#pragma unroll
            for (int j = 0; j < (KV8 ? 4 : 2); j++) {  // of FP8 even and odd columns of a chunk in turn
                float(&d)[4] = out[KV8 ? 4 * i + j : 2 * i + j];
                d[0] *= shrink[0]; d[1] *= shrink[0]; d[2] *= shrink[1]; d[3] *= shrink[1];
                if constexpr (KV8) {
                    const u32 *x = b + j / 2 * 2;
                    mma<true>(d, weights, j % 2 ? widen8<1>(x[0]) : widen8<0>(x[0]), j % 2 ? widen8<1>(x[1]) : widen8<0>(x[1]));
                } else mma<F16>(d, weights, b[2 * j], b[2 * j + 1]);
            }
        }
    }

    // The four warps meet: a common maximum, then outputs and sums in that scale, added through shared memory.
    copy_wait<0>();
    __syncthreads();
    float* tops = (float*)smem; float* sums = tops + WARPS * ROWS; float* outs = sums + WARPS * ROWS;  // the ring is free by now
#pragma unroll
    for (int r = 0; r < 2; r++) {
        sum[r] += __shfl_xor_sync(~0u, sum[r], 1); sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
        if (lane % 4 == 0) { tops[warp * ROWS + lane / 4 + 8 * r] = top[r]; sums[warp * ROWS + lane / 4 + 8 * r] = sum[r]; }
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int row = lane / 4 + 8 * r;
        float m = tops[row];
        for (int w = 1; w < WARPS; w++) m = fmaxf(m, tops[w * ROWS + row]);
        float factor = m == minus_infinity() ? 0.f : exp2_approx(top[r] - m);
        if (GENERAL && c.scales) factor *= c.scales[2];
        if (KV8) factor *= 256;
#pragma unroll
        for (int i = 0; i < D / 8; i++) if (KV8) {
            float* to = outs + (warp * ROWS + row) * (D + 8) + i / 2 * 16 + lane % 4 * 4 + i % 2;
            to[0] = out[i][2 * r] * factor; to[2] = out[i][2 * r + 1] * factor;
        } else *(float2*)(outs + (warp * ROWS + row) * (D + 8) + i * 8 + lane % 4 * 2) = make_float2(out[i][2 * r] * factor, out[i][2 * r + 1] * factor);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < ROWS * D / 2; i += 32 * WARPS) {
        const int row = i / (D / 2), column = i % (D / 2) * 2;
        if (row0 + row >= p.rows) break;
        float m = tops[row], total = 0, x = 0, y = 0;
        for (int w = 1; w < WARPS; w++) m = fmaxf(m, tops[w * ROWS + row]);
        for (int w = 0; w < WARPS; w++) {
            if (tops[w * ROWS + row] > minus_infinity()) total += sums[w * ROWS + row] * exp2_approx(tops[w * ROWS + row] - m);
            x += outs[(w * ROWS + row) * (D + 8) + column]; y += outs[(w * ROWS + row) * (D + 8) + column + 1];
        }
        const u64 at = (u64)head * p.rows + row0 + row;
        if (p.splits == 1) {
            float factor = 1;
            if (GENERAL && c.sinks) {
                const float sink = c.sinks[head % p.heads_kv * (p.rows / p.queries) + (row0 + row) / p.queries] * 1.4426950408889634f, both = fmaxf(m, sink);
                factor = exp2_approx(m - both); total = total * factor + exp2_approx(sink - both);
            }
            const float inverse = total > 0 ? factor / total : 0;
            *(u32*)(o + at * D + column) = pack<F16>(x * inverse, y * inverse);
        } else {
            *(float2*)(partial + (at * p.splits + split) * D + column) = make_float2(x, y);
            if (column == 0) stats[at * p.splits + split] = make_float2(m, total);
        }
    }
}

}  // namespace RP_DECODE

#if RP_GENERAL
#ifndef RP_NAME
#define RP_NAME rp_decode_general
#endif
extern "C" __global__ void __launch_bounds__(32 * RP_WARPS, 2) RP_NAME(const u16* q, const u16* k, const u16* v, u16* o, float* partial, float2* stats, const int* lengths, const int* table,
    const float* sinks, const float* scales, int rows, int queries, int heads_kv, int keys, int splits, int page_shift, int window, int causal, float scale) {
    RP_DECODE::run<RP_D, RP_F16, true, RP_KV8>(q, k, v, o, partial, stats, lengths, {rows, queries, heads_kv, keys, splits, scale}, {table, sinks, scales, page_shift, window, causal});
}
#undef RP_NAME
#else
#define RP_ENTRY(SUFFIX, D, F16)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(32 * RP_WARPS, 2) rp_decode_##SUFFIX(const u16* q, const u16* k, const u16* v, u16* o, float* partial, \
        float2* stats, const int* lengths, int rows, int queries, int heads_kv, int keys, int splits, float scale) {               \
        RP_DECODE::run<D, F16>(q, k, v, o, partial, stats, lengths, {rows, queries, heads_kv, keys, splits, scale});               \
    }
RP_ENTRY(bf16_d64, 64, false)
RP_ENTRY(bf16_d128, 128, false)
RP_ENTRY(bf16_d256, 256, false)
RP_ENTRY(f16_d64, 64, true)
RP_ENTRY(f16_d128, 128, true)
RP_ENTRY(f16_d256, 256, true)
#undef RP_ENTRY
#endif
#undef RP_DECODE
#undef RP_GENERAL
#undef RP_D
#undef RP_F16
#undef RP_KV8
