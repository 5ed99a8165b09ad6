// GEMM on Hopper's warpgroup matrix units: C[M×N] = alpha · A[M×K] · B[N×K]ᵀ, accumulated in f32; one product, or a batch of them.
//
// Both operands have K contiguous ("TN" to cublasLt), C has N contiguous; products lie one behind the other.
//
// Shape of the work
//   A block owns a tile of 128×RP_BN of C: two consumer warpgroups of 64×RP_BN each, and one producer warp that keeps a
//   ring of RP_STAGES stages full. A stage is 128 bytes of K (64 bf16, 128 fp8, 32 tf32) of the tile's rows of A and B.
//   RP_CLUSTER blocks stacked along M share their columns: each fetches 1/RP_CLUSTER of B's stage and multicasts it, so
//   that B leaves L2 once a cluster. The grid is persistent; tiles are walked product by product, in bands of RP_GROUP cluster
//   rows, so that the tiles in flight form a near square and share what L2 holds.
//
// What limits it
//   The tensor cores (1024 cycles a stage for 128×256), and on random data the power limit. Per stage and block L2 gives
//   16 KiB + RP_BN·128/RP_CLUSTER bytes. Not hidden behind matrix work: the epilogue's conversion, and the last wave of tiles.
//
// Host contract
//   rp_gemm_wgmma(map_a, map_b, map_c, int m, int n, int k, int batch, float alpha): maps, launch and shared memory as hopper.h says.
//   With RP_SCALES a row of A and a column of B have a scale each, and an element of C is multiplied with both instead of alpha:
//   rp_gemm_wgmma(map_a, map_b, map_c, const float* scale_a, const float* scale_b, int m, int n, int k, int batch), the scales
//   [batch][M] and [batch][N].
//   With RP_SPLIT (of one product) the sum over K is cut into `splits` parts, at most one a stage, so that few tiles still fill the chip:
//   rp_gemm_wgmma(map_a, map_b, float* parts, int m, int n, int k, int splits) leaves part s of C at parts + s·m·n, in f32 and
//   without alpha; kernels/gemm/combine.cu adds them up, in order. Parts leave the registers directly.
//
// Macros: those of hopper.h; RP_SPLIT 1; RP_SCALES 1.

#ifndef RP_DTYPE
#define RP_DTYPE bf16
#endif
#ifndef RP_SCALES
#define RP_SCALES 0
#endif
#include "hopper.h"

namespace rp_wgmma {

#if RP_SPLIT

struct alignas(8) Pair { float first, second; };

// The fragment as it is: eight rows of 32 bytes a warp's store.
__device__ __forceinline__ void store_part(const float (&d)[kAccumulators], float* part, int row, int column, int m, int n, int thread) {
    int y = row + thread / 32 * 16 + thread % 32 / 4, x = column + thread % 4 * 2;
#pragma unroll
    for (int i = 0; i < kAccumulators; i += 2) {
        int at_y = y + i / 2 % 2 * 8, at_x = x + i / 4 * 8;
        if (at_y < m && at_x < n) *(Pair*)(part + (size_t)at_y * n + at_x) = {d[i], d[i + 1]};
    }
}

#endif

#if RP_SCALES

// The scales of a thread's elements of C, fetched while the tile is multiplied: those of its two rows, and two of every 64 columns,
// which the lanes of a warp give each other.
struct Scales {
    float rows[2], columns[RP_BN / 32];
    int lane;

    __device__ __forceinline__ Scales(const float* a, const float* b, int row, int column, int m, int n, int thread) : lane(thread % 32) {
        int y = row + thread / 32 * 16 + lane / 4;
#pragma unroll
        for (int i = 0; i < 2; ++i) rows[i] = y + i * 8 < m ? a[y + i * 8] : 0.0f;
#pragma unroll
        for (int i = 0; i < RP_BN / 32; ++i) {
            int x = column + i / 2 * 64 + lane * 2 + i % 2;
            columns[i] = x < n ? b[x] : 0.0f;
        }
    }

    // Columns 8j + lane % 4 · 2 and the next are lane 4j % 32 + lane % 4's.
    __device__ __forceinline__ void apply(float (&d)[kAccumulators]) const {
#pragma unroll
        for (int j = 0; j < RP_BN / 8; ++j)
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                float scale = __shfl_sync(0xffffffffu, columns[j / 8 * 2 + i], j % 8 * 4 + lane % 4);
                d[j * 4 + i] *= rows[0] * scale;
                d[j * 4 + 2 + i] *= rows[1] * scale;
            }
    }
};

#endif

}  // namespace rp_wgmma

extern "C" __global__ void __cluster_dims__(RP_CLUSTER, 1, 1) __launch_bounds__(rp_wgmma::kThreads, 1)
rp_gemm_wgmma(const __grid_constant__ rp_wgmma::TensorMap map_a, const __grid_constant__ rp_wgmma::TensorMap map_b,
#if RP_SPLIT
              float* parts, int m, int n, int k, int layers) {
#else
              const __grid_constant__ rp_wgmma::TensorMap map_c,
#if RP_SCALES
              const float* __restrict__ scale_a, const float* __restrict__ scale_b, int m, int n, int k, int layers) {
    constexpr float alpha = 1.0f;
#else
              int m, int n, int k, int layers, float alpha) {
#endif
#endif
    using namespace rp_wgmma;
    Place at;
    int k_blocks = (k + kBlockK - 1) / kBlockK;
#if RP_SPLIT
#define RP_STORE(d) store_part(d, parts + (size_t)walk.layer * m * n, row + consumer * 64, column, m, n, at.thread)
#else
#define RP_STORE(d) store_accumulators(d, &map_c, at.buffers(), row + consumer * 64, column, walk.layer, alpha, consumer, at.thread)
#endif
    Walk walk(m, n, layers);
    if (at.warpgroup == 0) {
        produce(at, walk, &map_a, &map_b, k_blocks);
    } else {
        take_registers<232>();
        int consumer = at.warpgroup - 1, row, column;
        Ring ring;
        float d[kAccumulators];
        while (walk.next(at.rank, row, column)) {
            int first = walk.first(k_blocks), last = walk.last(k_blocks);
#if RP_SCALES
            Scales scales(scale_a + (size_t)walk.layer * m, scale_b + (size_t)walk.layer * n, row + consumer * 64, column, m, n, at.thread);
#endif
            // One group stays in flight: a stage is freed once the group after it has been issued.
            unsigned previous = 0;
            for (int block = first; block < last; ++block, ring.advance()) {
                barrier_wait(at.full(ring), ring.parity);
                multiply_stage(d, at.a(ring), at.b(ring), block - first);
                multiply_wait<1>(d);
                if (block > first) release(previous, at.thread);
                previous = at.empty(ring);
            }
            multiply_wait<0>(d);
            release(previous, at.thread);
#if RP_SCALES
            scales.apply(d);
#endif
            RP_STORE(d);
        }
#if !RP_SPLIT
        if (at.thread == 0) wait_stores_done();
#endif
    }
    cluster_sync();    // no block leaves while another may still write into it or arrive at its barriers
}
