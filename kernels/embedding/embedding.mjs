// y = rows of a table of low-bit weights, by their numbers. Rows are gathered as they are packed, and then opened.
//
//   y[i, n] = (code[id[i], n] - zero[id[i], g]) * scale[id[i], g],  g = n / group
//
// Operands: ids int32 (count); of a packed table codes uint8 (rows, groups * group * bits / 8), scales float16 or float32
// (rows, groups), and zeros uint8 (rows, groups) where it has them; of a plain one `table` float32 (rows, columns).
// Output: y float32 (count, columns).

import { opened } from "../shared/packed.mjs";

/**
 * @param {any} builder
 * @param {{ids: any, table?: any, codes?: any, scales?: any, zeros?: any}} operands
 * @param {{bits: number, group: number, columns: number}} form
 */
export function build(builder, { ids, table, codes, scales, zeros }, form) {
  const rows = (/** @type {any} */ operand) => operand && builder.gather(operand, ids, { axis: 0 });
  if (table) return { y: rows(table) };
  const taken = { codes: rows(codes), scales: rows(scales), zeros: rows(zeros) };
  return { y: opened(builder, taken, { ...form, rows: ids.shape[0] }) };
}
