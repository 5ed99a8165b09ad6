// Flash attention forward on AMD's matrix units: MFMA on CDNA, WMMA on gfx12 and gfx1250. bf16 or f16, f32 inside. Not yet run on
// hardware.
//
// Shape of the work
//   A block of 256 threads owns 128 queries of a head, a wave kSide of them, and walks the keys 64 at a time. Scores are computed
//   transposed, Sᵀ = K·Qᵀ, so that a lane has one query: its maximum and its sum are of its own registers and one other lane's, and
//   what rescales its output is its own number. P goes on to Oᵀ = Vᵀ·Pᵀ from the very registers it was computed in: a lane's sums lie
//   in the order of an operand's bytes, once V's keys are numbered to match (key_group).
//   K and V wait in registers while the keys before them are worked on, and pass to the units through one buffer of LDS.
//
// Where the layouts come from
//   common/amd.h for fragments. K lies as rows of its 16-byte units, unit u of row r at u XOR r; V transposed, four keys of a column
//   by one thread, unit u of row d at u XOR d XOR d/8, for the sake of who writes as of who reads.
//
// What limits it
//   The exponentials and the packing of P, which the matrix units do not wait for but a wave does; two blocks a compute unit overlap.
//
// Host contract
//   rp_flash_amd(const u16* q, const u16* k, const u16* v, u16* o, const int* lengths, const int* table, const float* sinks,
//                const float* scales, int group, int queries, int keys, int heads_q, int page_shift, int window, float scale)
//   Q [heads, queries, D], K [heads / group, keys, D], V [heads / group, keys, DV], O [heads, queries, DV], contiguous, aligned to 16 bytes. With
//   RP_CAUSAL query i sees keys j ≤ i + keys − queries; a row that sees nothing gives zeros. scale > 0. grid (heads, ceil(queries / 128)), block 256,
//   no dynamic shared memory. Heads come first so that the dies, to which blocks are dealt in turn, keep a head's keys in their caches.
//   Only with RP_GENERAL, of heads = B · heads_q:
//   lengths  B numbers of valid keys, at most `keys`, or null
//   table    i32 [B, ⌈keys / page⌉] of pages, K and V then [pool, heads_q / group, page, D or DV]; or null. page = 2^page_shift ≥ 16,
//            pool · heads_q / group · page < 2³²; null at D = 256 on gfx1250
//   sinks    heads_q logits that join a row's sum without a value, or null
//   scales   f32 [3], what stored Q, K and V are multiplied by; of FP8 alone, general or not
//   window   with RP_CAUSAL: the last so many keys that a query sees, or 0 for all; tiles that no query of a block sees are skipped
//
// Macros: RP_DTYPE bf16 | f16; RP_D, RP_DV 64, 96, 128, 192/128, on CDNA 256; RP_CAUSAL 0 | 1; RP_GENERAL 0 | 1.
#include "../common/rp.h"
#include "../common/amd.h"
#include "../common/attention_amd.h"

#ifndef RP_D
#define RP_D 128
#endif
#ifndef RP_DV
#define RP_DV RP_D
#endif
#ifndef RP_GENERAL
#define RP_GENERAL 0
#endif
#ifndef RP_CAUSAL
#define RP_CAUSAL 0
#endif

using namespace rp_matrix;

#if defined(__gfx1250__) && RP_D > 192
constexpr bool kPaged = false;    // its registers are all taken
#else
constexpr bool kPaged = RP_GENERAL;
#endif
constexpr int kThreads = 256, kQueries = 128, kKeys = 64, kRowBytes = RP_D * 2, kValueBytes = RP_DV * 2;
constexpr int kRowUnits = RP_D / 8, kValueUnits = RP_DV / 8, kKeyUnits = kKeys / 8;    // 16-byte units of a row of K, of V, of Vᵀ
constexpr int kMixed = kRowUnits & -kRowUnits;                      // units that change places among themselves
constexpr int kSteps = kRowBytes / kStepBytes, kKeySteps = kKeys * 2 / kStepBytes;
constexpr int kTiles = kKeys / kSide, kParts = RP_DV / kSide;       // of scores, of the output
constexpr int kHeldK = kKeys * kRowUnits / kThreads;                // units a thread fetches of K
constexpr int kColumns = kKeys / 4 * kValueUnits, kTasks = (kColumns + kThreads - 1) / kThreads;    // of four keys by eight of V's columns
static_assert(RP_HALF, "bf16 or f16");
static_assert(kSide * (kThreads / RP_WARP) == kQueries, "a wave has a side of queries");
static_assert(kHeldK * kThreads == kKeys * kRowUnits && (kColumns <= kThreads || kTasks * kThreads == kColumns), "each thread's share");

struct Tiles {
  rp_u8 k[kKeys * kRowBytes];
  rp_u8 v[RP_DV * kKeys * 2];
};
struct Held { rp_u4 k[kHeldK], v[kTasks][4]; };

RP_DEVICE int place_k(int key, int unit) { return key * kRowBytes + (unit ^ key % kMixed) * 16; }
RP_DEVICE int place_v(int column, int unit) { return column * kKeys * 2 + (unit ^ (column ^ column / 8) % kKeyUnits) * 16; }

// 64 keys from `first` on. Rows beyond the last repeat it: what they give is masked.
RP_DEVICE void fetch(Held &held, const rp_u8 *k, const rp_u8 *v, int first, const Rows &rows, const Pages<kKeys> &pages) {
  int thread = (int)rp_thread();
  auto row = [&](int key) { return (rp_u64)(kPaged ? row_of(rows, pages, first, key) : (rp_u32)(key < rows.last ? key : rows.last)); };
#pragma unroll
  for (int i = 0; i < kHeldK; i++) {
    int at = i * kThreads + thread, key = first + at / kRowUnits;
    held.k[i] = rp_load16<RP_CACHED>(k + row(key) * kRowBytes + at % kRowUnits * 16);
  }
  if (kColumns < kThreads && thread >= kColumns) return;
#pragma unroll
  for (int task = 0; task < kTasks; task++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      int at = task * kThreads + thread, key = first + at / kValueUnits * 4 + i;
      held.v[task][i] = rp_load16<RP_CACHED>(v + row(key) * kValueBytes + at % kValueUnits * 16);
    }
}

RP_DEVICE void place(const Held &held, Tiles &tiles) {
  int thread = (int)rp_thread();
#pragma unroll
  for (int i = 0; i < kHeldK; i++) {
    int at = i * kThreads + thread;
    *(rp_u4 *)(tiles.k + place_k(at / kRowUnits, at % kRowUnits)) = held.k[i];
  }
  if (kColumns < kThreads && thread >= kColumns) return;
#pragma unroll
  for (int task = 0; task < kTasks; task++) {
    int at = task * kThreads + thread, group = key_group(at / kValueUnits);
#pragma unroll
    for (int x = 0; x < 8; x++)    // column x of this thread's eight
      *(Two *)(tiles.v + place_v(at % kValueUnits * 8 + x, group / 2) + group % 2 * 8) = column_of(held.v[task], x);
  }
}

RP_KERNEL_OF(kThreads) rp_flash_amd(const rp_u8 *q, const rp_u8 *k, const rp_u8 *v, rp_u8 *o, const int *lengths, const int *table, const float *sinks,
    const float *scales, int group, int queries, int keys, int heads_q, int page_shift, int window, float scale) {
  RP_SHARED RP_ALIGN(1024) Tiles tiles;
  int lane = (int)rp_thread() % RP_WARP, wave = rp_wave_uniform((int)rp_thread() / RP_WARP);
  int head = (int)rp_block(), block = (int)rp_blocks_y() - 1 - (int)rp_block_y();    // of a causal square, the longest first
  int first = block * kQueries, mine = first + wave * kSide + lane % kSide;
  const int most = keys;
  if (!kPaged || !table) {
    k += (rp_u64)(head / group) * keys * kRowBytes;
    v += (rp_u64)(head / group) * keys * kValueBytes;
  }
  if (RP_GENERAL && lengths) keys = lengths[head / heads_q] < keys ? lengths[head / heads_q] : keys;
  const Rows rows = kPaged ? rows_of(table, page_shift, most, heads_q / group, head / group, keys - 1) : Rows{nullptr, 0, -1, 0, 0, keys - 1};
  int offset = keys - queries;
  rp_u64 row = ((rp_u64)head * queries + (mine < queries ? mine : queries - 1)) * kRowBytes;

  Fragment query[kSteps];
#pragma unroll
  for (int step = 0; step < kSteps; step++) query[step] = fragment(q + row, step, lane);

  const float infinity = rp_infinity(), to_log2 = scale * 1.4426950408889634f;
  Softmax state = {-infinity, 0};    // of this lane's query
  Sums out[kParts] = {};
  int end = keys;
  if (RP_CAUSAL && first + kQueries + offset < end) end = first + kQueries + offset;

  int begin = 0, hidden = 0;    // the wave's last query does not see the first `hidden` keys
  if (RP_GENERAL && RP_CAUSAL && window) {
    if (first + offset + 1 > window) begin = (first + offset + 1 - window) / kKeys * kKeys;
    hidden = first + wave * kSide + kSide + offset - window;
  }

  Held held;
  Pages<kKeys> pages = {};    // of the tile that is fetched next: their numbers come a tile before
  if (begin < end) {
    pages = pages_of<kKeys>(rows, begin);
    fetch(held, k, v, begin, rows, pages);
    pages = pages_of<kKeys>(rows, begin + kKeys);
  }
  for (int key0 = begin; key0 < end; key0 += kKeys) {
    rp_sync();    // everyone has read the keys before
    place(held, tiles);
    rp_sync();
    if (key0 + kKeys < end) fetch(held, k, v, key0 + kKeys, rows, pages);
    if (kPaged) pages = pages_of<kKeys>(rows, key0 + 2 * kKeys);

    Sums score[kTiles] = {};
#pragma unroll
    for (int step = 0; step < kSteps; step++)
#pragma unroll
      for (int t = 0; t < kTiles; t++)
        multiply(score[t], fragment(tiles.k, t * kSide + lane % kSide, step, lane, place_k), query[step]);

    // Only the last keys, and those about the diagonal, are not all seen.
    int seen = keys - key0;
    if (RP_CAUSAL && mine + offset + 1 - key0 < seen) seen = mine + offset + 1 - key0;
    if (key0 + kKeys > keys || (RP_CAUSAL && key0 + kKeys > first + wave * kSide + offset + 1)) {
#pragma unroll
      for (int t = 0; t < kTiles; t++)
#pragma unroll
        for (int i = 0; i < kSums; i++)
          if (t * kSide + sum_row(lane, i) >= seen) score[t].v[i] = -infinity;
    }
    if (RP_GENERAL && RP_CAUSAL && key0 < hidden) {
#pragma unroll
      for (int t = 0; t < kTiles; t++)
#pragma unroll
        for (int i = 0; i < kSums; i++)
          if (key0 + t * kSide + sum_row(lane, i) < mine + offset + 1 - window) score[t].v[i] = -infinity;
    }
    const float base = advance(state, score, out, to_log2);
#pragma unroll
    for (int step = 0; step < kKeySteps; step++) {
      const Fragment p = weights(state, score, step, to_log2, base);
#pragma unroll
      for (int part = 0; part < kParts; part++)
        multiply(out[part], fragment(tiles.v, part * kSide + lane % kSide, step, lane, place_v), p);
    }
  }

  state.sum += rp_shuffle_xor(state.sum, kSide);
  if (mine >= queries) return;
  const float inverse = normalise(state.top * to_log2, state.sum, RP_GENERAL && sinks ? sinks + head % heads_q : nullptr);
  if (RP_D != RP_DV) row = ((rp_u64)head * queries + mine) * kValueBytes;
#pragma unroll
  for (int part = 0; part < kParts; part++)
#pragma unroll
    for (int i = 0; i < kSums; i += kRun) {
      struct alignas(2 * kRun) Run { rp_u32 v[kRun / 2]; } run;
#pragma unroll
      for (int x = 0; x < kRun; x += 2) run.v[x / 2] = pack(out[part].v[i + x] * inverse, out[part].v[i + x + 1] * inverse);
      *(Run *)(o + row + (part * kSide + sum_row(lane, i)) * 2) = run;
    }
}
