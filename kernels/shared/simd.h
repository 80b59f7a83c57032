// Four float32 at once. What the kernels of every folder take from here; there is no C library below it.

#pragma once

#include <stdint.h>
#include <wasm_simd128.h>

typedef uint32_t u32;
typedef uint8_t u8;

#define EXPORT(name) __attribute__((export_name(#name)))
#define INLINE static inline __attribute__((always_inline))

#define LANES 4

INLINE v128_t splat(float value) { return wasm_f32x4_splat(value); }

INLINE v128_t load(const void *from) { return wasm_v128_load(from); }

INLINE v128_t load_splat(const float *from) { return wasm_v128_load32_splat(from); }

INLINE void store(void *to, v128_t value) { wasm_v128_store(to, value); }

INLINE u32 least(u32 a, u32 b) { return a < b ? a : b; }

INLINE float float_of(u32 bits) { return __builtin_bit_cast(float, bits); }

INLINE u32 float_bits(float value) { return __builtin_bit_cast(u32, value); }

// a * b + c: in the build with relaxed SIMD rounded once where the processor does that.
INLINE v128_t madd(v128_t a, v128_t b, v128_t c) {
#ifdef __wasm_relaxed_simd__
  return wasm_f32x4_relaxed_madd(a, b, c);
#else
  return wasm_f32x4_add(wasm_f32x4_mul(a, b), c);
#endif
}

// Bytes of a table by their numbers, 0 to 15; 0 for a number from 128 on.
INLINE v128_t look_up(v128_t table, v128_t numbers) {
#ifdef __wasm_relaxed_simd__
  return wasm_i8x16_relaxed_swizzle(table, numbers);
#else
  return wasm_i8x16_swizzle(table, numbers);
#endif
}

// The value, computed here: what follows is not mixed with what led to it, for which there are not enough registers.
INLINE v128_t settled(v128_t value) {
  __asm__ volatile("" : "+r"(value));
  return value;
}

// The first `count` of four, zeros for the others.
INLINE v128_t load_some(const float *from, u32 count) {
  float all[LANES] = {0};
  for (u32 i = 0; i < count; i++) all[i] = from[i];
  return load(all);
}

// The first `count` of four.
INLINE void store_some(float *to, v128_t value, u32 count) {
  float all[LANES];
  store(all, value);
  for (u32 i = 0; i < count; i++) to[i] = all[i];
}

INLINE float sum_of(v128_t value) {
  return (wasm_f32x4_extract_lane(value, 0) + wasm_f32x4_extract_lane(value, 1)) +
         (wasm_f32x4_extract_lane(value, 2) + wasm_f32x4_extract_lane(value, 3));
}

// y = f(x), element by element.
INLINE void for_each(const float *x, float *y, u32 count, v128_t (*f)(v128_t)) {
  u32 whole = count / LANES * LANES, left = count % LANES;
  for (u32 at = 0; at < whole; at += LANES) store(y + at, f(load(x + at)));
  if (left) store_some(y + whole, f(load_some(x + whole, left)), left);
}
