// Forward flash attention for Hopper (sm_90a): O = softmax(scale · Q Kᵀ) V, bf16 or f16 in and out, f32 inside.
//
// Tile: a block owns 128 query rows (64 for each of two consumer warpgroups) and walks the keys N at a time: N = 176 when nothing
// is masked (the widest tile whose S, P and O fit in 240 registers), 128 when causal (a narrower diagonal wastes less).
// Layout: TMA with the 128-byte swizzle puts each tile in shared memory as D/64 slabs of [rows][64], the form a wgmma descriptor
// reads directly: K-major for Q and K, MN-major (transposed) for V. P never leaves registers: the accumulator fragment of
// m64nNk16 is the A fragment of the next product.
// Overlap: (1) a producer thread keeps a two-deep ring of K and of V tiles in flight; (2) named barriers let one warpgroup issue
// its products while the other does its softmax; (3) within a warpgroup the next Q·Kᵀ is issued before this P·V, so that the
// softmax of one runs under the other.
// Limits: the tensor core; at N = 176 the exponentials take half as long as the products and hide behind them. With pages of 16 keys the
// loads: a box of 2 KB for each and slab (386 TFLOP/s on an H200, 613 with pages of 64).
//
// Host contract. Q [B,Hq,Sq,D], K and V [B,Hkv,Sk,D], O like Q, contiguous, 16-byte aligned; Hq a multiple of Hkv; scale > 0.
// Causal is aligned at the end: query i sees keys j ≤ i + Sk − Sq. A row that sees no key gives zeros.
//   q, k, v   4-d tensor maps over (64, S, D/64, B·H) elements, strides (2D, 128, 2·S·D) bytes, 128-byte swizzle, no interleave,
//             out-of-bounds zero; box (64, 64, D/64, 1) for q, (64, N, D/64, 1) for k and v.
//   o         output; heads = B·Hq; group = Hq / Hkv
//   counter   two u32, zero before the first launch; the kernel leaves them zero. One pair for each launch in flight.
//   grid min(SMs, tiles), block 384, dynamic shared memory 256·D + 4·N·(D + DV) + 128 bytes, 1 block an SM.
// Entries rp_flash_sm90_{bf16,f16}_d{128,64}_{full,causal}; N = 176 for full, 128 for causal. With RP_GENERAL=1 the one entry
// rp_flash_sm90 for other head dims and what serving asks besides:
//   V and O have DV columns (box (64, N, DV/64, 1) for v); 64, 128, 192/128 with N = 128, 256 with N = 80; 96 with N = 128, its maps over
//             (96, S, 1, B·H), box (64, 64 or N, 1, 1): what lies past 96 comes as zeros, and 2 · 128 stands for D + DV in shared memory
//   lengths   B numbers of valid keys, at most Sk, or null; heads_q = Hq. What lies past a length may be anything.
//   table     pages i32 [B, ⌈Sk / page⌉] of K [pool,Hkv,page,D] and V [pool,Hkv,page,DV], page = 2^page_shift ≥ 8, or null; entries behind a
//             sequence's last key are not read. k and v are then maps over (64, pool · Hkv · page, columns / 64, 1), box (64, min(page,
//             N & −N), 1, 1)
//   sinks     Hq logits that join a row's sum without a value, or null
//   window    with RP_CAUSAL: the last so many keys that a query sees, or 0 for all; blocks that no row of a tile sees are skipped
// Macros: RP_GENERAL 0 | 1; with it RP_D, RP_DV, RP_N, RP_F16 0 | 1, RP_CAUSAL 0 | 1.

#include "../common/flash_sm90.h"

#ifndef RP_GENERAL
#define RP_GENERAL 0
#endif
#ifndef RP_FLASH
#define RP_FLASH flash_sm90  // a program that includes this file several times names each
#endif

namespace RP_FLASH {

using namespace hopper;

constexpr int STAGES = 2;  // K tiles and V tiles in flight; a third does not fit beside N = 176

template <int D, int DV, int N, bool CAUSAL, bool F16, int GROUPS, bool GENERAL, int TUNE>
struct Kernel {
    static constexpr int SLABS = (D + 63) / 64, SLABS_V = (DV + 63) / 64;  // of 64 columns
    static constexpr int TILE = GROUPS * ROWS, K_BYTES = N * SLABS * 128, V_BYTES = N * SLABS_V * 128, Q_BYTES = ROWS * SLABS * 128;
    static constexpr bool PADDED = D % 64 != 0;
    static constexpr u32 SLAB = N * 128;  // one 64-column slab of a K or V tile
    u32 q, k, v, bars;
    unsigned char* smem;
    int* tile;

    __device__ __forceinline__ explicit Kernel(unsigned char* smem) : smem(smem) {
        q = smem_address(smem); k = q + GROUPS * Q_BYTES; v = k + STAGES * K_BYTES; bars = v + STAGES * V_BYTES;
        tile = (int*)(smem + (bars - q) + 96);
    }
    __device__ __forceinline__ u32 v_landed() const { return bars + 16 + 8 * (4 * STAGES); }  // a sequence's last tile of V, on its way to v_full
    __device__ __forceinline__ u32 q_full() const { return bars; }
    __device__ __forceinline__ u32 q_empty() const { return bars + 8; }
    __device__ __forceinline__ u32 k_full(u32 s) const { return bars + 16 + 8 * s; }
    __device__ __forceinline__ u32 k_empty(u32 s) const { return bars + 16 + 8 * (STAGES + s); }
    __device__ __forceinline__ u32 v_full(u32 s) const { return bars + 16 + 8 * (2 * STAGES + s); }
    __device__ __forceinline__ u32 v_empty(u32 s) const { return bars + 16 + 8 * (3 * STAGES + s); }

    __device__ __forceinline__ void init() const {
        barrier_init(q_full(), 1); barrier_init(q_empty(), GROUPS * 4); barrier_init(v_landed(), 1);
        for (u32 s = 0; s < STAGES; s++) {
            barrier_init(k_full(s), 1); barrier_init(v_full(s), 1);
            barrier_init(k_empty(s), GROUPS * 4); barrier_init(v_empty(s), GROUPS * 4);
        }
        barrier_init_fence();
    }

    // By a thread, and by a warp if GENERAL: lane i then knows where box i of a tile begins.
    __device__ __forceinline__ void produce(Problem all, const Extra& x, const TensorMap* mq, const TensorMap* mk, const TensorMap* mv, u32* counter) const {
        const int lane = threadIdx.x;
        u32 kc = 0, vc = 0, landed = 0;
        for (u32 q_parity = 1;; q_parity ^= 1) {
            int row = -1, head = 0, blocks = 0, first = 0, t = 0;
            if (lane == 0) t = (int)atomicAdd(counter, 1);
            if (GENERAL) t = __shfl_sync(~0u, t, 0);
            bool more = place<TILE>(all, (D + DV) * 2, t, row, head);
            Problem p = all;  // a sequence's length is its tile's alone: where tiles lie follows from the whole
            if (GENERAL && more && x.lengths) p.keys = x.lengths[head / x.heads_q];
            if (more) blocks = block_count<N, CAUSAL, TILE>(p, row);
            if (GENERAL && CAUSAL) first = first_block<N>(p, x.window, row);
            const Loader<N, GENERAL, PADDED> loader(all, x, p.keys, head / p.group);
            auto load_k = [&](int n, int here) {
                u32 s = kc % STAGES; barrier_wait(k_empty(s), kc / STAGES & 1 ^ 1); kc++;
                loader.load(k + s * K_BYTES, mk, k_full(s), n, here, SLABS, 128);
            };
            auto load_v = [&](int n, int here) {
                u32 s = vc % STAGES; barrier_wait(v_empty(s), vc / STAGES & 1 ^ 1); vc++;
                const int rest = p.keys - n * N;
                const bool last = GENERAL && (loader.paged || x.lengths) && rest < N;
                loader.load(v + s * V_BYTES, mv, last ? v_landed() : v_full(s), n, here, SLABS_V, 128);
                if (!last) return;
                barrier_wait(v_landed(), landed); landed ^= 1;
                zero_rows(smem + (v - q) + s * V_BYTES, rest, N, SLABS_V, SLAB);
                if (lane == 0) barrier_arrive(v_full(s));
            };
            int above = loader.find(blocks - 1, first), here = loader.find(blocks - 2, first);
            if (blocks) load_k(blocks - 1, above);
            barrier_wait(q_empty(), q_parity);
            if (lane == 0) {
                tile[0] = row; tile[1] = head;  // published by the arrival below
                if (blocks) {
                    barrier_expect(q_full(), GROUPS * Q_BYTES);
                    for (int g = 0; g < GROUPS; g++)
                        if (PADDED) for (int j = 0; j < SLABS; j++) load_columns(q + g * Q_BYTES + j * (ROWS * 128), mq, q_full(), j * 64, row + g * ROWS, head);
                        else load_tile(q + g * Q_BYTES, mq, q_full(), row + g * ROWS, head);
                } else barrier_arrive(q_full());
            }
            for (int n = blocks - 2; n >= first; n--) {
                const int below = loader.find(n - 1, first);
                load_k(n, here); load_v(n + 1, above);
                above = here; here = below;
            }
            if (blocks) load_v(first, above);
            if (!more) break;
        }
        // The last block to finish leaves the counters as it found them.
        if (lane == 0 && atomicInc(counter + 1, gridDim.x - 1) == gridDim.x - 1) atomicExch(counter, 0);
    }

    // One warpgroup's state: two rows a thread (r and r + 8 of its warp's 16), columns 2·(lane % 4) + {0, 1} of every eight.
    struct State { float o[DV / 2]; u32 p[N / 4]; float top[2], sum[2]; };

    __device__ __forceinline__ void issue_scores(float (&s)[N / 2], u32 q_rows, u32 stage) const {
        u32 keys = k + stage * K_BYTES;
        if constexpr (D > 192) { keys = renewed(keys); q_rows = renewed(q_rows); }
#pragma unroll
        for (int i = 0; i < D / 16; i++)
            mma_ss<N, F16>(s, descriptor(q_rows + i / 4 * (ROWS * 128) + i % 4 * 32, 16, 1024),
                           descriptor(keys + i / 4 * SLAB + i % 4 * 32, 16, 1024), i > 0);
        wgmma_commit();
    }
    __device__ __forceinline__ void issue_values(State& w, u32 stage) const {
        u32 values = v + stage * V_BYTES;
        if constexpr (DV > 192) values = renewed(values);
#pragma unroll
        for (int i = 0; i < N / 16; i++) mma_rs<DV, F16>(w.o, w.p + 4 * i, descriptor(values + i * 2048, SLAB, 1024));
        wgmma_commit();
    }

    static __device__ __forceinline__ void to_p(const float (&s)[N / 2], State& w) {
#pragma unroll
        for (int i = 0; i < N / 4; i++) w.p[i] = pack<F16>(s[2 * i], s[2 * i + 1]);
    }

    // Where a warpgroup stands: tiles of K and of V it has used, its rows of Q, its place in the turn.
    struct Cursor { u32 k, v, q_rows; int group; };

    // The scores of the next block are issued before the values of this one: their softmax runs while P·V does.
    template <bool MASK> __device__ __forceinline__ void step(State& w, Cursor& c, float scale, int limit0, int limit1, int reach) const {
        float s[N / 2], shrink[2];
        barrier_wait(k_full(c.k % STAGES), c.k / STAGES & 1);
        if (!(TUNE & 1)) turn_wait(c.group);
        wgmma_fence();
        issue_scores(s, c.q_rows, c.k % STAGES);
        barrier_wait(v_full(c.v % STAGES), c.v / STAGES & 1);
        wgmma_fence();
        issue_values(w, c.v % STAGES);
        if (!(TUNE & 1)) turn_pass<GROUPS>(c.group);
        wgmma_wait<1>(); pin(s);
        release(k_empty(c.k % STAGES)); c.k++;
        softmax<N, MASK, GENERAL && CAUSAL>(s, w.top, w.sum, shrink, scale, limit0, limit1, reach);
        if (!(TUNE & 4)) compute_before_wait(w.sum[0] + w.sum[1], bars + 112);
        wgmma_wait<0>(); pin(w.o); pin(s);
        release(v_empty(c.v % STAGES)); c.v++;
        if (!(TUNE & 2) || __any_sync(~0u, shrink[0] != 1 || shrink[1] != 1))
#pragma unroll
            for (int i = 0; i < DV / 2; i++) w.o[i] *= shrink[i / 2 % 2];
        to_p(s, w);
    }

    __device__ __forceinline__ void store(const State& w, u16* o, const Problem& p, const Extra& x, float scale, int row, int head, int lane) const {
        float inverse[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float sum = w.sum[r];
            sum += __shfl_xor_sync(~0u, sum, 1); sum += __shfl_xor_sync(~0u, sum, 2);
            float factor = 1;
            if (GENERAL && x.sinks) factor = join_sink(w.top[r] * scale, sum, x.sinks[head % x.heads_q]);
            inverse[r] = sum > 0 ? factor / sum : 0;
        }
        bool odd = lane & 1, high = lane & 2;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            int at = row + lane / 4 + 8 * r;
#pragma unroll
            for (int c = 0; c < DV / 32; c++) {
                u32 x[4];
#pragma unroll
                for (int i = 0; i < 4; i++) { const float* y = w.o + (4 * c + i) * 4 + 2 * r; x[i] = pack<F16>(y[0] * inverse[r], y[1] * inverse[r]); }
                // A 4 × 4 transpose across the quad gives each lane sixteen contiguous bytes.
                u32 t0 = __shfl_xor_sync(~0u, odd ? x[0] : x[1], 1), t1 = __shfl_xor_sync(~0u, odd ? x[2] : x[3], 1);
                if (odd) { x[0] = t0; x[2] = t1; } else { x[1] = t0; x[3] = t1; }
                t0 = __shfl_xor_sync(~0u, high ? x[0] : x[2], 2); t1 = __shfl_xor_sync(~0u, high ? x[1] : x[3], 2);
                if (high) { x[0] = t0; x[1] = t1; } else { x[2] = t0; x[3] = t1; }
                if (at < p.queries) *(uint4*)(o + ((u64)head * p.queries + at) * DV + c * 32 + lane % 4 * 8) = make_uint4(x[0], x[1], x[2], x[3]);
            }
        }
    }

    __device__ __forceinline__ void consume(Problem p, const Extra& x, u16* o, int group) const {
        int warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32;
        float scale = p.scale * 1.4426950408889634f;  // exp(x) = 2^(x · log2 e), so that one fused multiply-add feeds ex2
        Cursor c = {0, 0, q + group * Q_BYTES, group};
        if (!(TUNE & 1) && group == GROUPS - 1) turn_pass<GROUPS>(group);  // the first group goes first
        for (u32 q_parity = 0;; q_parity ^= 1) {
            barrier_wait(q_full(), q_parity);
            int row = tile[0], head = tile[1];
            if (row < 0) break;
            if (GENERAL && x.lengths) p.keys = x.lengths[head / x.heads_q];
            int blocks = block_count<N, CAUSAL, TILE>(p, row), n = blocks - 1;
            const Window<N> window(p, GENERAL && CAUSAL ? x.window : 0, row, group);
            const int first = window.first, reach = window.reach;
            row += group * ROWS;
            const Sight<N, CAUSAL> sight(p, row, warp, lane);
            const int unmasked = sight.unmasked, limit0 = sight.limit0, limit1 = sight.limit1;
            State w;
#pragma unroll
            for (int i = 0; i < DV / 2; i++) w.o[i] = 0;
            w.top[0] = w.top[1] = minus_infinity(); w.sum[0] = w.sum[1] = 0;
            if (blocks) {
                float s[N / 2], shrink[2];
                barrier_wait(k_full(c.k % STAGES), c.k / STAGES & 1);
                wgmma_fence(); issue_scores(s, c.q_rows, c.k % STAGES); wgmma_wait<0>(); pin(s);
                release(k_empty(c.k % STAGES)); c.k++;
                softmax<N, true, GENERAL && CAUSAL>(s, w.top, w.sum, shrink, scale, limit0 - n * N, limit1 - n * N, reach);
                to_p(s, w);
            }
            n--;
            if (CAUSAL) for (; n >= max(unmasked, first); n--) step<true>(w, c, scale, limit0 - n * N, limit1 - n * N, reach);
            for (; n >= max(window.whole, first); n--) step<false>(w, c, scale, 0, 0, 0);
            if (GENERAL && CAUSAL) for (; n >= first; n--) step<true>(w, c, scale, limit0 - n * N, limit1 - n * N, reach);
            release(q_empty());
            if (blocks) {
                barrier_wait(v_full(c.v % STAGES), c.v / STAGES & 1);
                wgmma_fence(); issue_values(w, c.v % STAGES); wgmma_wait<0>(); pin(w.o);
                release(v_empty(c.v % STAGES)); c.v++;
            }
            store(w, o, p, x, scale, row + warp * 16, head, lane);
        }
    }
};

template <int D, int DV, int N, bool CAUSAL, bool F16, int GROUPS, bool GENERAL = false, int TUNE = 0>
RP_DEVICE void run(const TensorMap* q, const TensorMap* k, const TensorMap* v, u16* o, u32* counter, Problem p, Extra x = {}) {
    RP_DYNAMIC_SMEM(smem, 1024);
    Kernel<D, DV, N, CAUSAL, F16, GROUPS, GENERAL, TUNE> kernel(smem);
    if (threadIdx.x == 0) kernel.init();
    __syncthreads();
    // 384 threads at launch's 168 registers: the producer hands its own to the consumers, who hold S, P and O.
    if (threadIdx.x < 128) {
        registers_give<GROUPS == 2 ? 24 : 32>();
        if (threadIdx.x < (GENERAL ? 32 : 1)) kernel.produce(p, x, q, k, v, counter);
    } else {
        registers_take<GROUPS == 2 ? 240 : 160>();
        kernel.consume(p, x, o, (int)threadIdx.x / 128 - 1);
    }
}

}  // namespace RP_FLASH

#if RP_GENERAL
#ifndef RP_NAME
#define RP_NAME rp_flash_sm90
#endif
extern "C" __global__ void __launch_bounds__(384, 1) RP_NAME(const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v, u16* o,
    u32* counter, const int* lengths, const int* table, const float* sinks, int heads, int group, int queries, int keys, int heads_q, int page_shift, int window, float scale) {
    RP_FLASH::run<RP_D, RP_DV, RP_N, RP_CAUSAL, RP_F16, 2, true>(&q, &k, &v, o, counter, {heads, group, queries, keys, scale}, {lengths, table, sinks, page_shift, heads_q, window});
}
#undef RP_NAME
#else
#define RP_ENTRY(NAME, D, N, CAUSAL, F16)                                                                                         \
    extern "C" __global__ void __launch_bounds__(384, 1) NAME(const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k, \
        const __grid_constant__ TensorMap v, u16* o, u32* counter, int heads, int group, int queries, int keys, float scale) {     \
        RP_FLASH::run<D, D, N, CAUSAL, F16, 2>(&q, &k, &v, o, counter, {heads, group, queries, keys, scale});                      \
    }
RP_ENTRY(rp_flash_sm90_bf16_d128_full, 128, 176, false, false)
RP_ENTRY(rp_flash_sm90_bf16_d128_causal, 128, 128, true, false)
RP_ENTRY(rp_flash_sm90_f16_d128_full, 128, 176, false, true)
RP_ENTRY(rp_flash_sm90_f16_d128_causal, 128, 128, true, true)
RP_ENTRY(rp_flash_sm90_bf16_d64_full, 64, 176, false, false)
RP_ENTRY(rp_flash_sm90_bf16_d64_causal, 64, 128, true, false)
RP_ENTRY(rp_flash_sm90_f16_d64_full, 64, 176, false, true)
RP_ENTRY(rp_flash_sm90_f16_d64_causal, 64, 128, true, true)
#undef RP_ENTRY
#endif
#undef RP_FLASH
#undef RP_GENERAL
#undef RP_D
#undef RP_DV
#undef RP_N
#undef RP_CAUSAL
#undef RP_F16
