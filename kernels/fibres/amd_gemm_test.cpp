// Proves gemm/matrix_amd.cu on the host for one chip and type (-D__gfx942__ -DRP_DTYPE=…): the product against float64, and first
// that the model of the matrix unit, and the fragments that the kernel was written for, lie as AMD publishes them.
#include "amd.h"
#include "../gemm/matrix_amd.cu"
#if RP_SPLIT
// The kernel leaves parts in f32 or i32, and RP_C is what they are added up to.
#undef RP_OUT
#define RP_OUT RP_C
#include "../gemm/combine.cu"
#endif
#include <random>

using fibres::Guarded;
using fibres::Type;
static const Type kIn = Type::RP_DTYPE, kOut = Type::RP_OUT;

// ---- layouts ----------------------------------------------------------------------------------

// AMD's matrix instruction calculator (of May 2025) prints, element by element, where A[row][k], B[k][column] and D[row][column] lie:
// `v0{32}.[15:0]`. These are the FNV-1a hashes of what it prints, a cell ended by a comma, rows in order, so that every element is
// compared. It does not know gfx950 and gfx1250.
struct Published { fibres::Unit unit; const char *instruction; unsigned long long a, b, d; };
static const Published PUBLISHED[] = {
    {{fibres::Chip::gfx90a, 2, 8}, "v_mfma_f32_32x32x8f16", 0xde771f7e6e4200c5, 0xb7175dfae1cf361d, 0xb2c4736e441ce82d},
    {{fibres::Chip::gfx90a, 2, 8}, "v_mfma_f32_32x32x8bf16_1k", 0xde771f7e6e4200c5, 0xb7175dfae1cf361d, 0xb2c4736e441ce82d},
    {{fibres::Chip::gfx90a, 1, 8}, "v_mfma_i32_32x32x8i8", 0x5a5130517dd944ad, 0xb826209da46fcf5d, 0xb2c4736e441ce82d},
    {{fibres::Chip::gfx942, 2, 8}, "v_mfma_f32_32x32x8_f16", 0xde771f7e6e4200c5, 0xb7175dfae1cf361d, 0xb2c4736e441ce82d},
    {{fibres::Chip::gfx942, 2, 8}, "v_mfma_f32_32x32x8_bf16", 0xde771f7e6e4200c5, 0xb7175dfae1cf361d, 0xb2c4736e441ce82d},
    {{fibres::Chip::gfx942, 1, 16}, "v_mfma_i32_32x32x16_i8", 0x9e00d32a22aac245, 0x1cda88e8dba51791, 0xb2c4736e441ce82d},
    {{fibres::Chip::gfx942, 1, 16}, "v_mfma_f32_32x32x16_fp8_fp8", 0x9e00d32a22aac245, 0x1cda88e8dba51791, 0xb2c4736e441ce82d},
    {{fibres::Chip::gfx942, 1, 16}, "v_mfma_f32_32x32x16_bf8_bf8", 0x9e00d32a22aac245, 0x1cda88e8dba51791, 0xb2c4736e441ce82d},
    {{fibres::Chip::gfx1100, 2, 16}, "v_wmma_f32_16x16x16_f16", 0x38c2bf78bd33eb45, 0x4bfd8e3b0cae0d45, 0xc326f6e985bd3715},
    {{fibres::Chip::gfx1100, 2, 16}, "v_wmma_f32_16x16x16_bf16", 0x38c2bf78bd33eb45, 0x4bfd8e3b0cae0d45, 0xc326f6e985bd3715},
    {{fibres::Chip::gfx1100, 1, 16}, "v_wmma_i32_16x16x16_iu8", 0x9c32ecc8d6436a05, 0x34b2f83c43f11bad, 0xc326f6e985bd3715},
    {{fibres::Chip::gfx1201, 2, 16}, "v_wmma_f32_16x16x16_f16", 0x5daf7aa6551d454d, 0x0222ea2f389695ed, 0x9b4b4336add5a145},
    {{fibres::Chip::gfx1201, 2, 16}, "v_wmma_f32_16x16x16_bf16", 0x5daf7aa6551d454d, 0x0222ea2f389695ed, 0x9b4b4336add5a145},
    {{fibres::Chip::gfx1201, 1, 16}, "v_wmma_i32_16x16x16_iu8", 0xe43e26f4516d5ecd, 0x0b34061c7c33017d, 0x9b4b4336add5a145},
    {{fibres::Chip::gfx1201, 1, 16}, "v_wmma_f32_16x16x16_fp8_fp8", 0xe43e26f4516d5ecd, 0x0b34061c7c33017d, 0x9b4b4336add5a145},
    {{fibres::Chip::gfx1201, 1, 16}, "v_wmma_f32_16x16x16_bf8_bf8", 0xe43e26f4516d5ecd, 0x0b34061c7c33017d, 0x9b4b4336add5a145},
};

struct Hash {
  unsigned long long h = 0xcbf29ce484222325ull;
  void add(const std::string &cell) { for (char c : cell + ",") h = (h ^ (unsigned char)c) * 0x100000001b3ull; }
};

static bool layouts() {
  bool ok = true;
  for (const Published &p : PUBLISHED) {
    int n = fibres::side(p.unit);
    auto operand = [&](int row, int k) {
      fibres::Place at = fibres::operand_at(p.unit, row, k);
      std::string text = fibres::cell_of(p.unit, at);
      return p.unit.chip == fibres::Chip::gfx1100 ? text + " " + fibres::cell_of(p.unit, {at.lane + 16, at.at}) : text;
    };
    Hash a, b, d;
    for (int i = 0; i < n; i++) for (int k = 0; k < p.unit.k; k++) a.add(operand(i, k));
    for (int k = 0; k < p.unit.k; k++) for (int i = 0; i < n; i++) b.add(operand(i, k));
    for (int i = 0; i < n; i++) for (int j = 0; j < n; j++) d.add(fibres::cell_of({p.unit.chip, 0, 0}, fibres::sum_at(p.unit, i, j)));
    bool same = a.h == p.a && b.h == p.b && d.h == p.d;
    if (!same) printf("BAD %s lies otherwise: %016llx %016llx %016llx\n", p.instruction, a.h, b.h, d.h);
    ok &= same;
  }
  // What the kernel takes to lie where: sums to the register; operands to the lane's row.
  const fibres::Unit unit = RP_MATRIX_UNIT;
  for (int row = 0; row < rp_matrix::kSide; row++)
    for (int column = 0; column < rp_matrix::kSide; column++) {
      fibres::Place p = fibres::sum_at(unit, row, column);
      ok &= p.lane % rp_matrix::kSide == column && rp_matrix::sum_row(p.lane, p.at) == row;
    }
  ok &= rp_matrix::kSide == fibres::side(unit) && rp_matrix::kLaneBytes * rp_matrix::kGroups == unit.k * unit.bytes;
  for (int at = 0; at < rp_matrix::kSums; at += rp_matrix::kRun)    // a run is of neighbours
    for (int x = 0; x < rp_matrix::kRun; x++) ok &= rp_matrix::sum_row(5, at + x) == rp_matrix::sum_row(5, at) + x;
  if (!ok) printf("BAD fragments and the published layouts differ\n");
  return ok;
}

// ---- products ---------------------------------------------------------------------------------

static std::mt19937 random_bits(7);

// About unit size (int8 of all sizes); the nearest pattern by search: no rounding of our own to get wrong.
static void fill(Guarded &g) {
  std::normal_distribution<float> normal;
  int size = fibres::bytes_of(kIn);
  for (size_t i = 0; i < g.bytes / size; i++) {
    float x = normal(random_bits);
    if (kIn == Type::i8) g.data[i] = (rp_u8)random_bits();
    else if (kIn == Type::f16) { u16 h = fibres::float_to_half(x); memcpy(g.data + 2 * i, &h, 2); }
    else if (kIn == Type::bf16) { u16 h = fibres::float_to_bf16(x); memcpy(g.data + 2 * i, &h, 2); }
    else {
      int best = 0; double distance = 1e9;
      for (int b = 0; b < 256; b++) { rp_u8 c = b; double w = fibres::read(kIn, &c); if (std::fabs(w - x) < distance) { distance = std::fabs(w - x); best = b; } }
      g.data[i] = best;
    }
  }
}

static bool check(int m, int n, int k, float alpha, int splits = 1) {
  int s = fibres::bytes_of(kIn), so = fibres::bytes_of(kOut);
  Guarded a((size_t)m * k * s), b((size_t)n * k * s), c((size_t)m * n * so);
  fill(a); fill(b);
  dim3 grid((m + RP_BM - 1) / RP_BM * ((n + RP_BN - 1) / RP_BN));
#if RP_SPLIT
  Guarded parts((size_t)splits * m * n * 4);
  grid.x *= splits;
  fibres::launch(grid, dim3(kThreads), [&] { rp_gemm_matrix(a.data, b.data, parts.data, m, n, k, splits); });
  const rp_u64 elements = (rp_u64)m * n;
  fibres::launch(dim3((unsigned)((elements + 1023) / 1024)), dim3(256), [&] {
    rp_gemm_combine((const rp_combined::sum *)parts.data, (rp_combined::type *)c.data, elements, splits, alpha);
  });
#else
  fibres::launch(grid, dim3(kThreads), [&] { rp_gemm_matrix(a.data, b.data, c.data, m, n, k, alpha); });
#endif
  double worst = 0, error = 0, norm = 0; size_t unwritten = 0;
  for (int i = 0; i < m; i++)
    for (int j = 0; j < n; j++) {
      double r = 0;
      for (int x = 0; x < k; x++) r += fibres::read(kIn, a.data + ((size_t)i * k + x) * s) * fibres::read(kIn, b.data + ((size_t)j * k + x) * s);
      if (kOut != Type::i32) r *= alpha;
      double v = fibres::read(kOut, c.data + ((size_t)i * n + j) * so), e = std::fabs(v - r);
      if (!(e < 1e30)) { ++unwritten; continue; }
      worst = std::max(worst, e); error += e * e; norm += r * r;
    }
  double relative = std::sqrt(error / norm), limit = kOut == Type::i32 ? 1e-30 : kOut == Type::bf16 ? 2.5e-3 : kOut == Type::f16 ? 4e-4 : 2e-6;
  bool ok = relative < limit && !unwritten;
  printf("%s %d×%d×%d: relative error %.1e (limit %.1e), worst %.1e, %zu not numbers\n", ok ? "ok " : "BAD", m, n, k, relative, limit, worst, unwritten);
  if (!ok) fibres::failed();
  return ok;
}

int main() {
  if (!layouts()) return 1;
  const int unit = 16 / fibres::bytes_of(kIn), wide = 16 / fibres::bytes_of(kOut), row = RP_ROW / fibres::bytes_of(kIn);
  bool ok = true;
#if RP_SPLIT
  ok &= check(40, RP_BN + 2 * wide, 7 * row, kIn == Type::i8 ? 1 : 0.375f, 3);     // parts of unlike length, several tiles
  ok &= check(16, wide, 2 * row, 1, 2);                 // one step a part
  return !ok;
#endif
#if RP_DIRECT
  ok &= check(8, wide, row, 1);                                     // far less than a tile
  ok &= check(RP_BM + 40, 2 * RP_BN - 6 * wide, 3 * row, 0.375f);        // several tiles and stages, tails of rows
#else
  ok &= check(8, wide, unit, 1);
  ok &= check(RP_BM + 40, 2 * RP_BN - 6 * wide, 2 * row + unit, 1.75f);    // and of K
#endif
  ok &= check(3 * RP_BM - 1, wide, row, 1);                          // a band of three, of which the last row is missing
  return !ok;
}
