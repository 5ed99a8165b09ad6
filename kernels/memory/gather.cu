// Access patterns of inference: pages of a KV cache, rows of an embedding, strided elements, atomic adds.
//
// A page (or row) is contiguous; which one comes next is told by a table. All moves are of 16 bytes, RP_UNROLL in flight a thread. A
// block moves one page after the other; a warp moves a run of the output, whichever rows it is made of, so that short rows leave no
// lane idle. Limit: HBM for pages of a few KiB; for short rows the sectors and lines touched beyond those asked for.
//
// rp_gather_pages(const void* src, const u32* table, void* dst, u64 pages, u32 page_bytes): dst page i = src page table[i].
//   Block RP_BLOCK, any grid. rp_gather_rows: the same contract. Bytes a multiple of 16, pointers aligned to 16.
// rp_read_strided(const float* x, u32* out, u64 count, u64 stride): out[block] = sum of the bits of x[i·stride], i < count, that
//   the block read (modulo 2^32; the sum over blocks is fixed). Block RP_BLOCK, any grid.
// rp_add_atomic(float* z, u32 addresses, u32 stride, u32 adds): each thread adds 1 to z[(thread mod addresses)·stride] `adds`
//   times; addresses a power of two, 1 for all on one. Exact while an address receives fewer than 2^24. Block RP_BLOCK, any grid.
#include "../common/rp.h"

#ifndef RP_BLOCK
#define RP_BLOCK 256
#endif
#ifndef RP_UNROLL
#define RP_UNROLL 4
#endif
#ifndef RP_HINT_LOAD
#define RP_HINT_LOAD RP_NO_L1
#endif
#ifndef RP_HINT_STORE
#define RP_HINT_STORE RP_STREAM
#endif

// Lane `lane` of `lanes` that move `bytes` together.
template <int U> RP_DEVICE void rp_move(const rp_u8 *from, rp_u8 *to, rp_u32 bytes, rp_u32 lane, rp_u32 lanes) {
  const rp_u32 vectors = bytes / 16;
  rp_u32 i = lane;
  for (; i + (U - 1) * lanes < vectors; i += U * lanes) {
    rp_u4 v[U];
#pragma unroll
    for (int k = 0; k < U; k++) v[k] = rp_load16<RP_HINT_LOAD>(from + (rp_u64)(i + k * lanes) * 16);
#pragma unroll
    for (int k = 0; k < U; k++) rp_store16<RP_HINT_STORE>(to + (rp_u64)(i + k * lanes) * 16, v[k]);
  }
#pragma unroll 1
  for (; i < vectors; i += lanes) rp_store16<RP_HINT_STORE>(to + (rp_u64)i * 16, rp_load16<RP_HINT_LOAD>(from + (rp_u64)i * 16));
}

RP_KERNEL(RP_BLOCK) rp_gather_pages(const rp_u8 *src, const rp_u32 *table, rp_u8 *dst, rp_u64 pages, rp_u32 page_bytes) {
  for (rp_u64 i = rp_block(); i < pages; i += rp_blocks())
    rp_move<RP_UNROLL>(src + (rp_u64)table[i] * page_bytes, dst + i * page_bytes, page_bytes, rp_thread(), RP_BLOCK);
}

RP_KERNEL(RP_BLOCK) rp_gather_rows(const rp_u8 *src, const rp_u32 *table, rp_u8 *dst, rp_u64 rows, rp_u32 row_bytes) {
  const rp_u32 vectors = row_bytes / 16, lane = rp_thread() % RP_WARP;
  const rp_u64 all = rows * vectors, warps = (rp_u64)rp_blocks() * (RP_BLOCK / RP_WARP);
  rp_u64 first = ((rp_u64)rp_block() * (RP_BLOCK / RP_WARP) + rp_thread() / RP_WARP) * (RP_UNROLL * RP_WARP);
  for (; first < all; first += warps * (RP_UNROLL * RP_WARP)) {
    // Where the warp's run begins is divided out once; from there on the numbers are small.
    const rp_u64 row = first / vectors;
    const rp_u32 into = (rp_u32)(first - row * vectors);
    rp_u4 v[RP_UNROLL];
#pragma unroll
    for (int k = 0; k < RP_UNROLL; k++) {
      const rp_u32 at = into + k * RP_WARP + lane;
      if (first + k * RP_WARP + lane < all)
        v[k] = rp_load16<RP_HINT_LOAD>(src + (rp_u64)table[row + at / vectors] * row_bytes + at % vectors * 16);
    }
#pragma unroll
    for (int k = 0; k < RP_UNROLL; k++)
      if (first + k * RP_WARP + lane < all) rp_store16<RP_HINT_STORE>(dst + (first + k * RP_WARP + lane) * 16, v[k]);
  }
}

RP_KERNEL(RP_BLOCK) rp_read_strided(const float *x, rp_u32 *out, rp_u64 count, rp_u64 stride) {
  const rp_u64 step = (rp_u64)rp_blocks() * RP_BLOCK;
  rp_u64 i = (rp_u64)rp_block() * RP_BLOCK + rp_thread();
  rp_u32 sum = 0;
  for (; i + (RP_UNROLL - 1) * step < count; i += RP_UNROLL * step) {
    float v[RP_UNROLL];
#pragma unroll
    for (int k = 0; k < RP_UNROLL; k++) v[k] = x[(i + k * step) * stride];
#pragma unroll
    for (int k = 0; k < RP_UNROLL; k++) sum += rp_bits(v[k]);
  }
#pragma unroll 1
  for (; i < count; i += step) sum += rp_bits(x[i * stride]);
  const rp_u32 total = rp_block_sum(sum);
  if (rp_thread() == 0) out[rp_block()] = total;
}

RP_KERNEL(RP_BLOCK) rp_add_atomic(float *z, rp_u32 addresses, rp_u32 stride, rp_u32 adds) {
  const rp_u32 thread = rp_block() * RP_BLOCK + rp_thread();
  float *mine = z + (rp_u64)(thread & (addresses - 1)) * stride;
#pragma unroll 4
  for (rp_u32 i = 0; i < adds; i++) rp_add_to(mine, 1.0f);
}
