// What a rank received, against what it must be: every element computed anew from the ranks' streams, without bringing the
// buffer to the host.
//
// rp_check_moved_<dtype>(const T* z, u64 n, u64 seed, u64 start, u32 ranks, u64* found): z[i] is element start + i of the rank whose
//   stream is `seed`, exactly.
// rp_check_combined_<dtype>(const T* z, u64 n, u64 seed, u64 start, u32 ranks, u32 op, f64 tolerance, f64 tiny, u64* found): z[i] is
//   elements start + i of all ranks as one (0 sum, 1 product, 2 min, 3 max, 4 average), in f64; the error is relative to the sum of
//   their magnitudes plus `tiny`, to the product's magnitude, or to 1 for min, max and integers.
// <dtype>: f64 f32 f16 bf16 e4m3 e5m2 e4m3fnuz e5m2fnuz i8 i32. Inputs are those of CollectiveProblem::input in
// crates/device/src/collectives.rs; rank r's stream is operand_seed(seed, r) of crates/core/src/data.rs.
//   found[0] += elements that are wrong; found[1] = min(found[1], ~bits of the largest error): errors are positive, so that their
//   bits are in their order, and a NaN is above them all. The host sets {0, 2^64 − 1} before.
// Block 256, any grid, grid-stride. Limit: the 64-bit integer multiplies of the hash, one an element and rank, and f64.
#include "../common/rp.h"

RP_DEVICE rp_u64 rp_bits64(double v) { union { double d; rp_u64 u; } w; w.d = v; return w.u; }
RP_DEVICE double rp_double(rp_u64 u) { union { double d; rp_u64 u; } w; w.u = u; return w.d; }
RP_DEVICE double rp_magnitude(double v) { return v < 0 ? -v : v; }
// To the nearest whole number, ties to even, below 2^51.
RP_DEVICE double rp_whole(double v) { return (v + 6755399441055744.0) - 6755399441055744.0; }

// A float format: E exponent and M mantissa bits, bias B; S: what is no number (0 as IEEE, 1 all ones, 2 the negative zero).
template <int E, int M, int B, int S> struct rp_format {
  // The nearest of its numbers, ties to even. Inputs are too small to overflow.
  RP_DEVICE double round(double v) {
    const rp_u64 bits = rp_bits64(v), magnitude = bits & ~(1ull << 63);
    const int exponent = (int)(magnitude >> 52) - 1023, least = 1 - B;
    const int at = exponent < least ? least : exponent, drop = 52 - M + at - exponent;  // bits cut off; more below the normals
    if (magnitude == 0 || drop > 53) return 0.0;
    const rp_u64 mantissa = (magnitude & ((1ull << 52) - 1)) | 1ull << 52, half = 1ull << (drop - 1);
    const rp_u64 kept = mantissa >> drop, rest = mantissa & ((1ull << drop) - 1);
    const double whole = (double)(kept + (rest > half || (rest == half && (kept & 1)) ? 1 : 0));
    const double value = whole * rp_double((rp_u64)(at - M + 1023) << 52);
    return bits >> 63 ? -value : value;
  }
  RP_DEVICE double decode(rp_u32 bits) {
    const rp_u32 sign = bits >> (E + M) & 1, field = bits >> M & ((1u << E) - 1), fraction = bits & ((1u << M) - 1);
    const bool top = field == (1u << E) - 1;
    if ((S == 0 && top) || (S == 1 && top && fraction == (1u << M) - 1) || (S == 2 && bits == 1u << (E + M)))
      return rp_double(S == 0 && fraction == 0 ? (0x7ffull << 52) | (rp_u64)sign << 63 : 0x7ff8ull << 48);
    const double whole = (double)(field ? fraction + (1u << M) : fraction);
    const double value = whole * rp_double((rp_u64)((field ? (int)field : 1) - B - M + 1023) << 52);
    return sign ? -value : value;
  }
};

// A type: how it lies in memory, what of f64 it keeps, and whether it is an integer with inputs of its own.
struct rp_f64 { typedef double T; enum { integer = 0 }; RP_DEVICE double read(T x) { return x; } RP_DEVICE double round(double v) { return v; } };
struct rp_f32 { typedef float T; enum { integer = 0 }; RP_DEVICE double read(T x) { return x; } RP_DEVICE double round(double v) { return (float)v; } };
struct rp_i8 { typedef signed char T; enum { integer = 24 }; RP_DEVICE double read(T x) { return x; } RP_DEVICE double round(double v) { return rp_whole(v); } };
struct rp_i32 { typedef int T; enum { integer = 1 << 20 }; RP_DEVICE double read(T x) { return x; } RP_DEVICE double round(double v) { return rp_whole(v); } };
#define RP_NARROW(name, type, ...)                                             \
  struct rp_##name {                                                           \
    typedef type T;                                                            \
    enum { integer = 0 };                                                      \
    RP_DEVICE double read(T x) { return rp_format<__VA_ARGS__>::decode(x); }   \
    RP_DEVICE double round(double v) { return rp_format<__VA_ARGS__>::round(v); } \
  };
RP_NARROW(f16, unsigned short, 5, 10, 15, 0)
RP_NARROW(bf16, unsigned short, 8, 7, 127, 0)
RP_NARROW(e4m3, unsigned char, 4, 3, 7, 1)
RP_NARROW(e5m2, unsigned char, 5, 2, 15, 0)
RP_NARROW(e4m3fnuz, unsigned char, 4, 3, 8, 2)
RP_NARROW(e5m2fnuz, unsigned char, 5, 2, 16, 2)

// Element i of what a rank sends where values are only moved, added or compared.
template <class D> RP_DEVICE double rp_plain(rp_u64 seed, rp_u64 i, rp_u32 ranks) {
  const double x = rp_normal(seed, i);
  return D::round(D::integer ? x * D::integer / ranks : x);
}
// The same of rank r where they are multiplied.
template <class D> RP_DEVICE double rp_factor(rp_u64 seed, rp_u64 i, rp_u32 r, rp_u32 ranks) {
  const double x = rp_normal(seed, i), sign = x < 0 ? -1 : 1;
  return D::round(sign * (D::integer ? (i % ranks == r ? 3.0 : 1.0) : 1 + rp_magnitude(x) / (4 * ranks)));
}

struct rp_tally { rp_u64 wrong, most; };
// An error that is not finite is wrong at any tolerance.
RP_DEVICE void rp_see(rp_tally &tally, double got, double want, double scale, double tolerance) {
  const double error = got == want ? 0.0 : rp_magnitude((got - want) / scale);
  const rp_u64 bits = rp_bits64(error) & ~(1ull << 63);
  if (!(error <= tolerance) || bits >= 0x7ffull << 52) tally.wrong++;
  if (bits > tally.most) tally.most = bits;
}
// The usual case, an exact result, costs no atomics.
RP_DEVICE void rp_tell(const rp_tally &tally, rp_u64 *found) {
  if (tally.wrong) rp_add_to(&found[0], tally.wrong);
  if (tally.most) rp_min_to(&found[1], ~tally.most);
}

template <class D> RP_DEVICE void rp_moved(const typename D::T *z, rp_u64 n, rp_u64 seed, rp_u64 start, rp_u32 ranks, rp_u64 *found) {
  rp_tally tally = {0, 0};
  for (rp_u64 i = (rp_u64)rp_block() * 256 + rp_thread(); i < n; i += (rp_u64)rp_blocks() * 256)
    rp_see(tally, D::read(z[i]), rp_plain<D>(seed, start + i, ranks), 1, 0);
  rp_tell(tally, found);
}

template <class D>
RP_DEVICE void rp_combined(const typename D::T *z, rp_u64 n, rp_u64 seed, rp_u64 start, rp_u32 ranks, rp_u32 op, double tolerance, double tiny, rp_u64 *found) {
  rp_tally tally = {0, 0};
  for (rp_u64 i = (rp_u64)rp_block() * 256 + rp_thread(); i < n; i += (rp_u64)rp_blocks() * 256) {
    double value = 0, magnitudes = 0;
    for (rp_u32 r = 0; r < ranks; r++) {
      const rp_u64 stream = rp_hash(seed ^ 0x5269646765706F69ull, r);
      const double x = op == 1 ? rp_factor<D>(stream, start + i, r, ranks) : rp_plain<D>(stream, start + i, ranks);
      magnitudes += rp_magnitude(x);
      value = r == 0 ? x : op == 1 ? value * x : op == 2 ? (x < value ? x : value) : op == 3 ? (x > value ? x : value) : value + x;
    }
    if (op == 4) value /= ranks, magnitudes /= ranks;
    const double scale = D::integer || op == 2 || op == 3 ? 1 : op == 1 ? rp_magnitude(value) : magnitudes + tiny;
    rp_see(tally, D::read(z[i]), value, scale, tolerance);
  }
  rp_tell(tally, found);
}

#define RP_CHECK(name)                                                                                                            \
  RP_KERNEL(256) rp_check_moved_##name(const rp_##name::T *z, rp_u64 n, rp_u64 seed, rp_u64 start, rp_u32 ranks, rp_u64 *found) { \
    rp_moved<rp_##name>(z, n, seed, start, ranks, found);                                                                         \
  }                                                                                                                               \
  RP_KERNEL(256) rp_check_combined_##name(const rp_##name::T *z, rp_u64 n, rp_u64 seed, rp_u64 start, rp_u32 ranks, rp_u32 op,    \
                                          double tolerance, double tiny, rp_u64 *found) {                                         \
    rp_combined<rp_##name>(z, n, seed, start, ranks, op, tolerance, tiny, found);                                                 \
  }
RP_CHECK(f64)
RP_CHECK(f32)
RP_CHECK(f16)
RP_CHECK(bf16)
RP_CHECK(e4m3)
RP_CHECK(e5m2)
RP_CHECK(e4m3fnuz)
RP_CHECK(e5m2fnuz)
RP_CHECK(i8)
RP_CHECK(i32)
