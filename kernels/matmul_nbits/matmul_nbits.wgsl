// y = x * dequantised(weights)^T, for weights of 2, 3, 4 or 8 bits.
//
//   y[r, n] = sum over k of x[r, k] * (code[n, k] - zero[n, g]) * scale[n, g],  g = k / GROUP
//
// An invocation computes ROW_TILE rows of one column n. Within a group the products of x and codes are summed up first
// and multiplied by the scale once.
//
// Bindings, all of group 0:
//   0  x       f32, (rows, groups * GROUP / 4) of vec4: rows of x, filled up with zeros to whole groups
//   1  packed  u32: the weights, (columns, groups * GROUP) of them, as shared/packed.wgsl says
//   2  y       f32, (rows, columns)
//   3  shape   u32: rows, columns, groups, where in packed the scales begin, and the zeros
//
// Dispatch: (ceil(columns / WORKGROUP), ceil(rows / ROW_TILE), 1).

override WORKGROUP: u32 = 64;  // tunable
override ROW_TILE: u32 = 4;    // tunable, up to 8

struct Shape {
  rows: u32,
  columns: u32,
  groups: u32,
  scales: u32,
  zeros: u32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> packed: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<uniform> shape: Shape;

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
    let zero = vec4<f32>(zero_at(shape.zeros, column * shape.groups + g));
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
    let scale = scale_at(shape.scales, column * shape.groups + g);
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
