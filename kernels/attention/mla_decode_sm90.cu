// Absorbed MLA decode for Hopper (sm_90a): every query head attends over one latent cache whose 576 columns are the key and whose first
// 512 are the value, bf16 or f16, f32 inside.
//
// Tile: a block takes 64 rows (head, query) of a sequence and one split of its keys, 64 keys a tile. The 64 × 512 output does not fit in
// one warpgroup's registers, so two hold 64 × 256 each: group 0 the left half, group 1 the right. They walk the keys in pairs of
// tiles: group 0 scores the even tile, group 1 the odd one, and each multiplies both tiles' P with its half of V, so that one's
// softmax runs under the other's products. P and the scales pass through shared memory.
//   group 0: S0, P0 → P0·V0 left, (P1 ready) P1·V1 left, next S0      group 1: S1, (P0 ready) P0·V0 right under its softmax, P1·V1 right
// P0 is given on in the scale of the even tile's maximum, at once, so that all of slot 0 comes free in the middle of a pair and its next tile has
// the rest of it to arrive; slot 1's comes free at the end, and its next tile has the time of S0. Loads are in parts of 256, 256 and 64 columns with
// a barrier each, and start as soon as their part is free. (Waiting for parts was 40 % of group 0's time when P0·V0 right came last.)
// Layout: slabs of [64 rows][64 columns] under TMA's 128-byte swizzle; K-major for scores, MN-major for values, the same bytes. The
// rope columns of Q live in registers, which makes room for P1.
// Limits, on an H100: at 128 heads the chip's power and, nearly, L2 (2390 GB/s, 560 TFLOP/s, 84 % of L2; two queries 604 TFLOP/s); up to 64 rows
// the loads (2990 GB/s of 3350). With pages of 16 keys the loads, too: a box of 2 KB for each and slab (1940 GB/s). With FP8 widening (710 GB/s).
// Asking L2 for the next pair ahead (cp.async.bulk.prefetch.tensor) takes a third from the loads; FP8 parts asked for further ahead are no faster.
//
// Host contract. Q [B,Hq,Sq,576], cache [B,Sk,576], O [B,Hq,Sq,512], contiguous, 16-byte aligned; rows = Hq · Sq; scale > 0.
// Causal at the end: query i of a sequence of length L sees keys j ≤ i + L − Sq. A row that sees no key gives zeros.
//   mq, mk    4-d tensor maps over (64, rows or Sk, 9, B) elements, strides (1152, 128, 1152 · (rows or Sk)) bytes, box (64, 64, 1, 1),
//             128-byte swizzle, out of bounds zero
//   q         the same Q, for its rope columns
//   lengths   B numbers of valid keys, at most Sk, or null; what lies past a length may be anything
//   table     pages i32 [B, ⌈Sk / page⌉] of a cache [pool,page,576], page = 2^page_shift ≥ 8, or null; entries behind a sequence's last key
//             are not read. mk is then a map over (64, pool · page, 9, 1), box (64, min(page, 64), 1, 1)
//   partial   f32 [B·rows, splits, 512], stats f32x2 (maximum in log2 units, sum) [B·rows, splits]; unused if splits is 1. combine.cu
//             joins them.
//   grid (⌈rows / 64⌉, splits, B), block 384, dynamic shared memory 230912 bytes, 1 block an SM
// Entries rp_mla_decode_sm90_{bf16,f16}; with RP_KV8=1 rp_mla_decode_sm90_kv8_{bf16,f16} for a cache in e4m3:
//   mk        over bytes, strides (576, 64, 576 · rows), without a swizzle; box as before, of 64 bytes
//   scales    f32 [3], what stored Q, K and V are multiplied by; V is K and has the second
// Macros: RP_KV8 0 | 1.

#include "../common/flash_sm90.h"

#ifndef RP_KV8
#define RP_KV8 0
#endif
#ifndef RP_MLA
#define RP_MLA mla_sm90  // a program that includes this file several times names each
#endif

namespace RP_MLA {

using namespace hopper;

constexpr int ROWS = 64, KEYS = 64, QK = 576, PV = 512, SLAB = 64 * 128, SLABS = 9;
constexpr int SMEM_BYTES = (8 + 2 * SLABS + 2) * SLAB + 6 * ROWS * 4;
static_assert(SMEM_BYTES == 230912, "the host contract names this number");

// Named barriers between the two groups; each has one side that arrives and one that waits. That a shared P has been read needs none: its
// place is written again after scores for which a half was loaded that came free behind the product that read P.
enum { SCORED0 = 1, P0_READY, P1_READY, SUMS, TAKEN };
// Parts of a cache tile, loaded and freed on their own: columns 0–255, 256–511, 512–575.
enum { LEFT, RIGHT, ROPE };

struct Problem { int rows, queries, keys, splits; float scale, value; };  // `value`: what V is multiplied by

template <bool F16, bool KV8> struct Kernel {
    u32 q, k[2], p[2], bars;
    float *max0, *max1, *scale0, *scale1, *sums;  // a row's numbers on their way from one group to the other

    __device__ __forceinline__ explicit Kernel(unsigned char* smem) {
        q = smem_address(smem); k[0] = q + 8 * SLAB; k[1] = k[0] + SLABS * SLAB; p[0] = k[1] + SLABS * SLAB; p[1] = p[0] + SLAB;
        float* f = (float*)(smem + (p[1] + SLAB - q));
        max0 = f; max1 = f + ROWS; scale0 = f + 2 * ROWS; scale1 = f + 3 * ROWS; sums = f + 4 * ROWS;
        bars = p[1] + SLAB + 5 * ROWS * 4;
    }
    __device__ __forceinline__ u32 q_full() const { return bars; }
    __device__ __forceinline__ u32 full(int slot, int part) const { return bars + 8 + 8 * (3 * slot + part); }
    __device__ __forceinline__ u32 empty(int slot, int part) const { return bars + 56 + 8 * (3 * slot + part); }

    __device__ __forceinline__ u32 landed(int i = 0) const { return bars + 104 + 8 * i; }  // loads that are not yet what is read: of FP8, or of the last pair
    static __device__ __forceinline__ constexpr int first(int part) { return part == LEFT ? 0 : part == RIGHT ? 4 : 8; }
    static __device__ __forceinline__ constexpr int slabs(int part) { return part == ROPE ? 1 : 4; }

    __device__ __forceinline__ void init() const {
        barrier_init(q_full(), 1); barrier_init(landed(), 1); barrier_init(landed(1), 1);
        for (int s = 0; s < 2; s++) for (int part = 0; part < 3; part++) {
            barrier_init(full(s, part), KV8 ? 4 : 1);
            // Warps that read the part: the group that scores the slot, and for a half of V the group that owns that half.
            barrier_init(empty(s, part), part == ROPE || part == s ? 4 : 8);
        }
        barrier_init_fence();
    }

    __device__ __forceinline__ void load_query(const TensorMap* mq, int row, int batch) const {
        if (threadIdx.x) return;
        barrier_expect(q_full(), 8 * SLAB);
        for (int i = 0; i < 8; i++) load_slab(q + i * SLAB, mq, q_full(), row, i, batch);
    }

    // By a whole warp. Lane i knows where box i of a pair of tiles begins, asked for a pair ahead.
    __device__ __forceinline__ void produce(const TensorMap* mq, const TensorMap* mk, const Keys& keys, unsigned char* smem, int row, int batch, int begin, int end) const {
        const int lane = threadIdx.x, rows = keys.box(KEYS), boxes = KEYS / rows, pairs = (end - begin) / (2 * KEYS), rest = (end - begin) % (2 * KEYS);
        auto find = [&](int pair) { const int key = begin + pair * 2 * KEYS + lane * rows; return lane < 2 * boxes && key < end ? keys.row(key) : 0; };
        int here = find(0);
        load_query(mq, row, batch);
        // A part's barrier hears of the next load only when the part is free: until then the last load may still be on its way to it.
        auto load = [&](int slot, int part, int pair, u32 bar, int count, int expected) {
            barrier_wait(empty(slot, part), pair & 1 ^ 1);
            if (lane == 0 && expected) barrier_expect(bar, expected);
            load_boxes(k[slot] + first(part) * SLAB, mk, bar, here, slot * boxes, count, rows * 128, first(part), slabs(part), SLAB, keys.table ? 0 : batch);
        };
        for (int i = 0; i < pairs; i++) {
            const int next = find(i + 1);
            auto whole = [&](int slot, int part) { load(slot, part, i, full(slot, part), boxes, slabs(part) * SLAB); };
            // In the order in which the parts come free, which is also the order in which they are read.
            whole(0, ROPE); whole(0, LEFT); whole(1, ROPE); whole(0, RIGHT); whole(1, RIGHT); whole(1, LEFT);
            here = next;
        }
        if (!rest) return;
        // The last pair is not whole: only boxes that hold keys are loaded, to a barrier of their own, and what lies behind the last
        // key becomes zeros before the groups hear of a part. Slot 1's left half comes free only when slot 0 has been scored.
        const int even = (min(rest, KEYS) + rows - 1) / rows, odd = (max(rest - KEYS, 0) + rows - 1) / rows, bytes = rows * 128;
        auto part_of_rest = [&](int slot, int part) { load(slot, part, pairs, landed(), slot ? odd : even, 0); };
        auto hand_over = [&](int slot, int part) {
            zero_rows(smem + (k[slot] - q) + first(part) * SLAB, min(max(rest - slot * KEYS, 0), KEYS), KEYS, slabs(part), SLAB);
            release(full(slot, part));
        };
        if (lane == 0) barrier_expect(landed(), (SLABS * even + 5 * odd) * bytes);
        part_of_rest(0, ROPE); part_of_rest(0, LEFT); part_of_rest(1, ROPE); part_of_rest(0, RIGHT); part_of_rest(1, RIGHT);
        barrier_wait(landed(), 0);
        hand_over(0, LEFT); hand_over(0, ROPE); hand_over(0, RIGHT); hand_over(1, RIGHT); hand_over(1, ROPE);
        if (lane == 0) barrier_expect(landed(), 4 * odd * bytes);
        part_of_rest(1, LEFT);
        barrier_wait(landed(), 1);
        hand_over(1, LEFT);
    }

    // Parts of a pair of tiles, in the order in which they come free.
    struct Turn {
        int turn, pair;
        __device__ __forceinline__ int slot() const { return 0x34 >> turn & 1; }       // 0 0 1 0 1 1
        __device__ __forceinline__ int part() const { return 0x162 >> 2 * turn & 3; }  // rope, left, rope, right, right, left
        __device__ __forceinline__ void step() { if (++turn == 6) { turn = 0; pair++; } }
    };

    // FP8, by a warpgroup: the first warp loads each part into its own second half, and all widen it. One part is on its way while another
    // is widened, and two barriers are used in turn.
    __device__ __forceinline__ void produce_widened(const TensorMap* mq, const TensorMap* mk, const Keys& keys, unsigned char* smem, int row, int batch, int begin, int end) const {
        constexpr int BYTES = KEYS * 64;  // of a slab in FP8
        const int lane = threadIdx.x % 32, shift = keys.table ? min(keys.shift, 6) : 6, rows = 1 << shift, boxes = KEYS >> shift, pairs = (end - begin + 2 * KEYS - 1) / (2 * KEYS);
        auto find = [&](int pair) { const int key = begin + pair * 2 * KEYS + lane * rows; return threadIdx.x < 2 * boxes && key < end ? keys.row(key) : 0; };
        auto part_at = [&](Turn t) { return k[0] + (t.slot() * SLABS + first(t.part())) * SLAB; };
        auto source = [&](Turn t) { return part_at(t) + slabs(t.part()) * (SLAB - BYTES); };
        int here = 0, next = find(0);
        load_query(mq, row, batch);
        auto load = [&](Turn t) {
            if (threadIdx.x >= 32) return;
            if (t.turn == 0) { here = next; next = find(t.pair + 1); }
            barrier_wait(empty(t.slot(), t.part()), t.pair & 1 ^ 1);
            const int left = end - begin - (2 * t.pair + t.slot()) * KEYS, count = max(0, min(left, KEYS) + rows - 1) >> shift, bar = landed(t.turn % 2);
            if (lane == 0) barrier_expect(bar, count * rows * 64 * slabs(t.part()));
            load_boxes(source(t), mk, bar, here, t.slot() * boxes, count, rows * 64, first(t.part()), slabs(t.part()), BYTES, keys.table ? 0 : batch);
            __syncwarp();
        };
        load({0, 0});
#pragma unroll 1
        for (Turn t = {0, 0}; t.pair < pairs;) {
            Turn ahead = t;
            ahead.step();
            const bool late = ahead.turn == 5;  // slot 1's left half comes free last: nothing is to wait for that
            if (!late && ahead.pair < pairs) load(ahead);
            barrier_wait(landed(t.turn % 2), t.pair * 3 + t.turn / 2 & 1);
            widen_slabs<F16>(smem + (part_at(t) - q), slabs(t.part()), TAKEN);
            release(full(t.slot(), t.part()));
            if (late) load(ahead);
            t = ahead;
        }
    }

    struct State { float o[128]; float top[2], sum[2]; u32 rope[16]; int limit[2]; };

    __device__ __forceinline__ void scores_of(float (&s)[32], int slot, int half, bool first) const {
        const u32 a = renewed(q), b = renewed(k[slot]);
#pragma unroll
        for (int i = 0; i < 16; i++) {
            int slab = half * 4 + i / 4;
            mma_ss<64, F16>(s, descriptor(a + slab * SLAB + i % 4 * 32, 16, 1024), descriptor(b + slab * SLAB + i % 4 * 32, 16, 1024), !first || i > 0);
        }
    }
    // Q·Kᵀ of one tile, in the order in which its parts arrive.
    __device__ __forceinline__ void issue_scores(float (&s)[32], const State& w, int slot, int pair) const {
        int half = slot;  // the left half of an even tile is there first, the right half of an odd one
        barrier_wait(full(slot, half), pair & 1);
        wgmma_fence();
        scores_of(s, slot, half, true);
        barrier_wait(full(slot, ROPE), pair & 1);
        wgmma_fence();
        const u32 rope = renewed(k[slot] + 8 * SLAB);
#pragma unroll
        for (int i = 0; i < 4; i++) mma_rs_k<F16>(s, w.rope + 4 * i, descriptor(rope + i * 32, 16, 1024));
        barrier_wait(full(slot, half ^ 1), pair & 1);
        wgmma_fence();
        scores_of(s, slot, half ^ 1, false);
        wgmma_commit();
    }
    // P times a half of V: P as fragments, or where the other group shared it.
    __device__ __forceinline__ void issue_values(float (&o)[128], const u32 (&a)[16], int slot, int half) const {
        const u32 v = renewed(k[slot] + half * 4 * SLAB);
#pragma unroll
        for (int i = 0; i < 4; i++) mma_rs<256, F16>(o, a + 4 * i, descriptor(v + i * 2048, SLAB, 1024));
        wgmma_commit();
    }
    __device__ __forceinline__ void issue_values(float (&o)[128], int slot, int half) const {
        const u32 v = renewed(k[slot] + half * 4 * SLAB), shared = renewed(p[slot]);
#pragma unroll
        for (int i = 0; i < 4; i++) mma_ss_mn<F16>(o, descriptor(shared + i * 32, 16, 1024), descriptor(v + i * 2048, SLAB, 1024));
        wgmma_commit();
    }

    static __device__ __forceinline__ void to_p(const float (&s)[32], u32 (&a)[16]) {
#pragma unroll
        for (int i = 0; i < 16; i++) a[i] = pack<F16>(s[2 * i], s[2 * i + 1]);
    }
    // P as the K-major A operand: 64 rows of 128 bytes, swizzled. Word i of a thread: row 8·(i mod 2), columns 8·(i / 2).
    __device__ __forceinline__ void share_p(const u32 (&a)[16], unsigned char* smem, u32 where, int warp, int lane) const {
#pragma unroll
        for (int i = 0; i < 16; i++) {
            int row = warp * 16 + lane / 4 + i % 2 * 8;
            store_shared(smem + (where - q) + row * 128 + ((i / 2 ^ row & 7) << 4) + lane % 4 * 4, a[i]);
        }
        fence_async();
    }

    // Group 0: even tiles' scores, left half of the output. Its thread's place, and what one step leaves for the next.
    struct Left { int r0, warp, lane; float shrink[2]; float s[32]; u32 a[16]; };

    // From the scores of an even tile to its P, which group 1 is given with the maximum and the scale that it goes on from.
    __device__ __forceinline__ void left_softmax(State& w, Left& c, unsigned char* smem, float scale, int first) const {
        float top[2], base[2], sum[2];
        named_arrive(SCORED0, 256);
        release(empty(0, ROPE)); release(empty(0, RIGHT));
        mask(c.s, w.limit, first + c.lane % 4 * 2);
        row_maxima(c.s, top);
        top[0] = fmaxf(top[0], w.top[0]); top[1] = fmaxf(top[1], w.top[1]);
        shrinkage(w.top, top, base, c.shrink, scale);
        exponentials(c.s, base, sum, scale);
        w.sum[0] = w.sum[0] * c.shrink[0] + sum[0]; w.sum[1] = w.sum[1] * c.shrink[1] + sum[1];
        to_p(c.s, c.a);
        share_p(c.a, smem, p[0], c.warp, c.lane);
        if (c.lane % 4 == 0) { max0[c.r0] = top[0]; max0[c.r0 + 8] = top[1]; scale0[c.r0] = c.shrink[0]; scale0[c.r0 + 8] = c.shrink[1]; }
        named_arrive(P0_READY, 256);
    }
    // Both tiles' P times the left half of V; the second product is left in flight.
    __device__ __forceinline__ void left_values(State& w, Left& c, int pair) const {
        rescale(w.o, c.shrink[0], c.shrink[1]);
        wgmma_fence();
        issue_values(w.o, c.a, 0, LEFT);
        wgmma_wait<0>(); pin(w.o);
        release(empty(0, LEFT));
        named_sync(P1_READY, 256);
        const float s0 = scale1[c.r0], s1 = scale1[c.r0 + 8];
        w.top[0] = max1[c.r0]; w.top[1] = max1[c.r0 + 8];
        w.sum[0] *= s0; w.sum[1] *= s1;
        rescale(w.o, s0, s1);
        barrier_wait(full(1, LEFT), pair & 1);
        wgmma_fence();
        issue_values(w.o, 1, LEFT);
    }
    // Nothing is in flight where the loop turns: ptxas serialises every wgmma of a function that lets an accumulator cross.
    __device__ __forceinline__ void consume_left(State& w, unsigned char* smem, float scale, int begin, int pairs, int warp, int lane) const {
        Left c; c.r0 = warp * 16 + lane / 4; c.warp = warp; c.lane = lane;
        issue_scores(c.s, w, 0, 0);
        wgmma_wait<0>(); pin(c.s);
        left_softmax(w, c, smem, scale, begin);
        for (int i = 0; i < pairs - 1; i++) {
            left_values(w, c, i);
            issue_scores(c.s, w, 0, i + 1);
            wgmma_wait<1>(); pin(w.o);
            release(empty(1, LEFT));
            wgmma_wait<0>(); pin(c.s);
            left_softmax(w, c, smem, scale, begin + 2 * (i + 1) * KEYS);
        }
        left_values(w, c, pairs - 1);
        wgmma_wait<0>(); pin(w.o);
    }

    // Group 1: odd tiles' scores, right half of the output. Its softmax runs under the even tile's product.
    __device__ __forceinline__ void consume_right(State& w, unsigned char* smem, float scale, int begin, int pairs, int warp, int lane) const {
        const int r0 = warp * 16 + lane / 4, r1 = r0 + 8, column = lane % 4 * 2;
        float s[32]; u32 a[16];
        for (int i = 0; i < pairs; i++) {
            float top[2], older[2], base[2], shrink[2], sum[2];
            named_sync(SCORED0, 256);  // the even tile's scores first: this group's run under its softmax
            issue_scores(s, w, 1, i);
            wgmma_wait<0>(); pin(s);
            release(empty(1, ROPE)); release(empty(1, LEFT));
            named_sync(P0_READY, 256);
            older[0] = max0[r0]; older[1] = max0[r1];
            const float first0 = scale0[r0], first1 = scale0[r1];
            rescale(w.o, first0, first1);
            barrier_wait(full(0, RIGHT), i & 1);
            wgmma_fence();
            issue_values(w.o, 0, RIGHT);
            mask(s, w.limit, begin + (2 * i + 1) * KEYS + column);
            row_maxima(s, top);
            top[0] = fmaxf(top[0], older[0]); top[1] = fmaxf(top[1], older[1]);
            shrinkage(older, top, base, shrink, scale);
            exponentials(s, base, sum, scale);
            w.sum[0] = w.sum[0] * (first0 * shrink[0]) + sum[0]; w.sum[1] = w.sum[1] * (first1 * shrink[1]) + sum[1];
            w.top[0] = top[0]; w.top[1] = top[1];
            to_p(s, a);
            share_p(a, smem, p[1], warp, lane);
            if (lane % 4 == 0) { max1[r0] = top[0]; max1[r1] = top[1]; scale1[r0] = shrink[0]; scale1[r1] = shrink[1]; }
            named_arrive(P1_READY, 256);
            wgmma_wait<0>(); pin(w.o);
            release(empty(0, RIGHT));
            rescale(w.o, shrink[0], shrink[1]);
            barrier_wait(full(1, RIGHT), i & 1);
            wgmma_fence();
            issue_values(w.o, a, 1, RIGHT);
            wgmma_wait<0>(); pin(w.o);
            release(empty(1, RIGHT));
        }
    }

    __device__ __forceinline__ void consume(const u16* query, u16* o, float* partial, float2* stats, const Problem& p_, unsigned char* smem, int group, int row, int batch,
                                            int length, int begin, int end, int pairs, int split) const {
        const int warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32, r0 = row + warp * 16 + lane / 4;
        State w;
#pragma unroll
        for (int i = 0; i < 128; i++) w.o[i] = 0;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            w.top[r] = minus_infinity(); w.sum[r] = 0;
            w.limit[r] = min(end, length - p_.queries + (r0 + 8 * r) % p_.queries + 1);
        }
#pragma unroll
        for (int i = 0; i < 16; i++) {  // fragment word i of step i / 4: row 8·(i mod 2), columns 16·(i / 4) + 8·(i / 2 mod 2)
            int at = r0 + i % 2 * 8;
            w.rope[i] = at < p_.rows ? *(const u32*)(query + ((u64)batch * p_.rows + at) * QK + PV + i / 4 * 16 + i / 2 % 2 * 8 + lane % 4 * 2) : 0;
        }
        const float scale = p_.scale * 1.4426950408889634f;
        if (pairs) {
            barrier_wait(q_full(), 0);
            if (group == 0) consume_left(w, smem, scale, begin, pairs, warp, lane); else consume_right(w, smem, scale, begin, pairs, warp, lane);
        }
        // Each group summed its own tiles; together they are the denominator. Both maxima are the second group's by now.
#pragma unroll
        for (int r = 0; r < 2; r++) { w.sum[r] += __shfl_xor_sync(~0u, w.sum[r], 1); w.sum[r] += __shfl_xor_sync(~0u, w.sum[r], 2); }
        float* own = group ? sums : max0; float* other = group ? max0 : sums;
        named_sync(SUMS, 256);  // max0 has been read for the last time
        if (lane % 4 == 0) { own[warp * 16 + lane / 4] = w.sum[0]; own[warp * 16 + lane / 4 + 8] = w.sum[1]; }
        named_sync(SUMS, 256);
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const float sum = w.sum[r] + other[warp * 16 + lane / 4 + 8 * r];
            const int at = r0 + 8 * r;
            if (at >= p_.rows) continue;
            const u64 out = (u64)batch * p_.rows + at;
            if (p_.splits == 1) {
                const float inverse = sum > 0 ? p_.value / sum : 0;
#pragma unroll
                for (int i = 0; i < 32; i++) *(u32*)(o + out * PV + group * 256 + i * 8 + lane % 4 * 2) = pack<F16>(w.o[4 * i + 2 * r] * inverse, w.o[4 * i + 2 * r + 1] * inverse);
            } else {
#pragma unroll
                for (int i = 0; i < 32; i++) *(float2*)(partial + (out * p_.splits + split) * PV + group * 256 + i * 8 + lane % 4 * 2) = make_float2(w.o[4 * i + 2 * r] * p_.value, w.o[4 * i + 2 * r + 1] * p_.value);
                if (group == 0 && lane % 4 == 0) stats[out * p_.splits + split] = make_float2(w.top[r] * scale, sum);
            }
        }
    }
};

template <bool F16, bool KV8>
RP_DEVICE void run(const TensorMap* mq, const TensorMap* mk, const u16* q, u16* o, float* partial, float2* stats, const int* lengths, Keys keys, Problem p) {
    RP_DYNAMIC_SMEM(smem, 1024);
    Kernel<F16, KV8> kernel(smem);
    const int row = blockIdx.x * ROWS, split = blockIdx.y, batch = blockIdx.z, length = lengths ? min(lengths[batch], p.keys) : p.keys;
    const int span = ((length + p.splits - 1) / p.splits + 2 * KEYS - 1) / (2 * KEYS) * (2 * KEYS), begin = min(length, split * span), end = min(length, begin + span);
    const int pairs = (end - begin + 2 * KEYS - 1) / (2 * KEYS);
    if (keys.table) keys.table += (u64)batch * ((p.keys - 1 >> keys.shift) + 1);
    if (threadIdx.x == 0) kernel.init();
    __syncthreads();
    if (threadIdx.x < 128) {
        registers_give<KV8 ? 40 : 24>();  // widening takes more than asking for loads
        if constexpr (KV8) {
            if (pairs) kernel.produce_widened(mq, mk, keys, smem, row, batch, begin, end);
        } else if (threadIdx.x < 32 && pairs) kernel.produce(mq, mk, keys, smem, row, batch, begin, end);
    } else {
        registers_take<KV8 ? 232 : 240>();
        kernel.consume(q, o, partial, stats, p, smem, (int)threadIdx.x / 128 - 1, row, batch, length, begin, end, pairs, split);
    }
}

}  // namespace RP_MLA

// `scales` of FP8 alone.
#define RP_ENTRY(NAME, F16)                                                                                                        \
    extern "C" __global__ void __launch_bounds__(384, 1) NAME(const __grid_constant__ TensorMap mq, const __grid_constant__ TensorMap mk, const u16* q, u16* o, float* partial, \
        float2* stats, const int* lengths, const int* table, const float* scales, int page_shift, int rows, int queries, int keys, int splits, float scale) { \
        const float value = RP_KV8 ? scales[1] : 1;                                                                                \
        RP_MLA::run<F16, RP_KV8>(&mq, &mk, q, o, partial, stats, lengths, {table, page_shift, 1, 0}, {rows, queries, keys, splits, RP_KV8 ? scale * scales[0] * value : scale, value}); \
    }
#if RP_KV8
RP_ENTRY(rp_mla_decode_sm90_kv8_bf16, false)
RP_ENTRY(rp_mla_decode_sm90_kv8_f16, true)
#else
RP_ENTRY(rp_mla_decode_sm90_bf16, false)
RP_ENTRY(rp_mla_decode_sm90_f16, true)
#endif
#undef RP_ENTRY
#undef RP_KV8
#undef RP_MLA
