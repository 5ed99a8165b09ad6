// Adds up the parts that a GEMM cut along K leaves (RP_SPLIT of its siblings here): C = alpha · Σ parts, in the order of the parts,
// so that the same operands give the same bits each time.
//
// A thread owns 4 neighbours of C; part s of element i is at parts + s·elements + i. Limit: bandwidth, and of small C the launch.
//
// Host contract
//   rp_gemm_combine(const T* parts, void* c, u64 elements, int splits, float alpha), T f32, or i32 where RP_OUT is i32 (and alpha is
//   not heeded); elements a multiple of 4. block (256), grid (ceil(elements / 1024)).
//
// Macro: RP_OUT bf16 | f16 | f32 | i32.
#include "../common/rp.h"

#ifndef RP_OUT
#define RP_OUT bf16
#endif

struct rp_out_bf16 { typedef float sum; typedef rp_u16 type; };
struct rp_out_f16 { typedef float sum; typedef rp_u16 type; };
struct rp_out_f32 { typedef float sum; typedef float type; };
struct rp_out_i32 { typedef int sum; typedef int type; };
#ifndef RP_JOIN
#define RP_JOIN_(a, b) a##b
#define RP_JOIN(a, b) RP_JOIN_(a, b)
#endif
typedef RP_JOIN(rp_out_, RP_OUT) rp_combined;

// To nearest, ties to even.
RP_DEVICE void rp_place(rp_out_f32, float v, float *to) { *to = v; }
RP_DEVICE void rp_place(rp_out_i32, int v, int *to) { *to = v; }
#if RP_CUDA
RP_DEVICE void rp_place(rp_out_f16, float v, rp_u16 *to) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(*to) : "f"(v)); }
#else
RP_DEVICE void rp_place(rp_out_f16, float v, rp_u16 *to) { *to = __builtin_bit_cast(rp_u16, (_Float16)v); }
#endif
RP_DEVICE void rp_place(rp_out_bf16, float v, rp_u16 *to) {
  const rp_u32 u = rp_bits(v);
  const bool nan = (u & 0x7fffffffu) > 0x7f800000u;    // rounding could carry a NaN's payload into infinity
  *to = (rp_u16)(nan ? (u >> 16) | 0x40u : (u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}
RP_DEVICE float rp_scaled(float sum, float alpha) { return alpha * sum; }
RP_DEVICE int rp_scaled(int sum, float) { return sum; }

template <class T> struct alignas(4 * sizeof(T)) rp_four { T v[4]; };

RP_KERNEL(256) rp_gemm_combine(const rp_combined::sum *parts, rp_combined::type *c, rp_u64 elements, int splits, float alpha) {
  const rp_u64 i = ((rp_u64)rp_block() * 256 + rp_thread()) * 4;
  if (i >= elements) return;
  rp_four<rp_combined::sum> sum = *(const rp_four<rp_combined::sum> *)(parts + i);
  for (int s = 1; s < splits; s++) {
    const rp_four<rp_combined::sum> part = *(const rp_four<rp_combined::sum> *)(parts + s * elements + i);
#pragma unroll
    for (int x = 0; x < 4; x++) sum.v[x] += part.v[x];
  }
  rp_four<rp_combined::type> out;
#pragma unroll
  for (int x = 0; x < 4; x++) rp_place(rp_combined(), rp_scaled(sum.v[x], alpha), &out.v[x]);
  *(rp_four<rp_combined::type> *)(c + i) = out;
}
