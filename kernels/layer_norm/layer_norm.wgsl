// y = (x - mean) / sqrt(variance + epsilon) * weight + bias, row by row.
//
// The mean first and then the mean of squared differences from it: one pass over both sums would cancel where the mean
// is large beside the spread. A workgroup computes one row, with shared/rows.wgsl.
//
// Bindings, all of group 0:
//   0  x       f32, (rows, columns)
//   1  weight  f32, (columns)
//   2  bias    f32, (columns)
//   3  y       f32, (rows, columns)
//   4  shape   u32: rows, columns, and the bits of epsilon, a float32
//
// Dispatch: (rows, 1, 1).

struct Shape {
  rows: u32,
  columns: u32,
  epsilon: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<uniform> shape: Shape;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let first = group.x * shape.columns;
  let count = f32(shape.columns);
  var sum = 0.0;
  for (var n = lane; n < shape.columns; n += WORKGROUP) {
    sum += x[first + n];
  }
  let mean = summed(sum, lane) / count;
  var squares = 0.0;
  for (var n = lane; n < shape.columns; n += WORKGROUP) {
    let off = x[first + n] - mean;
    squares += off * off;
  }
  let factor = 1.0 / sqrt(summed(squares, lane) / count + bitcast<f32>(shape.epsilon));
  for (var n = lane; n < shape.columns; n += WORKGROUP) {
    y[first + n] = (x[first + n] - mean) * factor * weight[n] + bias[n];
  }
}
