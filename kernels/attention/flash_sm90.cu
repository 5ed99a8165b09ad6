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
// Limits: the tensor core; at N = 176 the exponentials take half as long as the products and hide behind them.
//
// Host contract. Q [B,Hq,Sq,D], K and V [B,Hkv,Sk,D], O like Q, contiguous, 16-byte aligned; Hq a multiple of Hkv; scale > 0.
// Causal is aligned at the end: query i sees keys j ≤ i + Sk − Sq. A row that sees no key gives zeros.
//   q, k, v   4-d tensor maps over (64, S, D/64, B·H) elements, strides (2D, 128, 2·S·D) bytes, 128-byte swizzle, no interleave,
//             out-of-bounds zero; box (64, 64, D/64, 1) for q, (64, N, D/64, 1) for k and v.
//   o         output; heads = B·Hq; group = Hq / Hkv
//   counter   two u32, zero before the first launch; the kernel leaves them zero. One pair for each launch in flight.
//   grid min(SMs, tiles), block 384, dynamic shared memory 128·D·2 + 8·N·D + 128 bytes (smem_bytes below), 1 block an SM.
// Entries rp_flash_sm90_{bf16,f16}_d{128,64}_{full,causal}; N = 176 for full, 128 for causal.

#ifndef RP_SHORT_TYPES
#define RP_SHORT_TYPES
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
#endif
#ifndef RP_DYNAMIC_SMEM
#define RP_DYNAMIC_SMEM(NAME, ALIGN) extern __shared__ __align__(ALIGN) unsigned char NAME[]
#endif
#ifndef RP_DEVICE
#define RP_DEVICE static __device__ __forceinline__
#endif

#ifndef RP_TENSOR_MAP
#define RP_TENSOR_MAP
struct __align__(64) TensorMap { u64 opaque[16]; };
#endif

namespace flash_sm90 {

#ifndef RP_HOST_FIBRES  // on the host, kernels/fibres/cuda.h stands in for everything down to the matching #endif

RP_DEVICE u32 smem_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// ---- mbarriers and TMA ----------------------------------------------------------------------------------------------------

RP_DEVICE void barrier_init(u32 bar, u32 count) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count)); }
RP_DEVICE void barrier_arrive(u32 bar) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory"); }
RP_DEVICE void barrier_expect(u32 bar, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}
RP_DEVICE void barrier_wait(u32 bar, u32 parity) {
#ifdef RP_SPIN_LIMIT
    u32 spins = 0;
#endif
    for (u32 done = 0; !done;) {
        asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
                     : "=r"(done) : "r"(bar), "r"(parity) : "memory");
#ifdef RP_SPIN_LIMIT
        // A lost arrival ends in a fault, not in a hang. (A trap here would make ptxas give up on setmaxnreg and serialise wgmma.)
        if (!done && ++spins > RP_SPIN_LIMIT) *(volatile u32*)0 = 1;
#endif
    }
}
RP_DEVICE void load_tile(u32 dst, const TensorMap* map, u32 bar, int row, int head) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %3, %5}], [%2];"
                 ::"r"(dst), "l"(map), "r"(bar), "r"(0), "r"(row), "r"(head) : "memory");
}

// ---- wgmma ----------------------------------------------------------------------------------------------------------------

RP_DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
RP_DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int PENDING> RP_DEVICE void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory"); }

// Tells the compiler that the values change here, so that no use of an accumulator moves above the wait that completes it.
template <int COUNT> RP_DEVICE void pin(float (&r)[COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) asm volatile("" : "+f"(r[i])::"memory");
}

#define RP_TEN(t) "%" #t "0,%" #t "1,%" #t "2,%" #t "3,%" #t "4,%" #t "5,%" #t "6,%" #t "7,%" #t "8,%" #t "9"
#define RP_LIST32 RP_TEN() "," RP_TEN(1) "," RP_TEN(2) ",%30,%31"
#define RP_LIST40 RP_TEN() "," RP_TEN(1) "," RP_TEN(2) "," RP_TEN(3)
#define RP_F40(d) RP_F32(d), RP_F8(d, 32)
#define RP_LIST80 RP_TEN() "," RP_TEN(1) "," RP_TEN(2) "," RP_TEN(3) "," RP_TEN(4) "," RP_TEN(5) "," RP_TEN(6) "," RP_TEN(7)
#define RP_F80(d) RP_F64(d), RP_F8(d, 64), RP_F8(d, 72)
#define RP_LIST64 RP_TEN() "," RP_TEN(1) "," RP_TEN(2) "," RP_TEN(3) "," RP_TEN(4) "," RP_TEN(5) ",%60,%61,%62,%63"
#define RP_LIST88 RP_TEN() "," RP_TEN(1) "," RP_TEN(2) "," RP_TEN(3) "," RP_TEN(4) "," RP_TEN(5) "," RP_TEN(6) "," RP_TEN(7) \
    ",%80,%81,%82,%83,%84,%85,%86,%87"
#define RP_F8(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define RP_F32(d) RP_F8(d, 0), RP_F8(d, 8), RP_F8(d, 16), RP_F8(d, 24)
#define RP_F64(d) RP_F32(d), RP_F8(d, 32), RP_F8(d, 40), RP_F8(d, 48), RP_F8(d, 56)
#define RP_F88(d) RP_F64(d), RP_F8(d, 64), RP_F8(d, 72), RP_F8(d, 80)

// Both operands from shared memory, both K-major.
#define RP_SS(N, T, LIST, F, A, B, P)                                                                                             \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #P ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N "k16.f32." T "." T           \
                 " {" LIST "}, %" #A ", %" #B ", p, 1, 1, 0, 0;\n}" : F(d) : "l"(a), "l"(b), "r"(accumulate))
// A from registers, B MN-major from shared memory.
#define RP_RS(N, T, LIST, F, A0, A1, A2, A3, B)                                                                                   \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." T "." T " {" LIST "}, {%" #A0 ",%" #A1 ",%" #A2 ",%" #A3 "}, %" #B \
                 ", 1, 1, 1, 1;" : F(d) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))

template <int N, bool F16> RP_DEVICE void mma_ss(float (&d)[N / 2], u64 a, u64 b, int accumulate) {
    static_assert(N == 64 || N == 80 || N == 128 || N == 160 || N == 176, "add the operand list of this width");
    if constexpr (N == 64) { if constexpr (F16) RP_SS(64, "f16", RP_LIST32, RP_F32, 32, 33, 34); else RP_SS(64, "bf16", RP_LIST32, RP_F32, 32, 33, 34); }
    if constexpr (N == 80) RP_SS(80, "bf16", RP_LIST40, RP_F40, 40, 41, 42);
    if constexpr (N == 160) RP_SS(160, "bf16", RP_LIST80, RP_F80, 80, 81, 82);
    if constexpr (N == 128) { if constexpr (F16) RP_SS(128, "f16", RP_LIST64, RP_F64, 64, 65, 66); else RP_SS(128, "bf16", RP_LIST64, RP_F64, 64, 65, 66); }
    if constexpr (N == 176) { if constexpr (F16) RP_SS(176, "f16", RP_LIST88, RP_F88, 88, 89, 90); else RP_SS(176, "bf16", RP_LIST88, RP_F88, 88, 89, 90); }
}
template <int N, bool F16> RP_DEVICE void mma_rs(float (&d)[N / 2], const u32* a, u64 b) {
    static_assert(N == 64 || N == 128, "add the operand list of this width");
    if constexpr (N == 64) { if constexpr (F16) RP_RS(64, "f16", RP_LIST32, RP_F32, 32, 33, 34, 35, 36); else RP_RS(64, "bf16", RP_LIST32, RP_F32, 32, 33, 34, 35, 36); }
    if constexpr (N == 128) { if constexpr (F16) RP_RS(128, "f16", RP_LIST64, RP_F64, 64, 65, 66, 67, 68); else RP_RS(128, "bf16", RP_LIST64, RP_F64, 64, 65, 66, 67, 68); }
}

// ---- numbers --------------------------------------------------------------------------------------------------------------

RP_DEVICE float exp2_approx(float x) { float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
template <bool F16> RP_DEVICE u32 pack(float low, float high) {
    u32 r;
    if constexpr (F16) asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    else asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}
RP_DEVICE float minus_infinity() { return __int_as_float((int)0xFF800000u); }

RP_DEVICE void barrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
template <int REGISTERS> RP_DEVICE void registers_give() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS)); }
template <int REGISTERS> RP_DEVICE void registers_take() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS)); }
RP_DEVICE void named_sync(int barrier, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory"); }
RP_DEVICE void named_arrive(int barrier, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory"); }

// Holds what `sum` was computed from above the next wait: a store that would happen only if it were negative, and a sum of
// exponentials never is. Without it ptxas sinks the exponentials below the wait for P·V, where they overlap nothing.
RP_DEVICE void compute_before_wait(float sum, u32 scratch) {
    asm volatile("{\n.reg .pred p;\nsetp.lt.f32 p, %0, 0f00000000;\n@p st.shared.f32 [%1], %0;\n}" ::"f"(sum), "r"(scratch) : "memory");
}
#endif

// Start address, leading and stride offsets in 16-byte units; bit 62 chooses the 128-byte swizzle.
RP_DEVICE u64 descriptor(u32 address, u32 leading, u32 stride) {
    return (u64)((address >> 4) & 0x3FFF) | (u64)(leading >> 4) << 16 | (u64)(stride >> 4) << 32 | 1ull << 62;
}

// ---- the kernel -----------------------------------------------------------------------------------------------------------

constexpr int ROWS = 64;             // query rows of one consumer warpgroup: the M of wgmma
constexpr int STAGES = 2;            // K tiles and V tiles in flight; a third does not fit beside N = 176
constexpr u64 L2_BUDGET = 32 << 20;  // K and V of the heads walked together stay below this, of Hopper's 50 MB

template <int D, int N, int GROUPS> __host__ __device__ constexpr int smem_bytes() { return GROUPS * ROWS * D * 2 + 2 * STAGES * N * D * 2 + 128; }

struct Problem { int heads, group, queries, keys; float scale; };


// What the tile with this row block can see: its keys end at `end`, its blocks of N count `blocks`.
template <int N, bool CAUSAL, int TILE> RP_DEVICE int block_count(const Problem& p, int row) {
    int end = p.keys;
    if (CAUSAL) { int last = min(row + TILE, p.queries) + p.keys - p.queries; end = max(0, min(end, last)); }
    return (end + N - 1) / N;
}

template <int D, int N, bool CAUSAL, bool F16, int GROUPS, int TUNE>
struct Kernel {
    static constexpr int TILE = GROUPS * ROWS, TILE_BYTES = N * D * 2, Q_BYTES = ROWS * D * 2;
    static constexpr u32 SLAB = N * 128;  // one 64-column slab of a K or V tile
    u32 q, k, v, bars;
    int* tile;

    __device__ __forceinline__ explicit Kernel(unsigned char* smem) {
        q = smem_address(smem); k = q + GROUPS * Q_BYTES; v = k + STAGES * TILE_BYTES; bars = v + STAGES * TILE_BYTES;
        tile = (int*)(smem + (bars - q) + 96);
    }
    __device__ __forceinline__ u32 q_full() const { return bars; }
    __device__ __forceinline__ u32 q_empty() const { return bars + 8; }
    __device__ __forceinline__ u32 k_full(u32 s) const { return bars + 16 + 8 * s; }
    __device__ __forceinline__ u32 k_empty(u32 s) const { return bars + 16 + 8 * (STAGES + s); }
    __device__ __forceinline__ u32 v_full(u32 s) const { return bars + 16 + 8 * (2 * STAGES + s); }
    __device__ __forceinline__ u32 v_empty(u32 s) const { return bars + 16 + 8 * (3 * STAGES + s); }

    __device__ __forceinline__ void init() const {
        barrier_init(q_full(), 1); barrier_init(q_empty(), GROUPS * 4);
        for (u32 s = 0; s < STAGES; s++) {
            barrier_init(k_full(s), 1); barrier_init(v_full(s), 1);
            barrier_init(k_empty(s), GROUPS * 4); barrier_init(v_empty(s), GROUPS * 4);
        }
        barrier_init_fence();
    }

    // Heads are taken in sections whose K and V fit in L2, and in a section the longest rows first, so that blocks end together.
    __device__ __forceinline__ bool place(const Problem& p, int t, int& row, int& head) const {
        int row_blocks = (p.queries + TILE - 1) / TILE;
        if (t >= row_blocks * p.heads) return false;
        u64 per_head = (u64)p.keys * D * 4 / p.group;
        int section = max(1, (int)min((u64)p.heads, L2_BUDGET / max((u64)1, per_head)));
        int first = t / (section * row_blocks) * section, width = min(section, p.heads - first);
        t -= first * row_blocks;
        row = (row_blocks - 1 - t / width) * TILE; head = first + t % width;
        return true;
    }

    __device__ __forceinline__ void produce(const Problem& p, const TensorMap* mq, const TensorMap* mk, const TensorMap* mv, u32* counter) const {
        u32 kc = 0, vc = 0;
        for (u32 q_parity = 1;; q_parity ^= 1) {
            int row = -1, head = 0, blocks = 0;
            bool more = place(p, (int)atomicAdd(counter, 1), row, head);
            if (more) blocks = block_count<N, CAUSAL, TILE>(p, row);
            int kv_head = head / p.group;
            auto load_k = [&](int n) {
                u32 s = kc % STAGES; barrier_wait(k_empty(s), kc / STAGES & 1 ^ 1); kc++;
                barrier_expect(k_full(s), TILE_BYTES); load_tile(k + s * TILE_BYTES, mk, k_full(s), n * N, kv_head);
            };
            auto load_v = [&](int n) {
                u32 s = vc % STAGES; barrier_wait(v_empty(s), vc / STAGES & 1 ^ 1); vc++;
                barrier_expect(v_full(s), TILE_BYTES); load_tile(v + s * TILE_BYTES, mv, v_full(s), n * N, kv_head);
            };
            if (blocks) load_k(blocks - 1);
            barrier_wait(q_empty(), q_parity);
            tile[0] = row; tile[1] = head;  // published by the arrival below
            if (blocks) {
                barrier_expect(q_full(), GROUPS * Q_BYTES);
                for (int g = 0; g < GROUPS; g++) load_tile(q + g * Q_BYTES, mq, q_full(), row + g * ROWS, head);
            } else barrier_arrive(q_full());
            for (int n = blocks - 2; n >= 0; n--) { load_k(n); load_v(n + 1); }
            if (blocks) load_v(0);
            if (!more) break;
        }
        // The last block to finish leaves the counters as it found them.
        if (atomicInc(counter + 1, gridDim.x - 1) == gridDim.x - 1) atomicExch(counter, 0);
    }

    // One warpgroup's state: two rows a thread (r and r + 8 of its warp's 16), columns 2·(lane % 4) + {0, 1} of every eight.
    struct State { float o[D / 2]; u32 p[N / 4]; float top[2], sum[2]; };

    __device__ __forceinline__ void issue_scores(float (&s)[N / 2], u32 q_rows, u32 stage) const {
#pragma unroll
        for (int i = 0; i < D / 16; i++)
            mma_ss<N, F16>(s, descriptor(q_rows + i / 4 * (ROWS * 128) + i % 4 * 32, 16, 1024),
                           descriptor(k + stage * TILE_BYTES + i / 4 * SLAB + i % 4 * 32, 16, 1024), i > 0);
        wgmma_commit();
    }
    __device__ __forceinline__ void issue_values(State& w, u32 stage) const {
#pragma unroll
        for (int i = 0; i < N / 16; i++) mma_rs<D, F16>(w.o, w.p + 4 * i, descriptor(v + stage * TILE_BYTES + i * 2048, SLAB, 1024));
        wgmma_commit();
    }

    // Masks, updates the running maximum and sum, and turns scores into probabilities; returns by how much older output shrinks.
    // A scheduler has one warp of each group, so four chains (two rows, even and odd columns) hide the latency of max and add.
    template <bool MASK> __device__ __forceinline__ void softmax(float (&s)[N / 2], State& w, float (&shrink)[2], float scale, int limit0, int limit1) const {
        float top[4] = {w.top[0], w.top[0], w.top[1], w.top[1]}, sum[4] = {}, base[2];
#pragma unroll
        for (int i = 0; i < N / 2; i++) {  // element i: row i / 2 % 2, column i / 4 · 8 + i % 2
            if (MASK && i / 4 * 8 + i % 2 >= (i & 2 ? limit1 : limit0)) s[i] = minus_infinity();
            top[i % 4] = fmaxf(top[i % 4], s[i]);
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float m = fmaxf(top[2 * r], top[2 * r + 1]);
            m = fmaxf(m, __shfl_xor_sync(~0u, m, 1));
            m = fmaxf(m, __shfl_xor_sync(~0u, m, 2));
            base[r] = MASK && m == minus_infinity() ? 0.f : m * scale;  // no key yet: −∞ − −∞ would be NaN
            shrink[r] = exp2_approx(fmaf(w.top[r], scale, -base[r]));
            w.top[r] = m;
        }
#pragma unroll
        for (int i = 0; i < N / 2; i++) { s[i] = exp2_approx(fmaf(s[i], scale, -base[i / 2 % 2])); sum[i % 4] += s[i]; }
#pragma unroll
        for (int r = 0; r < 2; r++) w.sum[r] = fmaf(w.sum[r], shrink[r], sum[2 * r] + sum[2 * r + 1]);
    }

    static __device__ __forceinline__ void to_p(const float (&s)[N / 2], State& w) {
#pragma unroll
        for (int i = 0; i < N / 4; i++) w.p[i] = pack<F16>(s[2 * i], s[2 * i + 1]);
    }

    // Where a warpgroup stands: tiles of K and of V it has used, its rows of Q, its place in the turn.
    struct Cursor { u32 k, v, q_rows; int group; };
    static __device__ __forceinline__ void turn_wait(int group) { named_sync(1 + group, 256); }
    static __device__ __forceinline__ void turn_pass(int group) { named_arrive(1 + (group + 1) % GROUPS, 256); }
    static __device__ __forceinline__ void release(u32 bar) { __syncwarp(); if (threadIdx.x % 32 == 0) barrier_arrive(bar); }

    // The scores of the next block are issued before the values of this one: their softmax runs while P·V does.
    template <bool MASK> __device__ __forceinline__ void step(State& w, Cursor& c, float scale, int limit0, int limit1) const {
        float s[N / 2], shrink[2];
        barrier_wait(k_full(c.k % STAGES), c.k / STAGES & 1);
        if (!(TUNE & 1)) turn_wait(c.group);
        wgmma_fence();
        issue_scores(s, c.q_rows, c.k % STAGES);
        barrier_wait(v_full(c.v % STAGES), c.v / STAGES & 1);
        wgmma_fence();
        issue_values(w, c.v % STAGES);
        if (!(TUNE & 1)) turn_pass(c.group);
        wgmma_wait<1>(); pin(s);
        release(k_empty(c.k % STAGES)); c.k++;
        softmax<MASK>(s, w, shrink, scale, limit0, limit1);
        if (!(TUNE & 4)) compute_before_wait(w.sum[0] + w.sum[1], bars + 112);
        wgmma_wait<0>(); pin(w.o); pin(s);
        release(v_empty(c.v % STAGES)); c.v++;
        if (!(TUNE & 2) || __any_sync(~0u, shrink[0] != 1 || shrink[1] != 1))
#pragma unroll
            for (int i = 0; i < D / 2; i++) w.o[i] *= shrink[i / 2 % 2];
        to_p(s, w);
    }

    __device__ __forceinline__ void store(const State& w, u16* o, const Problem& p, int row, int head, int lane) const {
        float inverse[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float sum = w.sum[r];
            sum += __shfl_xor_sync(~0u, sum, 1); sum += __shfl_xor_sync(~0u, sum, 2);
            inverse[r] = sum > 0 ? 1 / sum : 0;
        }
        bool odd = lane & 1, high = lane & 2;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            int at = row + lane / 4 + 8 * r;
#pragma unroll
            for (int c = 0; c < D / 32; c++) {
                u32 x[4];
#pragma unroll
                for (int i = 0; i < 4; i++) { const float* y = w.o + (4 * c + i) * 4 + 2 * r; x[i] = pack<F16>(y[0] * inverse[r], y[1] * inverse[r]); }
                // A 4 × 4 transpose across the quad gives each lane sixteen contiguous bytes.
                u32 t0 = __shfl_xor_sync(~0u, odd ? x[0] : x[1], 1), t1 = __shfl_xor_sync(~0u, odd ? x[2] : x[3], 1);
                if (odd) { x[0] = t0; x[2] = t1; } else { x[1] = t0; x[3] = t1; }
                t0 = __shfl_xor_sync(~0u, high ? x[0] : x[2], 2); t1 = __shfl_xor_sync(~0u, high ? x[1] : x[3], 2);
                if (high) { x[0] = t0; x[1] = t1; } else { x[2] = t0; x[3] = t1; }
                if (at < p.queries) *(uint4*)(o + ((u64)head * p.queries + at) * D + c * 32 + lane % 4 * 8) = make_uint4(x[0], x[1], x[2], x[3]);
            }
        }
    }

    __device__ __forceinline__ void consume(const Problem& p, u16* o, int group) const {
        int warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32;
        float scale = p.scale * 1.4426950408889634f;  // exp(x) = 2^(x · log2 e), so that one fused multiply-add feeds ex2
        Cursor c = {0, 0, q + group * Q_BYTES, group};
        if (!(TUNE & 1) && group == GROUPS - 1) turn_pass(group);  // the first group goes first
        for (u32 q_parity = 0;; q_parity ^= 1) {
            barrier_wait(q_full(), q_parity);
            int row = tile[0], head = tile[1];
            if (row < 0) break;
            int blocks = block_count<N, CAUSAL, TILE>(p, row), n = blocks - 1;
            row += group * ROWS;
            int mine = row + warp * 16 + lane / 4;  // this thread's first row
            int visible = CAUSAL ? min(p.keys, row + p.keys - p.queries + 1) : p.keys;
            int unmasked = max(visible, 0) / N;  // blocks below this are seen whole by every row of the warpgroup
            int limit0 = CAUSAL ? min(p.keys, mine + p.keys - p.queries + 1) : p.keys;
            int limit1 = CAUSAL ? min(p.keys, mine + 8 + p.keys - p.queries + 1) : p.keys;
            limit0 -= lane % 4 * 2; limit1 -= lane % 4 * 2;
            State w;
#pragma unroll
            for (int i = 0; i < D / 2; i++) w.o[i] = 0;
            w.top[0] = w.top[1] = minus_infinity(); w.sum[0] = w.sum[1] = 0;
            if (blocks) {
                float s[N / 2], shrink[2];
                barrier_wait(k_full(c.k % STAGES), c.k / STAGES & 1);
                wgmma_fence(); issue_scores(s, c.q_rows, c.k % STAGES); wgmma_wait<0>(); pin(s);
                release(k_empty(c.k % STAGES)); c.k++;
                softmax<true>(s, w, shrink, scale, limit0 - n * N, limit1 - n * N);
                to_p(s, w);
            }
            n--;
            if (CAUSAL) for (; n >= unmasked; n--) step<true>(w, c, scale, limit0 - n * N, limit1 - n * N);
            for (; n >= 0; n--) step<false>(w, c, scale, 0, 0);
            release(q_empty());
            if (blocks) {
                barrier_wait(v_full(c.v % STAGES), c.v / STAGES & 1);
                wgmma_fence(); issue_values(w, c.v % STAGES); wgmma_wait<0>(); pin(w.o);
                release(v_empty(c.v % STAGES)); c.v++;
            }
            store(w, o, p, row + warp * 16, head, lane);
        }
    }
};

template <int D, int N, bool CAUSAL, bool F16, int GROUPS, int TUNE = 0>
RP_DEVICE void run(const TensorMap* q, const TensorMap* k, const TensorMap* v, u16* o, u32* counter, Problem p) {
    RP_DYNAMIC_SMEM(smem, 1024);
    Kernel<D, N, CAUSAL, F16, GROUPS, TUNE> kernel(smem);
    if (threadIdx.x == 0) kernel.init();
    __syncthreads();
    // 384 threads at launch's 168 registers: the producer hands its own to the consumers, who hold S, P and O.
    if (threadIdx.x < 128) {
        registers_give<GROUPS == 2 ? 24 : 32>();
        if (threadIdx.x == 0) kernel.produce(p, q, k, v, counter);
    } else {
        registers_take<GROUPS == 2 ? 240 : 160>();
        kernel.consume(p, o, (int)threadIdx.x / 128 - 1);
    }
}

}  // namespace flash_sm90

#define RP_ENTRY(NAME, D, N, CAUSAL, F16)                                                                                         \
    extern "C" __global__ void __launch_bounds__(384, 1) NAME(const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k, \
        const __grid_constant__ TensorMap v, u16* o, u32* counter, int heads, int group, int queries, int keys, float scale) {     \
        flash_sm90::run<D, N, CAUSAL, F16, 2>(&q, &k, &v, o, counter, {heads, group, queries, keys, scale});                       \
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
