// What kernels/common/rp.h is on a device, for the memory kernels run as fibres over cuda.h. Included by rp.h itself.
//
// Bulk copies take effect late: what comes in is NaN until a wait on its barrier, what goes out is read when it is waited for,
// so that a wait, a barrier or a stage too early shows in the result.
#pragma once

#define RP_DEVICE static inline
#define RP_ANY static inline
#define RP_KERNEL(threads) extern "C" void
#define RP_SHARED static  // one block runs at a time
#define RP_ALIGN(n) __attribute__((aligned(n)))
#define RP_DYNAMIC_SHARED(name) rp_u8 *name = fibres::smem
#define RP_WARP RP_LANES

inline rp_u32 rp_thread() { return threadIdx.x; }
inline rp_u32 rp_block() { return blockIdx.x; }
inline rp_u32 rp_blocks() { return gridDim.x; }
inline rp_u32 rp_threads() { return blockDim.x; }
inline rp_u32 rp_block_y() { return blockIdx.y; }
inline void rp_sync() { __syncthreads(); }
template <class T> T rp_shuffle_xor(T v, int mask) { return __shfl_xor_sync(~0u, v, mask); }
inline rp_u64 rp_cycles() { static rp_u64 c; return ++c; }
inline rp_u64 rp_nanoseconds() { static rp_u64 t; return t += 7; }
inline rp_u32 rp_load_host(const rp_u32 *p) { return *p; }
inline void rp_add_to(float *p, float v) { *p += v; }
inline void rp_add_to(rp_u64 *p, rp_u64 v) { *p += v; }
inline void rp_min_to(rp_u64 *p, rp_u64 v) { if (v < *p) *p = v; }
inline float rp_fma(float a, float b, float c) { return std::fma(a, b, c); }
inline float rp_exp(float x) { return std::exp(x); }
inline float rp_float(rp_u32 u) { return fibres::from_bits(u); }
inline rp_u32 rp_bits(float f) { return fibres::to_bits(f); }

template <int> rp_u4 rp_load16(const void *p) {
  if ((uintptr_t)p % 16) fibres::fail("a 16-byte load that is not aligned");
  rp_u4 r; memcpy(&r, p, 16); return r;
}
template <int> void rp_store16(void *p, const rp_u4 &r) {
  if ((uintptr_t)p % 16) fibres::fail("a 16-byte store that is not aligned");
  memcpy(p, &r, 16);
}
inline rp_u4 rp_load_shared16(const void *p) { return rp_load16<0>(p); }
template <int> rp_u64 rp_load_address(rp_u64 p) { return *(const rp_u64 *)p; }

namespace fibres {
struct Transfer { void *to; const void *from; rp_u32 bytes; rp_u64 *barrier; };
inline std::deque<Transfer> coming, going;  // one block at a time, and one thread of it drives the copies
inline void land(const Transfer &t) { memcpy(t.to, t.from, t.bytes); progress++; }
}
inline rp_u32 rp_barrier_key(const rp_u64 *b) { return (rp_u32)(uintptr_t)b; }
inline void rp_bulk_init(rp_u64 *b, int count) { fibres::coming.clear(); fibres::going.clear(); for (int i = 0; i < count; i++) barrier_init(rp_barrier_key(b + i), 1); }
inline void rp_bulk_expect(rp_u64 *b, rp_u32 bytes) { barrier_expect(rp_barrier_key(b), bytes); }
inline void rp_bulk_in(void *to, const void *from, rp_u32 bytes, rp_u64 *b) {
  if ((uintptr_t)to % 16 || (uintptr_t)from % 16 || bytes % 16) fibres::fail("a bulk copy that is not aligned to 16 bytes");
  memset(to, 0xFF, bytes);
  fibres::coming.push_back({to, from, bytes, b});
}
inline void rp_bulk_out(void *to, const void *from, rp_u32 bytes) { fibres::going.push_back({to, from, bytes, nullptr}); }
inline void rp_bulk_leave(size_t newest) { while (fibres::going.size() > newest) { fibres::land(fibres::going.front()); fibres::going.pop_front(); } }
inline void rp_bulk_out_read() { rp_bulk_leave(1); }
inline void rp_bulk_out_done() { rp_bulk_leave(0); }
inline void rp_bulk_publish() {}
inline void rp_bulk_wait(rp_u64 *b, rp_u32 parity) {
  for (auto t = fibres::coming.begin(); t != fibres::coming.end();) {
    if (t->barrier != b) { ++t; continue; }
    fibres::land(*t);
    auto &barrier = barrier_at(rp_barrier_key(b)); barrier.bytes -= t->bytes; barrier_settle(barrier);
    t = fibres::coming.erase(t);
  }
  barrier_wait(rp_barrier_key(b), parity);
}
