// Proves the softmax of materialised attention on the host: every weight against double, masks, ends, and rows that see no key.
#include "cuda.h"
#include "softmax.cu"
#include <string>

static int failures = 0;

template <class T>
static void prove(const char *what, void (*kernel)(const float *, T *, rp_u64, rp_u32, rp_u32, rp_u32, float), double rounding, double least,
                  int heads, int queries, int keys, bool causal, float gain = 1) {
  const size_t rows = (size_t)heads * queries, n = rows * keys;
  const float scale = 0.125f;
  std::vector<Pack<4, float>> scores(n / 4 + 1), weights(n / 4 + 17);
  float *s = scores[0].v;
  T *p = (T *)weights[0].v;
  for (size_t i = 0; i < n; i++) s[i] = 8 * gain * rp_normal(5, i);
  memset(p, 0xFF, weights.size() * 16);
  fibres::launch(dim3(3), dim3(kThreads), [&] { kernel(s, p, rows, queries, keys, causal, scale); });    // fewer blocks than rows
  double worst = 0;
  for (size_t r = 0; r < rows; r++) {
    const int seen = causal ? std::max(0, (int)(r % queries) + 1 + keys - queries) : keys;
    double top = -1e300, sum = 0;
    for (int j = 0; j < seen; j++) top = std::max(top, (double)s[r * keys + j] * scale);
    for (int j = 0; j < seen; j++) sum += std::exp((double)s[r * keys + j] * scale - top);
    for (int j = 0; j < keys; j++) {
      const T &at = p[r * keys + j];
      const double got = rp_widen(at), want = j < seen ? std::exp((double)s[r * keys + j] * scale - top) / sum : 0;
      // What exp makes of a rounded argument, the rounding to T, and the least that T holds.
      const double allowed = want * (1e-6 * (4 + std::fabs(top)) + rounding) + (j < seen ? least : 0), error = std::fabs(got - want);
      worst = std::max(worst, error <= allowed ? allowed > 0 ? error / allowed : 0 : 1e9);
    }
  }
  bool intact = true;
  for (size_t i = n * sizeof(T); i < weights.size() * 16; i++) intact &= ((unsigned char *)p)[i] == 0xFF;
  const bool ok = worst <= 1 && intact;
  failures += !ok;
  printf("%s %-5s heads %d queries %d keys %d%s gain %g: %.2g of what is allowed%s\n", ok ? "ok " : "BAD", what, heads, queries, keys, causal ? " causal" : "", gain, worst,
         intact ? "" : ", wrote past the end");
  if (!ok) fibres::failed();
}

int main() {
  auto f32 = [](int heads, int queries, int keys, bool causal, float gain = 1) { prove("f32", rp_softmax_f32, 1e-6, 1e-37, heads, queries, keys, causal, gain); };
  f32(1, 1, 1, false);
  f32(2, 3, 1300, false);
  f32(3, 5, 7, true);
  f32(2, 7, 4, true);    // the first three see no key
  f32(2, 2, 1029, true);
  f32(1, 6, 1028, true, 1000);    // logits in the thousands
  prove("f16", rp_softmax_f16, 0x1p-11, 0x1p-24, 2, 4, 1100, true);
  prove("f16", rp_softmax_f16, 0x1p-11, 0x1p-24, 1, 3, 13, true);
  prove("bf16", rp_softmax_bf16, 0x1p-8, 1e-37, 2, 4, 1100, true);
  prove("bf16", rp_softmax_bf16, 0x1p-8, 1e-37, 1, 3, 13, false);
  printf("%d failures\n", failures);
  return failures != 0;
}
