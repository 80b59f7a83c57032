// Attention of each row of a sequence over its rows, head by head; over those up to itself where CAUSAL is true.
//
//   y[r, h] = sum over t of p[t] * v[t, h],  p = softmax over t of (q[r, h] . k[t, h] * scale)
//
// A workgroup computes one head of one row, with shared/rows.wgsl. It keeps the scores of all rows, so that there may be
// 2048 of them.
//
// Bindings, all of group 0:
//   0  q      f32, (rows, heads, dim)
//   1  k      f32, (rows, heads, dim)
//   2  v      f32, (rows, heads, dim)
//   3  y      f32, (rows, heads, dim)
//   4  shape  u32: rows, heads, dim, and the bits of scale, a float32
//
// Dispatch: (heads, rows, 1).

override CAUSAL: bool;

struct Shape {
  rows: u32,
  heads: u32,
  dim: u32,
  scale: u32,
}

@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> k: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<uniform> shape: Shape;

var<workgroup> scores: array<f32, 2048>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let width = shape.heads * shape.dim;
  let own = group.y * width + group.x * shape.dim;
  let seen = select(shape.rows, group.y + 1u, CAUSAL);
  var most = -3.0e38;
  for (var t = lane; t < seen; t += WORKGROUP) {
    let other = t * width + group.x * shape.dim;
    var sum = 0.0;
    for (var d = 0u; d < shape.dim; d++) {
      sum += q[own + d] * k[other + d];
    }
    let score = sum * bitcast<f32>(shape.scale);
    scores[t] = score;
    most = max(most, score);
  }
  let high = largest(most, lane);
  var powers = 0.0;
  for (var t = lane; t < seen; t += WORKGROUP) {
    let power = exp(scores[t] - high);
    scores[t] = power;
    powers += power;
  }
  let total = summed(powers, lane);  // its barriers show every score to all
  for (var d = lane; d < shape.dim; d += WORKGROUP) {
    var sum = 0.0;
    for (var t = 0u; t < seen; t++) {
      sum += scores[t] * v[t * width + group.x * shape.dim + d];
    }
    y[own + d] = sum / total;
  }
}
