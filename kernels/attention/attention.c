// Attention of one query over a low-bit cache of keys and values.
//
//   y[h] = sum over t of p[t] * value[t, h],  p = softmax over t of (q[h] . key[t, h] * scale)
//
// Head by head, 32 tokens at a time, with the softmax kept up as it goes: the largest score so far, the sum of
// exponents, and the sum of values, both scaled down where a larger score comes. Nothing as long as the context is ever
// written.
//
// Old tokens lie in blocks of GROUP, quantised as pytest_webaccel/engines/packing/cache.py says: a key's scale belongs
// to a channel of a block where KEYS_BY_CHANNEL, else to a token and GROUP channels; a value's always to the latter.
// Recent tokens are whole, in a ring of slots. Scales of a cache are float16, and it has zeros.
//
//   q       f32, (heads, dim)
//   packed  u32: the keys of all blocks as shared/packed.h says, and after them the values
//   recent  u32: (2, slots, heads, dim), keys and values, two float16 a word where RECENT_BITS is 16, else float32
//   y       f32, (heads, dim)
//   args    u32: heads, dim, blocks, recent tokens, the slot of the oldest of them, slots, where in packed the scales
//           of the keys begin, their zeros, the codes of the values, their scales, their zeros, and the bits of scale,
//           a float32; BITS, GROUP, KEYS_BY_CHANNEL, RECENT_BITS

#include "../shared/maths.h"
#include "../shared/packed.h"
#include "../shared/recent.h"

#define SCALE_BITS 16

typedef struct {
  u32 heads, dim, blocks, recent, slot, slots, key_scales, key_zeros, value_codes, value_scales, value_zeros, scale;
  u32 bits, group, by_channel, recent_bits;
} Args;

typedef struct {
  const u32 *packed, *recent;
  const Args *args;
} Cache;

// Stores what the key (part 0) or the value (part 1) of token `t` stands for, from channel `from` on: up to 32
// channels, and none from `end` on. Returns how many.
static u32 channels_of(float *to, const Cache *cache, u32 part, u32 t, u32 from, u32 end) {
  const Args *args = cache->args;
  const u32 *packed = cache->packed;
  u32 width = args->heads * args->dim, old = args->blocks * args->group;
  if (t >= old) {
    u32 count = least(end - from, BLOCK), slot = (args->slot + t - old) % args->slots;
    recent_of(to, cache->recent, args->recent_bits, part, slot, args->slots, width, from, count);
    return count;
  }
  u32 groups = (width + args->group - 1) / args->group, block = from / BLOCK, skipped = from % BLOCK;
  u32 count = least(end - from, BLOCK - skipped), group = t * groups + from / args->group;
  float zero = zero_at(packed, part ? args->value_zeros : args->key_zeros, group, args->bits, 1);
  float scale = scale_at(packed, part ? args->value_scales : args->key_scales, group, SCALE_BITS);
  float codes[BLOCK];
  u32 words = (t * groups * (args->group / BLOCK) + block) * args->bits;
  unpack_block(codes, packed + (part ? args->value_codes : 0) + words, args->bits);
  for (u32 i = 0; i < count; i++) to[i] = (codes[skipped + i] - zero) * scale;
  return count;
}

// The scores of 32 tokens from `t` on that lie in a block, channel after channel.
static void scores_by_channel(float *scores, const float *q, const Cache *cache, u32 t, u32 first) {
  const Args *args = cache->args;
  const u32 *packed = cache->packed;
  float codes[BLOCK] __attribute__((aligned(16)));
  v128_t sum[BLOCK / LANES];
  for (u32 i = 0; i < BLOCK / LANES; i++) sum[i] = splat(0);
  for (u32 c = first; c < first + args->dim; c++) {
    u32 group = t / args->group * args->heads * args->dim + c;
    v128_t zero = splat(zero_at(packed, args->key_zeros, group, args->bits, 1));
    v128_t factor = splat(q[c] * scale_at(packed, args->key_scales, group, SCALE_BITS));
    unpack_block(codes, packed + (group * (args->group / BLOCK) + t % args->group / BLOCK) * args->bits, args->bits);
    for (u32 i = 0; i < BLOCK / LANES; i++) {
      sum[i] = madd(wasm_f32x4_sub(load(codes + i * LANES), zero), factor, sum[i]);
    }
  }
  for (u32 i = 0; i < BLOCK / LANES; i++) store(scores + i * LANES, sum[i]);
}

static float score_of(const float *q, const Cache *cache, u32 t, u32 first) {
  float key[BLOCK], sum = 0;
  u32 end = first + cache->args->dim;
  for (u32 from = first; from < end;) {
    u32 count = channels_of(key, cache, 0, t, from, end);
    for (u32 i = 0; i < count; i++) sum += q[from + i] * key[i];
    from += count;
  }
  return sum;
}

static void add_value(float *y, float power, const Cache *cache, u32 t, u32 first) {
  float value[BLOCK];
  u32 end = first + cache->args->dim;
  for (u32 from = first; from < end;) {
    u32 count = channels_of(value, cache, 1, t, from, end);
    for (u32 i = 0; i < count; i++) y[from + i] += power * value[i];
    from += count;
  }
}

EXPORT(attention)
void attention(const float *q, const u32 *packed, const u32 *recent, float *y, const Args *args) {
  Cache cache = {packed, recent, args};
  u32 dim = args->dim, width = args->heads * dim, old = args->blocks * args->group, tokens = old + args->recent;
  float scores[BLOCK] __attribute__((aligned(16)));
  for (u32 first = 0; first < width; first += dim) {
    float most = -__builtin_inff(), total = 0;
    for (u32 d = 0; d < dim; d++) y[first + d] = 0;
    for (u32 tile = 0; tile < tokens; tile += BLOCK) {  // GROUP is a multiple of it: a tile is old or recent
      u32 count = least(tokens - tile, BLOCK);
      if (tile < old && args->by_channel) scores_by_channel(scores, q, &cache, tile, first);
      else for (u32 i = 0; i < count; i++) scores[i] = score_of(q, &cache, tile + i, first);
      float high = most;
      for (u32 i = 0; i < count; i++) {
        scores[i] *= float_of(args->scale);
        high = scores[i] > high ? scores[i] : high;
      }
      for (u32 i = count; i < BLOCK; i++) scores[i] = -__builtin_inff();
      for (u32 i = 0; i < BLOCK; i += LANES) store(scores + i, exp_of(wasm_f32x4_sub(load(scores + i), splat(high))));
      float shrink = wasm_f32x4_extract_lane(exp_of(splat(most - high)), 0);
      total *= shrink;
      for (u32 d = 0; d < dim; d++) y[first + d] *= shrink;
      for (u32 i = 0; i < count; i++) {
        total += scores[i];
        add_value(y, scores[i], &cache, tile + i, first);
      }
      most = high;
    }
    for (u32 d = 0; d < dim; d++) y[first + d] /= total;
  }
}
