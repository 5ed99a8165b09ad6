// Shared memory (LDS) read bandwidth: 16 bytes a thread, without bank conflicts or with conflicts of 2, 4 or 8 ways.
//
// A load of 16 bytes a thread is served eight threads at a time, 128 bytes a clock. With neighbouring threads `ways` vectors
// apart, those eight threads fall `ways` deep on the same banks. Each pass makes eight independent loads, 192 vectors (a
// multiple of every bank period) apart. The sum is of raw bits modulo 2^32, so that a run is checked exactly.
// Limit: 128 B/clk/SM, divided by `ways`.
//
// rp_shared_read(const float* x, u32* out, u64* cycles, u32 ways, u32 passes)
//   x: 2048 × 16 bytes, 16-byte aligned. ways: 1, 2, 4 or 8. Block 1024 (any multiple of the warp up to that); grid: cores ×
//   blocks a core; 32 KiB static shared memory.
//   out[block] = passes × the sum over threads t and k < 8 of the four words of vector (lane·ways + 8·warp + 192·k);
//   cycles[block] = core cycles of the loop. Bytes read by a block: passes × threads × 128.
#include "../common/rp.h"

#define RP_SHARED_VECTORS 2048
#define RP_SHARED_LOADS 8
#define RP_SHARED_APART 192
static_assert((RP_WARP - 1) * 8 + (1024 / RP_WARP - 1) * 8 + RP_SHARED_APART * (RP_SHARED_LOADS - 1) < RP_SHARED_VECTORS,
              "the farthest load must lie inside the array");

RP_KERNEL(1024) rp_shared_read(const float *x, rp_u32 *out, rp_u64 *cycles, rp_u32 ways, rp_u32 passes) {
  RP_SHARED rp_u4 data[RP_SHARED_VECTORS];
  for (rp_u32 i = rp_thread(); i < RP_SHARED_VECTORS; i += rp_threads()) data[i] = rp_load16<RP_CACHED>(x + i * 4);
  const rp_u4 *mine = data + (rp_thread() % RP_WARP) * ways + (rp_thread() / RP_WARP) * 8;
  rp_u32 sum[4] = {0, 0, 0, 0};
  rp_sync();
  const rp_u64 first = rp_cycles();
#pragma unroll 2
  for (rp_u32 pass = 0; pass < passes; pass++) {
    rp_u4 v[RP_SHARED_LOADS];
#pragma unroll
    for (int k = 0; k < RP_SHARED_LOADS; k++) v[k] = rp_load_shared16(mine + k * RP_SHARED_APART);
#pragma unroll
    for (int k = 0; k < RP_SHARED_LOADS; k++)
#pragma unroll
      for (int e = 0; e < 4; e++) sum[e] += v[k].v[e];
  }
  // The sum waits for the last loads, the barrier for the last warp.
  const rp_u32 total = rp_block_sum(sum[0] + sum[1] + sum[2] + sum[3]);
  if (rp_thread() == 0) {
    cycles[rp_block()] = rp_cycles() - first;
    out[rp_block()] = total;
  }
}
