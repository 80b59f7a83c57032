// y = x * weights^T, for weights of 2, 3, 4 or 8 bits, and for plain float32.
//
//   y[r, n] = sum over k of x[r, k] * weights[n, k],  weights[n, k] = (code[n, k] - zero[n, g]) * scale[n, g]
//
// The page opens packed weights when they come, into float32. Where they are kept as codes instead, the graph opens them
// at each run by dequantizeLinear, which takes an eighth to a quarter of the memory.
//
// Chromium's gemm makes the largest float of NaN and of infinity where the weights are no constants, matmul does not.
//
// Operands: x float32 (rows, k); weights float32 (n, k), a constant where `baked` is 1, or codes int4, int8 or uint8 (n,
// groups * group), scales float32 (n, groups) and zeros of the type of the codes (n, groups). Output: y float32 (rows, n).

/**
 * @param {any} builder
 * @param {{x: any, weights?: any, codes?: any, scales?: any, zeros?: any}} operands
 * @param {{baked: number}} attributes
 */
export function build(builder, { x, weights, codes, scales, zeros }, { baked }) {
  if (weights && baked) return { y: builder.gemm(x, weights, { bTranspose: true }) };
  const given = weights ?? dequantised(builder, x.shape[1], codes, scales, zeros);
  return { y: builder.matmul(x, builder.transpose(given)) };
}

/** @param {any} builder @param {number} columns @param {any} codes @param {any} scales @param {any} zeros */
function dequantised(builder, columns, codes, scales, zeros) {
  const [rows, filled] = codes.shape;
  const whole = builder.dequantizeLinear(codes, scales, zeros);
  return columns === filled ? whole : builder.slice(whole, [0, 0], [rows, columns]);
}
