// Streams through HBM: read, write, copy, scale, add, triad and dot on f32 arrays.
//
// Tile: RP_BLOCK threads × RP_UNROLL loads in flight × RP_WIDTH floats; neighbouring threads
// read neighbouring 16-byte (32 on sm_100) vectors, and a thread's loads lie one block width
// apart, so that every instruction of a warp covers whole 128-byte lines. All loads of a tile
// are issued before the first use. Limit: HBM bandwidth, reached by enough bytes in flight
// (Little's law: ~3 MB on an H100) and by how reads and writes alternate on the DRAM bus.
//
// Host contract (one dimension; pointers 16-byte aligned, 32 with RP_WIDTH 8; any n):
//   rp_read (x, out, n, order)           out[block] = f32 partial sum of x
//   rp_dot  (x, y, out, n, order)        out[block] = f32 partial sum of x·y
//   rp_write(z, s, n, order)             z = s
//   rp_copy (x, z, n, order)             z = x
//   rp_scale(x, z, s, n, order)          z = s·x
//   rp_add  (x, y, z, n, order)          z = x + y
//   rp_triad(x, y, z, s, n, order)       z = x + s·y
//     x, y: const float*; z, out: float*; s: f32; n: u64 floats; order: u32
//     block = RP_BLOCK, no dynamic shared memory, any grid ≥ 1. A grid of all tiles makes one
//     pass; a smaller one is persistent. order 0: blocks take tiles in turn; 1: each block
//     owns one contiguous run of tiles.
//   The bulk variants (sm_90 and later) are in stream_bulk.cu.
#include "../common/rp.h"

#ifndef RP_BLOCK
#define RP_BLOCK 512
#endif
#ifndef RP_UNROLL
#define RP_UNROLL 4
#endif
#ifndef RP_WIDTH
#define RP_WIDTH 4
#endif
#ifndef RP_HINT_LOAD
#define RP_HINT_LOAD RP_NO_L1
#endif
#ifndef RP_HINT_STORE
#define RP_HINT_STORE RP_STREAM
#endif

// What each stream computes from element x of the first input and y of the second.
struct rp_op_write { enum { inputs = 0 }; RP_DEVICE float at(float, float, float s) { return s; } };
struct rp_op_copy { enum { inputs = 1 }; RP_DEVICE float at(float x, float, float) { return x; } };
struct rp_op_scale { enum { inputs = 1 }; RP_DEVICE float at(float x, float, float s) { return s * x; } };
struct rp_op_add { enum { inputs = 2 }; RP_DEVICE float at(float x, float y, float) { return x + y; } };
struct rp_op_triad { enum { inputs = 2 }; RP_DEVICE float at(float x, float y, float s) { return rp_fma(s, y, x); } };
// What each reduction adds to its sum.
struct rp_op_read { enum { inputs = 1 }; RP_DEVICE float into(float sum, float x, float) { return sum + x; } };
struct rp_op_dot { enum { inputs = 2 }; RP_DEVICE float into(float sum, float x, float y) { return rp_fma(x, y, sum); } };

struct rp_span { rp_u64 first, end, step; };

// Which tiles this block takes.
RP_DEVICE rp_span rp_tiles_of(rp_u64 tiles, rp_u32 order) {
  rp_u64 b = rp_block(), g = rp_blocks();
  rp_span r;
  if (order == 0) { r.first = b; r.end = tiles; r.step = g; }
  else { r.first = tiles * b / g; r.end = tiles * (b + 1) / g; r.step = 1; }
  return r;
}

template <class Op, int B, int U, int W, int LD, int ST>
RP_DEVICE void rp_map(const float *__restrict__ x, const float *__restrict__ y, float *__restrict__ z,
                      float s, rp_u64 n, rp_u32 order) {
  const rp_u64 vectors = n / W, tile = (rp_u64)B * U;
  const rp_span span = rp_tiles_of((vectors + tile - 1) / tile, order);
  for (rp_u64 t = span.first; t < span.end; t += span.step) {
    const rp_u64 at = t * tile + rp_thread();
    const bool whole = (t + 1) * tile <= vectors;
    rp_vec<W> a[U], b[U];
    if (whole) {
#pragma unroll
      for (int k = 0; k < U; k++) {
        if (Op::inputs > 0) a[k] = rp_load<LD, W>(x + (at + k * B) * W);
        if (Op::inputs > 1) b[k] = rp_load<LD, W>(y + (at + k * B) * W);
      }
#pragma unroll
      for (int k = 0; k < U; k++) {
        rp_vec<W> r;
#pragma unroll
        for (int e = 0; e < W; e++) r.v[e] = Op::at(Op::inputs > 0 ? a[k].v[e] : 0.f, Op::inputs > 1 ? b[k].v[e] : 0.f, s);
        rp_store<ST, W>(z + (at + k * B) * W, r);
      }
    } else {
#pragma unroll 1
      for (rp_u64 i = at; i < vectors; i += B)
#pragma unroll
        for (int e = 0; e < W; e++)
          z[i * W + e] = Op::at(Op::inputs > 0 ? x[i * W + e] : 0.f, Op::inputs > 1 ? y[i * W + e] : 0.f, s);
    }
  }
  // The last n % W floats are no whole vector.
  if (rp_block() == 0 && rp_thread() < n % W) {
    rp_u64 i = vectors * W + rp_thread();
    z[i] = Op::at(Op::inputs > 0 ? x[i] : 0.f, Op::inputs > 1 ? y[i] : 0.f, s);
  }
}

template <class Op, int B, int U, int W, int LD>
RP_DEVICE void rp_fold(const float *__restrict__ x, const float *__restrict__ y, float *__restrict__ out,
                       rp_u64 n, rp_u32 order) {
  const rp_u64 vectors = n / W, tile = (rp_u64)B * U;
  const rp_span span = rp_tiles_of((vectors + tile - 1) / tile, order);
  float sum[W];
#pragma unroll
  for (int e = 0; e < W; e++) sum[e] = 0.f;
  for (rp_u64 t = span.first; t < span.end; t += span.step) {
    const rp_u64 at = t * tile + rp_thread();
    if ((t + 1) * tile <= vectors) {
      rp_vec<W> a[U], b[U];
#pragma unroll
      for (int k = 0; k < U; k++) {
        a[k] = rp_load<LD, W>(x + (at + k * B) * W);
        if (Op::inputs > 1) b[k] = rp_load<LD, W>(y + (at + k * B) * W);
      }
#pragma unroll
      for (int k = 0; k < U; k++)
#pragma unroll
        for (int e = 0; e < W; e++) sum[e] = Op::into(sum[e], a[k].v[e], Op::inputs > 1 ? b[k].v[e] : 0.f);
    } else {
#pragma unroll 1
      for (rp_u64 i = at; i < vectors; i += B)
#pragma unroll
        for (int e = 0; e < W; e++) sum[e] = Op::into(sum[e], x[i * W + e], Op::inputs > 1 ? y[i * W + e] : 0.f);
    }
  }
  if (rp_block() == 0 && rp_thread() < n % W) {
    rp_u64 i = vectors * W + rp_thread();
    sum[0] = Op::into(sum[0], x[i], Op::inputs > 1 ? y[i] : 0.f);
  }
  float mine = 0.f;
#pragma unroll
  for (int e = 0; e < W; e++) mine += sum[e];
  float total = rp_block_sum(mine);
  if (rp_thread() == 0) out[rp_block()] = total;
}

#define RP_MAP(op) rp_map<op, RP_BLOCK, RP_UNROLL, RP_WIDTH, RP_HINT_LOAD, RP_HINT_STORE>
#define RP_FOLD(op) rp_fold<op, RP_BLOCK, RP_UNROLL, RP_WIDTH, RP_HINT_LOAD>

RP_KERNEL(RP_BLOCK) rp_read(const float *x, float *out, rp_u64 n, rp_u32 order) {
  RP_FOLD(rp_op_read)(x, nullptr, out, n, order);
}
RP_KERNEL(RP_BLOCK) rp_dot(const float *x, const float *y, float *out, rp_u64 n, rp_u32 order) {
  RP_FOLD(rp_op_dot)(x, y, out, n, order);
}
RP_KERNEL(RP_BLOCK) rp_write(float *z, float s, rp_u64 n, rp_u32 order) {
  RP_MAP(rp_op_write)(nullptr, nullptr, z, s, n, order);
}
RP_KERNEL(RP_BLOCK) rp_copy(const float *x, float *z, rp_u64 n, rp_u32 order) {
  RP_MAP(rp_op_copy)(x, nullptr, z, 0.f, n, order);
}
RP_KERNEL(RP_BLOCK) rp_scale(const float *x, float *z, float s, rp_u64 n, rp_u32 order) {
  RP_MAP(rp_op_scale)(x, nullptr, z, s, n, order);
}
RP_KERNEL(RP_BLOCK) rp_add(const float *x, const float *y, float *z, rp_u64 n, rp_u32 order) {
  RP_MAP(rp_op_add)(x, y, z, 0.f, n, order);
}
RP_KERNEL(RP_BLOCK) rp_triad(const float *x, const float *y, float *z, float s, rp_u64 n, rp_u32 order) {
  RP_MAP(rp_op_triad)(x, y, z, s, n, order);
}
