// What kernels/common/rp.h is on a device, for kernels run as fibres.
#pragma once
#include "cluster.h"

typedef uint8_t rp_u8;
typedef uint16_t rp_u16;
typedef uint32_t rp_u32;
typedef unsigned long long rp_u64;

#define RP_CUDA 0
#define RP_DEVICE static inline
#define RP_KERNEL(threads) extern "C" void
#define RP_SHARED static    // one block runs at a time
#define RP_ALIGN(n) __attribute__((aligned(n)))

#define RP_WARP 32
#define RP_CACHED 0
#define RP_STREAM 2

template <int W> struct alignas(16) rp_vec { float v[W]; };
struct alignas(16) rp_u4 { rp_u32 v[4]; };

inline rp_u32 rp_thread() { return threadIdx.x; }
inline rp_u32 rp_block() { return blockIdx.x; }
inline rp_u32 rp_threads() { return fibres::block_size; }
inline void rp_sync() { __syncthreads(); }
inline float rp_fma(float a, float b, float c) { return std::fma(a, b, c); }
inline float rp_float(rp_u32 u) { return fibres::from_bits(u); }
inline rp_u32 rp_bits(float f) { return fibres::to_bits(f); }
template <class T> T rp_shuffle_xor(T v, int mask) { return __shfl_sync(~0u, v, (int)(threadIdx.x % 32) ^ mask); }

template <int> rp_u4 rp_load16(const void *p) {
    if ((uintptr_t)p % 16) fibres::fail("a 16-byte load that is not aligned");
    rp_u4 r;
    memcpy(&r, p, 16);
    return r;
}
