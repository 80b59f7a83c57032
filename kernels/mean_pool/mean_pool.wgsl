// y = the mean of the rows of x, and where NORMALISE is true brought to length 1.
//
//   m[n] = sum over r of x[r, n] / rows,  y[n] = m[n] / max(sqrt(sum over n of m[n]^2), 1e-12)
//
// One workgroup computes it, with shared/rows.wgsl.
//
// Bindings, all of group 0:
//   0  x      f32, (rows, columns)
//   1  y      f32, (columns)
//   2  shape  u32: rows, columns
//
// Dispatch: (1, 1, 1).

override NORMALISE: bool;

struct Shape {
  rows: u32,
  columns: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<uniform> shape: Shape;

fn mean_of(n: u32) -> f32 {
  var sum = 0.0;
  for (var r = 0u; r < shape.rows; r++) {
    sum += x[r * shape.columns + n];
  }
  return sum / f32(shape.rows);
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(local_invocation_index) lane: u32) {
  var squares = 0.0;
  for (var n = lane; n < shape.columns; n += WORKGROUP) {
    let mean = mean_of(n);
    squares += mean * mean;
    y[n] = mean;
  }
  let size = max(sqrt(summed(squares, lane)), 1e-12);
  if (NORMALISE) {
    for (var n = lane; n < shape.columns; n += WORKGROUP) {
      y[n] /= size;
    }
  }
}
