// Kernels of ours for the stub driver: their own source, as fibres on the host (kernels/fibres). Built as C++ with kernels/ as the
// folder of includes; the driver's stub finds them by name.
#include "registry.h"
#include "collectives/check.cu"

#define OF(name)                                                                            \
  static bool moved_##name = registry::add("rp_check_moved_" #name, rp_check_moved_##name), \
              combined_##name = registry::add("rp_check_combined_" #name, rp_check_combined_##name);
OF(f64) OF(f32) OF(f16) OF(bf16) OF(e4m3) OF(e5m2) OF(e4m3fnuz) OF(e5m2fnuz) OF(i8) OF(i32)
