// y = x * dequantised(weights)^T, for weights of 2, 3, 4 or 8 bits; of 32 bits, float32, for y = x * weights^T.
//
//   y[r, n] = sum over g of scale[g, n] * (sum over k in group g of x[r, k] * (code[k, n] - zero[g, n]))
//
// An invocation computes a tile of TILE_ROWS rows and TILE_COLUMNS columns, which lie a workgroup's width apart, so that
// neighbours always read neighbouring words. SPLIT invocations share a tile, each with every SPLIT-th group, and the
// first adds up what they have: for few rows on an adapter with more lanes than there are columns. With QUADS an element
// of x is read by one of four invocations and told to the others. STAGE elements of a row are read before any is used.
//
// Lines that begin with //% and what stands in braces after a dollar are Jinja's: loops are unrolled and constants filled
// in before the page compiles it, since no compiler here unrolls a loop over an array.
//
// Bindings, all of group 0:
//   0  x       f32, (rows, k); of vec4 where VECTORS
//   1  packed  u32: the codes, (groups * GROUP / 32 * BITS, columns), then the scales, (groups, columns), two float16 a
//              word or one float32, then the zeros, (groups, columns), four uint8 a word (by_columns of
//              pytest_webaccel/engines/kernels/weights.py); of 32 bits the weights alone
//   2  y       f32, (rows, columns)
//   3  shape   u32: rows, columns, k, groups, where in packed the scales begin, and the zeros
//
// Dispatch: (ceil(columns / (WORKGROUP / SPLIT * TILE_COLUMNS)), ceil(rows / TILE_ROWS), 1).
//
// Tunable: WORKGROUP, TILE_ROWS, TILE_COLUMNS, SPLIT, QUADS, STAGE. Given: BITS, GROUP, SCALE_BITS, HAS_ZEROS; WHOLE,
// whether k is a multiple of GROUP; VECTORS, whether x is of vec4.

//% set across = WORKGROUP // SPLIT
//% set blocks = GROUP // 32
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
@group(0) @binding(1) var<storage, read> packed: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<uniform> shape: Shape;

//% if SPLIT > 1
var<workgroup> partial: array<f32, ${ WORKGROUP * TILE_ROWS * TILE_COLUMNS }>;
//% endif

fn scale_at(at: u32) -> f32 {
//% if BITS == 32
  return 1.0;
//% elif SCALE_BITS == 32
  return bitcast<f32>(packed[shape.scales + at]);
//% else
  let pair = unpack2x16float(packed[shape.scales + at / 2u]);
  return select(pair.x, pair.y, (at & 1u) == 1u);
//% endif
}

fn zero_at(at: u32) -> f32 {
//% if HAS_ZEROS
  return f32((packed[shape.zeros + at / 4u] >> ((at & 3u) * 8u)) & 255u);
//% else
  return ${ 0 if BITS == 32 else 2 ** (BITS - 1) }.0;
//% endif
}

@compute @workgroup_size(${ WORKGROUP })
fn main(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(local_invocation_index) at: u32,
//% if QUADS
  @builtin(subgroup_invocation_id) lane: u32,
//% endif
) {
  let share = ${ "at / %du" % across if SPLIT > 1 else "0u" };
  let first_column = id.x * ${ across * TILE_COLUMNS }u + at % ${ across }u;
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
  for (var g = share; g < groups; g += ${ SPLIT }u) {
//% for c in range(TILE_COLUMNS)
    let zero${ c } = zero_at(g * columns + n${ c });
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
//% for c in range(TILE_COLUMNS)
      let at${ c } = block * ${ BITS }u * columns + n${ c };
//% endfor
//% for stage in range(0, 32, STAGE)
//% for code in CODES[stage:stage + STAGE]
//% for word in code.reads
//% for c in range(TILE_COLUMNS)
      let word${ c }_${ word } = packed[at${ c } + ${ word }u * columns];
//% endfor
//% endfor
//% endfor
//% for quarter in range(stage, stage + STAGE, 4)
//% for r in range(TILE_ROWS)
//% if QUADS
//% if WHOLE
      let own${ r }_${ quarter } = x[x${ r } + block * 32u + ${ quarter }u + (lane & 3u)];
//% else
      let k${ r }_${ quarter } = block * 32u + ${ quarter }u + (lane & 3u);
      let own${ r }_${ quarter } = select(0.0, x[x${ r } + min(k${ r }_${ quarter }, k - 1u)], k${ r }_${ quarter } < k);
//% endif
//% elif VECTORS
//% if WHOLE
      let v${ r }_${ quarter } = x[x${ r } + block * 8u + ${ quarter // 4 }u];
//% else
      let k${ r }_${ quarter } = block * 8u + ${ quarter // 4 }u;
      let v${ r }_${ quarter } = select(
        vec4<f32>(), x[x${ r } + min(k${ r }_${ quarter }, k / 4u - 1u)], k${ r }_${ quarter } < k / 4u
      );
//% endif
//% else
      let k${ r }_${ quarter } = vec4<u32>(0u, 1u, 2u, 3u) + (block * 32u + ${ quarter }u);
      let i${ r }_${ quarter } = min(k${ r }_${ quarter }, vec4<u32>(k - 1u)) + x${ r };
      let v${ r }_${ quarter } = select(
        vec4<f32>(),
        vec4<f32>(x[i${ r }_${ quarter }.x], x[i${ r }_${ quarter }.y], x[i${ r }_${ quarter }.z], x[i${ r }_${ quarter }.w]),
        k${ r }_${ quarter } < vec4<u32>(k),
      );
//% endif
//% endfor
//% endfor
//% for code in CODES[stage:stage + STAGE]
//% for c in range(TILE_COLUMNS)
//% if BITS == 32
      let w${ c }_${ code.code } = bitcast<f32>(word${ c }_${ code.word });
//% else
//% set low = "(word%d_%d >> %du)" % (c, code.word, code.shift) if code.shift else "word%d_%d" % (c, code.word)
//% set high = " | (word%d_%d << %du)" % (c, code.word + 1, 32 - code.shift) if code.crosses else ""
//% set value = "(%s%s)" % (low, high) if code.last else "((%s%s) & %du)" % (low, high, 2 ** BITS - 1)
      let w${ c }_${ code.code } = f32(i32${ value }) - zero${ c };
//% endif
//% endfor
//% endfor
//% for r in range(TILE_ROWS)
//% if QUADS
//% for quarter in range(stage, stage + STAGE, 4)
      let v${ r }_${ quarter } = vec4<f32>(
//% for i in range(4)
        quadBroadcast(own${ r }_${ quarter }, ${ i }u),
//% endfor
      );
//% endfor
//% endif
//% for c in range(TILE_COLUMNS)
      part${ r }_${ c } += 0.0
//% for quarter in range(stage, stage + STAGE, 4)
        + dot(
          vec4<f32>(w${ c }_${ quarter }, w${ c }_${ quarter + 1 }, w${ c }_${ quarter + 2 }, w${ c }_${ quarter + 3 }),
          v${ r }_${ quarter },
        )
//% endfor
      ;
//% endfor
//% endfor
//% endfor
    }
//% for c in range(TILE_COLUMNS)
    let scale${ c } = scale_at(g * columns + n${ c });
//% for r in range(TILE_ROWS)
    sum${ r }_${ c } += part${ r }_${ c } * scale${ c };
//% endfor
//% endfor
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
