// The staircase: read bandwidth against a working set that all workgroups share, by the access pattern of staircase.cu. The sum is of
// raw bits modulo 2^32, so that a run is checked exactly. Limit: the first cache, then the next, then memory.
//
// rp_staircase(x, out, cycles, u64 set_tiles, u64 private_tiles, u64 steps): the contract of staircase.cu; cycles are 0, which WGSL
//   cannot count. Tile: RP_BLOCK × RP_UNROLL × 16 bytes. All numbers, and set_tiles × workgroups, below 2^32.

const RP_BLOCK: u32 = 512u;
const RP_UNROLL: u32 = 2u;
// A hint that no WGSL compiler takes.
const RP_HINT_LOAD: u32 = 0u;

struct Arguments { grid: vec3<u32>, set_tiles: vec2<u32>, private_tiles: vec2<u32>, steps: vec2<u32> }
var<immediate> p: Arguments;
@group(0) @binding(0) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;
@group(0) @binding(2) var<storage, read_write> cycles: array<vec2<u32>>;
var<workgroup> partial: array<u32, RP_BLOCK>;

const TILE: u32 = RP_BLOCK * RP_UNROLL;

@compute @workgroup_size(RP_BLOCK)
fn rp_staircase(@builtin(workgroup_id) w: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  let first = w.x * p.private_tiles.x * TILE + t;
  var at = select(0u, p.set_tiles.x * w.x / p.grid.x, p.private_tiles.x == 0u);
  let stride = select(1u, ((w.x * 40503u & 0xffffu) * 2u + 1u) % p.set_tiles.x, p.private_tiles.x == 0u);
  var sum = vec4<u32>(0u);
  for (var i = 0u; i < p.steps.x; i++) {
    for (var k = 0u; k < RP_UNROLL; k++) { sum += x[first + at * TILE + k * RP_BLOCK]; }
    at += stride;
    at -= select(0u, p.set_tiles.x, at >= p.set_tiles.x);
  }
  partial[t] = sum.x + sum.y + sum.z + sum.w;
  for (var width = RP_BLOCK / 2u; width > 0u; width /= 2u) {
    workgroupBarrier();
    if t < width { partial[t] += partial[t + width]; }
  }
  if t == 0u {
    out[w.x] = partial[0];
    cycles[w.x] = vec2<u32>(0u);
  }
}
