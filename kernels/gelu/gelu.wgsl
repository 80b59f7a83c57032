// y = gelu(x), element by element: x / 2 * (1 + erf(x / sqrt 2)), or its approximation by tanh where TANH is true.
//
// erf is that of Abramowitz and Stegun, 7.1.26, off by 1.5e-7 at most. tanh is bounded before it is taken: some drivers
// compute it as a quotient of exponents that both overflow.
//
// Bindings, all of group 0:
//   0  x      f32, (count)
//   1  y      f32, (count)
//   2  shape  u32: count, and the invocations of one row of workgroups
//
// Dispatch: (columns, rows, 1) workgroups of which there are enough for every element.

override TANH: bool;
override WORKGROUP: u32 = 64;  // tunable

struct Shape {
  count: u32,
  stride: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<uniform> shape: Shape;

fn erf_of(value: f32) -> f32 {
  let t = 1.0 / (1.0 + 0.3275911 * abs(value));
  let series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  return sign(value) * (1.0 - series * exp(-value * value));
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let at = id.y * shape.stride + id.x;
  if (at >= shape.count) {
    return;
  }
  let value = x[at];
  if (TANH) {
    let inner = 0.7978845608 * (value + 0.044715 * value * value * value);
    y[at] = 0.5 * value * (1.0 + tanh(clamp(inner, -15.0, 15.0)));
  } else {
    y[at] = 0.5 * value * (1.0 + erf_of(value * 0.7071067812));
  }
}
