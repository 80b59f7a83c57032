// y = (x - mean) / sqrt(variance + epsilon) * weight + bias, row by row.
//
// Sums are taken in float64, and the mean is taken off in two parts, a float32 and what it lacks: where the mean is
// large beside the spread, its rounding alone would show.
//
//   x       f32, (rows, columns)
//   weight  f32, (columns)
//   bias    f32, (columns)
//   y       f32, (rows, columns)
//   args    u32: rows, columns, and the bits of epsilon, a float32

#include "../shared/simd.h"

static double sum_of_row(const float *x, u32 columns) {
  v128_t one = wasm_f64x2_const_splat(0), two = one;
  u32 n = 0;
  for (; n + LANES <= columns; n += LANES) {
    one = wasm_f64x2_add(one, wasm_f64x2_promote_low_f32x4(wasm_v128_load64_zero(x + n)));
    two = wasm_f64x2_add(two, wasm_f64x2_promote_low_f32x4(wasm_v128_load64_zero(x + n + 2)));
  }
  v128_t both = wasm_f64x2_add(one, two);
  double sum = wasm_f64x2_extract_lane(both, 0) + wasm_f64x2_extract_lane(both, 1);
  for (; n < columns; n++) sum += x[n];
  return sum;
}

INLINE v128_t squared(v128_t pair) { return wasm_f64x2_mul(pair, pair); }

static double squares_of_row(const float *y, u32 columns) {
  v128_t one = wasm_f64x2_const_splat(0), two = one;
  u32 n = 0;
  for (; n + LANES <= columns; n += LANES) {
    one = wasm_f64x2_add(one, squared(wasm_f64x2_promote_low_f32x4(wasm_v128_load64_zero(y + n))));
    two = wasm_f64x2_add(two, squared(wasm_f64x2_promote_low_f32x4(wasm_v128_load64_zero(y + n + 2))));
  }
  v128_t both = wasm_f64x2_add(one, two);
  double sum = wasm_f64x2_extract_lane(both, 0) + wasm_f64x2_extract_lane(both, 1);
  for (; n < columns; n++) sum += (double)y[n] * y[n];
  return sum;
}

EXPORT(layer_norm)
void layer_norm(const float *x, const float *weight, const float *bias, float *y, const u32 *args) {
  u32 rows = args[0], columns = args[1];
  for (u32 r = 0; r < rows; r++, x += columns, y += columns) {
    double mean = sum_of_row(x, columns) / columns;
    float high = (float)mean, low = (float)(mean - high);
    u32 n = 0;
    for (; n + LANES <= columns; n += LANES) {
      store(y + n, wasm_f32x4_sub(wasm_f32x4_sub(load(x + n), splat(high)), splat(low)));
    }
    for (; n < columns; n++) y[n] = x[n] - high - low;
    double variance = squares_of_row(y, columns) / columns;
    float factor = (float)(1 / __builtin_sqrt(variance + (double)float_of(args[2])));
    for (n = 0; n + LANES <= columns; n += LANES) {
      store(y + n, madd(wasm_f32x4_mul(load(y + n), splat(factor)), load(weight + n), load(bias + n)));
    }
    for (; n < columns; n++) y[n] = y[n] * factor * weight[n] + bias[n];
  }
}
