// Engine `kernels` on WebNN: a plan is one graph. What is computed is said by the server; how, by the builders of the
// kernels (kernels/*/*.mjs), fetched by their addresses.

import { OperationError, asOperationError } from "./onnx.mjs";
import { dequantised, scalesOf, widened } from "./packed.mjs";

/**
 * @typedef {import("./packed.mjs").Form & {part: "weights" | "codes" | "scales" | "zeros"}} Opened
 * @typedef {{dtype: string, shape: number[], offset: number, packed: Opened | null, baked: boolean}} Spec how a tensor is
 *   made of what was sent: bytes from `offset` on as they are, or a part of packed weights; where `baked` it becomes part
 *   of the graph
 * @typedef {{binding: number, shape: number[], spec: Spec | null}} Operand `spec` is null for what a step has computed
 * @typedef {{operands: Record<string, Operand>, outputs: Record<string, number>, attributes: Record<string, number>}} Told
 * @typedef {{kernel: string, code: number, bindings: string[], graph: Told}} Step
 * @typedef {import("./kernels.mjs").Output} Output
 * @typedef {{codes: string[], steps: Step[], dropped: string[], constants: string[], outputs: Output[],
 *   repeats: number}} Plan `codes` are the addresses of builders
 * @typedef {import("./kernels.mjs").Sent} Sent
 */
/** @typedef {{source: string, spec: Spec}} Leaf what a graph reads of what was sent as `source` */
/** @typedef {{data: ArrayBuffer | null, tensors: Map<string, any>}} Kept `data` for graphs that it is baked into */
/**
 * @typedef {{graph: Promise<any>, inputs: Record<string, Leaf>, bytes: number, users: number}} Built `bytes` are those
 *   of the constants that are baked in
 */

const LOSS_MS = 200;
const MOST_GRAPHS = 32;

/** What belongs to one context and goes with it. */
class Belongings {
  /** @param {number} generation */
  constructor(generation) {
    this.generation = generation;
    /** Graphs by what they are made of, the oldest first. @type {Map<string, Built>} */
    this.graphs = new Map();
    /** Constants by key. @type {Map<string, Kept>} */
    this.kept = new Map();
  }
}

export class WebnnKernels {
  /** @param {import("./device.mjs").LaneDevice} device */
  constructor(device) {
    this.device = device;
    this.own = new Belongings(0);
  }

  /**
   * Runs a plan once, and `repeats` times more with the clock beside it.
   * @param {Plan} plan
   * @param {Sent[]} tensors inputs, and constants that are not kept yet, by their names
   */
  async run(plan, tensors) {
    const { context } = this.device;
    if (!context) throw new OperationError("not_held", "this page has no WebNN context");
    if (this.own.generation !== this.device.generation) this.own = new Belongings(this.device.generation);
    for (const key of plan.dropped) {
      dropped(this.own, key);
      for (const graph of this.own.graphs.keys()) if (graph.includes(key)) forgotten(this.own, graph);
    }
    try {
      return await Promise.race([onContext(context, this.own, plan, tensors), this.device.lost]);
    } catch (error) {
      // A lost context fails what is asked of it before it says that it is lost.
      const late = new Promise((resolve) => setTimeout(resolve, LOSS_MS));
      const lost = await Promise.race([this.device.lost.catch((/** @type {unknown} */ reason) => reason), late]);
      throw asOperationError("kernel", lost ?? error);
    }
  }

  /** How many constants are kept, and of how many bytes, copies in graphs among them. */
  statistics() {
    return { count: this.own.kept.size, bytes: keptBytes(this.own) };
  }

  /** Frees all that is kept, and the graphs that hold some of it. */
  free() {
    for (const key of [...this.own.kept.keys()]) dropped(this.own, key);
    for (const [key, built] of this.own.graphs) if (built.bytes) forgotten(this.own, key);
  }
}

/** @param {any} context @param {Belongings} own @param {Plan} plan @param {Sent[]} tensors */
async function onContext(context, own, plan, tensors) {
  const begun = performance.now();
  const what = plan.steps.length === 1 ? plan.steps[0].kernel : `${plan.steps.length} programs`;
  const leaves = leavesOf(context, plan);
  /** @type {any[]} */
  const passing = [];
  let built = null;
  try {
    await keep(context, own, plan, tensors, leaves);
    built = builtOf(context, own, plan, leaves);
    built.users += 1;
    const graph = await built.graph;
    const fed = await inputsOf(context, own, built, tensors, passing);
    const outputs = await outputsOf(context, plan, passing);
    const once = async () => {
      const from = performance.now();
      for (const { tensor, data } of fed.written) context.writeTensor(tensor, data);
      context.dispatch(graph, fed.tensors, Object.fromEntries(outputs.map(({ tensor }, at) => [`o${at}`, tensor])));
      const answer = await Promise.all(
        outputs.map(async ({ spec: { name, dtype, shape }, tensor }) => {
          return { name, dtype, shape, bytes: new Uint8Array(await context.readTensor(tensor)) };
        }),
      );
      return { answer, ms: performance.now() - from };
    };
    const first = await once();
    const first_ms = performance.now() - begun; // with what building the graph and making tensors took
    const times = [];
    for (let turn = 0; turn < plan.repeats; turn++) times.push((await once()).ms);
    const sizes = { kept_bytes: keptBytes(own), passing_bytes: total(passing) };
    return { value: { first_ms, times_ms: times, ...sizes }, tensors: first.answer };
  } catch (error) {
    if (error instanceof OperationError) throw error;
    throw new OperationError("kernel", `${what}: ${error instanceof Error ? error.message : error}`);
  } finally {
    for (const tensor of passing) tensor.destroy();
    if (built) built.users -= 1;
    while (own.graphs.size > MOST_GRAPHS && forgotten(own));
  }
}

/**
 * Returns what a plan reads that no step of it computes, by what it is.
 * @param {any} context
 * @param {Plan} plan
 * @returns {Map<string, Leaf>}
 */
function leavesOf(context, plan) {
  const found = new Map();
  for (const { bindings, graph } of plan.steps) {
    for (const { binding, spec } of Object.values(graph.operands)) {
      if (!spec) continue;
      const source = bindings[binding];
      if (spec.dtype === "int4" && !hasInt4(context)) spec.dtype = "int8"; // the next wider one
      found.set(leafName({ source, spec }), { source, spec });
    }
  }
  return found;
}

/** @param {any} context */
function hasInt4(context) {
  return Boolean(context.opSupportLimits().dequantizeLinear?.input.dataTypes.includes("int4"));
}

/** @param {Leaf} leaf */
function leafName({ source, spec }) {
  return JSON.stringify([source, spec]);
}

/**
 * Keeps the constants that were sent: as tensors, or, for graphs that they are baked into, as they came.
 * @param {any} context
 * @param {Belongings} own
 * @param {Plan} plan
 * @param {Sent[]} tensors
 * @param {Map<string, Leaf>} leaves
 */
async function keep(context, own, plan, tensors, leaves) {
  for (const { name, data } of tensors) {
    if (!plan.constants.includes(name)) continue;
    dropped(own, name); // what a run that failed has left
    /** @type {Kept} */
    const kept = { data: null, tensors: new Map() };
    try {
      for (const [id, { source, spec }] of leaves) {
        if (source !== name) continue;
        if (spec.baked) {
          kept.data = data;
          continue;
        }
        const tensor = await tensorOf(context, spec, { writable: true });
        kept.tensors.set(id, tensor);
        context.writeTensor(tensor, read(data, spec));
      }
    } catch (error) {
      for (const tensor of kept.tensors.values()) tensor.destroy();
      throw error;
    }
    own.kept.set(name, kept);
  }
  for (const [id, { source, spec }] of leaves) {
    if (!plan.constants.includes(source)) continue;
    const kept = own.kept.get(source);
    if (spec.baked ? !kept?.data : !kept?.tensors.has(id))
      throw new OperationError("not_held", `nothing is kept as ${source} in this context`);
  }
}

/** @param {Belongings} own @param {string} key */
function dropped(own, key) {
  for (const tensor of own.kept.get(key)?.tensors.values() ?? []) tensor.destroy();
  own.kept.delete(key);
}

/** Forgets a graph, the oldest that nobody uses where none is named; says whether there was one. @param {Belongings} own */
function forgotten(own, key = [...own.graphs].find(([, { users }]) => !users)?.[0]) {
  const built = key && own.graphs.get(key);
  if (!built) return false;
  own.graphs.delete(key);
  built.graph.then((graph) => graph.destroy?.()).catch(() => {});
  return true;
}

/** @param {any} context @param {Belongings} own @param {Plan} plan @param {Map<string, Leaf>} leaves @returns {Built} */
function builtOf(context, own, plan, leaves) {
  const key = JSON.stringify([plan.codes, plan.steps, plan.outputs]);
  let built = own.graphs.get(key);
  if (built) {
    own.graphs.delete(key); // and comes last again
  } else {
    const all = [...leaves.values()];
    const inputs = all.filter(({ spec }) => !spec.baked);
    const bytes = all.reduce((sum, { spec }) => sum + (spec.baked ? bytesOf(spec) : 0), 0);
    const named = Object.fromEntries(inputs.map((leaf, at) => [`i${at}`, leaf]));
    built = { graph: graphOf(context, own, plan, named), inputs: named, bytes, users: 0 };
    built.graph.catch(() => own.graphs.delete(key));
  }
  own.graphs.set(key, built);
  return built;
}

/** @param {any} context @param {Belongings} own @param {Plan} plan @param {Record<string, Leaf>} inputs */
async function graphOf(context, own, plan, inputs) {
  // Looked up before anything is waited for, as it may be freed meanwhile.
  const data = new Map(plan.constants.map((key) => [key, own.kept.get(key)?.data]));
  const modules = await Promise.all(plan.codes.map((address) => import(address)));
  const builder = new /** @type {any} */ (globalThis).MLGraphBuilder(context);
  /** Operands of the graph, by the names of what was sent or computed. @type {Map<string, any>} */
  const operands = new Map();
  for (const [name, leaf] of Object.entries(inputs)) {
    const { dtype, shape } = leaf.spec;
    operands.set(leafName(leaf), builder.input(name, { dataType: dtype, shape }));
  }
  /** @param {string} source @param {Operand} operand */
  const operandOf = (source, { shape, spec }) => {
    const id = spec ? leafName({ source, spec }) : source;
    const baked = spec?.baked && data.get(source);
    if (baked && !operands.has(id))
      operands.set(id, builder.constant({ dataType: spec.dtype, shape: spec.shape }, read(baked, spec).slice().buffer));
    const found = operands.get(id);
    if (!found) throw new OperationError("usage", `nothing is there as ${source}`);
    return String(found.shape) === String(shape) ? found : builder.reshape(found, shape);
  };
  for (const { code, bindings, graph } of plan.steps) {
    const given = Object.entries(graph.operands).map(([name, one]) => [name, operandOf(bindings[one.binding], one)]);
    const made = modules[code].build(builder, Object.fromEntries(given), graph.attributes);
    for (const [name, binding] of Object.entries(graph.outputs)) operands.set(bindings[binding], made[name]);
  }
  const outputs = plan.outputs.map(({ buffer, shape }, at) => {
    const size = shape.reduce((count, length) => count * length, 1);
    return [`o${at}`, builder.reshape(operands.get(buffer), [size])];
  });
  return builder.build(Object.fromEntries(outputs));
}

/**
 * Returns the tensors that a graph reads, by its names, and what is written into those that are not kept.
 * @param {any} context
 * @param {Belongings} own
 * @param {Built} built
 * @param {Sent[]} tensors
 * @param {any[]} passing takes what must be destroyed
 */
async function inputsOf(context, own, { inputs }, tensors, passing) {
  const sent = new Map(tensors.map(({ name, data }) => [name, data]));
  /** @type {Record<string, any>} */
  const all = {};
  const written = [];
  for (const [name, leaf] of Object.entries(inputs)) {
    all[name] = own.kept.get(leaf.source)?.tensors.get(leafName(leaf));
    if (all[name]) continue;
    const data = sent.get(leaf.source);
    if (!data) throw new OperationError("usage", `nothing was sent for ${leaf.source}`);
    all[name] = await tensorOf(context, leaf.spec, { writable: true });
    passing.push(all[name]);
    written.push({ tensor: all[name], data: read(data, leaf.spec) });
  }
  return { tensors: all, written };
}

/** @param {any} context @param {Plan} plan @param {any[]} passing takes what must be destroyed */
async function outputsOf(context, plan, passing) {
  const outputs = [];
  for (const spec of plan.outputs) {
    const shape = [spec.shape.reduce((count, length) => count * length, 1)];
    const tensor = await tensorOf(context, { dtype: spec.dtype, shape }, { readable: true });
    passing.push(tensor);
    outputs.push({ spec, tensor });
  }
  return outputs;
}

/** @param {any} context @param {{dtype: string, shape: number[]}} spec @param {object} use */
function tensorOf(context, { dtype, shape }, use) {
  return context.createTensor({ dataType: dtype, shape, ...use });
}

/** Returns what a tensor of `spec` holds. @param {ArrayBuffer} data @param {Spec} spec */
function read(data, spec) {
  const { packed } = spec;
  if (packed?.part === "weights") return dequantised(data, packed);
  if (packed?.part === "scales") return scalesOf(data, packed);
  if (packed) return widened(data, packed, spec.dtype)[packed.part];
  return new Uint8Array(data, spec.offset, bytesOf(spec));
}

const BITS = /** @type {Record<string, number>} */ ({ int4: 4, int8: 8, uint8: 8, float16: 16, int64: 64 });

/** @param {{dtype: string, shape: readonly number[]}} spec */
function bytesOf({ dtype, shape }) {
  return Math.ceil((shape.reduce((count, length) => count * length, 1) * (BITS[dtype] ?? 32)) / 8);
}

/** @param {Iterable<any>} tensors */
function total(tensors) {
  let bytes = 0;
  for (const { dataType, shape } of tensors) bytes += bytesOf({ dtype: dataType, shape });
  return bytes;
}

/** @param {Belongings} own */
function keptBytes(own) {
  let bytes = 0;
  for (const { data, tensors } of own.kept.values()) bytes += (data?.byteLength ?? 0) + total(tensors.values());
  for (const built of own.graphs.values()) bytes += built.bytes;
  return bytes;
}
