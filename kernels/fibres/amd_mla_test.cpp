// Proves attention/mla_decode_cdna.cu and combine.cu on the host for one chip and type (-D__gfx942__ -DRP_DTYPE=…).
#include "amd.h"
#include "attention.h"
#include "../attention/mla_decode_cdna.cu"
#define RP_D 512
#if RP_IS == 2
#define RP_TYPE 1
#endif
#include "../attention/combine.cu"
using attention::Operands;
using attention::Shape;

static void mla(const char *name, Shape s, int splits) {
  s.d = 576; s.dv = 512; s.latent = true; s.f16 = RP_IS == 2;
  Operands t(s);
  const int rows = s.hq * s.sq;
  std::vector<float> partial((size_t)s.b * rows * splits * 512, NAN), stats((size_t)s.b * rows * splits * 2, NAN);
  const float *sinks = s.sinks ? t.sinks.data() : nullptr;
  fibres::launch(dim3(s.b * splits, (rows + 31) / 32), dim3(256), [&] { rp_mla_decode_cdna((const rp_u8 *)t.q.data(), t.k.data(), (rp_u8 *)t.o.data(), partial.data(), stats.data(), t.lengths(), s.page ? t.table.data() : nullptr, splits == 1 ? sinks : nullptr, rows, s.sq, s.sk, s.page, splits, s.causal, t.scale); });
  if (splits > 1) fibres::launch(dim3((s.b * rows + 3) / 4), dim3(128), [&] { rp_combine(partial.data(), stats.data(), t.o.data(), sinks, s.b * rows, splits, s.sq, s.hq); });
  check(name, t);
}

int main() {
  Shape s{1, 40, 1, 1, 70, 1, 0, 0, false, false};    // a second block of rows with few, a last tile with few keys
  mla("mla cdna", s, 1);
  Shape paged{2, 3, 1, 2, 150, 1, 0, 0, false, true, 0, 16, true};
  mla("mla cdna paged, sinks", paged, 3);
  Shape ragged{4, 2, 1, 3, 100, 1, 0, 0, false, true, 0, 0, true}; ragged.lengths = {0, 2, 32, 96};
  mla("mla cdna ragged, sinks", ragged, 1);
  mla("mla cdna, one key", {1, 2, 1, 1, 1, 1, 0, 0, false, false}, 1);
  mla("mla cdna, huge logits, sinks", {1, 2, 1, 2, 90, 40, 0, 0, false, true, 0, 0, true}, 2);
  return attention::failures != 0;
}
