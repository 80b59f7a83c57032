// Keys and values of new tokens, written into the ring of recent ones of a cache (kernels/attention).
//
//   recent[0, (slot + t) % slots, c] = keys[first + t, c], and [1, ...] the values, as float16 or float32
//
// Bindings, all of group 0:
//   0  keys    f32, (rows, width)
//   1  values  f32, (rows, width)
//   2  recent  u32: (2, slots, width), two float16 a word where RECENT_BITS is 16, else one float32
//   3  shape   u32: count of words, invocations of one row of workgroups, width, first row, tokens, slot, slots
//
// Dispatch: (columns, rows, 1) workgroups of which there are enough for every word. width is even for float16.

override RECENT_BITS: u32;
override WORKGROUP: u32 = 64;  // tunable

struct Shape {
  count: u32,
  stride: u32,
  width: u32,
  first: u32,
  tokens: u32,
  slot: u32,
  slots: u32,
}

@group(0) @binding(0) var<storage, read> keys: array<f32>;
@group(0) @binding(1) var<storage, read> values: array<f32>;
@group(0) @binding(2) var<storage, read_write> recent: array<u32>;
@group(0) @binding(3) var<uniform> shape: Shape;

fn given(part: u32, at: u32) -> f32 {
  if (part == 0u) {
    return keys[at];
  }
  return values[at];
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * shape.stride + id.x;
  if (i >= shape.count) {
    return;
  }
  let each = 32u / RECENT_BITS;
  let words = shape.width / each;  // of one token
  let part = i / (shape.tokens * words);
  let token = i / words % shape.tokens;
  let word = i % words;
  let source = (shape.first + token) * shape.width + word * each;
  let slot = (shape.slot + token) % shape.slots;
  let place = (part * shape.slots + slot) * words + word;
  if (each == 2u) {
    recent[place] = pack2x16float(vec2<f32>(given(part, source), given(part, source + 1u)));
  } else {
    recent[place] = bitcast<u32>(given(part, source));
  }
}
