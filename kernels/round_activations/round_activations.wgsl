// Activations rounded to few bits, 32 elements of a row under one scale, for kernels/matmul_rounded.
//
//   x[r, k] = value[r, k] * scale[r, block of k], rounded
//
// To int8 a scale is the largest |x| of its block over 127, and one over it is cut to 12 bits: so what lies half between two
// values does so on every adapter, however it divides, and is rounded alike. To float16 a scale is the power of two below
// the largest |x|, so that no value is too large for float16 and none too small that counts. A block of nothing, or of
// less than SMALLEST, has values of 0. The last block of a row is filled up with zeros.
//
// Bindings, all of group 0:
//   0  x       f32, (rows, k)
//   1  values  u32: (rows, blocks, ACTIVATION_BITS), four int8 or two float16 a word, the first in the lowest bits
//   2  scales  f32: (rows, blocks, 2), the scale, and scale * sum of the block's values
//   3  shape   u32: count of blocks in all rows, invocations of one row of workgroups, k, blocks of a row
//
// Dispatch: (columns, rows, 1) workgroups of which there are enough for every block.

override ACTIVATION_BITS: u32;  // 8 or 16
override WORKGROUP: u32 = 64;  // tunable

const SMALLEST = 1e-35;

struct Shape {
  count: u32,
  stride: u32,
  k: u32,
  blocks: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> values: array<u32>;
@group(0) @binding(2) var<storage, read_write> scales: array<f32>;
@group(0) @binding(3) var<uniform> shape: Shape;

fn four(row: u32, first: u32) -> vec4<f32> {
  let k = vec4<u32>(first, first + 1u, first + 2u, first + 3u);
  let at = row * shape.k + min(k, vec4<u32>(shape.k - 1u));
  return select(vec4<f32>(), vec4<f32>(x[at.x], x[at.y], x[at.z], x[at.w]), k < vec4<u32>(shape.k));
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * shape.stride + id.x;
  if (i >= shape.count) {
    return;
  }
  let row = i / shape.blocks;
  let first = i % shape.blocks * 32u;
  var most = vec4<f32>();
  for (var quad = 0u; quad < 8u; quad++) {
    most = max(most, abs(four(row, first + quad * 4u)));
  }
  let largest = max(max(most.x, most.y), max(most.z, most.w));
  var scale = 0.0;
  var factor = 0.0;
  if (largest >= SMALLEST) {
    if (ACTIVATION_BITS == 8u) {
      factor = bitcast<f32>(bitcast<u32>(127.0 / largest) & 0xfffff000u);
      scale = 1.0 / factor;
    } else {
      let exponent = min(bitcast<u32>(largest) >> 23u, 253u);
      scale = bitcast<f32>(exponent << 23u);
      factor = bitcast<f32>((254u - exponent) << 23u);
    }
  }
  var sum = vec4<f32>();
  for (var quad = 0u; quad < 8u; quad++) {
    let scaled = four(row, first + quad * 4u) * factor;
    if (ACTIVATION_BITS == 8u) {
      let rounded = clamp(round(scaled), vec4<f32>(-127.0), vec4<f32>(127.0));
      sum += rounded;
      let bytes = (bitcast<vec4<u32>>(vec4<i32>(rounded)) & vec4<u32>(255u)) << vec4<u32>(0u, 8u, 16u, 24u);
      values[i * 8u + quad] = bytes.x | bytes.y | bytes.z | bytes.w;
    } else {
      let low = pack2x16float(scaled.xy);
      let high = pack2x16float(scaled.zw);
      sum += vec4<f32>(unpack2x16float(low), unpack2x16float(high));
      values[i * 16u + quad * 2u] = low;
      values[i * 16u + quad * 2u + 1u] = high;
    }
  }
  scales[2u * i] = scale;
  scales[2u * i + 1u] = scale * (sum.x + sum.y + sum.z + sum.w);
}
