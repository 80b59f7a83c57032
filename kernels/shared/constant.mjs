// Numbers in a graph.

/** @param {any} builder @param {number[]} shape @param {ArrayLike<number>} values */
export function constant(builder, shape, values) {
  return builder.constant({ dataType: "float32", shape }, Float32Array.from(values));
}
