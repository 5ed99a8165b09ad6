// AMD's waves, matrix units and direct loads, for kernels over common/amd.h run as fibres: -D__gfx942__ (or another) chooses the chip.
//
// What is modelled is what can be wrong: where an element of A, B and D lies among lanes and registers, written down here from AMD's
// documents and not taken from common/amd.h; that lanes 16 to 31 repeat lanes 0 to 15 on RDNA3; how each chip reads FP8; and that a
// direct load is nothing but NaN until it is waited for.
#pragma once
#if defined(__gfx90a__) || defined(__gfx942__) || defined(__gfx950__)
#define __GFX9__ 1
#define RP_LANES 64
#else
#define RP_LANES 32
#endif
#if defined(__gfx1100__)
#define __GFX11__ 1
#elif defined(__gfx1201__) || defined(__gfx1250__)
#define __GFX12__ 1
#endif
#include "cuda.h"
#include "../common/rp.h"
#include <string>
#include <sys/mman.h>

#define RP_KERNEL_OF(threads) extern "C" void
inline int rp_wave_uniform(int v) { return v; }
inline rp_u32 rp_shuffle(rp_u32 v, int lane) { return __shfl_sync(~0u, v, lane); }
inline void rp_sync_wave() { __syncwarp(); }
inline void rp_slot() { rp_sync(); }
inline int rp_anew(int v) { return v; }
template <int> void rp_priority() {}
inline float rp_exp2(float x) { return exp2f(x); }
inline rp_u32 rp_blocks_y() { return gridDim.y; }

namespace fibres {

struct Direct { rp_u8 *to; rp_u8 data[16]; int bytes; };
inline std::vector<Direct> direct[MAX_THREADS];
inline void load_direct(rp_u8 *to, const rp_u8 *from, int bytes) {
  if ((uintptr_t)from % bytes) fail("a direct load that is not aligned");
  Direct d = {to + lane() * bytes, {}, bytes};
  memcpy(d.data, from, bytes);
  memset(d.to, 0xff, bytes);
  direct[current->thread].push_back(d);
}

// ---- numbers --------------------------------------------------------------------------------------------------------------

enum class Type { bf16, f16, i8, e4m3, e5m2, e4m3fnuz, e5m2fnuz, f32, i32 };
inline int bytes_of(Type t) { return t <= Type::f16 ? 2 : t >= Type::f32 ? 4 : 1; }
inline double minifloat(unsigned byte, int mantissa, int bias) {
  int e = (byte & 0x7f) >> mantissa, m = byte & ((1 << mantissa) - 1);
  double v = e ? std::ldexp(1 + m / (double)(1 << mantissa), e - bias) : std::ldexp(m / (double)(1 << mantissa), 1 - bias);
  return byte & 0x80 ? -v : v;
}
inline double read(Type t, const void *p) {
  unsigned char b[4]; memcpy(b, p, bytes_of(t));
  u16 half; memcpy(&half, b, 2);
  float f; memcpy(&f, b, bytes_of(t) == 4 ? 4 : 0);
  int i; memcpy(&i, b, bytes_of(t) == 4 ? 4 : 0);
  switch (t) {
    case Type::bf16: return bf16_to_float(half);
    case Type::f16: return half_to_float(half);
    case Type::i8: return (signed char)b[0];
    case Type::e4m3: return minifloat(b[0], 3, 7);
    case Type::e5m2: return minifloat(b[0], 2, 15);
    case Type::e4m3fnuz: return b[0] == 0x80 ? NAN : minifloat(b[0], 3, 8);    // one NaN and no infinity, whose place is taken
    case Type::e5m2fnuz: return b[0] == 0x80 ? NAN : minifloat(b[0], 2, 16);
    case Type::i32: return i;
    default: return f;
  }
}

// Memory that ends where a page does that may not be touched.
struct Guarded {
  rp_u8 *base, *data; size_t whole, bytes;
  explicit Guarded(size_t bytes) : bytes(bytes) {
    whole = (bytes + 4095) / 4096 * 4096;
    base = (rp_u8 *)mmap(nullptr, whole + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(base + whole, 4096, PROT_NONE);
    data = base + whole - bytes;
    memset(base, 0xff, whole);
  }
  ~Guarded() { munmap(base, whole + 4096); }
};

// ---- where the elements lie -------------------------------------------------------------------------------------------------

// Chips whose unit differs.
enum class Chip { gfx90a, gfx942, gfx950, gfx1100, gfx1201, gfx1250 };
struct Unit { Chip chip; int bytes, k; };    // of an element; K of one instruction

struct Place { int lane, at; };    // `at` counts elements of a lane's operand, or its registers of sums

inline int side(Unit u) { return u.chip <= Chip::gfx950 ? 32 : 16; }

// A[row][k]; B[k][row] alike.
inline Place operand_at(Unit u, int row, int k) {
  switch (u.chip) {
    case Chip::gfx90a: case Chip::gfx942: case Chip::gfx950: return {k / (u.k / 2) * 32 + row, k % (u.k / 2)};
    case Chip::gfx1100: return {row, k};
    case Chip::gfx1201: return {k * u.bytes / 8 % 2 * 16 + row, k * u.bytes / 16 * (8 / u.bytes) + k % (8 / u.bytes)};
    default: return {k / 8 % 2 * 16 + row, k / 16 * 8 + k % 8};
  }
}
// D[row][column].
inline Place sum_at(Unit u, int row, int column) {
  switch (u.chip) {
    case Chip::gfx90a: case Chip::gfx942: case Chip::gfx950: return {row / 4 % 2 * 32 + column, row / 8 * 4 + row % 4};
    case Chip::gfx1100: return {row % 2 * 16 + column, row / 2};
    default: return {row / 8 * 16 + column, row % 8};
  }
}
// As AMD's calculator writes it: register, lane, bits.
inline std::string cell_of(Unit u, Place p) {
  if (!u.bytes) return "v" + std::to_string(p.at) + "{" + std::to_string(p.lane) + "}";
  int bit = p.at * u.bytes * 8;
  return "v" + std::to_string(bit / 32) + "{" + std::to_string(p.lane) + "}.[" + std::to_string(bit % 32 + u.bytes * 8 - 1) + ":" + std::to_string(bit % 32) + "]";
}

struct Wave { const rp_u32 *a[RP_LANES], *b[RP_LANES]; double product[32 * 32]; };
inline Wave waves[MAX_THREADS / RP_LANES];

// One instruction: `words` registers a lane of each operand. The last lane to come multiplies for all.
template <class Sums> void multiply(Unit u, Type type, int words, Sums &d, const rp_u32 *a, const rp_u32 *b) {
  Wave &w = waves[current->thread / RP_LANES];
  int n = side(u);
  w.a[lane()] = a; w.b[lane()] = b;
  meet(warp().meeting, RP_LANES, [&] {
    // Waves run at uneven speed, so that a barrier that is missing between them shows.
    for (unsigned i = current->thread / RP_LANES * 5 % 7; i-- > 0;) { progress++; give_way(); }
    std::vector<double> left(n * u.k), right(n * u.k);
    for (int row = 0; row < n; row++)
      for (int k = 0; k < u.k; k++) {
        Place p = operand_at(u, row, k);
        if ((p.at + 1) * u.bytes > 4 * words) fail("an operand larger than what a lane gives");
        left[row * u.k + k] = read(type, (const rp_u8 *)w.a[p.lane] + p.at * u.bytes);
        right[row * u.k + k] = read(type, (const rp_u8 *)w.b[p.lane] + p.at * u.bytes);
      }
    if (u.chip == Chip::gfx1100)
      for (int l = 0; l < 16; l++)
        if (memcmp(w.a[l], w.a[l + 16], 4 * words) || memcmp(w.b[l], w.b[l + 16], 4 * words)) fail("lanes 16 to 31 do not repeat lanes 0 to 15");
    for (int row = 0; row < n; row++)
      for (int column = 0; column < n; column++) {
        double s = 0;
        for (int k = 0; k < u.k; k++) s += left[row * u.k + k] * right[column * u.k + k];
        w.product[row * n + column] = s;
      }
  });
  for (int row = 0; row < n; row++)
    for (int column = (int)lane() % n; column < n; column += n) {
      Place p = sum_at(u, row, column);
      if (p.lane == (int)lane()) d.v[p.at] += w.product[row * n + column];
    }
  meet(warp().meeting, RP_LANES, [] {});
}

}  // namespace fibres

inline void rp_load_direct4(rp_u8 *to, const rp_u8 *from) { fibres::load_direct(to, from, 4); }
inline void rp_load_direct16(rp_u8 *to, const rp_u8 *from) { fibres::load_direct(to, from, 16); }
inline void rp_wait_direct() {
  auto &mine = fibres::direct[fibres::current->thread];
  for (auto &d : mine) memcpy(d.to, d.data, d.bytes);
  mine.clear();
}

// This chip's unit for RP_DTYPE, in AMD's words.
#if defined(__gfx90a__)
#define RP_CHIP gfx90a
constexpr int kInstructionK[3] = {8, 0, 8};
#elif defined(__gfx942__)
#define RP_CHIP gfx942
constexpr int kInstructionK[3] = {8, 16, 16};
#elif defined(__gfx950__)
#define RP_CHIP gfx950
constexpr int kInstructionK[3] = {16, 64, 32};
#elif defined(__gfx1100__)
#define RP_CHIP gfx1100
constexpr int kInstructionK[3] = {16, 0, 16};
#elif defined(__gfx1201__)
#define RP_CHIP gfx1201
constexpr int kInstructionK[3] = {16, 16, 16};
#else
#define RP_CHIP gfx1250
constexpr int kInstructionK[3] = {32, 128, 64};
#endif
#define RP_MATRIX_UNIT (fibres::Unit{fibres::Chip::RP_CHIP, RP_HALF ? 2 : 1, kInstructionK[RP_HALF ? 0 : RP_FP8 ? 1 : 2]})
#include "../common/amd.h"
void rp_matrix::multiply_once(Sums &d, const rp_u32 *a, const rp_u32 *b) {
  fibres::multiply(RP_MATRIX_UNIT, fibres::Type::RP_DTYPE, kLaneBytes / 4, d, a, b);
}
