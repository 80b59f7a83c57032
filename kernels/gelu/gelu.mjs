// gelu(x) = x / 2 * (1 + erf(x / sqrt 2)), or its approximation by tanh where `tanh` is 1:
//
//   x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))
//
// Operands: x float32 (count). Output: y float32 (count).

import { constant } from "../shared/constant.mjs";

/** @param {any} builder @param {{x: any}} operands @param {{tanh: number}} attributes */
export function build(builder, { x }, { tanh }) {
  if (!tanh) return { y: builder.gelu(x) };
  const number = (/** @type {number} */ value) => constant(builder, [1], [value]);
  const cube = builder.mul(builder.mul(x, x), x);
  const inner = builder.mul(builder.add(x, builder.mul(cube, number(0.044715))), number(Math.sqrt(2 / Math.PI)));
  return { y: builder.mul(builder.mul(x, number(0.5)), builder.add(builder.tanh(inner), number(1))) };
}
