// Joins the splits of a decode: each split's output, unnormalised, weighted by 2^(its maximum − the common one). One source for CUDA and HIP.
//
// Shape of the work: 32 lanes a row, a pair of columns each; a block has four rows.
// What limits it: the partial results pass through L2 once; a decode with few splits hardly notices.
//
// Host contract
//   rp_combine(const float *partial, const float *stats, rp_u16 *o, const float *sinks, int total, int splits, int queries, int heads)
//   partial  [total, splits, RP_D]; stats [total, splits] pairs of a maximum in log2 units and a sum; o [total, RP_D]
//   sinks    a logit a head that joins the sum without a value, or null; row r is of head r / queries mod heads
//   grid ceil(total / 4), block 128. A row whose sums are all zero gives zeros.
//
// Macros: RP_D, even; RP_TYPE of o, 1 f16 | 2 bf16.
#include "../common/rp.h"

#ifndef RP_D
#define RP_D 128
#endif
#ifndef RP_TYPE
#define RP_TYPE 2
#endif

#define RP_PASTE2(a, b) a##b
#define RP_PASTE(a, b) RP_PASTE2(a, b)
#ifndef RP_NAME
#define RP_NAME rp_combine
#endif
#define RP_SCOPE RP_PASTE(RP_NAME, _scope)  // one scope for each instance, so that a program may include several

namespace RP_SCOPE {

struct alignas(8) Pair { float x, y; };
constexpr int kPairs = (RP_D / 2 + 31) / 32;    // of a lane

RP_DEVICE float larger(float a, float b) { return a > b ? a : b; }
#if RP_CUDA || RP_HOST
RP_DEVICE float power(float x) { return exp2f(x); }
#else
RP_DEVICE float power(float x) { return __builtin_exp2f(x); }
#endif

#if RP_TYPE == 1 && RP_CUDA    // CUDA's half needs a header that NVRTC lacks
RP_DEVICE rp_u32 narrow(float x) { rp_u16 h; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x)); return h; }
#elif RP_TYPE == 1
RP_DEVICE rp_u32 narrow(float x) { _Float16 h = (_Float16)x; rp_u16 u; __builtin_memcpy(&u, &h, 2); return u; }
#else
RP_DEVICE rp_u32 narrow(float x) { rp_u32 u = rp_bits(x); return x != x ? 0x7FC0u : (u + 0x7FFFu + (u >> 16 & 1)) >> 16; }
#endif

RP_DEVICE void run(const float *partial, const Pair *stats, rp_u16 *o, const float *sinks, int total, int splits, int queries, int heads) {
  const int lane = (int)rp_thread() % 32, row = (int)rp_block() * 4 + (int)rp_thread() / 32;
  if (row >= total) return;    // all 32 lanes of it
  stats += (rp_u64)row * splits;
  partial += (rp_u64)row * splits * RP_D;
  const float nothing = -3.402823466e38f * 2;    // −∞
  const float sink = sinks ? sinks[row / queries % heads] * 1.4426950408889634f : nothing;
  float top = sink;
  for (int s = lane; s < splits; s += 32) top = larger(top, stats[s].x);
#pragma unroll
  for (int m = 16; m; m /= 2) top = larger(top, rp_shuffle_xor(top, m));
  float sum = top > nothing && sinks ? power(sink - top) : 0.0f;
  Pair out[kPairs] = {};
  for (int s = 0; s < splits; s++) {
    const Pair x = stats[s];
    if (!(x.y > 0)) continue;
    const float weight = power(x.x - top);
    sum += x.y * weight;
#pragma unroll
    for (int i = 0; i < kPairs; i++) {
      if (RP_D % 64 && i * 64 + lane * 2 >= RP_D) continue;
      const Pair y = *(const Pair *)(partial + (rp_u64)s * RP_D + i * 64 + lane * 2);
      out[i].x += y.x * weight;
      out[i].y += y.y * weight;
    }
  }
  const float inverse = sum > 0 ? 1 / sum : 0;
#pragma unroll
  for (int i = 0; i < kPairs; i++) {
    if (RP_D % 64 && i * 64 + lane * 2 >= RP_D) continue;
    *(rp_u32 *)(o + (rp_u64)row * RP_D + i * 64 + lane * 2) = narrow(out[i].x * inverse) | narrow(out[i].y * inverse) << 16;
  }
}

}  // namespace RP_SCOPE

RP_KERNEL(128) RP_NAME(const float *partial, const float *stats, rp_u16 *o, const float *sinks, int total, int splits, int queries, int heads) {
  RP_SCOPE::run(partial, (const RP_SCOPE::Pair *)stats, o, sinks, total, splits, queries, heads);
}
#undef RP_PASTE2
#undef RP_PASTE
#undef RP_SCOPE
#undef RP_NAME
