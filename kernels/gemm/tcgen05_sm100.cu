// GEMM on the fifth-generation matrix units of Blackwell's data centre chips: C[M×N] = alpha · A[M×K] · B[N×K]ᵀ, accumulated in
// f32. A building block, proven on host fibres and by its disassembly, not yet run on hardware and not offered as a provider.
//
// Both operands have K contiguous, C has N contiguous.
//
// Shape of the work
//   A block owns one tile of 128×RP_BN of C, which lies in tensor memory: 128 lanes (rows) × RP_BN columns of f32. One thread
//   fetches: a ring of RP_STAGES stages, each 128 bytes of K (64 of 16 bits, 128 fp8, 32 tf32) of the tile's rows of A and B. One
//   thread multiplies: four instructions of 128×RP_BN a stage, and the commit that frees the stage when they are done. Four warps
//   then read a quarter of the lanes each, 32 columns at a time, and write C.
//
// Where the layouts come from
//   A and B lie in shared memory as TMA's 128-byte swizzle leaves them; the descriptor is that of wgmma with version 1 (bit 46)
//   and swizzle 2 in three bits: rows of 128 bytes, 1024 bytes between groups of 8 rows, 32 bytes a step along K. The instruction
//   descriptor holds the types, N/8 and M/16. Lane l of warp w may read lanes 32·w … 32·w + 31 of tensor memory alone.
//
// What limits it
//   No tile is fetched while another is written, one block a multiprocessor, one of the two that could share B. Each thread
//   writes 64 or 128 bytes of a row of its own.
//
// Host contract
//   rp_gemm_tcgen05(map_a, map_b, void* c, int m, int n, int k, float alpha), the maps by value (CUtensorMap, 128 bytes):
//     map_a: dims {K, M}, stride {K·s}, box {128/s, 128},   128B swizzle, zero fill
//     map_b: dims {K, N}, stride {K·s}, box {128/s, RP_BN}, 128B swizzle, zero fill
//   with s and so the bytes of an element in and out; K·s and N·so must be multiples of 16, C aligned to 16. Any M, N, K otherwise.
//   grid ⌈M/128⌉·⌈N/RP_BN⌉, block 192, dynamic shared memory RP_STAGES·(16400 + RP_BN·128) + 1040 bytes.
//
// Macros: RP_DTYPE bf16 | f16 | tf32 | e4m3 | e5m2; RP_OUT bf16 | f16 | f32; RP_BN 64 | 128 | 256; RP_STAGES; RP_GROUP.

#ifndef RP_DTYPE
#define RP_DTYPE bf16
#endif
#ifndef RP_BN
#define RP_BN 256
#endif
#ifndef RP_STAGES
#define RP_STAGES 4
#endif
#ifndef RP_GROUP
#define RP_GROUP 8
#endif

#define RP_JOIN_(a, b) a##b
#define RP_JOIN(a, b) RP_JOIN_(a, b)
#define RP_TEXT_(a) #a
#define RP_TEXT(a) RP_TEXT_(a)

// The operand types: bytes, the kind of the instruction, the number of the type in it, what C is.
#define RP_TYPE_bf16 2, f16, 1, bf16
#define RP_TYPE_f16 2, f16, 0, f16
#define RP_TYPE_tf32 4, tf32, 2, f32
#define RP_TYPE_e4m3 1, f8f6f4, 0, bf16
#define RP_TYPE_e5m2 1, f8f6f4, 1, bf16
#define RP_PICK(column, ...) column(__VA_ARGS__)
#define RP_BYTES_OF(bytes, kind, number, out) bytes
#define RP_KIND_OF(bytes, kind, number, out) kind
#define RP_NUMBER_OF(bytes, kind, number, out) number
#define RP_OUT_OF(bytes, kind, number, out) out
#define RP_OF_TYPE(column) RP_PICK(column, RP_JOIN(RP_TYPE_, RP_DTYPE))
#ifndef RP_OUT
#define RP_OUT RP_OF_TYPE(RP_OUT_OF)
#endif
#define RP_OUT_BYTES_bf16 2
#define RP_OUT_BYTES_f16 2
#define RP_OUT_BYTES_f32 4
#define RP_OUT_BYTES RP_JOIN(RP_OUT_BYTES_, RP_OUT)

namespace rp_tcgen05 {

constexpr int kBlockM = 128;
constexpr int kWriters = 128;                               // four warps write C
constexpr int kProducer = 4, kIssuer = 5;                   // one warp fetches, one multiplies
constexpr int kThreads = 192;
constexpr int kBlockK = 128 / RP_OF_TYPE(RP_BYTES_OF);    // elements in the swizzle's 128 bytes
constexpr unsigned kBytesA = kBlockM * 128;
constexpr unsigned kBytesB = RP_BN * 128;
constexpr unsigned kStageBytes = kBytesA + kBytesB;
// D in f32 (1 at bit 4), A and B of one type (bits 7 and 10), both with K contiguous, N/8 at bit 17, M/16 at bit 24.
constexpr unsigned kInstruction =
    1u << 4 | RP_OF_TYPE(RP_NUMBER_OF) << 7 | RP_OF_TYPE(RP_NUMBER_OF) << 10 | (RP_BN / 8u) << 17 | (kBlockM / 16u) << 24;

static_assert(RP_BN == 64 || RP_BN == 128 || RP_BN == 256, "tensor memory is taken in powers of two columns");
static_assert(RP_STAGES * kStageBytes + 16 * RP_STAGES + 1040 <= 232448, "over 227 KiB of shared memory");

struct alignas(64) TensorMap { unsigned long long opaque[16]; };

#ifndef RP_HOST_FIBRES    // on the host kernels/fibres/cluster.h and tensor.h stand in for everything down to the matching #endif

__device__ __forceinline__ void barrier_init(unsigned bar, unsigned arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(arrivals));
}

__device__ __forceinline__ void barrier_init_done() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

__device__ __forceinline__ void barrier_expect(unsigned bar, unsigned bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}

__device__ __forceinline__ void barrier_wait(unsigned bar, unsigned parity) {
    unsigned done = 0;
    while (!done)
        asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
                     : "=r"(done) : "r"(bar), "r"(parity) : "memory");
}

__device__ __forceinline__ unsigned shared_base() {
    extern __shared__ unsigned char dynamic_shared[];
    return ((unsigned)__cvta_generic_to_shared(dynamic_shared) + 1023) & ~1023u;
}

__device__ __forceinline__ void load_tile(unsigned to, const TensorMap* map, unsigned bar, int x, int y) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];"
                 ::"r"(to), "l"(map), "r"(bar), "r"(x), "r"(y) : "memory");
}

// A whole warp takes columns of tensor memory; where they are is written to `slot`. Another of ours may then take its own.
__device__ __forceinline__ void tensor_take(unsigned slot, unsigned columns) {
    asm volatile("tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%0], %1;\n"
                 "tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned;" ::"r"(slot), "r"(columns) : "memory");
}

__device__ __forceinline__ unsigned tensor_taken(unsigned slot) {
    unsigned at;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(at) : "r"(slot) : "memory");
    return at;
}

__device__ __forceinline__ void tensor_give(unsigned at, unsigned columns) {
    asm volatile("tcgen05.dealloc.cta_group::1.sync.aligned.b32 %0, %1;" ::"r"(at), "r"(columns));
}

// What the matrix units did is seen by what this thread orders after a barrier, and what it did by others after one.
__device__ __forceinline__ void tensor_fence_after() { asm volatile("tcgen05.fence::after_thread_sync;" ::: "memory"); }
__device__ __forceinline__ void tensor_fence_before() { asm volatile("tcgen05.fence::before_thread_sync;" ::: "memory"); }

// d = a·b over 32 bytes of K, plus d where keep is not 0. One thread orders it for the whole block.
__device__ __forceinline__ void tensor_multiply(unsigned d, unsigned long long a, unsigned long long b, unsigned instruction, int keep) {
    asm volatile("{\n.reg .pred keep;\nsetp.ne.b32 keep, %4, 0;\n"
                 "tcgen05.mma.cta_group::1.kind::" RP_TEXT(RP_OF_TYPE(RP_KIND_OF)) " [%0], %1, %2, %3, keep;\n}"
                 ::"r"(d), "l"(a), "l"(b), "r"(instruction), "r"(keep) : "memory");
}

// Arrives at the barrier once all that this thread ordered so far is done.
__device__ __forceinline__ void tensor_commit(unsigned bar) {
    asm volatile("tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [%0];" ::"r"(bar) : "memory");
}

#define RP_V4(i) "=r"(v[i]), "=r"(v[i + 1]), "=r"(v[i + 2]), "=r"(v[i + 3])
#define RP_V16(i) RP_V4(i), RP_V4(i + 4), RP_V4(i + 8), RP_V4(i + 12)

// 32 columns of this thread's lane; the warp's lanes are in the high half of the address.
__device__ __forceinline__ void tensor_read(float (&d)[32], unsigned at) {
    unsigned v[32];
    asm volatile("tcgen05.ld.sync.aligned.32x32b.x32.b32 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, [%32];\n"
                 "tcgen05.wait::ld.sync.aligned;" : RP_V16(0), RP_V16(16) : "r"(at) : "memory");
#pragma unroll
    for (int i = 0; i < 32; ++i) d[i] = __uint_as_float(v[i]);
}

// Two f32 to one register of two 16-bit floats, the first in the low half.
__device__ __forceinline__ unsigned pack(float low, float high) {
    unsigned both = 0;
#if RP_OUT_BYTES == 2
    asm("cvt.rn." RP_TEXT(RP_OUT) "x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
#endif
    return both;
}

__device__ __forceinline__ unsigned bits(float x) { return __float_as_uint(x); }

#endif    // RP_HOST_FIBRES

// K-major, 128-byte swizzle, 1024 bytes between groups of 8 rows. Adding 2 steps 32 bytes along K.
__device__ __forceinline__ unsigned long long matrix_descriptor(unsigned address) {
    return (unsigned long long)((address & 0x3FFFF) >> 4) | (1ull << 16) | (64ull << 32) | (1ull << 46) | (2ull << 61);
}

struct Ring {
    int stage = 0;
    unsigned parity = 0;

    __device__ __forceinline__ void advance() {
        if (++stage == RP_STAGES) { stage = 0; parity ^= 1; }
    }
};

// 32 columns of one row, in units of 16 bytes; what lies beyond N is left out.
__device__ __forceinline__ void write_row(unsigned char* c, const float (&d)[32], float alpha, int column, int n) {
    constexpr int kUnit = 16 / RP_OUT_BYTES;
#pragma unroll
    for (int i = 0; i < 32; i += kUnit) {
        if (column + i >= n) return;
        uint4 unit;
#if RP_OUT_BYTES == 2
        unit.x = pack(alpha * d[i], alpha * d[i + 1]);
        unit.y = pack(alpha * d[i + 2], alpha * d[i + 3]);
        unit.z = pack(alpha * d[i + 4], alpha * d[i + 5]);
        unit.w = pack(alpha * d[i + 6], alpha * d[i + 7]);
#else
        unit.x = bits(alpha * d[i]);
        unit.y = bits(alpha * d[i + 1]);
        unit.z = bits(alpha * d[i + 2]);
        unit.w = bits(alpha * d[i + 3]);
#endif
        *(uint4*)(c + (column + i) * RP_OUT_BYTES) = unit;
    }
}

}  // namespace rp_tcgen05

extern "C" __global__ void __launch_bounds__(rp_tcgen05::kThreads, 1)
rp_gemm_tcgen05(const __grid_constant__ rp_tcgen05::TensorMap map_a, const __grid_constant__ rp_tcgen05::TensorMap map_b,
                void* c, int m, int n, int k, float alpha) {
    using namespace rp_tcgen05;
    unsigned base = shared_base();
    unsigned stages_b = base + RP_STAGES * kBytesA;
    unsigned full = stages_b + RP_STAGES * kBytesB;
    unsigned empty = full + 8 * RP_STAGES;
    unsigned done = empty + 8 * RP_STAGES, slot = done + 8;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int k_blocks = (k + kBlockK - 1) / kBlockK;

    // Bands of RP_GROUP tile rows, so that the tiles in flight share what L2 holds.
    int rows = (m + kBlockM - 1) / kBlockM, columns = (n + RP_BN - 1) / RP_BN;
    int band = RP_GROUP * columns, first = (int)blockIdx.x / band * RP_GROUP, within = (int)blockIdx.x % band;
    int height = min(rows - first, RP_GROUP);
    int row = (first + within % height) * kBlockM, column = within / height * RP_BN;

    if (threadIdx.x == 0) {
        for (int stage = 0; stage < RP_STAGES; ++stage) {
            barrier_init(full + 8 * stage, 1);
            barrier_init(empty + 8 * stage, 1);
        }
        barrier_init(done, 1);
        barrier_init_done();
    }
    if (warp == kIssuer) tensor_take(slot, RP_BN);
    tensor_fence_before();
    __syncthreads();
    tensor_fence_after();
    unsigned d = tensor_taken(slot);

    Ring ring;
    if (warp == kProducer && lane == 0) {
        for (int block = 0; block < k_blocks; ++block, ring.advance()) {
            unsigned bar = full + 8 * ring.stage;
            barrier_wait(empty + 8 * ring.stage, ring.parity ^ 1);
            barrier_expect(bar, kStageBytes);    // also for what lies outside: TMA counts the zeros it fills in
            load_tile(base + ring.stage * kBytesA, &map_a, bar, block * kBlockK, row);
            load_tile(stages_b + ring.stage * kBytesB, &map_b, bar, block * kBlockK, column);
        }
    } else if (warp == kIssuer && lane == 0) {
        for (int block = 0; block < k_blocks; ++block, ring.advance()) {
            barrier_wait(full + 8 * ring.stage, ring.parity);
            tensor_fence_after();
            unsigned long long a = matrix_descriptor(base + ring.stage * kBytesA);
            unsigned long long b = matrix_descriptor(stages_b + ring.stage * kBytesB);
#pragma unroll
            for (int step = 0; step < 4; ++step) tensor_multiply(d, a + 2 * step, b + 2 * step, kInstruction, block > 0 || step > 0);
            // Where no fetch waits for it, it would arrive at a block that may have left.
            if (block + RP_STAGES < k_blocks) tensor_commit(empty + 8 * ring.stage);
        }
        tensor_commit(done);
    } else if (threadIdx.x < kWriters) {
        barrier_wait(done, 0);
        tensor_fence_after();
        int y = row + warp * 32 + lane;
        unsigned char* to = (unsigned char*)c + (unsigned long long)y * n * RP_OUT_BYTES;
#pragma unroll 1
        for (int x = 0; x < RP_BN; x += 32) {
            float v[32];
            tensor_read(v, d + (warp * 32 << 16) + x);    // every lane of the warp, also those below C
            if (y < m) write_row(to, v, alpha, column + x, n);
        }
        tensor_fence_before();
    }
    __syncthreads();
    tensor_fence_after();
    if (warp == kIssuer) tensor_give(d, RP_BN);
}
