// Attention forward in one pass over the keys (flash), with the keys in splits where the rows alone do not fill the device, for
// prefill, decode and MLA's absorbed decode; f32 arithmetic on operands that lie in memory as f32, f16 or bf16.
//
// The query heads that share a key head lie next to each other, so that (head, query) is a row of one matrix: a workgroup takes
// RP_BQ rows of one key head and walks the keys RP_BK at a time. Logits: RP_SEG threads a (row, key) pair where there are fewer
// pairs than threads. Output: 128 / RP_BQ threads a row, each with its share of the columns. K is kept transposed with an odd
// pitch, so that threads on neighbouring keys, and (with RP_SHARED_KV, where V is the first RP_DV columns of K and is read
// once) threads on neighbouring columns, read different banks. Limit: f32 fused multiply-adds and workgroup memory.
//
// rp_flash(q, k, v, o, partial, stats, lengths, table, sinks, u32 rows, u32 sq, u32 sk, u32 split, u32 causal, u32 window, u32 page,
//   u32 heads, u32 ragged, u32 sunk, f32 scale): block 128, grid ⌈rows / RP_BQ⌉ × splits × (batch · key heads). rows: query heads a
//   key head × sq; split: keys of a split; heads: key heads of a sequence.
//   With one split o is written, else partial f32 [row, split, RP_DV], not normalised, and stats f32 [row, split, 2]: maximum, sum.
//   ragged: sequence b has lengths[b] keys. page: 0, or keys of a page of k [pool, heads, page, RP_DQK] and v alike, found by
//   table [b, ⌈sk / page⌉]. window: 0, or (with causal) the last so many keys that a query sees. sunk: sinks [query head] join
//   the sum of a row's weights. What is not asked for is not read, but some buffer must be given.
// rp_combine(partial, stats, o, u32 rows, u32 splits): joins them. Block 128, grid min(rows, 65535).

const RP_BQ: u32 = 4u;
const RP_BK: u32 = 8u;
const RP_SEG: u32 = 4u;
const RP_DQK: u32 = 64u;
const RP_DV: u32 = 64u;
const RP_SHARED_KV: u32 = 0u;
const THREADS: u32 = 128u;
const LANES: u32 = THREADS / RP_BQ;
const COLUMNS: u32 = (RP_DV + LANES - 1u) / LANES;
const PITCH: u32 = RP_BK + 1u;
const SEGMENT: u32 = (RP_DQK + RP_SEG - 1u) / RP_SEG;
const KEYS: u32 = max(RP_DQK * PITCH, RP_BK * RP_DV * (1u - RP_SHARED_KV));
// Below every logit, and finite: the difference of two of them is a number.
const LOWEST: f32 = -3.0e38;

struct Arguments {
  grid: vec3<u32>, rows: u32, sq: u32, sk: u32, split: u32, causal: u32, window: u32, page: u32, heads: u32, ragged: u32, sunk: u32,
  scale: f32,
}
struct Joining { grid: vec3<u32>, rows: u32, splits: u32 }
var<immediate> p: Arguments;
var<immediate> joining: Joining;
@group(0) @binding(0) var<storage, read> q: array<RP_STORED>;
@group(0) @binding(1) var<storage, read> k: array<RP_STORED>;
@group(0) @binding(2) var<storage, read> v: array<RP_STORED>;
@group(0) @binding(3) var<storage, read_write> o: array<RP_STORED>;
@group(0) @binding(4) var<storage, read_write> partial: array<f32>;
@group(0) @binding(5) var<storage, read_write> stats: array<f32>;
@group(0) @binding(6) var<storage, read> lengths: array<u32>;
@group(0) @binding(7) var<storage, read> table: array<u32>;
@group(0) @binding(8) var<storage, read> sinks: array<f32>;
@group(0) @binding(9) var<storage, read> parts: array<f32>;
@group(0) @binding(10) var<storage, read> sums: array<f32>;
@group(0) @binding(11) var<storage, read_write> joined: array<RP_STORED>;
var<workgroup> queries: array<f32, RP_BQ * RP_DQK>;
var<workgroup> keys: array<f32, KEYS>;
var<workgroup> logits: array<f32, RP_BQ * RP_BK * RP_SEG>;

// Behind the last key that a row of a sequence of `length` keys sees.
fn visible(row: u32, length: u32) -> u32 {
  if p.causal == 0u { return length; }
  let end = row % p.sq + length + 1u;
  return min(select(0u, end - p.sq, end > p.sq), length);
}

// The first key that a row sees whose last is before `end`.
fn earliest(end: u32) -> u32 { return select(0u, end - p.window, p.window > 0u && end > p.window); }

// Which row of k and v holds a key of a head of all sequences'.
fn row_of(head: u32, key: u32) -> u32 {
  if p.page == 0u { return head * p.sk + key; }
  let width = (p.sk + p.page - 1u) / p.page;
  return (table[head / p.heads * width + key / p.page] * p.heads + head % p.heads) * p.page + key % p.page;
}

@compute @workgroup_size(THREADS)
fn rp_flash(@builtin(workgroup_id) w: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  let first = w.x * RP_BQ;
  let head = w.z;
  for (var i = t; i < RP_BQ * RP_DQK; i += THREADS) {
    let row = first + i / RP_DQK;
    queries[i] = 0.0;
    if row < p.rows { queries[i] = rp_decode(u32(q[(head * p.rows + row) * RP_DQK + i % RP_DQK])); }
  }
  var length = p.sk;
  if p.ragged != 0u { length = lengths[head / p.heads]; }
  // The keys of this split that any of the rows sees: up to those of the last query among them, from those of the first on.
  let last = min(first + RP_BQ, p.rows) - 1u;
  let one = first / p.sq == last / p.sq;
  let latest = select(p.sq - 1u, last % p.sq, one);
  let end = min(min((w.y + 1u) * p.split, p.sk), visible(latest, length));
  let begin = max(w.y * p.split, earliest(visible(select(0u, first % p.sq, one), length)));
  let mine = first + t / LANES;
  let sees = visible(mine, length);
  let from_key = earliest(sees);
  let lane = t % LANES;
  var top = LOWEST;
  var sum = 0.0;
  // A sink is a key without a value, there before the first real one.
  if p.sunk != 0u && w.y == 0u && mine < p.rows {
    top = sinks[head % p.heads * (p.rows / p.sq) + mine / p.sq];
    sum = 1.0;
  }
  var out: array<f32, COLUMNS>;
  for (var c = 0u; c < COLUMNS; c++) { out[c] = 0.0; }
  for (var at = begin; at < end; at += RP_BK) {
    for (var i = t; i < RP_BK * RP_DQK; i += THREADS) {
      let key = i / RP_DQK;
      let d = i % RP_DQK;
      keys[d * PITCH + key] = 0.0;
      if at + key < end { keys[d * PITCH + key] = rp_decode(u32(k[row_of(head, at + key) * RP_DQK + d])); }
    }
    workgroupBarrier();
    for (var i = t; i < RP_BQ * RP_BK * RP_SEG; i += THREADS) {
      let key = i % RP_BK;
      let row = i / RP_BK % RP_BQ;
      let from_d = i / (RP_BK * RP_BQ) * SEGMENT;
      let to_d = min(from_d + SEGMENT, RP_DQK);
      var dot = 0.0;
      for (var d = from_d; d < to_d; d++) { dot = fma(queries[row * RP_DQK + d], keys[d * PITCH + key], dot); }
      logits[i] = dot;
    }
    workgroupBarrier();
    if RP_SHARED_KV == 0u {
      for (var i = t; i < RP_BK * RP_DV; i += THREADS) {
        keys[i] = 0.0;
        if at + i / RP_DV < end { keys[i] = rp_decode(u32(v[row_of(head, at + i / RP_DV) * RP_DV + i % RP_DV])); }
      }
      workgroupBarrier();
    }
    var weight: array<f32, RP_BK>;
    var highest = top;
    for (var j = 0u; j < RP_BK; j++) {
      var logit = 0.0;
      for (var s = 0u; s < RP_SEG; s++) { logit += logits[(s * RP_BQ + t / LANES) * RP_BK + j]; }
      weight[j] = select(LOWEST, logit * p.scale, at + j < min(end, sees) && at + j >= from_key);
      highest = max(highest, weight[j]);
    }
    let rescale = exp(top - highest);
    sum *= rescale;
    for (var c = 0u; c < COLUMNS; c++) { out[c] *= rescale; }
    for (var j = 0u; j < RP_BK; j++) {
      // A row that has seen nothing yet has no highest logit: its weights are 0 and not exp(0).
      let share = select(0.0, exp(weight[j] - highest), weight[j] > LOWEST);
      sum += share;
      for (var c = 0u; c < COLUMNS; c++) {
        let column = c * LANES + lane;
        if column < RP_DV {
          var value = 0.0;
          if RP_SHARED_KV == 0u { value = keys[j * RP_DV + column]; } else { value = keys[column * PITCH + j]; }
          out[c] = fma(share, value, out[c]);
        }
      }
    }
    top = highest;
    workgroupBarrier();
  }
  if mine >= p.rows { return; }
  let row = head * p.rows + mine;
  if p.grid.y == 1u {
    let over = select(0.0, 1.0 / sum, sum > 0.0);
    for (var c = 0u; c < COLUMNS; c++) {
      let column = c * LANES + lane;
      if column < RP_DV { o[row * RP_DV + column] = RP_STORED(rp_encode(out[c] * over)); }
    }
  } else {
    let place = row * p.grid.y + w.y;
    for (var c = 0u; c < COLUMNS; c++) {
      let column = c * LANES + lane;
      if column < RP_DV { partial[place * RP_DV + column] = out[c]; }
    }
    if lane == 0u {
      stats[place * 2u] = top;
      stats[place * 2u + 1u] = sum;
    }
  }
}

@compute @workgroup_size(THREADS)
fn rp_combine(@builtin(workgroup_id) w: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  for (var row = w.x; row < joining.rows; row += joining.grid.x) {
    let place = row * joining.splits;
    var top = LOWEST;
    for (var s = 0u; s < joining.splits; s++) { top = max(top, sums[(place + s) * 2u]); }
    var sum = 0.0;
    for (var s = 0u; s < joining.splits; s++) { sum += exp(sums[(place + s) * 2u] - top) * sums[(place + s) * 2u + 1u]; }
    let over = select(0.0, 1.0 / sum, sum > 0.0);
    for (var column = t; column < RP_DV; column += THREADS) {
      var out = 0.0;
      for (var s = 0u; s < joining.splits; s++) {
        out = fma(exp(sums[(place + s) * 2u] - top), parts[(place + s) * RP_DV + column], out);
      }
      joined[row * RP_DV + column] = RP_STORED(rp_encode(out * over));
    }
  }
}
