// Forward flash attention with mma.sync, for sm_80 and whatever later part has nothing better: bf16 or f16 in and out, f32 inside.
//
// Tile: 128 query rows, 32 for each of four warps, against 32 keys at a time (64 at D = 64). A warp's 32 rows use each fragment of K and V twice, which
// halves what ldmatrix must bring; with 16 rows shared memory would be as busy as the tensor core.
// Layout: a row lies in shared memory as D/8 chunks of 16 bytes, chunk c of row r at c ^ (r mod 8): no bank conflict for cp.async or
// ldmatrix. Q stays in shared memory and is read again for each tile, or O, S and Q would not fit in 255 registers.
// Overlap: V arrives under Q·Kᵀ, the next K under the softmax and P·V; two blocks an SM cover each other's barriers.
// Limits: the tensor core on sm_80; on sm_90 mma.sync reaches about 60 % of what wgmma does.
//
// Host contract. Q [B,Hq,Sq,D], K and V [B,Hkv,Sk,D], O like Q, contiguous, 16-byte aligned; group = Hq / Hkv; scale > 0.
// Causal is aligned at the end: query i sees keys j ≤ i + Sk − Sq. A row that sees no key gives zeros.
//   grid (⌈Sq / 128⌉, B·Hq), block 128, dynamic shared memory 49152 bytes at D = 128, 32768 at D = 64
// Entries rp_flash_sm80_{bf16,f16}_d{64,128}_{full,causal}. With RP_GENERAL=1 the one entry rp_flash_sm80 for other head dims and what
// serving asks besides:
//   D 64, 96, 128, 192 or 256, V and O of DV ≤ 128 columns or 256. Where a row is no power of two, or long, it lies in slabs of 64 columns. With DV of
//   256 a warp has 16 rows: grid ⌈Sq / 64⌉. Dynamic shared memory 2 · (rows · D₆₄ + keys · (D₆₄ + DV₆₄)) bytes, D₆₄ a multiple of 64, keys 32 (64 at D = 64)
//   lengths   B numbers of valid keys, at most Sk, or null; heads_q = Hq
//   table     pages i32 [B, ⌈Sk / page⌉] of K [pool,Hkv,page,D] and V [pool,Hkv,page,DV], page = 2^page_shift, or null
//   sinks     Hq logits that join a row's sum without a value, or null
//   window    with RP_CAUSAL: the last so many keys that a query sees, or 0 for all; blocks that nobody sees are skipped
// Macros: RP_GENERAL 0 | 1; with it RP_D, RP_DV, RP_F16 0 | 1, RP_CAUSAL 0 | 1.

#include "../common/nvidia.h"

#ifndef RP_GENERAL
#define RP_GENERAL 0
#endif
// Where a row of 128 columns lies in slabs, too: whole, it spills 16 bytes in what the compiler makes for sm_100 and sm_103.
#ifndef RP_SLABS
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ / 100 == 10
#define RP_SLABS 1
#else
#define RP_SLABS 0
#endif
#endif
#ifndef RP_FLASH
#define RP_FLASH flash_sm80  // a program that includes this file several times names each
#endif

namespace RP_FLASH {

constexpr int WARPS = 4;

struct Problem { int group, queries, keys; float scale; };
// What only RP_GENERAL knows.
struct Extra { const int *lengths, *table; const float* sinks; int heads_q, page_shift, window; };

template <int D, int DV, bool F16, bool GENERAL = false> struct Kernel {
    static constexpr int KEYS = D > 64 ? 32 : 64;  // more at D = 128 spills: O alone takes 128 registers
    static constexpr int TILES = DV > 128 ? 1 : 2, ROWS = WARPS * TILES * 16;
    static constexpr bool SLABS = D != DV || (D != 64 && (RP_SLABS || D != 128));
    static constexpr int WIDTH = SLABS ? 64 : D, QK_SLABS = (D + 63) / 64, V_SLABS = (DV + 63) / 64;  // columns of a row; slabs, if there are any

    RP_DEVICE u32 at(u32 base, int row, int chunk) { return base + row * (WIDTH * 2) + ((chunk ^ (row & 7)) << 4); }
    // From a lane's address of one fragment to that `i` times 16 columns and `j` times 16 rows further, in a tile of COUNT rows.
    template <int COUNT> RP_DEVICE u32 on(u32 address, int i, int j) {
        return SLABS ? (address ^ i % 4 * 32) + i / 4 * COUNT * 128 + j * 16 * 128 : (address ^ i * 32) + j * 16 * D * 2;
    }
    // Rows at or past `end` become zeros, so that 0 · V stays 0.
    template <int COUNT, int COLUMNS> RP_DEVICE void fetch(u32 base, const u16* p, int first, int end) {
        // A thread keeps its chunk and takes every STEP-th row, so that rows differ by a constant in both memories.
        constexpr int STEP = WARPS * 32 * 8 / WIDTH;
        const int row = threadIdx.x / (WIDTH / 8), chunk = threadIdx.x % (WIDTH / 8);
        const u16* from = p + (u64)(first + row) * COLUMNS + chunk * 8;
        base = at(base, row, chunk);
        static_assert(STEP % 8 == 0, "the swizzle must be the same for all rows of a thread");
#pragma unroll
        for (int slab = 0; slab < (SLABS ? (COLUMNS + 63) / 64 : 1); slab++)
#pragma unroll
            for (int i = 0; i < COUNT / STEP; i++)
                if (COLUMNS % 64 == 0 || slab * 64 + chunk * 8 < COLUMNS) copy_async(base + slab * COUNT * 128 + i * STEP * WIDTH * 2, from + slab * 64 + i * STEP * COLUMNS, first + row + i * STEP < end);
        copy_commit();
    }
    // The same of keys, which may lie in pages.
    template <int COLUMNS> RP_DEVICE void fetch_keys(u32 base, const u16* p, int first, int end, const Keys& keys) {
        if (!GENERAL || !keys.table) return fetch<KEYS, COLUMNS>(base, p, first, end);
        constexpr int STEP = WARPS * 32 * 8 / WIDTH;
        const int row = threadIdx.x / (WIDTH / 8), chunk = threadIdx.x % (WIDTH / 8);
        base = at(base, row, chunk);
#pragma unroll 1
        for (int i = 0; i < KEYS; i += STEP) {
            const int key = first + row + i;
            const u16* from = p + (u64)(u32)keys.row(min(key, end - 1)) * COLUMNS + chunk * 8;
#pragma unroll
            for (int slab = 0; slab < (SLABS ? (COLUMNS + 63) / 64 : 1); slab++)
                if (COLUMNS % 64 == 0 || slab * 64 + chunk * 8 < COLUMNS) copy_async(base + slab * KEYS * 128 + i * WIDTH * 2, from + slab * 64, key < end);
        }
        copy_commit();
    }

    struct State { float o[TILES][DV / 8][4]; float top[TILES][2], sum[TILES][2]; };

    // A lane's address of one fragment gives all others: 16 columns on flips bits of the chunk, 16 rows on adds. One register each.
    RP_DEVICE void scores(float (&s)[TILES][KEYS / 8][4], u32 q, u32 k, int warp, int lane) {
        q = at(q, warp * TILES * 16 + lane % 16, lane / 16); k = at(k, lane / 16 * 8 + lane % 8, lane / 8 % 2);
#pragma unroll
        for (int t = 0; t < TILES; t++)
#pragma unroll
            for (int j = 0; j < KEYS / 8; j++) s[t][j][0] = s[t][j][1] = s[t][j][2] = s[t][j][3] = 0;
#pragma unroll
        for (int i = 0; i < D / 16; i++) {
            u32 a[TILES][4];
#pragma unroll
            for (int t = 0; t < TILES; t++) load_matrices(a[t], on<ROWS>(q, i, t));
#pragma unroll
            for (int j = 0; j < KEYS / 16; j++) {
                u32 b[4];
                load_matrices(b, on<KEYS>(k, i, j));
#pragma unroll
                for (int t = 0; t < TILES; t++) { mma<F16>(s[t][2 * j], a[t], b[0], b[1]); mma<F16>(s[t][2 * j + 1], a[t], b[2], b[3]); }
            }
        }
    }
    // Masks (a thread's first row sees `sees` of the tile's keys from its first column on, `left` exist), updates maximum and sum, rescales the output, and turns scores into probabilities.
    template <bool MASK> RP_DEVICE void softmax(float (&s)[TILES][KEYS / 8][4], State& w, int sees, int left, int reach, float scale) {
#pragma unroll
        for (int t = 0; t < TILES; t++)
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const int limit = min(left, sees + t * 16 + r * 8);
                float m = w.top[t][r], sum = 0;
#pragma unroll
                for (int i = 0; i < KEYS / 4; i++) {
                    float& x = s[t][i / 2][2 * r + i % 2];
                    if (MASK && i / 2 * 8 + i % 2 >= limit) x = minus_infinity();
                    if (MASK && GENERAL && i / 2 * 8 + i % 2 < sees + t * 16 + r * 8 - reach) x = minus_infinity();
                    m = fmaxf(m, x);
                }
                m = fmaxf(m, __shfl_xor_sync(~0u, m, 1));
                m = fmaxf(m, __shfl_xor_sync(~0u, m, 2));
                const float base = MASK && m == minus_infinity() ? 0.f : m * scale;  // no key yet: −∞ − −∞ would be NaN
                const float shrink = exp2_approx(fmaf(w.top[t][r], scale, -base));
                w.top[t][r] = m;
#pragma unroll
                for (int i = 0; i < KEYS / 4; i++) { float& x = s[t][i / 2][2 * r + i % 2]; x = exp2_approx(fmaf(x, scale, -base)); sum += x; }
                w.sum[t][r] = fmaf(w.sum[t][r], shrink, sum);
#pragma unroll
                for (int i = 0; i < DV / 8; i++) { w.o[t][i][2 * r] *= shrink; w.o[t][i][2 * r + 1] *= shrink; }
            }
    }
    RP_DEVICE void values(const float (&s)[TILES][KEYS / 8][4], State& w, u32 v, int lane) {
        v = at(v, lane % 16, lane / 16);
#pragma unroll
        for (int i = 0; i < KEYS / 16; i++) {
            u32 a[TILES][4];
#pragma unroll
            for (int t = 0; t < TILES; t++)  // the accumulator of m16n8 is half of the A fragment of m16n8k16
#pragma unroll
                for (int j = 0; j < 4; j++) a[t][j] = pack<F16>(s[t][2 * i + j / 2][j % 2 * 2], s[t][2 * i + j / 2][j % 2 * 2 + 1]);
#pragma unroll
            for (int j = 0; j < DV / 16; j++) {
                u32 b[4];
                load_matrices_transposed(b, on<KEYS>(v, j, i));
#pragma unroll
                for (int t = 0; t < TILES; t++) { mma<F16>(w.o[t][2 * j], a[t], b[0], b[1]); mma<F16>(w.o[t][2 * j + 1], a[t], b[2], b[3]); }
            }
        }
    }

    template <bool MASK> RP_DEVICE void step(State& w, u32 q, u32 k, u32 v, const u16* kp, const u16* vp, const Problem& p, const Keys& keys, int n, int first, int sees, int reach, float scale, int warp, int lane) {
        float s[TILES][KEYS / 8][4];
        copy_wait<0>();
        __syncthreads();  // K is here, and nobody reads the old V any more
        fetch_keys<DV>(v, vp, n * KEYS, p.keys, keys);
        scores(s, q, k, warp, lane);
        copy_wait<0>();
        __syncthreads();  // V is here, and nobody reads K any more
        if (n > first) fetch_keys<D>(k, kp, (n - 1) * KEYS, p.keys, keys);
        softmax<MASK>(s, w, sees - n * KEYS, p.keys - lane % 4 * 2 - n * KEYS, reach, scale);
        values(s, w, v, lane);
    }

    template <bool CAUSAL> RP_DEVICE void run(const u16* qp, const u16* kp, const u16* vp, u16* op, Problem p, const Extra& x = {}) {
        RP_DYNAMIC_SMEM(smem, 128);
        const u32 q = smem_address(smem), k = q + ROWS * (SLABS ? QK_SLABS * 64 : D) * 2, v = k + KEYS * (SLABS ? QK_SLABS * 64 : D) * 2;
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, head = blockIdx.y, row = (gridDim.x - 1 - blockIdx.x) * ROWS;  // the longest first
        qp += (u64)head * p.queries * D; op += (u64)head * p.queries * DV;
        Keys keys = {};
        if (GENERAL && x.table) {
            const int heads = x.heads_q / p.group;
            keys = {x.table + (u64)(head / x.heads_q) * ((p.keys - 1 >> x.page_shift) + 1), x.page_shift, heads, head / p.group % heads};
        } else { kp += (u64)(head / p.group) * p.keys * D; vp += (u64)(head / p.group) * p.keys * DV; }
        if (GENERAL && x.lengths) p.keys = min(x.lengths[head / x.heads_q], p.keys);
        const int offset = p.keys - p.queries, last = min(row + ROWS, p.queries) + offset, end = CAUSAL ? min(p.keys, last) : p.keys;
        const int blocks = max(0, (end + KEYS - 1) / KEYS), whole = max(0, CAUSAL ? min(p.keys, row + offset + 1) : p.keys) / KEYS;
        int first = 0, low = 0, reach = 1 << 30;  // blocks from `low` on begin in every row's window
        if (GENERAL && CAUSAL && x.window) {
            reach = x.window;
            first = max(0, row + offset + 1 - x.window) / KEYS; low = (max(0, row + ROWS - 1 + offset + 1 - x.window) + KEYS - 1) / KEYS;
        }
        State w;
        const int sees = CAUSAL ? row + warp * TILES * 16 + lane / 4 + offset + 1 - lane % 4 * 2 : p.keys;
#pragma unroll
        for (int t = 0; t < TILES; t++)
#pragma unroll
            for (int r = 0; r < 2; r++) {
                w.top[t][r] = minus_infinity(); w.sum[t][r] = 0;
#pragma unroll
                for (int i = 0; i < DV / 8; i++) w.o[t][i][2 * r] = w.o[t][i][2 * r + 1] = 0;
            }
        const float scale = p.scale * 1.4426950408889634f;
        if (blocks) { fetch<ROWS, D>(q, qp, row, p.queries); fetch_keys<D>(k, kp, (blocks - 1) * KEYS, p.keys, keys); }
        int n = blocks - 1;
        for (; n >= max(whole, first); n--) step<true>(w, q, k, v, kp, vp, p, keys, n, first, sees, reach, scale, warp, lane);
        for (; n >= max(low, first); n--) step<false>(w, q, k, v, kp, vp, p, keys, n, first, sees, reach, scale, warp, lane);
        if (GENERAL && CAUSAL) for (; n >= first; n--) step<true>(w, q, k, v, kp, vp, p, keys, n, first, sees, reach, scale, warp, lane);
#pragma unroll
        for (int t = 0; t < TILES; t++)
#pragma unroll
            for (int r = 0; r < 2; r++) {
                float sum = w.sum[t][r];
                sum += __shfl_xor_sync(~0u, sum, 1); sum += __shfl_xor_sync(~0u, sum, 2);
                float factor = 1;
                if (GENERAL && x.sinks) {
                    const float top = w.top[t][r] * scale, sink = x.sinks[head % x.heads_q] * 1.4426950408889634f, both = fmaxf(top, sink);
                    factor = exp2_approx(top - both); sum = sum * factor + exp2_approx(sink - both);
                }
                const float inverse = sum > 0 ? factor / sum : 0;
                const int at_row = row + (warp * TILES + t) * 16 + lane / 4 + 8 * r;
                if (at_row < p.queries)
#pragma unroll
                    for (int i = 0; i < DV / 8; i++) *(u32*)(op + (u64)at_row * DV + i * 8 + lane % 4 * 2) = pack<F16>(w.o[t][i][2 * r] * inverse, w.o[t][i][2 * r + 1] * inverse);
            }
    }
};

}  // namespace RP_FLASH

#if RP_GENERAL
#ifndef RP_NAME
#define RP_NAME rp_flash_sm80
#endif
extern "C" __global__ void __launch_bounds__(128, 2) RP_NAME(const u16* q, const u16* k, const u16* v, u16* o, const int* lengths, const int* table,
    const float* sinks, int group, int queries, int keys, int heads_q, int page_shift, int window, float scale) {
    RP_FLASH::Kernel<RP_D, RP_DV, RP_F16, true>::template run<RP_CAUSAL>(q, k, v, o, {group, queries, keys, scale}, {lengths, table, sinks, heads_q, page_shift, window});
}
#undef RP_NAME
#else
#define RP_ENTRY(NAME, D, CAUSAL, F16)                                                                                             \
    extern "C" __global__ void __launch_bounds__(128, 2) NAME(const u16* q, const u16* k, const u16* v, u16* o, int group, int queries, int keys, float scale) { \
        RP_FLASH::Kernel<D, D, F16>::template run<CAUSAL>(q, k, v, o, {group, queries, keys, scale});                              \
    }
RP_ENTRY(rp_flash_sm80_bf16_d64_full, 64, false, false)
RP_ENTRY(rp_flash_sm80_bf16_d64_causal, 64, true, false)
RP_ENTRY(rp_flash_sm80_bf16_d128_full, 128, false, false)
RP_ENTRY(rp_flash_sm80_bf16_d128_causal, 128, true, false)
RP_ENTRY(rp_flash_sm80_f16_d64_full, 64, false, true)
RP_ENTRY(rp_flash_sm80_f16_d64_causal, 64, true, true)
RP_ENTRY(rp_flash_sm80_f16_d128_full, 128, false, true)
RP_ENTRY(rp_flash_sm80_f16_d128_causal, 128, true, true)
#undef RP_ENTRY
#endif
#undef RP_FLASH
#undef RP_GENERAL
#undef RP_D
#undef RP_DV
#undef RP_CAUSAL
#undef RP_F16
