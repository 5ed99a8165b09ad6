// Proves the memory kernels on the host: every element against the generator, sums against double, ends and sizes that fit no tile.
#include "cuda.h"
#define RP_BLOCK 64
#include "../common/verify.cu"
#include "../memory/stream.cu"
#include "../memory/stream_bulk.cu"
#include "../memory/staircase.cu"
#include "../memory/shared.cu"
#include "../memory/gather.cu"
#include "../memory/chase.cu"
#include <string>

static int failures = 0;
static void want(bool ok, const std::string &what) { failures += !ok; printf("%s %s\n", ok ? "ok " : "BAD", what.c_str()); }
template <class K> static void on(unsigned grid, unsigned block, K kernel) { fibres::launch(dim3(grid), dim3(block), kernel); }

static const u32 POISON = 0x7fffbad1u;
static const u64 SX = 11, SY = 12;
static const float SCALAR = 0.5f;

struct alignas(16) Line { float v[4]; };
// Floats aligned to 16 bytes, poisoned, with a guard of 64 behind.
struct Array {
  std::vector<Line> lines; u64 n;
  explicit Array(u64 n) : lines(n / 4 + 18), n(n) { for (u64 i = 0; i < n + 64; i++) memcpy(&data()[i], &POISON, 4); }
  float *data() { return lines[0].v; }
  Array &generate(u64 seed) { for (u64 i = 0; i < n; i++) data()[i] = rp_normal(seed, i); return *this; }
  bool guarded() { for (u64 i = n; i < n + 64; i++) if (rp_bits(data()[i]) != POISON) return false; return true; }
};
// What the kernels' own check says, which is on trial too.
static u64 wrong(float *z, u64 n, u32 op) { u64 r[2] = {0, ~0ull}; on(2, 256, [&] { rp_check_stream(z, n, op, SCALAR, SX, SY, r); }); return r[0]; }

static void streams(u64 n) {
  Array x(n), y(n); x.generate(SX); y.generate(SY);
  double sum = 0, dot = 0; for (u64 i = 0; i < n; i++) { sum += x.data()[i]; dot += (double)x.data()[i] * y.data()[i]; }
  for (u32 grid : {1u, 3u, 9u}) for (u32 order : {0u, 1u}) {
    auto map = [&](const char *name, u32 op, std::function<void(float *)> kernel) { Array z(n); on(grid, RP_BLOCK, [&] { kernel(z.data()); });
      bool ok = wrong(z.data(), n, op) == 0 && z.guarded(); if (!ok) want(false, std::string(name) + " n " + std::to_string(n) + " grid " + std::to_string(grid) + " order " + std::to_string(order)); };
    auto fold = [&](const char *name, double reference, std::function<void(float *)> kernel) { Array z(grid); on(grid, RP_BLOCK, [&] { kernel(z.data()); });
      double s = 0; for (u32 i = 0; i < grid; i++) s += z.data()[i]; bool ok = std::fabs(s - reference) < 1e-6 * std::sqrt((double)n) + 1e-6 && z.guarded(); if (!ok) want(false, std::string(name) + " n " + std::to_string(n) + " grid " + std::to_string(grid)); };
    map("write", 0, [&](float *z) { rp_write(z, SCALAR, n, order); });
    map("copy", 1, [&](float *z) { rp_copy(x.data(), z, n, order); });
    map("scale", 2, [&](float *z) { rp_scale(x.data(), z, SCALAR, n, order); });
    map("add", 3, [&](float *z) { rp_add(x.data(), y.data(), z, n, order); });
    map("triad", 4, [&](float *z) { rp_triad(x.data(), y.data(), z, SCALAR, n, order); });
    fold("read", sum, [&](float *z) { rp_read(x.data(), z, n, order); });
    fold("dot", dot, [&](float *z) { rp_dot(x.data(), y.data(), z, n, order); });
    for (u32 chunk : {256u, 1040u}) {
      map("bulk copy", 1, [&](float *z) { rp_bulk_copy(x.data(), z, n, chunk); });
      map("bulk triad", 4, [&](float *z) { rp_bulk_triad(x.data(), y.data(), z, SCALAR, n, chunk); });
      fold("bulk read", sum, [&](float *z) { rp_bulk_read(x.data(), z, n, chunk); });
      fold("bulk dot", dot, [&](float *z) { rp_bulk_dot(x.data(), y.data(), z, n, chunk); });
    }
  }
}

int main() {
  for (u64 n : {1, 3, 4, 5, 255, 1024, 4099, 12345}) streams(n);
  want(failures == 0, "streams and bulk streams, all sizes");

  { // The checks can fail.
    Array z(5000); z.generate(SX); z.data()[4321] += 1e-6f; u64 r[2] = {0, ~0ull};
    on(2, 256, [&] { rp_check_stream(z.data(), 5000, 1, SCALAR, SX, SY, r); }); want(r[0] == 1 && r[1] == 4321, "one wrong element is found");
    r[0] = 0; r[1] = ~0ull; on(2, 256, [&] { rp_count_words((u32 *)z.data(), 5064, POISON, r); }); want(r[0] == 64 && r[1] == 5000, "poison is counted"); }
  { u64 n = 5001; double out[3], s = 0, d = 0; on(3, 256, [&] { rp_sum_reference(out, n, SX, SY, 1); }); s = out[0] + out[1] + out[2];
    for (u64 i = 0; i < n; i++) d += (double)rp_normal(SX, i) * rp_normal(SY, i); want(std::fabs(s - d) < 1e-9, "the reference of dot"); }
  { // The staircase: any start, any number of steps; private sets.
    const u64 tile = 64 * RP_UNROLL * 4, tiles = 5; Array x(tile * tiles * 3); x.generate(SX); std::vector<u32> of(tiles * 3);
    on(tiles * 3, 256, [&] { rp_bits_reference(of.data(), tile, 1, SX); });
    u32 out[3]; u64 cycles[3]; bool ok = true;
    on(3, RP_BLOCK, [&] { rp_staircase(x.data(), out, cycles, tiles, 0, 12); });
    for (u64 b = 0; b < 3; b++) { u32 s = 0; for (u64 i = 0; i < 12; i++) s += of[(tiles * b / 3 + i * ((b * 40503 & 0xffff) * 2 + 1)) % tiles]; ok &= s == out[b]; }
    on(3, RP_BLOCK, [&] { rp_staircase(x.data(), out, cycles, 4, tiles, 9); });
    for (u64 b = 0; b < 3; b++) { u32 s = 0; for (u64 i = 0; i < 9; i++) s += of[b * tiles + i % 4]; ok &= s == out[b]; }
    want(ok, "staircase"); }
  { Array x(2048 * 4); x.generate(SX); u32 out[1]; u64 cycles[1]; bool ok = true;
    for (u32 ways : {1u, 2u, 4u, 8u}) { on(1, 1024, [&] { rp_shared_read(x.data(), out, cycles, ways, 3); }); u32 s = 0;
      for (u32 t = 0; t < 1024; t++) for (u32 k = 0; k < 8; k++) for (u32 e = 0; e < 4; e++) s += rp_bits(x.data()[(t % RP_LANES * ways + t / RP_LANES * 8 + 192 * k) * 4 + e]);
      ok &= out[0] == s * 3; }
    want(ok, "shared memory, 1 to 8 ways"); }
  { bool ok = true; for (u32 bytes : {16u, 528u, 1536u, 3072u, 4096u + 16}) for (int rows = 0; rows < 2; rows++) {
      u64 total = 40, take = 23; Array x(total * bytes / 4), z(take * bytes / 4); x.generate(SX); std::vector<u32> table(take); for (u64 i = 0; i < take; i++) table[i] = (u32)rp_permute(3, i, total);
      on(3, RP_BLOCK, [&] { (rows ? rp_gather_rows : rp_gather_pages)((const rp_u8 *)x.data(), table.data(), (rp_u8 *)z.data(), take, bytes); });
      u64 r[2] = {0, ~0ull}; on(2, 256, [&] { rp_check_rows((u32 *)z.data(), table.data(), take, bytes / 4, SX, r); }); ok &= r[0] == 0 && z.guarded(); }
    want(ok, "gather of pages and rows"); }
  { Array x(7 * 1001); x.generate(SX); u32 out[3], ref[1]; on(3, RP_BLOCK, [&] { rp_read_strided(x.data(), out, 1001, 7); }); on(1, 256, [&] { rp_bits_reference(ref, 1001, 7, SX); }); want(out[0] + out[1] + out[2] == ref[0], "strided");
    std::vector<float> z(64, 0.f); on(4, RP_BLOCK, [&] { rp_add_atomic(z.data(), 32, 2, 5); }); bool ok = true; for (int i = 0; i < 64; i++) ok &= z[i] == (i % 2 ? 0.f : 40.f); want(ok, "atomic adds"); }
  { // The ring is one cycle over all nodes, and a chase ends where it must.
    for (u64 nodes : {1ull, 2ull, 3ull, 100ull, 128ull, 1000ull}) { std::vector<u64> ring(nodes * 3, 0), out(3); on(2, 256, [&] { rp_ring((rp_u8 *)ring.data(), nodes, 24, 77); });
      u64 first = (u64)(ring.data() + rp_permute(77, 0, nodes) * 3), p = first, length = 0; do { p = *(u64 *)p; length++; } while (p != first && length <= nodes);
      on(1, 1, [&] { rp_chase_cg((void *)first, out.data(), 5, 32); });
      want(length == nodes && out[0] == (u64)(ring.data() + rp_permute(77, 37 % nodes, nodes) * 3), "ring of " + std::to_string(nodes)); } }
  printf("%s\n", failures ? "FAILED" : "all right");
  return failures != 0;
}
