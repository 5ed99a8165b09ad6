// Elements of a matrix as they lie in memory, widened to f32 and rounded back to nearest even, for kernels that do their arithmetic
// in f32 whatever the type: RP_JOIN(rp_, RP_DTYPE) is the element of a program's RP_DTYPE. Comes after rp.h.
#pragma once

#define RP_JOIN_(a, b) a##b
#define RP_JOIN(a, b) RP_JOIN_(a, b)

struct rp_f32 { float bits; };
struct rp_f16 { rp_u16 bits; };
struct rp_bf16 { rp_u16 bits; };

RP_DEVICE float rp_widen(rp_f32 v) { return v.bits; }
RP_DEVICE float rp_widen(rp_bf16 v) { return rp_float((rp_u32)v.bits << 16); }
RP_DEVICE void rp_narrow(float v, rp_f32 *to) { to->bits = v; }
RP_DEVICE void rp_narrow(float v, rp_bf16 *to) {
  rp_u32 u = rp_bits(v);
  bool nan = (u & 0x7fffffffu) > 0x7f800000u;    // rounding could carry a NaN's payload into infinity
  to->bits = (rp_u16)(nan ? (u >> 16) | 0x40u : (u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}
#if RP_CUDA
RP_DEVICE float rp_widen(rp_f16 v) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v.bits));
  return f;
}
RP_DEVICE void rp_narrow(float v, rp_f16 *to) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to->bits) : "f"(v)); }
#else
RP_DEVICE float rp_widen(rp_f16 v) { return (float)__builtin_bit_cast(_Float16, v.bits); }
RP_DEVICE void rp_narrow(float v, rp_f16 *to) { to->bits = __builtin_bit_cast(rp_u16, (_Float16)v); }
#endif
