// gelu(x) = x / 2 * (1 + erf(x / sqrt 2)) = x / 2 * erfc(-x / sqrt 2), or where TANH is true its approximation by tanh,
// x / 2 * (1 + tanh(u)) = x / (1 + exp(-2 u)). Neither loses the small answers left of 0.
//
//   x     f32, (count)
//   y     f32, (count)
//   args  u32: count; TANH

#include "../shared/maths.h"

INLINE v128_t by_erf(v128_t x) {
  v128_t z = wasm_f32x4_mul(x, splat(0.7071067812f));
  v128_t half = wasm_f32x4_mul(erfc_of(wasm_f32x4_abs(z)), splat(0.5f));
  v128_t right = wasm_f32x4_gt(z, splat(0.0f));
  return wasm_f32x4_mul(x, wasm_v128_bitselect(wasm_f32x4_sub(splat(1.0f), half), half, right));
}

INLINE v128_t by_tanh(v128_t x) {
  v128_t cube = wasm_f32x4_mul(wasm_f32x4_mul(x, x), x);
  return times_sigmoid(x, wasm_f32x4_mul(madd(cube, splat(0.044715f), x), splat(1.5957691216f)));
}

EXPORT(gelu) void gelu(const float *x, float *y, const u32 *args) {
  if (args[1]) for_each(x, y, args[0], by_tanh);
  else for_each(x, y, args[0], by_erf);
}
