// Rotary position embedding: each pair (a, b) of a head is turned by angle = position * base^(-2 i / dim).
//
//   y_a = a cos - b sin,  y_b = a sin + b cos
//
// Pair i is (i, i + dim / 2), or (2 i, 2 i + 1) where INTERLEAVED is true. The turns come as a table, as for WebGPU.
//
//   x      f32, (rows, heads, dim)
//   turns  f32, (rows, dim / 2, 2): cos, sin
//   y      f32, (rows, heads, dim)
//   args   u32: count of pairs, heads, dim / 2; INTERLEAVED

#include "../shared/simd.h"

typedef struct {
  u32 count, heads, pairs, interleaved;
} Args;

EXPORT(rope) void rope(const float *x, const float *turns, float *y, const Args *args) {
  u32 pairs = args->pairs, all = args->count / pairs;
  u32 step = args->interleaved ? 2 : 1, apart = args->interleaved ? 1 : pairs;
  for (u32 head = 0; head < all; head++, x += pairs * 2, y += pairs * 2) {
    const float *turn = turns + head / args->heads * pairs * 2;
    u32 i = 0;
    for (; !args->interleaved && i + LANES <= pairs; i += LANES) {
      v128_t low = load(turn + i * 2), high = load(turn + i * 2 + LANES);
      v128_t cos = wasm_i32x4_shuffle(low, high, 0, 2, 4, 6), sin = wasm_i32x4_shuffle(low, high, 1, 3, 5, 7);
      v128_t a = load(x + i), b = load(x + i + pairs);
      store(y + i, wasm_f32x4_sub(wasm_f32x4_mul(a, cos), wasm_f32x4_mul(b, sin)));
      store(y + i + pairs, madd(a, sin, wasm_f32x4_mul(b, cos)));
    }
    for (; i < pairs; i++) {
      float cos = turn[i * 2], sin = turn[i * 2 + 1], a = x[i * step], b = x[i * step + apart];
      y[i * step] = a * cos - b * sin;
      y[i * step + apart] = a * sin + b * cos;
    }
  }
}
