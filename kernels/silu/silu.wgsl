// silu(x) = x / (1 + exp(-x)). Bindings and dispatch: shared/each.wgsl.

fn activation(value: f32) -> f32 {
  // beyond -80 the answer is nothing in float32, and an exponent of more would be infinite
  return value / (1.0 + exp(min(-value, 80.0)));
}
