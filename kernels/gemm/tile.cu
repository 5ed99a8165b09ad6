// GEMM without matrix units, on every CUDA and HIP device: C[M×N] = alpha · A[M×K] · B[N×K]ᵀ, products and sums in f32.
//
// Both operands have K contiguous, C has N contiguous. It serves as the reference for the matrix-unit kernels where no
// vendor library is found, and as the f32 ("SIMT") measurement.
//
// Shape of the work
//   A block of 256 threads owns 128×128 of C, a thread 8×8 of it as four 4×4 corners 64 apart: the 16-byte reads of
//   neighbouring threads are then neighbours in shared memory. K advances by 8. The next 8 wait in registers while
//   these are multiplied, and land in the other of two shared buffers: one barrier a step.
//
// Where the layout comes from
//   Shared memory holds K-major columns (tile[k][row]), so that a thread's 4 rows are one 16-byte read; the pitch of
//   132 floats shifts each k by 4 banks. Global reads go 8 consecutive elements of K a row.
//
// What limits it
//   f32 FMA issue: 64 FMAs for 4 shared reads of 16 bytes.
//
// Host contract
//   rp_gemm_tile(const void* a, const void* b, void* c, int m, int n, int k, float alpha)
//   Any M, N, K ≥ 1, any alignment of the element. grid (ceil(M/128)·ceil(N/128)), block (256), no dynamic shared memory.
//
//   With RP_GROUPED, products one behind the other that share N and K, each with rows of A and C and a B of its own:
//   rp_gemm_grouped(const void* a, const void* b, void* c, const int* offsets, int groups, int n, int k, float alpha)
//   Group g has rows offsets[g] to offsets[g+1], perhaps none. grid (T·ceil(N/128)) with T at least the tile rows of all groups
//   together: M/128 + groups always is. A block that finds no tile ends.
//
// Macros: RP_DTYPE f32 | f16 | bf16; RP_OUT likewise, by default RP_DTYPE; RP_GROUP tile rows a band; RP_GROUPED.
#include "../common/rp.h"
#include "../common/elements.h"

#ifndef RP_DTYPE
#define RP_DTYPE f32
#endif
#ifndef RP_OUT
#define RP_OUT RP_DTYPE
#endif
#ifndef RP_GROUP
#define RP_GROUP 8
#endif

typedef RP_JOIN(rp_, RP_DTYPE) rp_in;
typedef RP_JOIN(rp_, RP_OUT) rp_out;

// ---- the tile --------------------------------------------------------------------------------

#define RP_TILE 128
#define RP_STEP 8
#define RP_PITCH (RP_TILE + 4)
#define RP_EACH (RP_TILE * RP_STEP / 256)  // elements a thread fetches of each operand

// Thread t fetches element t%8 along K of rows t/8, t/8 + 32, …; zero outside.
RP_DEVICE void rp_fetch(float (&to)[RP_EACH], const rp_in *from, int rows, int k, int at, int thread) {
  int x = at + thread % RP_STEP;
#pragma unroll
  for (int i = 0; i < RP_EACH; i++) {
    int y = thread / RP_STEP + i * (256 / RP_STEP);
    to[i] = y < rows && x < k ? rp_widen(from[(rp_u64)y * k + x]) : 0.0f;
  }
}

RP_DEVICE void rp_place(float (*tile)[RP_PITCH], const float (&from)[RP_EACH], int thread) {
#pragma unroll
  for (int i = 0; i < RP_EACH; i++) tile[thread % RP_STEP][thread / RP_STEP + i * (256 / RP_STEP)] = from[i];
}

RP_DEVICE void rp_read4(float *to, const float *from) {
  rp_vec<4> v = *(const rp_vec<4> *)from;
#pragma unroll
  for (int i = 0; i < 4; i++) to[i] = v.v[i];
}

// Two blocks a multiprocessor hide each other's barriers: that caps registers at 128. Finding its group costs a block a few more, which
// the compiler for Blackwell would spill.
#if RP_CUDA && defined(RP_GROUPED) && __CUDA_ARCH__ >= 1000
extern "C" __global__ void __launch_bounds__(256)
#elif RP_CUDA
extern "C" __global__ void __launch_bounds__(256, 2)
#else
RP_KERNEL(256)
#endif
#ifdef RP_GROUPED
rp_gemm_grouped(const void *a_, const void *b_, void *c_, const int *offsets, int groups, int n, int k, float alpha) {
#else
rp_gemm_tile(const void *a_, const void *b_, void *c_, int m, int n, int k, float alpha) {
#endif
  RP_SHARED RP_ALIGN(16) float tile_a[2][RP_STEP][RP_PITCH];
  RP_SHARED RP_ALIGN(16) float tile_b[2][RP_STEP][RP_PITCH];
  int thread = rp_thread(), tx = thread % 16 * 4, ty = thread / 16 * 4;

#ifdef RP_GROUPED
  // Tile rows are counted through the groups, columns fastest: the blocks in flight share their rows of A.
  int tiles_n = (n + RP_TILE - 1) / RP_TILE, column = (int)rp_block() % tiles_n * RP_TILE, tile = (int)rp_block() / tiles_n;
  int group = 0, from = offsets[0], m = offsets[1] - from;
  while (tile >= (m + RP_TILE - 1) / RP_TILE) {
    tile -= (m + RP_TILE - 1) / RP_TILE;
    if (++group == groups) return;
    from = offsets[group];
    m = offsets[group + 1] - from;
  }
  int row = tile * RP_TILE;
  const rp_in *a = (const rp_in *)a_ + ((rp_u64)from + row) * k, *b = (const rp_in *)b_ + ((rp_u64)group * n + column) * k;
  c_ = (rp_out *)c_ + (rp_u64)from * n;
#else
  // Bands of RP_GROUP tile rows, so that the tiles in flight share what the L2 cache holds.
  int tiles_m = (m + RP_TILE - 1) / RP_TILE, tiles_n = (n + RP_TILE - 1) / RP_TILE;
  int band = RP_GROUP * tiles_n, first = (int)rp_block() / band * RP_GROUP, within = (int)rp_block() % band;
  int height = tiles_m - first < RP_GROUP ? tiles_m - first : RP_GROUP;
  int row = (first + within % height) * RP_TILE, column = within / height * RP_TILE;
  const rp_in *a = (const rp_in *)a_ + (rp_u64)row * k, *b = (const rp_in *)b_ + (rp_u64)column * k;
#endif

  float next_a[RP_EACH], next_b[RP_EACH], sum[8][8] = {};
  rp_fetch(next_a, a, m - row, k, 0, thread);
  rp_fetch(next_b, b, n - column, k, 0, thread);
  for (int at = 0, half = 0; at < k; at += RP_STEP, half ^= 1) {
    // The other buffer is still being read by threads before the barrier of this step; this one no longer is.
    rp_place(tile_a[half], next_a, thread);
    rp_place(tile_b[half], next_b, thread);
    rp_sync();
    rp_fetch(next_a, a, m - row, k, at + RP_STEP, thread);
    rp_fetch(next_b, b, n - column, k, at + RP_STEP, thread);
#pragma unroll
    for (int s = 0; s < RP_STEP; s++) {
      float x[8], y[8];
      rp_read4(x, &tile_a[half][s][ty]);
      rp_read4(x + 4, &tile_a[half][s][ty + 64]);
      rp_read4(y, &tile_b[half][s][tx]);
      rp_read4(y + 4, &tile_b[half][s][tx + 64]);
#pragma unroll
      for (int i = 0; i < 8; i++)
#pragma unroll
        for (int j = 0; j < 8; j++) sum[i][j] = rp_fma(x[i], y[j], sum[i][j]);
    }
  }

#pragma unroll
  for (int i = 0; i < 8; i++) {
    int r = row + ty + i % 4 + i / 4 * 64;
#pragma unroll
    for (int j = 0; j < 8; j++) {
      int q = column + tx + j % 4 + j / 4 * 64;
      if (r < m && q < n) rp_narrow(alpha * sum[i][j], (rp_out *)c_ + (rp_u64)r * n + q);
    }
  }
}
