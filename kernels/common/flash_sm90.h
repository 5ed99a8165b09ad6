// What Hopper's attention kernels do alike, whatever the type of their operands: the order in which a chip walks the tiles, the online softmax
// of a warpgroup over its accumulators, and how warpgroups take turns.
#pragma once
#include "../common/nvidia.h"

namespace hopper {

constexpr int ROWS = 64;             // query rows of one consumer warpgroup: the M of wgmma
#ifndef RP_L2_BUDGET
#define RP_L2_BUDGET (32 << 20)
#endif
constexpr u64 L2_BUDGET = RP_L2_BUDGET;  // K and V of the heads walked together stay below this, of Hopper's 50 MB

struct Problem { int heads, group, queries, keys; float scale; };

// What the tile with this row block can see: its keys end at `end`, its blocks of N count `blocks`.
template <int N, bool CAUSAL, int TILE> RP_DEVICE int block_count(const Problem& p, int row) {
    int end = p.keys;
    if (CAUSAL) { int last = min(row + TILE, p.queries) + p.keys - p.queries; end = max(0, min(end, last)); }
    return (end + N - 1) / N;
}

// Tile t, whose keys have `bytes` each of K and V. Heads are taken in sections whose K and V fit in L2, and in a section the longest rows
// first, so that blocks end together.
template <int TILE> RP_DEVICE bool place(const Problem& p, int bytes, int t, int& row, int& head) {
    int row_blocks = (p.queries + TILE - 1) / TILE;
    if (t >= row_blocks * p.heads) return false;
    u64 per_head = (u64)p.keys * bytes / p.group;
    int section = max(1, (int)min((u64)p.heads, L2_BUDGET / max((u64)1, per_head)));
    int first = t / (section * row_blocks) * section, width = min(section, p.heads - first);
    t -= first * row_blocks;
    row = (row_blocks - 1 - t / width) * TILE; head = first + t % width;
    return true;
}

// What only a general kernel is told.
struct Extra { const int *lengths, *table; const float* sinks; int page_shift, heads_q, window; };

// The first block that the tile's first row can see through its window.
template <int N> RP_DEVICE int first_block(const Problem& p, int window, int row) { return window ? max(0, row + p.keys - p.queries + 1 - window) / N : 0; }

// Through a window: a warpgroup's blocks from `whole` on, which begin in the window of each of its rows, and how far a row sees.
template <int N> struct Window {
    int first = 0, whole = 0, reach = 1 << 30;
    __device__ __forceinline__ Window(const Problem& p, int window, int row, int group) {
        if (!window) return;
        first = first_block<N>(p, window, row); reach = window;
        whole = max(0, row + group * ROWS + ROWS - 1 + p.keys - p.queries + 1 - window + N - 1) / N;
    }
};

// Loads tiles of N keys of a key head's, of which there are `end`: by a warp if GENERAL, else by a thread. Lane i knows where box i begins.
// A map has rows of all columns in slabs, or (PADDED) in one that ends within a slab of 64 halves.
template <int N, bool GENERAL, bool PADDED = false> struct Loader {
    Keys keys; int lane, rows, end, head; bool paged;
    __device__ __forceinline__ Loader(const Problem& all, const Extra& x, int end, int kv_head) : end(end), head(kv_head) {
        const int heads = GENERAL ? x.heads_q / all.group : 1;
        lane = threadIdx.x; paged = GENERAL && x.table;
        keys = {paged ? x.table + (u64)(kv_head / heads) * ((all.keys - 1 >> x.page_shift) + 1) : nullptr, x.page_shift, heads, kv_head % heads};
        rows = GENERAL ? keys.box(N) : N;
    }
    __device__ __forceinline__ int find(int n, int first) const { const int key = n * N + lane * rows; return paged && lane < N / rows && n >= first && key < end ? keys.row(key) : 0; }
    // Boxes without a key are left out: of K what lies there instead is masked, of V it becomes zeros. `line`: bytes of a slab's row.
    __device__ __forceinline__ void load(u32 tile, const TensorMap* map, u32 bar, int n, int here, int slabs, int line) const {
        const int boxes = paged ? min(N, end - n * N + rows - 1) / rows : 1;
        const u32 slab = N * line;
        if (lane == 0) barrier_expect(bar, boxes * rows * slabs * line);
        if (paged) load_boxes<PADDED>(tile, map, bar, here, 0, boxes, rows * line, 0, slabs, slab, 0);
        else if (lane == 0 && PADDED) for (int j = 0; j < slabs; j++) load_columns(tile + j * slab, map, bar, j * 64, n * N, head);
        else if (lane == 0) load_tile(tile, map, bar, n * N, head);
        if (GENERAL) __syncwarp();  // or a lane that lags would find a barrier two phases on, and wait for ever
    }
};

// A sink joins a row's sum: by what its output and sum are then to be multiplied. `top` in log2 units, as what `sum` is relative to.
RP_DEVICE float join_sink(float top, float& sum, float sink) {
    sink *= 1.4426950408889634f;
    const float both = fmaxf(top, sink), factor = exp2_approx(top - both);
    sum = sum * factor + exp2_approx(sink - both);
    return factor;
}

// What a warpgroup whose first row is `row` sees: blocks of N below `unmasked` are seen whole by every row of it, and a thread's two rows
// see what lies before `limit0` and `limit1`, counted from its first column.
template <int N, bool CAUSAL> struct Sight {
    int unmasked, limit0, limit1;
    __device__ __forceinline__ Sight(const Problem& p, int row, int warp, int lane) {
        int mine = row + warp * 16 + lane / 4;  // this thread's first row
        int visible = CAUSAL ? min(p.keys, row + p.keys - p.queries + 1) : p.keys;
        unmasked = max(visible, 0) / N;
        limit0 = CAUSAL ? min(p.keys, mine + p.keys - p.queries + 1) : p.keys;
        limit1 = CAUSAL ? min(p.keys, mine + 8 + p.keys - p.queries + 1) : p.keys;
        limit0 -= lane % 4 * 2; limit1 -= lane % 4 * 2;
    }
};

// 2^x for finite x by fused multiply-adds, to 0.2 %; below 2^−126 that.
RP_DEVICE float exp2_by_fma(float x) {
    constexpr float NEAREST = 12582912.f;  // 1.5 · 2^23: a sum with it has the integer in its last bits
    x = fmaxf(x, -126.f);
    const float t = x + NEAREST, f = x - (t - NEAREST);
    return float_of(bits_of(fmaf(fmaf(0.23842894f, f, 0.703448f), f, 1.0004431f)) + (bits_of(t) << 23));
}

// Masks, updates the running maximum and sum, and turns scores into probabilities times 2^RAISED; returns by how much older output shrinks.
// A scheduler has one warp of each group, so four chains (two rows, even and odd columns) hide the latency of max and add.
// A thread's rows see columns from limit − reach (of a window) to before limit.
// LEAN: a quarter of the exponentials is fused multiply-adds, which the special function unit is too slow for beside FP8 products, and the
// maximum stays what it was until a score is 2^SLACK above it: then most blocks need no rescaling, and probabilities are up to 2^(RAISED + SLACK).
constexpr int SLACK = 4;
template <int N, bool MASK, bool WINDOW, int RAISED = 0, bool LEAN = false>
RP_DEVICE void softmax(float (&s)[N / 2], float (&tops)[2], float (&sums)[2], float (&shrink)[2], float scale, int limit0, int limit1, int reach) {
    float top[4] = {tops[0], tops[0], tops[1], tops[1]}, sum[4] = {}, base[2];
#pragma unroll
    for (int i = 0; i < N / 2; i++) {  // element i: row i / 2 % 2, column i / 4 · 8 + i % 2
        if (MASK && i / 4 * 8 + i % 2 >= (i & 2 ? limit1 : limit0)) s[i] = minus_infinity();
        if (MASK && WINDOW && i / 4 * 8 + i % 2 < (i & 2 ? limit1 : limit0) - reach) s[i] = minus_infinity();
        top[i % 4] = fmaxf(top[i % 4], s[i]);
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float m = fmaxf(top[2 * r], top[2 * r + 1]);
        m = fmaxf(m, __shfl_xor_sync(~0u, m, 1));
        m = fmaxf(m, __shfl_xor_sync(~0u, m, 2));
        if (LEAN && !((m - tops[r]) * scale > SLACK)) m = tops[r];
        base[r] = MASK && m == minus_infinity() ? 0.f : m * scale;  // no key yet: −∞ − −∞ would be NaN
        shrink[r] = LEAN && m == tops[r] ? 1.f : exp2_approx(fmaf(tops[r], scale, -base[r]));
        tops[r] = m;
        if (RAISED) base[r] -= RAISED;
    }
#pragma unroll
    for (int i = 0; i < N / 2; i++) {
        const float x = fmaf(s[i], scale, -base[i / 2 % 2]);
        s[i] = LEAN && !MASK && i / 4 % 4 == 3 ? exp2_by_fma(x) : exp2_approx(x);
        sum[i % 4] += s[i];
    }
#pragma unroll
    for (int r = 0; r < 2; r++) sums[r] = fmaf(sums[r], shrink[r], sum[2 * r] + sum[2 * r + 1]);
}

// The same step by step, for groups that pass maxima and scales on to each other: a thread's part of 64 rows of 64 scores.
// Keys from each row's limit on are not seen; `first` is the key of the thread's first column.
RP_DEVICE void mask(float (&s)[32], const int (&limit)[2], int first) {
#pragma unroll
    for (int i = 0; i < 32; i++) if (first + i / 4 * 8 + i % 2 >= limit[i / 2 % 2]) s[i] = minus_infinity();
}
RP_DEVICE void row_maxima(const float (&s)[32], float (&top)[2]) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float a = s[2 * r], b = s[2 * r + 1];
#pragma unroll
        for (int i = 1; i < 8; i++) { a = fmaxf(a, s[4 * i + 2 * r]); b = fmaxf(b, s[4 * i + 2 * r + 1]); }
        a = fmaxf(a, b);
        a = fmaxf(a, __shfl_xor_sync(~0u, a, 1));
        top[r] = fmaxf(a, __shfl_xor_sync(~0u, a, 2));
    }
}
// What the older maximum's numbers are worth under the new one; `base` is the new one, ready to subtract.
RP_DEVICE void shrinkage(const float (&older)[2], const float (&top)[2], float (&base)[2], float (&shrink)[2], float scale) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        base[r] = top[r] == minus_infinity() ? 0.f : top[r] * scale;  // no key yet: −∞ − −∞ would be NaN
        shrink[r] = exp2_approx(fmaf(older[r], scale, -base[r]));
    }
}
RP_DEVICE void exponentials(float (&s)[32], const float (&base)[2], float (&sum)[2], float scale) {
    sum[0] = sum[1] = 0;
#pragma unroll
    for (int i = 0; i < 32; i++) { s[i] = exp2_approx(fmaf(s[i], scale, -base[i / 2 % 2])); sum[i / 2 % 2] += s[i]; }
}
template <int COUNT> RP_DEVICE void rescale(float (&o)[COUNT], float f0, float f1) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) o[i] *= i & 2 ? f1 : f0;
}

// The turn to issue products goes round among the groups of 128 threads, by named barriers 1 on.
RP_DEVICE void turn_wait(int group) { named_sync(1 + group, 256); }
template <int GROUPS> RP_DEVICE void turn_pass(int group) { named_arrive(1 + (group + 1) % GROUPS, 256); }
// A warp is done with what an mbarrier guards.
RP_DEVICE void release(u32 bar) { __syncwarp(); if (threadIdx.x % 32 == 0) barrier_arrive(bar); }

}  // namespace hopper
