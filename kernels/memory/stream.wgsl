// Streams through device memory: read, write, copy, scale, add, triad and dot on f32 arrays.
//
// Tile: RP_BLOCK threads × RP_UNROLL loads in flight × 4 floats, neighbouring threads on neighbouring vectors of 16 bytes, all
// loads of a tile before the first use. Limit: memory bandwidth, reached by enough bytes in flight.
//
// rp_read(x, out, n, order), rp_dot(x, y, out, n, order), rp_write(z, s, n, order), rp_copy(x, z, n, order),
// rp_scale(x, z, s, n, order), rp_add(x, y, z, n, order), rp_triad(x, y, z, s, n, order): the contract of stream.cu, and n below
// 2^32. The last n % 4 floats are stored one by one, so that nothing past n is touched.

const RP_BLOCK: u32 = 512u;
const RP_UNROLL: u32 = 4u;
// Passes of one launch, for arrays that stay in a cache. A compiler must not see that they are all the same: each begins at
// turn · (high word of n), and a sum of the pass before is multiplied by it. It is 0.
const RP_PASSES: u32 = 1u;

struct Plain { grid: vec3<u32>, n: vec2<u32>, order: u32 }
struct Scaled { grid: vec3<u32>, s: f32, n: vec2<u32>, order: u32 }
var<immediate> plain: Plain;
var<immediate> scaled: Scaled;
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> y: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> z: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> sums: array<f32>;
var<workgroup> partial: array<f32, RP_BLOCK>;

const TILE: u32 = RP_BLOCK * RP_UNROLL;

struct Span { first: u32, end: u32, step: u32 }

// The tiles of workgroup b of g: in turn, or one run of them.
fn span(n: u32, order: u32, b: u32, g: u32) -> Span {
  let tiles = ((n + 3u) / 4u + TILE - 1u) / TILE;
  if order == 0u { return Span(b, tiles, g); }
  let each = tiles / g;
  let more = tiles % g;
  return Span(each * b + min(b, more), each * (b + 1u) + min(b + 1u, more), 1u);
}

// Stores what of a vector lies below n.
fn store(v: u32, value: vec4<f32>, n: u32) {
  if v * 4u + 4u <= n { z[v] = value; return; }
  if v * 4u < n { z[v].x = value.x; }
  if v * 4u + 1u < n { z[v].y = value.y; }
  if v * 4u + 2u < n { z[v].z = value.z; }
}

// 1 where an element of vector v lies below n, else 0.
fn inside(v: u32, n: u32) -> vec4<f32> {
  return select(vec4<f32>(0.0), vec4<f32>(1.0), vec4<u32>(v * 4u, v * 4u + 1u, v * 4u + 2u, v * 4u + 3u) < vec4<u32>(n));
}

// z = s
fn map0(s: f32, wide: vec2<u32>, order: u32, b: u32, g: u32, thread: u32) {
  let n = wide.x;
  let tiles = span(n, order, b, g);
  for (var turn = 0u; turn < RP_PASSES; turn++) {
    for (var t = tiles.first; t < tiles.end; t += tiles.step) {
      let at = t * TILE + thread + turn * wide.y;
      for (var k = 0u; k < RP_UNROLL; k++) { store(at + k * RP_BLOCK, vec4<f32>(s), n); }
    }
  }
}

// z = s·x
fn map1(s: f32, wide: vec2<u32>, order: u32, b: u32, g: u32, thread: u32) {
  let n = wide.x;
  let tiles = span(n, order, b, g);
  for (var turn = 0u; turn < RP_PASSES; turn++) {
    for (var t = tiles.first; t < tiles.end; t += tiles.step) {
      let at = t * TILE + thread + turn * wide.y;
      if (t + 1u) * TILE * 4u <= n {
        var a: array<vec4<f32>, RP_UNROLL>;
        for (var k = 0u; k < RP_UNROLL; k++) { a[k] = x[at + k * RP_BLOCK]; }
        for (var k = 0u; k < RP_UNROLL; k++) { z[at + k * RP_BLOCK] = s * a[k]; }
      } else {
        for (var v = at; v < (n + 3u) / 4u; v += RP_BLOCK) { store(v, s * x[v], n); }
      }
    }
  }
}

// z = x + s·y
fn map2(s: f32, wide: vec2<u32>, order: u32, b: u32, g: u32, thread: u32) {
  let n = wide.x;
  let tiles = span(n, order, b, g);
  for (var turn = 0u; turn < RP_PASSES; turn++) {
    for (var t = tiles.first; t < tiles.end; t += tiles.step) {
      let at = t * TILE + thread + turn * wide.y;
      if (t + 1u) * TILE * 4u <= n {
        var a: array<vec4<f32>, RP_UNROLL>;
        var c: array<vec4<f32>, RP_UNROLL>;
        for (var k = 0u; k < RP_UNROLL; k++) { a[k] = x[at + k * RP_BLOCK]; c[k] = y[at + k * RP_BLOCK]; }
        for (var k = 0u; k < RP_UNROLL; k++) { z[at + k * RP_BLOCK] = a[k] + s * c[k]; }
      } else {
        for (var v = at; v < (n + 3u) / 4u; v += RP_BLOCK) { store(v, x[v] + s * y[v], n); }
      }
    }
  }
}

// The workgroup's sum goes to sums[b].
fn finish(sum: vec4<f32>, b: u32, thread: u32) {
  partial[thread] = (sum.x + sum.y) + (sum.z + sum.w);
  for (var width = RP_BLOCK / 2u; width > 0u; width /= 2u) {
    workgroupBarrier();
    if thread < width { partial[thread] += partial[thread + width]; }
  }
  if thread == 0u { sums[b] = partial[0]; }
}

@compute @workgroup_size(RP_BLOCK)
fn rp_read(@builtin(workgroup_id) w: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let n = plain.n.x;
  let tiles = span(n, plain.order, w.x, plain.grid.x);
  var sum = vec4<f32>(0.0);
  for (var turn = 0u; turn < RP_PASSES; turn++) {
    sum *= f32(plain.n.y);
    for (var t = tiles.first; t < tiles.end; t += tiles.step) {
      let at = t * TILE + thread + turn * plain.n.y;
      if (t + 1u) * TILE * 4u <= n {
        var a: array<vec4<f32>, RP_UNROLL>;
        for (var k = 0u; k < RP_UNROLL; k++) { a[k] = x[at + k * RP_BLOCK]; }
        for (var k = 0u; k < RP_UNROLL; k++) { sum += a[k]; }
      } else {
        for (var v = at; v < (n + 3u) / 4u; v += RP_BLOCK) { sum += x[v] * inside(v, n); }
      }
    }
  }
  finish(sum, w.x, thread);
}

@compute @workgroup_size(RP_BLOCK)
fn rp_dot(@builtin(workgroup_id) w: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let n = plain.n.x;
  let tiles = span(n, plain.order, w.x, plain.grid.x);
  var sum = vec4<f32>(0.0);
  for (var turn = 0u; turn < RP_PASSES; turn++) {
    sum *= f32(plain.n.y);
    for (var t = tiles.first; t < tiles.end; t += tiles.step) {
      let at = t * TILE + thread + turn * plain.n.y;
      if (t + 1u) * TILE * 4u <= n {
        var a: array<vec4<f32>, RP_UNROLL>;
        var c: array<vec4<f32>, RP_UNROLL>;
        for (var k = 0u; k < RP_UNROLL; k++) { a[k] = x[at + k * RP_BLOCK]; c[k] = y[at + k * RP_BLOCK]; }
        for (var k = 0u; k < RP_UNROLL; k++) { sum = fma(a[k], c[k], sum); }
      } else {
        for (var v = at; v < (n + 3u) / 4u; v += RP_BLOCK) { sum += x[v] * y[v] * inside(v, n); }
      }
    }
  }
  finish(sum, w.x, thread);
}

@compute @workgroup_size(RP_BLOCK)
fn rp_write(@builtin(workgroup_id) w: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  map0(scaled.s, scaled.n, scaled.order, w.x, scaled.grid.x, thread);
}
@compute @workgroup_size(RP_BLOCK)
fn rp_copy(@builtin(workgroup_id) w: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  map1(1.0, plain.n, plain.order, w.x, plain.grid.x, thread);
}
@compute @workgroup_size(RP_BLOCK)
fn rp_scale(@builtin(workgroup_id) w: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  map1(scaled.s, scaled.n, scaled.order, w.x, scaled.grid.x, thread);
}
@compute @workgroup_size(RP_BLOCK)
fn rp_add(@builtin(workgroup_id) w: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  map2(1.0, plain.n, plain.order, w.x, plain.grid.x, thread);
}
@compute @workgroup_size(RP_BLOCK)
fn rp_triad(@builtin(workgroup_id) w: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  map2(scaled.s, scaled.n, scaled.order, w.x, scaled.grid.x, thread);
}
