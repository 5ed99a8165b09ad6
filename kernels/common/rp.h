// The portable layer of every kernel here: one name for what CUDA and HIP spell differently.
//
// CUDA C++ comes through NVRTC (no headers at all) or nvcc; HIP through clang with
// --offload-arch (again no headers) or hipRTC. A kernel includes only this file, so that
// the host embeds two strings, and one source serves both vendors.
//
// What is here: integer names, indices, barrier, shuffles, 16-byte vectors with a cache hint,
// clocks, a block sum, and the counter-based generator that host and device share bit for bit.
#pragma once

#if defined(RP_HOST_FIBRES)
#define RP_HOST 1
#elif defined(__HIP__) || defined(__HIPCC_RTC__)
#define RP_HIP 1
#elif defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define RP_CUDA 1
#else
#error "rp.h: compile with NVRTC, nvcc, hipRTC or clang -x hip"
#endif

typedef unsigned char rp_u8;
typedef unsigned short rp_u16;
typedef unsigned int rp_u32;
typedef unsigned long long rp_u64;

// How a load or store treats the caches. The numbers are what the host passes with -D.
#define RP_CACHED 0       // the default of the device
#define RP_NO_L1 1        // does not allocate in L1
#define RP_STREAM 2       // .cs: touched once, evicted first
#define RP_READ_ONLY 3    // load: non-coherent path, 256-byte L2 prefetch; store: L2 only
#define RP_EVICT_FIRST 4  // an L2 policy: evicted first
#define RP_L2_ONLY 5      // .cg: served by L2

// W floats moved by one instruction: 4 everywhere, 8 (32 bytes) on sm_100 and later.
template <int W> struct alignas(16) rp_vec { float v[W]; };
struct alignas(16) rp_u4 { rp_u32 v[4]; };

// ---- dialect: qualifiers, indices, barrier, shuffles, clocks ---------------------------------

#if RP_HOST

#include "../fibres/memory.h"  // this dialect, and the loads and stores below, for a block run as fibres

#elif RP_CUDA

#define RP_DEVICE static __device__ __forceinline__
#define RP_ANY static __host__ __device__ __forceinline__  // also callable by a host test
#define RP_KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads)
#define RP_SHARED __shared__
#define RP_ALIGN(n) __align__(n)
#define RP_DYNAMIC_SHARED(name) extern __shared__ __align__(128) rp_u8 name[]
#define RP_WARP 32

RP_DEVICE rp_u32 rp_thread() { return threadIdx.x; }
RP_DEVICE rp_u32 rp_block() { return blockIdx.x; }
RP_DEVICE rp_u32 rp_blocks() { return gridDim.x; }
RP_DEVICE rp_u32 rp_threads() { return blockDim.x; }
RP_DEVICE rp_u32 rp_block_y() { return blockIdx.y; }
RP_DEVICE void rp_sync() { __syncthreads(); }
RP_DEVICE float rp_shuffle_xor(float v, int mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }
RP_DEVICE double rp_shuffle_xor(double v, int mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }
RP_DEVICE rp_u32 rp_shuffle_xor(rp_u32 v, int mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }
RP_DEVICE rp_u64 rp_cycles() { rp_u64 c; asm volatile("mov.u64 %0, %%clock64;" : "=l"(c) :: "memory"); return c; }
RP_DEVICE rp_u64 rp_nanoseconds() { rp_u64 t; asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t) :: "memory"); return t; }
RP_DEVICE rp_u32 rp_core() { rp_u32 s; asm volatile("mov.u32 %0, %%smid;" : "=r"(s)); return s; }
RP_DEVICE void rp_pause() { __nanosleep(200); }
// A flag that the host writes into mapped memory: never from a cache of this device.
RP_DEVICE rp_u32 rp_load_host(const rp_u32 *p) {
  rp_u32 v;
  asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}
RP_DEVICE void rp_add_to(float *p, float v) { atomicAdd(p, v); }
RP_DEVICE void rp_add_to(rp_u32 *p, rp_u32 v) { atomicAdd(p, v); }
RP_DEVICE void rp_add_to(rp_u64 *p, rp_u64 v) { atomicAdd(p, v); }
RP_DEVICE void rp_min_to(rp_u64 *p, rp_u64 v) { atomicMin(p, v); }
RP_DEVICE float rp_fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
RP_DEVICE float rp_exp(float x) { return expf(x); }
RP_ANY rp_u32 rp_bits(float v) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(v);
#else
  rp_u32 u; __builtin_memcpy(&u, &v, 4); return u;
#endif
}

#else  // RP_HIP

#if !defined(__HIPCC_RTC__) && !defined(__HIP_RUNTIME_H__)
#define __global__ __attribute__((global))
#define __device__ __attribute__((device))
#define __shared__ __attribute__((shared))
#endif
#define RP_DEVICE static inline __device__ __attribute__((always_inline))
#define RP_ANY RP_DEVICE
#define RP_KERNEL(threads) \
  extern "C" __global__ __attribute__((amdgpu_flat_work_group_size(1, threads))) void
#define RP_SHARED __shared__
#define RP_ALIGN(n) __attribute__((aligned(n)))
#if defined(__GFX9__)
#define RP_WARP 64
#else
#define RP_WARP 32
#endif

RP_DEVICE rp_u32 rp_thread() { return __builtin_amdgcn_workitem_id_x(); }
RP_DEVICE rp_u32 rp_block() { return __builtin_amdgcn_workgroup_id_x(); }
RP_DEVICE rp_u32 rp_threads() { return __builtin_amdgcn_workgroup_size_x(); }
RP_DEVICE rp_u32 rp_block_y() { return __builtin_amdgcn_workgroup_id_y(); }
RP_DEVICE rp_u32 rp_blocks() { return __builtin_amdgcn_grid_size_x() / __builtin_amdgcn_workgroup_size_x(); }
RP_DEVICE void rp_sync() {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
  __builtin_amdgcn_s_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
}
RP_DEVICE int rp_lane() {
  int lane = __builtin_amdgcn_mbcnt_lo(~0u, 0);
#if RP_WARP == 64
  lane = __builtin_amdgcn_mbcnt_hi(~0u, lane);
#endif
  return lane;
}
RP_DEVICE rp_u32 rp_shuffle_xor(rp_u32 v, int mask) {
  return (rp_u32)__builtin_amdgcn_ds_bpermute((rp_lane() ^ mask) << 2, (int)v);
}
RP_DEVICE float rp_shuffle_xor(float v, int mask) {
  return __builtin_bit_cast(float, rp_shuffle_xor(__builtin_bit_cast(rp_u32, v), mask));
}
RP_DEVICE double rp_shuffle_xor(double v, int mask) {
  rp_u64 u = __builtin_bit_cast(rp_u64, v);
  rp_u64 lo = rp_shuffle_xor((rp_u32)u, mask), hi = rp_shuffle_xor((rp_u32)(u >> 32), mask);
  return __builtin_bit_cast(double, lo | (hi << 32));
}
RP_DEVICE rp_u64 rp_cycles() { return __builtin_readcyclecounter(); }
// The constant counter runs at 100 MHz on every part so far.
RP_DEVICE rp_u64 rp_nanoseconds() {
#if __has_builtin(__builtin_readsteadycounter)
  return __builtin_readsteadycounter() * 10;
#else
  return __builtin_amdgcn_s_memrealtime() * 10;
#endif
}
RP_DEVICE rp_u32 rp_core() { return rp_block(); }  // no portable name for the compute unit
RP_DEVICE void rp_pause() { __builtin_amdgcn_s_sleep(8); }
RP_DEVICE rp_u32 rp_load_host(const rp_u32 *p) {
  return __hip_atomic_load(p, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_SYSTEM);
}
RP_DEVICE void rp_add_to(float *p, float v) { __hip_atomic_fetch_add(p, v, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT); }
RP_DEVICE void rp_add_to(rp_u32 *p, rp_u32 v) { __hip_atomic_fetch_add(p, v, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT); }
RP_DEVICE void rp_add_to(rp_u64 *p, rp_u64 v) { __hip_atomic_fetch_add(p, v, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT); }
RP_DEVICE void rp_min_to(rp_u64 *p, rp_u64 v) { __hip_atomic_fetch_min(p, v, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT); }
RP_DEVICE float rp_fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
RP_DEVICE float rp_exp(float x) { return __builtin_expf(x); }
RP_DEVICE rp_u32 rp_bits(float v) { return __builtin_bit_cast(rp_u32, v); }

#endif

// ---- loads and stores with a cache hint -----------------------------------------------------------------

#if RP_CUDA

RP_DEVICE rp_u64 rp_evict_first() {
  rp_u64 policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
// volatile: a benchmark's load must happen as often as it is written, and where it is written.
#define RP_LD4(op, r, p) \
  asm volatile(op " {%0,%1,%2,%3}, [%4];" : "=r"(r.v[0]), "=r"(r.v[1]), "=r"(r.v[2]), "=r"(r.v[3]) : "l"(p))
#define RP_ST4(op, p, r) \
  asm volatile(op " [%0], {%1,%2,%3,%4};" :: "l"(p), "r"(r.v[0]), "r"(r.v[1]), "r"(r.v[2]), "r"(r.v[3]) : "memory")

template <int HINT> RP_DEVICE rp_u4 rp_load16(const void *p) {
  rp_u4 r;
  if (HINT == RP_NO_L1) RP_LD4("ld.global.L1::no_allocate.v4.u32", r, p);
  else if (HINT == RP_STREAM) RP_LD4("ld.global.cs.v4.u32", r, p);
  else if (HINT == RP_READ_ONLY) RP_LD4("ld.global.nc.L1::no_allocate.L2::256B.v4.u32", r, p);
  else if (HINT == RP_L2_ONLY) RP_LD4("ld.global.cg.v4.u32", r, p);
  else if (HINT == RP_EVICT_FIRST)
    asm volatile("ld.global.L2::cache_hint.v4.u32 {%0,%1,%2,%3}, [%4], %5;"
                 : "=r"(r.v[0]), "=r"(r.v[1]), "=r"(r.v[2]), "=r"(r.v[3]) : "l"(p), "l"(rp_evict_first()));
  else RP_LD4("ld.global.v4.u32", r, p);
  return r;
}
template <int HINT> RP_DEVICE void rp_store16(void *p, const rp_u4 &r) {
  if (HINT == RP_NO_L1) RP_ST4("st.global.L1::no_allocate.v4.u32", p, r);
  else if (HINT == RP_STREAM) RP_ST4("st.global.cs.v4.u32", p, r);
  else if (HINT == RP_READ_ONLY || HINT == RP_L2_ONLY) RP_ST4("st.global.cg.v4.u32", p, r);
  else if (HINT == RP_EVICT_FIRST)
    asm volatile("st.global.L2::cache_hint.v4.u32 [%0], {%1,%2,%3,%4}, %5;"
                 :: "l"(p), "r"(r.v[0]), "r"(r.v[1]), "r"(r.v[2]), "r"(r.v[3]), "l"(rp_evict_first()) : "memory");
  else RP_ST4("st.global.v4.u32", p, r);
}
// From shared memory, again exactly as often as written: a plain ld.shared in volatile asm is kept by the front end, but ptxas
// merges two of one address (seen as twice 128 B/clk on an H100); .volatile binds both.
RP_DEVICE rp_u4 rp_load_shared16(const void *p) {
  rp_u4 r;
  asm volatile("ld.volatile.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(r.v[0]), "=r"(r.v[1]), "=r"(r.v[2]), "=r"(r.v[3]) : "r"((rp_u32)__cvta_generic_to_shared(p)));
  return r;
}
// The next address of a chase: through L1, or from L2 with RP_L2_ONLY.
template <int HINT> RP_DEVICE rp_u64 rp_load_address(rp_u64 p) {
  rp_u64 next;
  if (HINT == RP_L2_ONLY) asm volatile("ld.global.cg.u64 %0, [%1];" : "=l"(next) : "l"(p) : "memory");
  else asm volatile("ld.global.u64 %0, [%1];" : "=l"(next) : "l"(p) : "memory");
  return next;
}
RP_DEVICE float rp_float(rp_u32 u) { return __uint_as_float(u); }

#elif RP_HIP  // one hint, non-temporal, stands for all but the default

typedef rp_u32 rp_u4_native __attribute__((ext_vector_type(4)));
template <int HINT> RP_DEVICE rp_u4 rp_load16(const void *p) {
  const rp_u4_native *q = (const rp_u4_native *)p;
  if constexpr (HINT == RP_CACHED) return __builtin_bit_cast(rp_u4, *q);
  else return __builtin_bit_cast(rp_u4, __builtin_nontemporal_load(q));
}
template <int HINT> RP_DEVICE void rp_store16(void *p, const rp_u4 &r) {
  rp_u4_native *q = (rp_u4_native *)p, v = __builtin_bit_cast(rp_u4_native, r);
  if constexpr (HINT == RP_CACHED) *q = v; else __builtin_nontemporal_store(v, q);
}
RP_DEVICE rp_u4 rp_load_shared16(const void *p) {
  return __builtin_bit_cast(rp_u4, *(const volatile rp_u4_native __attribute__((address_space(3))) *)p);
}
// Neither a scalar load, which has a cache of its own, nor a volatile one, which passes every cache by: an address that the compiler
// must take to differ from lane to lane.
template <int HINT> RP_DEVICE rp_u64 rp_load_address(rp_u64 p) {
  asm volatile("" : "+v"(p));
  const rp_u64 __attribute__((address_space(1))) *q = (const rp_u64 __attribute__((address_space(1))) *)p;
  return HINT == RP_L2_ONLY ? __hip_atomic_load(q, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT) : *q;
}
RP_DEVICE float rp_float(rp_u32 u) { return __builtin_bit_cast(float, u); }

#endif

template <int HINT, int W> RP_DEVICE rp_vec<W> rp_load(const float *p) {
  rp_vec<W> r;
#if RP_CUDA && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
  if (W == 8) {
#define RP_LD8(op) \
    asm volatile(op ".v8.f32 {%0,%1,%2,%3,%4,%5,%6,%7}, [%8];" : "=f"(r.v[0]), "=f"(r.v[1]), "=f"(r.v[2]), "=f"(r.v[3]), \
                 "=f"(r.v[4 % W]), "=f"(r.v[5 % W]), "=f"(r.v[6 % W]), "=f"(r.v[7 % W]) : "l"(p))
    if (HINT == RP_CACHED) RP_LD8("ld.global"); else RP_LD8("ld.global.L1::no_allocate.L2::evict_first");
    return r;
  }
#endif
#pragma unroll
  for (int q = 0; q < W / 4; q++) {
    rp_u4 u = rp_load16<HINT>(p + 4 * q);
#pragma unroll
    for (int k = 0; k < 4; k++) r.v[4 * q + k] = rp_float(u.v[k]);
  }
  return r;
}
template <int HINT, int W> RP_DEVICE void rp_store(float *p, const rp_vec<W> &r) {
#if RP_CUDA && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
  if (W == 8) {
#define RP_ST8(op) \
    asm volatile(op ".v8.f32 [%0], {%1,%2,%3,%4,%5,%6,%7,%8};" :: "l"(p), "f"(r.v[0]), "f"(r.v[1]), "f"(r.v[2]), "f"(r.v[3]), \
                 "f"(r.v[4 % W]), "f"(r.v[5 % W]), "f"(r.v[6 % W]), "f"(r.v[7 % W]) : "memory")
    if (HINT == RP_CACHED) RP_ST8("st.global"); else RP_ST8("st.global.L1::no_allocate.L2::evict_first");
    return;
  }
#endif
#if RP_HIP
  // No loop here: clang drops the hint of a store that it simplifies out of one.
  static_assert(W == 4, "no wider than 16 bytes");
  rp_store16<HINT>(p, rp_u4{{rp_bits(r.v[0]), rp_bits(r.v[1]), rp_bits(r.v[2]), rp_bits(r.v[3])}});
#else
#pragma unroll
  for (int q = 0; q < W / 4; q++) {
    rp_u4 u;
#pragma unroll
    for (int k = 0; k < 4; k++) u.v[k] = rp_bits(r.v[4 * q + k]);
    rp_store16<HINT>(p + 4 * q, u);
  }
#endif
}

// ---- sums ------------------------------------------------------------------------------------

// Sum over the block; the result is right in thread 0. Every thread must call it, once.
template <class T> RP_DEVICE T rp_block_sum(T v) {
  RP_SHARED T part[1024 / RP_WARP];
#pragma unroll
  for (int m = RP_WARP / 2; m; m >>= 1) v += rp_shuffle_xor(v, m);
  if (rp_thread() % RP_WARP == 0) part[rp_thread() / RP_WARP] = v;
  rp_sync();
  T total = 0;
  if (rp_thread() == 0)
    for (rp_u32 w = 0; w < (rp_threads() + RP_WARP - 1) / RP_WARP; w++) total += part[w];
  return total;
}

// ---- the generator: data that host and device agree on bit for bit ---------------------------

// SplitMix64 as a counter-based hash of (seed, i).
RP_ANY rp_u64 rp_hash(rp_u64 seed, rp_u64 i) {
  rp_u64 z = seed + (i + 1) * 0x9E3779B97F4A7C15ull;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}
// Irwin–Hall of four 16-bit lanes, mean 0 and deviation 1: an exact integer, one conversion
// and one multiply, so that no compiler or device can round it differently.
RP_ANY float rp_normal(rp_u64 seed, rp_u64 i) {
  rp_u64 z = rp_hash(seed, i);
  int sum = (int)((z & 0xffff) + ((z >> 16) & 0xffff) + ((z >> 32) & 0xffff) + (z >> 48)) - 131070;
  return (float)sum * (float)(1.0 / 37837.0);
}
// Uniform in [-1, 1): 24 bits, exact.
RP_ANY float rp_uniform(rp_u64 seed, rp_u64 i) { return (float)((int)(rp_hash(seed, i) >> 40) - (1 << 23)) * (1.0f / (1 << 23)); }
// A sine wave, a radian an element, in integers and one multiply; ridgepoint_core::data::trigonometric says why so.
RP_ANY float rp_trigonometric(rp_u64 seed, rp_u64 i) {
  const int turn = (int)((rp_u32)(seed * 0xF1DE83E19937733Dull + i) * 683565276u);
  const int rising = turn > (1 << 30) || turn < -(1 << 30) ? (int)(0x80000000u - (rp_u32)turn) : turn;
  const int z = rising >> 15, square = (z * z) >> 15;
  const int sine = (z * (51472 - ((square * (21024 - ((2320 * square) >> 15))) >> 15))) >> 15;
  return (float)sine * (float)(1.0 / 32771.0);
}
// A bijection of [0, n): random order without a table. Mixes within the next power of two
// and walks on until it is back inside n.
RP_ANY rp_u64 rp_permute(rp_u64 seed, rp_u64 i, rp_u64 n) {
  int bits = 0;
  while (bits < 63 && (1ull << bits) < n) bits++;
  rp_u64 mask = (1ull << bits) - 1;
  int half = (bits + 1) / 2 + (bits == 0);
  do {
    i = ((i ^ (seed & mask)) * 0x9E3779B97F4A7C15ull) & mask;
    i ^= i >> half;
    i = (i * 0xBF58476D1CE4E5B9ull + (seed >> 32)) & mask;
    i ^= i >> half;
    i = (i * 0x94D049BB133111EBull) & mask;
    i ^= i >> half;
  } while (i >= n);
  return i;
}
