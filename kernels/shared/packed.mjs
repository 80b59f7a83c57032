// Low-bit weights that a graph opens itself.
//
// Codes are bytes, the first code in the lowest bits of the first byte (pytest_webaccel/engines/packing/layout.py), and
// no code lies across two units: of 3 bits eight codes make a unit of three bytes, of 2, 4 and 8 bits a byte is one.

import { constant } from "./constant.mjs";

/** @typedef {{bits: number, group: number, rows: number, columns: number}} Form */

/** @param {number} bits @returns {{bytes: number, codes: number}} */
function unitOf(bits) {
  return bits === 3 ? { bytes: 3, codes: 8 } : { bytes: 1, codes: 8 / bits };
}

/**
 * Returns the weights (code - zero) * scale of a graph, float32 of shape (rows, columns); every operation on codes is
 * exact in float32.
 * @param {any} builder
 * @param {{codes: any, scales: any, zeros?: any}} operands uint8 of shape (rows, groups * group * bits / 8), float16 or
 *   float32 of shape (rows, groups), and uint8 of that shape where there are zeros
 * @param {Form} form
 */
export function opened(builder, { codes, scales, zeros }, { bits, group, rows, columns }) {
  const unit = unitOf(bits);
  const groups = Math.ceil(columns / group);
  const units = (rows * groups * group) / unit.codes;
  const numbers = (/** @type {number[]} */ values) => constant(builder, [values.length], values);
  const bytes = builder.reshape(builder.cast(codes, "float32"), [units, unit.bytes]);
  const places = numbers(Array.from({ length: unit.bytes }, (_, place) => 256 ** place));
  const word =
    unit.bytes === 1 ? bytes : builder.reduceSum(builder.mul(bytes, places), { axes: [1], keepDimensions: true });
  const shifts = numbers(Array.from({ length: unit.codes }, (_, at) => 2 ** (-bits * at)));
  const shifted = builder.floor(builder.mul(word, shifts));
  const above = builder.floor(builder.mul(shifted, numbers([2 ** -bits])));
  const code = unit.codes === 1 ? word : builder.sub(shifted, builder.mul(above, numbers([2 ** bits])));
  const wide = (/** @type {any} */ operand) => builder.reshape(builder.cast(operand, "float32"), [rows, groups, 1]);
  const zero = zeros ? wide(zeros) : numbers([2 ** (bits - 1)]);
  const each = builder.mul(builder.sub(builder.reshape(code, [rows, groups, group]), zero), wide(scales));
  const whole = builder.reshape(each, [rows, groups * group]);
  return columns === groups * group ? whole : builder.slice(whole, [0, 0], [rows, columns]);
}
