// y = rows of a table of low-bit weights, by their numbers.
//
//   y[i, n] = (code[id[i], n] - zero[id[i], g]) * scale[id[i], g],  g = n / GROUP
//
//   ids     u32, (count / columns)
//   packed  u32: the table, (rows, groups * GROUP) weights, as shared/packed.h says; where BITS is 32, float32
//   y       f32, (count)
//   args    u32: count of elements of y, columns, groups, where in packed the scales begin, and the zeros; BITS, GROUP,
//           SCALE_BITS, HAS_ZEROS

#include "../shared/packed.h"

typedef struct {
  u32 count, columns, groups, scales, zeros;
  u32 bits, group, scale_bits, has_zeros;
} Args;

EXPORT(embedding) void embedding(const u32 *ids, const u32 *packed, float *y, const Args *args) {
  u32 columns = args->columns, bits = args->bits;
  float codes[BLOCK];
  for (u32 i = 0; i < args->count / columns; i++, y += columns) {
    u32 blocks = args->groups * args->group / BLOCK;  // of a row
    for (u32 n = 0; n < columns; n += BLOCK) {
      const u32 *words = packed + (ids[i] * blocks + n / BLOCK) * bits;
      u32 count = least(columns - n, BLOCK);
      if (bits == BLOCK) {
        for (u32 c = 0; c < count; c++) y[n + c] = float_of(words[c]);
        continue;
      }
      u32 group = ids[i] * args->groups + n / args->group;
      float zero = zero_at(packed, args->zeros, group, bits, args->has_zeros);
      float scale = scale_at(packed, args->scales, group, args->scale_bits);
      unpack_block(codes, words, bits);
      for (u32 c = 0; c < count; c++) y[n + c] = (codes[c] - zero) * scale;
    }
  }
}
