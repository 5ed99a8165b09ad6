// Workgroup memory (LDS) read bandwidth: 16 bytes a thread, without bank conflicts or with conflicts of 2, 4 or 8 ways, by the
// access pattern of shared.cu. The sum is of raw bits modulo 2^32, so that a run is checked exactly.
// Limit: the banks' 128 bytes a clock and unit, divided by `ways`.
//
// rp_shared_read(x, out, u32 ways, u32 passes): x 2048 × 16 bytes; out[block] = passes × the sum over threads t and k < 8 of the
//   four words of vector t%32·ways + t/32·8 + 192·k. Block RP_BLOCK ≤ 1024, any grid. Bytes read: passes × threads × 128 a block.

const RP_BLOCK: u32 = 256u;
const VECTORS: u32 = 2048u;
const LOADS: u32 = 8u;
const APART: u32 = 192u;

struct Arguments { grid: vec3<u32>, ways: u32, passes: u32 }
var<immediate> p: Arguments;
@group(0) @binding(0) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;
var<workgroup> data: array<vec4<u32>, VECTORS>;

@compute @workgroup_size(RP_BLOCK)
fn rp_shared_read(@builtin(workgroup_id) w: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  for (var i = t; i < VECTORS; i += RP_BLOCK) { data[i] = x[i]; }
  workgroupBarrier();
  let first = t % 32u * p.ways + t / 32u * 8u;
  // The high half of passes is 0, which a compiler can't know: it must not see that all passes read the same.
  let shift = p.passes >> 16u;
  var sum = vec4<u32>(0u);
  for (var turn = 0u; turn < p.passes; turn++) {
    let at = first + turn * shift;
    for (var k = 0u; k < LOADS; k++) { sum += data[at + k * APART]; }
  }
  workgroupBarrier();
  data[t] = sum;
  for (var width = RP_BLOCK / 2u; width > 0u; width /= 2u) {
    workgroupBarrier();
    if t < width { data[t] += data[t + width]; }
  }
  if t == 0u { out[w.x] = data[0].x + data[0].y + data[0].z + data[0].w; }
}
