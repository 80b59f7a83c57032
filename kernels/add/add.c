// y = a + b, element by element; b is repeated where a has more elements: a bias for each row, a residual for all.
//
//   a     f32, (count)
//   b     f32, (period), and count is a multiple of it
//   y     f32, (count)
//   args  u32: count, period

#include "../shared/simd.h"

EXPORT(add) void add(const float *a, const float *b, float *y, const u32 *args) {
  u32 count = args[0], period = args[1];
  for (u32 first = 0; first < count; first += period) {
    u32 at = 0;
    for (; at + LANES <= period; at += LANES) {
      store(y + first + at, wasm_f32x4_add(load(a + first + at), load(b + at)));
    }
    for (; at < period; at++) y[first + at] = a[first + at] + b[at];
  }
}
