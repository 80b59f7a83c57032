// y = rows of a table of low-bit weights, by their numbers.
//
//   y[i, n] = (code[id[i], n] - zero[id[i], g]) * scale[id[i], g],  g = n / GROUP
//
// Codes lie as pytest_webaccel/engines/packing/layout.py says: 32 of them in BITS words.
//
// Bindings, all of group 0:
//   0  ids     u32, (count)
//   1  words   u32, (rows, groups * GROUP / 32 * BITS): the codes
//   2  scales  u32, two float16 a word or one float32 (SCALE_BITS), (rows, groups) one after the other
//   3  zeros   u32, four uint8 a word, (rows, groups) one after the other; not read where HAS_ZEROS is false
//   4  y       f32, (count, columns)
//   5  shape   u32: count of elements of y, invocations of one row of workgroups, columns, groups
//
// Dispatch: (columns, rows, 1) workgroups of which there are enough for every element.

override BITS: u32;
override GROUP: u32;
override SCALE_BITS: u32;
override HAS_ZEROS: bool;
override WORKGROUP: u32 = 64;  // tunable

struct Shape {
  count: u32,
  stride: u32,
  columns: u32,
  groups: u32,
}

@group(0) @binding(0) var<storage, read> ids: array<u32>;
@group(0) @binding(1) var<storage, read> words: array<u32>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read> zeros: array<u32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
@group(0) @binding(5) var<uniform> shape: Shape;

fn scale_at(index: u32) -> f32 {
  if (SCALE_BITS == 32u) {
    return bitcast<f32>(scales[index]);
  }
  return unpack2x16float(scales[index / 2u])[index % 2u];
}

fn zero_at(index: u32) -> f32 {
  if (!HAS_ZEROS) {
    return f32(1u << (BITS - 1u));
  }
  return f32((zeros[index / 4u] >> ((index % 4u) * 8u)) & 255u);
}

// Code `at` of the block of 32 whose words begin at `base`.
fn code_at(base: u32, at: u32) -> f32 {
  if (BITS == 3u) {
    let low = (words[base + at / 16u] >> ((at % 16u) * 2u)) & 3u;
    let high = (words[base + 2u] >> at) & 1u;
    return f32(low | (high << 2u));
  }
  let first = at * BITS;
  return f32((words[base + first / 32u] >> (first % 32u)) & ((1u << BITS) - 1u));
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let at = id.y * shape.stride + id.x;
  if (at >= shape.count) {
    return;
  }
  let row = ids[at / shape.columns];
  let column = at % shape.columns;
  let group = row * shape.groups + column / GROUP;
  let blocks = GROUP / 32u;
  let base = (group * blocks + (column % GROUP) / 32u) * BITS;
  y[at] = (code_at(base, column % 32u) - zero_at(group)) * scale_at(group);
}
