// Checks on the device: every element, against the generator, without bringing arrays to the host.
//
// Inputs are element i = rp_normal(seed, i), so that what a kernel should have left can be computed anew for any element.
// Limit: the 64-bit integer multiplies of the hash. All: block 256, any grid, grid-stride unless said otherwise.
//
// rp_poison(u32* z, u64 words, u32 pattern): fills; 0x7fffbad1 is a NaN that no kernel computes.
// rp_count_words(const u32* z, u64 words, u32 pattern, u64* out): words equal to the pattern: poison left over.
// rp_check_stream(const float* z, u64 n, u32 op, f32 s, u64 seed_x, u64 seed_y, u64* out): elements whose bits are not those of
//   op 0 s, 1 x, 2 s·x, 3 x + y, 4 fma(s, y, x).
// rp_check_rows(const u32* z, const u32* table, u64 rows, u32 row_words, u64 seed, u64* out): words of row r that are not those of
//   row table[r] of the generator's array.
//     out of all three: out[0] += how many, out[1] = min(out[1], the first's index); the host sets {0, 2^64 − 1} before.
// rp_sum_reference(f64* out, u64 n, u64 seed_x, u64 seed_y, u32 dot): out[block] = partial sum in f64 of x, or of x·y.
// rp_bits_reference(u32* out, u64 count, u64 stride, u64 seed): out[block] = sum modulo 2^32 of the bits of elements
//   (block·count + j)·stride, j < count.
#include "../common/rp.h"

RP_DEVICE rp_u64 rp_first() { return (rp_u64)rp_block() * 256 + rp_thread(); }
RP_DEVICE rp_u64 rp_step() { return (rp_u64)rp_blocks() * 256; }

RP_KERNEL(256) rp_poison(rp_u32 *z, rp_u64 words, rp_u32 pattern) {
  for (rp_u64 i = rp_first(); i < words; i += rp_step()) z[i] = pattern;
}

RP_DEVICE void rp_report(rp_u64 count, rp_u64 first, rp_u64 *out) {
  if (count == 0) return;  // the usual case costs no atomics
  rp_add_to(&out[0], count);
  rp_min_to(&out[1], first);
}

RP_KERNEL(256) rp_count_words(const rp_u32 *z, rp_u64 words, rp_u32 pattern, rp_u64 *out) {
  rp_u64 count = 0, first = ~0ull;
  for (rp_u64 i = rp_first(); i < words; i += rp_step())
    if (z[i] == pattern) { if (count++ == 0) first = i; }
  rp_report(count, first, out);
}

RP_KERNEL(256) rp_check_stream(const float *z, rp_u64 n, rp_u32 op, float s, rp_u64 seed_x, rp_u64 seed_y, rp_u64 *out) {
  rp_u64 count = 0, first = ~0ull;
  for (rp_u64 i = rp_first(); i < n; i += rp_step()) {
    const float x = op >= 1 ? rp_normal(seed_x, i) : 0.f, y = op >= 3 ? rp_normal(seed_y, i) : 0.f;
    const float right = op == 0 ? s : op == 1 ? x : op == 2 ? s * x : op == 3 ? x + y : rp_fma(s, y, x);
    if (rp_bits(z[i]) != rp_bits(right)) { if (count++ == 0) first = i; }
  }
  rp_report(count, first, out);
}

RP_KERNEL(256) rp_check_rows(const rp_u32 *z, const rp_u32 *table, rp_u64 rows, rp_u32 row_words, rp_u64 seed, rp_u64 *out) {
  rp_u64 count = 0, first = ~0ull;
  for (rp_u64 i = rp_first(); i < rows * row_words; i += rp_step()) {
    const rp_u64 from = (rp_u64)table[i / row_words] * row_words + i % row_words;
    if (z[i] != rp_bits(rp_normal(seed, from))) { if (count++ == 0) first = i; }
  }
  rp_report(count, first, out);
}

RP_KERNEL(256) rp_sum_reference(double *out, rp_u64 n, rp_u64 seed_x, rp_u64 seed_y, rp_u32 dot) {
  double sum = 0;
  for (rp_u64 i = rp_first(); i < n; i += rp_step()) {
    const double x = rp_normal(seed_x, i);
    sum += dot ? x * (double)rp_normal(seed_y, i) : x;
  }
  const double total = rp_block_sum(sum);
  if (rp_thread() == 0) out[rp_block()] = total;
}

RP_KERNEL(256) rp_bits_reference(rp_u32 *out, rp_u64 count, rp_u64 stride, rp_u64 seed) {
  rp_u32 sum = 0;
  for (rp_u64 j = rp_thread(); j < count; j += 256) sum += rp_bits(rp_normal(seed, ((rp_u64)rp_block() * count + j) * stride));
  const rp_u32 total = rp_block_sum(sum);
  if (rp_thread() == 0) out[rp_block()] = total;
}
