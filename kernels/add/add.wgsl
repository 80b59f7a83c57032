// y = a + b, element by element; b is repeated where a has more elements: a bias for each row, a residual for all.
//
// Bindings, all of group 0:
//   0  a      f32, (count)
//   1  b      f32, (period), and count is a multiple of it
//   2  y      f32, (count)
//   3  shape  u32: count, the invocations of one row of workgroups, period
//
// Dispatch: (columns, rows, 1) workgroups of which there are enough for every element.

override WORKGROUP: u32 = 64;  // tunable

struct Shape {
  count: u32,
  stride: u32,
  period: u32,
}

@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<uniform> shape: Shape;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let at = id.y * shape.stride + id.x;
  if (at < shape.count) {
    y[at] = a[at] + b[at % shape.period];
  }
}
