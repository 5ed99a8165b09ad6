// Latency: one thread follows a ring of indices, each load's address from the load before, so that nothing can be in flight
// beside it. Limit: the latency of whatever level holds the ring. The loads go through L1 as ordinary loads do.
//
// rp_chase(const u64* ring, u64* out, u64 elements, u64 start, u64 steps): out[0] = where the chase from `start` ends.
//   Grid 1, block 1, no shared memory. An index out of the ring ends the chase, and the result is then wrong.
#include "../common/rp.h"

RP_KERNEL(1) rp_chase(const rp_u64 *ring, rp_u64 *out, rp_u64 elements, rp_u64 start, rp_u64 steps) {
  rp_u64 at = start;
  for (rp_u64 i = 0; i < steps && at < elements; i++) at = ring[at];
  out[0] = at;
}
