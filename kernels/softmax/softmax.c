// y = softmax of x, row by row: exp(x - m) over its sum, m the row's largest, so that no exponent overflows.
//
//   x     f32, (rows, columns)
//   y     f32, (rows, columns)
//   args  u32: rows, columns

#include "../shared/maths.h"

static float largest(const float *x, u32 columns) {
  v128_t most = splat(x[0]);
  u32 n = 0;
  for (; n + LANES <= columns; n += LANES) most = wasm_f32x4_max(most, load(x + n));
  for (; n < columns; n++) most = wasm_f32x4_max(most, splat(x[n]));
  most = wasm_f32x4_max(most, wasm_i32x4_shuffle(most, most, 2, 3, 0, 1));
  return wasm_f32x4_extract_lane(wasm_f32x4_max(most, wasm_i32x4_shuffle(most, most, 1, 0, 3, 2)), 0);
}

EXPORT(softmax) void softmax(const float *x, float *y, const u32 *args) {
  u32 rows = args[0], columns = args[1], whole = columns / LANES * LANES, left = columns % LANES;
  for (u32 r = 0; r < rows; r++, x += columns, y += columns) {
    v128_t most = splat(largest(x, columns)), sum = splat(0);
    for (u32 n = 0; n < whole; n += LANES) {
      v128_t power = exp_of(wasm_f32x4_sub(load(x + n), most));
      sum = wasm_f32x4_add(sum, power);
      store(y + n, power);
    }
    float total = sum_of(sum);
    if (left) {
      store_some(y + whole, exp_of(wasm_f32x4_sub(load_some(x + whole, left), most)), left);
      for (u32 n = whole; n < columns; n++) total += y[n];
    }
    for (u32 n = 0; n < whole; n += LANES) store(y + n, wasm_f32x4_div(load(y + n), splat(total)));
    for (u32 n = whole; n < columns; n++) y[n] /= total;
  }
}
