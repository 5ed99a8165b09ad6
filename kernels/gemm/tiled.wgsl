// C (M×N) = A (M×K) · B (N×K)ᵀ, all row-major, in f32 arithmetic, for operands that lie in memory as f32, f16 or bf16.
//
// Tile: 16·RP_PER squared of C for 16 × 16 threads, RP_PER squared elements each, sixteen apart, so that neighbouring threads read
// neighbouring words of workgroup memory; 16 of K at a time. Any M, N, K: what lies outside is loaded as 0 and not stored.
// Limit: f32 fused multiply-adds, and the workgroup memory that feeds them (2·RP_PER loads for RP_PER² of them).
//
// rp_gemm(a, b, c, u32 m, u32 n, u32 k): block 16 × 16, grid ⌈N / tile⌉ × ⌈M / tile⌉.

const RP_PER: u32 = 4u;
const TILE: u32 = RP_PER * 16u;
const STEP: u32 = 16u;
// One more than the tile: a column's elements then lie in different banks when the tile is filled.
const PITCH: u32 = TILE + 1u;

struct Arguments { grid: vec3<u32>, m: u32, n: u32, k: u32 }
var<immediate> p: Arguments;
@group(0) @binding(0) var<storage, read> a: array<RP_STORED>;
@group(0) @binding(1) var<storage, read> b: array<RP_STORED>;
@group(0) @binding(2) var<storage, read_write> c: array<RP_STORED>;
var<workgroup> left: array<f32, STEP * PITCH>;
var<workgroup> right: array<f32, STEP * PITCH>;

@compute @workgroup_size(16, 16)
fn rp_gemm(@builtin(workgroup_id) w: vec3<u32>, @builtin(local_invocation_id) t: vec3<u32>) {
  var sum: array<array<f32, RP_PER>, RP_PER>;
  for (var i = 0u; i < RP_PER; i++) { for (var j = 0u; j < RP_PER; j++) { sum[i][j] = 0.0; } }
  for (var k0 = 0u; k0 < p.k; k0 += STEP) {
    let k = k0 + t.x;
    for (var i = 0u; i < RP_PER; i++) {
      let row = t.y + 16u * i;
      let m = w.y * TILE + row;
      let n = w.x * TILE + row;
      var x = 0.0;
      var y = 0.0;
      if m < p.m && k < p.k { x = rp_decode(u32(a[m * p.k + k])); }
      if n < p.n && k < p.k { y = rp_decode(u32(b[n * p.k + k])); }
      left[t.x * PITCH + row] = x;
      right[t.x * PITCH + row] = y;
    }
    workgroupBarrier();
    for (var kk = 0u; kk < STEP; kk++) {
      var x: array<f32, RP_PER>;
      var y: array<f32, RP_PER>;
      for (var i = 0u; i < RP_PER; i++) {
        x[i] = left[kk * PITCH + t.y + 16u * i];
        y[i] = right[kk * PITCH + t.x + 16u * i];
      }
      for (var i = 0u; i < RP_PER; i++) {
        for (var j = 0u; j < RP_PER; j++) { sum[i][j] = fma(x[i], y[j], sum[i][j]); }
      }
    }
    workgroupBarrier();
  }
  for (var i = 0u; i < RP_PER; i++) {
    for (var j = 0u; j < RP_PER; j++) {
      let m = w.y * TILE + t.y + 16u * i;
      let n = w.x * TILE + t.x + 16u * j;
      if m < p.m && n < p.n { c[m * p.n + n] = RP_STORED(rp_encode(sum[i][j])); }
    }
  }
}
