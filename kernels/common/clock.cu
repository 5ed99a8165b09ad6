// The device's clock and the queue's brake.
//
// rp_clock(u64* out, u64 ns): out[0] = cycles, out[1] = nanoseconds that passed while one thread waited about `ns`.
//   Grid 1, block 1. Their quotient is the core clock, from the device's own counters.
// rp_hold(const u32* flag, u64 limit_ns): keeps the stream busy until the host writes 1 to the mapped flag, or until the
//   limit, so that a host that died or deadlocked does not hang the device. Grid 1, block 1.
#include "../common/rp.h"

RP_KERNEL(1) rp_clock(rp_u64 *out, rp_u64 ns) {
  const rp_u64 start = rp_nanoseconds(), first = rp_cycles();
  rp_u64 now;
  do { now = rp_nanoseconds(); } while (now - start < ns);
  out[0] = rp_cycles() - first;
  out[1] = now - start;
}

RP_KERNEL(1) rp_hold(const rp_u32 *flag, rp_u64 limit_ns) {
  const rp_u64 start = rp_nanoseconds();
  while (rp_load_host(flag) == 0 && rp_nanoseconds() - start < limit_ns) {}
}
