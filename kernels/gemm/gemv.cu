// Products with few rows, on every CUDA and HIP device: C[M×N] = A[M×K] · B[N×K]ᵀ for M ≤ 8, products and sums in f32. A decoder that
// writes one token at a time does little else.
//
// Shape of the work
//   A warp owns RP_ROWS rows of B and the same columns of C. Its lanes take 16 bytes each along K, of every row of B and of A, and
//   keep M × RP_ROWS sums; at the end of K a butterfly adds them over the lanes. No shared memory, no barrier.
//
// What limits it
//   Device memory: B is read once, 16 bytes a lane, RP_ROWS × RP_DEEP loads in flight. A is read by every warp and comes from the caches: a
//   16-byte load of A serves RP_ROWS rows of B, so that 8 rows of A cost twice the loads of B and not eight times.
//
// Where the layout comes from
//   Both operands have K contiguous, as a linear layer stores its weight.
//
// Host contract
//   rp_gemv(const void* a, const void* b, void* c, int n, int k)
//   Any N, K ≥ 1; where K elements are no multiple of 16 bytes, single elements are read. grid (ceil(N / (RP_ROWS · warps))),
//   block (a multiple of RP_WARP), no dynamic shared memory.
//
// Macros: RP_DTYPE f32 | f16 | bf16; RP_M rows of A, 1 to 8; RP_ROWS rows of B a warp; RP_DEEP steps of K in flight.
#include "../common/rp.h"
#include "../common/elements.h"

#ifndef RP_DTYPE
#define RP_DTYPE bf16
#endif
#ifndef RP_M
#define RP_M 1
#endif
#ifndef RP_ROWS
#define RP_ROWS 4
#endif
#ifndef RP_DEEP
#define RP_DEEP 1
#endif

typedef RP_JOIN(rp_, RP_DTYPE) rp_in;

#define RP_EACH ((int)(16 / sizeof(rp_in)))  // elements of a 16-byte load

// 16 bytes as numbers.
RP_DEVICE void rp_wide(float *to, const rp_u4 &from) {
  const rp_in *v = (const rp_in *)&from;
#pragma unroll
  for (int i = 0; i < RP_EACH; i++) to[i] = rp_widen(v[i]);
}

RP_KERNEL(256) rp_gemv(const void *a_, const void *b_, void *c_, int n, int k) {
  const rp_in *a = (const rp_in *)a_, *b = (const rp_in *)b_;
  int lane = (int)rp_thread() % RP_WARP, warp = (int)(rp_block() * (rp_threads() / RP_WARP) + rp_thread() / RP_WARP);
  int column = warp * RP_ROWS;
  if (column >= n) return;
  float sum[RP_M][RP_ROWS] = {};

  if (k % RP_EACH == 0) {
    const int step = RP_WARP * RP_EACH;
    for (int first = lane * RP_EACH; first < k; first += RP_DEEP * step) {
      rp_u4 raw[RP_DEEP][RP_ROWS];
#pragma unroll
      for (int d = 0; d < RP_DEEP; d++)
#pragma unroll
        for (int j = 0; j < RP_ROWS; j++) {
          // Past the last row the last one again, past the end of K its begin: what comes of them is not used.
          const int row = column + j < n ? column + j : n - 1, at = first + d * step < k ? first + d * step : 0;
          raw[d][j] = rp_load16<RP_STREAM>(b + (rp_u64)row * k + at);
        }
#pragma unroll
      for (int d = 0; d < RP_DEEP; d++) {
        const int at = first + d * step;
        if (at >= k) break;
        float y[RP_ROWS][RP_EACH];
#pragma unroll
        for (int j = 0; j < RP_ROWS; j++) rp_wide(y[j], raw[d][j]);
#pragma unroll
        for (int i = 0; i < RP_M; i++) {
          float x[RP_EACH];
          rp_wide(x, rp_load16<RP_CACHED>(a + (rp_u64)i * k + at));
#pragma unroll
          for (int j = 0; j < RP_ROWS; j++)
#pragma unroll
            for (int e = 0; e < RP_EACH; e++) sum[i][j] = rp_fma(x[e], y[j][e], sum[i][j]);
        }
      }
    }
  } else {
    for (int at = lane; at < k; at += RP_WARP) {
#pragma unroll
      for (int j = 0; j < RP_ROWS; j++) {
        float y = column + j < n ? rp_widen(b[((rp_u64)column + j) * k + at]) : 0.0f;
#pragma unroll
        for (int i = 0; i < RP_M; i++) sum[i][j] = rp_fma(rp_widen(a[(rp_u64)i * k + at]), y, sum[i][j]);
      }
    }
  }

#pragma unroll
  for (int i = 0; i < RP_M; i++)
#pragma unroll
    for (int j = 0; j < RP_ROWS; j++) {
      float all = sum[i][j];
      for (int mask = RP_WARP / 2; mask > 0; mask /= 2) all += rp_shuffle_xor(all, mask);
      if (lane == 0 && column + j < n) rp_narrow(all, (rp_in *)c_ + (rp_u64)i * n + column + j);
    }
}
