// Proves attention/flash_amd.cu, or with -DRP_PINGPONG=1 flash_cdna.cu, on the host for one chip, type and mask (-D__gfx942__ -DRP_DTYPE=…
// -DRP_CAUSAL=…) against a naive softmax in double.
#include "amd.h"
#include "attention.h"
#if RP_PINGPONG
#include "../attention/flash_cdna.cu"
#define rp_flash_amd rp_flash_cdna
#define RP_DV RP_D
#else
#include "../attention/flash_amd.cu"
#endif
#include <random>

using fibres::Guarded;
using fibres::Type;
static const Type kType = Type::RP_DTYPE;
static std::mt19937 random_bits(7);

static void fill(Guarded &g, float size) {
  std::normal_distribution<float> normal;
  for (size_t i = 0; i < g.bytes / 2; i++) {
    float x = size * normal(random_bits);
    u16 h = kType == Type::f16 ? fibres::float_to_half(x) : fibres::float_to_bf16(x);
    memcpy(g.data + 2 * i, &h, 2);
  }
}

static bool check(int heads, int group, int queries, int keys, float size) {
  Guarded q((size_t)heads * queries * RP_D * 2), k((size_t)heads / group * keys * RP_D * 2), v(k.bytes), o(q.bytes);
  fill(q, size); fill(k, 1); fill(v, 1);
  const float scale = 1 / std::sqrt((float)RP_D);
  fibres::launch(dim3(heads, (queries + kQueries - 1) / kQueries), dim3(kThreads), [&] { rp_flash_amd(q.data, k.data, v.data, o.data, nullptr, nullptr, nullptr, nullptr, group, queries, keys, heads, 0, 0, scale); });
  double worst = 0, error = 0, norm = 0; size_t unwritten = 0;
  auto at = [&](const Guarded &g, size_t row, int c) { return fibres::read(kType, g.data + (row * RP_D + c) * 2); };
  for (int h = 0; h < heads; h++) for (int i = 0; i < queries; i++) {
    int sees = RP_CAUSAL ? std::min(keys, i + keys - queries + 1) : keys;
    std::vector<double> p(std::max(sees, 0)), out(RP_D, 0.0); double top = -1e300, sum = 0;
    size_t row = (size_t)h * queries + i, first = (size_t)(h / group) * keys;
    for (int j = 0; j < sees; j++) { double x = 0; for (int c = 0; c < RP_D; c++) x += at(q, row, c) * at(k, first + j, c); p[j] = x * scale; top = std::max(top, p[j]); }
    for (int j = 0; j < sees; j++) { p[j] = std::exp(p[j] - top); sum += p[j]; for (int c = 0; c < RP_D; c++) out[c] += p[j] * at(v, first + j, c); }
    for (int c = 0; c < RP_D; c++) {
      double want = sees > 0 ? out[c] / sum : 0, e = std::fabs(at(o, row, c) - want);
      if (!(e < 1e30)) { unwritten++; continue; }
      worst = std::max(worst, e); error += e * e; norm += want * want;
    }
  }
  double relative = std::sqrt(error / std::max(norm, 1e-30)), limit = kType == Type::f16 ? 1e-3 : 8e-3;
  bool ok = relative < limit && worst < 0.06 && !unwritten;
  printf("%s heads %d of %d queries %d keys %d: relative error %.1e (limit %.1e), worst %.1e, %zu not numbers\n", ok ? "ok " : "BAD", heads, group, queries, keys, relative, limit, worst, unwritten);
  if (!ok) fibres::failed();
  return ok;
}

#if RP_GENERAL || RP_FP8 || RP_D != RP_DV
static bool general(attention::Shape s) {
  s.d = RP_D; s.dv = RP_DV; s.f16 = kType == Type::f16; s.causal = RP_CAUSAL; s.q8 = s.kv8 = RP_FP8;
  attention::Operands t(s);
  const float scales[3] = {0.5f, 1.5f, 0.75f};
  const float read = kType == Type::e4m3fnuz ? 0.5f : 1;    // of what the reference reads of a byte
  if (RP_FP8) { t.k_scale = scales[0] * scales[1] * read * read; t.v_scale = scales[2] * read; }
  if (kType == Type::e4m3fnuz) for (auto *bytes : {&t.q8, &t.k, &t.v}) for (auto &x : *bytes) x = x == 0xFF ? 0x80 : x == 0x80 ? 0 : x;    // its NaN is what is minus zero elsewhere
  // What lies behind the operands may not be read.
  Guarded q(RP_FP8 ? t.q8.size() : t.q.size() * 2), k(t.k.size() - 128), v(t.v.size() - 128);
  memcpy(q.data, RP_FP8 ? (const void *)t.q8.data() : t.q.data(), q.bytes); memcpy(k.data, t.k.data(), k.bytes); memcpy(v.data, t.v.data(), v.bytes);
  const float *sinks = s.sinks ? t.sinks.data() : nullptr;
  fibres::launch(dim3(s.b * s.hq, (s.sq + kQueries - 1) / kQueries), dim3(kThreads), [&] { rp_flash_amd(q.data, k.data, v.data, (rp_u8 *)t.o.data(), t.lengths(), s.page ? t.table.data() : nullptr, sinks, scales, s.hq / s.hkv, s.sq, s.sk, s.hq, s.page ? __builtin_ctz(s.page) : 0, s.window, t.scale); });
  attention::check("flash", t);
  return !attention::failures;
}
int main() {
  attention::Shape ragged{3, 2, 1, 40, 130, 1, 0, 0, false, false, 0, 0, true}; ragged.lengths = {130, 0, 57};
  bool ok = true;
#if RP_GENERAL
  ok &= general({1, 2, 1, 140, 190, 1, 0, 0, false, false, RP_CAUSAL ? 45 : 0}) & general(ragged);
  attention::Shape paged{3, 4, 2, 20, 200, 1, 0, 0, false, false, RP_CAUSAL ? 100 : 0, 16}; paged.lengths = {200, 0, 101};
  ok &= general(paged);
  ok &= general({1, 1, 1, 5, 280, 2, 0, 0, false, false, 0, 64});    // more tiles than are under way at once
#else
  ok &= general({1, 2, 1, 140, 190, 2, 0, 0, false, false}) & general({2, 2, 2, 5, 3, 1, 0, 0, false, false}) & general({1, 1, 1, 30, 150, 60, 0, 0, false, false});
#endif
  return !ok;
}
#else
int main() {
  bool ok = true;
  ok &= check(1, 1, 1, 1, 1);
  ok &= check(2, 2, 30, 150, 60);        // huge logits
  ok &= check(1, 1, 5, 3, 1);            // far less than a tile; with a mask, rows that see nothing
  ok &= check(2, 2, 130, 200, 1);        // tails of both, heads that share their keys
  ok &= check(3, 1, 128, 320, 8);        // a sharp softmax, whose maximum moves
  return !ok;
}
#endif
