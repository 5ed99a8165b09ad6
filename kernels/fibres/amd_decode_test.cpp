// Proves attention/decode_amd.cu and combine.cu on the host for one chip, type and head (-D__gfx942__ -DRP_DTYPE=… -DRP_D=… -DRP_KV8=…)
// against a naive softmax in double.
#include "amd.h"
#include "attention.h"
#include "../attention/decode_amd.cu"
#if RP_JOIN(RP_IS_, RP_Q) == 2
#define RP_TYPE 1
#endif
#include "../attention/combine.cu"
using attention::Operands;
using attention::Shape;
using fibres::Guarded;

template <class T> static void copy(Guarded &to, const std::vector<T> &from) { memcpy(to.data, from.data(), to.bytes); }

static void decode(const char *name, Shape s, int splits) {
  s.d = s.dv = RP_D; s.f16 = kHalfQ; s.kv8 = RP_KV8;
  Operands t(s);
  const int rows = s.hq / s.hkv * s.sq, total = s.b * s.hq * s.sq;
  // As the reference reads a byte, it is twice what it is in the FNUZ encoding.
  const float scales[3] = {0.5f, 1.5f, 0.75f}, read = kFnuz ? 0.5f : 1;
  if (RP_KV8) { t.k_scale = scales[0] * scales[1] * read; t.v_scale = scales[2] * read; }
  // What lies behind the operands may not be read.
  Guarded q(t.q.size() * 2), k(t.k.size() - 128), v(k.bytes);
  copy(q, t.q); copy(k, t.k); copy(v, t.v);
  std::vector<float> partial((size_t)total * splits * RP_D, NAN), stats((size_t)total * splits * 2, NAN);
  const float *sinks = s.sinks ? t.sinks.data() : nullptr;
  fibres::launch(dim3(s.b * s.hkv * splits, (rows + kSide - 1) / kSide), dim3(kThreads), [&] { rp_decode_amd(q.data, k.data, v.data, (rp_u8 *)t.o.data(), partial.data(), stats.data(), t.lengths(), s.page ? t.table.data() : nullptr, splits == 1 ? sinks : nullptr, RP_KV8 ? scales : nullptr, rows, s.sq, s.hkv, s.sk, s.page == 64 ? 6 : 4, splits, s.window, s.causal, t.scale); });
  if (splits > 1) fibres::launch(dim3((total + 3) / 4), dim3(128), [&] { rp_combine(partial.data(), stats.data(), t.o.data(), sinks, total, splits, s.sq, s.hq); });
  check(name, t);
}

int main() {
  decode("one key", {1, 2, 1, 1, 1, 1, 0, 0, false, true}, 1);
  decode("second block of rows, sinks", {1, 20, 1, 2, 150, 1, 0, 0, false, false, 0, 0, true}, 1);
  decode("huge logits", {1, 4, 1, 2, 280, 60, 0, 0, false, true}, 2);
  Shape paged{2, 6, 2, 3, 330, 2, 0, 0, false, true, 150, 16, true}; paged.lengths = {330, 40};
  decode("pages, window, sinks", paged, 2);
  Shape ragged{4, 4, 2, 4, 600, 1, 0, 0, false, true, 0, 64}; ragged.lengths = {0, 2, 600, 128};    // a row that sees nothing, nothing at all
  decode("ragged, pages", ragged, 1);
  Shape sunk{3, 2, 1, 2, 100, 30, 0, 0, false, true, 0, 0, true}; sunk.lengths = {1, 0, 97};
  decode("ragged, huge logits, sinks", sunk, 1);
  return attention::failures != 0;
}
