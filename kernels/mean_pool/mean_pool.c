// y = the mean of the rows of x, and where NORMALISE is true brought to length 1.
//
//   x     f32, (rows, columns)
//   y     f32, (columns)
//   args  u32: rows, columns; NORMALISE

#include "../shared/simd.h"

EXPORT(mean_pool) void mean_pool(const float *x, float *y, const u32 *args) {
  u32 rows = args[0], columns = args[1];
  double squares = 0;
  for (u32 n = 0; n < columns; n += LANES) {
    u32 count = least(columns - n, LANES);
    v128_t sum = splat(0);
    for (u32 r = 0; r < rows; r++) {
      const float *from = x + r * columns + n;
      sum = wasm_f32x4_add(sum, count == LANES ? load(from) : load_some(from, count));
    }
    v128_t mean = wasm_f32x4_div(sum, splat((float)rows));
    store_some(y + n, mean, count);
    for (u32 i = 0; i < count; i++) squares += (double)y[n + i] * y[n + i];
  }
  if (!args[2]) return;
  float size = (float)__builtin_sqrt(squares);
  if (size < 1e-12f) size = 1e-12f;
  for (u32 n = 0; n < columns; n++) y[n] /= size;
}
