// y = rows of a table of low-bit weights, by their numbers.
//
//   y[i, n] = (code[id[i], n] - zero[id[i], g]) * scale[id[i], g],  g = n / GROUP
//
// Bindings, all of group 0:
//   0  ids     u32, (count)
//   1  packed  u32: the table, (rows, groups * GROUP) weights, as shared/packed.wgsl says; where BITS is 32, float32
//   2  y       f32, (count, columns)
//   3  shape   u32: count of elements of y, invocations of one row of workgroups, columns, groups, where in packed the
//              scales begin, and the zeros
//
// Dispatch: (columns, rows, 1) workgroups of which there are enough for every element.

override WORKGROUP: u32 = 64;  // tunable

struct Shape {
  count: u32,
  stride: u32,
  columns: u32,
  groups: u32,
  scales: u32,
  zeros: u32,
}

@group(0) @binding(0) var<storage, read> ids: array<u32>;
@group(0) @binding(1) var<storage, read> packed: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<uniform> shape: Shape;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let at = id.y * shape.stride + id.x;
  if (at >= shape.count) {
    return;
  }
  let row = ids[at / shape.columns];
  let column = at % shape.columns;
  if (BITS == 32u) {
    y[at] = bitcast<f32>(packed[row * shape.groups * GROUP + column]);
    return;
  }
  let group = row * shape.groups + column / GROUP;
  let code = code_at(row * shape.groups * (GROUP / 32u * BITS), column);
  y[at] = (code - zero_at(shape.zeros, group)) * scale_at(shape.scales, group);
}
