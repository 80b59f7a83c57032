// y = softmax of x, row by row: exp(x - m) over its sum, m the row's largest, so that no exponent overflows.
//
// A workgroup computes one row, with shared/rows.wgsl.
//
// Bindings, all of group 0:
//   0  x      f32, (rows, columns)
//   1  y      f32, (rows, columns)
//   2  shape  u32: rows, columns
//
// Dispatch: (rows, 1, 1).

struct Shape {
  rows: u32,
  columns: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<uniform> shape: Shape;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let first = group.x * shape.columns;
  // where there are fewer columns than invocations, the others look at the first once more
  var most = x[first + lane % shape.columns];
  for (var n = lane; n < shape.columns; n += WORKGROUP) {
    most = max(most, x[first + n]);
  }
  let high = largest(most, lane);
  var sum = 0.0;
  for (var n = lane; n < shape.columns; n += WORKGROUP) {
    sum += exp(x[first + n] - high);
  }
  let total = summed(sum, lane);
  for (var n = lane; n < shape.columns; n += WORKGROUP) {
    y[first + n] = exp(x[first + n] - high) / total;
  }
}
