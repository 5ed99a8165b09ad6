// The softmax of materialised attention: rows of scores, which a matrix library has written, become rows of the weights that it
// multiplies the values with. One source for CUDA and HIP. Not yet run on AMD hardware.
//
// Shape of the work: a block a row, 16 bytes of scores a thread and step where rows are that aligned. Two passes: the maximum
// and the sum together, then the weights; rows of up to some thousand keys come from a cache the second time.
// What limits it: memory bandwidth, the scores read and the weights written once.
//
// Host contract
//   rp_softmax_f32, _f16, _bf16(const float *scores, T *weights, rp_u64 rows, rp_u32 queries, rp_u32 keys, rp_u32 causal, float scale)
//   scores, weights  [rows, keys], aligned to 16 bytes; row r is query r mod queries of its head
//   causal           query i sees keys up to i + keys − queries; the others weigh 0, and all keys of a row that sees none
//   scale            what scores are multiplied by
//   grid any, block 256
#include "../common/rp.h"
#include "../common/elements.h"

constexpr rp_u32 kThreads = 256;
constexpr float kLowest = -3.402823466e38f;    // finite, so that it less itself is 0

template <int W, class T> struct alignas(W * sizeof(T)) Pack { T v[W]; };

// The largest of some scores, and the sum of exponentials of what each is below it.
struct Sums { float top, sum; };

RP_DEVICE float larger(float a, float b) { return a > b ? a : b; }

RP_DEVICE Sums joined(Sums a, Sums b) {
  const float top = larger(a.top, b.top);
  return {top, a.sum * rp_exp(a.top - top) + b.sum * rp_exp(b.top - top)};
}

// Those of the whole block, in every thread. Must not be called again before all threads have what it gave.
RP_DEVICE Sums of_block(Sums mine) {
  RP_SHARED Sums of_warp[kThreads / RP_WARP];
#pragma unroll
  for (int m = RP_WARP / 2; m; m /= 2) mine = joined(mine, {rp_shuffle_xor(mine.top, m), rp_shuffle_xor(mine.sum, m)});
  if (rp_thread() % RP_WARP == 0) of_warp[rp_thread() / RP_WARP] = mine;
  rp_sync();
  Sums all = of_warp[0];
#pragma unroll
  for (rp_u32 w = 1; w < kThreads / RP_WARP; w++) all = joined(all, of_warp[w]);
  return all;
}

// One row, of which the first `seen` keys count; W divides `keys`.
template <int W, class T> RP_DEVICE void row(const float *scores, T *weights, rp_u32 seen, rp_u32 keys, float scale) {
  Sums mine = {kLowest, 0};
  for (rp_u32 at = rp_thread() * W; at < seen; at += kThreads * W) {
    const Pack<W, float> x = *(const Pack<W, float> *)(scores + at);
    float top = mine.top;
#pragma unroll
    for (int j = 0; j < W; j++) top = at + j < seen ? larger(top, x.v[j] * scale) : top;
    mine.sum *= rp_exp(mine.top - top);
#pragma unroll
    for (int j = 0; j < W; j++) mine.sum += at + j < seen ? rp_exp(x.v[j] * scale - top) : 0;
    mine.top = top;
  }
  const Sums all = of_block(mine);
  const float inverse = 1 / all.sum;    // unused where none is seen
  for (rp_u32 at = rp_thread() * W; at < keys; at += kThreads * W) {
    Pack<W, float> x = {};
    if (at < seen) x = *(const Pack<W, float> *)(scores + at);
    Pack<W, T> y;
#pragma unroll
    for (int j = 0; j < W; j++) rp_narrow(at + j < seen ? rp_exp(x.v[j] * scale - all.top) * inverse : 0.0f, &y.v[j]);
    *(Pack<W, T> *)(weights + at) = y;
  }
}

template <class T>
RP_DEVICE void softmax(const float *scores, T *weights, rp_u64 rows, rp_u32 queries, rp_u32 keys, rp_u32 causal, float scale) {
  for (rp_u64 r = rp_block(); r < rows; r += rp_blocks()) {
    const rp_u32 end = (rp_u32)(r % queries) + 1 + keys;    // behind the last key that it sees, and `queries` further
    const rp_u32 seen = !causal ? keys : end > queries ? end - queries : 0;
    if (keys % 4 == 0) row<4>(scores + r * keys, weights + r * keys, seen, keys, scale);
    else row<1>(scores + r * keys, weights + r * keys, seen, keys, scale);
    rp_sync();
  }
}

#define RP_SOFTMAX(T)                                                                                                              \
  RP_KERNEL(kThreads) rp_softmax_##T(const float *scores, rp_##T *weights, rp_u64 rows, rp_u32 queries, rp_u32 keys, rp_u32 causal, \
                                     float scale) {                                                                                \
    softmax(scores, weights, rows, queries, keys, causal, scale);                                                                  \
  }
RP_SOFTMAX(f32)
RP_SOFTMAX(f16)
RP_SOFTMAX(bf16)
