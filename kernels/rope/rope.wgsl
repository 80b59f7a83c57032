// Rotary position embedding: each pair (a, b) of a head is turned by angle = position * base^(-2 i / dim).
//
//   y_a = a cos - b sin,  y_b = a sin + b cos
//
// Pair i is (i, i + dim / 2), or (2 i, 2 i + 1) where INTERLEAVED is true. The turns come as a table, (rows, dim / 2) of
// cos and sin, made in float64: an angle of some thousand radians has few digits left in float32.
//
// Bindings, all of group 0:
//   0  x      f32, (rows, heads, dim)
//   1  turns  f32, (rows, dim / 2) of vec2: cos, sin
//   2  y      f32, (rows, heads, dim)
//   3  shape  u32: count of pairs, invocations of one row of workgroups, heads, dim / 2
//
// Dispatch: (columns, rows, 1) workgroups of which there are enough for every pair.

override INTERLEAVED: bool;
override WORKGROUP: u32 = 64;  // tunable

struct Shape {
  count: u32,
  stride: u32,
  heads: u32,
  pairs: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> turns: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<uniform> shape: Shape;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let at = id.y * shape.stride + id.x;
  if (at >= shape.count) {
    return;
  }
  let pair = at % shape.pairs;
  let head = at / shape.pairs;
  let row = head / shape.heads;
  let first = head * shape.pairs * 2u;
  var one = first + pair;
  var two = one + shape.pairs;
  if (INTERLEAVED) {
    one = first + pair * 2u;
    two = one + 1u;
  }
  let turn = turns[row * shape.pairs + pair];
  y[one] = x[one] * turn.x - x[two] * turn.y;
  y[two] = x[one] * turn.y + x[two] * turn.x;
}
