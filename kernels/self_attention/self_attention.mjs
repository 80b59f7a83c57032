// Attention of each row of a sequence over its rows, head by head; over those up to itself where `causal` is 1.
//
//   y[r, h] = sum over t of p[t] * v[t, h],  p = softmax over t of (q[r, h] . k[t, h] * scale)
//
// Operands: q, k and v float32 (rows, heads, dim). Output: y float32 (rows, heads, dim).

import { constant } from "../shared/constant.mjs";

/** @param {any} builder @param {{q: any, k: any, v: any}} operands @param {{causal: number, scale: number}} attributes */
export function build(builder, { q, k, v }, { causal, scale }) {
  const [rows] = q.shape;
  const heads = (/** @type {any} */ operand) => builder.transpose(operand, { permutation: [1, 0, 2] });
  const scaled = builder.mul(heads(q), constant(builder, [1], [scale]));
  let scores = builder.matmul(scaled, builder.transpose(k, { permutation: [1, 2, 0] }));
  if (causal) {
    const seen = Uint8Array.from({ length: rows * rows }, (_, at) => Number(at % rows <= Math.floor(at / rows)));
    const mask = builder.constant({ dataType: "uint8", shape: [1, rows, rows] }, seen);
    scores = builder.where(mask, scores, constant(builder, [1], [-Infinity]));
  }
  return { y: heads(builder.matmul(builder.softmax(scores, 2), heads(v))) };
}
