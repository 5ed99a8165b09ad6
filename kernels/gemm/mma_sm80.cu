// GEMM on warp-level tensor instructions: C[M×N] = alpha · A[M×K] · B[N×K]ᵀ, accumulated in f32, from sm_80 on.
//
// Both operands have K contiguous, C has N contiguous; the products of a batch lie one behind the other.
//
// Shape of the work
//   A block owns 128×RP_BN of C, a warp 64×64 of it: 128 accumulators a thread, and 8 KiB of operands read for 64×64×32
//   bytes of K, half of what 32×64 would read. A stage is 64 bytes of K (32 bf16, 64 fp8, 16 tf32) of the tile's rows,
//   fetched by cp.async into a ring of RP_STAGES. Blocks walk C in bands of RP_GROUP tile rows to share what L2 holds.
//
// Where the layouts come from
//   Everything counts K in bytes: ldmatrix moves 16-byte rows, and mma's A and B fragments are the same 32 bytes of K for
//   every type (m16n8k16 of 16-bit, k8 of tf32, k32 of fp8). Rows of 64 bytes pair up in a 128-byte line; 16-byte unit u of
//   row r lies at u XOR (r/2 mod 4), so that the 8 rows one ldmatrix phase reads touch all 32 banks.
//
// What limits it
//   emulated in f16 by the compiler (native on sm_89 and sm_120).
//
// Host contract
//   rp_gemm_mma(const void* a, const void* b, void* c, int m, int n, int k, float alpha)
//   Pointers aligned to 16 bytes; K·s and N·so multiples of 16 bytes. Any M, N, K ≥ 1 otherwise.
//   grid (batch·ceil(M/128)·ceil(N/RP_BN)), block (RP_BN), dynamic shared memory RP_STAGES·(128 + RP_BN)·64 bytes.
//   With RP_SPLIT (of one product, and RP_OUT f32) the sum over K is cut into `splits` parts, at most one a stage: rp_gemm_mma(a, b, parts, m, n, k,
//   alpha, int splits), a grid of `splits` times as many, leaves part s of C at parts + s·m·n; kernels/gemm/combine.cu adds them up.
//
// Macros: RP_DTYPE bf16 | f16 | tf32 | e4m3 | e5m2 (fp8 from sm_89 on); RP_OUT bf16 | f16 | f32; RP_BN 128 | 256;
//   RP_STAGES ≥ 3; RP_GROUP; RP_SPLIT 1.

#ifndef RP_DTYPE
#define RP_DTYPE bf16
#endif
#ifndef RP_BN
#define RP_BN 128
#endif
#ifndef RP_STAGES
#define RP_STAGES 4
#endif
#ifndef RP_GROUP
#define RP_GROUP 8
#endif
#ifndef RP_SPLIT
#define RP_SPLIT 0
#endif

#define RP_JOIN_(a, b) a##b
#define RP_JOIN(a, b) RP_JOIN_(a, b)
#define RP_TEXT_(a) #a
#define RP_TEXT(a) RP_TEXT_(a)

// The operand types: bytes, K of one instruction (32 bytes of it), what C is.
#define RP_TYPE_bf16 2, 16, bf16
#define RP_TYPE_f16 2, 16, f16
#define RP_TYPE_tf32 4, 8, f32
#define RP_TYPE_e4m3 1, 32, bf16
#define RP_TYPE_e5m2 1, 32, bf16
#define RP_PICK(column, ...) column(__VA_ARGS__)
#define RP_BYTES_OF(bytes, k, out) bytes
#define RP_K_OF(bytes, k, out) k
#define RP_OUT_OF(bytes, k, out) out
#define RP_OF_TYPE(column) RP_PICK(column, RP_JOIN(RP_TYPE_, RP_DTYPE))
#ifndef RP_OUT
#define RP_OUT RP_OF_TYPE(RP_OUT_OF)
#endif
#define RP_OUT_BYTES_bf16 2
#define RP_OUT_BYTES_f16 2
#define RP_OUT_BYTES_f32 4
#define RP_OUT_BYTES RP_JOIN(RP_OUT_BYTES_, RP_OUT)

namespace rp_mma {

constexpr int kBlockM = 128;
constexpr int kThreads = RP_BN;                    // a warp per 64×64 of 128×RP_BN
constexpr int kRowBytes = 64;                      // of K, a stage
constexpr int kUnits = kRowBytes / 16;
constexpr int kBytesA = kBlockM * kRowBytes;
constexpr int kStageBytes = (kBlockM + RP_BN) * kRowBytes;
constexpr int kRowsPerPass = kThreads / kUnits;    // rows one sweep of the block's threads fetches
constexpr int kSteps = kRowBytes / 32;             // instructions along K
constexpr int kPatchPitch = 64 * RP_OUT_BYTES + 16;    // a warp's 16×64 patch of C, padded off the banks

static_assert(RP_BN == 128 || RP_BN == 256, "the warps are laid out 2 × RP_BN/64");
static_assert(RP_STAGES >= 3, "one stage computing, one settled, one in flight");
static_assert(RP_STAGES * kStageBytes >= kThreads / 32 * 16 * kPatchPitch, "the epilogue reuses the ring");

struct Fragments { unsigned a[4][4], b[8][2]; };

#ifndef RP_HOST_FIBRES    // on the host kernels/fibres/cluster.h stands in for everything down to the matching #endif

__device__ __forceinline__ unsigned char* shared_memory() {
    extern __shared__ unsigned char dynamic_shared[];
    return dynamic_shared;
}

__device__ __forceinline__ unsigned shared_address(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }

__device__ __forceinline__ void load_matrices(unsigned (&r)[4], unsigned address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}

__device__ __forceinline__ void multiply(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k" RP_TEXT(RP_OF_TYPE(RP_K_OF)) ".row.col.f32." RP_TEXT(RP_DTYPE) "." RP_TEXT(RP_DTYPE)
                 ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// 16 bytes to shared memory, zeros where there is nothing to read.
__device__ __forceinline__ void fetch(unsigned to, const unsigned char* from, bool inside) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(inside ? 16 : 0) : "memory");
}

__device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int Running> __device__ __forceinline__ void wait_fetched() {
    asm volatile("cp.async.wait_group %0;" ::"n"(Running) : "memory");
}

// Two neighbours of a row into shared memory.
__device__ __forceinline__ void put(unsigned to, float low, float high) {
#if RP_OUT_BYTES == 2
    unsigned both;
    asm("cvt.rn." RP_TEXT(RP_OUT) "x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(both) : "memory");
#else
    asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(to), "f"(low), "f"(high) : "memory");
#endif
}

#endif    // RP_HOST_FIBRES

__device__ __forceinline__ unsigned swizzled(int row, int unit) {
    return row * kRowBytes + ((unit ^ ((row >> 1) & 3)) << 4);
}

// What one thread fetches: the same unit of every kRowsPerPass-th row of A's tile, then of B's.
struct Fetcher {
    const unsigned char *a, *b;
    int rows_a, rows_b, k_bytes, row, unit;

    __device__ __forceinline__ void stage(unsigned to, int block) const {
        int x = block * kRowBytes + unit * 16;
        size_t pitch = (size_t)k_bytes;
        bool inside = x < k_bytes;
#pragma unroll
        for (int i = 0; i < kBlockM; i += kRowsPerPass) {
            bool valid = inside && row + i < rows_a;
            fetch(to + swizzled(row + i, unit), valid ? a + (row + i) * pitch + x : a, valid);
        }
#pragma unroll
        for (int i = 0; i < RP_BN; i += kRowsPerPass) {
            bool valid = inside && row + i < rows_b;
            fetch(to + kBytesA + swizzled(row + i, unit), valid ? b + (row + i) * pitch + x : b, valid);
        }
    }
};

__device__ __forceinline__ void load_fragments(Fragments& f, unsigned stage, int step, int warp_row, int warp_column, int lane) {
#pragma unroll
    for (int i = 0; i < 4; ++i)    // 16 rows of A: 8×8 matrices go down, then along K
        load_matrices(f.a[i], stage + swizzled(warp_row + i * 16 + lane % 16, step * 2 + lane / 16));
#pragma unroll
    for (int j = 0; j < 8; j += 2) {    // 16 rows of B: along K first, so that registers pair up by instruction
        unsigned r[4];
        load_matrices(r, stage + kBytesA + swizzled(warp_column + j * 8 + lane / 16 * 8 + lane % 8, step * 2 + lane / 8 % 2));
        f.b[j][0] = r[0]; f.b[j][1] = r[1]; f.b[j + 1][0] = r[2]; f.b[j + 1][1] = r[3];
    }
}

}  // namespace rp_mma

extern "C" __global__ void __launch_bounds__(rp_mma::kThreads, 256 / RP_BN)
#if RP_SPLIT
rp_gemm_mma(const void* a, const void* b, void* c, int m, int n, int k, float alpha, int splits) {
#else
rp_gemm_mma(const void* a, const void* b, void* c, int m, int n, int k, float alpha) {
#endif
    using namespace rp_mma;
    unsigned ring = shared_address(shared_memory());
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int warp_row = warp % 2 * 64, warp_column = warp / 2 * 64;

    int rows = (m + kBlockM - 1) / kBlockM, columns = (n + RP_BN - 1) / RP_BN;
    // A layer is a product of the batch, or with RP_SPLIT a part of K: each leaves an M×N of its own.
    unsigned tiles = rows * columns, layer = blockIdx.x / tiles;
    int tile = (int)(blockIdx.x - layer * tiles), product = RP_SPLIT ? 0 : (int)layer;
    int band = RP_GROUP * columns, first = tile / band * RP_GROUP, within = tile % band;
    int height = min(rows - first, RP_GROUP);
    int row = (first + within % height) * kBlockM, column = within / height * RP_BN;

    int k_bytes = k * RP_OF_TYPE(RP_BYTES_OF), blocks = (k_bytes + kRowBytes - 1) / kRowBytes;
    Fetcher fetcher = {(const unsigned char*)a + ((size_t)product * m + row) * k_bytes,
                       (const unsigned char*)b + ((size_t)product * n + column) * k_bytes,
                       m - row, n - column, k_bytes, (int)threadIdx.x / kUnits, (int)threadIdx.x % kUnits};
#if RP_SPLIT
    int begin = (int)((long long)blocks * layer / splits);
    blocks = (int)((long long)blocks * (layer + 1) / splits);
#else
    constexpr int begin = 0;
#endif
    for (int block = 0; block < RP_STAGES - 1; ++block) {
        if (begin + block < blocks) fetcher.stage(ring + block * kStageBytes, begin + block);
        commit();    // empty groups keep the count of groups in flight fixed
    }

    float d[4][8][4] = {};
    Fragments fragments[2];
    wait_fetched<RP_STAGES - 2>();
    __syncthreads();
    load_fragments(fragments[0], ring, 0, warp_row, warp_column, lane);
    int reading = 0, writing = RP_STAGES - 1;
    for (int block = begin; block < blocks; ++block) {
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
            if (step + 1 < kSteps) {
                load_fragments(fragments[(step + 1) % 2], ring + reading * kStageBytes, step + 1, warp_row, warp_column, lane);
            } else {
                // Everyone has read the last of this stage: the next round may overwrite it.
                wait_fetched<RP_STAGES - 2>();
                __syncthreads();
                reading = reading + 1 == RP_STAGES ? 0 : reading + 1;
                load_fragments(fragments[(step + 1) % 2], ring + reading * kStageBytes, 0, warp_row, warp_column, lane);
            }
            if (step == 0) {
                int next = block + RP_STAGES - 1;
                if (next < blocks) fetcher.stage(ring + writing * kStageBytes, next);
                commit();
                writing = writing + 1 == RP_STAGES ? 0 : writing + 1;
            }
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int j = 0; j < 8; ++j) multiply(d[i][j], fragments[step % 2].a[i], fragments[step % 2].b[j]);
        }
    }
    wait_fetched<0>();
    __syncthreads();

    // Only now: a pointer kept through the loop would spill.
    c = (unsigned char*)c + (size_t)layer * m * n * RP_OUT_BYTES;
    // By 16×64 patches through shared memory, so that rows of C leave in whole 16-byte units.
    constexpr int kPatchUnits = 64 * RP_OUT_BYTES / 16;
    unsigned char* patch = shared_memory() + warp * 16 * kPatchPitch;
    unsigned patch_address = ring + warp * 16 * kPatchPitch;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            unsigned to = patch_address + lane / 4 * kPatchPitch + (j * 8 + lane % 4 * 2) * RP_OUT_BYTES;
            put(to, alpha * d[i][j][0], alpha * d[i][j][1]);
            put(to + 8 * kPatchPitch, alpha * d[i][j][2], alpha * d[i][j][3]);
        }
        __syncwarp();
#pragma unroll
        for (int u = lane; u < 16 * kPatchUnits; u += 32) {
            int y = row + warp_row + i * 16 + u / kPatchUnits;
            int x = (column + warp_column) * RP_OUT_BYTES + u % kPatchUnits * 16;
            if (y < m && x < n * RP_OUT_BYTES)
                *(uint4*)((unsigned char*)c + (size_t)y * n * RP_OUT_BYTES + x) =
                    *(const uint4*)(patch + u / kPatchUnits * kPatchPitch + u % kPatchUnits * 16);
        }
        __syncwarp();
    }
}
