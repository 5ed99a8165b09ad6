// The least that a kernel can do and still be seen to have run: one thread adds one to a counter, by an atomic whose result nobody
// waits for. What is timed is the launch.
//
// rp_count(u32* count): count[0] += 1. Grid 1, block 1.
#include "../common/rp.h"

RP_KERNEL(1) rp_count(rp_u32 *count) { rp_add_to(count, 1u); }
