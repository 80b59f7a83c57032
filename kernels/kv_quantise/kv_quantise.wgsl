// The oldest block of a cache's recent tokens, quantised: GROUP tokens from slot `slot` on become block `block`.
//
//   scale = (most - least) / (2^BITS - 1) as float16, zero among them;  zero = rint(-least / scale)
//   code = clamp(rint(x / scale) + zero, 0, 2^BITS - 1)
//
// That is how pytest_webaccel/engines/packing quantises to nearest with zero points. Where KEYS_BY_CHANNEL, a group of keys
// is one channel of all tokens, else GROUP channels of one token; a group of values is always the latter.
//
// An invocation makes four groups, whose zeros share a word. There are `key_groups` groups of keys in a block, a multiple
// of four, and as many or fewer of values.
//
// Bindings, all of group 0:
//   0  recent  u32, as kernels/kv_append writes it
//   1  packed  u32, the cache's blocks, as kernels/attention reads them
//   2  shape   u32: count of invocations, invocations of one row of workgroups, width, slot, slots, block, groups of
//              keys in a block, groups of values, where in packed the scales of the keys begin, their zeros, the codes of
//              the values, their scales, their zeros
//
// Dispatch: (columns, rows, 1) workgroups of which there are enough for every four groups.

override BITS: u32;
override GROUP: u32;
override KEYS_BY_CHANNEL: bool;
override WORKGROUP: u32 = 64;  // tunable

struct Shape {
  count: u32,
  stride: u32,
  width: u32,
  slot: u32,
  slots: u32,
  block: u32,
  key_groups: u32,
  value_groups: u32,
  key_scales: u32,
  key_zeros: u32,
  value_codes: u32,
  value_scales: u32,
  value_zeros: u32,
}

@group(0) @binding(0) var<storage, read> recent: array<u32>;
@group(0) @binding(1) var<storage, read_write> packed: array<u32>;
@group(0) @binding(2) var<uniform> shape: Shape;

// Element i of a group; past the last channel there are zeros.
fn element(part: u32, group: u32, i: u32) -> f32 {
  var token = i;
  var channel = group;
  if (part == 1u || !KEYS_BY_CHANNEL) {
    let across = (shape.width + GROUP - 1u) / GROUP;
    token = group / across;
    channel = group % across * GROUP + i;
    if (channel >= shape.width) {
      return 0.0;
    }
  }
  return recent_at(part, (shape.slot + token) % shape.slots, shape.slots, shape.width, channel);
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * shape.stride + id.x;
  if (i >= shape.count) {
    return;
  }
  let of_keys = shape.key_groups / 4u;
  let part = select(1u, 0u, i < of_keys);
  let first = select((i - of_keys) * 4u, i * 4u, part == 0u);
  let groups = select(shape.value_groups, shape.key_groups, part == 0u);
  let codes = select(shape.value_codes, 0u, part == 0u);
  let scales = select(shape.value_scales, shape.key_scales, part == 0u);
  let zeros = select(shape.value_zeros, shape.key_zeros, part == 0u);
  let most = f32((1u << BITS) - 1u);
  let words = GROUP / 32u * BITS;
  var told = array<f32, 4>();
  var zero_word = 0u;
  for (var j = 0u; j < 4u; j++) {
    let group = first + j;
    var low = 0.0;
    var high = 0.0;
    for (var k = 0u; k < GROUP; k++) {
      let x = element(part, group, k);
      low = min(low, x);
      high = max(high, x);
    }
    let scale = unpack2x16float(pack2x16float(vec2<f32>((high / 2.0 - low / 2.0) / (most / 2.0), 0.0))).x;
    told[j] = scale;
    let known = scale != 0.0;
    let inverse = select(1.0, scale, known);  // a divisor, of nothing where all is nothing
    let zero = select(0.0, clamp(round(-low / inverse), 0.0, most), known);
    zero_word |= u32(zero) << (8u * j);
    let base = codes + (shape.block * groups + group) * words;
    for (var block = 0u; block < GROUP / 32u; block++) {
      var word = 0u;
      var filled = 0u;
      var at = base + block * BITS;
      for (var k = 0u; k < 32u; k++) {
        let x = element(part, group, block * 32u + k);
        let level = select(0.0, round(x / inverse), known);
        let code = u32(clamp(level + zero, 0.0, most));
        word |= code << filled;
        filled += BITS;
        if (filled >= 32u) {
          packed[at] = word;
          at += 1u;
          filled -= 32u;
          word = select(0u, code >> (BITS - filled), filled > 0u);
        }
      }
    }
  }
  let at = shape.block * groups + first;
  packed[scales + at / 2u] = pack2x16float(vec2<f32>(told[0], told[1]));
  packed[scales + at / 2u + 1u] = pack2x16float(vec2<f32>(told[2], told[3]));
  packed[zeros + at / 4u] = zero_word;
}
