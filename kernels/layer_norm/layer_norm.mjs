// y = (x - mean) / sqrt(variance + epsilon) * weight + bias, row by row.
//
// Operands: x float32 (rows, columns), weight and bias float32 (columns). Output: y float32 (rows, columns).

/** @param {any} builder @param {{x: any, weight: any, bias: any}} operands @param {{epsilon: number}} attributes */
export function build(builder, { x, weight, bias }, { epsilon }) {
  return { y: builder.layerNormalization(x, { scale: weight, bias, axes: [1], epsilon }) };
}
