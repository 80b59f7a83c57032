// y = x * dequantised(weights)^T, for weights of 2, 3, 4 or 8 bits; of 32 bits, float32, for y = x * weights^T.
//
//   y[r, n] = sum over g of scale[g, n] * (sum over k in group g of x[r, k] * (code[k, n] - zero[g, n]))
//
// An invocation computes a tile of TILE_ROWS rows and TILE_COLUMNS columns, which lie a workgroup's width apart, so that
// neighbours always read neighbouring words. SPLIT invocations share a tile, each with every SPLIT-th pair of groups, and
// the first adds up what they have: for few rows on an adapter with more lanes than there are columns. STAGE elements of
// a row are read before words are, and any is used.
//
// A code is never shifted, as a vector shift is slow on software adapters. It stays behind a mask where it is in its word,
// so that it and its zero are 2^shift times as large, and x is made as much smaller, once for all columns. All are exact:
// x is between 2^-15 and 2^15 times itself, and scales are 2^-15 times. What ends its word has the sign bit: it lies there
// inverted, so that this code is a signed number.
//
// With QUADS an element of x is read by one of four invocations, and they swap what they read: swap t brings an
// invocation what its neighbour number (own ^ t) has. So the codes of its columns lie in that order (by_quads), and a
// column goes by its invocation's place among the four.
//
// Lines that begin with //% and what stands in braces after a dollar are Jinja's: loops are unrolled and constants filled
// in before the page compiles it, since no compiler here unrolls a loop over an array.
//
// Bindings, all of group 0:
//   0  x       f32, (rows, k); of vec4 where VECTORS
//   1  codes   u32, (groups * GROUP / 32, words of a block / WIDTH, columns, WIDTH): by_columns or by_quads of
//              pytest_webaccel/engines/kernels/weights.py
//   2  y       f32, (rows, columns)
//   3  shape   u32: rows, columns, k, groups, where in the words of codes the scales begin, and the zeros
//   4  packed  the words of codes, for what lies behind the codes: the scales, float32 of (groups, columns), or float16
//              of (groups / 2, columns, 2); then the zeros, uint8 of (groups / 4, columns, 4). Not of 32 bits.
//
// Dispatch: (ceil(columns / (WORKGROUP / SPLIT * TILE_COLUMNS)), ceil(rows / TILE_ROWS), 1).
//
// Tunable: WORKGROUP, TILE_ROWS, TILE_COLUMNS, SPLIT, QUADS, STAGE. Given: BITS, GROUP, SCALE_BITS, HAS_ZEROS; WHOLE,
// whether k is a multiple of GROUP; VECTORS, whether x is of vec4; WORDS of a block and WIDTH; CODES, where codes lie.

//% set across = WORKGROUP // SPLIT
//% set blocks = GROUP // 32
//% set reach = 16 if QUADS else 4
//% set swaps = ["", "quadSwapX", "quadSwapY", "quadSwapDiagonal"]
//% set middle = 0 if BITS == 32 else 2 ** (BITS - 1)
//% set step = [STAGE, 8] | min
//% set lift = 0 if BITS == 32 else 15
//% if QUADS
enable subgroups;
//% endif

struct Shape {
  rows: u32,
  columns: u32,
  k: u32,
  groups: u32,
  scales: u32,
  zeros: u32,
}

@group(0) @binding(0) var<storage, read> x: array<${ "vec4<f32>" if VECTORS else "f32" }>;
@group(0) @binding(1) var<storage, read> codes: array<${ "vec%d<u32>" % WIDTH if WIDTH > 1 else "u32" }>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<uniform> shape: Shape;
//% if BITS < 32
@group(0) @binding(4) var<storage, read> packed: array<u32>;
//% endif

//% if SPLIT > 1
var<workgroup> partial: array<f32, ${ WORKGROUP * TILE_ROWS * TILE_COLUMNS }>;
//% endif

@compute @workgroup_size(${ WORKGROUP })
fn main(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(local_invocation_index) at: u32,
//% if QUADS
  @builtin(subgroup_invocation_id) lane: u32,
//% endif
) {
//% if QUADS
  let own = lane & 3u;
  let place = (at & ~3u) | own;
//% else
  let place = ${ "at %% %du" % across if SPLIT > 1 else "at" };
//% endif
  let share = ${ "at / %du" % across if SPLIT > 1 else "0u" };
  let first_column = id.x * ${ across * TILE_COLUMNS }u + place;
  let first_row = id.y * ${ TILE_ROWS }u;
  let columns = shape.columns;
  let groups = shape.groups;
  let k = shape.k;
  // Columns and rows beyond the last read it once more, so that no invocation leaves the others; nothing is written.
//% for c in range(TILE_COLUMNS)
  let n${ c } = min(first_column + ${ c * across }u, columns - 1u);
//% endfor
//% for r in range(TILE_ROWS)
  let x${ r } = min(first_row + ${ r }u, shape.rows - 1u) * ${ "(k / 4u)" if VECTORS else "k" };
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
//% endif
//% for r in range(TILE_ROWS)
      var part${ r }_${ c } = 0.0;
//% endfor
//% endfor
//% if blocks == 1
      let block = g;
      {
//% else
      for (var block = g * ${ blocks }u; block < (g + 1u) * ${ blocks }u; block++) {
//% endif
//% for stage in range(0, 32, STAGE)
//% for first in range(stage, stage + STAGE) if first % reach == 0
//% for r in range(TILE_ROWS)
//% if VECTORS
//% set index = "block * 8u + %du" % (first // 4) ~ (" + own" if QUADS else "")
//% if WHOLE
        let v${ r }_${ first } = x[x${ r } + ${ index }];
//% else
        let k${ r }_${ first } = ${ index };
        let v${ r }_${ first } = select(
          vec4<f32>(), x[x${ r } + min(k${ r }_${ first }, k / 4u - 1u)], k${ r }_${ first } < k / 4u
        );
//% endif
//% else
//% set index = "block * 32u + %du" % first ~ (" + own * 4u" if QUADS else "")
        let k${ r }_${ first } = vec4<u32>(0u, 1u, 2u, 3u) + (${ index });
        let i${ r }_${ first } = min(k${ r }_${ first }, vec4<u32>(k - 1u)) + x${ r };
        let v${ r }_${ first } = select(
          vec4<f32>(),
          vec4<f32>(x[i${ r }_${ first }.x], x[i${ r }_${ first }.y], x[i${ r }_${ first }.z], x[i${ r }_${ first }.w]),
          k${ r }_${ first } < vec4<u32>(k),
        );
//% endif
//% endfor
//% endfor
//% for r in range(TILE_ROWS)
//% for code in CODES[stage:stage + STAGE]
//% set turn = code.code // 4 % 4 if QUADS else 0
//% set read = "v%d_%d.%s * %r" % (r, code.code // reach * reach, "xyzw"[code.code % 4], 2.0 ** (lift - code.shift))
        let x${ r }_${ code.code } = ${ swaps[turn] }(${ read });
//% endfor
//% endfor
//% for code in CODES[stage:stage + STAGE]
//% for word in code.reads
//% for c in range(TILE_COLUMNS)
        let word${ c }_${ word } = codes[(block * ${ WORDS // WIDTH }u + ${ word }u) * columns + n${ c }];
//% endfor
//% endfor
//% endfor
//% for first in range(stage, stage + STAGE, step)
//% for c in range(TILE_COLUMNS)
//% for code in CODES[first:first + step]
//% set piece = code.pieces[0]
//% if BITS == 32
        let w${ c }_${ code.code } = bitcast<f32>(word${ c }_${ piece.word }${ piece.part });
//% else
//% if HAS_ZEROS
//% set zero = " - (zero%d - %d.0) * %r" % (c, middle if code.signed else 0, 2.0 ** code.shift)
//% else
//% set zero = "" if code.signed else " - %r" % (middle * 2.0 ** code.shift)
//% endif
        let w${ c }_${ code.code } = f32(i32((word${ c }_${ piece.word }${ piece.part } & ${ piece.mask }u)
//% for more in code.pieces[1:]
          + (word${ c }_${ more.word }${ more.part } & ${ more.mask }u) * ${ more.factor }u
//% endfor
        ))${ zero };
//% endif
//% endfor
//% endfor
//% for r in range(TILE_ROWS)
//% for c in range(TILE_COLUMNS)
        part${ r }_${ c } +=
//% for code in CODES[first:first + step]
          ${ "+ " if not loop.first else "" }x${ r }_${ code.code } * w${ c }_${ code.code }
//% endfor
        ;
//% endfor
//% endfor
//% endfor
//% endfor
      }
//% for c in range(TILE_COLUMNS)
//% if BITS == 32
      let scale${ c } = 1.0;
//% elif SCALE_BITS == 32
      let scale${ c } = bitcast<f32>(packed[shape.scales + g * columns + n${ c }]) * ${ 2.0 ** -lift };
//% else
      let scale${ c } = select(scales${ c }.x, scales${ c }.y, (g & 1u) == 1u) * ${ 2.0 ** -lift };
//% endif
//% for r in range(TILE_ROWS)
      sum${ r }_${ c } += part${ r }_${ c } * scale${ c };
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
