// Latency: one thread follows a ring, each load's index from the load before, so that nothing can be in flight beside it.
// Limit: the latency of whatever level holds the ring.
//
// rp_chase(ring, out, u64 elements, u64 start, u64 steps): as chase.cu, a ring of indices in u64; all below 2^32.

struct Arguments { grid: vec3<u32>, elements: vec2<u32>, start: vec2<u32>, steps: vec2<u32> }
var<immediate> p: Arguments;
@group(0) @binding(0) var<storage, read> ring: array<vec2<u32>>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;

@compute @workgroup_size(1) fn rp_chase() {
  var at = p.start.x;
  for (var i = 0u; i < p.steps.x && at < p.elements.x; i++) { at = ring[at].x; }
  out[0] = at;
  out[1] = 0u;
}
