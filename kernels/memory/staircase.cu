// The staircase: read bandwidth against a working set, from L1 through L2 into HBM.
//
// Tile: RP_BLOCK threads × RP_UNROLL loads of 16 bytes, read again and again. All blocks share the set, each in an order of its own:
// block b starts at the b-th of `grid` equal parts and goes on by a stride of its own. A set that fits L1 is then read from each core's
// own L1, one that fits L2 from L2, at any moment from lines spread over all of its slices, and a much larger one from memory. In one
// order for all, blocks catch up with each other, and the chip answers several for one read: 18 TB/s of "L2" on an H200. Loads with
// RP_L2_ONLY skip the first step. With `private_tiles` each block owns a set of its own instead.
// The sum is of the raw bits, modulo 2^32: the same in any order, so that a run is checked exactly.
// Limit: 128 B/clk of an L1, then the crossbar and the slices of L2, then HBM.
//
// rp_staircase(const float* x, u32* out, u64* cycles, u64 set_tiles, u64 private_tiles, u64 steps)
//   x: 16-byte aligned, set_tiles tiles (grid × private_tiles where that is not 0; set_tiles is then ≤ private_tiles).
//   out[block] = sum over the `steps` tiles it read; cycles[block] = core cycles from its first load to its last sum. These are
//   of one block alone: blocks of a core do not begin and end together, and rates added up from them come out above what an
//   L1 can do (176 B/clk/SM on an H100, whose loads were all there in its machine code). Time the launch as a whole.
//   Block RP_BLOCK; grid: cores × resident blocks; no dynamic shared memory. Bytes read: grid × steps × tile.
#include "../common/rp.h"

#ifndef RP_BLOCK
#define RP_BLOCK 512
#endif
#ifndef RP_UNROLL
#define RP_UNROLL 2
#endif
#ifndef RP_HINT_LOAD
#define RP_HINT_LOAD RP_CACHED
#endif

template <int B, int U, int LD>
RP_DEVICE void rp_climb(const float *__restrict__ x, rp_u32 *__restrict__ out, rp_u64 *__restrict__ cycles, rp_u64 set_tiles,
                        rp_u64 private_tiles, rp_u64 steps) {
  const rp_u64 tile = (rp_u64)B * U * 4;  // floats
  const float *set = x + rp_block() * private_tiles * tile + rp_thread() * 4;
  rp_u64 at = private_tiles ? 0 : set_tiles * rp_block() / rp_blocks();
  // Odd, and so prime to every power of two.
  const rp_u64 stride = private_tiles ? 1 : ((rp_u64)(rp_block() * 40503u & 0xffffu) * 2 + 1) % set_tiles;
  rp_u32 sum[4] = {0, 0, 0, 0};
  rp_sync();
  const rp_u64 first = rp_cycles();
#pragma unroll 1
  for (rp_u64 i = 0; i < steps; i++) {
    const float *p = set + at * tile;
    rp_u4 v[U];
#pragma unroll
    for (int k = 0; k < U; k++) v[k] = rp_load16<LD>(p + k * B * 4);
#pragma unroll
    for (int k = 0; k < U; k++)
#pragma unroll
      for (int e = 0; e < 4; e++) sum[e] += v[k].v[e];
    at += stride;
    if (at >= set_tiles) at -= set_tiles;
  }
  const rp_u32 total = rp_block_sum(sum[0] + sum[1] + sum[2] + sum[3]);
  if (rp_thread() == 0) {
    cycles[rp_block()] = rp_cycles() - first;
    out[rp_block()] = total;
  }
}

RP_KERNEL(RP_BLOCK) rp_staircase(const float *x, rp_u32 *out, rp_u64 *cycles, rp_u64 set_tiles, rp_u64 private_tiles, rp_u64 steps) {
  rp_climb<RP_BLOCK, RP_UNROLL, RP_HINT_LOAD>(x, out, cycles, set_tiles, private_tiles, steps);
}
