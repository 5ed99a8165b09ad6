// Runs every fill of kernels/common/init.cu on the host and writes what it left, one type after another, then the streams of
// other distributions, for a test to compare with the host's own generator and rounding: init_test SEED N.
#include "cuda.h"
#include "../common/init.cu"

template <class T> static void fill(void (*kernel)(T *, rp_u64, rp_u64), rp_u64 seed, rp_u64 n, int each = 1) {
  std::vector<T> z(n / each);
  fibres::launch(dim3(3), dim3(256), [&] { kernel(z.data(), seed, n); });
  fwrite(z.data(), sizeof(T), n / each, stdout);
}

static void stream(float (*value)(rp_u64, rp_u64), rp_u64 seed, rp_u64 n) {
  for (rp_u64 i = 0; i < n; i++) {
    const float x = value(seed, i);
    fwrite(&x, sizeof x, 1, stdout);
  }
}

int main(int, char **argv) {
  const rp_u64 seed = strtoull(argv[1], nullptr, 10), n = strtoull(argv[2], nullptr, 10);
  fill(rp_init_f64, seed, n);
  fill(rp_init_f32, seed, n);
  fill(rp_init_f16, seed, n);
  fill(rp_init_bf16, seed, n);
  fill(rp_init_e4m3, seed, n);
  fill(rp_init_e5m2, seed, n);
  fill(rp_init_e4m3fnuz, seed, n);
  fill(rp_init_e5m2fnuz, seed, n);
  fill(rp_init_e2m1, seed, n, 2);
  fill(rp_init_scale_f32, seed, n);
  fill(rp_init_scale_e8m0, seed, n);
  fill(rp_init_scale_e4m3, seed, n);
  stream(rp_uniform, seed, n);
  stream(rp_trigonometric, seed, n);
}
