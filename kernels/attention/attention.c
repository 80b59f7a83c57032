// Attention of one query over a low-bit cache of keys and values.
//
//   y[h] = sum over t of p[t] * value[t, h],  p = softmax over t of (q[h] . key[t, h] * scale)
//
// Head by head, 32 tokens at a time, with the softmax kept up as it goes: the largest score so far, the sum of exponents,
// and the sum of values, both scaled down where a larger score comes. Nothing as long as the context is ever written.
//
// Old tokens lie in blocks of GROUP, quantised as pytest_webaccel/engines/packing/cache.py says: a key's scale belongs to
// a channel of a block where KEYS_BY_CHANNEL, else to a token and GROUP channels; a value's always to the latter. Recent
// tokens are whole, f32.
//
//   q       f32, (heads, dim)
//   packed  u32: the keys of all blocks as shared/packed.h says, and after them the values
//   recent  f32, (2, tokens, heads, dim): recent keys, recent values
//   y       f32, (heads, dim)
//   args    u32: heads, dim, blocks, recent tokens, where in packed the scales of the keys begin, their zeros, the codes
//           of the values, their scales, their zeros, and the bits of scale, a float32; BITS, GROUP, KEYS_BY_CHANNEL

#include "../shared/maths.h"
#include "../shared/packed.h"

typedef struct {
  u32 heads, dim, blocks, recent, key_scales, key_zeros, value_codes, value_scales, value_zeros, scale;
  u32 bits, group, by_channel;
} Args;

// Where codes of tokens begin, their scales and zeros.
typedef struct {
  u32 codes, scales, zeros;
} Place;

// 32 weights of token `t`, from channel `block` * 32 on.
INLINE void channels_of(float *to, const u32 *packed, const Args *args, Place place, u32 t, u32 block) {
  u32 groups = (args->heads * args->dim + args->group - 1) / args->group, blocks = args->group / BLOCK;
  u32 group = t * groups + block / blocks;
  float zero = zero_at(packed, place.zeros, group, args->bits, 1);
  float scale = scale_at(packed, place.scales, group, 16);
  unpack_block(to, packed + place.codes + (t * groups * blocks + block) * args->bits, args->bits);
  for (u32 i = 0; i < BLOCK; i++) to[i] = (to[i] - zero) * scale;
}

// The scores of 32 tokens that belong to a block, all channels in turn.
static void scores_by_channel(float *scores, const float *q, const u32 *packed, const Args *args, u32 t, u32 first) {
  u32 bits = args->bits;
  float codes[BLOCK];
  for (u32 i = 0; i < BLOCK; i++) scores[i] = 0;
  for (u32 d = 0; d < args->dim; d++) {
    u32 group = t / args->group * args->heads * args->dim + first + d;
    float zero = zero_at(packed, args->key_zeros, group, bits, 1);
    float factor = q[first + d] * scale_at(packed, args->key_scales, group, 16);
    unpack_block(codes, packed + (group * (args->group / BLOCK) + t % args->group / BLOCK) * bits, bits);
    for (u32 i = 0; i < BLOCK; i++) scores[i] += (codes[i] - zero) * factor;
  }
}

static float score_by_token(const float *q, const u32 *packed, const Args *args, u32 t, u32 first) {
  Place keys = {0, args->key_scales, args->key_zeros};
  float weights[BLOCK], sum = 0;
  u32 end = first + args->dim;
  for (u32 from = first; from < end;) {
    u32 until = least(from / BLOCK * BLOCK + BLOCK, end);
    channels_of(weights, packed, args, keys, t, from / BLOCK);
    for (; from < until; from++) sum += q[from] * weights[from % BLOCK];
  }
  return sum;
}

static void add_value(float *y, float power, const u32 *packed, const Args *args, u32 t, u32 first) {
  Place values = {args->value_codes, args->value_scales, args->value_zeros};
  float weights[BLOCK];
  u32 end = first + args->dim;
  for (u32 from = first; from < end;) {
    u32 until = least(from / BLOCK * BLOCK + BLOCK, end);
    channels_of(weights, packed, args, values, t, from / BLOCK);
    for (; from < until; from++) y[from] += power * weights[from % BLOCK];
  }
}

EXPORT(attention)
void attention(const float *q, const u32 *packed, const float *recent, float *y, const Args *args) {
  u32 dim = args->dim, width = args->heads * dim, old = args->blocks * args->group, tokens = old + args->recent;
  float scores[BLOCK] __attribute__((aligned(16)));
  for (u32 first = 0; first < width; first += dim) {
    float most = -__builtin_inff(), total = 0;
    for (u32 d = 0; d < dim; d++) y[first + d] = 0;
    for (u32 tile = 0; tile < tokens; tile += BLOCK) {  // GROUP is a multiple of it: a tile is old or recent
      u32 count = least(tokens - tile, BLOCK);
      if (tile >= old) {
        for (u32 i = 0; i < count; i++) {
          const float *key = recent + (tile - old + i) * width + first;
          float sum = 0;
          for (u32 d = 0; d < dim; d++) sum += q[first + d] * key[d];
          scores[i] = sum;
        }
      } else if (args->by_channel) {
        scores_by_channel(scores, q, packed, args, tile, first);
      } else {
        for (u32 i = 0; i < count; i++) scores[i] = score_by_token(q, packed, args, tile + i, first);
      }
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
        if (tile < old) {
          add_value(y, scores[i], packed, args, tile + i, first);
        } else {
          const float *value = recent + (args->recent + tile - old + i) * width + first;
          for (u32 d = 0; d < dim; d++) y[first + d] += scores[i] * value[d];
        }
      }
      most = high;
    }
    for (u32 d = 0; d < dim; d++) y[first + d] /= total;
  }
}
