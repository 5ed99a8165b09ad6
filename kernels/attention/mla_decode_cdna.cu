// Absorbed MLA decode on CDNA's matrix units: every query head attends over one latent cache whose 576 columns are the key and whose
// first 512 are the value. bf16 or f16, f32 inside. Not yet run on hardware.
//
// Shape of the work
//   A block of four waves takes 32 rows (head, query) of a sequence and one split of its keys, 32 keys at a time. Each wave has a quarter
//   of everything: of the 576 columns that a score sums over, and of the 512 columns of the output. Scores are computed transposed,
//   Sᵀ = K·Qᵀ, each wave's share of the sum goes through LDS to all, and then every wave holds all scores: a lane has one row, its
//   maximum and sum are of its own registers and one other lane's, and P goes on to Oᵀ = Vᵀ·Pᵀ from the registers it was computed in
//   (as in flash_amd.cu).
//   K as an operand comes from memory straight into registers: a wave wants each of its bytes once. V wants four keys of a column side by
//   side, so the same rows come a second time, from the cache, and are transposed on their way into LDS. The next tile's loads are in
//   flight under this one's softmax and products.
//
// Where the layouts come from
//   common/amd.h for fragments. Vᵀ lies as rows of 64 bytes, unit u of column c at u XOR c/2: neighbours in a column's row, and columns
//   two apart, meet different banks.
//
// What limits it
//   With few heads HBM, since a tile is 36 KB and costs 144 products of a wave; from some 64 heads on the matrix units and LDS.
//
// Host contract
//   rp_mla_decode_cdna(const rp_u8 *q, const rp_u8 *cache, rp_u8 *o, float *partial, float *stats, const int *lengths, const int *table,
//                      const float *sinks, int rows, int queries, int keys, int page, int splits, int causal, float scale)
//   q [B, rows, 576] with rows = heads · queries, row r of query r mod queries; o [B, rows, 512]; contiguous, aligned to 16 bytes; scale > 0.
//   cache    [B, keys, 576]; with `table`, i32 [B, ceil(keys / page)], [pool, page, 576] instead
//   lengths  B numbers of valid keys, at most `keys`, or null. With `causal` query i of a length L sees keys j ≤ i + L − queries.
//   sinks    a logit a head that joins the sum without a value, or null; here only where splits is 1
//   partial  [B·rows, splits, 512], stats pairs (maximum in log2 units, sum) [B·rows, splits]; unused if splits is 1. Join them with combine.cu.
//   A row that sees no key gives zeros. grid (B · splits, ceil(rows / 32)), block 256, no dynamic shared memory. The blocks of one split
//   are a multiple of B · splits apart: where that is a multiple of the dies, they share a die's cache.
//
// Macros: RP_DTYPE bf16 | f16.
#include "../common/rp.h"
#include "../common/amd.h"
#include "../common/attention_amd.h"

using namespace rp_matrix;

constexpr int kThreads = 256, kWaves = 4, kRows = 32, kKeys = 32, kLatent = 576, kValue = 512;
constexpr int kShare = kLatent / kWaves * 2;                                  // bytes of a row that a wave scores
constexpr int kSteps = kShare / kStepBytes, kKeySteps = kKeys * 2 / kStepBytes;
constexpr int kParts = kValue / kWaves / kSide;                               // of the output, of a wave
constexpr int kTasks = kKeys / 4 * (kValue / 8) / kThreads;                   // of four keys by eight of V's columns, of a thread
static_assert(RP_HALF && kSide == kRows && kSums == 16, "halves on CDNA");
static_assert(kSteps * kStepBytes == kShare && kParts * kSide * kWaves == kValue && kTasks == 2, "each wave's and thread's share");

struct Tiles {
  rp_u8 v[kValue * kKeys * 2];
  Four scores[kWaves][kSums / 4][RP_WARP];
};
struct Held { Fragment k[kSteps]; rp_u4 v[kTasks][4]; };

// The rows of a sequence's latents.
struct Cache {
  const rp_u8 *rows;
  const int *table;
  int page, last;
};
// Keys beyond the last repeat it: what they give is masked.
RP_DEVICE const rp_u8 *row_of(const Cache &cache, int key) {
  key = key < cache.last ? key : cache.last;
  rp_u64 at = cache.table ? (rp_u64)cache.table[key / cache.page] * cache.page + key % cache.page : (rp_u64)key;
  return cache.rows + at * (kLatent * 2);
}

RP_DEVICE int place_v(int column, int unit) { return column * kKeys * 2 + (unit ^ (column / 2 & 3)) * 16; }

// A thread's columns and keys of its `i`th task: eight threads side by side have 128 bytes of a row.
RP_DEVICE int task_unit(int i) { return ((int)rp_thread() / 64 + i * kWaves) * 8 + (int)rp_thread() % 8; }
RP_DEVICE int task_group() { return (int)rp_thread() / 8 % 8; }

RP_DEVICE void fetch(Held &held, const Cache &cache, int first, int wave, int lane) {
  const rp_u8 *mine = row_of(cache, first + lane % kSide) + wave * kShare;
#pragma unroll
  for (int step = 0; step < kSteps; step++) held.k[step] = fragment(mine, step, lane);
#pragma unroll
  for (int x = 0; x < 4; x++) {
    const rp_u8 *row = row_of(cache, first + task_group() * 4 + x);
#pragma unroll
    for (int i = 0; i < kTasks; i++) held.v[i][x] = rp_load16<RP_CACHED>(row + task_unit(i) * 16);
  }
}

RP_DEVICE void place(const Held &held, Tiles &tiles) {
  const int group = key_group(task_group());
#pragma unroll
  for (int i = 0; i < kTasks; i++)
#pragma unroll
    for (int x = 0; x < 8; x++)    // column x of eight
      *(Two *)(tiles.v + place_v(task_unit(i) * 8 + x, group / 2) + group % 2 * 8) = column_of(held.v[i], x);
}

RP_KERNEL_OF(kThreads) rp_mla_decode_cdna(const rp_u8 *q, const rp_u8 *cache, rp_u8 *o, float *partial, float *stats, const int *lengths, const int *table,
    const float *sinks, int rows, int queries, int keys, int page, int splits, int causal, float scale) {
  RP_SHARED Tiles tiles;
  const int lane = (int)rp_thread() % RP_WARP, wave = rp_wave_uniform((int)rp_thread() / RP_WARP);
  const int batch = (int)rp_block() / splits, split = (int)rp_block() % splits, mine = (int)rp_block_y() * kRows + lane % kSide;
  int length = lengths ? lengths[batch] : keys;
  length = length < keys ? length : keys;
  const int span = ((length + splits - 1) / splits + kKeys - 1) / kKeys * kKeys;
  const int begin = split * span < length ? split * span : length, end = begin + span < length ? begin + span : length;
  const int hidden = causal ? queries - 1 : 0;    // keys at the end that a sequence's first query does not see
  const int sees = causal ? length - queries + mine % queries + 1 : length, limit = sees < end ? sees : end;
  const Cache source = {table ? cache : cache + (rp_u64)batch * keys * (kLatent * 2), table ? table + (rp_u64)batch * ((keys + page - 1) / page) : table, page, end - 1};

  Fragment query[kSteps];
  const int asked = mine < rows ? mine : rows - 1;
#pragma unroll
  for (int step = 0; step < kSteps; step++)
    query[step] = fragment(q + ((rp_u64)batch * rows + asked) * (kLatent * 2) + wave * kShare, step, lane);

  const float to_log2 = scale * 1.4426950408889634f;
  Softmax state = {-rp_infinity(), 0};
  Sums out[kParts] = {};
  Held held;
  if (begin < end) fetch(held, source, begin, wave, lane);
  for (int key0 = begin; key0 < end; key0 += kKeys) {
    Sums share = {};
#pragma unroll
    for (int step = 0; step < kSteps; step++) multiply(share, held.k[step], query[step]);
    rp_sync();    // everyone has read the tile before
#pragma unroll
    for (int i = 0; i < kSums / 4; i++) tiles.scores[wave][i][lane] = Four{{share.v[4 * i], share.v[4 * i + 1], share.v[4 * i + 2], share.v[4 * i + 3]}};
    place(held, tiles);
    rp_sync();
    if (key0 + kKeys < end) fetch(held, source, key0 + kKeys, wave, lane);

    Sums score[1] = {};
#pragma unroll
    for (int w = 0; w < kWaves; w++)
#pragma unroll
      for (int i = 0; i < kSums / 4; i++) {
        Four part = tiles.scores[w][i][lane];
#pragma unroll
        for (int x = 0; x < 4; x++) score[0].v[4 * i + x] += part.v[x];
      }
    if (key0 + kKeys > length - hidden) {    // only the last split has an end that is no multiple of the tile
#pragma unroll
      for (int i = 0; i < kSums; i++)
        if (key0 + sum_row(lane, i) >= limit) score[0].v[i] = -rp_infinity();
    }
    const float base = advance(state, score, out, to_log2);
#pragma unroll
    for (int step = 0; step < kKeySteps; step++) {
      const Fragment p = weights(state, score, step, to_log2, base);
#pragma unroll
      for (int part = 0; part < kParts; part++) multiply(out[part], fragment(tiles.v, (wave * kParts + part) * kSide + lane % kSide, step, lane, place_v), p);
    }
  }

  state.sum += rp_shuffle_xor(state.sum, kSide);
  if (mine >= rows) return;
  const rp_u64 at = (rp_u64)batch * rows + mine;
  const float factor = splits == 1 ? normalise(state.top * to_log2, state.sum, sinks ? sinks + mine / queries : nullptr) : 1;
  if (splits > 1 && wave == 0 && lane < kSide) {
    stats[(at * splits + split) * 2] = state.top * to_log2;
    stats[(at * splits + split) * 2 + 1] = state.sum;
  }
#pragma unroll
  for (int part = 0; part < kParts; part++)
#pragma unroll
    for (int i = 0; i < kSums; i += kRun) {
      const int column = (wave * kParts + part) * kSide + sum_row(lane, i);
      const Sum *x = out[part].v + i;
      if (splits == 1) {
        *(Two *)(o + (at * kValue + column) * 2) = Two{{pack(x[0] * factor, x[1] * factor), pack(x[2] * factor, x[3] * factor)}};
      } else {
        *(Four *)(partial + (at * splits + split) * kValue + column) = Four{{x[0], x[1], x[2], x[3]}};
      }
    }
}
