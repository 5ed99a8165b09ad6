// What the GEMM kernels for Hopper's warpgroup matrix units share: mbarriers, bulk tensor copies, wgmma, the walk over tiles, the ring
// of stages, and the way of a tile's accumulators into C. Each includes it once, its macros defined, and adds its own main loop.
//
// Where the layouts come from
//   A and B lie in shared memory as TMA's 128-byte swizzle leaves them, which is what wgmma's K-major descriptor with
//   swizzle 1 reads: rows of 128 bytes, groups of 8 rows (1024 bytes, the descriptor's stride), 16-byte units XORed with
//   row mod 8. A step along K of one instruction is 32 bytes for every type. The accumulator fragment is PTX's m64nN
//   D layout; the epilogue writes it by stmatrix into the same swizzle and TMA stores (and clips) it, while the producer
//   already loads the next tile.
//
// Maps (CUtensorMap, 128 bytes, by value), s and so being the bytes of an element in and out:
//   map_a: dims {K, M, batch}, strides {K·s, M·K·s},   box {128/s, 128, 1},              128B swizzle, L2 promotion 256B, zero fill
//   map_b: dims {K, N, batch}, strides {K·s, N·K·s},   box {128/s, RP_BN/RP_CLUSTER, 1}, 128B swizzle, L2 promotion 256B, zero fill
//   map_c: dims {N, M, batch}, strides {N·so, M·N·so}, box {128/so, 64, 1},              128B swizzle
//   K·s and N·so must be multiples of 16, and batch · tiles below 2³⁰. Any M, N, K otherwise.
//   block (384), grid (a multiple of RP_CLUSTER, at most RP_CLUSTER · cuOccupancyMaxActiveClusters: more would only queue),
//   dynamic shared memory RP_STAGES·(16400 + RP_BN·128) + RP_BUFFERS·16384 + 1024 bytes. The cluster is compiled in.
//
// Macros that all know: RP_DTYPE bf16 | f16 | tf32 | e4m3 | e5m2; RP_DTYPE_B, of B, where both are FP8; RP_OUT bf16 | f16 | f32;
//   RP_BN, columns of a tile; RP_N 64 | 128 | 192 | 256, columns of one instruction; RP_STAGES; RP_CLUSTER 1 | 2 | 4; RP_GROUP;
//   RP_BUFFERS for the epilogue, 8 KiB each a warpgroup; RP_SPIN_LIMIT turns a hang into a trap.
#pragma once

#define RP_JOIN_(a, b) a##b
#define RP_JOIN(a, b) RP_JOIN_(a, b)
#define RP_TEXT_(a) #a
#define RP_TEXT(a) RP_TEXT_(a)

// The operand types: bytes, K of one instruction (32 bytes of it), the transpose flags only 16-bit types carry, what C is.
#define RP_TYPE_bf16 2, 16, ", 0, 0", bf16
#define RP_TYPE_f16 2, 16, ", 0, 0", f16
#define RP_TYPE_tf32 4, 8, "", f32
#define RP_TYPE_e4m3 1, 32, "", bf16
#define RP_TYPE_e5m2 1, 32, "", bf16
#define RP_PICK(column, ...) column(__VA_ARGS__)
#define RP_BYTES_OF(bytes, k, transpose, out) bytes
#define RP_K_OF(bytes, k, transpose, out) k
#define RP_TRANSPOSE_OF(bytes, k, transpose, out) transpose
#define RP_OUT_OF(bytes, k, transpose, out) out
#define RP_OF_TYPE(column) RP_PICK(column, RP_JOIN(RP_TYPE_, RP_DTYPE))
#ifndef RP_DTYPE_B
#define RP_DTYPE_B RP_DTYPE
#endif
#ifndef RP_BN
#define RP_BN 256
#endif
#ifndef RP_STAGES
#define RP_STAGES 4
#endif
#ifndef RP_CLUSTER
#define RP_CLUSTER 2
#endif
#ifndef RP_BUFFERS
#define RP_BUFFERS 2
#endif
#ifndef RP_N
#define RP_N RP_BN
#endif
#ifndef RP_GROUP
#define RP_GROUP (16 / RP_CLUSTER)
#endif
#ifndef RP_SPLIT
#define RP_SPLIT 0
#endif
#ifndef RP_OUT
#define RP_OUT RP_OF_TYPE(RP_OUT_OF)
#endif
#define RP_OUT_BYTES_bf16 2
#define RP_OUT_BYTES_f16 2
#define RP_OUT_BYTES_f32 4
#define RP_OUT_BYTES RP_JOIN(RP_OUT_BYTES_, RP_OUT)

namespace rp_wgmma {

constexpr int kBlockM = 128;
constexpr int kConsumers = 2;
constexpr int kThreads = 128 * (1 + kConsumers);
constexpr int kBlockK = 128 / RP_OF_TYPE(RP_BYTES_OF);    // elements in the swizzle's 128 bytes
constexpr int kStepsPerStage = 4;                              // instructions of 32 bytes of K
constexpr unsigned kBytesA = kBlockM * 128;
constexpr unsigned kBytesB = RP_BN * 128;
constexpr unsigned kSliceB = kBytesB / RP_CLUSTER;             // what one block of the cluster fetches for all
constexpr unsigned kStageBytes = kBytesA + kBytesB;
constexpr int kChunkColumns = 128 / RP_OUT_BYTES;              // columns of C in one swizzled store
constexpr unsigned kChunkBytes = 64 * 128;
constexpr int kAccumulators = RP_BN / 2;                       // f32 a thread: 64·RP_BN / 128
constexpr int kFragment = RP_N / 2;                            // those of one instruction
constexpr int kChunkAccumulators = kChunkColumns / 2;

static_assert(kSliceB % 1024 == 0, "a slice of B must start on a swizzle atom");
static_assert(RP_BN % kChunkColumns == 0 && RP_BN % RP_N == 0 && RP_BN <= 256, "the tile must be whole store chunks and whole instructions wide");
static_assert(RP_STAGES * kStageBytes + kConsumers * RP_BUFFERS * kChunkBytes + 16 * RP_STAGES + 1024 <= 232448, "over 227 KiB of shared memory");

struct alignas(64) TensorMap { unsigned long long opaque[16]; };

#ifndef RP_HOST_FIBRES    // on the host kernels/fibres/cluster.h stands in for everything down to the matching #endif

// ---- barriers -------------------------------------------------------------------------------------------------------

__device__ __forceinline__ void barrier_init(unsigned bar, unsigned arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(arrivals));
}

__device__ __forceinline__ void barrier_init_done() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

__device__ __forceinline__ void barrier_expect(unsigned bar, unsigned bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}

__device__ __forceinline__ bool barrier_passed(unsigned bar, unsigned parity) {
    unsigned done;
    asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
                 : "=r"(done) : "r"(bar), "r"(parity) : "memory");
    return done != 0;
}

__device__ __forceinline__ void barrier_wait(unsigned bar, unsigned parity) {
#ifdef RP_SPIN_LIMIT
    for (unsigned tries = 0; !barrier_passed(bar, parity); ++tries)
        if (tries > RP_SPIN_LIMIT) asm volatile("trap;");
#else
    while (!barrier_passed(bar, parity)) {}
#endif
}

// Arrives at the same barrier of one block of the cluster. The scope stays the default: what it releases is a stage that
// only wgmma read, and wait_group has settled that; .release.cluster would put a device-wide fence into the main loop.
__device__ __forceinline__ void barrier_arrive(unsigned bar, unsigned block) {
#if RP_CLUSTER > 1
    asm volatile("{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [there];\n}" ::"r"(bar), "r"(block) : "memory");
#else
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
#endif
}

// Every thread of every block in the cluster: barriers are initialised, or nobody still reaches into a block's memory.
__device__ __forceinline__ void cluster_sync() {
#if RP_CLUSTER > 1
    asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
#else
    __syncthreads();
#endif
}

__device__ __forceinline__ void warpgroup_sync(int consumer) { asm volatile("bar.sync %0, 128;" ::"r"(consumer + 1) : "memory"); }

template <int Registers> __device__ __forceinline__ void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
}

template <int Registers> __device__ __forceinline__ void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
}

// Where the dynamic shared memory starts, rounded up to a swizzle atom.
__device__ __forceinline__ unsigned shared_base() {
    extern __shared__ unsigned char dynamic_shared[];
    return ((unsigned)__cvta_generic_to_shared(dynamic_shared) + 1023) & ~1023u;
}

// ---- bulk tensor copies ---------------------------------------------------------------------------------------------

// A box at column x and row y of product z.
__device__ __forceinline__ void load_tile(unsigned to, const TensorMap* map, unsigned bar, int x, int y, int z) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];"
                 ::"r"(to), "l"(map), "r"(bar), "r"(x), "r"(y), "r"(z) : "memory");
}

__device__ __forceinline__ void load_tile_for_cluster(unsigned to, const TensorMap* map, unsigned bar, int x, int y, int z) {
#if RP_CLUSTER > 1
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster"
                 " [%0], [%1, {%3, %4, %5}], [%2], %6;"
                 ::"r"(to), "l"(map), "r"(bar), "r"(x), "r"(y), "r"(z), "h"((unsigned short)((1 << RP_CLUSTER) - 1)) : "memory");
#else
    load_tile(to, map, bar, x, y, z);
#endif
}

__device__ __forceinline__ void store_tile(const TensorMap* map, unsigned from, int x, int y, int z) {
    asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%2, %3, %4}], [%1];\ncp.async.bulk.commit_group;"
                 ::"l"(map), "r"(from), "r"(x), "r"(y), "r"(z) : "memory");
}

// At most this many of the thread's stores still read shared memory, or, at the end, are still under way at all.
template <int Running> __device__ __forceinline__ void wait_stores_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(Running) : "memory");
}

__device__ __forceinline__ void wait_stores_done() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

// Ordinary writes to shared memory before it are seen by the copy engine after it.
__device__ __forceinline__ void fence_for_copies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- matrix instructions --------------------------------------------------------------------------------------------

// The operand list in text: RP_TEN(3) is "%30, … %39, ".
#define RP_TEN(t) "%" #t "0, %" #t "1, %" #t "2, %" #t "3, %" #t "4, %" #t "5, %" #t "6, %" #t "7, %" #t "8, %" #t "9, "
#define RP_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define RP_D16(i) RP_D4(i), RP_D4(i + 4), RP_D4(i + 8), RP_D4(i + 12)
#define RP_D32(i) RP_D16(i), RP_D16(i + 16)
#if RP_N == 256
#define RP_LIST RP_TEN() RP_TEN(1) RP_TEN(2) RP_TEN(3) RP_TEN(4) RP_TEN(5) RP_TEN(6) RP_TEN(7) RP_TEN(8) RP_TEN(9) \
    RP_TEN(10) RP_TEN(11) "%120, %121, %122, %123, %124, %125, %126, %127"
#define RP_D RP_D32(0), RP_D32(32), RP_D32(64), RP_D32(96)
#define RP_OPERANDS "%128, %129"
#define RP_KEEP "%130"
#elif RP_N == 192
#define RP_LIST RP_TEN() RP_TEN(1) RP_TEN(2) RP_TEN(3) RP_TEN(4) RP_TEN(5) RP_TEN(6) RP_TEN(7) RP_TEN(8) \
    "%90, %91, %92, %93, %94, %95"
#define RP_D RP_D32(0), RP_D32(32), RP_D32(64)
#define RP_OPERANDS "%96, %97"
#define RP_KEEP "%98"
#elif RP_N == 128
#define RP_LIST RP_TEN() RP_TEN(1) RP_TEN(2) RP_TEN(3) RP_TEN(4) RP_TEN(5) "%60, %61, %62, %63"
#define RP_D RP_D32(0), RP_D32(32)
#define RP_OPERANDS "%64, %65"
#define RP_KEEP "%66"
#elif RP_N == 64
#define RP_LIST RP_TEN() RP_TEN(1) RP_TEN(2) "%30, %31"
#define RP_D RP_D32(0)
#define RP_OPERANDS "%32, %33"
#define RP_KEEP "%34"
#else
#error "RP_N must be 64, 128, 192 or 256"
#endif

// d = a·b, plus d where keep is not 0.
__device__ __forceinline__ void multiply(float (&d)[kFragment], unsigned long long a, unsigned long long b, int keep) {
    asm volatile("{\n.reg .pred keep;\nsetp.ne.b32 keep, " RP_KEEP ", 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n" RP_TEXT(RP_N) "k" RP_TEXT(RP_OF_TYPE(RP_K_OF))
                 ".f32." RP_TEXT(RP_DTYPE) "." RP_TEXT(RP_DTYPE_B) " {" RP_LIST "}, " RP_OPERANDS ", keep, 1, 1"
                 RP_OF_TYPE(RP_TRANSPOSE_OF) ";\n}"
                 : RP_D : "l"(a), "l"(b), "r"(keep));
}

__device__ __forceinline__ void multiply_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void multiply_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

template <int Running> __device__ __forceinline__ void multiply_wait(float (&d)[kFragment]) {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Running) : "memory");
    // Without this the compiler may read an accumulator before the wait: it sees plain registers.
    if (Running == 0)
#pragma unroll
        for (int i = 0; i < kFragment; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// Two f32 to one register of two 16-bit floats, the first in the low half.
__device__ __forceinline__ unsigned pack(float low, float high) {
    unsigned both = 0;
#if RP_OUT_BYTES == 2
    asm("cvt.rn." RP_TEXT(RP_OUT) "x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
#endif
    return both;
}

// Four 8×8 matrices of 16-bit elements; lane l gives the address of row l%8 of matrix l/8.
__device__ __forceinline__ void store_matrices(unsigned to, unsigned r0, unsigned r1, unsigned r2, unsigned r3) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};"
                 ::"r"(to), "r"(r0), "r"(r1), "r"(r2), "r"(r3) : "memory");
}

__device__ __forceinline__ void store_pair(unsigned to, float first, float second) {
    asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(to), "f"(first), "f"(second) : "memory");
}

#endif    // RP_HOST_FIBRES

// K-major, 128-byte swizzle, 1024 bytes between groups of 8 rows. Adding 2 steps 32 bytes along K.
__device__ __forceinline__ unsigned long long matrix_descriptor(unsigned address) {
    return (unsigned long long)((address & 0x3FFFF) >> 4) | (1ull << 16) | (64ull << 32) | (1ull << 62);
}

// One stage: 64×RP_N over 128 bytes of K, left running as one group.
__device__ __forceinline__ void multiply_stage(float (&d)[kFragment], unsigned a, unsigned b, int keep) {
    unsigned long long da = matrix_descriptor(a), db = matrix_descriptor(b);
    multiply_fence();
#pragma unroll
    for (int step = 0; step < kStepsPerStage; ++step) multiply(d, da + 2 * step, db + 2 * step, step == 0 ? keep : 1);
    multiply_commit();
}

// ---- the walk over tiles --------------------------------------------------------------------------------------------

// A layer is a product of the batch, or with RP_SPLIT a part of K; all tiles of one come before those of the next.
struct Walk {
    int rows, columns, layers, at, step, layer;    // rows, columns, at and step in cluster tiles

    __device__ __forceinline__ Walk(int m, int n, int count)
        : rows((m + kBlockM * RP_CLUSTER - 1) / (kBlockM * RP_CLUSTER)), columns((n + RP_BN - 1) / RP_BN), layers(count),
          at(blockIdx.x / RP_CLUSTER), step(gridDim.x / RP_CLUSTER), layer(0) {}

    // The origin in C of this block's next tile.
    __device__ __forceinline__ bool next(int rank, int& row, int& column) {
        int tiles = rows * columns, tile = at % tiles;
        layer = at / tiles;
        if (layer >= layers) return false;
        int band = RP_GROUP * columns, first = tile / band * RP_GROUP, within = tile % band;
        int height = min(rows - first, RP_GROUP);
        row = ((first + within % height) * RP_CLUSTER + rank) * kBlockM;
        column = within / height * RP_BN;
        at += step;
        return true;
    }

    __device__ __forceinline__ int product() const { return RP_SPLIT ? 0 : layer; }

    // What of K the tile sums, in stages: from first on, up to last.
    __device__ __forceinline__ int first(int k_blocks) const { return RP_SPLIT ? (int)((long long)k_blocks * layer / layers) : 0; }
    __device__ __forceinline__ int last(int k_blocks) const {
        return RP_SPLIT ? (int)((long long)k_blocks * (layer + 1) / layers) : k_blocks;
    }
};

struct Ring {
    int stage = 0;
    unsigned parity = 0;

    __device__ __forceinline__ void advance() {
        if (++stage == RP_STAGES) { stage = 0; parity ^= 1; }
    }
};

// ---- epilogue -------------------------------------------------------------------------------------------------------

// The fragment's 64 rows × kChunkColumns from `first` on, into one swizzled buffer.
__device__ __forceinline__ void write_chunk(unsigned buffer, const float (&d)[kAccumulators], int first, float alpha, int thread) {
    int warp = thread / 32, lane = thread % 32;
#if RP_OUT_BYTES == 2
    // Matrices go down 8 rows, then right 8 columns.
    int row = warp * 16 + lane % 16, unit = lane / 16;
#pragma unroll
    for (int j = 0; j < kChunkAccumulators; j += 8) {
        unsigned to = buffer + row * 128 + (((j / 4 + unit) ^ (row & 7)) << 4);
        const float* f = d + first + j;
        store_matrices(to, pack(alpha * f[0], alpha * f[1]), pack(alpha * f[2], alpha * f[3]),
                       pack(alpha * f[4], alpha * f[5]), pack(alpha * f[6], alpha * f[7]));
    }
#else
    int row = warp * 16 + lane / 4;
#pragma unroll
    for (int j = 0; j < kChunkAccumulators; j += 4) {
        unsigned to = buffer + row * 128 + (((j / 2 + lane % 4 / 2) ^ (row & 7)) << 4) + lane % 2 * 8;
        const float* f = d + first + j;
        store_pair(to, alpha * f[0], alpha * f[1]);
        store_pair(to + 1024, alpha * f[2], alpha * f[3]);    // 8 rows down: the same swizzle
    }
#endif
}

// Through RP_BUFFERS buffers a warpgroup; the last stores drain under the next tile's matrix work.
__device__ __forceinline__ void store_accumulators(const float (&d)[kAccumulators], const TensorMap* map, unsigned buffers,
                                                   int row, int column, int product, float alpha, int consumer, int thread) {
#pragma unroll
    for (int chunk = 0; chunk < RP_BN / kChunkColumns; ++chunk) {
        unsigned buffer = buffers + chunk % RP_BUFFERS * kChunkBytes;
        if (chunk == 0 || chunk >= RP_BUFFERS) {
            // The last tile's stores are long done; within a tile, only this buffer's must be.
            if (thread == 0 && chunk == 0) wait_stores_read<0>();
            if (thread == 0 && chunk > 0) wait_stores_read<RP_BUFFERS - 1>();
            warpgroup_sync(consumer);
        }
        write_chunk(buffer, d, chunk * kChunkAccumulators, alpha, thread);
        fence_for_copies();
        warpgroup_sync(consumer);
        if (thread == 0) store_tile(map, buffer, column + chunk * kChunkColumns, row, product);
    }
}

// ---- what every such kernel begins with -----------------------------------------------------------------------------

// Where a block's things lie in shared memory, and who the thread is.
struct Place {
    unsigned base;
    int warpgroup, thread, rank;

    // Sets up the barriers of all blocks of the cluster.
    __device__ __forceinline__ Place() : base(shared_base()), thread(threadIdx.x % 128), rank(blockIdx.x % RP_CLUSTER) {
        // The shuffle tells the compiler that a warp shares it: descriptors then live in uniform registers.
        warpgroup = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0);
        if (threadIdx.x == 0) {
            for (Ring ring; ring.parity == 0; ring.advance()) {
                barrier_init(full(ring), 1);
                barrier_init(empty(ring), kConsumers * RP_CLUSTER);    // a multicast overwrites every block's stage
            }
            barrier_init_done();
        }
        cluster_sync();
    }

    // Stages of A and of B. A consumer's are its own 64 rows of A.
    __device__ __forceinline__ unsigned a(const Ring& ring) const {
        return base + ring.stage * kBytesA + (warpgroup == 0 ? 0 : (warpgroup - 1) * 64 * 128);
    }
    __device__ __forceinline__ unsigned b(const Ring& ring) const { return base + RP_STAGES * kBytesA + ring.stage * kBytesB; }
    // A consumer's buffers of the epilogue.
    __device__ __forceinline__ unsigned buffers() const {
        return base + RP_STAGES * kStageBytes + (warpgroup - 1) * RP_BUFFERS * kChunkBytes;
    }
    __device__ __forceinline__ unsigned full(const Ring& ring) const {
        return base + RP_STAGES * kStageBytes + kConsumers * RP_BUFFERS * kChunkBytes + 8 * ring.stage;
    }
    __device__ __forceinline__ unsigned empty(const Ring& ring) const { return full(ring) + 8 * RP_STAGES; }
};

// The producer's part: one thread keeps the ring full, over all tiles.
__device__ __forceinline__ void produce(const Place& at, Walk walk, const TensorMap* map_a, const TensorMap* map_b, int k_blocks) {
    give_registers<40>();
    if (at.thread != 0) return;
    Ring ring;
    int row, column;
    while (walk.next(at.rank, row, column)) {
        for (int block = walk.first(k_blocks), last = walk.last(k_blocks); block < last; ++block, ring.advance()) {
            barrier_wait(at.empty(ring), ring.parity ^ 1);
            barrier_expect(at.full(ring), kStageBytes);    // also for what lies outside: TMA counts the zeros it fills in
            load_tile(at.a(ring), map_a, at.full(ring), block * kBlockK, row, walk.product());
            load_tile_for_cluster(at.b(ring) + at.rank * kSliceB, map_b, at.full(ring), block * kBlockK,
                                  column + at.rank * (RP_BN / RP_CLUSTER), walk.product());
        }
    }
}

// A consumer has read a stage: every block of the cluster may overwrite it.
__device__ __forceinline__ void release(unsigned empty, int thread) {
    if (thread < RP_CLUSTER) barrier_arrive(empty, thread);
}

}  // namespace rp_wgmma
