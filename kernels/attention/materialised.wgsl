// Attention forward as three passes over memory: all logits, their softmax, and the weighted values. What flash attention is
// measured against; f32 arithmetic and f32 weights on operands that lie in memory as f32, f16 or bf16.
//
// The query heads that share a key head are rows of one matrix, as in flash.wgsl; `heads` is batch · key heads, along z of a grid.
// Tile of the two products: 32 × 32 for 16 × 16 threads, 16 of the inner dimension at a time. Limit: memory bandwidth of the
// rows × sk weights, written and read twice.
//
// rp_logits(q, k, s, lengths, table, u32 rows, u32 sq, u32 sk, u32 d, u32 causal, u32 window, u32 page, u32 heads, u32 ragged,
//   f32 scale): s [head, row, key] = scale · q · kᵀ, masked ones −3e38. Block 16 × 16, grid ⌈sk / 32⌉ × ⌈rows / 32⌉ × heads.
// rp_softmax(s, sinks, u32 rows, u32 sk, u32 sq, u32 hq, u32 sunk): each row of all heads' becomes weights that sum to 1, less what
//   its query head's sink takes, or 0 where all is masked. Block 128, any grid.
// rp_values(s, v, o, lengths, table, u32 rows, u32 sk, u32 dv, u32 pitch, u32 page, u32 heads, u32 ragged): o [head, row, column] =
//   s · v, v's keys `pitch` elements apart. Block 16 × 16, grid ⌈dv / 32⌉ × ⌈rows / 32⌉ × heads.
// lengths, table, sinks, window, page, heads and the flags are as in flash.wgsl.

const PER: u32 = 2u;
const TILE: u32 = 32u;
const STEP: u32 = 16u;
const PITCH: u32 = TILE + 1u;
const THREADS: u32 = 128u;
const LOWEST: f32 = -3.0e38;

struct Logits {
  grid: vec3<u32>, rows: u32, sq: u32, sk: u32, d: u32, causal: u32, window: u32, page: u32, heads: u32, ragged: u32, scale: f32,
}
struct Softmax { grid: vec3<u32>, rows: u32, sk: u32, sq: u32, hq: u32, sunk: u32 }
struct Values { grid: vec3<u32>, rows: u32, sk: u32, dv: u32, pitch: u32, page: u32, heads: u32, ragged: u32 }
var<immediate> lp: Logits;
var<immediate> sp: Softmax;
var<immediate> vp: Values;
@group(0) @binding(0) var<storage, read> q: array<RP_STORED>;
@group(0) @binding(1) var<storage, read> k: array<RP_STORED>;
@group(0) @binding(2) var<storage, read_write> s: array<f32>;
@group(0) @binding(3) var<storage, read> v: array<RP_STORED>;
@group(0) @binding(4) var<storage, read_write> o: array<RP_STORED>;
@group(0) @binding(5) var<storage, read> lengths: array<u32>;
@group(0) @binding(6) var<storage, read> table: array<u32>;
@group(0) @binding(7) var<storage, read> sinks: array<f32>;
var<workgroup> left: array<f32, STEP * PITCH>;
var<workgroup> right: array<f32, STEP * PITCH>;
var<workgroup> reduced: array<f32, THREADS>;

var<private> sum: array<array<f32, PER>, PER>;

// Adds what the tiles in workgroup memory give.
fn multiply(t: vec3<u32>) {
  workgroupBarrier();
  for (var kk = 0u; kk < STEP; kk++) {
    for (var i = 0u; i < PER; i++) {
      for (var j = 0u; j < PER; j++) {
        sum[i][j] = fma(left[kk * PITCH + t.y + 16u * i], right[kk * PITCH + t.x + 16u * j], sum[i][j]);
      }
    }
  }
  workgroupBarrier();
}

// Which row of k or v holds a key of a head of all sequences'.
fn row_of(head: u32, key: u32, sk: u32, page: u32, heads: u32) -> u32 {
  if page == 0u { return head * sk + key; }
  let width = (sk + page - 1u) / page;
  return (table[head / heads * width + key / page] * heads + head % heads) * page + key % page;
}

// Keys of the sequence of a head.
fn length_of(head: u32, sk: u32, heads: u32, ragged: u32) -> u32 {
  if ragged == 0u { return sk; }
  return lengths[head / heads];
}

@compute @workgroup_size(16, 16)
fn rp_logits(@builtin(workgroup_id) w: vec3<u32>, @builtin(local_invocation_id) t: vec3<u32>) {
  sum = array<array<f32, PER>, PER>();
  let length = length_of(w.z, lp.sk, lp.heads, lp.ragged);
  for (var d0 = 0u; d0 < lp.d; d0 += STEP) {
    let d = d0 + t.x;
    for (var i = 0u; i < PER; i++) {
      let at = t.y + 16u * i;
      let row = w.y * TILE + at;
      let key = w.x * TILE + at;
      var x = 0.0;
      var y = 0.0;
      if row < lp.rows && d < lp.d { x = rp_decode(u32(q[(w.z * lp.rows + row) * lp.d + d])); }
      if key < length && d < lp.d { y = rp_decode(u32(k[row_of(w.z, key, lp.sk, lp.page, lp.heads) * lp.d + d])); }
      left[t.x * PITCH + at] = x;
      right[t.x * PITCH + at] = y;
    }
    multiply(t);
  }
  for (var i = 0u; i < PER; i++) {
    for (var j = 0u; j < PER; j++) {
      let row = w.y * TILE + t.y + 16u * i;
      let key = w.x * TILE + t.x + 16u * j;
      let limit = row % lp.sq + length;
      let inside = lp.window == 0u || key + lp.sq + lp.window > limit;
      let seen = key < length && (lp.causal == 0u || (key + lp.sq <= limit && inside));
      if row < lp.rows && key < lp.sk {
        s[(w.z * lp.rows + row) * lp.sk + key] = select(LOWEST, sum[i][j] * lp.scale, seen);
      }
    }
  }
}

// The sum or maximum of one value a thread.
fn reduce(x: f32, t: u32, maximum: bool) -> f32 {
  reduced[t] = x;
  for (var width = THREADS / 2u; width > 0u; width /= 2u) {
    workgroupBarrier();
    if t < width {
      let other = reduced[t + width];
      reduced[t] = select(reduced[t] + other, max(reduced[t], other), maximum);
    }
  }
  workgroupBarrier();
  let all = reduced[0];
  workgroupBarrier();
  return all;
}

@compute @workgroup_size(THREADS)
fn rp_softmax(@builtin(workgroup_id) w: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  for (var row = w.x; row < sp.rows; row += sp.grid.x) {
    let base = row * sp.sk;
    // Rows are in the order of sequences, query heads and queries.
    var sink = LOWEST;
    if sp.sunk != 0u { sink = sinks[row / sp.sq % sp.hq]; }
    var top = sink;
    for (var i = t; i < sp.sk; i += THREADS) { top = max(top, s[base + i]); }
    top = reduce(top, t, true);
    var total = 0.0;
    for (var i = t; i < sp.sk; i += THREADS) {
      let weight = select(0.0, exp(s[base + i] - top), s[base + i] > LOWEST);
      s[base + i] = weight;
      total += weight;
    }
    total = reduce(total, t, false) + select(0.0, exp(sink - top), sp.sunk != 0u);
    let over = select(0.0, 1.0 / total, total > 0.0);
    for (var i = t; i < sp.sk; i += THREADS) { s[base + i] *= over; }
  }
}

@compute @workgroup_size(16, 16)
fn rp_values(@builtin(workgroup_id) w: vec3<u32>, @builtin(local_invocation_id) t: vec3<u32>) {
  sum = array<array<f32, PER>, PER>();
  let length = length_of(w.z, vp.sk, vp.heads, vp.ragged);
  for (var k0 = 0u; k0 < length; k0 += STEP) {
    for (var i = 0u; i < PER; i++) {
      let row = w.y * TILE + t.y + 16u * i;
      let key = k0 + t.x;
      var x = 0.0;
      if row < vp.rows && key < vp.sk { x = s[(w.z * vp.rows + row) * vp.sk + key]; }
      left[t.x * PITCH + t.y + 16u * i] = x;
      // Neighbouring threads read neighbouring columns of one key.
      let column = w.x * TILE + t.x + 16u * i;
      var y = 0.0;
      if column < vp.dv && k0 + t.y < length {
        y = rp_decode(u32(v[row_of(w.z, k0 + t.y, vp.sk, vp.page, vp.heads) * vp.pitch + column]));
      }
      right[t.y * PITCH + t.x + 16u * i] = y;
    }
    multiply(t);
  }
  for (var i = 0u; i < PER; i++) {
    for (var j = 0u; j < PER; j++) {
      let row = w.y * TILE + t.y + 16u * i;
      let column = w.x * TILE + t.x + 16u * j;
      if row < vp.rows && column < vp.dv { o[(w.z * vp.rows + row) * vp.dv + column] = RP_STORED(rp_encode(sum[i][j])); }
    }
  }
}
