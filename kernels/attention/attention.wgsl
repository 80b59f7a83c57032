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
// tokens are whole, in a ring of slots.
//
// Bindings, all of group 0:
//   0  q       f32, (heads, dim)
//   1  packed  u32: the keys of all blocks as shared/packed.wgsl says, and after them the values
//   2  recent  u32: (2, slots, heads, dim), keys and values, two float16 a word where RECENT_BITS is 16, else float32
//   3  y       f32, (heads, dim)
//   4  shape   u32: heads, dim, blocks, recent tokens, the slot of the oldest of them, slots, where in packed the scales
//              of the keys begin, their zeros, the codes of the values, their scales, their zeros, and the bits of scale,
//              a float32
//
// Dispatch: (heads, 1, 1). dim is up to 8 * WORKGROUP.

override KEYS_BY_CHANNEL: bool;
override WORKGROUP: u32 = 64;  // tunable, a multiple of 32

struct Shape {
  heads: u32,
  dim: u32,
  blocks: u32,
  recent: u32,
  slot: u32,
  slots: u32,
  key_scales: u32,
  key_zeros: u32,
  value_codes: u32,
  value_scales: u32,
  value_zeros: u32,
  scale: u32,
}

@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> packed: array<u32>;
@group(0) @binding(2) var<storage, read> recent: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<uniform> shape: Shape;

const TILE = 32u;
const LEAST = -3.0e38;

var<workgroup> partial: array<f32, WORKGROUP>;
var<workgroup> scores: array<f32, 32>;
var<workgroup> powers: array<f32, 32>;

// What channel `channel` of the key of token `t` stands for.
fn key_at(t: u32, channel: u32) -> f32 {
  let width = shape.heads * shape.dim;
  let old = shape.blocks * GROUP;
  if (t >= old) {
    return recent_at(0u, (shape.slot + t - old) % shape.slots, shape.slots, width, channel);
  }
  let words = GROUP / 32u * BITS;  // of one group
  var group: u32;
  var code: f32;
  if (KEYS_BY_CHANNEL) {
    group = t / GROUP * width + channel;
    code = code_at(group * words, t % GROUP);
  } else {
    let groups = (width + GROUP - 1u) / GROUP;
    group = t * groups + channel / GROUP;
    code = code_at(t * groups * words, channel);
  }
  return (code - zero_at(shape.key_zeros, group)) * scale_at(shape.key_scales, group);
}

fn value_at(t: u32, channel: u32) -> f32 {
  let width = shape.heads * shape.dim;
  let old = shape.blocks * GROUP;
  if (t >= old) {
    return recent_at(1u, (shape.slot + t - old) % shape.slots, shape.slots, width, channel);
  }
  let groups = (width + GROUP - 1u) / GROUP;
  let group = t * groups + channel / GROUP;
  let code = code_at(shape.value_codes + t * groups * (GROUP / 32u * BITS), channel);
  return (code - zero_at(shape.value_zeros, group)) * scale_at(shape.value_scales, group);
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
