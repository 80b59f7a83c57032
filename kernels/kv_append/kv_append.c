// Keys and values of new tokens, written into the ring of recent ones of a cache (kernels/attention).
//
//   recent[0, (slot + t) % slots, c] = keys[first + t, c], and [1, ...] the values, as float16 or float32
//
//   keys    f32, (rows, width)
//   values  f32, (rows, width)
//   recent  u32: (2, slots, width), two float16 a word where RECENT_BITS is 16, else one float32
//   args    u32: width, first row, tokens, slot, slots; RECENT_BITS
//
// width is even for float16.

#include "../shared/half.h"

typedef struct {
  u32 width, first, tokens, slot, slots, recent_bits;
} Args;

EXPORT(kv_append) void kv_append(const float *keys, const float *values, u32 *recent, const Args *args) {
  u32 width = args->width, words = width * args->recent_bits / 32;
  for (u32 part = 0; part < 2; part++) {
    for (u32 t = 0; t < args->tokens; t++) {
      const float *from = (part ? values : keys) + (args->first + t) * width;
      u32 *to = recent + (part * args->slots + (args->slot + t) % args->slots) * words;
      for (u32 i = 0; i < words; i++) {
        to[i] = words == width ? float_bits(from[i]) : to_half(from[i * 2]) | to_half(from[i * 2 + 1]) << 16;
      }
    }
  }
}
