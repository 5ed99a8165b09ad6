// Input data by a counter: element i of stream `seed`, the same numbers as ridgepoint_core::data::value, bit for bit.
//
// Macro: RP_DATA, the distribution: 0 normal, 1 uniform, 2 zeros, 3 constant, 4 a sine wave.
//
// rp_init_<dtype>(T* z, u64 seed, u64 n) for f64, f32, f16, bf16, e4m3, e5m2, both of them in AMD's FNUZ encoding, i8: z[i] =
//   value(seed, i), rounded to nearest even (FP8 saturating; int8 times 24). Block 256, any grid; grid-stride. Limit: the 64-bit integer multiplies of the hash.
// rp_init_e2m1(u8* z, u64 seed, u64 n): the same times 1.5, two a byte, the first in the lower four bits.
// rp_init_scale_<type>(T* z, u64 seed, u64 n) for f32, e8m0, e4m3: scales as ridgepoint_core::data draws them.
#include "../common/rp.h"

#ifndef RP_DATA
#define RP_DATA 0
#endif

RP_DEVICE float rp_value(rp_u64 seed, rp_u64 i) {
#if RP_DATA == 0
  return rp_normal(seed, i);
#elif RP_DATA == 1
  return rp_uniform(seed, i);
#elif RP_DATA == 2
  return 0.0f;
#elif RP_DATA == 3
  return 1.0f;
#else
  return rp_trigonometric(seed, i);
#endif
}

#if RP_CUDA
RP_DEVICE int rp_nearest(float x) { return __float2int_rn(x); }
#else
RP_DEVICE int rp_nearest(float x) { return (int)__builtin_rintf(x); }
#endif

// The nearest pattern of a small float format, ties to even, by integer arithmetic. M mantissa bits, bias B, and the largest
// finite pattern MAX. The magnitudes here are below 4, so only formats with small ranges need the clamp.
template <int M, int B, rp_u32 MAX, int BITS> RP_DEVICE rp_u32 rp_narrow(float x) {
  const rp_u32 bits = rp_bits(x), sign = bits >> 31 << (BITS - 1), magnitude = bits & 0x7fffffffu;
  if (magnitude == 0) return sign;
  const int exponent = (int)(magnitude >> 23) - 127;
  const int drop = 23 - M + (exponent < 1 - B ? (1 - B) - exponent : 0);  // bits cut off; more of them below the normals
  if (drop > 24) return sign;
  const rp_u32 mantissa = (magnitude & 0x7fffffu) | 0x800000u;
  const rp_u32 half = 1u << (drop - 1), kept = mantissa >> drop;
  const rp_u32 rest = mantissa & ((1u << drop) - 1u);
  const rp_u32 rounded = kept + (rest > half || (rest == half && (kept & 1u)) ? 1u : 0u);
  // `rounded` holds the implicit bit of a normal number, so adding it to the exponent less one carries by itself.
  const rp_u32 field = exponent < 1 - B ? 0u : (rp_u32)(exponent + B - 1);
  const rp_u32 pattern = (field << M) + rounded;
  return sign | (pattern > MAX ? MAX : pattern);
}

// FNUZ has no negative zero: its pattern is the one NaN.
RP_DEVICE rp_u32 rp_unsigned_zero(rp_u32 pattern) { return pattern == 0x80u ? 0u : pattern; }

#define RP_INIT(name, type, convert)                                                            \
  RP_KERNEL(256) rp_init_##name(type *z, rp_u64 seed, rp_u64 n) {                               \
    const rp_u64 step = (rp_u64)rp_blocks() * 256;                                              \
    for (rp_u64 i = (rp_u64)rp_block() * 256 + rp_thread(); i < n; i += step) {                 \
      const float x = rp_value(seed, i);                                                        \
      z[i] = (type)(convert);                                                                   \
    }                                                                                           \
  }

RP_INIT(f64, double, x)
RP_INIT(f32, float, x)
RP_INIT(f16, unsigned short, (rp_narrow<10, 15, 0x7bffu, 16>(x)))
RP_INIT(bf16, unsigned short, (rp_narrow<7, 127, 0x7f7fu, 16>(x)))
RP_INIT(e4m3, unsigned char, (rp_narrow<3, 7, 0x7eu, 8>(x)))
RP_INIT(e5m2, unsigned char, (rp_narrow<2, 15, 0x7bu, 8>(x)))
RP_INIT(e4m3fnuz, unsigned char, rp_unsigned_zero(rp_narrow<3, 8, 0x7fu, 8>(x)))
RP_INIT(e5m2fnuz, unsigned char, rp_unsigned_zero(rp_narrow<2, 16, 0x7fu, 8>(x)))
RP_INIT(i8, signed char, rp_nearest(x * 24.0f))

RP_DEVICE rp_u32 rp_e2m1(rp_u64 seed, rp_u64 i, rp_u64 n) { return i < n ? rp_narrow<1, 1, 7u, 4>(rp_value(seed, i) * 1.5f) : 0u; }

RP_KERNEL(256) rp_init_e2m1(unsigned char *z, rp_u64 seed, rp_u64 n) {
  const rp_u64 step = (rp_u64)rp_blocks() * 256;
  for (rp_u64 i = (rp_u64)rp_block() * 256 + rp_thread(); i < (n + 1) / 2; i += step)
    z[i] = (unsigned char)(rp_e2m1(seed, 2 * i, n) | rp_e2m1(seed, 2 * i + 1, n) << 4);
}

// By their bits, so that no compiler's arithmetic comes between: an f32 in [1.25, 1.75) or twice that, 2^-2 to 2, 0.5 to 1.875.
#define RP_INIT_SCALE(name, type, convert)                                                      \
  RP_KERNEL(256) rp_init_scale_##name(type *z, rp_u64 seed, rp_u64 n) {                         \
    const rp_u64 step = (rp_u64)rp_blocks() * 256;                                              \
    for (rp_u64 i = (rp_u64)rp_block() * 256 + rp_thread(); i < n; i += step) {                 \
      const rp_u64 h = rp_hash(seed, i);                                                        \
      z[i] = (type)(convert);                                                                   \
    }                                                                                           \
  }

RP_INIT_SCALE(f32, rp_u32, 0x3fa00000u + (rp_u32)(h >> 42) + ((rp_u32)(h & 1) << 23))
RP_INIT_SCALE(e8m0, unsigned char, 125u + (rp_u32)(h & 3))
RP_INIT_SCALE(e4m3, unsigned char, 0x30u + (rp_u32)(h & 15))
