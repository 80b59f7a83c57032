// Attention of each row of a sequence over its rows, head by head; over those up to itself where CAUSAL is true.
//
//   y[r, h] = sum over t of p[t] * v[t, h],  p = softmax over t of (q[r, h] . k[t, h] * scale)
//
// Four rows of a head are computed at once, a lane each, so that a softmax goes down the lanes. Their scores over all
// rows are kept: there may be 2048.
//
//   q     f32, (rows, heads, dim)
//   k     f32, (rows, heads, dim)
//   v     f32, (rows, heads, dim)
//   y     f32, (rows, heads, dim)
//   args  u32: rows, heads, dim, and the bits of scale, a float32; CAUSAL

#include "../shared/maths.h"
#include "../shared/product.h"

#define MOST_ROWS 2048
#define DEPTH 128
#define TOKENS 8

typedef struct {
  u32 rows, heads, dim, scale, causal;
} Args;

static float scores[MOST_ROWS * ROWS] __attribute__((aligned(16)));
static float across[DEPTH * ROWS] __attribute__((aligned(16)));

// Adds q . k to the scores of `seen` tokens, over `depth` channels that lie across.
static void add_scores(const float *k, u32 width, u32 seen, u32 depth) {
  u32 t = 0;
  for (; t + TOKENS <= seen; t += TOKENS) {
    const float *from = k + t * width;
    v128_t sum[TOKENS];
#pragma unroll
    for (int i = 0; i < TOKENS; i++) sum[i] = load(scores + (t + i) * ROWS);
    for (u32 d = 0; d < depth; d++) {
      v128_t all = load(across + d * ROWS);
#pragma unroll
      for (int i = 0; i < TOKENS; i++) sum[i] = madd(all, load_splat(from + i * width + d), sum[i]);
    }
#pragma unroll
    for (int i = 0; i < TOKENS; i++) store(scores + (t + i) * ROWS, sum[i]);
  }
  for (; t < seen; t++) {
    v128_t sum = load(scores + t * ROWS);
    for (u32 d = 0; d < depth; d++) sum = madd(load(across + d * ROWS), load_splat(k + t * width + d), sum);
    store(scores + t * ROWS, sum);
  }
}

// Turns the scores into exponents, each lane's over its largest, and returns their sums. A lane that is causal sees
// tokens up to `first` + its number.
static v128_t powers(u32 seen, float scale, u32 first, u32 causal) {
  v128_t own = wasm_i32x4_add(wasm_i32x4_splat((int)first), wasm_i32x4_const(0, 1, 2, 3));
  v128_t most = splat(-__builtin_inff()), sum = splat(0);
  for (u32 t = 0; t < seen; t++) {
    v128_t score = wasm_f32x4_mul(load(scores + t * ROWS), splat(scale));
    if (causal) {
      v128_t hidden = wasm_i32x4_gt(wasm_i32x4_splat((int)t), own);
      score = wasm_v128_bitselect(splat(-__builtin_inff()), score, hidden);
    }
    most = wasm_f32x4_max(most, score);
    store(scores + t * ROWS, score);
  }
  for (u32 t = 0; t < seen; t++) {
    v128_t power = exp_of(wasm_f32x4_sub(load(scores + t * ROWS), most));
    sum = wasm_f32x4_add(sum, power);
    store(scores + t * ROWS, power);
  }
  return sum;
}

EXPORT(self_attention)
void self_attention(const float *q, const float *k, const float *v, float *y, const Args *args) {
  u32 rows = args->rows, dim = args->dim, width = args->heads * dim;
  for (u32 head = 0; head < args->heads; head++) {
    for (u32 row = 0; row < rows; row += ROWS) {
      u32 there = least(rows - row, ROWS), seen = args->causal ? row + there : rows;
      const float *own = q + row * width + head * dim;
      for (u32 at = 0; at < seen * ROWS; at += LANES) store(scores + at, splat(0));
      for (u32 from = 0; from < dim; from += DEPTH) {
        u32 depth = least(dim - from, DEPTH);
        for (u32 d = 0; d < depth; d++) {
          for (u32 r = 0; r < ROWS; r++) across[d * ROWS + r] = r < there ? own[r * width + from + d] : 0;
        }
        add_scores(k + head * dim + from, width, seen, depth);
      }
      v128_t total = powers(seen, float_of(args->scale), row, args->causal);
      for (u32 t = 0; t < seen; t++) store(scores + t * ROWS, wasm_f32x4_div(load(scores + t * ROWS), total));
      const float *values = v + head * dim;
      float *to = y + row * width + head * dim;
      u32 d = 0;
      for (; d + COLUMNS <= dim; d += COLUMNS) {
        product(scores, values + d, width, seen, to + d, width, there, COLUMNS, 0);
      }
      for (; d < dim; d++) {
        v128_t sum = splat(0);
        for (u32 t = 0; t < seen; t++) sum = madd(load(scores + t * ROWS), load_splat(values + t * width + d), sum);
        float all[ROWS];
        store(all, sum);
        for (u32 r = 0; r < there; r++) to[r * width + d] = all[r];
      }
    }
  }
}
