// float16, in 16 bits.

#pragma once

#include "simd.h"

// The first four of eight float16 as float32, exactly; an exponent of all ones stays one.
INLINE v128_t from_half(v128_t halves) {
  v128_t moved = wasm_i32x4_shl(wasm_i32x4_extend_low_i16x8(halves), 13), ones = wasm_u32x4_const_splat(0x0f800000);
  v128_t finite = wasm_f32x4_mul(wasm_v128_and(moved, wasm_u32x4_const_splat(0x8fffe000)), splat(0x1p112f));
  v128_t infinite = wasm_i32x4_eq(wasm_v128_and(moved, ones), ones);
  return wasm_v128_or(finite, wasm_v128_and(infinite, wasm_u32x4_const_splat(0x7f800000)));
}

INLINE float half_float(u32 half) { return wasm_f32x4_extract_lane(from_half(wasm_u32x4_make(half, 0, 0, 0)), 0); }

// The nearest float16, of two the even one; infinite from 65520 on.
INLINE u32 to_half(float value) {
  u32 bits = float_bits(value), sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
  if (size > 0x7f800000) return sign | 0x7e00;
  if (size >= 0x477ff000) return sign | 0x7c00;
  // below the least normal one, the addition rounds where float16 ends
  if (size < 0x38800000) return sign | (float_bits(float_of(size) + 0.5f) - float_bits(0.5f));
  return sign | (size + 0xfff + (size >> 13 & 1) - (112u << 23)) >> 13;
}
