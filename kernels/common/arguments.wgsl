// Writes down what it was given, so that a test sees each argument as a kernel does (arguments.cu has the contract).

struct Arguments { grid: vec3<u32>, u: u32, i: i32, wide: vec2<u32>, f: f32 }
var<immediate> p: Arguments;
@group(0) @binding(0) var<storage, read_write> out: array<u32>;

@compute @workgroup_size(1) fn rp_arguments() {
  out[0] = p.u;
  out[1] = bitcast<u32>(p.i);
  out[2] = p.wide.x;
  out[3] = p.wide.y;
  out[4] = bitcast<u32>(p.f);
  out[5] = 0u;
  out[6] = 0u;
  out[7] = 0u;
}
