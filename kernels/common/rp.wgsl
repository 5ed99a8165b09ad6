// What every WGSL kernel here may use: 64-bit integers as (low, high) pairs, since not every GPU has them, the counter-based
// generator that host and device share bit for bit, and 16-bit floats as the integers that lie in memory.

fn rp_add64(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
  let low = a.x + b.x;
  return vec2<u32>(low, a.y + b.y + select(0u, 1u, low < a.x));
}

// The 64 bits of a·b.
fn rp_wide(a: u32, b: u32) -> vec2<u32> {
  let a0 = a & 0xffffu; let a1 = a >> 16u;
  let b0 = b & 0xffffu; let b1 = b >> 16u;
  let low = a0 * b0;
  let mid = a1 * b0 + (low >> 16u);
  let mid2 = a0 * b1 + (mid & 0xffffu);
  return vec2<u32>((mid2 << 16u) | (low & 0xffffu), a1 * b1 + (mid >> 16u) + (mid2 >> 16u));
}

// The low 64 bits of a·b.
fn rp_mul64(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
  let low = rp_wide(a.x, b.x);
  return vec2<u32>(low.x, low.y + a.x * b.y + a.y * b.x);
}

// z ^ (z >> s), 0 < s < 32.
fn rp_xorshift(z: vec2<u32>, s: u32) -> vec2<u32> {
  return z ^ vec2<u32>((z.x >> s) | (z.y << (32u - s)), z.y >> s);
}

fn rp_hash(seed: vec2<u32>, i: vec2<u32>) -> vec2<u32> {
  var z = rp_add64(seed, rp_mul64(rp_add64(i, vec2<u32>(1u, 0u)), vec2<u32>(0x7F4A7C15u, 0x9E3779B9u)));
  z = rp_mul64(rp_xorshift(z, 30u), vec2<u32>(0x1CE4E5B9u, 0xBF58476Du));
  z = rp_mul64(rp_xorshift(z, 27u), vec2<u32>(0x133111EBu, 0x94D049BBu));
  return rp_xorshift(z, 31u);
}

// Irwin–Hall of four 16-bit lanes, mean 0 and deviation 1: an exact integer, one conversion and one multiply.
fn rp_normal(seed: vec2<u32>, i: vec2<u32>) -> f32 {
  let z = rp_hash(seed, i);
  let sum = i32((z.x & 0xffffu) + (z.x >> 16u) + (z.y & 0xffffu) + (z.y >> 16u)) - 131070;
  return f32(sum) * f32(1.0 / 37837.0);
}

// Uniform in [-1, 1): 24 bits, exact.
fn rp_uniform(seed: vec2<u32>, i: vec2<u32>) -> f32 {
  return f32(i32(rp_hash(seed, i).y >> 8u) - 8388608) * (1.0 / 8388608.0);
}

// A sine wave, a radian an element, in integers and one multiply; ridgepoint_core::data::trigonometric says why so.
fn rp_trigonometric(seed: vec2<u32>, i: vec2<u32>) -> f32 {
  // Only the low word of a position turns: both factors' low words are all that it needs.
  let turn = bitcast<i32>((seed.x * 0x9937733du + i.x) * 683565276u);
  var rising = turn;
  if turn > 1073741824 || turn < -1073741824 { rising = bitcast<i32>(0x80000000u - bitcast<u32>(turn)); }
  let z = rising >> 15u;
  let square = (z * z) >> 15u;
  let sine = (z * (51472 - ((square * (21024 - ((2320 * square) >> 15u))) >> 15u))) >> 15u;
  return f32(sine) * f32(1.0 / 32771.0);
}

// Nearest bf16 or f16, ties to even, as the low 16 bits; for finite numbers. The driver's own conversion may cut instead.
fn rp_to_bf16(x: f32) -> u32 {
  let bits = bitcast<u32>(x);
  return (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
}
fn rp_to_f16(x: f32) -> u32 {
  let bits = bitcast<u32>(x);
  let sign = (bits >> 16u) & 0x8000u;
  let magnitude = bits & 0x7fffffffu;
  if magnitude >= 0x477ff000u { return sign | 0x7c00u; }
  // Bits cut off: 13, more of them below the normals (exponent −14).
  let exponent = i32(magnitude >> 23u) - 127;
  let drop = 13 + max(0, -14 - exponent);
  if drop > 24 { return sign; }
  let mantissa = (magnitude & 0x7fffffu) | 0x800000u;
  let half = 1u << u32(drop - 1);
  let kept = mantissa >> u32(drop);
  let rest = mantissa & ((1u << u32(drop)) - 1u);
  let rounded = kept + select(0u, 1u, rest > half || (rest == half && (kept & 1u) == 1u));
  // `rounded` holds the implicit bit of a normal number, so adding it to the exponent less one carries by itself.
  return sign | ((u32(max(exponent + 14, 0)) << 10u) + rounded);
}
fn rp_from_bf16(x: u32) -> f32 { return bitcast<f32>(x << 16u); }
fn rp_from_f16(x: u32) -> f32 { return unpack2x16float(x).x; }

// The dtype of a kernel that has several: 0 f32, 1 f16, 2 bf16, and the integer that holds an element in memory.
const RP_DTYPE: u32 = 0u;
alias RP_STORED = u32;
fn rp_decode(x: u32) -> f32 {
  if RP_DTYPE == 0u { return bitcast<f32>(x); }
  if RP_DTYPE == 1u { return rp_from_f16(x); }
  return rp_from_bf16(x);
}
fn rp_encode(x: f32) -> u32 {
  if RP_DTYPE == 0u { return bitcast<u32>(x); }
  if RP_DTYPE == 1u { return rp_to_f16(x); }
  return rp_to_bf16(x);
}
