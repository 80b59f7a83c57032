// Low-bit weights in one buffer: the codes, then scales (two float16 a word, or one float32), then zeros (four uint8 a
// word), as Packed.words, .scales and .zeros of pytest_webaccel/engines/packing hold them, one after the other.

#pragma once

#include "half.h"

#define BLOCK 32

// Stores 16 bytes as float32.
INLINE void store_bytes(float *to, v128_t bytes) {
  v128_t low = wasm_u16x8_extend_low_u8x16(bytes), high = wasm_u16x8_extend_high_u8x16(bytes);
  store(to, wasm_f32x4_convert_i32x4(wasm_u32x4_extend_low_u16x8(low)));
  store(to + 4, wasm_f32x4_convert_i32x4(wasm_u32x4_extend_high_u16x8(low)));
  store(to + 8, wasm_f32x4_convert_i32x4(wasm_u32x4_extend_low_u16x8(high)));
  store(to + 12, wasm_f32x4_convert_i32x4(wasm_u32x4_extend_high_u16x8(high)));
}

// Stores the codes of a block, 32 float32; `bits` words are read.
INLINE void unpack_block(float *to, const u32 *words, u32 bits) {
  if (bits == 8) {
    store_bytes(to, load(words));
    store_bytes(to + 16, load(words + 4));
  } else if (bits == 4) {
    v128_t both = load(words);
    v128_t even = wasm_v128_and(both, wasm_u8x16_const_splat(15)), odd = wasm_u8x16_shr(both, 4);
    store_bytes(to, wasm_i8x16_shuffle(even, odd, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23));
    store_bytes(to + 16, wasm_i8x16_shuffle(even, odd, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31));
  } else if (bits == 2) {
    v128_t all = wasm_v128_load64_zero(words), mask = wasm_u8x16_const_splat(3);
    v128_t a = wasm_v128_and(all, mask), b = wasm_v128_and(wasm_u8x16_shr(all, 2), mask);
    v128_t c = wasm_v128_and(wasm_u8x16_shr(all, 4), mask), d = wasm_u8x16_shr(all, 6);
    v128_t ab = wasm_i8x16_shuffle(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    v128_t cd = wasm_i8x16_shuffle(c, d, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    store_bytes(to, wasm_i16x8_shuffle(ab, cd, 0, 8, 1, 9, 2, 10, 3, 11));
    store_bytes(to + 16, wasm_i16x8_shuffle(ab, cd, 4, 12, 5, 13, 6, 14, 7, 15));
  } else {
    uint64_t low = words[0] | (uint64_t)words[1] << 32, high = words[1] >> 31 | (uint64_t)words[2] << 1;
    for (u32 i = 0; i < 21; i++) to[i] = (float)(u32)(low >> 3 * i & 7);
    for (u32 i = 21; i < BLOCK; i++) to[i] = (float)(u32)(high >> 3 * (i - 21) & 7);
  }
}

// The scale of group `at`, of scales that begin at word `begin`.
INLINE float scale_at(const u32 *packed, u32 begin, u32 at, u32 scale_bits) {
  if (scale_bits == 32) return float_of(packed[begin + at]);
  return half_float(packed[begin + at / 2] >> at % 2 * 16 & 0xffff);
}

INLINE float zero_at(const u32 *packed, u32 begin, u32 at, u32 bits, u32 has_zeros) {
  return (float)(has_zeros ? packed[begin + at / 4] >> at % 4 * 8 & 255 : 1u << (bits - 1));
}
