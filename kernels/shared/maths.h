// Functions of four float32 at once.

#pragma once

#include "simd.h"

// exp: r = x - n ln 2 and the polynomial of Cephes' expf, within 2 ulp; denormal answers too, infinity from 88.73 on.
INLINE v128_t exp_of(v128_t x) {
  // operands in this order keep a NaN
  x = wasm_f32x4_pmax(wasm_f32x4_pmin(x, splat(90.0f)), splat(-105.0f));
  v128_t n = wasm_f32x4_nearest(wasm_f32x4_mul(x, splat(1.44269504f)));
  v128_t r = madd(n, splat(-0.693359375f), x);
  r = madd(n, splat(2.12194440e-4f), r);
  v128_t p = splat(1.9875691500e-4f);
  p = madd(p, r, splat(1.3981999507e-3f));
  p = madd(p, r, splat(8.3334519073e-3f));
  p = madd(p, r, splat(4.1665795894e-2f));
  p = madd(p, r, splat(1.6666665459e-1f));
  p = madd(p, r, splat(5.0000001201e-1f));
  p = wasm_f32x4_add(madd(p, wasm_f32x4_mul(r, r), r), splat(1.0f));
  // 2^n in two factors: 2^-150 and 2^130 are none of float32
  v128_t whole = wasm_i32x4_trunc_sat_f32x4(n);
  v128_t half = wasm_i32x4_shr(whole, 1);
  v128_t bias = wasm_i32x4_const_splat(127);
  v128_t one = wasm_i32x4_shl(wasm_i32x4_add(half, bias), 23);
  v128_t two = wasm_i32x4_shl(wasm_i32x4_add(wasm_i32x4_sub(whole, half), bias), 23);
  return wasm_f32x4_mul(wasm_f32x4_mul(p, one), two);
}

// x / (1 + exp(-z))
INLINE v128_t times_sigmoid(v128_t x, v128_t z) {
  return wasm_f32x4_div(x, wasm_f32x4_add(splat(1.0f), exp_of(wasm_f32x4_neg(z))));
}

// erfc of what is not negative, with a relative error of 1.2e-7 beside that of exp: Numerical Recipes, 6.2.
INLINE v128_t erfc_of(v128_t z) {
  static const float SERIES[] = {-0.82215223f, 1.48851587f, -1.13520398f, 0.27886807f, -0.18628806f,
                                 0.09678418f,  0.37409196f, 1.00002368f,  -1.26551223f};
  v128_t t = wasm_f32x4_div(splat(1.0f), madd(z, splat(0.5f), splat(1.0f)));
  v128_t p = splat(0.17087277f);
#pragma unroll
  for (int i = 0; i < 9; i++) p = madd(p, t, splat(SERIES[i]));
  return wasm_f32x4_mul(t, exp_of(wasm_f32x4_sub(p, wasm_f32x4_mul(z, z))));
}
