// Forward flash attention in FP8 for Hopper (sm_90a): O = softmax(scale · Q Kᵀ) V, both products of e4m3 (QGMMA), f32 inside, bf16 out.
//
// Tile and overlap: those of flash_sm90.cu, with keys N at a time. Two things are different.
// V. FP8 products take both operands K-major only, and V's rows are keys: it must be transposed in shared memory. Three warps that have
// nothing else to do turn each tile that TMA brought into another: ldmatrix.trans gives a thread two keys of two columns, two byte
// permutes of two such registers give four keys of one column, stmatrix puts them down. fence.proxy.async stands between that and wgmma.
// Orders. A thread's scores are keys 8h + 2q + {0, 1} of every sixteen (q = lane % 4, h = 0, 1), and the A fragment of FP8 wants keys 4q to
// 4q + 3. Both products' sums run over keys, so their order is free: place 4q + 2h + b of P and of V's tile is key 8h + 2q + b, which is
// what the byte permutes give anyway, and P's fragment is a thread's own scores. Columns of V are free too: even ones of every sixteen come
// first, so that stmatrix writes 128 bytes in a row and a thread ends with columns 4q to 4q + 3 of O.
// P is at most 2^8, which e4m3 (448 at most) still has: what is 2^14 times smaller than the largest (RP_LEAN: 2^10) is still a normal number.
// Limits: at N = 224 the products take 1792 cycles of the tensor core, the exponentials 1792 of their unit, and transposing 450 of shared memory.
//
// Host contract. Q [B,Hq,Sq,D], K and V [B,Hkv,Sk,D] e4m3, O like Q in bf16, contiguous, 16-byte aligned; Hq a multiple of Hkv; scale and
// scales > 0. Causal is aligned at the end: query i sees keys j ≤ i + Sk − Sq. A row that sees no key gives zeros.
//   q, k, v   4-d tensor maps over (W, S, D/W, B·H) bytes, W = min(D, 128), strides (D, W, S·D), swizzle of W bytes, no interleave,
//             out-of-bounds zero; box (W, 64, D/W, 1) for q, (W, N, D/W, 1) for k and v.
//   o         output; heads = B·Hq; group = Hq / Hkv
//   scales    three f32: what stored values of Q, K and V are multiplied by
//   counter   two u32, zero before the first launch; the kernel leaves them zero. One pair for each launch in flight.
//   grid min(SMs, tiles), block 384, dynamic shared memory (128 + 6·N)·D + 160 bytes, 1 block an SM.
// With RP_GENERAL=1 behind `scales`, as in flash_sm90.cu, what serving asks besides, null or 0 where it does not: lengths,
// table and sinks; and
// behind `keys` heads_q, page_shift and window. Maps of pages are over (W, pool · Hkv · page, D/W, 1), box (W, min(page, N & −N), 1, 1).
// D = 96, of RP_GENERAL alone, is 128 with W = 128 and dims (96, S, 1, B·H): what lies past 96 comes as zeros, and 128 stands for D in shared memory.
// Macros: RP_D 64 | 96 | 128 | 256; RP_N, a multiple of 32: 128, 192 or 224, at D = 256 only 96; RP_CAUSAL 0 | 1; RP_LEAN 0 | 1, see softmax;
// RP_GENERAL 0 | 1.

#include "../common/flash_sm90.h"

#ifndef RP_D
#define RP_D 128
#endif
#ifndef RP_N
#define RP_N 192
#endif
#ifndef RP_CAUSAL
#define RP_CAUSAL 0
#endif
#ifndef RP_LEAN
#define RP_LEAN 0
#endif
#ifndef RP_GENERAL
#define RP_GENERAL 0
#endif
#ifndef RP_FLASH
#define RP_FLASH flash_fp8_sm90  // a program that includes this file several times names each
#define RP_NAME rp_flash_fp8_sm90
#endif

namespace RP_FLASH {

using namespace hopper;

constexpr int STAGES = 2, GROUPS = 2, TRANSPOSERS = 3;

// OWN columns, of which there are D with those of zeros.
template <int OWN, int N, bool CAUSAL, bool LEAN, bool GENERAL>
struct Kernel {
    static constexpr int D = OWN == 96 ? 128 : OWN;
    static_assert((D == 64 || D % 128 == 0) && N % 32 == 0, "slabs are as wide as a swizzle, and P's fragments 32 keys");
    static constexpr int TILE = GROUPS * ROWS, Q_BYTES = ROWS * D, BYTES = N * D;
    static constexpr int RAISED = LEAN ? 8 - SLACK : 8;  // P's largest is 2^8
    static constexpr int WIDTH = D < 128 ? D : 128;  // columns of a slab, bytes of a swizzle
    static constexpr u32 SLAB = N * WIDTH;   // of a K or V tile
    static constexpr u32 SIXTEEN = D * 16;   // a column of the transposed tile: sixteen keys of all D, eight rows of sixteen bytes after another
    u32 q, k, v, t, bars;
    volatile int* note;  // the tile's row and head; and for each stage of V how many keys it has, −1 where the last has been

    __device__ __forceinline__ explicit Kernel(unsigned char* smem) {
        q = smem_address(smem); k = q + GROUPS * Q_BYTES; v = k + STAGES * BYTES; t = v + STAGES * BYTES; bars = t + STAGES * BYTES;
        note = (volatile int*)(smem + (bars - q) + 128);
    }
    __device__ __forceinline__ u32 q_full() const { return bars; }
    __device__ __forceinline__ u32 q_empty() const { return bars + 8; }
    __device__ __forceinline__ u32 k_full(u32 s) const { return bars + 16 + 8 * s; }
    __device__ __forceinline__ u32 k_empty(u32 s) const { return bars + 16 + 8 * (STAGES + s); }
    __device__ __forceinline__ u32 v_full(u32 s) const { return bars + 16 + 8 * (2 * STAGES + s); }
    __device__ __forceinline__ u32 v_empty(u32 s) const { return bars + 16 + 8 * (3 * STAGES + s); }
    __device__ __forceinline__ u32 t_full(u32 s) const { return bars + 16 + 8 * (4 * STAGES + s); }
    __device__ __forceinline__ u32 t_empty(u32 s) const { return bars + 16 + 8 * (5 * STAGES + s); }

    __device__ __forceinline__ void init() const {
        barrier_init(q_full(), 1); barrier_init(q_empty(), GROUPS * 4);
        for (u32 s = 0; s < STAGES; s++) {
            barrier_init(k_full(s), 1); barrier_init(k_empty(s), GROUPS * 4);
            barrier_init(v_full(s), 1); barrier_init(v_empty(s), TRANSPOSERS);
            barrier_init(t_full(s), TRANSPOSERS); barrier_init(t_empty(s), GROUPS * 4);
            note[2 + s] = N;
        }
        barrier_init_fence();
    }

    // By a thread, and by a warp if GENERAL: lane i then knows where box i of a tile begins.
    __device__ __forceinline__ void produce(const Problem& all, const Extra& x, const TensorMap* mq, const TensorMap* mk, const TensorMap* mv, u32* counter) const {
        const int lane = threadIdx.x;
        u32 kc = 0, vc = 0;
        for (u32 q_parity = 1;; q_parity ^= 1) {
            int row = -1, head = 0, blocks = 0, first = 0, t = 0;
            if (lane == 0) t = (int)atomicAdd(counter, 1);
            if (GENERAL) t = __shfl_sync(~0u, t, 0);
            const bool more = place<TILE>(all, D * 2, t, row, head);
            Problem p = all;  // a sequence's length is its tile's alone: where tiles lie follows from the whole
            if (GENERAL && more && x.lengths) p.keys = x.lengths[head / x.heads_q];
            if (more) blocks = block_count<N, CAUSAL, TILE>(p, row);
            if (GENERAL && CAUSAL) first = first_block<N>(p, x.window, row);
            const Loader<N, GENERAL> loader(all, x, p.keys, head / p.group);
            auto load_k = [&](int n, int here) {
                u32 s = kc % STAGES; barrier_wait(k_empty(s), kc / STAGES & 1 ^ 1); kc++;
                loader.load(k + s * BYTES, mk, k_full(s), n, here, D / WIDTH, WIDTH);
            };
            auto load_v = [&](int n, int here) {
                u32 s = vc % STAGES; barrier_wait(v_empty(s), vc / STAGES & 1 ^ 1); vc++;
                if (GENERAL && lane == 0) note[2 + s] = p.keys - n * N;
                loader.load(v + s * BYTES, mv, v_full(s), n, here, D / WIDTH, WIDTH);
            };
            int above = loader.find(blocks - 1, first), here = loader.find(blocks - 2, first);
            if (blocks) load_k(blocks - 1, above);
            barrier_wait(q_empty(), q_parity);
            if (lane == 0) {
                note[0] = row; note[1] = head;  // published by the arrival below
                if (blocks) {
                    barrier_expect(q_full(), GROUPS * Q_BYTES);
                    for (int g = 0; g < GROUPS; g++) load_tile(q + g * Q_BYTES, mq, q_full(), row + g * ROWS, head);
                } else barrier_arrive(q_full());
            }
            for (int n = blocks - 2; n >= first; n--) {
                const int below = loader.find(n - 1, first);
                load_v(n + 1, above); load_k(n, here);
                above = here; here = below;
            }
            if (blocks) load_v(first, above);
            if (!more) break;
        }
        u32 s = vc % STAGES; barrier_wait(v_empty(s), vc / STAGES & 1 ^ 1);
        if (lane) return;
        note[2 + s] = -1; barrier_arrive(v_full(s));
        // The last block to finish leaves the counters as it found them.
        if (atomicInc(counter + 1, gridDim.x - 1) == gridDim.x - 1) atomicExch(counter, 0);
    }

    // A unit is 32 keys of 16 columns: four 8 × 8 matrices of pairs of columns. A lane gives the address of one row of one of them. Four
    // units are under way at a time. Of a tile's keys those behind a sequence's last become zeros: they weigh nothing, but nothing times a NaN is one.
    __device__ __forceinline__ void transpose(int warp, int lane) const {
        constexpr int CHUNKS = D / 16, UNITS = CHUNKS * (N / 32), WIDE = WIDTH / 16, BATCH = 4;
        for (u32 c = 0;; c++) {
            u32 s = c % STAGES, parity = c / STAGES & 1;
            barrier_wait(v_full(s), parity);
            const int held = note[2 + s];
            if (held < 0) break;
            barrier_wait(t_empty(s), parity ^ 1);
            u32 from = v + s * BYTES + lane * WIDTH, to = t + s * BYTES + lane / 16 * SIXTEEN + lane % 16 * 16;
#pragma unroll 1
            for (u32 unit = warp * BATCH; unit < UNITS; unit += TRANSPOSERS * BATCH) {
                u32 keys = unit / CHUNKS, r[BATCH][4];
#pragma unroll
                for (u32 i = 0; i < BATCH; i++) {
                    u32 chunk = unit % CHUNKS + i;
                    load_matrices_transposed(r[i], from + chunk / WIDE * SLAB + keys * (32 * WIDTH) + ((chunk ^ lane * WIDTH / 128) % WIDE << 4));
                }
                if (GENERAL && held < N)
#pragma unroll
                    for (u32 i = 0; i < BATCH * 4; i++) {  // register i % 4 of a unit: keys 8·i + 2·(lane % 4) and the next
                        const int left = held - (int)(keys * 32 + i % 4 * 8 + lane % 4 * 2);
                        r[i / 4][i % 4] &= left > 1 ? ~0u : left > 0 ? 0xFFFFu : 0;
                    }
#pragma unroll
                for (u32 i = 0; i < BATCH; i++) {
                    u32 low0 = permute_bytes(r[i][0], r[i][1], 0x6420), low1 = permute_bytes(r[i][2], r[i][3], 0x6420);
                    u32 high0 = permute_bytes(r[i][0], r[i][1], 0x7531), high1 = permute_bytes(r[i][2], r[i][3], 0x7531);
                    store_matrices(to + keys * (2 * SIXTEEN) + (unit % CHUNKS + i) * 256, low0, high0, low1, high1);
                }
            }
            fence_async();
            release(v_empty(s)); release(t_full(s));
        }
    }

    // One warpgroup's state: two rows a thread (r and r + 8 of its warp's 16); of P columns 4·(lane % 4) to + 3 of every sixteen.
    struct State { float o[D / 2]; u32 p[N / 8]; float top[2], sum[2]; };

    __device__ __forceinline__ void issue_scores(float (&s)[N / 2], u32 q_rows, u32 stage) const {
        constexpr int STEPS = WIDTH / 32;  // of a slab
        u32 keys = k + stage * BYTES;
        if constexpr (D > 128) { keys = renewed(keys); q_rows = renewed(q_rows); }
#pragma unroll
        for (int i = 0; i < OWN / 32; i++)
            mma8_ss<N>(s, descriptor<WIDTH>(q_rows + i / STEPS * (ROWS * WIDTH) + i % STEPS * 32, 16, 8 * WIDTH),
                       descriptor<WIDTH>(keys + i / STEPS * SLAB + i % STEPS * 32, 16, 8 * WIDTH), i > 0);
        wgmma_commit();
    }
    __device__ __forceinline__ void issue_values(State& w, u32 stage) const {
        u32 values = t + stage * BYTES;
        if constexpr (D > 128) values = renewed(values);
#pragma unroll
        for (int i = 0; i < N / 32; i++) mma8_rs<D>(w.o, w.p + 4 * i, descriptor<0>(values + i * (2 * SIXTEEN), SIXTEEN, 128));
        wgmma_commit();
    }
    static __device__ __forceinline__ void to_p(const float (&s)[N / 2], State& w) {
#pragma unroll
        for (int i = 0; i < N / 8; i++) {  // word i of a fragment of 32 keys: row i % 2, keys i / 2 % 2 · 16 on
            const float* x = s + i / 4 * 16 + i / 2 % 2 * 8 + i % 2 * 2;
            w.p[i] = pack8(x[0], x[1], x[4], x[5]);
        }
    }

    // Where a warpgroup stands: tiles of K and of V it has used, its rows of Q, its place in the turn.
    struct Cursor { u32 k, v, q_rows; int group; };

    // The scores of the next block are issued before the values of this one: their softmax runs while P·V does.
    template <bool MASK> __device__ __forceinline__ void step(State& w, Cursor& c, float scale, int limit0, int limit1, int reach) const {
        float s[N / 2], shrink[2];
        barrier_wait(k_full(c.k % STAGES), c.k / STAGES & 1);
        turn_wait(c.group);
        wgmma_fence();
        issue_scores(s, c.q_rows, c.k % STAGES);
        barrier_wait(t_full(c.v % STAGES), c.v / STAGES & 1);
        wgmma_fence();
        issue_values(w, c.v % STAGES);
        turn_pass<GROUPS>(c.group);
        wgmma_wait<1>(); pin(s);
        release(k_empty(c.k % STAGES)); c.k++;
        softmax<N, MASK, GENERAL && CAUSAL, RAISED, LEAN>(s, w.top, w.sum, shrink, scale, limit0, limit1, reach);
        compute_before_wait(w.sum[0] + w.sum[1], bars + 128);
        wgmma_wait<0>(); pin(w.o); pin(s);
        release(t_empty(c.v % STAGES)); c.v++;
        if (!LEAN || __any_sync(~0u, shrink[0] != 1 || shrink[1] != 1))
#pragma unroll
            for (int i = 0; i < D / 2; i++) w.o[i] *= shrink[i / 2 % 2];
        to_p(s, w);
    }

    __device__ __forceinline__ void store(const State& w, u16* o, const Problem& p, const Extra& x, float scale, float value_scale, int row, int head, int lane) const {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float sum = w.sum[r], factor = value_scale;
            sum += __shfl_xor_sync(~0u, sum, 1); sum += __shfl_xor_sync(~0u, sum, 2);
            if (GENERAL && x.sinks) factor *= join_sink(w.top[r] * scale - RAISED, sum, x.sinks[head % x.heads_q]);
            float inverse = sum > 0 ? factor / sum : 0;
            int at = row + lane / 4 + 8 * r;
            u16* to = o + ((u64)head * p.queries + at) * OWN + lane % 4 * 4;
#pragma unroll
            for (int c = 0; c < OWN / 16; c++) {  // accumulators of the even columns, then of the odd ones
                const float *even = w.o + c * 8 + 2 * r, *odd = even + 4;
                u32 low = pack<false>(even[0] * inverse, odd[0] * inverse), high = pack<false>(even[1] * inverse, odd[1] * inverse);
                if (at < p.queries) *(u64*)(to + c * 16) = (u64)high << 32 | low;
            }
        }
    }

    __device__ __forceinline__ void consume(const Problem& all, const Extra& x, const float* scales, u16* o, int group) const {
        int warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32;
        float scale = all.scale * scales[0] * scales[1] * 1.4426950408889634f;  // exp(x) = 2^(x · log2 e), so that one fused multiply-add feeds ex2
        Cursor c = {0, 0, q + group * Q_BYTES, group};
        if (group == GROUPS - 1) turn_pass<GROUPS>(group);  // the first group goes first
        for (u32 q_parity = 0;; q_parity ^= 1) {
            barrier_wait(q_full(), q_parity);
            int row = note[0], head = note[1];
            if (row < 0) break;
            Problem p = all;
            if (GENERAL && x.lengths) p.keys = x.lengths[head / x.heads_q];
            int blocks = block_count<N, CAUSAL, TILE>(p, row), n = blocks - 1;
            const Window<N> window(p, GENERAL && CAUSAL ? x.window : 0, row, group);
            const int first = window.first, reach = window.reach;
            row += group * ROWS;
            const Sight<N, CAUSAL> sight(p, row, warp, lane);
            const int unmasked = sight.unmasked, limit0 = sight.limit0, limit1 = sight.limit1;
            State w;
#pragma unroll
            for (int i = 0; i < D / 2; i++) w.o[i] = 0;
            w.top[0] = w.top[1] = minus_infinity(); w.sum[0] = w.sum[1] = 0;
            if (blocks) {
                float s[N / 2], shrink[2];
                barrier_wait(k_full(c.k % STAGES), c.k / STAGES & 1);
                wgmma_fence(); issue_scores(s, c.q_rows, c.k % STAGES); wgmma_wait<0>(); pin(s);
                release(k_empty(c.k % STAGES)); c.k++;
                softmax<N, true, GENERAL && CAUSAL, RAISED, LEAN>(s, w.top, w.sum, shrink, scale, limit0 - n * N, limit1 - n * N, reach);
                to_p(s, w);
            }
            n--;
            if (CAUSAL) for (; n >= max(unmasked, first); n--) step<true>(w, c, scale, limit0 - n * N, limit1 - n * N, reach);
            for (; n >= max(window.whole, first); n--) step<false>(w, c, scale, 0, 0, 0);
            if (GENERAL && CAUSAL) for (; n >= first; n--) step<true>(w, c, scale, limit0 - n * N, limit1 - n * N, reach);
            release(q_empty());
            if (blocks) {
                barrier_wait(t_full(c.v % STAGES), c.v / STAGES & 1);
                wgmma_fence(); issue_values(w, c.v % STAGES); wgmma_wait<0>(); pin(w.o);
                release(t_empty(c.v % STAGES)); c.v++;
            }
            store(w, o, p, x, scale, scales[2], row + warp * 16, head, lane);
        }
    }
};

}  // namespace RP_FLASH

#if RP_GENERAL
#define RP_OPERANDS const int *lengths, const int *table, const float *sinks,
#define RP_NUMBERS int heads_q, int page_shift, int window,
#else
#define RP_OPERANDS
#define RP_NUMBERS
#endif
extern "C" __global__ void __launch_bounds__(384, 1) RP_NAME(const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k,
    const __grid_constant__ TensorMap v, u16* o, u32* counter, const float* scales, RP_OPERANDS int heads, int group, int queries, int keys, RP_NUMBERS float scale) {
    RP_DYNAMIC_SMEM(smem, 1024);
    RP_FLASH::Kernel<RP_D, RP_N, RP_CAUSAL, RP_LEAN, RP_GENERAL> kernel(smem);
    const hopper::Problem p = {heads, group, queries, keys, scale};
#if RP_GENERAL
    const hopper::Extra x = {lengths, table, sinks, page_shift, heads_q, window};
#else
    const hopper::Extra x = {};
#endif
    if (threadIdx.x == 0) kernel.init();
    __syncthreads();
    // 384 threads at launch's 168 registers: the producers hand theirs to the consumers, who hold S, P and O.
    if (threadIdx.x < 128) {
        registers_give<RP_GENERAL ? 56 : 40>();
        if (threadIdx.x >= 32) kernel.transpose((int)threadIdx.x / 32 - 1, threadIdx.x % 32);
        else if (RP_GENERAL || threadIdx.x == 0) kernel.produce(p, x, &q, &k, &v, counter);
    } else {
        registers_take<RP_GENERAL ? 224 : 232>();
        kernel.consume(p, x, scales, o, (int)threadIdx.x / 128 - 1);
    }
}
#undef RP_FLASH
#undef RP_NAME
#undef RP_GENERAL
#undef RP_OPERANDS
#undef RP_NUMBERS
#undef RP_D
#undef RP_N
#undef RP_CAUSAL
#undef RP_LEAN
