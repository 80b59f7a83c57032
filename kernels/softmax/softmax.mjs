// y = softmax of x, row by row: exp(x - m) over its sum, m the row's largest.
//
// Operands: x float32 (rows, columns). Output: y float32 (rows, columns).

/** @param {any} builder @param {{x: any}} operands */
export function build(builder, { x }) {
  return { y: builder.softmax(x, 1) };
}
