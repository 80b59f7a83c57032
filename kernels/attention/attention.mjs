// Attention of one query over a low-bit cache of keys and values.
//
//   y[h] = sum over t of p[t] * value[t, h],  p = softmax over t of (q[h] . key[t, h] * scale)
//
// Old tokens lie in blocks of `group`, quantised as pytest_webaccel/engines/packing/cache.py says: a key's scale belongs
// to a channel of a block where `keys_by_channel` is 1, else to a token and a group of channels; a value's always to the
// latter. Recent tokens are whole.
//
// Operands: q float32 (heads, dim); where there are blocks, for keys and for values, codes uint8 (rows, bytes), scales
// float16 or float32 and zeros uint8 (rows, groups), all rows of one block after those of another; where there are recent
// tokens, recent_keys and recent_values float32 (tokens, heads * dim). Output: y float32 (heads, dim).

import { constant } from "../shared/constant.mjs";
import { opened } from "../shared/packed.mjs";

/**
 * @param {any} builder
 * @param {Record<string, any>} operands
 * @param {{bits: number, group: number, keys_by_channel: number, blocks: number, scale: number}} attributes
 */
export function build(builder, operands, { bits, group, keys_by_channel, blocks, scale }) {
  const { q } = operands;
  const [heads, dim] = q.shape;
  const width = heads * dim;

  /** Returns all keys or values, of shape (tokens, heads, dim). @param {string} kind @param {boolean} across */
  const tokens = (kind, across) => {
    const parts = [];
    if (blocks) {
      const packed = { codes: operands[`${kind}_codes`], scales: operands[`${kind}_scales`] };
      const lines = blocks * (across ? width : group);
      const form = { bits, group, rows: lines, columns: across ? group : width };
      let old = opened(builder, { ...packed, zeros: operands[`${kind}_zeros`] }, form);
      if (across) old = builder.transpose(builder.reshape(old, [blocks, width, group]), { permutation: [0, 2, 1] });
      parts.push(builder.reshape(old, [blocks * group, width]));
    }
    if (operands[`recent_${kind}s`]) parts.push(operands[`recent_${kind}s`]);
    const all = parts.length === 1 ? parts[0] : builder.concat(parts, 0);
    return builder.reshape(all, [all.shape[0], heads, dim]);
  };

  const scaled = builder.reshape(builder.mul(q, constant(builder, [1], [scale])), [heads, 1, dim]);
  const keys = builder.transpose(tokens("key", Boolean(keys_by_channel)), { permutation: [1, 2, 0] });
  const values = builder.transpose(tokens("value", false), { permutation: [1, 0, 2] });
  const shares = builder.softmax(builder.matmul(scaled, keys), 2);
  return { y: builder.reshape(builder.matmul(shares, values), [heads, dim]) };
}
