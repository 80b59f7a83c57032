// silu(x) = x / (1 + exp(-x)). Bindings and dispatch: shared/each.wgsl.

fn activation(value: f32) -> f32 {
  // Of the two forms that are alike, for each sign the one whose exponent is never infinite.
  let power = exp(-abs(value));
  return value * select(power, 1.0, value >= 0.0) / (1.0 + power);
}
