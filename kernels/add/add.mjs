// y = a + b, row by row; b is repeated for each row.
//
// Operands: a float32 (rows, columns), b float32 (columns). Output: y float32 (rows, columns).

/** @param {any} builder @param {{a: any, b: any}} operands */
export function build(builder, { a, b }) {
  return { y: builder.add(a, b) };
}
