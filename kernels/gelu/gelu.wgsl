// gelu(x) = x / 2 * (1 + erf(x / sqrt 2)), or its approximation by tanh where TANH is true.
//
// erf is that of Abramowitz and Stegun, 7.1.26, off by 1.5e-7 at most. tanh is bounded before it is taken: some drivers
// compute it as a quotient of exponents that both overflow. Bindings and dispatch: shared/each.wgsl.

override TANH: bool;

fn erf_of(value: f32) -> f32 {
  let t = 1.0 / (1.0 + 0.3275911 * abs(value));
  let series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  return sign(value) * (1.0 - series * exp(-value * value));
}

fn activation(value: f32) -> f32 {
  if (TANH) {
    let inner = 0.7978845608 * (value + 0.044715 * value * value * value);
    return 0.5 * value * (1.0 + tanh(clamp(inner, -15.0, 15.0)));
  }
  return 0.5 * value * (1.0 + erf_of(value * 0.7071067812));
}
