// Engine `kernels` on the CPU: functions of one WebAssembly module, one after the other, on one memory. What is computed is
// said by the server.

import { Heap } from "./heap.mjs";
import { OperationError, asOperationError } from "./onnx.mjs";

/** @typedef {import("./kernels.mjs").Plan} Plan */
/** @typedef {import("./kernels.mjs").Sent} Sent */
/** @typedef {{at: number, bytes: number}} Place */

const FOLDER = new URL("/kernels/built/", location.href);
const BYTES_OF_WORD = 4;

/** An instance with its memory, and what is kept there. */
class Life {
  /** @param {WebAssembly.Instance} instance */
  constructor(instance) {
    this.functions = /** @type {Record<string, (...addresses: number[]) => void>} */ (instance.exports);
    this.memory = /** @type {WebAssembly.Memory} */ (instance.exports.memory);
    const base = /** @type {WebAssembly.Global} */ (instance.exports.__heap_base);
    this.heap = new Heap(this.memory, base.value);
    /** What stays, by key. @type {Map<string, Place>} */
    this.kept = new Map();
  }

  /** @param {string} key */
  drop(key) {
    const place = this.kept.get(key);
    if (place) this.heap.give(place.at);
    this.kept.delete(key);
  }

  /** @param {string} key @returns {Place} */
  held(key) {
    const place = this.kept.get(key);
    if (!place) throw new OperationError("not_held", `nothing is kept as ${key} in this page`);
    return place;
  }

  /** Keeps zeros in place of what a run that failed may have left. @param {string} key @param {number} bytes */
  begin(key, bytes) {
    this.drop(key);
    const place = { at: this.heap.take(bytes), bytes };
    new Uint8Array(this.memory.buffer, place.at, bytes).fill(0);
    this.kept.set(key, place);
  }

  /** @param {number} at @param {ArrayBuffer} data */
  write(at, data) {
    new Uint8Array(this.memory.buffer, at, data.byteLength).set(new Uint8Array(data));
  }
}

export class WasmKernels {
  constructor() {
    /** @type {Promise<WebAssembly.Module> | null} */
    this.module = null;
    /** @type {Life | null} */
    this.life = null;
  }

  /**
   * Runs a plan once, and `repeats` times more with the clock beside it.
   * @param {Plan} plan
   * @param {Sent[]} tensors inputs, and constants that are not kept yet, by their names
   */
  async run(plan, tensors) {
    const begun = performance.now();
    try {
      this.module ??= fetched();
      const module = await this.module.catch((/** @type {unknown} */ error) => {
        this.module = null; // it is fetched anew when it is asked for again
        throw error;
      });
      this.life ??= new Life(new WebAssembly.Instance(module));
      return ran(this.life, plan, tensors, begun);
    } catch (error) {
      throw asOperationError("kernel", error);
    }
  }

  /** How many constants the memory keeps, and of how many bytes. */
  statistics() {
    return { count: this.life?.kept.size ?? 0, bytes: total(this.life?.kept.values() ?? []) };
  }

  /** Forgets all that is kept, and the memory with it: none ever shrinks. */
  free() {
    this.life = null;
  }
}

/** Returns the module with relaxed SIMD, or, where this browser has none, the other. */
async function fetched() {
  const relaxed = await bytesOf("relaxed.wasm");
  return WebAssembly.compile(WebAssembly.validate(relaxed) ? relaxed : await bytesOf("simd.wasm"));
}

/** @param {string} name */
async function bytesOf(name) {
  const response = await fetch(new URL(name, FOLDER));
  if (!response.ok) throw new OperationError("kernel", `${name} cannot be fetched: status ${response.status}`);
  return response.arrayBuffer();
}

/**
 * Runs a plan without letting anything between.
 * @param {Life} life
 * @param {Plan} plan
 * @param {Sent[]} tensors
 * @param {number} begun
 */
function ran(life, plan, tensors, begun) {
  /** @type {Place[]} */
  const passing = [];
  for (const key of plan.dropped) life.drop(key);
  try {
    const places = allPlaces(life, plan, tensors, passing);
    const staying = new Set([...plan.constants, ...plan.states.map(({ name }) => name)]);
    const inputs = tensors.filter(({ name }) => !staying.has(name));
    const steps = plan.steps.map(({ kernel, entry, bindings, uniform }) => {
      const addresses = bindings.map((name) => (name === "" ? uniformAt(life, uniform, passing) : places(name).at));
      return { kernel, addresses, run: life.functions[entry] };
    });
    const once = () => {
      const from = performance.now();
      for (const { name, data } of inputs) life.write(places(name).at, data);
      for (const { kernel, addresses, run } of steps) {
        try {
          run(...addresses);
        } catch (error) {
          throw new OperationError("kernel", `${kernel} failed: ${String(error)}`);
        }
      }
      const answer = plan.outputs.map(({ name, buffer, dtype, shape, bytes }) => {
        const { at } = places(buffer);
        return { name, dtype, shape, bytes: new Uint8Array(life.memory.buffer.slice(at, at + bytes)) };
      });
      return { answer, ms: performance.now() - from };
    };
    const first = once();
    const first_ms = performance.now() - begun; // with what compiling and bringing constants took
    const times_ms = Array.from({ length: plan.repeats }, () => once().ms);
    const sizes = { kept_bytes: total(life.kept.values()), passing_bytes: total(passing) };
    return { value: { first_ms, times_ms, ...sizes }, tensors: first.answer };
  } catch (error) {
    for (const { name } of tensors) life.drop(name); // the server counts nothing as kept of a run that failed
    for (const { name, fresh } of plan.states) if (fresh) life.drop(name);
    throw error;
  } finally {
    for (const { at } of passing) life.heap.give(at);
  }
}

/**
 * Returns what tells where a plan's buffers lie, by name: what was sent, what is kept, and what programs write.
 * @param {Life} life
 * @param {Plan} plan
 * @param {Sent[]} tensors
 * @param {Place[]} passing takes what must be given back
 */
function allPlaces(life, plan, tensors, passing) {
  /** @type {Map<string, Place>} */
  const places = new Map();
  for (const { name, bytes, fresh } of plan.states) {
    if (fresh) life.begin(name, bytes);
    places.set(name, life.held(name));
  }
  for (const { name, data } of tensors) {
    if (plan.states.some((state) => state.name === name)) {
      const { at, bytes } = life.held(name);
      if (data.byteLength !== bytes) throw new OperationError("usage", `${name} is of another size`);
      life.write(at, data);
      continue;
    }
    const keeps = plan.constants.includes(name);
    if (keeps) life.drop(name);
    const place = made(life, data.byteLength, keeps ? [] : passing);
    if (keeps) {
      life.kept.set(name, place);
      life.write(place.at, data);
    }
    places.set(name, place);
  }
  for (const key of plan.constants) places.set(key, life.held(key));
  for (const { name, bytes } of plan.temporaries) places.set(name, made(life, bytes, passing));
  return (/** @type {string} */ name) => {
    const place = places.get(name);
    if (!place) throw new OperationError("usage", `nothing was sent for ${name}, and nothing writes it`);
    return place;
  };
}

/** @param {Life} life @param {number} bytes @param {Place[]} passing */
function made(life, bytes, passing) {
  const place = { at: life.heap.take(bytes), bytes };
  passing.push(place);
  return place;
}

/** @param {Life} life @param {number[]} uniform @param {Place[]} passing */
function uniformAt(life, uniform, passing) {
  const { at } = made(life, uniform.length * BYTES_OF_WORD, passing);
  life.write(at, new Uint32Array(uniform).buffer);
  return at;
}

/** @param {Iterable<Place>} places */
function total(places) {
  let bytes = 0;
  for (const place of places) bytes += place.bytes;
  return bytes;
}
