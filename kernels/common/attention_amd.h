// What the attention kernels for AMD's matrix units do alike: scores transposed, so that a lane has one row of the softmax; P as an operand
// from the registers it was computed in; V transposed on its way into LDS. To be included after amd.h.
#pragma once

namespace rp_matrix {

struct alignas(16) Four { Sum v[4]; };
struct alignas(8) Two { rp_u32 v[2]; };

// Where the keys of a KV head of a sequence are, as rows of K or of V. Without a table all lie in page 0. Keys beyond the last repeat it:
// what they give is masked. A page has 16 keys at least.
struct Rows { const int *table; int shift, mask, heads, head, last; };
RP_DEVICE Rows rows_of(const int *table, int shift, int keys, int heads, int head, int last) {
  if (!table) return {table, 0, -1, 0, 0, last};
  return {table + (rp_u64)(head / heads) * (((keys - 1) >> shift) + 1), shift, (1 << shift) - 1, heads, head % heads, last};
}
// The pages of a tile of KEYS keys, alike for all lanes.
template <int KEYS> struct Pages { int at[KEYS / 16]; };
template <int KEYS> RP_DEVICE Pages<KEYS> pages_of(const Rows &r, int first) {
  Pages<KEYS> pages = {};
  if (r.table && first <= r.last)
#pragma unroll
    for (int i = 0; i < KEYS / 16; i++) pages.at[i] = r.table[(first + 16 * i < r.last ? first + 16 * i : r.last) >> r.shift];
  return pages;
}
// The row of a key of the tile from `first` on.
template <int KEYS> RP_DEVICE rp_u32 row_of(const Rows &r, const Pages<KEYS> &pages, int first, int key) {
  key = key < r.last ? key : r.last;
  int page = pages.at[0];
#pragma unroll
  for (int i = 1; i < KEYS / 16; i++) {
    const int other = pages.at[i];    // in any case: what is chosen among, and not where, or the compiler puts them in memory
    page = key - first >= 16 * i ? other : page;
  }
  return ((rp_u32)(page * r.heads + r.head) << r.shift) + (rp_u32)(key & r.mask);
}

RP_DEVICE void put(Fragment &f, int i, const rp_u4 &u) {
#pragma unroll
  for (int w = 0; w < 4; w++) f.word[4 * i + w] = u.v[w];
}
// A lane's part of a row in memory.
RP_DEVICE Fragment fragment(const rp_u8 *row, int step, int lane) {
  Fragment f;
#pragma unroll
  for (int i = 0; i < kUnits; i++) put(f, i, rp_load16<RP_CACHED>(row + (step * kUnits * kGroups + unit_of(lane, i)) * 16));
  return f;
}
// Of a row in LDS, whose units lie at place(row, unit).
template <class Place> RP_DEVICE Fragment fragment(const rp_u8 *tile, int row, int step, int lane, Place place) {
  Fragment f;
#pragma unroll
  for (int i = 0; i < kUnits; i++) put(f, i, *(const rp_u4 *)(tile + place(row, step * kUnits * kGroups + unit_of(lane, i))));
  return f;
}

// Of eight columns of four keys column x: eight bytes of a row of Vᵀ.
RP_DEVICE Two column_of(const rp_u4 *keys, int x) {
  Two two;
#pragma unroll
  for (int pair = 0; pair < 2; pair++) {
    rp_u32 low = keys[2 * pair].v[x / 2] >> x % 2 * 16 & 0xffffu, high = keys[2 * pair + 1].v[x / 2] >> x % 2 * 16;
    two.v[pair] = low | high << 16;
  }
  return two;
}

#if RP_FP8
// Of sixteen columns of four keys column x: four bytes of a row of Vᵀ.
RP_DEVICE rp_u32 bytes_of(const rp_u4 *keys, int x) {
  const int w = x / 4, at = x % 4;
  const rp_u32 low = rp_permute(keys[0].v[w], keys[1].v[w], at | (4 + at) << 8), high = rp_permute(keys[2].v[w], keys[3].v[w], at | (4 + at) << 8);
  return rp_permute(low, high, 0x05040100);
}
#endif

// The softmax of a lane's row as far as it has come: its maximum, and the sum over this lane's keys alone.
struct Softmax { float top, sum; };
RP_DEVICE float rp_infinity() { return rp_float(0x7f800000u); }

// Takes in a tile of scores: the output so far is brought to the scale of the new maximum, which is returned in log2 units.
template <int TILES, int PARTS> RP_DEVICE float advance(Softmax &s, const Sums (&score)[TILES], Sums (&out)[PARTS], float to_log2) {
  float highest = s.top;
#pragma unroll
  for (int t = 0; t < TILES; t++)
#pragma unroll
    for (int i = 0; i < kSums; i++) highest = __builtin_fmaxf(highest, score[t].v[i]);
  highest = __builtin_fmaxf(highest, rp_shuffle_xor(highest, kSide));
  const float base = highest == -rp_infinity() ? 0.0f : highest * to_log2;    // nothing seen yet: −∞ − −∞ would be no number
  const float shrink = rp_exp2(rp_fma(s.top, to_log2, -base));
  s.top = highest;
  s.sum *= shrink;
#pragma unroll
  for (int part = 0; part < PARTS; part++)
#pragma unroll
    for (int i = 0; i < kSums; i++) out[part].v[i] *= shrink;
  return base;
}

// A step of P from its scores, as an operand; the sum takes it in.
template <int TILES> RP_DEVICE Fragment weights(Softmax &s, const Sums (&score)[TILES], int step, float to_log2, float base) {
  Fragment p;
#pragma unroll
  for (int w = 0; w < 4 * kUnits; w++) {
    const int at = step * 8 * kUnits + 2 * w;
    const float low = rp_exp2(rp_fma(score[at / kSums].v[at % kSums], to_log2, -base));
    const float high = rp_exp2(rp_fma(score[at / kSums].v[at % kSums + 1], to_log2, -base));
    s.sum += low + high;
    p.word[w] = pack(low, high);
  }
  return p;
}
#if RP_FP8
// The same in FP8, which has numbers so much larger than one, and wants them: what is 2^(kRaised + 6) times smaller than the largest is still
// a normal number. A lane's four runs of a tile are one unit of K: keys 8·run + 4·group on.
constexpr int kRaised = RP_IS == 6 ? 7 : 8;    // of at most 240, and 448
template <int TILES> RP_DEVICE Fragment weights8(Softmax &s, const Sums (&score)[TILES], int step, float to_log2, float base) {
  Fragment p;
#pragma unroll
  for (int w = 0; w < 4 * kUnits; w++) {
    const int at = step * 16 * kUnits + 4 * w;
    float x[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      x[i] = rp_exp2(rp_fma(score[at / kSums].v[at % kSums + i], to_log2, kRaised - base));
      s.sum += x[i];
    }
    p.word[w] = pack_fp8(x[0], x[1], x[2], x[3]);
  }
  return p;
}
#endif

// What a finished row is multiplied by, where `sink` is one more logit (null: none): what stands before the split of a sum in two can
// overflow. `top` in log2 units.
RP_DEVICE float normalise(float top, float sum, const float *sink) {
  float factor = 1;
  if (sink) {
    const float one = *sink * 1.4426950408889634f, both = __builtin_fmaxf(top, one);
    factor = rp_exp2(top - both);
    sum = sum * factor + rp_exp2(one - both);
  }
  return sum > 0 ? factor / sum : 0;
}

}  // namespace rp_matrix
