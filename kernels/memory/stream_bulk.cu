// Streams moved by Hopper's bulk copy engine: global → shared → global, with no register in between (sm_90 and later).
//
// A block keeps a ring of RP_STAGES chunks in shared memory. One thread asks for chunks (cp.async.bulk) ahead of their use and
// an mbarrier a stage counts their bytes in. A copy is sent back out by the same thread; a sum or triad is computed by all
// threads in between, in place. Few threads keep many bytes in flight: cores × blocks × stages × chunk. Limit: HBM bandwidth.
//
// Host contract (pointers 16-byte aligned; any n; block RP_BLOCK; grid: cores × 1 to 4; dynamic shared memory
// RP_STAGES × chunk × inputs bytes; chunk a multiple of 16):
//   rp_bulk_copy (x, z, n, chunk)          z = x
//   rp_bulk_triad(x, y, z, s, n, chunk)    z = x + s·y
//   rp_bulk_read (x, out, n, chunk)        out[block] = f32 partial sum of x
//   rp_bulk_dot  (x, y, out, n, chunk)     out[block] = f32 partial sum of x·y
//     x, y: const float*; z, out: float*; s: f32; n: u64 floats; chunk: u32 bytes of one input
#include "../common/rp.h"

#if RP_HIP || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900)
#error "stream_bulk.cu needs the bulk copies of sm_90 and later"
#endif

#ifndef RP_BLOCK
#define RP_BLOCK 256
#endif
#ifndef RP_STAGES
#define RP_STAGES 4
#endif

#if !RP_HOST
RP_DEVICE rp_u32 rp_shared_address(const void *p) { return (rp_u32)__cvta_generic_to_shared(p); }
RP_DEVICE void rp_bulk_init(rp_u64 *barriers, int count) {
  for (int i = 0; i < count; i++) asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" :: "r"(rp_shared_address(barriers + i)));
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
RP_DEVICE void rp_bulk_expect(rp_u64 *barrier, rp_u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(rp_shared_address(barrier)), "r"(bytes) : "memory");
}
RP_DEVICE void rp_bulk_in(void *to, const void *from, rp_u32 bytes, rp_u64 *barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
               :: "r"(rp_shared_address(to)), "l"(from), "r"(bytes), "r"(rp_shared_address(barrier)) : "memory");
}
RP_DEVICE void rp_bulk_out(void *to, const void *from, rp_u32 bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" :: "l"(to), "r"(rp_shared_address(from)), "r"(bytes) : "memory");
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
// All stores but the newest have read their shared memory.
RP_DEVICE void rp_bulk_out_read() { asm volatile("cp.async.bulk.wait_group.read 1;" ::: "memory"); }
RP_DEVICE void rp_bulk_out_done() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }
// What this thread wrote to shared memory becomes visible to the copy engine.
RP_DEVICE void rp_bulk_publish() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// Waits for phase `parity` of a barrier to end. With RP_SPIN_LIMIT a wait that does not end traps.
RP_DEVICE void rp_bulk_wait(rp_u64 *barrier, rp_u32 parity) {
  rp_u32 done = 0;
#ifdef RP_SPIN_LIMIT
  rp_u64 spins = 0;
#endif
  while (!done) {
    asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
                 : "=r"(done) : "r"(rp_shared_address(barrier)), "r"(parity) : "memory");
#ifdef RP_SPIN_LIMIT
    if (++spins > RP_SPIN_LIMIT) asm volatile("trap;");
#endif
  }
}
#endif

#define RP_BULK_COPY 0
#define RP_BULK_TRIAD 1
#define RP_BULK_READ 2
#define RP_BULK_DOT 3

// S stages. z is the output of a copy or triad, and of a sum the partials.
template <int OP, int B, int S>
RP_DEVICE void rp_bulk(const float *x, const float *y, float *z, float s, rp_u64 n, rp_u32 chunk) {
  constexpr int inputs = OP == RP_BULK_TRIAD || OP == RP_BULK_DOT ? 2 : 1;
  constexpr bool writes = OP == RP_BULK_COPY || OP == RP_BULK_TRIAD, computes = OP != RP_BULK_COPY;
  RP_DYNAMIC_SHARED(rp_ring_memory);
  RP_SHARED RP_ALIGN(8) rp_u64 full[S];
  const rp_u64 bytes = n * 4 & ~15ull, chunks = (bytes + chunk - 1) / chunk;
  const rp_u64 mine = chunks > rp_block() ? (chunks - 1 - rp_block()) / rp_blocks() + 1 : 0;
  const bool leader = rp_thread() == 0;
  if (leader) rp_bulk_init(full, S);
  rp_sync();

  auto offset = [&](rp_u64 j) { return (rp_block() + j * rp_blocks()) * chunk; };
  auto length = [&](rp_u64 j) { rp_u64 left = bytes - offset(j); return (rp_u32)(left < chunk ? left : chunk); };
  auto stage = [&](rp_u64 j) { return rp_ring_memory + (rp_u32)(j % S) * inputs * chunk; };
  auto fetch = [&](rp_u64 j) {  // leader only
    const rp_u32 count = length(j);
    rp_u64 *barrier = &full[j % S];
    rp_bulk_expect(barrier, count * inputs);
    rp_bulk_in(stage(j), (const rp_u8 *)x + offset(j), count, barrier);
    if (inputs > 1) rp_bulk_in(stage(j) + chunk, (const rp_u8 *)y + offset(j), count, barrier);
  };

  float sum[4] = {0.f, 0.f, 0.f, 0.f};
  if (leader)
    for (rp_u64 j = 0; j < mine && j < S; j++) fetch(j);
  for (rp_u64 j = 0; j < mine && (computes || leader); j++) {
    rp_bulk_wait(&full[j % S], (rp_u32)(j / S & 1));
    if (computes) {
      rp_vec<4> *a = (rp_vec<4> *)stage(j), *b = (rp_vec<4> *)(stage(j) + chunk);
      const rp_u32 vectors = length(j) / 16;
#pragma unroll 4
      for (rp_u32 i = rp_thread(); i < vectors; i += B) {
        rp_vec<4> u = a[i];
        if (OP == RP_BULK_READ)
          for (int e = 0; e < 4; e++) sum[e] += u.v[e];
        else {
          const rp_vec<4> v = b[i];
          for (int e = 0; e < 4; e++)
            if (OP == RP_BULK_DOT) sum[e] = rp_fma(u.v[e], v.v[e], sum[e]);
            else u.v[e] = rp_fma(s, v.v[e], u.v[e]);
          if (writes) a[i] = u;
        }
      }
      // The copy engine must see what the threads wrote, and must not overwrite what one still reads.
      if (writes) rp_bulk_publish();
      rp_sync();
    }
    if (!leader) continue;
    if (!writes) {
      if (j + S < mine) fetch(j + S);
    } else {
      rp_bulk_out((rp_u8 *)z + offset(j), stage(j), length(j));
      rp_bulk_out_read();  // the stage before this one may be filled again
      if (j > 0 && j - 1 + S < mine) fetch(j - 1 + S);
    }
  }
  if (writes && leader) rp_bulk_out_done();
  // The last n % 4 floats are no whole 16 bytes.
  const rp_u64 i = bytes / 4 + rp_thread();
  const bool tail = rp_block() == 0 && i < n;
  if (writes) {
    if (tail) z[i] = OP == RP_BULK_COPY ? x[i] : rp_fma(s, y[i], x[i]);
  } else {
    if (tail) sum[0] = OP == RP_BULK_READ ? sum[0] + x[i] : rp_fma(x[i], y[i], sum[0]);
    const float total = rp_block_sum(sum[0] + sum[1] + sum[2] + sum[3]);
    if (leader) z[rp_block()] = total;
  }
}

RP_KERNEL(RP_BLOCK) rp_bulk_copy(const float *x, float *z, rp_u64 n, rp_u32 chunk) {
  rp_bulk<RP_BULK_COPY, RP_BLOCK, RP_STAGES>(x, nullptr, z, 0.f, n, chunk);
}
RP_KERNEL(RP_BLOCK) rp_bulk_triad(const float *x, const float *y, float *z, float s, rp_u64 n, rp_u32 chunk) {
  rp_bulk<RP_BULK_TRIAD, RP_BLOCK, RP_STAGES>(x, y, z, s, n, chunk);
}
RP_KERNEL(RP_BLOCK) rp_bulk_read(const float *x, float *out, rp_u64 n, rp_u32 chunk) {
  rp_bulk<RP_BULK_READ, RP_BLOCK, RP_STAGES>(x, nullptr, out, 0.f, n, chunk);
}
RP_KERNEL(RP_BLOCK) rp_bulk_dot(const float *x, const float *y, float *out, rp_u64 n, rp_u32 chunk) {
  rp_bulk<RP_BULK_DOT, RP_BLOCK, RP_STAGES>(x, y, out, 0.f, n, chunk);
}
