// The oldest block of a cache's recent tokens, quantised: GROUP tokens from slot `slot` on become block `block`.
//
//   scale = (most - least) / (2^BITS - 1) as float16, zero among them;  zero = rint(-least / scale)
//   code = clamp(rint(x / scale) + zero, 0, 2^BITS - 1)
//
// That is how pytest_webaccel/engines/packing quantises to nearest with zero points. Where KEYS_BY_CHANNEL, a group of
// keys is one channel of all tokens, else GROUP channels of one token; a group of values is always the latter.
//
//   recent  u32, as kernels/kv_append writes it
//   packed  u32, the cache's blocks, as kernels/attention reads them
//   args    u32: width, slot, slots, block, groups of keys in a block, groups of values, where in packed the scales
//           of the keys begin, their zeros, the codes of the values, their scales, their zeros; BITS, GROUP,
//           KEYS_BY_CHANNEL, RECENT_BITS

#include "../shared/recent.h"

#define BLOCK 32
#define MOST_GROUP 128

typedef struct {
  u32 width, slot, slots, block, key_groups, value_groups;
  u32 key_scales, key_zeros, value_codes, value_scales, value_zeros;
  u32 bits, group, by_channel, recent_bits;
} Args;

// What is between 0 and `most`; NaN is 0, so that it becomes a code.
INLINE float clamped(float value, float most) { return value > 0 ? (value < most ? value : most) : 0; }

// The elements of a group; past the last channel there are zeros.
static void elements_of(float *to, const u32 *recent, const Args *args, u32 part, u32 group) {
  u32 width = args->width, bits = args->recent_bits, across = (width + args->group - 1) / args->group;
  if (part == 0 && args->by_channel) {
    for (u32 t = 0; t < args->group; t++) {
      recent_of(to + t, recent, bits, part, (args->slot + t) % args->slots, args->slots, width, group, 1);
    }
    return;
  }
  u32 slot = (args->slot + group / across) % args->slots, first = group % across * args->group;
  u32 there = least(width - first, args->group);
  recent_of(to, recent, bits, part, slot, args->slots, width, first, there);
  for (u32 i = there; i < args->group; i++) to[i] = 0;
}

// Puts the lowest `bits` of a value into place `at` of words that have several such.
INLINE void put(u32 *words, u32 at, u32 bits, u32 value) {
  u32 *word = words + at * bits / 32, shift = at * bits % 32;
  *word = (*word & ~(((1u << bits) - 1) << shift)) | value << shift;
}

// Writes the codes of a group, and tells its scale, a float16, and its zero.
static void quantise(const float *x, u32 *codes, u32 group, u32 bits, u32 *scale_half, u32 *zero_code) {
  float low = 0, high = 0, most = (float)((1u << bits) - 1);
  for (u32 i = 0; i < group; i++) {
    low = x[i] < low ? x[i] : low;
    high = x[i] > high ? x[i] : high;
  }
  *scale_half = to_half((high / 2 - low / 2) / (most / 2));
  float scale = half_float(*scale_half), zero = 0;
  if (scale != 0) zero = clamped(__builtin_rintf(-low / scale), most);
  *zero_code = (u32)zero;
  for (u32 block = 0; block < group / BLOCK; block++) {
    u32 word = 0, filled = 0;
    for (u32 i = 0; i < BLOCK; i++) {
      float level = scale != 0 ? __builtin_rintf(x[block * BLOCK + i] / scale) : 0;
      u32 code = (u32)clamped(level + zero, most);
      word |= code << filled;
      filled += bits;
      if (filled >= 32) {
        *codes++ = word;
        filled -= 32;
        word = filled ? code >> (bits - filled) : 0;
      }
    }
  }
}

EXPORT(kv_quantise) void kv_quantise(const u32 *recent, u32 *packed, const Args *args) {
  u32 words = args->group / BLOCK * args->bits;  // of a group
  float elements[MOST_GROUP];
  for (u32 part = 0; part < 2; part++) {
    u32 groups = part ? args->value_groups : args->key_groups;
    u32 codes = part ? args->value_codes : 0;
    u32 scales = part ? args->value_scales : args->key_scales, zeros = part ? args->value_zeros : args->key_zeros;
    for (u32 group = 0; group < groups; group++) {
      u32 at = args->block * groups + group, scale, zero;
      elements_of(elements, recent, args, part, group);
      quantise(elements, packed + codes + at * words, args->group, args->bits, &scale, &zero);
      put(packed + scales, at, 16, scale);
      put(packed + zeros, at, 8, zero);
    }
  }
}
