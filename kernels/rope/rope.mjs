// Rotary position embedding: each pair (a, b) of a head is turned by angle = position * base^(-2 i / dim).
//
//   y_a = a cos - b sin,  y_b = a sin + b cos
//
// Pair i is (i, i + dim / 2), or (2 i, 2 i + 1) where `interleaved` is 1. The turns come as a table made in float64: an
// angle of some thousand radians has few digits left in float32.
//
// Operands: x float32 (rows, heads, dim), turns float32 (rows, dim / 2, 2) of cos, sin. Output: y float32 (rows, heads,
// dim).

/** @param {any} builder @param {{x: any, turns: any}} operands @param {{interleaved: number}} attributes */
export function build(builder, { x, turns }, { interleaved }) {
  const [rows, heads, dim] = x.shape;
  const pairs = dim / 2;
  const shape = interleaved ? [rows, heads, pairs, 2] : [rows, heads, 2, pairs];
  const half = interleaved ? [rows, heads, pairs, 1] : [rows, heads, 1, pairs];
  const split = builder.reshape(x, shape);
  const [a, b] = [0, 1].map((at) => {
    return builder.slice(split, interleaved ? [0, 0, 0, at] : [0, 0, at, 0], half);
  });
  const [cos, sin] = [0, 1].map((at) => {
    const turn = builder.slice(turns, [0, 0, at], [rows, pairs, 1]);
    return builder.reshape(turn, interleaved ? [rows, 1, pairs, 1] : [rows, 1, 1, pairs]);
  });
  const one = builder.sub(builder.mul(a, cos), builder.mul(b, sin));
  const two = builder.add(builder.mul(a, sin), builder.mul(b, cos));
  return { y: builder.reshape(builder.concat([one, two], interleaved ? 3 : 2), [rows, heads, dim]) };
}
