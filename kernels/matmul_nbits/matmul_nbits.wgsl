// y = x * dequantised(weights)^T, for weights of 2, 3, 4 or 8 bits.
//
//   y[r, n] = sum over k of x[r, k] * (code[n, k] - zero[n, g]) * scale[n, g],  g = k / GROUP
//
// An invocation computes ROW_TILE rows of one column n. Within a group the products of x and codes are summed up first
// and multiplied by the scale once. Codes lie as pytest_webaccel/engines/packing/layout.py says: 32 of them in BITS words.
//
// Bindings, all of group 0:
//   0  x       f32, (rows, groups * GROUP / 4) of vec4: rows of x, filled up with zeros to whole groups
//   1  words   u32, (columns, groups * GROUP / 32 * BITS): the codes
//   2  scales  u32, two float16 a word or one float32 (SCALE_BITS), (columns, groups) one after the other
//   3  zeros   u32, four uint8 a word, (columns, groups) one after the other; not read where HAS_ZEROS is false
//   4  y       f32, (rows, columns)
//   5  shape   u32: rows, columns, groups
//
// Dispatch: (ceil(columns / WORKGROUP), ceil(rows / ROW_TILE), 1).

override BITS: u32;
override GROUP: u32;
override SCALE_BITS: u32;
override HAS_ZEROS: bool;
override WORKGROUP: u32 = 64;  // tunable
override ROW_TILE: u32 = 4;    // tunable, up to 8

struct Shape {
  rows: u32,
  columns: u32,
  groups: u32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> words: array<u32>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read> zeros: array<u32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
@group(0) @binding(5) var<uniform> shape: Shape;

fn scale_at(index: u32) -> f32 {
  if (SCALE_BITS == 32u) {
    return bitcast<f32>(scales[index]);
  }
  return unpack2x16float(scales[index / 2u])[index % 2u];
}

fn zero_at(index: u32) -> f32 {
  if (!HAS_ZEROS) {
    return f32(1u << (BITS - 1u));
  }
  return f32((zeros[index / 4u] >> ((index % 4u) * 8u)) & 255u);
}

// Codes 4 * part to 4 * part + 3 of the block of 32 whose words begin at `base`.
fn codes_at(base: u32, part: u32) -> vec4<f32> {
  let lanes = vec4<u32>(0u, 1u, 2u, 3u);
  if (BITS == 3u) {
    let low = (vec4<u32>(words[base + part / 4u]) >> ((part % 4u) * 8u + lanes * 2u)) & vec4<u32>(3u);
    let high = (vec4<u32>(words[base + 2u]) >> (part * 4u + lanes)) & vec4<u32>(1u);
    return vec4<f32>(low | (high << vec4<u32>(2u)));
  }
  let first = part * 4u * BITS;
  let word = words[base + first / 32u];
  return vec4<f32>((vec4<u32>(word) >> (first % 32u + lanes * BITS)) & vec4<u32>((1u << BITS) - 1u));
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let column = id.x;
  let first_row = id.y * ROW_TILE;
  if (column >= shape.columns) {
    return;
  }
  let row_length = shape.groups * (GROUP / 4u);
  let blocks = GROUP / 32u;
  var sums: array<f32, 8>;
  for (var g = 0u; g < shape.groups; g++) {
    let zero = vec4<f32>(zero_at(column * shape.groups + g));
    // Spelt out: without it Chromium 153 and Firefox 153, both on SwiftShader, went on from the last group's sums.
    var parts = array<f32, 8>();
    for (var block = 0u; block < blocks; block++) {
      let base = ((column * shape.groups + g) * blocks + block) * BITS;
      for (var part = 0u; part < 8u; part++) {
        let weights = codes_at(base, part) - zero;
        let at = (g * blocks + block) * 8u + part;
        for (var r = 0u; r < ROW_TILE; r++) {
          // a row beyond the last reads one that is there; its sum is thrown away
          let row = min(first_row + r, shape.rows - 1u);
          parts[r] += dot(weights, x[row * row_length + at]);
        }
      }
    }
    let scale = scale_at(column * shape.groups + g);
    for (var r = 0u; r < ROW_TILE; r++) {
      sums[r] += parts[r] * scale;
    }
  }
  for (var r = 0u; r < ROW_TILE; r++) {
    if (first_row + r < shape.rows) {
      y[(first_row + r) * shape.columns + column] = sums[r];
    }
  }
}
