// Attention decode with split-KV on AMD's matrix units: a few new queries (Sq = 1..8) against a long KV cache, Q bf16 or f16, K and V alike
// or e4m3; f32 inside. MFMA on CDNA, WMMA on gfx12 and gfx1250. Not yet run on hardware.
//
// Why a kernel of its own
//   What costs is the reading of K and V: the queries of one KV head (group · Sq rows, contiguous in Q) are packed into one side of the
//   matrix unit, so that each byte is read once for all of them, and the keys are split among as many blocks as fill the device.
//
// Shape of the work
//   A block takes one KV head, kSide rows and one split of the keys. Its four waves walk the split kKeys keys at a time in turn, each with a
//   maximum, a sum and an output of its own, and meet only at the end: no barrier of the block stands in the loop. combine.cu joins the splits.
//   As in flash_amd.cu scores are transposed, Sᵀ = K·Qᵀ, so that a lane has one row, and P goes on to Oᵀ = Vᵀ·Pᵀ from its registers. K as
//   an operand comes from memory straight into registers; V is transposed on its way through LDS, four keys of a column by a lane. The
//   next tile's loads are in flight under this one's softmax and products; the numbers of its pages came a tile before.
//   FP8: a byte's seven low bits, put where a half's exponent and mantissa meet, are the number times 2⁻⁸ (FNUZ 2⁻⁷), exactly; a product
//   makes them whole, since gfx90a's units take subnormal halves for zero. Of four bytes the even and the odd come apart: Q's halves are
//   paired alike, V's columns told apart where they are placed.
//
// Where the layouts come from
//   common/amd.h for fragments. Vᵀ lies as rows of 16-byte units, so mixed that rows 128 bytes apart meet different banks.
//
// What limits it
//   HBM: with 32 rows the matrix units need an eighth of the time that a tile's bytes take on gfx942, where two blocks a compute unit (at
//   D = 256 one) keep 128 KB in flight.
//
// Host contract
//   rp_decode_amd(const u8 *q, const u8 *k, const u8 *v, u8 *o, float *partial, float *stats, const int *lengths, const int *table,
//                 const float *sinks, const float *scales, int rows, int queries, int heads_kv, int keys, int page_shift, int splits, int window,
//                 int causal, float scale)
//   Q [B, Hq, Sq, D], K and V [B, Hkv, keys, D], O like Q, contiguous, aligned to 16 bytes; rows = Hq / Hkv · queries; scale > 0. Causal at
//   the end: query i of a sequence of length L sees keys j ≤ i + L − queries. A row that sees no key gives zeros.
//   table    i32 [B, ⌈keys / page⌉] of pages, K and V [pool, Hkv, page, D]; or null. page = 2^page_shift ≥ 16, pool · Hkv · page < 2³².
//   lengths  B numbers of valid keys, at most `keys`, or null
//   sinks    Hq logits that join a row's sum without a value, or null; here only where splits is 1
//   scales   f32 [3], what stored Q, K and V are multiplied by, or null
//   window   with causal: the last so many keys that a query sees; 0 for all
//   partial  f32 [B·Hkv·rows, splits, D], stats pairs (maximum in log2 units, sum) [B·Hkv·rows, splits]; unused if splits is 1
//   grid (B · Hkv · splits, ⌈rows / kSide⌉), block 4 · RP_WARP, no dynamic shared memory
//
// Macros: RP_DTYPE bf16 | f16, of the products; RP_Q that of Q and O; RP_KV8 0 | 1 (RP_DTYPE f16); RP_D 64, 128, on CDNA and gfx1250 256.
#include "../common/rp.h"
#include "../common/amd.h"
#include "../common/attention_amd.h"

#ifndef RP_D
#define RP_D 128
#endif
#ifndef RP_KV8
#define RP_KV8 0
#endif
#ifndef RP_Q
#define RP_Q RP_DTYPE
#endif

using namespace rp_matrix;

constexpr int kWaves = 4, kThreads = kWaves * RP_WARP;
constexpr int kKeys = kStepBytes / 2 > kSide ? kStepBytes / 2 : kSide;    // of a tile
constexpr int kRound = kWaves * kKeys;                                    // keys of a tile of each wave
constexpr int kUnitBytes = RP_KV8 ? 8 : 16, kRowBytes = RP_D / 8 * kUnitBytes;    // of eight columns of K or V, of a key
constexpr int kSteps = RP_D * 2 / kStepBytes, kKeySteps = kKeys * 2 / kStepBytes;
constexpr int kOwn = kSteps * kUnits, kLoads = kOwn * kUnitBytes / 16;     // units of eight columns of a row of K that a lane has, its loads
constexpr int kTiles = kKeys / kSide, kParts = RP_D / kSide;              // of scores, of the output
constexpr int kTasks = kKeys / 4 * (RP_D / 8) / RP_WARP;                  // of four keys by eight of V's columns, of a lane
constexpr int kKeyUnits = kKeys / 8, kRowsOfBanks = 8 / kKeyUnits;        // of a row of Vᵀ; such rows of 128 bytes
constexpr bool kHalfQ = RP_JOIN(RP_IS_, RP_Q) == RP_IS_f16;
#if defined(__gfx942__)
constexpr bool kFnuz = true;    // as this chip has FP8, and memory for it therefore too
#else
constexpr bool kFnuz = false;
#endif
static_assert(RP_HALF && kRun >= 4 && (!RP_KV8 || RP_IS == 2), "products of halves, of f16 where K and V are FP8");
static_assert(RP_D % 64 == 0 && kTasks * RP_WARP == kKeys / 4 * (RP_D / 8) && kOwn % 2 == 0, "each lane's share");

union alignas(16) Block {
  rp_u8 v[kWaves][RP_D * kKeys * 2];
  Softmax each[kWaves][kSide];
  Four out[kWaves / 2][kParts * kSums / 4][RP_WARP];
};
struct Bytes { rp_u32 v[kUnitBytes / 4]; };
struct Held { rp_u4 k[kTiles][kLoads]; Bytes v[kTasks][4]; };

// Of one KV head of one sequence.
struct Cache { const rp_u8 *k, *v; Rows rows; };
RP_DEVICE rp_u64 place_of(const Cache &c, const Pages<kKeys> &pages, int first, int key) { return (rp_u64)row_of(c.rows, pages, first, key) * kRowBytes; }

// The unit of eight columns that a lane's `n`th is: of FP8 two lie in one load.
RP_DEVICE int own_unit(int lane, int n) { return RP_KV8 ? 2 * (n / 2 * kGroups + unit_of(lane, 0)) + n % 2 : n * kGroups + unit_of(lane, 0); }
// A lane's columns and keys of its `i`th task: eight lanes side by side have 64 columns of four keys.
RP_DEVICE int task_unit(int lane, int i) { return i % (RP_D / 64) * 8 + lane % 8; }
RP_DEVICE int task_group(int lane, int i) { return i / (RP_D / 64) * (RP_WARP / 8) + lane / 8; }

RP_DEVICE void fetch(Held &held, const Cache &c, const Pages<kKeys> &pages, int first, int lane) {
#pragma unroll
  for (int t = 0; t < kTiles; t++) {
    const rp_u8 *row = c.k + place_of(c, pages, first, first + t * kSide + lane % kSide);
#pragma unroll
    for (int n = 0; n < kLoads; n++) held.k[t][n] = rp_load16<RP_CACHED>(row + own_unit(lane, RP_KV8 ? 2 * n : n) * kUnitBytes);
  }
#pragma unroll
  for (int i = 0; i < kTasks; i++)
#pragma unroll
    for (int x = 0; x < 4; x++)
      held.v[i][x] = *(const Bytes *)(c.v + place_of(c, pages, first, first + task_group(lane, i) * 4 + x) + task_unit(lane, i) * kUnitBytes);
}

// Of four e4m3 the two of even or of odd place, as halves.
RP_DEVICE rp_u32 widen(rp_u32 x, bool odd) {
  if (!odd) x <<= 8;
  return multiply_f16((x >> 1 & 0x3f803f80u) | (x & 0x80008000u), kFnuz ? 128 : 256);
}
// Two numbers of Q as f16.
RP_DEVICE rp_u32 as_f16(rp_u32 x) {
  if (kHalfQ) return x;
  const float low = rp_float(x << 16), high = rp_float(x & 0xffff0000u), most = 65504;
  return pack_as<true>(__builtin_fminf(__builtin_fmaxf(low, -most), most), __builtin_fminf(__builtin_fmaxf(high, -most), most));
}
// Word `w` of eight columns' halves: columns 2w and 2w + 1; of FP8 columns 0 and 2, 1 and 3, 4 and 6, 5 and 7.
RP_DEVICE rp_u32 halves(const rp_u32 *unit, int w) { return RP_KV8 ? widen(unit[w / 2], w % 2) : unit[w]; }
RP_DEVICE int true_column(int x) { return RP_KV8 ? (x & 4) | (x & 1) << 1 | (x >> 1 & 1) : x; }

// A lane's part of a row of K, or of Q, for one step.
RP_DEVICE Fragment keys_of(const rp_u4 *loads, int step) {
  Fragment f;
#pragma unroll
  for (int w = 0; w < 4 * kUnits; w++) {
    const int n = step * kUnits + w / 4;
    f.word[w] = RP_KV8 ? halves(loads[n / 2].v + n % 2 * 2, w % 4) : loads[n].v[w % 4];
  }
  return f;
}
RP_DEVICE Fragment query_of(const rp_u8 *row, int step, int lane) {
  Fragment f;
#pragma unroll
  for (int i = 0; i < kUnits; i++) {
    rp_u4 u = rp_load16<RP_CACHED>(row + own_unit(lane, step * kUnits + i) * 16);
    if (RP_KV8)
#pragma unroll
      for (int w = 0; w < 4; w += 2) {    // columns 0 and 2, 1 and 3, as K's
        const rp_u32 x = as_f16(u.v[w]), y = as_f16(u.v[w + 1]);
        u.v[w] = (x & 0xffffu) | y << 16;
        u.v[w + 1] = x >> 16 | (y & 0xffff0000u);
      }
    put(f, i, u);
  }
  return f;
}

RP_DEVICE int place_v(int column, int unit) { return (column * kKeyUnits + (unit ^ column / kRowsOfBanks % kKeyUnits)) * 16; }

RP_DEVICE void place(const Held &held, rp_u8 *tile, int lane) {
#pragma unroll
  for (int i = 0; i < kTasks; i++) {
    const int group = key_group(task_group(lane, i));
    rp_u4 keys[4];
#pragma unroll
    for (int x = 0; x < 16; x++) keys[x / 4].v[x % 4] = halves(held.v[i][x / 4].v, x % 4);
#pragma unroll
    for (int x = 0; x < 8; x++)    // column x of eight
      *(Two *)(tile + place_v(task_unit(lane, i) * 8 + true_column(x), group / 2) + group % 2 * 8) = column_of(keys, x);
  }
}

// What a wave has summed, into LDS or added from there.
RP_DEVICE void exchange(Four (*room)[RP_WARP], Sums *out, int lane, bool add) {
#pragma unroll
  for (int i = 0; i < kParts * kSums; i += 4) {
    Sum *x = out[i / kSums].v + i % kSums;
    if (!add) room[i / 4][lane] = Four{{x[0], x[1], x[2], x[3]}};
    else
#pragma unroll
      for (int at = 0; at < 4; at++) x[at] += room[i / 4][lane].v[at];
  }
}

RP_KERNEL_OF(kThreads) rp_decode_amd(const rp_u8 *q, const rp_u8 *k, const rp_u8 *v, rp_u8 *o, float *partial, float *stats, const int *lengths,
    const int *table, const float *sinks, const float *scales, int rows, int queries, int heads_kv, int keys, int page_shift, int splits, int window,
    int causal, float scale) {
  RP_SHARED Block block;
  const int lane = (int)rp_thread() % RP_WARP, wave = rp_wave_uniform((int)rp_thread() / RP_WARP);
  const int head = (int)rp_block() / splits, split = (int)rp_block() % splits, mine = (int)rp_block_y() * kSide + lane % kSide;
  int length = lengths ? lengths[head / heads_kv] : keys;
  length = length < keys ? length : keys;
  const int hidden = causal ? queries - 1 : 0;    // keys at the end that a sequence's first query does not see
  int start = window ? length - hidden - window : 0;    // nobody sees a key before it
  start = start > 0 ? start / kRound * kRound : 0;
  const int span = ((length - start + splits - 1) / splits + kRound - 1) / kRound * kRound;
  const int begin = start + split * span < length ? start + split * span : length, end = begin + span < length ? begin + span : length;
  const int sees = causal ? length - queries + mine % queries + 1 : length, limit = sees < end ? sees : end, from = window ? sees - window : 0;
  const rp_u64 before = table ? 0 : (rp_u64)head * keys * kRowBytes;
  const Cache cache = {k + before, v + before, rows_of(table, page_shift, keys, heads_kv, head, end - 1)};

  int first = begin + wave * kKeys;
  Held held;
  Pages<kKeys> pages = pages_of<kKeys>(cache.rows, first);
  if (first < end) fetch(held, cache, pages, first, lane);
  pages = pages_of<kKeys>(cache.rows, first + kRound);
  const rp_u64 row = (rp_u64)head * rows + (mine < rows ? mine : rows - 1);
  Fragment query[kSteps];
#pragma unroll
  for (int step = 0; step < kSteps; step++) query[step] = query_of(q + row * (RP_D * 2), step, lane);

  const float to_log2 = scale * 1.4426950408889634f * (scales ? scales[0] * scales[1] : 1);
  Softmax state = {-rp_infinity(), 0};    // of this lane's row
  Sums out[kParts] = {};
  rp_u8 *tile = block.v[wave];
  for (; first < end; first += kRound) {
    Sums score[kTiles] = {};
#pragma unroll
    for (int step = 0; step < kSteps; step++)
#pragma unroll
      for (int t = 0; t < kTiles; t++) multiply(score[t], keys_of(held.k[t], step), query[step]);
    rp_sync_wave();    // every lane has read the tile before
    place(held, tile, lane);
    rp_sync_wave();
    if (first + kRound < end) {
      fetch(held, cache, pages, first + kRound, lane);
      pages = pages_of<kKeys>(cache.rows, first + 2 * kRound);
    }

    if (first + kKeys > end || first + kKeys > length - hidden || (window && first < length - window)) {
#pragma unroll
      for (int t = 0; t < kTiles; t++)
#pragma unroll
        for (int i = 0; i < kSums; i++) {
          const int key = first + t * kSide + sum_row(lane, i);
          if (key >= limit || key < from) score[t].v[i] = -rp_infinity();
        }
    }
    const float base = advance(state, score, out, to_log2);
#pragma unroll
    for (int step = 0; step < kKeySteps; step++) {
      const Fragment p = weights(state, score, step, to_log2, base);
#pragma unroll
      for (int part = 0; part < kParts; part++) multiply(out[part], fragment(tile, part * kSide + lane % kSide, step, lane, place_v), p);
    }
  }

  // The waves meet: a common maximum, then outputs in its scale, added through LDS, half of the waves to the other half.
  const Softmax own = {state.top * to_log2, state.sum + rp_shuffle_xor(state.sum, kSide)};
  rp_sync();
  if (lane < kSide) block.each[wave][lane] = own;
  rp_sync();
  Softmax all = {-rp_infinity(), 0};
#pragma unroll
  for (int w = 0; w < kWaves; w++) all.top = __builtin_fmaxf(all.top, block.each[w][lane % kSide].top);
  const float base = all.top == -rp_infinity() ? 0.0f : all.top;
#pragma unroll
  for (int w = 0; w < kWaves; w++) all.sum += block.each[w][lane % kSide].sum * rp_exp2(block.each[w][lane % kSide].top - base);
  const float factor = rp_exp2(own.top - base) * (scales ? scales[2] : 1);
#pragma unroll
  for (int part = 0; part < kParts; part++)
#pragma unroll
    for (int i = 0; i < kSums; i++) out[part].v[i] *= factor;
#pragma unroll
  for (int half = kWaves / 2; half; half /= 2) {
    rp_sync();    // everyone has read what lay there
    if (wave >= half && wave < 2 * half) exchange(block.out[wave - half], out, lane, false);
    rp_sync();
    if (wave < half) exchange(block.out[wave], out, lane, true);
  }
  if (wave || mine >= rows) return;

  if (splits > 1 && lane < kSide) *(Softmax *)(stats + (row * splits + split) * 2) = all;
  const float inverse = splits == 1 ? normalise(all.top, all.sum, sinks ? sinks + head % heads_kv * (rows / queries) + mine / queries : nullptr) : 1;
#pragma unroll
  for (int part = 0; part < kParts; part++)
#pragma unroll
    for (int i = 0; i < kSums; i += 4) {
      const int column = part * kSide + sum_row(lane, i);
      const Sum *x = out[part].v + i;
      if (splits == 1) *(Two *)(o + (row * RP_D + column) * 2) = Two{{pack_as<kHalfQ>(x[0] * inverse, x[1] * inverse), pack_as<kHalfQ>(x[2] * inverse, x[3] * inverse)}};
      else *(Four *)(partial + (row * splits + split) * RP_D + column) = Four{{x[0], x[1], x[2], x[3]}};
    }
}
