// Writes down what it was given, so that a test sees each argument as a kernel does.
//
// rp_arguments(u32* out, u32 u, i32 i, u64 wide, f32 f): out[0..8] = u, i, wide's low and high word, f's bits, and three
//   words 0. Grid 1, block 1.
#include "../common/rp.h"

RP_KERNEL(1) rp_arguments(rp_u32 *out, rp_u32 u, int i, rp_u64 wide, float f) {
  out[0] = u;
  out[1] = (rp_u32)i;
  out[2] = (rp_u32)wide;
  out[3] = (rp_u32)(wide >> 32);
  out[4] = rp_bits(f);
  out[5] = out[6] = out[7] = 0;
}
