// Tensors that the page keeps by name, to feed a later run with without another trip over the socket.

import { OperationError } from "./onnx.mjs";

/** @typedef {import("./frames.mjs").Tensor} Tensor */
/** @typedef {import("./session.mjs").OutTensor} OutTensor */

// What may be kept at most: a page that runs out of memory takes its lane with it.
const MAX_BYTES = 2 ** 30;

export class HeldTensors {
  constructor() {
    /** @type {Map<string, Tensor>} */
    this.tensors = new Map();
  }

  /** Forgets every tensor. */
  reset() {
    this.tensors.clear();
  }

  /** How many tensors there are, and of how many bytes. */
  statistics() {
    let bytes = 0;
    for (const { data } of this.tensors.values()) bytes += data.byteLength;
    return { count: this.tensors.size, bytes };
  }

  /** @param {string} key @param {Omit<Tensor, "name">} tensor what was held under this key before is freed */
  hold(key, tensor) {
    const before = this.tensors.get(key)?.data.byteLength ?? 0;
    const bytes = this.statistics().bytes - before + tensor.data.byteLength;
    if (bytes > MAX_BYTES) throw new OperationError("memory", `${bytes} bytes of tensors are more than ${MAX_BYTES}`);
    this.tensors.set(key, { ...tensor, name: key });
  }

  /** @param {string[]} keys */
  free(keys) {
    return { freed: keys.filter((key) => this.tensors.delete(key)).length };
  }

  /** @param {Record<string, string>} names keys by input @returns {Tensor[]} */
  feeds(names) {
    return Object.entries(names).map(([name, key]) => {
      const tensor = this.tensors.get(key);
      if (!tensor) throw new OperationError("not_held", `no tensor is held as ${key} in this page`);
      return { ...tensor, name };
    });
  }

  /**
   * Keeps outputs, and returns those that were asked for.
   * @param {OutTensor[]} outputs
   * @param {Record<string, string>} names keys by output
   * @param {string[] | null} wanted null: all
   */
  keep(outputs, names, wanted) {
    for (const { name, dtype, shape, bytes, text } of outputs) {
      if (Object.hasOwn(names, name)) this.hold(names[name], { dtype, shape, data: bytes.slice().buffer, text });
    }
    return wanted ? outputs.filter(({ name }) => wanted.includes(name)) : outputs;
  }
}
