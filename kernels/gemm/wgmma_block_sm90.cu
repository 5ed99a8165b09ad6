// FP8 GEMM with the block scales of DeepSeek-V3 on Hopper: C[M×N] = Σ over blocks b of 128 of K of
// scale_a[row, b] · scale_b[column / 128, b] · Σ within b of A[M×K] · B[N×K]ᵀ; one product, or a batch of them.
//
// Both operands have K contiguous, C has N contiguous; products lie one behind the other.
//
// Shape of the work
//   As in wgmma_sm90.cu: a ring of stages, one producer, two consumer warpgroups of 64×RP_BN of C. A stage is one block of K. Its
//   products begin from zero in an accumulator of their own, 64×128 at a time, since that much of B shares one scale; the CUDA cores
//   then add them, times both scales, to the real sum in f32. So a warpgroup's matrix units rest while it adds, and the other
//   warpgroup's products fill them meanwhile.
//   What the tensor cores keep of a sum (about 14 bits) is thereby lost over 128 of K only.
//
// What limits it
//   The tensor cores where the two warpgroups alternate (512 cycles for 128×128×128), and shared memory: 48 KiB read and 32 KiB
//   written for each of those. The additions are 64 instructions of 128 cycles' products.
//
// Host contract
//   rp_gemm_wgmma_block(map_a, map_b, map_c, const float* scale_a, const float* scale_b, int m, int n, int k, int batch): maps, launch
//   and shared memory as hopper.h says; scale_a is [batch][ceil(K/128)][M], scale_b [batch][ceil(N/128)][ceil(K/128)].
//
// Macros: those of hopper.h, with RP_DTYPE e4m3 | e5m2 and RP_BN 128 | 256.

#ifndef RP_DTYPE
#define RP_DTYPE e4m3
#endif
#define RP_N 128
#include "hopper.h"

namespace rp_wgmma {

constexpr int kParts = RP_BN / RP_N;    // of a tile's columns, with a scale of B each

static_assert(kBlockK == 128, "a stage must be one block of scales");

// The scales of a thread's two rows and of the parts of its columns, in one block of K.
struct Scales {
    float rows[2], parts[kParts];

    __device__ __forceinline__ void fetch(const float* a, const float* b, int row, int column, int block, int m, int n, int k_blocks) {
        // Of what lies outside no product is kept: any scale will do.
#pragma unroll
        for (int i = 0; i < 2; ++i) rows[i] = a[(size_t)block * m + min(row + i * 8, m - 1)];
#pragma unroll
        for (int part = 0; part < kParts; ++part) parts[part] = b[(size_t)min(column / 128 + part, (n - 1) / 128) * k_blocks + block];
    }
};

}  // namespace rp_wgmma

extern "C" __global__ void __cluster_dims__(RP_CLUSTER, 1, 1) __launch_bounds__(rp_wgmma::kThreads, 1)
rp_gemm_wgmma_block(const __grid_constant__ rp_wgmma::TensorMap map_a, const __grid_constant__ rp_wgmma::TensorMap map_b,
                    const __grid_constant__ rp_wgmma::TensorMap map_c, const float* __restrict__ scale_a,
                    const float* __restrict__ scale_b, int m, int n, int k, int batch) {
    using namespace rp_wgmma;
    Place at;
    int k_blocks = (k + kBlockK - 1) / kBlockK;
    Walk walk(m, n, batch);
    if (at.warpgroup == 0) {
        produce(at, walk, &map_a, &map_b, k_blocks);
    } else {
        take_registers<232>();
        int consumer = at.warpgroup - 1, row, column;
        Ring ring;
        float sum[kAccumulators], d[kFragment];
        while (walk.next(at.rank, row, column)) {
            const float* of_a = scale_a + (size_t)walk.layer * k_blocks * m;
            const float* of_b = scale_b + (size_t)walk.layer * k_blocks * ((n + 127) / 128);
            int own_row = row + consumer * 64 + at.thread / 32 * 16 + at.thread % 32 / 4;
            Scales next;
            next.fetch(of_a, of_b, own_row, column, 0, m, n, k_blocks);
#pragma unroll
            for (int i = 0; i < kAccumulators; ++i) sum[i] = 0.0f;
            for (int block = 0; block < k_blocks; ++block, ring.advance()) {
                Scales scales = next;
                next.fetch(of_a, of_b, own_row, column, min(block + 1, k_blocks - 1), m, n, k_blocks);
                barrier_wait(at.full(ring), ring.parity);
#pragma unroll
                for (int part = 0; part < kParts; ++part) {
                    multiply_stage(d, at.a(ring), at.b(ring) + part * RP_N * 128, 0);
                    multiply_wait<0>(d);
                    if (part == kParts - 1) release(at.empty(ring), at.thread);
                    float factors[2] = {scales.rows[0] * scales.parts[part], scales.rows[1] * scales.parts[part]};
#pragma unroll
                    for (int i = 0; i < kFragment; ++i) sum[part * kFragment + i] += d[i] * factors[i / 2 % 2];
                }
            }
            store_accumulators(sum, &map_c, at.buffers(), row + consumer * 64, column, walk.layer, 1.0f, consumer, at.thread);
        }
        if (at.thread == 0) wait_stores_done();
    }
    cluster_sync();    // no block leaves while another may still write into it or arrive at its barriers
}
