// Words of two arrays that differ (differ.cu has the contract); fewer than 2^32 of them.

struct Arguments { grid: vec3<u32>, words: vec2<u32> }
var<immediate> p: Arguments;
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read> y: array<u32>;
@group(0) @binding(2) var<storage, read_write> count: atomic<u32>;

@compute @workgroup_size(256) fn rp_differ(@builtin(global_invocation_id) id: vec3<u32>) {
  var differ = 0u;
  for (var i = id.x; i < p.words.x; i += p.grid.x * 256u) { differ += select(0u, 1u, x[i] != y[i]); }
  if differ != 0u { atomicAdd(&count, differ); }
}
