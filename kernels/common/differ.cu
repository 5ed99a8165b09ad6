// What a soak holds each result against: another that was verified. Not yet run on hardware.
//
// rp_differ(const u32* x, const u32* y, u32* count, u64 words): count[0] += how many words of x are not those of y. Block 256, any
//   grid, grid-stride; a right result costs no atomics. Limit: memory bandwidth at 4 bytes a load, both arrays read once.
#include "../common/rp.h"

RP_KERNEL(256) rp_differ(const rp_u32 *x, const rp_u32 *y, rp_u32 *count, rp_u64 words) {
  const rp_u64 step = (rp_u64)rp_blocks() * 256;
  rp_u32 differ = 0;
  for (rp_u64 i = (rp_u64)rp_block() * 256 + rp_thread(); i < words; i += step) differ += x[i] != y[i] ? 1u : 0u;
  if (differ != 0) rp_add_to(count, differ);
}
