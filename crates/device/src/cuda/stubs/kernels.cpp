// Kernels of ours for the stub driver: their own source, a block at a time as fibres on the host (kernels/fibres). Built as C++ with
// kernels/ as the folder of includes; the driver's stub finds them by name.
#include "fibres/cuda.h"
#include "collectives/check.cu"

template <class T> static T at(void **p, int i) { T v; memcpy(&v, p[i], sizeof v); return v; }

#define OF(name)                                                                                                              \
  if (!strcmp(entry, "rp_check_moved_" #name))                                                                                \
    return fibres::launch(dim3(grid), dim3(block), [&] {                                                                      \
      rp_check_moved_##name(at<const rp_##name::T *>(p, 0), at<rp_u64>(p, 1), at<rp_u64>(p, 2), at<rp_u64>(p, 3), at<rp_u32>(p, 4), at<rp_u64 *>(p, 5)); \
    });                                                                                                                       \
  if (!strcmp(entry, "rp_check_combined_" #name))                                                                             \
    return fibres::launch(dim3(grid), dim3(block), [&] {                                                                      \
      rp_check_combined_##name(at<const rp_##name::T *>(p, 0), at<rp_u64>(p, 1), at<rp_u64>(p, 2), at<rp_u64>(p, 3), at<rp_u32>(p, 4), at<rp_u32>(p, 5), at<double>(p, 6), at<double>(p, 7), at<rp_u64 *>(p, 8)); \
    });

extern "C" void rp_stub_kernel(const char *entry, void **p, unsigned grid, unsigned block) {
  OF(f64) OF(f32) OF(f16) OF(bf16) OF(e4m3) OF(e5m2) OF(e4m3fnuz) OF(e5m2fnuz) OF(i8) OF(i32)
  fprintf(stderr, "the stub has no kernel %s\n", entry);
  abort();
}
