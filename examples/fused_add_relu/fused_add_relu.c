// out = max(a + b, 0): called once on each of the CPU's threads, which says which of how many it is.
#include <stdint.h>

void fused_add_relu(const float *restrict a, const float *restrict b, float *restrict out, uint64_t n, uint32_t thread, uint32_t threads) {
  const uint64_t first = n * thread / threads, last = n * (thread + 1) / threads;
  for (uint64_t i = first; i < last; i++) {
    const float sum = a[i] + b[i];
    out[i] = sum > 0.0f ? sum : 0.0f;
  }
}
