enable wgpu_cooperative_matrix;
enable f16;
// C (M×N) = A (M×K) · B (N×K)ᵀ, all row-major, by matrices that a subgroup holds together (VK_KHR_cooperative_matrix): f16 or
// bf16 operands, f32 sums.
//
// Tile: 64 × 64 of C for 128 threads, 32 of K at a time through workgroup memory, where what lies outside is 0. Each subgroup owns
// RP_ROWS × RP_COLS matrices of RP_M × RP_N. The shape is the adapter's: the 8 × 8 written here and, for bf16, the element type are
// replaced in the SPIR-V (vulkan/matrix.rs), since WGSL has no other. So nothing is computed with f16 here but products.
// Limit: the matrix units, and the workgroup memory that feeds them.
//
// rp_gemm_cooperative(a, b, c, u32 m, u32 n, u32 k): block 128, grid ⌈N / 64⌉ × ⌈M / 64⌉.

const RP_SUBGROUP: u32 = 8u;
const RP_M: u32 = 8u;
const RP_N: u32 = 8u;
const RP_K: u32 = 8u;
const RP_ROWS: u32 = 2u;
const RP_COLS: u32 = 2u;
const TILE: u32 = 64u;
const STEP: u32 = 32u;
const THREADS: u32 = 128u;
// Subgroups side by side.
const ACROSS: u32 = TILE / (RP_COLS * RP_N);

struct Arguments { grid: vec3<u32>, m: u32, n: u32, k: u32 }
var<immediate> p: Arguments;
@group(0) @binding(0) var<storage, read> a: array<f16>;
@group(0) @binding(1) var<storage, read> b: array<f16>;
@group(0) @binding(2) var<storage, read_write> c: array<RP_STORED>;
var<workgroup> left: array<f16, TILE * STEP>;
var<workgroup> right: array<f16, TILE * STEP>;
var<workgroup> product: array<f32, TILE * TILE>;

@compute @workgroup_size(THREADS)
fn rp_gemm_cooperative(
  @builtin(workgroup_id) w: vec3<u32>,
  @builtin(local_invocation_index) t: u32,
  @builtin(subgroup_id) subgroup: u32,
) {
  let row = subgroup / ACROSS * RP_ROWS * RP_M;
  let col = subgroup % ACROSS * RP_COLS * RP_N;
  var sum: array<coop_mat8x8<f32, C>, RP_ROWS * RP_COLS>;
  for (var k0 = 0u; k0 < p.k; k0 += STEP) {
    for (var i = t; i < TILE * STEP; i += THREADS) {
      let k = k0 + i % STEP;
      let m = w.y * TILE + i / STEP;
      let n = w.x * TILE + i / STEP;
      left[i] = f16(0.0);
      right[i] = f16(0.0);
      if m < p.m && k < p.k { left[i] = a[m * p.k + k]; }
      if n < p.n && k < p.k { right[i] = b[n * p.k + k]; }
    }
    workgroupBarrier();
    for (var kk = 0u; kk < STEP; kk += RP_K) {
      for (var i = 0u; i < RP_ROWS; i++) {
        let x = coopLoadT<coop_mat8x8<f16, A>>(&left[(row + i * RP_M) * STEP + kk], STEP);
        for (var j = 0u; j < RP_COLS; j++) {
          let y = coopLoad<coop_mat8x8<f16, B>>(&right[(col + j * RP_N) * STEP + kk], STEP);
          sum[i * RP_COLS + j] = coopMultiplyAdd(x, y, sum[i * RP_COLS + j]);
        }
      }
    }
    workgroupBarrier();
  }
  for (var i = 0u; i < RP_ROWS; i++) {
    for (var j = 0u; j < RP_COLS; j++) {
      coopStoreT(sum[i * RP_COLS + j], &product[(row + i * RP_M) * TILE + col + j * RP_N], TILE);
    }
  }
  workgroupBarrier();
  for (var i = t; i < TILE * TILE; i += THREADS) {
    let m = w.y * TILE + i / TILE;
    let n = w.x * TILE + i % TILE;
    if m < p.m && n < p.n { c[m * p.n + n] = RP_STORED(rp_encode(product[i])); }
  }
}
