// silu(x) = x / (1 + exp(-x)).
//
// Operands: x float32 (count). Output: y float32 (count).

/** @param {any} builder @param {{x: any}} operands */
export function build(builder, { x }) {
  return { y: builder.mul(x, builder.sigmoid(x)) };
}
