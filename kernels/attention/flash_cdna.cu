// Flash attention forward on CDNA, eight waves in ping-pong: bf16, f16, or where the chip has it e4m3, f32 inside, MFMA. What it has no
// room for (heads over 128 columns) flash_amd.cu does. Not yet run on hardware.
//
// Shape of the work
//   A block of 512 threads owns 256 queries of a head, a wave 32 of them, and walks the keys 64 at a time. As in flash_amd.cu scores are
//   transposed, Sᵀ = K·Qᵀ, so that a lane has one query, and P goes on to Oᵀ = Vᵀ·Pᵀ from its registers.
//   Two groups of four waves, one wave of each on every SIMD, take turns: in a slot one group multiplies (the tile before by V, this tile
//   by K) at a raised priority while the other takes its softmax, stores and loads; a barrier ends the slot, and they change places.
//   The second group starts a slot late, which is all that keeps them apart. The first group brings K, the second V, from memory to
//   registers in one turn and on into LDS in the next.
//
// Why two buffers do
//   Tile j's turn is slots 2j and 2j + 1 of the first group, a slot later of the second. K of tile j is read in slots 2j and 2j + 1, and
//   written in slot 2j − 1, when that of j − 2 has long been read; V of tile j is read in slots 2j + 2 and 2j + 3 and written in slot 2j.
//
// Pages
//   Their numbers come a tile before they are wanted, four to a tile, in scalar registers.
//
// FP8
//   P is at most 2^kRaised. A lane's sixteen scores of 32 keys, in bytes, are one unit of its operand; V's bytes are placed to match.
//
// Where the layouts come from
//   common/amd.h for fragments; K and V lie in LDS as in flash_amd.cu.
//
// What limits it
//   The matrix units, as long as a softmax is no longer than the two products of a tile. LDS: 512 · D bytes, 64 KB at D = 128: one block a
//   compute unit.
//
// Host contract
//   rp_flash_cdna, with the arguments of rp_flash_amd (flash_amd.cu); grid (heads, ceil(queries / 256)), block 512, no dynamic shared memory.
//
// Macros: RP_DTYPE bf16 | f16 | e4m3 | e4m3fnuz (RP_D 64, 128; O in bf16); RP_D 64, 96, 128; RP_CAUSAL 0 | 1; RP_GENERAL 0 | 1.
#include "../common/rp.h"
#include "../common/amd.h"
#include "../common/attention_amd.h"

#ifndef RP_D
#define RP_D 128
#endif
#ifndef RP_GENERAL
#define RP_GENERAL 0
#endif
#ifndef RP_CAUSAL
#define RP_CAUSAL 0
#endif

using namespace rp_matrix;

constexpr int kThreads = 512, kGroup = 256, kWaves = kThreads / RP_WARP, kQueries = kWaves * kSide, kKeys = 64, kRowBytes = RP_D * kElementBytes;
constexpr int kColumnBytes = kKeys * kElementBytes, kUnitColumns = 16 / kElementBytes;    // of a row of Vᵀ; columns of a unit
constexpr int kRowUnits = kRowBytes / 16, kKeyUnits = kColumnBytes / 16;    // 16-byte units of a row of K or V, of Vᵀ
constexpr int kMixed = kRowUnits & -kRowUnits;                      // units that change places among themselves
constexpr int kSteps = kRowBytes / kStepBytes, kKeySteps = kColumnBytes / kStepBytes;
constexpr int kTiles = kKeys / kSide, kParts = RP_D / kSide;        // of scores, of the output
constexpr int kHeld = kKeys * kRowUnits / kGroup;                   // units of K of a thread of the first group
constexpr int kColumns = kKeys / 4 * kRowUnits;                     // threads of the second group that have four keys by a unit's columns of V
static_assert(RP_MFMA && (RP_HALF || RP_FP8) && kSteps * kStepBytes == kRowBytes && kHeld * kGroup == kKeys * kRowUnits && kHeld <= 4 && kColumns <= kGroup, "each thread's share");

struct Tiles {
  rp_u8 k[2][kKeys * kRowBytes];
  rp_u8 v[2][RP_D * kColumnBytes];
};
struct Held { rp_u4 u[4]; };

RP_DEVICE int place_k(int key, int unit) { return key * kRowBytes + (unit ^ key % kMixed) * 16; }
RP_DEVICE int place_v(int column, int unit) { return column * kColumnBytes + (unit ^ (column ^ column / 8) % kKeyUnits) * 16; }

// A thread's part of 64 keys from `first` on. Rows beyond the last repeat it: what they give is masked.
RP_DEVICE void fetch(Held &held, int group, const rp_u8 *k, const rp_u8 *v, int first, const Rows &rows, const Pages<kKeys> &pages) {
  auto row = [&](int key) { return (rp_u64)(RP_GENERAL ? row_of(rows, pages, first, key) : (rp_u32)(key < rows.last ? key : rows.last)) * kRowBytes; };
  const int thread = rp_anew((int)rp_thread()) % kGroup;
  if (group == 0) {
#pragma unroll
    for (int i = 0; i < kHeld; i++) {
      const int at = i * kGroup + thread, key = first + at / kRowUnits;
      held.u[i] = rp_load16<RP_CACHED>(k + row(key) + at % kRowUnits * 16);
    }
  } else if (kColumns == kGroup || thread < kColumns) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int key = first + thread / kRowUnits * 4 + i;
      held.u[i] = rp_load16<RP_CACHED>(v + row(key) + thread % kRowUnits * 16);
    }
  }
}

RP_DEVICE void place(const Held &held, int group, Tiles &tiles, int buffer) {
  const int thread = rp_anew((int)rp_thread()) % kGroup;
  if (group == 0) {
#pragma unroll
    for (int i = 0; i < kHeld; i++) {
      const int at = i * kGroup + thread;
      *(rp_u4 *)(tiles.k[buffer] + place_k(at / kRowUnits, at % kRowUnits)) = held.u[i];
    }
  } else if (kColumns == kGroup || thread < kColumns) {
    const int four = thread / kRowUnits;
#pragma unroll
    for (int x = 0; x < kUnitColumns; x++) {    // column x of this thread's
      const int column = thread % kRowUnits * kUnitColumns + x;
#if RP_FP8
      *(rp_u32 *)(tiles.v[buffer] + place_v(column, four / 8 * 2 + four % 2) + four % 8 / 2 * 4) = bytes_of(held.u, x);
#else
      *(Two *)(tiles.v[buffer] + place_v(column, key_group(four) / 2) + key_group(four) % 2 * 8) = column_of(held.u, x);
#endif
    }
  }
}

RP_DEVICE void multiply_values(Sums (&out)[kParts], const Fragment (&p)[kKeySteps], const rp_u8 *v, int lane) {
#pragma unroll
  for (int step = 0; step < kKeySteps; step++)
#pragma unroll
    for (int part = 0; part < kParts; part++) multiply(out[part], fragment(v, part * kSide + lane % kSide, step, lane, place_v), p[step]);
}

RP_KERNEL_OF(kThreads) rp_flash_cdna(const rp_u8 *q, const rp_u8 *k, const rp_u8 *v, rp_u8 *o, const int *lengths, const int *table, const float *sinks,
    const float *scales, int group, int queries, int keys, int heads_q, int page_shift, int window, float scale) {
  RP_SHARED RP_ALIGN(1024) Tiles tiles;
  const int lane = (int)rp_thread() % RP_WARP, wave = rp_wave_uniform((int)rp_thread() / RP_WARP), side = wave / (kWaves / 2);
  const int head = (int)rp_block(), block = (int)rp_blocks_y() - 1 - (int)rp_block_y();    // of a causal square, the longest first
  const int first = block * kQueries, mine = first + wave * kSide + lane % kSide;
  const int most = keys;
  if (!RP_GENERAL || !table) {
    k += (rp_u64)(head / group) * keys * kRowBytes;
    v += (rp_u64)(head / group) * keys * kRowBytes;
  }
  if (RP_GENERAL && lengths) keys = lengths[head / heads_q] < keys ? lengths[head / heads_q] : keys;
  const Rows rows = RP_GENERAL ? rows_of(table, page_shift, most, heads_q / group, head / group, keys - 1) : Rows{nullptr, 0, -1, 0, 0, keys - 1};
  const int offset = keys - queries;

  Fragment query[kSteps];
  q += ((rp_u64)head * queries + (mine < queries ? mine : queries - 1)) * kRowBytes;
#pragma unroll
  for (int step = 0; step < kSteps; step++) query[step] = fragment(q, step, lane);

  int end = keys;
  if (RP_CAUSAL && first + kQueries + offset < end) end = first + kQueries + offset;
  int begin = 0, hidden = 0;    // the wave's last query does not see the first `hidden` keys
  if (RP_GENERAL && RP_CAUSAL && window) {
    if (first + offset + 1 > window) begin = (first + offset + 1 - window) / kKeys * kKeys;
    hidden = first + wave * kSide + kSide + offset - window;
  }

  const float to_log2 = scale * (RP_FP8 ? scales[0] * scales[1] : 1) * 1.4426950408889634f;
  Softmax state = {-rp_infinity(), 0};    // of this lane's query
  Sums out[kParts] = {};
  Fragment p[kKeySteps] = {};
  Held held;
  Pages<kKeys> pages = {};    // of the tile that is fetched next
  if (begin < end) {
    pages = pages_of<kKeys>(rows, begin);
    fetch(held, side, k, v, begin, rows, pages);
    pages = pages_of<kKeys>(rows, begin + kKeys);
    place(held, side, tiles, 0);
    if (begin + kKeys < end) fetch(held, side, k, v, begin + kKeys, rows, pages);
    pages = pages_of<kKeys>(rows, begin + 2 * kKeys);
  }
  rp_sync();
  if (side) rp_slot();    // a slot late
  int buffer = 0;
  for (int key0 = begin; key0 < end; key0 += kKeys, buffer ^= 1) {
    const int here = rp_anew(lane);
    rp_priority<1>();
    if (key0 > begin) multiply_values(out, p, tiles.v[buffer ^ 1], here);
    Sums score[kTiles] = {};
#pragma unroll
    for (int step = 0; step < kSteps; step++)
#pragma unroll
      for (int t = 0; t < kTiles; t++)
        multiply(score[t], fragment(tiles.k[buffer], t * kSide + here % kSide, step, here, place_k), query[step]);
    rp_priority<0>();
    rp_slot();

    if (key0 + kKeys < end) place(held, side, tiles, buffer ^ 1);
    if (key0 + 2 * kKeys < end) fetch(held, side, k, v, key0 + 2 * kKeys, rows, pages);
    if (RP_GENERAL) pages = pages_of<kKeys>(rows, key0 + 3 * kKeys);
    // Only the last keys, and those about the diagonal, are not all seen.
    int seen = keys - key0;
    if (RP_CAUSAL && mine + offset + 1 - key0 < seen) seen = mine + offset + 1 - key0;
    if (key0 + kKeys > keys || (RP_CAUSAL && key0 + kKeys > first + wave * kSide + offset + 1)) {
#pragma unroll
      for (int t = 0; t < kTiles; t++)
#pragma unroll
        for (int i = 0; i < kSums; i++)
          if (t * kSide + sum_row(lane, i) >= seen) score[t].v[i] = -rp_infinity();
    }
    if (RP_GENERAL && RP_CAUSAL && key0 < hidden) {
#pragma unroll
      for (int t = 0; t < kTiles; t++)
#pragma unroll
        for (int i = 0; i < kSums; i++)
          if (key0 + t * kSide + sum_row(lane, i) < mine + offset + 1 - window) score[t].v[i] = -rp_infinity();
    }
    const float base = advance(state, score, out, to_log2);
#pragma unroll
    for (int step = 0; step < kKeySteps; step++)
#if RP_FP8
      p[step] = weights8(state, score, step, to_log2, base);
#else
      p[step] = weights(state, score, step, to_log2, base);
#endif
    rp_slot();
  }
  if (begin < end) multiply_values(out, p, tiles.v[buffer ^ 1], lane);
  if (!side) rp_slot();

  state.sum += rp_shuffle_xor(state.sum, kSide);
  const int here = rp_anew(lane), asked = first + wave * kSide + here % kSide;
  if (asked >= queries) return;
  o += ((rp_u64)head * queries + asked) * (RP_D * 2);
#if RP_FP8
  constexpr int raised = kRaised;
#else
  constexpr int raised = 0;
#endif
  const float inverse = normalise(state.top * to_log2 - raised, state.sum, RP_GENERAL && sinks ? sinks + head % heads_q : nullptr) * (RP_FP8 ? scales[2] : 1);
#pragma unroll
  for (int part = 0; part < kParts; part++)
#pragma unroll
    for (int i = 0; i < kSums; i += kRun) {
      const Sum *x = out[part].v + i;
      *(Two *)(o + (part * kSide + sum_row(here, i)) * 2) = Two{{pack_as<RP_IS == 2>(x[0] * inverse, x[1] * inverse), pack_as<RP_IS == 2>(x[2] * inverse, x[3] * inverse)}};
    }
}
