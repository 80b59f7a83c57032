// silu(x) = x / (1 + exp(-x))
//
//   x     f32, (count)
//   y     f32, (count)
//   args  u32: count

#include "../shared/maths.h"

INLINE v128_t activation(v128_t x) { return times_sigmoid(x, x); }

EXPORT(silu) void silu(const float *x, float *y, const u32 *args) { for_each(x, y, args[0], activation); }
