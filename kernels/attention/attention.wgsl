// Attention of one query over a low-bit cache of keys and values.
//
//   y[h] = sum over t of p[t] * value[t, h],  p = softmax over t of (q[h] . key[t, h] * scale)
//
// A workgroup computes one head, 32 tokens at a time, with the softmax kept up as it goes: the largest score so far, the
// sum of exponents, and the sum of values, both scaled down where a larger score comes. Nothing as long as the context
// is ever written.
//
// Old tokens lie in blocks of GROUP, quantised as pytest_webaccel/engines/packing/cache.py says: a key's scale belongs to
// a channel of a block where KEYS_BY_CHANNEL, else to a token and GROUP channels; a value's always to the latter. Recent
// tokens are whole, f32.
//
// Bindings, all of group 0:
//   0  q       f32, (heads, dim)
//   1  keys    u32: codes of all blocks, then scales (two float16 a word), then zeros (four uint8 a word)
//   2  values  u32: likewise
//   3  recent  f32, (2, tokens, heads, dim): recent keys, recent values
//   4  y       f32, (heads, dim)
//   5  shape   u32: heads, dim, blocks, recent tokens, where in keys the scales begin, and the zeros, the same of values,
//              the bits of scale, a float32
//
// Dispatch: (heads, 1, 1). dim is up to 8 * WORKGROUP.

override BITS: u32;
override GROUP: u32;
override KEYS_BY_CHANNEL: bool;
override WORKGROUP: u32 = 64;  // tunable, a multiple of 32

struct Shape {
  heads: u32,
  dim: u32,
  blocks: u32,
  recent: u32,
  key_scales: u32,
  key_zeros: u32,
  value_scales: u32,
  value_zeros: u32,
  scale: u32,
}

@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> keys: array<u32>;
@group(0) @binding(2) var<storage, read> values: array<u32>;
@group(0) @binding(3) var<storage, read> recent: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
@group(0) @binding(5) var<uniform> shape: Shape;

const TILE = 32u;
const LEAST = -3.0e38;

var<workgroup> partial: array<f32, WORKGROUP>;
var<workgroup> scores: array<f32, 32>;
var<workgroup> powers: array<f32, 32>;

// Code `at` of a row that begins at word `base`.
fn code_of_key(base: u32, at: u32) -> f32 {
  let first = base + at / 32u * BITS;
  if (BITS == 3u) {
    let low = (keys[first + at % 32u / 16u] >> (at % 16u * 2u)) & 3u;
    return f32(low | (((keys[first + 2u] >> (at % 32u)) & 1u) << 2u));
  }
  let bit = at % 32u * BITS;
  return f32((keys[first + bit / 32u] >> (bit % 32u)) & ((1u << BITS) - 1u));
}

fn code_of_value(base: u32, at: u32) -> f32 {
  let first = base + at / 32u * BITS;
  if (BITS == 3u) {
    let low = (values[first + at % 32u / 16u] >> (at % 16u * 2u)) & 3u;
    return f32(low | (((values[first + 2u] >> (at % 32u)) & 1u) << 2u));
  }
  let bit = at % 32u * BITS;
  return f32((values[first + bit / 32u] >> (bit % 32u)) & ((1u << BITS) - 1u));
}

// What channel `channel` of the key of token `t` stands for.
fn key_at(t: u32, channel: u32) -> f32 {
  let width = shape.heads * shape.dim;
  let old = shape.blocks * GROUP;
  if (t >= old) {
    return recent[(t - old) * width + channel];
  }
  let words = GROUP / 32u * BITS;  // of one group
  var group: u32;
  var code: f32;
  if (KEYS_BY_CHANNEL) {
    group = t / GROUP * width + channel;
    code = code_of_key(group * words, t % GROUP);
  } else {
    let groups = (width + GROUP - 1u) / GROUP;
    group = t * groups + channel / GROUP;
    code = code_of_key(t * groups * words, channel);
  }
  let zero = f32((keys[shape.key_zeros + group / 4u] >> (group % 4u * 8u)) & 255u);
  return (code - zero) * unpack2x16float(keys[shape.key_scales + group / 2u])[group % 2u];
}

fn value_at(t: u32, channel: u32) -> f32 {
  let width = shape.heads * shape.dim;
  let old = shape.blocks * GROUP;
  if (t >= old) {
    return recent[(shape.recent + t - old) * width + channel];
  }
  let groups = (width + GROUP - 1u) / GROUP;
  let group = t * groups + channel / GROUP;
  let code = code_of_value(t * groups * (GROUP / 32u * BITS), channel);
  let zero = f32((values[shape.value_zeros + group / 4u] >> (group % 4u * 8u)) & 255u);
  return (code - zero) * unpack2x16float(values[shape.value_scales + group / 2u])[group % 2u];
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let first = id.x * shape.dim;
  let tokens = shape.blocks * GROUP + shape.recent;
  let parts = WORKGROUP / TILE;
  var sums = array<f32, 8>();
  var most = LEAST;
  var total = 0.0;
  for (var tile = 0u; tile < tokens; tile += TILE) {
    let t = tile + lane % TILE;
    var own = 0.0;
    if (t < tokens) {
      for (var d = lane / TILE; d < shape.dim; d += parts) {
        own += q[first + d] * key_at(t, first + d);
      }
    }
    partial[lane] = own;
    workgroupBarrier();
    if (lane < TILE) {
      var score = 0.0;
      for (var part = 0u; part < parts; part++) {
        score += partial[lane + part * TILE];
      }
      scores[lane] = select(LEAST, score * bitcast<f32>(shape.scale), t < tokens);
    }
    workgroupBarrier();
    var high = most;
    for (var i = 0u; i < TILE; i++) {
      high = max(high, scores[i]);
    }
    if (lane < TILE) {
      powers[lane] = select(0.0, exp(scores[lane] - high), t < tokens);
    }
    workgroupBarrier();
    let shrink = exp(most - high);
    total *= shrink;
    for (var i = 0u; i < TILE; i++) {
      total += powers[i];
    }
    for (var j = 0u; j < 8u; j++) {
      let d = lane + j * WORKGROUP;
      if (d < shape.dim) {
        var sum = sums[j] * shrink;
        for (var i = 0u; i < min(TILE, tokens - tile); i++) {
          sum += powers[i] * value_at(tile + i, first + d);
        }
        sums[j] = sum;
      }
    }
    most = high;
    workgroupBarrier();
  }
  for (var j = 0u; j < 8u; j++) {
    let d = lane + j * WORKGROUP;
    if (d < shape.dim) {
      y[first + d] = sums[j] / total;
    }
  }
}
