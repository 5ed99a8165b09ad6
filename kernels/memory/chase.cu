// Latency: one thread follows a ring, each load's address from the load before, so that nothing can be in flight beside it.
// Limit: the latency of whatever level holds the ring.
//
// rp_chase(const u64* ring, u64* out, u64 elements, u64 start, u64 steps): a ring of indices, through L1 as ordinary loads go.
//   out[0] = where the chase from `start` ends. An index out of the ring ends the chase, and the result is then wrong.
// rp_ring(u8* base, u64 nodes, u64 stride, u64 seed): lays a ring of addresses, one cycle over all nodes in random order:
//   the node at base + stride·P(i) holds the address of the node P(i + 1 mod nodes), P = rp_permute(seed, ·, nodes).
//   stride ≥ 8 bytes, a multiple of 8. Any grid, block 256.
// rp_chase_ca, rp_chase_cg(const void* start, u64* out, u64 warm, u64 steps): follow a ring of addresses through L1, or with
//   L1 skipped. `warm` steps go before, untimed. out = { end address, core cycles, nanoseconds } of `steps` (a multiple of 16).
//   The device's own counters time it, so that launch and clock ramp stay out.
// rp_latencies(const u8* base, u32* out, u64 lines, u64 stride): out[i] = core cycles of a load of base + i·stride that skips
//   L1 and is found in L2: the mean of four dependent ones after one that brings the line in. Lines in the near and the far half
//   of a split L2 differ. The memory must hold addresses (a ring) or other numbers below 2^63.
// The chases: grid 1, block 1, no shared memory.
#include "../common/rp.h"

RP_KERNEL(1) rp_chase(const rp_u64 *ring, rp_u64 *out, rp_u64 elements, rp_u64 start, rp_u64 steps) {
  rp_u64 at = start;
  for (rp_u64 i = 0; i < steps && at < elements; i++) at = rp_load_address<RP_CACHED>((rp_u64)(ring + at));
  out[0] = at;
}

RP_KERNEL(256) rp_ring(rp_u8 *base, rp_u64 nodes, rp_u64 stride, rp_u64 seed) {
  const rp_u64 step = (rp_u64)rp_blocks() * 256;
  for (rp_u64 i = (rp_u64)rp_block() * 256 + rp_thread(); i < nodes; i += step) {
    const rp_u64 next = rp_permute(seed, i + 1 == nodes ? 0 : i + 1, nodes);
    *(rp_u64 *)(base + rp_permute(seed, i, nodes) * stride) = (rp_u64)(base + next * stride);
  }
}

#define RP_STEPS 16

template <int LD> RP_DEVICE void rp_follow(const void *start, rp_u64 *out, rp_u64 warm, rp_u64 steps) {
  rp_u64 p = (rp_u64)start;
  for (rp_u64 i = 0; i < warm; i++) p = rp_load_address<LD>(p);
  // Nothing is at address 0: the test makes the clock wait for the last load of the warm-up, and below for the last of all.
  if (p == 0) return;
  const rp_u64 began = rp_nanoseconds(), first = rp_cycles();
#pragma unroll 1
  for (rp_u64 i = 0; i < steps; i += RP_STEPS)
#pragma unroll
    for (int k = 0; k < RP_STEPS; k++) p = rp_load_address<LD>(p);
  if (p == 0) return;
  const rp_u64 cycles = rp_cycles() - first, ns = rp_nanoseconds() - began;
  out[0] = p;
  out[1] = cycles;
  out[2] = ns;
}

RP_KERNEL(1) rp_chase_ca(const void *start, rp_u64 *out, rp_u64 warm, rp_u64 steps) { rp_follow<RP_CACHED>(start, out, warm, steps); }
RP_KERNEL(1) rp_chase_cg(const void *start, rp_u64 *out, rp_u64 warm, rp_u64 steps) { rp_follow<RP_L2_ONLY>(start, out, warm, steps); }

RP_KERNEL(1) rp_latencies(const rp_u8 *base, rp_u32 *out, rp_u64 lines, rp_u64 stride) {
  for (rp_u64 i = 0; i < lines; i++) {
    rp_u64 at = (rp_u64)(base + i * stride);
    // The top bit of what is loaded is clear, which the compiler can't know: the next address depends on it and stays.
    at += rp_load_address<RP_L2_ONLY>(at) >> 63;
    if (at == 0) return;
    const rp_u64 first = rp_cycles();
#pragma unroll
    for (int k = 0; k < 4; k++) at += rp_load_address<RP_L2_ONLY>(at) >> 63;
    if (at == 0) return;
    out[i] = (rp_u32)((rp_cycles() - first) / 4);
  }
}
