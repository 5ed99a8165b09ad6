// GEMM on AMD's matrix units: C[M×N] = A[M×K] · B[N×K]ᵀ, MFMA on CDNA and WMMA on RDNA and gfx1250. Not yet run on hardware.
//
// Both operands have K contiguous, C has N contiguous. Sums are in f32, of int8 in int32.
//
// Shape of the work
//   A block of 256 threads owns RP_BM×RP_BN of C. Its waves stand 2 deep along M and the rest along N, so that of 256×256 a wave
//   of 64 lanes owns 128×128 (256 sums a lane, in the accumulation registers) and of 128×128 a wave of 32 lanes 64×32. A step of
//   the ring is RP_ROW bytes of K of the tile's rows, in two buffers: while one is multiplied the next is on its way, through
//   registers or (RP_DIRECT) straight into LDS. One barrier a step.
//   Tiles are walked in bands of RP_GROUP rows, and every die gets a run of neighbours: blocks are dealt to dies in turn.
//
// Where the layouts come from
//   common/amd.h for fragments; B is the instruction's first operand, so that a lane's runs of sums are neighbours of a row
//   of C. A lane reads its 16 bytes at once: unit u of row r lies at u XOR r/(rows of a line of banks), by which the 8 lanes (16 on
//   gfx950) that read at a time meet all banks once. Whoever fetches takes the unit that belongs to its place in LDS, since a direct
//   load puts the lanes of a wave side by side.
//
// What limits it
//   Matrix units, where LDS reads (128 + 128 rows for 128×128 of a wave) stay under them; on small problems, tiles in one wave.
//
// Host contract
//   rp_gemm_matrix(const void* a, const void* b, void* c, int m, int n, int k, float alpha); alpha is not for int8
//   Pointers aligned to 16 bytes; K·s and N·so multiples of 16 bytes, with RP_DIRECT K·s a multiple of RP_ROW. Any M, N, K ≥ 1
//   otherwise. grid (ceil(M/RP_BM)·ceil(N/RP_BN)), block (RP_THREADS), no dynamic shared memory.
//   With RP_SPLIT (and RP_OUT f32, of int8 i32) the sum over K is cut into `splits` parts, at most one a step of the ring:
//   rp_gemm_matrix(a, b, parts, m, n, k, int splits), a grid of `splits` times as many, leaves part s of C at parts + s·m·n;
//   kernels/gemm/combine.cu adds them up.
//
// Macros: RP_DTYPE as in common/amd.h; RP_OUT bf16 | f16 | f32 | i32; RP_BM, RP_BN 128 | 256; RP_ROW 64 | 128;
//   RP_DIRECT 0 | 4 (gfx942) | 16 (gfx950, gfx1250) bytes a lane; RP_GROUP; RP_XCDS dies of the device;
//   RP_SPLIT 1.
#include "../common/rp.h"
#include "../common/amd.h"

#ifndef RP_OUT
#if RP_IS == 3
#define RP_OUT i32
#elif RP_IS == 2
#define RP_OUT f16
#else
#define RP_OUT bf16
#endif
#endif
#ifndef RP_BM
#define RP_BM (RP_MFMA ? 256 : 128)
#endif
#ifndef RP_BN
#define RP_BN (RP_MFMA ? 256 : 128)
#endif
#ifndef RP_THREADS
#define RP_THREADS (RP_MFMA && RP_BM * RP_BN > 128 * 256 ? 512 : 256)
#endif
#ifndef RP_ROW
#if defined(__gfx950__) || defined(__gfx1250__)
#define RP_ROW 128
#else
#define RP_ROW 64
#endif
#endif
#ifndef RP_DIRECT
#define RP_DIRECT 0
#endif
#ifndef RP_GROUP
#define RP_GROUP 8
#endif
#ifndef RP_XCDS
#define RP_XCDS 1
#endif
#ifndef RP_SPLIT
#define RP_SPLIT 0
#endif

using namespace rp_matrix;

struct rp_bf16 { rp_u16 bits; };
struct rp_f16 { rp_u16 bits; };
typedef float rp_f32;
typedef int rp_i32;
typedef RP_JOIN(rp_, RP_OUT) rp_out;

constexpr int kThreads = RP_THREADS;
constexpr int kAcross = kThreads / RP_WARP / 2;          // waves along N
constexpr int kWaveM = RP_BM / 2, kWaveN = RP_BN / kAcross;
constexpr int kPartsM = kWaveM / kSide, kPartsN = kWaveN / kSide;
constexpr int kRowUnits = RP_ROW / 16;
constexpr int kBytesA = RP_BM * RP_ROW, kStage = (RP_BM + RP_BN) * RP_ROW;
constexpr int kSlots = kStage / 16 / kThreads;           // units a thread fetches of a stage
// Rows that share a line of banks: 64 banks of 4 bytes on gfx950, 32 elsewhere.
#if defined(__gfx950__)
constexpr int kLine = 256;
#else
constexpr int kLine = 128;
#endif
constexpr int kShare = kLine > RP_ROW ? kLine / RP_ROW : 1;
// A wave stores kSide rows of C by kPatch columns at a time.
constexpr int kPatch = kWaveN * (int)sizeof(rp_out) < 128 ? kWaveN : 128 / (int)sizeof(rp_out), kPitch = kPatch * (int)sizeof(rp_out) + 16;

static_assert(RP_ROW % kStepBytes == 0, "a step of the matrix unit must fit into a row");
static_assert(kPartsM * kSide * 2 == RP_BM && kPartsN * kSide * kAcross == RP_BN, "the tile must be whole fragments");
static_assert(kSide * kPitch * (kThreads / RP_WARP) <= 2 * kStage, "the epilogue reuses the tiles");

RP_DEVICE int swizzled(int row, int unit) { return unit ^ (row / kShare % kRowUnits); }

// A sum times alpha; int8 has none.
RP_DEVICE float times(float alpha, float sum) { return alpha * sum; }
RP_DEVICE int times(float, int sum) { return sum; }

// Sums as C stores them, to nearest even.
RP_DEVICE void narrow(float v, rp_f32 *to) { *to = v; }
RP_DEVICE void narrow(int v, rp_i32 *to) { *to = v; }
RP_DEVICE void narrow(float v, rp_f16 *to) { to->bits = __builtin_bit_cast(rp_u16, (_Float16)v); }
RP_DEVICE void narrow(float v, rp_bf16 *to) {
  rp_u32 u = rp_bits(v);
  bool nan = (u & 0x7fffffffu) > 0x7f800000u;    // rounding could carry a NaN's payload into infinity
  to->bits = (rp_u16)(nan ? (u >> 16) | 0x40u : (u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

// A block's way through one operand: which 16 bytes of a stage its threads fetch.
struct Source {
  const rp_u8 *a, *b;
  rp_u32 offset[kSlots];
  rp_u32 k_bytes;
};

// Slot i of a thread is place i·256 + thread of the stage: its row, clamped to the matrix (rows beyond are not stored), and the
// unit that belongs there.
RP_DEVICE Source source(const void *a, const void *b, int row, int column, int m, int n, int k) {
  Source s;
  s.k_bytes = (rp_u32)k * kElementBytes;
  s.a = (const rp_u8 *)a + (rp_u64)row * s.k_bytes;
  s.b = (const rp_u8 *)b + (rp_u64)column * s.k_bytes;
#pragma unroll
  for (int i = 0; i < kSlots; i++) {
    int place = i * kThreads + (int)rp_thread(), r = place / kRowUnits, unit = swizzled(r, place % kRowUnits);
    int most = r < RP_BM ? m - row : n - column, of = r < RP_BM ? r : r - RP_BM;
    s.offset[i] = (rp_u32)(of < most ? of : most - 1) * s.k_bytes + unit * 16;
  }
  return s;
}

// A slot lies in A's rows or in B's as a whole, since a block's 256 places are whole rows of one.
RP_DEVICE const rp_u8 *slot(const Source &s, int i) { return i * kThreads < RP_BM * kRowUnits ? s.a : s.b; }

#if RP_DIRECT

// The 64 (or 32) lanes of a wave land side by side, RP_DIRECT bytes each.
RP_DEVICE void fetch(const Source &s, rp_u8 *stage, int block) {
  int wave = rp_wave_uniform((int)rp_thread() / RP_WARP), lane = (int)rp_thread() % RP_WARP;
#pragma unroll
  for (int i = 0; i < kSlots; i++) {
    rp_u8 *to = stage + (i * kThreads + wave * RP_WARP) * 16;
#if RP_DIRECT == 16
    rp_load_direct16(to, slot(s, i) + s.offset[i] + (rp_u32)block * RP_ROW);
#else
    // A quarter of the lanes' units at a time: lane l carries word l % 4 of what lane quarter·16 + l / 4 owns.
#pragma unroll
    for (int quarter = 0; quarter < 4; quarter++) {
      rp_u32 offset = rp_shuffle(s.offset[i], quarter * 16 + lane / 4);
      rp_load_direct4(to + quarter * 256, slot(s, i) + offset + (rp_u32)block * RP_ROW + lane % 4 * 4);
    }
#endif
  }
}

#else

RP_DEVICE void fetch(const Source &s, rp_u4 (&to)[kSlots], int block) {
  rp_u32 x = (rp_u32)block * RP_ROW;
  if (x + RP_ROW <= s.k_bytes) {
#pragma unroll
    for (int i = 0; i < kSlots; i++) to[i] = rp_load16<RP_CACHED>(slot(s, i) + s.offset[i] + x);
    return;
  }
#pragma unroll
  for (int i = 0; i < kSlots; i++) {    // the tail of K: zeros beyond it
    int place = i * kThreads + (int)rp_thread();
    bool inside = x + swizzled(place / kRowUnits, place % kRowUnits) * 16 < s.k_bytes;
    to[i] = rp_u4();
    if (inside) to[i] = rp_load16<RP_CACHED>(slot(s, i) + s.offset[i] + x);
  }
}

RP_DEVICE void place(const rp_u4 (&from)[kSlots], rp_u8 *stage) {
#pragma unroll
  for (int i = 0; i < kSlots; i++) *(rp_u4 *)(stage + (i * kThreads + rp_thread()) * 16) = from[i];
}

#endif

// A lane's part of a step: its row's units, from where the swizzle put them.
RP_DEVICE Fragment fragment(const rp_u8 *tile, int row, int step, int lane) {
  Fragment f;
#pragma unroll
  for (int i = 0; i < kUnits; i++) {
    int unit = step * kUnits * kGroups + unit_of(lane, i);
    rp_u4 v = *(const rp_u4 *)(tile + row * RP_ROW + swizzled(row, unit) * 16);
#pragma unroll
    for (int w = 0; w < 4; w++) f.word[4 * i + w] = v.v[w];
  }
  return f;
}

RP_DEVICE void multiply_stage(Sums (&d)[kPartsN][kPartsM], const rp_u8 *stage, int wave_m, int wave_n, int lane) {
#pragma unroll
  for (int step = 0; step < RP_ROW / kStepBytes; step++) {
    Fragment a[kPartsM];
#pragma unroll
    for (int j = 0; j < kPartsM; j++) a[j] = fragment(stage, wave_m + j * kSide + lane % kSide, step, lane);
#pragma unroll
    for (int i = 0; i < kPartsN; i++) {
      Fragment b = fragment(stage + kBytesA, wave_n + i * kSide + lane % kSide, step, lane);
#pragma unroll
      for (int j = 0; j < kPartsM; j++) multiply(d[i][j], b, a[j]);
    }
  }
}

// Which tile a block owns.
RP_DEVICE void tile_of(int m, int n, int *row, int *column) {
  int tiles_m = (m + RP_BM - 1) / RP_BM, tiles_n = (n + RP_BN - 1) / RP_BN;
  int tile = (int)rp_block(), each = tiles_m * tiles_n / RP_XCDS;
#if RP_SPLIT
  tile %= tiles_m * tiles_n;
#endif
  if (tile < each * RP_XCDS) tile = tile % RP_XCDS * each + tile / RP_XCDS;
  int band = RP_GROUP * tiles_n, first = tile / band * RP_GROUP, within = tile % band;
  int height = tiles_m - first < RP_GROUP ? tiles_m - first : RP_GROUP;
  *row = (first + within % height) * RP_BM;
  *column = within / height * RP_BN;
}

// A wave's rows leave by patches through LDS, so that a row is stored in whole 16-byte units.
RP_DEVICE void store(const Sums (&d)[kPartsN][kPartsM], float alpha, rp_u8 *patch, rp_u8 *c, int row, int column, int m, int n, int lane) {
  constexpr int kParts = kPatch / kSide, kPatchUnits = kPatch * (int)sizeof(rp_out) / 16;
  struct alignas(sizeof(rp_out) * kRun) Run { rp_out v[kRun]; };
#pragma unroll
  for (int j = 0; j < kPartsM; j++)
#pragma unroll
    for (int i = 0; i < kPartsN; i += kParts) {
#pragma unroll
      for (int part = 0; part < kParts; part++)
#pragma unroll
        for (int at = 0; at < kSums; at += kRun) {
          Run run;
#pragma unroll
          for (int x = 0; x < kRun; x++) narrow(times(alpha, d[i + part][j].v[at + x]), &run.v[x]);
          *(Run *)(patch + lane % kSide * kPitch + (part * kSide + sum_row(lane, at)) * (int)sizeof(rp_out)) = run;
        }
      rp_sync_wave();
#pragma unroll
      for (int u = lane; u < kSide * kPatchUnits; u += RP_WARP) {
        int y = row + j * kSide + u / kPatchUnits, x = (column + i * kSide) * (int)sizeof(rp_out) + u % kPatchUnits * 16;
        if (y < m && x < n * (int)sizeof(rp_out))
          rp_store16<RP_CACHED>(c + (rp_u64)y * n * sizeof(rp_out) + x, *(const rp_u4 *)(patch + u / kPatchUnits * kPitch + u % kPatchUnits * 16));
      }
      rp_sync_wave();
    }
}

#if RP_SPLIT
RP_KERNEL_OF(kThreads) rp_gemm_matrix(const void *a, const void *b, void *c, int m, int n, int k, int splits) {
  const float alpha = 1.0f;
#else
RP_KERNEL_OF(kThreads) rp_gemm_matrix(const void *a, const void *b, void *c, int m, int n, int k, float alpha) {
#endif
  RP_SHARED RP_ALIGN(1024) rp_u8 stages[2][kStage];
  int lane = (int)rp_thread() % RP_WARP, wave = rp_wave_uniform((int)rp_thread() / RP_WARP);
  int wave_m = wave % 2 * kWaveM, wave_n = wave / 2 * kWaveN;
  int row, column;
  tile_of(m, n, &row, &column);
  Source from = source(a, b, row, column, m, n, k);

  Sums d[kPartsN][kPartsM] = {};
  int blocks = ((int)from.k_bytes + RP_ROW - 1) / RP_ROW;
#if RP_SPLIT
  int split = (int)rp_block() / (((m + RP_BM - 1) / RP_BM) * ((n + RP_BN - 1) / RP_BN));
  int first = (int)((long long)blocks * split / splits);
  blocks = (int)((long long)blocks * (split + 1) / splits);
  c = (rp_out *)c + (rp_u64)split * m * n;
#else
  constexpr int first = 0;
#endif
#if RP_DIRECT
  fetch(from, stages[first % 2], first);
#else
  rp_u4 held[kSlots];
  fetch(from, held, first);
  place(held, stages[first % 2]);
#endif
  for (int block = first; block < blocks; block++) {
    rp_u8 *now = stages[block % 2], *next = stages[1 - block % 2];
    // This stage has landed and the other one has been read, by all.
#if RP_DIRECT
    rp_wait_direct();
    rp_sync();
    if (block + 1 < blocks) fetch(from, next, block + 1);
    multiply_stage(d, now, wave_m, wave_n, lane);
#else
    rp_sync();
    if (block + 1 < blocks) fetch(from, held, block + 1);
    multiply_stage(d, now, wave_m, wave_n, lane);
    if (block + 1 < blocks) place(held, next);
#endif
  }
  rp_sync();
  store(d, alpha, &stages[0][0] + wave * kSide * kPitch, (rp_u8 *)c, row + wave_m, column + wave_n, m, n, lane);
}
