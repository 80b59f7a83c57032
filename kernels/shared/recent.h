// Recent tokens of a cache: a ring of keys, and one of values, (2, slots, width) float16 or float32.

#pragma once

#include "half.h"

// Stores `count` channels from `first` on of what lies in a slot of the keys (part 0) or the values (part 1).
INLINE void recent_of(float *to, const u32 *recent, u32 bits, u32 part, u32 slot, u32 slots, u32 width, u32 first,
                      u32 count) {
  u32 at = (part * slots + slot) * width + first;
  for (u32 i = 0; i < count; i++, at++) {
    to[i] = bits == 32 ? float_of(recent[at]) : half_float(recent[at / 2] >> at % 2 * 16 & 0xffff);
  }
}
