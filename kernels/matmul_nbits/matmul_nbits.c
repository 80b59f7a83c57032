// y = x * dequantised(weights)^T, for weights of 2, 3, 4 or 8 bits; of 32 bits, float32, for y = x * weights^T.
//
//   x       f32, (rows, k)
//   packed  u32: the weights, tile by tile, a tile being 16 columns of y (by_tiles of
//           pytest_webaccel/engines/kernels/weights.py): the codes, (tiles, groups * GROUP / 8, BITS) vectors of 16
//           bytes; the scales, (tiles, groups, 16); the zeros, (tiles, groups, 16). Of 32 bits (tiles, groups * GROUP,
//           16) float32 alone
//   y       f32, (rows, columns)
//   args    u32: rows, columns, k, groups, where in packed the scales begin, and the zeros; BITS, GROUP, SCALE_BITS,
//           HAS_ZEROS
//
// A vector of codes has one bit field of 16 columns in each byte; eight places of k lie in BITS vectors (codes_of). One
// row is multiplied as weights come out of their codes. For more rows a part of a tile is dequantised once, as deep as
// the first cache holds, and all rows are multiplied by it.

#include "../shared/half.h"
#include "../shared/product.h"

#define TILE 16
#define MOST_GROUP 128
#define DEPTH 256
#define MOST_ROWS 192

typedef struct {
  u32 rows, columns, k, groups, scales, zeros;
  u32 bits, group, scale_bits, has_zeros;
} Args;

typedef struct {
  v128_t at[4];
} Four;

typedef struct {
  v128_t at[8];
} Eight;

static float last_group[MOST_GROUP];
static float panel[DEPTH * TILE] __attribute__((aligned(64)));
static float across[DEPTH * MOST_ROWS] __attribute__((aligned(64)));

// A float32 of this exponent has its integer in the lowest bits.
#define INTEGERS 0x1p23f

// Four bytes into the lowest of four lanes, zeros into the others.
#define PICK(a, b, c, d) wasm_u8x16_const(a, 255, 255, 255, b, 255, 255, 255, c, 255, 255, 255, d, 255, 255, 255)

#define FIELD(bytes, shift, mask) wasm_v128_and(wasm_u16x8_shr(bytes, shift), wasm_u8x16_const_splat(mask))

// The high bytes of code - 2^(bits - 1) in bfloat16, by code, for 2, 3 or 4 bits; of 3 once more from 8 on, of 4 to 7.
INLINE v128_t high_bytes(u32 bits) {
  if (bits == 2) return wasm_u8x16_const(0xc0, 0xbf, 0, 0x3f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
  if (bits == 3) return wasm_u8x16_const(0xc0, 0xc0, 0xc0, 0xbf, 0, 0x3f, 0x40, 0x40, 0, 0x3f, 0x40, 0x40, 0, 0, 0, 0);
  return wasm_u8x16_const(0xc1, 0xc0, 0xc0, 0xc0, 0xc0, 0xc0, 0xc0, 0xbf, 0, 0x3f, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40);
}

INLINE v128_t low_bytes(u32 bits) {
  if (bits == 2) return wasm_u8x16_const(0, 0x80, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
  if (bits == 3) return wasm_u8x16_const(0x80, 0x40, 0, 0x80, 0, 0x80, 0, 0x40, 0, 0x80, 0, 0x40, 0, 0, 0, 0);
  return wasm_u8x16_const(0, 0xe0, 0xc0, 0xa0, 0x80, 0x40, 0, 0x80, 0, 0x80, 0, 0x40, 0x80, 0xa0, 0xc0, 0xe0);
}

// Returns code - zero of 16 columns, exactly. Byte 2 i is of column i, byte 2 i + 1 of column 4 + i, and so for the
// other eight. `zeros` are INTEGERS + zero.
INLINE Four differences(v128_t codes, const v128_t *zeros, u32 bits, u32 has_zeros) {
  if (bits < 8 && !has_zeros) {
    v128_t high = look_up(high_bytes(bits), codes), low = look_up(low_bytes(bits), codes);
    v128_t one = wasm_i8x16_shuffle(low, high, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    v128_t two = wasm_i8x16_shuffle(low, high, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    v128_t upper = wasm_u32x4_const_splat(0xffff0000);
    return (Four){{wasm_i32x4_shl(one, 16), wasm_v128_and(one, upper), wasm_i32x4_shl(two, 16),
                   wasm_v128_and(two, upper)}};
  }
  v128_t integers = splat(INTEGERS);
  Four all = {{look_up(codes, PICK(0, 2, 4, 6)), look_up(codes, PICK(1, 3, 5, 7)),
               look_up(codes, PICK(8, 10, 12, 14)), look_up(codes, PICK(9, 11, 13, 15))}};
#pragma unroll
  for (int j = 0; j < 4; j++) all.at[j] = wasm_f32x4_sub(wasm_v128_or(all.at[j], integers), zeros[j]);
  return all;
}

// Returns the codes of eight places, 16 columns each. Three bits: two codes lie in each of three vectors, and the other
// two in what is left of them, their highest bits in the third. Of these a table may be asked by `numbers` in place of
// codes, which take a step less: 8 to 11 stand for 4 to 7.
INLINE Eight codes_of(const u8 *from, u32 bits, u32 numbers) {
  Eight all;
  if (bits == 8) {
#pragma unroll
    for (int i = 0; i < 8; i++) all.at[i] = load(from + 16 * i);
  } else if (bits == 4) {
#pragma unroll
    for (int i = 0; i < 8; i++) all.at[i] = FIELD(load(from + i / 2 * 16), i % 2 * 4, 15);
  } else if (bits == 2) {
#pragma unroll
    for (int i = 0; i < 8; i++) all.at[i] = FIELD(load(from + i / 4 * 16), i % 4 * 2, 3);
  } else {
#pragma unroll
    for (int i = 0; i < 6; i++) all.at[i] = FIELD(load(from + i / 2 * 16), i < 4 ? i % 2 * 3 : i % 2 * 4, 7);
    v128_t third = load(from + 32);
    all.at[6] = wasm_v128_or(FIELD(load(from), 6, 3), numbers ? FIELD(third, 0, 8) : FIELD(third, 1, 4));
    all.at[7] = wasm_v128_or(FIELD(load(from + 16), 6, 3), numbers ? FIELD(third, 4, 8) : FIELD(third, 5, 4));
  }
  return all;
}

// The scales of 16 columns, of group `at` of all tiles.
INLINE Four scales_of(const Args *args, const u32 *packed, u32 at) {
  Four all;
#pragma unroll
  for (int j = 0; j < 4; j++) {
    if (args->scale_bits == 32) all.at[j] = load(packed + args->scales + at * TILE + j * 4);
    else all.at[j] = from_half(wasm_v128_load64_zero(packed + args->scales + at * TILE / 2 + j * 2));
  }
  return all;
}

// INTEGERS + zero of 16 columns.
INLINE Four zeros_of(const Args *args, const u32 *packed, u32 at) {
  Four all;
  v128_t integers = splat(INTEGERS);
  if (args->has_zeros) {
    v128_t zeros = load(packed + args->zeros + at * TILE / 4);
    all = (Four){{look_up(zeros, PICK(0, 1, 2, 3)), look_up(zeros, PICK(4, 5, 6, 7)),
                  look_up(zeros, PICK(8, 9, 10, 11)), look_up(zeros, PICK(12, 13, 14, 15))}};
  } else {
    v128_t zeros = wasm_u32x4_splat(1u << (args->bits - 1));
    all = (Four){{zeros, zeros, zeros, zeros}};
  }
#pragma unroll
  for (int j = 0; j < 4; j++) all.at[j] = wasm_v128_or(all.at[j], integers);
  return all;
}

// Stores the first `count` of 16.
INLINE void store_tile(float *y, const v128_t *sum, u32 count) {
  for (u32 j = 0; j < 4; j++) {
    if (count >= j * 4 + 4) store(y + j * 4, sum[j]);
    else if (count > j * 4) store_some(y + j * 4, sum[j], count - j * 4);
  }
}

INLINE void one_row(const float *x, const u32 *packed, float *y, const Args *args, u32 bits, u32 has_zeros) {
  u32 group = args->group, groups = args->groups, whole = (groups - 1) * group;
  for (u32 i = 0; i < group; i++) last_group[i] = whole + i < args->k ? x[whole + i] : 0;
  const u8 *codes = (const u8 *)packed;
  for (u32 tile = 0; tile * TILE < args->columns; tile++) {
    v128_t sum[4] = {splat(0), splat(0), splat(0), splat(0)};
    for (u32 g = 0; g < groups; g++) {
      const float *own = g == groups - 1 ? last_group : x + g * group;
      u32 at = tile * groups + g;
      Four zeros = zeros_of(args, packed, at);
      v128_t part[2][4] = {{splat(0), splat(0), splat(0), splat(0)}, {splat(0), splat(0), splat(0), splat(0)}};
      for (u32 i = 0; i < group; i += 8, codes += 16 * bits) {
        Eight eight = codes_of(codes, bits, !has_zeros);
#pragma unroll
        for (int p = 0; p < 8; p++) {
          Four weights = differences(eight.at[p], zeros.at, bits, has_zeros);
          v128_t all = load_splat(own + i + p);
          // a product waits for the one before it in its sum: where floats come fast there are two sums in turn
          u32 turn = bits < 8 && !has_zeros ? p % 2 : 0;
#pragma unroll
          for (int j = 0; j < 4; j++) part[turn][j] = settled(madd(weights.at[j], all, part[turn][j]));
        }
      }
      Four scales = scales_of(args, packed, at);
#pragma unroll
      for (int j = 0; j < 4; j++) sum[j] = madd(wasm_f32x4_add(part[0][j], part[1][j]), scales.at[j], sum[j]);
    }
    store_tile(y + tile * TILE, sum, args->columns - tile * TILE);
  }
}

static void one_row_of_floats(const float *x, const float *weights, float *y, const Args *args) {
  u32 depth = args->groups * args->group;
  for (u32 tile = 0; tile * TILE < args->columns; tile++) {
    const float *own = weights + tile * depth * TILE;
    v128_t part[2][4] = {{splat(0), splat(0), splat(0), splat(0)}, {splat(0), splat(0), splat(0), splat(0)}};
    u32 k = 0;
    for (; k + 2 <= args->k; k += 2) {
#pragma unroll
      for (int i = 0; i < 8; i++) {
        v128_t *sum = &part[i / 4][i % 4];
        *sum = madd(load(own + k * TILE + i * 4), load_splat(x + k + i / 4), *sum);
      }
    }
    if (k < args->k) {
#pragma unroll
      for (int j = 0; j < 4; j++) part[0][j] = madd(load(own + k * TILE + j * 4), load_splat(x + k), part[0][j]);
    }
#pragma unroll
    for (int j = 0; j < 4; j++) part[0][j] = wasm_f32x4_add(part[0][j], part[1][j]);
    store_tile(y + tile * TILE, part[0], args->columns - tile * TILE);
  }
}

// Dequantises `depth` places of a tile into the panel, (depth, 16).
INLINE void fill_panel(const u32 *packed, const Args *args, u32 tile, u32 from, u32 depth, u32 bits, u32 has_zeros) {
  u32 group = args->group;
  const u8 *codes = (const u8 *)packed + (tile * args->groups * group + from) * 2 * bits;
  float *to = panel;
  for (u32 done = 0; done < depth; done += group) {
    u32 at = tile * args->groups + (from + done) / group;
    Four zeros = zeros_of(args, packed, at), scales = scales_of(args, packed, at);
    for (u32 i = 0; i < group; i += 8, codes += 16 * bits) {
      Eight eight = codes_of(codes, bits, !has_zeros);
#pragma unroll
      for (int p = 0; p < 8; p++, to += TILE) {
        Four weights = differences(eight.at[p], zeros.at, bits, has_zeros);
#pragma unroll
        for (int j = 0; j < 4; j++) store(to + j * 4, wasm_f32x4_mul(weights.at[j], scales.at[j]));
      }
    }
  }
}

// Lays `depth` places of `rows` rows of x out as `product` takes them, zeros where there is nothing.
static void lay_across(const float *x, const Args *args, u32 row, u32 rows, u32 from, u32 depth) {
  u32 k = args->k, there = from < k ? least(k - from, depth) : 0;
  float *to = across;
  for (u32 r = 0; r < rows; r += ROWS, to += depth * ROWS) {
    for (u32 s = 0; s < ROWS; s++) {
      u32 own = r + s < rows ? there : 0;
      for (u32 i = 0; i < own; i++) to[i * ROWS + s] = x[(row + r + s) * k + from + i];
      for (u32 i = own; i < depth; i++) to[i * ROWS + s] = 0;
    }
  }
}

INLINE void many_rows(const float *x, const u32 *packed, float *y, const Args *args, u32 bits, u32 has_zeros) {
  u32 whole = args->groups * args->group, columns = args->columns;
  for (u32 row = 0; row < args->rows; row += MOST_ROWS) {
    u32 rows = least(args->rows - row, MOST_ROWS);
    for (u32 from = 0; from < whole; from += DEPTH) {
      u32 depth = least(whole - from, DEPTH);
      lay_across(x, args, row, rows, from, depth);
      for (u32 tile = 0; tile * TILE < columns; tile++) {
        const float *weights = panel;
        if (bits == 32) weights = (const float *)packed + (tile * whole + from) * TILE;
        else fill_panel(packed, args, tile, from, depth, bits, has_zeros);
        for (u32 r = 0; r < rows; r += ROWS) {
          for (u32 n = tile * TILE; n < least(columns, tile * TILE + TILE); n += COLUMNS) {
            product(across + r * depth, weights + n % TILE, TILE, depth, y + (row + r) * columns + n, columns,
                    least(rows - r, ROWS), columns - n, from > 0);
          }
        }
      }
    }
  }
}

#define BOTH(bits, has_zeros)                                                    \
  if (args->rows == 1) one_row(x, packed, y, args, bits, has_zeros);             \
  else many_rows(x, packed, y, args, bits, has_zeros);                           \
  return

EXPORT(matmul_nbits) void matmul_nbits(const float *x, const u32 *packed, float *y, const Args *args) {
  switch (args->bits * 2 + args->has_zeros) {
    case 4: BOTH(2, 0);
    case 5: BOTH(2, 1);
    case 6: BOTH(3, 0);
    case 7: BOTH(3, 1);
    case 8: BOTH(4, 0);
    case 9: BOTH(4, 1);
    case 16:
    case 17: BOTH(8, 1);
    default:
      if (args->rows == 1) one_row_of_floats(x, (const float *)packed, y, args);
      else many_rows(x, packed, y, args, 32, 0);
  }
}
