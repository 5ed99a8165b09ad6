// Attention decode with split-KV: a few new queries (Sq = 1..8) against a long KV cache, bf16 or f16, f32 inside. sm_80 and later.
//
// Tile: the queries of one KV head (group · Sq rows, contiguous in Q) are packed into the 16 rows of mma.sync m16n8k16, so that each
// byte of K and V is read once for the whole group. A block takes one KV head, 16 rows and one split of the keys; its four warps walk
// the split 16 keys at a time, each with its own cp.async ring, maximum, sum and output, and meet only at the end: no barrier
// stands in the loop. rp_decode_combine_* joins the splits.
// Layout: a row of K or V lies in shared memory as D/8 chunks of 16 bytes, chunk c of row r at c ^ (r mod 8), so that ldmatrix and
// cp.async meet no bank conflict. K is read as stored, V transposed by ldmatrix.
// Limits: HBM. At 16 rows a tile costs the tensor core a tenth of the time its bytes take to arrive; three stages in eight warps
// keep 128 KB in flight an SM.
//
// Host contract. Q [B,Hq,Sq,D], K and V [B,Hkv,Sk,D], O like Q, contiguous, 16-byte aligned; rows = Hq / Hkv · Sq; scale > 0.
// Causal at the end: query i of a sequence of length L sees keys j ≤ i + L − Sq. A row that sees no key gives zeros.
//   lengths      B numbers of valid keys, each at most Sk, or null for Sk
//   partial      f32 [B·Hkv·rows, splits, D], and stats f32x2 (maximum in log2 units, sum) [B·Hkv·rows, splits]; unused if splits is 1
//   rp_decode_*  grid (splits, ⌈rows / 16⌉, B·Hkv), block 128, dynamic shared memory 3 · 4 · 2 · 16 · D · 2 bytes (96 KB at D = 128)
//   rp_decode_combine_*  only if splits > 1; grid ⌈B·Hkv·rows / 4⌉, block 128; total = B·Hkv·rows
// Splits: enough that B·Hkv·splits fills the device a few times (2 blocks an SM), each split at least 256 keys or so.
// Entries rp_decode_{bf16,f16}_d{64,128,256} and rp_decode_combine_{bf16,f16}_d{64,128,256,512}.

#include "../common/nvidia.h"

namespace decode {

constexpr int WARPS = 4, KEYS = 16, ROWS = 16, STAGES = 3;

struct Problem { int rows, queries, heads_kv, keys, splits; float scale; };

template <int D> struct Tile {
    static constexpr int CHUNKS = D / 8, BYTES = KEYS * D * 2;
    RP_DEVICE u32 at(u32 base, int key, int chunk) { return base + key * (D * 2) + ((chunk ^ (key & 7)) << 4); }
};

// Issues the copies of 16 keys of K and V; rows at or past `end` become zeros, so that 0 · V stays 0.
template <int D> RP_DEVICE void fetch(u32 stage, const u16* k, const u16* v, int first, int end, int lane) {
    using T = Tile<D>;
#pragma unroll
    for (int i = lane; i < KEYS * T::CHUNKS; i += 32) {
        int key = i / T::CHUNKS, chunk = i % T::CHUNKS;
        bool valid = first + key < end;
        u64 at = valid ? (u64)(first + key) * D + chunk * 8 : 0;
        copy_async(T::at(stage, key, chunk), k + at, valid);
        copy_async(T::at(stage + T::BYTES, key, chunk), v + at, valid);
    }
}

template <int D, bool F16>
RP_DEVICE void run(const u16* q, const u16* k, const u16* v, u16* o, float* partial, float2* stats, const int* lengths, Problem p) {
    RP_DYNAMIC_SMEM(smem, 128);
    using T = Tile<D>;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, split = blockIdx.x, row0 = blockIdx.y * ROWS, head = blockIdx.z;
    const int length = lengths ? min(lengths[head / p.heads_kv], p.keys) : p.keys;
    const int span = ((length + p.splits - 1) / p.splits + 63) / 64 * 64, begin = min(length, split * span), end = min(length, begin + span);
    const u32 ring = smem_address(smem) + warp * STAGES * 2 * T::BYTES;
    q += (u64)head * p.rows * D; k += (u64)head * p.keys * D; v += (u64)head * p.keys * D;

    const int tiles = (end - begin + KEYS - 1) / KEYS, mine = max(0, (tiles - warp + WARPS - 1) / WARPS);
    auto fetch_tile = [&](int t) {
        if (t < mine) fetch<D>(ring + t % STAGES * 2 * T::BYTES, k, v, begin + (t * WARPS + warp) * KEYS, end, lane);
        copy_commit();
    };
    for (int t = 0; t < STAGES - 1; t++) fetch_tile(t);

    // Q as the A fragments of every k step: rows r and r + 8, columns 2c, 2c + 1 and eight further.
    u32 query[D / 16][4];
    const int r0 = row0 + lane / 4, r1 = r0 + 8;
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
        int c = i * 16 + lane % 4 * 2;
        query[i][0] = r0 < p.rows ? *(const u32*)(q + (u64)r0 * D + c) : 0; query[i][2] = r0 < p.rows ? *(const u32*)(q + (u64)r0 * D + c + 8) : 0;
        query[i][1] = r1 < p.rows ? *(const u32*)(q + (u64)r1 * D + c) : 0; query[i][3] = r1 < p.rows ? *(const u32*)(q + (u64)r1 * D + c + 8) : 0;
    }
    float out[D / 8][4] = {}, top[2] = {minus_infinity(), minus_infinity()}, sum[2] = {};
    const float scale = p.scale * 1.4426950408889634f;
    const int sees0 = min(end, length - p.queries + r0 % p.queries + 1), sees1 = min(end, length - p.queries + r1 % p.queries + 1);

    for (int t = 0; t < mine; t++) {
        copy_wait<STAGES - 2>();
        __syncwarp();  // every lane's copies of this tile have landed, and every lane has read the tile before it
        fetch_tile(t + STAGES - 1);
        const u32 stage = ring + t % STAGES * 2 * T::BYTES;
        float s[2][4] = {};
#pragma unroll
        for (int i = 0; i < D / 16; i++) {
            u32 b[4];
            load_matrices(b, T::at(stage, lane / 16 * 8 + lane % 8, 2 * i + lane / 8 % 2));
            mma<F16>(s[0], query[i], b[0], b[1]);
            mma<F16>(s[1], query[i], b[2], b[3]);
        }
        const int first = begin + (t * WARPS + warp) * KEYS + lane % 4 * 2;
        float shrink[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int sees = r ? sees1 : sees0;
            float m = top[r];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float& x = s[j / 2][2 * r + j % 2];
                x = first + j / 2 * 8 + j % 2 < sees ? x * scale : minus_infinity();
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
        const u32 weights[4] = {pack<F16>(s[0][0], s[0][1]), pack<F16>(s[0][2], s[0][3]), pack<F16>(s[1][0], s[1][1]), pack<F16>(s[1][2], s[1][3])};
#pragma unroll
        for (int i = 0; i < D / 16; i++) {
            u32 b[4];
            load_matrices_transposed(b, T::at(stage + T::BYTES, lane % 16, 2 * i + lane / 16));
#pragma unroll
            for (int j = 0; j < 2; j++) {
                float(&d)[4] = out[2 * i + j];
                d[0] *= shrink[0]; d[1] *= shrink[0]; d[2] *= shrink[1]; d[3] *= shrink[1];
                mma<F16>(d, weights, b[2 * j], b[2 * j + 1]);
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
        const float factor = m == minus_infinity() ? 0.f : exp2_approx(top[r] - m);
#pragma unroll
        for (int i = 0; i < D / 8; i++) *(float2*)(outs + (warp * ROWS + row) * (D + 8) + i * 8 + lane % 4 * 2) = make_float2(out[i][2 * r] * factor, out[i][2 * r + 1] * factor);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < ROWS * D / 2; i += 32 * WARPS) {
        const int row = i / (D / 2), c = i % (D / 2) * 2;
        if (row0 + row >= p.rows) break;
        float m = tops[row], total = 0, x = 0, y = 0;
        for (int w = 1; w < WARPS; w++) m = fmaxf(m, tops[w * ROWS + row]);
        for (int w = 0; w < WARPS; w++) {
            if (tops[w * ROWS + row] > minus_infinity()) total += sums[w * ROWS + row] * exp2_approx(tops[w * ROWS + row] - m);
            x += outs[(w * ROWS + row) * (D + 8) + c]; y += outs[(w * ROWS + row) * (D + 8) + c + 1];
        }
        const u64 at = (u64)head * p.rows + row0 + row;
        if (p.splits == 1) {
            const float inverse = total > 0 ? 1 / total : 0;
            *(u32*)(o + at * D + c) = pack<F16>(x * inverse, y * inverse);
        } else {
            *(float2*)(partial + (at * p.splits + split) * D + c) = make_float2(x, y);
            if (c == 0) stats[at * p.splits + split] = make_float2(m, total);
        }
    }
}

// One warp a row: the splits' outputs, weighted by 2^(their maximum − the common one).
template <int D, bool F16> RP_DEVICE void combine(const float* partial, const float2* stats, u16* o, int total, int splits) {
    const int lane = threadIdx.x % 32, row = blockIdx.x * 4 + threadIdx.x / 32;
    if (row >= total) return;
    stats += (u64)row * splits; partial += (u64)row * splits * D;
    float m = minus_infinity();
    for (int s = lane; s < splits; s += 32) m = fmaxf(m, stats[s].x);
#pragma unroll
    for (int i = 16; i; i /= 2) m = fmaxf(m, __shfl_xor_sync(~0u, m, i));
    float sum = 0, out[D / 32] = {};
    for (int s = 0; s < splits; s++) {
        const float2 x = stats[s];
        if (!(x.y > 0)) continue;
        const float weight = exp2_approx(x.x - m);
        sum += x.y * weight;
#pragma unroll
        for (int i = 0; i < D / 64; i++) {
            const float2 y = *(const float2*)(partial + (u64)s * D + i * 64 + lane * 2);
            out[2 * i] += y.x * weight; out[2 * i + 1] += y.y * weight;
        }
    }
    const float inverse = sum > 0 ? 1 / sum : 0;
#pragma unroll
    for (int i = 0; i < D / 64; i++) *(u32*)(o + (u64)row * D + i * 64 + lane * 2) = pack<F16>(out[2 * i] * inverse, out[2 * i + 1] * inverse);
}

}  // namespace decode

#define RP_ENTRY(SUFFIX, D, F16)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(128, 2) rp_decode_##SUFFIX(const u16* q, const u16* k, const u16* v, u16* o, float* partial, \
        float2* stats, const int* lengths, int rows, int queries, int heads_kv, int keys, int splits, float scale) {               \
        decode::run<D, F16>(q, k, v, o, partial, stats, lengths, {rows, queries, heads_kv, keys, splits, scale});                  \
    }                                                                                                                              \
    extern "C" __global__ void __launch_bounds__(128) rp_decode_combine_##SUFFIX(const float* partial, const float2* stats, u16* o, int total, int splits) { \
        decode::combine<D, F16>(partial, stats, o, total, splits);                                                                 \
    }
RP_ENTRY(bf16_d64, 64, false)
RP_ENTRY(bf16_d128, 128, false)
RP_ENTRY(bf16_d256, 256, false)
RP_ENTRY(f16_d64, 64, true)
RP_ENTRY(f16_d128, 128, true)
RP_ENTRY(f16_d256, 256, true)
#undef RP_ENTRY
#define RP_ENTRY(SUFFIX, F16) /* joins the splits of mla_decode_sm90.cu, whose rows are as wide as the latent */                   \
    extern "C" __global__ void __launch_bounds__(128) rp_decode_combine_##SUFFIX(const float* partial, const float2* stats, u16* o, int total, int splits) { \
        decode::combine<512, F16>(partial, stats, o, total, splits);                                                               \
    }
RP_ENTRY(bf16_d512, false)
RP_ENTRY(f16_d512, true)
#undef RP_ENTRY
