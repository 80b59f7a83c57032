// y = the mean of the rows of x, and where `normalise` is 1 brought to length 1.
//
//   m[n] = sum over r of x[r, n] / rows,  y[n] = m[n] / max(sqrt(sum over n of m[n]^2), 1e-12)
//
// Operands: x float32 (rows, columns). Output: y float32 (columns).

import { constant } from "../shared/constant.mjs";

/** @param {any} builder @param {{x: any}} operands @param {{normalise: number}} attributes */
export function build(builder, { x }, { normalise }) {
  const mean = builder.reduceMean(x, { axes: [0] });
  if (!normalise) return { y: mean };
  const length = builder.sqrt(builder.reduceSum(builder.mul(mean, mean), { axes: [0], keepDimensions: true }));
  return { y: builder.div(mean, builder.max(length, constant(builder, [1], [1e-12]))) };
}
