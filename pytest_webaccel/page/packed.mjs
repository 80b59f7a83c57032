// Low-bit weights as a page opens them: codes, scales and zeros one after the other in one buffer, each filled up to whole
// words of four bytes.

/**
 * @typedef {{bits: number, group: number, rows: number, columns: number, scale_bits: number, has_zeros: boolean}} Form
 */
/** @typedef {{codes: Uint8Array, scales: ArrayLike<number>, zeros: Uint8Array | null}} Parts */

const WORD_BYTES = 4;

/**
 * Returns weights as floats, of shape (rows, columns).
 * @param {ArrayBuffer} data
 * @param {Form} form
 */
export function dequantised(data, form) {
  const { codes, scales, zeros } = partsOf(data, form);
  const { rows, columns, group } = form;
  const found = new Float32Array(rows * columns);
  const middle = 2 ** (form.bits - 1);
  let to = 0;
  let own = 0;
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column += group, own++) {
      const scale = scales[own];
      const zero = zeros ? zeros[own] : middle;
      const end = own * group + Math.min(group, columns - column);
      for (let from = own * group; from < end; from++) found[to++] = (codes[from] - zero) * scale;
    }
  }
  return found;
}

/**
 * Returns the codes, of shape (rows, groups * group), and the zeros, (rows, groups): bytes for codes of 8 bits; of fewer,
 * less their middle, as signed numbers of 4 bits, the first in the lower half of a byte, or of 8.
 * @param {ArrayBuffer} data
 * @param {Form} form
 * @param {string} dtype
 */
export function widened(data, form, dtype) {
  const { codes, scales, zeros } = partsOf(data, form);
  const middle = 2 ** (form.bits - 1);
  const low = dtype === "uint8" ? 0 : middle;
  if (low) for (let at = 0; at < codes.length; at++) codes[at] -= low; // bytes of our own, below 8 bits
  const found = {
    codes,
    zeros: Uint8Array.from(scales, (_, group) => (zeros ? zeros[group] : middle) - low),
  };
  return dtype === "int4" ? { codes: nibbles(found.codes), zeros: nibbles(found.zeros) } : found;
}

/** Returns the scales as floats. @param {ArrayBuffer} data @param {Form} form */
export function scalesOf(data, form) {
  return Float32Array.from(partsOf(data, form).scales);
}

/** @param {Uint8Array} bytes */
function nibbles(bytes) {
  const found = new Uint8Array(Math.ceil(bytes.length / 2));
  for (let at = 0; at < found.length; at++) found[at] = (bytes[2 * at] & 15) | (bytes[2 * at + 1] << 4);
  return found;
}

/** Returns the parts, codes as bytes. @param {ArrayBuffer} data @param {Form} form @returns {Parts} */
function partsOf(data, { bits, group, rows, columns, scale_bits, has_zeros }) {
  const count = rows * Math.ceil(columns / group);
  const scales = (count * group * bits) / 8;
  const zeros = scales + WORD_BYTES * Math.ceil((count * scale_bits) / 8 / WORD_BYTES);
  const Floats = scale_bits === 16 ? /** @type {any} */ (globalThis).Float16Array : Float32Array;
  return {
    codes: codesOf(new Uint8Array(data, 0, scales), bits),
    scales: new Floats(data, scales, count),
    zeros: has_zeros ? new Uint8Array(data, zeros, count) : null,
  };
}

/** Returns codes as bytes; no code lies across two units. @param {Uint8Array} packed @param {number} bits */
function codesOf(packed, bits) {
  if (bits === 8) return packed;
  const unit = bits === 3 ? { bytes: 3, codes: 8 } : { bytes: 1, codes: 8 / bits };
  const found = new Uint8Array((packed.length / unit.bytes) * unit.codes);
  const mask = (1 << bits) - 1;
  let to = 0;
  for (let from = 0; from < packed.length; from += unit.bytes) {
    let word = packed[from];
    if (unit.bytes === 3) word |= (packed[from + 1] << 8) | (packed[from + 2] << 16);
    for (let code = 0; code < unit.codes; code++, word >>= bits) found[to++] = word & mask;
  }
  return found;
}
