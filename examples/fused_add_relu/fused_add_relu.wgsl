// out = max(a + b, 0), four elements an invocation. Arguments by value follow the grid; a u64 is two words, the low one first.
struct Arguments { grid: vec3<u32>, n: vec2<u32> }
var<immediate> p: Arguments;
@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(256) fn fused_add_relu(@builtin(global_invocation_id) id: vec3<u32>) {
  let first = id.x * 4u;
  for (var i = first; i < min(first + 4u, p.n.x); i++) { out[i] = max(a[i] + b[i], 0.0); }
}
