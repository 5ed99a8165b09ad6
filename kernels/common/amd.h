// What only AMD's chips have, under one name for all of them: waves, loads that go straight into LDS, and matrix units, which do
// D[side×side] += A[side×K] · B[side×K]ᵀ a wave. To be included after rp.h.
//
// What a lane holds
//   Of A and B, one row of each: row lane % kSide, in 16-byte units of K. The lanes of a wave form kGroups groups along K; group g
//   has units g, g + kGroups, …: kUnits of them are a Fragment. Of D, kSums numbers: column lane % kSide of rows sum_row(lane, i),
//   which come in runs of kRun neighbours.
//
// Where the layouts come from
//   AMD's ISA documents of CDNA2, 3 and 4, RDNA3 and 4 (chapters "Matrix Arithmetic Instructions" and "WMMA") and its matrix
//   instruction calculator; gfx1250 from the layouts that LLVM and Triton compile for. A lane's bytes go to the instruction in the
//   order in which they lie in memory. Within a fragment the hardware may number K otherwise, but it does so alike for A and for B,
//   and a sum over K does not depend on its order. kernels/fibres/amd_gemm_test.cpp holds all of this to AMD's tables.
//
//                    gfx90a           gfx942            gfx950              gfx11            gfx12            gfx1250
//   lanes, side      64, 32           64, 32            64, 32              32, 16           32, 16           32, 16
//   f16, bf16        mfma 32x32x8     mfma 32x32x8      mfma 32x32x16       wmma 16x16x16    wmma 16x16x16    wmma 16x16x32
//   fp8              –                32x32x16 (FNUZ)   32x32x64 (OCP)      –                16x16x16 (OCP)   16x16x128 (OCP)
//   int8             32x32x8          32x32x16          32x32x32            16x16x16         16x16x16         16x16x64
//
// Macros: RP_DTYPE bf16 | f16 | i8 | e4m3 | e5m2 | e4m3fnuz | e5m2fnuz.
#pragma once

#ifndef RP_DTYPE
#define RP_DTYPE bf16
#endif
#define RP_JOIN_(a, b) a##b
#define RP_JOIN(a, b) RP_JOIN_(a, b)

// Numbers that the preprocessor can compare.
#define RP_IS_bf16 1
#define RP_IS_f16 2
#define RP_IS_i8 3
#define RP_IS_e4m3 4
#define RP_IS_e5m2 5
#define RP_IS_e4m3fnuz 6
#define RP_IS_e5m2fnuz 7
#define RP_IS RP_JOIN(RP_IS_, RP_DTYPE)
#define RP_FP8 (RP_IS >= 4)
#define RP_HALF (RP_IS <= 2)

#if defined(__gfx950__) || defined(__gfx942__) || defined(__gfx90a__)
#define RP_MFMA 1
#else
#define RP_MFMA 0
#endif
#if RP_FP8 && (RP_IS >= 6) != (defined(__gfx942__) != 0)
#error "FP8 is FNUZ on gfx942 and OCP elsewhere"
#endif
#if RP_FP8 && (defined(__gfx90a__) || defined(__GFX11__))
#error "this chip has no FP8"
#endif

// ---- waves, and loads straight into LDS -------------------------------------------------------

#if !RP_HOST

// A kernel whose blocks have exactly this many threads, and one of which a compute unit is enough: lanes may have all registers.
#define RP_KERNEL_OF(threads) \
  extern "C" __global__ __attribute__((amdgpu_flat_work_group_size(threads, threads), amdgpu_waves_per_eu(1))) void

// A number that all lanes of a wave have alike, for the scalar registers.
RP_DEVICE int rp_wave_uniform(int v) { return __builtin_amdgcn_readfirstlane(v); }
// 2ˣ to about one unit in the last place; results below the normal numbers are zero.
RP_DEVICE float rp_exp2(float x) {
#if __has_builtin(__builtin_amdgcn_exp2f)
  return __builtin_amdgcn_exp2f(x);
#else
  return __builtin_exp2f(x);
#endif
}
RP_DEVICE rp_u32 rp_blocks_y() { return __builtin_amdgcn_grid_size_y(); }    // of blocks that are one thread high
RP_DEVICE rp_u32 rp_shuffle(rp_u32 v, int lane) { return (rp_u32)__builtin_amdgcn_ds_bpermute(lane << 2, (int)v); }
// What the wave wrote to LDS is what the wave reads; no other wave is waited for.
RP_DEVICE void rp_sync_wave() {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "wavefront");
  __builtin_amdgcn_wave_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "wavefront");
}

// The end of a slot in which one half of a block's waves multiplies and the other does not: a barrier that nothing is moved across,
// products of registers included. And the priority of a wave over others of its SIMD.
RP_DEVICE void rp_slot() {
#if __has_builtin(__builtin_amdgcn_sched_barrier)
  __builtin_amdgcn_sched_barrier(0);
#endif
  rp_sync();
#if __has_builtin(__builtin_amdgcn_sched_barrier)
  __builtin_amdgcn_sched_barrier(0);
#endif
}
// The same number, of which the compiler keeps nothing that it computed before: registers instead of instructions are dear.
RP_DEVICE int rp_anew(int v) { asm volatile("" : "+v"(v)); return v; }
template <int LEVEL> RP_DEVICE void rp_priority() { __builtin_amdgcn_s_setprio(LEVEL); }

// Past the registers: each lane's bytes at `from` go to `to`, which is in LDS and the same for all lanes of the wave, lane by lane side
// by side. There after rp_wait_direct and a barrier.
#define RP_GLOBAL(type, p) ((__attribute__((address_space(1))) type *)(p))
#define RP_LOCAL(type, p) ((__attribute__((address_space(3))) type *)(p))
// By assembly on gfx942 and gfx950: behind the builtin the compiler waits for every load in flight before the next read of LDS. It
// keeps nothing of its own in m0, the place of a wave in LDS.
#define RP_LOAD_DIRECT(words, to, from)                                                        \
  asm volatile("s_mov_b32 m0, %0\n\ts_nop 0\n\tglobal_load_lds_dword" words " %1, off"          \
               :: "s"((rp_u32)(rp_u64)RP_LOCAL(void, to)), "v"(from) : "memory")
#if defined(__gfx942__) || defined(__gfx950__)
RP_DEVICE void rp_load_direct4(rp_u8 *to, const rp_u8 *from) { RP_LOAD_DIRECT("", to, from); }
#endif
#if defined(__gfx950__)
RP_DEVICE void rp_load_direct16(rp_u8 *to, const rp_u8 *from) { RP_LOAD_DIRECT("x4", to, from); }
#elif defined(__gfx1250__)
typedef int rp_int4 __attribute__((ext_vector_type(4)));
RP_DEVICE void rp_load_direct16(rp_u8 *to, const rp_u8 *from) {
  __builtin_amdgcn_global_load_async_to_lds_b128(RP_GLOBAL(rp_int4, from), RP_LOCAL(rp_int4, to + rp_lane() * 16), 0, 0);
}
#endif
RP_DEVICE void rp_wait_direct() {
#if defined(__gfx1250__)
  __builtin_amdgcn_s_wait_asynccnt(0);
#elif defined(__gfx942__) || defined(__gfx950__)
  __builtin_amdgcn_s_waitcnt(0x0f70);    // vmcnt(0)
#endif
}

#endif

// ---- matrix units -----------------------------------------------------------------------------

namespace rp_matrix {

// Bytes of A, and of B, that a lane gives to one instruction.
#if defined(__gfx90a__)
constexpr int kLaneBytes = RP_HALF ? 8 : 4;
#elif defined(__gfx942__)
constexpr int kLaneBytes = 8;
#elif defined(__gfx950__)
constexpr int kLaneBytes = RP_FP8 ? 32 : 16;
#elif defined(__gfx1250__)
constexpr int kLaneBytes = RP_FP8 ? 64 : 32;
#elif defined(__GFX12__)
constexpr int kLaneBytes = RP_HALF ? 16 : 8;
#elif defined(__GFX11__)
constexpr int kLaneBytes = RP_HALF ? 32 : 16;
#else
#error "matrix_amd.h: this chip has no matrix units that are known here"
#endif

constexpr int kSide = RP_MFMA ? 32 : 16;
#if defined(__GFX11__)
constexpr int kGroups = 1;    // lanes 16 to 31 hold what lanes 0 to 15 hold
#else
constexpr int kGroups = 2;
#endif
constexpr int kUnits = kLaneBytes > 16 ? kLaneBytes / 16 : 1;
constexpr int kStepBytes = 16 * kUnits * kGroups;    // of K, by one Fragment of every lane
constexpr int kSums = kSide * kSide / RP_WARP;
constexpr int kElementBytes = RP_HALF ? 2 : 1;
static_assert(RP_WARP == (RP_MFMA ? 64 : 32), "the wave's size");

#if RP_IS == 3
typedef int Sum;
#else
typedef float Sum;
#endif

struct Fragment { rp_u32 word[4 * kUnits]; };
struct Sums { Sum v[kSums]; };

// The unit of 16 bytes of K, within a step, that a lane's `i`th is.
RP_DEVICE int unit_of(int lane, int i) { return i * kGroups + (kGroups > 1 ? lane / kSide : 0); }

// The row of a lane's `i`th sum, and how many of them are neighbours.
#if RP_MFMA
constexpr int kRun = 4;
RP_DEVICE int sum_row(int lane, int i) { return i / 4 * 8 + lane / 32 * 4 + i % 4; }
#elif defined(__GFX11__)
constexpr int kRun = 1;
RP_DEVICE int sum_row(int lane, int i) { return i * 2 + lane / 16; }
#else
constexpr int kRun = 8;
RP_DEVICE int sum_row(int lane, int i) { return lane / 16 * 8 + i; }
#endif

// Sums as an operand. A lane's sums, taken eight at a time, are the halves of its units of K, if the rows that were summed are numbered
// so: fours of neighbours, of which group `g` stands at place key_group(g). Not on RDNA3, where a lane has half of them.
#if RP_MFMA
RP_DEVICE int key_group(int g) { return (g & ~3) | (g & 1) << 1 | (g >> 1 & 1); }
#else
RP_DEVICE int key_group(int g) { return g; }
#endif

// Two halves, f16 or bf16, to nearest even.
template <bool F16> RP_DEVICE rp_u32 pack_as(float low, float high) {
#if RP_HOST
  if (F16) return fibres::float_to_half(low) | (rp_u32)fibres::float_to_half(high) << 16;
#else
  if (F16) return __builtin_bit_cast(rp_u16, (_Float16)low) | (rp_u32)__builtin_bit_cast(rp_u16, (_Float16)high) << 16;
#endif
#if (defined(__gfx950__) || defined(__gfx1250__)) && !RP_HOST
  typedef __bf16 Pair __attribute__((ext_vector_type(2)));
  return __builtin_bit_cast(rp_u32, Pair{(__bf16)low, (__bf16)high});    // one instruction
#else
  rp_u32 l = rp_bits(low), h = rp_bits(high);    // none of them is NaN
  l += 0x7fffu + (l >> 16 & 1u);
  h += 0x7fffu + (h >> 16 & 1u);
  return l >> 16 | (h & 0xffff0000u);
#endif
}
// Of RP_DTYPE.
RP_DEVICE rp_u32 pack(float low, float high) { return pack_as<RP_IS == 2>(low, high); }

#if RP_FP8
// Four numbers that the type has, e4m3 of this chip's kind, lowest first.
RP_DEVICE rp_u32 pack_fp8(float a, float b, float c, float d) {
#if RP_HOST
  const float one = RP_IS == 6 ? 2 : 1;    // FNUZ: the same bits are half as much
  const float x[4] = {a, b, c, d};
  rp_u32 r = 0;
  for (int i = 0; i < 4; i++) r |= (rp_u32)fibres::float_to_e4m3(x[i] * one) << 8 * i;
  return r;
#else
  const int low = __builtin_amdgcn_cvt_pk_fp8_f32(a, b, 0, false);
  return (rp_u32)__builtin_amdgcn_cvt_pk_fp8_f32(c, d, low, true);
#endif
}
// Bytes of the two words by a selector's bytes, lowest first: 0 to 3 of `a`, 4 to 7 of `b`.
RP_DEVICE rp_u32 rp_permute(rp_u32 a, rp_u32 b, rp_u32 selector) {
#if RP_HOST
  rp_u32 r = 0;
  for (int i = 0; i < 4; i++) r |= (rp_u32)(((rp_u64)b << 32 | a) >> 8 * (selector >> 8 * i & 7) & 0xff) << 8 * i;
  return r;
#else
  return __builtin_amdgcn_perm(b, a, selector);
#endif
}
#endif

// Two f16, each times a number.
RP_DEVICE rp_u32 multiply_f16(rp_u32 pair, int by) {
#if RP_HOST
  return pack_as<true>(fibres::half_to_float(pair & 0xffffu) * by, fibres::half_to_float(pair >> 16) * by);
#else
  typedef _Float16 Pair __attribute__((ext_vector_type(2)));
  return __builtin_bit_cast(rp_u32, __builtin_bit_cast(Pair, pair) * Pair{(_Float16)by, (_Float16)by});
#endif
}

// ---- the instruction; on the host kernels/fibres/amd.h stands in for it ----------------------

#if RP_HOST

RP_DEVICE void multiply_once(Sums &d, const rp_u32 *a, const rp_u32 *b);

#else

#define RP_VECTOR(type, n) __attribute__((ext_vector_type(n))) type
typedef RP_VECTOR(Sum, kSums) SumVector;
template <int N> struct Words { rp_u32 word[N]; };

// A lane's bytes as the builtin wants them.
template <class To> RP_DEVICE To as(const rp_u32 *from) {
  Words<sizeof(To) / 4> words;
#pragma unroll
  for (unsigned i = 0; i < sizeof(To) / 4; i++) words.word[i] = from[i];
  return __builtin_bit_cast(To, words);
}

typedef RP_VECTOR(_Float16, kLaneBytes / 2) HalfVector;
typedef RP_VECTOR(short, kLaneBytes / 2) ShortVector;
#if defined(__gfx950__) || defined(__gfx1250__)
typedef RP_VECTOR(__bf16, kLaneBytes / 2) BrainVector;
#endif
#if RP_FP8 || RP_IS == 3
#if defined(__gfx942__)
typedef long Bytes8;
#elif !defined(__gfx90a__)
typedef RP_VECTOR(int, kLaneBytes / 4) ByteVector;
#endif
#endif

RP_DEVICE void multiply_once(Sums &d, const rp_u32 *a, const rp_u32 *b) {
  SumVector c = __builtin_bit_cast(SumVector, d);
#if defined(__gfx950__)
#if RP_IS == 1
  c = __builtin_amdgcn_mfma_f32_32x32x16_bf16(as<BrainVector>(a), as<BrainVector>(b), c, 0, 0, 0);
#elif RP_IS == 2
  c = __builtin_amdgcn_mfma_f32_32x32x16_f16(as<HalfVector>(a), as<HalfVector>(b), c, 0, 0, 0);
#elif RP_IS == 3
  c = __builtin_amdgcn_mfma_i32_32x32x32_i8(as<ByteVector>(a), as<ByteVector>(b), c, 0, 0, 0);
#else
  // Types 0 (e4m3) and 1 (e5m2); with scales that are constants of zero the compiler takes the form without scales.
  constexpr int type = RP_IS == 4 ? 0 : 1;
  c = __builtin_amdgcn_mfma_scale_f32_32x32x64_f8f6f4(as<ByteVector>(a), as<ByteVector>(b), c, type, type, 0, 0, 0, 0);
#endif
#elif defined(__gfx942__) || defined(__gfx90a__)
#if RP_IS == 1
  c = __builtin_amdgcn_mfma_f32_32x32x8bf16_1k(as<ShortVector>(a), as<ShortVector>(b), c, 0, 0, 0);
#elif RP_IS == 2
  c = __builtin_amdgcn_mfma_f32_32x32x8f16(as<HalfVector>(a), as<HalfVector>(b), c, 0, 0, 0);
#elif RP_IS == 3 && defined(__gfx90a__)
  c = __builtin_amdgcn_mfma_i32_32x32x8i8(*(const int *)a, *(const int *)b, c, 0, 0, 0);
#elif RP_IS == 3
  c = __builtin_amdgcn_mfma_i32_32x32x16_i8(as<Bytes8>(a), as<Bytes8>(b), c, 0, 0, 0);
#elif RP_IS == 6
  c = __builtin_amdgcn_mfma_f32_32x32x16_fp8_fp8(as<Bytes8>(a), as<Bytes8>(b), c, 0, 0, 0);
#else
  c = __builtin_amdgcn_mfma_f32_32x32x16_bf8_bf8(as<Bytes8>(a), as<Bytes8>(b), c, 0, 0, 0);
#endif
#elif defined(__gfx1250__)
#if RP_IS == 1
  c = __builtin_amdgcn_wmma_f32_16x16x32_bf16(false, as<BrainVector>(a), false, as<BrainVector>(b), (short)0, c, false, false);
#elif RP_IS == 2
  c = __builtin_amdgcn_wmma_f32_16x16x32_f16(false, as<HalfVector>(a), false, as<HalfVector>(b), (short)0, c, false, false);
#elif RP_IS == 3
  c = __builtin_amdgcn_wmma_i32_16x16x64_iu8(true, as<ByteVector>(a), true, as<ByteVector>(b), c, false, false);
#elif RP_IS == 4
  c = __builtin_amdgcn_wmma_f32_16x16x128_fp8_fp8(as<ByteVector>(a), as<ByteVector>(b), (short)0, c, false, false);
#else
  c = __builtin_amdgcn_wmma_f32_16x16x128_bf8_bf8(as<ByteVector>(a), as<ByteVector>(b), (short)0, c, false, false);
#endif
#elif defined(__GFX12__)
#if RP_IS == 1
  c = __builtin_amdgcn_wmma_f32_16x16x16_bf16_w32_gfx12(as<ShortVector>(a), as<ShortVector>(b), c);
#elif RP_IS == 2
  c = __builtin_amdgcn_wmma_f32_16x16x16_f16_w32_gfx12(as<HalfVector>(a), as<HalfVector>(b), c);
#elif RP_IS == 3
  c = __builtin_amdgcn_wmma_i32_16x16x16_iu8_w32_gfx12(true, as<ByteVector>(a), true, as<ByteVector>(b), c, false);
#elif RP_IS == 4
  c = __builtin_amdgcn_wmma_f32_16x16x16_fp8_fp8_w32_gfx12(as<ByteVector>(a), as<ByteVector>(b), c);
#else
  c = __builtin_amdgcn_wmma_f32_16x16x16_bf8_bf8_w32_gfx12(as<ByteVector>(a), as<ByteVector>(b), c);
#endif
#else
#if RP_IS == 1
  c = __builtin_amdgcn_wmma_f32_16x16x16_bf16_w32(as<ShortVector>(a), as<ShortVector>(b), c);
#elif RP_IS == 2
  c = __builtin_amdgcn_wmma_f32_16x16x16_f16_w32(as<HalfVector>(a), as<HalfVector>(b), c);
#else
  c = __builtin_amdgcn_wmma_i32_16x16x16_iu8_w32(true, as<ByteVector>(a), true, as<ByteVector>(b), c, false);
#endif
#endif
  d = __builtin_bit_cast(Sums, c);
}

#endif

// D += A·Bᵀ over kStepBytes of K.
RP_DEVICE void multiply(Sums &d, const Fragment &a, const Fragment &b) {
#pragma unroll
  for (int at = 0; at < 4 * kUnits; at += kLaneBytes / 4) multiply_once(d, a.word + at, b.word + at);
}

}  // namespace rp_matrix
