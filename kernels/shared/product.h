// What is inside every product of many rows: ROWS rows of a matrix by columns of another, kept in registers.

#pragma once

#include "simd.h"

#define ROWS 4
#define COLUMNS 8

// y = a b, or y += a b where `adds`. `a` is (depth, ROWS), `b` has rows of COLUMNS that lie `stride` apart, `y` has
// rows that lie `width` apart, of which the first `rows` are written, and of each the first `columns`.
static void product(const float *a, const float *b, u32 stride, u32 depth, float *y, u32 width, u32 rows, u32 columns,
                    u32 adds) {
  v128_t sum[ROWS][2];
#pragma unroll
  for (int r = 0; r < ROWS; r++) sum[r][0] = sum[r][1] = splat(0);
#pragma clang loop unroll(disable)
  for (u32 k = 0; k < depth; k++) {
    v128_t one = load(b + k * stride), two = load(b + k * stride + 4);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      v128_t all = load_splat(a + k * ROWS + r);
      sum[r][0] = madd(one, all, sum[r][0]);
      sum[r][1] = madd(two, all, sum[r][1]);
    }
  }
  for (u32 r = 0; r < rows; r++, y += width) {
    if (columns >= COLUMNS) {
      store(y, adds ? wasm_f32x4_add(load(y), sum[r][0]) : sum[r][0]);
      store(y + 4, adds ? wasm_f32x4_add(load(y + 4), sum[r][1]) : sum[r][1]);
    } else {
      float all[COLUMNS];
      store(all, sum[r][0]);
      store(all + 4, sum[r][1]);
      for (u32 n = 0; n < columns; n++) y[n] = adds ? y[n] + all[n] : all[n];
    }
  }
}
