// y = x * dequantised(weights)^T for weights of 2, 3, 4 or 8 bits and an x that kernels/round_activations rounded.
//
//   y[r, n] = sum over g of scale[g, n] * sum over blocks b of g of x_scale[r, b] * dot[r, n, b]
//   dot[r, n, b] = sum over k in block b of x[r, k] * (code[k, n] - zero[g, n])
//
// Of int8 a dot is a whole number: where NATIVE it is summed up four products at a time (dot4I8Packed of the WGSL feature
// packed_4x8_integer_dot_product), else as float32, which holds it; zeros are taken off afterwards, by the sum of x. Of
// float16 where NATIVE four products are summed up as float16 (shader-f16), else all is float32. What is summed up over
// blocks is float32 always.
//
// An invocation computes a tile of TILE_ROWS rows and TILE_COLUMNS columns, which lie a workgroup's width apart, so that
// neighbours read neighbouring words. SPLIT invocations share a tile, each with every SPLIT-th pair of groups, and the
// first adds up what they have: for few rows on an adapter with more lanes than there are columns.
//
// Lines that begin with //% and what stands in braces after a dollar are Jinja's.
//
// Bindings, all of group 0:
//   0  x       values of round_activations, as the type that is read at once: (rows, blocks, 8 quads)
//   1  scales  f32: (rows, blocks, 2), the scale of a block, and scale * sum of its values
//   2  codes   u32, (groups * GROUP / 32, words of a block / WIDTH, columns, WIDTH): by_bytes of
//              pytest_webaccel/engines/kernels/weights.py
//   3  y       f32, (rows, columns)
//   4  shape   u32: rows, columns, blocks of a row of x, groups, where in the words of codes the scales begin, the zeros
//   5  packed  the words of codes, for what lies behind the codes: as of kernels/matmul_nbits
//
// Dispatch: (ceil(columns / (WORKGROUP / SPLIT * TILE_COLUMNS)), ceil(rows / TILE_ROWS), 1).
//
// Tunable: WORKGROUP, TILE_ROWS, TILE_COLUMNS, SPLIT, NATIVE. Given: ACTIVATION_BITS of x; BITS, GROUP, SCALE_BITS,
// HAS_ZEROS; WORDS of a block and WIDTH; QUADS, where in the words the codes of four elements are.

//% set across = WORKGROUP // SPLIT
//% set blocks = GROUP // 32
//% set int8 = ACTIVATION_BITS == 8
//% set half = NATIVE and not int8
//% set middle = 2 ** (BITS - 1)
//% set flipped = 128 if BITS == 8 else 0
//% if half
enable f16;
//% endif

struct Shape {
  rows: u32,
  columns: u32,
  blocks: u32,
  groups: u32,
  scales: u32,
  zeros: u32,
}

@group(0) @binding(0) var<storage, read> x: array<${ "u32" if int8 else "vec4<f16>" if half else "vec2<u32>" }>;
@group(0) @binding(1) var<storage, read> scales: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read> codes: array<${ "vec%d<u32>" % WIDTH if WIDTH > 1 else "u32" }>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<uniform> shape: Shape;
@group(0) @binding(5) var<storage, read> packed: array<u32>;

//% if SPLIT > 1
var<workgroup> partial: array<f32, ${ WORKGROUP * TILE_ROWS * TILE_COLUMNS }>;
//% endif

//% if not NATIVE
fn signed_bytes(word: u32) -> vec4<f32> {
  return vec4<f32>((vec4<i32>(i32(word)) << vec4<u32>(24u, 16u, 8u, 0u)) >> vec4<u32>(24u));
}
//% endif

//% if half
fn bytes(word: u32) -> vec4<f16> {
  return vec4<f16>(vec4<f32>((vec4<u32>(word) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(255u)));
}
//% elif not (NATIVE and int8)
fn bytes(word: u32) -> vec4<f32> {
  return vec4<f32>((vec4<u32>(word) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(255u));
}
//% endif

@compute @workgroup_size(${ WORKGROUP })
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) at: u32) {
  let place = ${ "at %% %du" % across if SPLIT > 1 else "at" };
  let share = ${ "at / %du" % across if SPLIT > 1 else "0u" };
  let first_column = id.x * ${ across * TILE_COLUMNS }u + place;
  let first_row = id.y * ${ TILE_ROWS }u;
  let columns = shape.columns;
  let groups = shape.groups;
  // Columns and rows beyond the last read it once more; nothing is written.
//% for c in range(TILE_COLUMNS)
  let n${ c } = min(first_column + ${ c * across }u, columns - 1u);
//% endfor
//% for r in range(TILE_ROWS)
  let x${ r } = min(first_row + ${ r }u, shape.rows - 1u) * shape.blocks;
//% for c in range(TILE_COLUMNS)
  var sum${ r }_${ c } = 0.0;
//% endfor
//% endfor
  for (var pair = share; pair < (groups + 1u) / 2u; pair += ${ SPLIT }u) {
//% if SCALE_BITS == 16
//% for c in range(TILE_COLUMNS)
    let scales${ c } = unpack2x16float(packed[shape.scales + pair * columns + n${ c }]);
//% endfor
//% endif
    for (var g = 2u * pair; g < min(2u * pair + 2u, groups); g++) {
//% if HAS_ZEROS
      let zeros = shape.zeros + pair / 2u * columns;
      let byte = (g & 3u) * 8u;
//% endif
//% for c in range(TILE_COLUMNS)
//% if HAS_ZEROS
      let zero${ c } = f32((packed[zeros + n${ c }] >> byte) & 255u);
//% else
      let zero${ c } = ${ middle }.0;
//% endif
//% for r in range(TILE_ROWS)
      var part${ r }_${ c } = 0.0;
//% endfor
//% endfor
//% if NATIVE and int8
//% for r in range(TILE_ROWS)
      var whole${ r } = 0.0;
//% endfor
//% endif
      for (var block = g * ${ blocks }u; block < min((g + 1u) * ${ blocks }u, shape.blocks); block++) {
//% for r in range(TILE_ROWS)
        let scale_of${ r } = scales[x${ r } + block];
//% if NATIVE and int8
        whole${ r } += scale_of${ r }.y;
//% endif
//% for c in range(TILE_COLUMNS)
        var dot${ r }_${ c } = ${ "0i" if NATIVE and int8 else "0.0" };
//% endfor
//% endfor
//% for c in range(TILE_COLUMNS)
//% for word in range(WORDS // WIDTH)
        let word${ c }_${ word } = codes[(block * ${ WORDS // WIDTH }u + ${ word }u) * columns + n${ c }];
//% endfor
//% endfor
//% for quad in QUADS
//% for r in range(TILE_ROWS)
//% set read = "x[(x%d + block) * 8u + %du]" % (r, quad.quad)
        let x${ r }_${ quad.quad } =
//% if NATIVE
          ${ read };
//% elif int8
          signed_bytes(${ read });
//% else
          vec4<f32>(unpack2x16float(${ read }.x), unpack2x16float(${ read }.y));
//% endif
//% endfor
//% for c in range(TILE_COLUMNS)
        let four${ c }_${ quad.quad } =
//% for piece in quad.pieces
          ${ "| " if not loop.first else "" }(((word${ c }_${ piece.word }${ piece.part } >> ${ piece.shift }u) & ${ piece.mask }u) << ${ piece.start }u)
//% endfor
        ;
//% if not (NATIVE and int8)
        let w${ c }_${ quad.quad } = bytes(four${ c }_${ quad.quad } ^ ${ 0x80808080 if flipped else 0 }u) - ${ "f16(zero%d)" % c if half else "zero%d" % c };
//% endif
//% for r in range(TILE_ROWS)
//% if NATIVE and int8
        dot${ r }_${ c } += dot4I8Packed(x${ r }_${ quad.quad }, four${ c }_${ quad.quad });
//% else
        dot${ r }_${ c } += ${ "f32" if half else "" }(dot(x${ r }_${ quad.quad }, w${ c }_${ quad.quad }));
//% endif
//% endfor
//% endfor
//% endfor
//% for r in range(TILE_ROWS)
//% for c in range(TILE_COLUMNS)
        part${ r }_${ c } += f32(dot${ r }_${ c }) * scale_of${ r }.x;
//% endfor
//% endfor
      }
//% for c in range(TILE_COLUMNS)
//% if SCALE_BITS == 32
      let scale${ c } = bitcast<f32>(packed[shape.scales + g * columns + n${ c }]);
//% else
      let scale${ c } = select(scales${ c }.x, scales${ c }.y, (g & 1u) == 1u);
//% endif
//% for r in range(TILE_ROWS)
//% if NATIVE and int8
      sum${ r }_${ c } += (part${ r }_${ c } - (zero${ c } - ${ flipped }.0) * whole${ r }) * scale${ c };
//% else
      sum${ r }_${ c } += part${ r }_${ c } * scale${ c };
//% endif
//% endfor
//% endfor
    }
  }
//% if SPLIT > 1
//% for r in range(TILE_ROWS)
//% for c in range(TILE_COLUMNS)
  partial[${ (r * TILE_COLUMNS + c) * WORKGROUP }u + at] = sum${ r }_${ c };
//% endfor
//% endfor
  workgroupBarrier();
  if (share > 0u) {
    return;
  }
//% for r in range(TILE_ROWS)
//% for c in range(TILE_COLUMNS)
//% for other in range(1, SPLIT)
  sum${ r }_${ c } += partial[${ (r * TILE_COLUMNS + c) * WORKGROUP + other * across }u + at];
//% endfor
//% endfor
//% endfor
//% endif
//% for r in range(TILE_ROWS)
//% for c in range(TILE_COLUMNS)
  if (first_row + ${ r }u < shape.rows && first_column + ${ c * across }u < columns) {
    y[(first_row + ${ r }u) * columns + n${ c }] = sum${ r }_${ c };
  }
//% endfor
//% endfor
}
