// y = activation(x), element by element. Whoever takes this defines `activation`.
//
// Bindings, all of group 0:
//   0  x      f32, (count)
//   1  y      f32, (count)
//   2  shape  u32: count, and the invocations of one row of workgroups
//
// Dispatch: (columns, rows, 1) workgroups of which there are enough for every element.

override WORKGROUP: u32 = 64;  // tunable

struct Shape {
  count: u32,
  stride: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<uniform> shape: Shape;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let at = id.y * shape.stride + id.x;
  if (at < shape.count) {
    y[at] = activation(x[at]);
  }
}
