// Engine `onnx`: onnxruntime-web sessions in the page.

import { DeviceLost, within } from "./device.mjs";

/** @typedef {import("./frames.mjs").Tensor} Tensor */
/** @typedef {import("./session.mjs").OutTensor} OutTensor */

/** @type {Record<string, any>} */
const ARRAYS = {
  float32: Float32Array,
  float64: Float64Array,
  float16: /** @type {any} */ (globalThis).Float16Array ?? Uint16Array,
  int8: Int8Array,
  int16: Int16Array,
  int32: Int32Array,
  int64: BigInt64Array,
  uint8: Uint8Array,
  uint16: Uint16Array,
  uint32: Uint32Array,
  uint64: BigUint64Array,
  bool: Uint8Array,
};

/** An error with a word for what kind it is. */
export class OperationError extends Error {
  /** @param {string} kind @param {string} message */
  constructor(kind, message) {
    super(message);
    this.kind = kind;
  }
}

/** An error that onnxruntime let get away: what it was asked will never be answered. */
class Escaped extends Error {}

/**
 * Awaits `work`, unless an error escapes meanwhile that nobody handles: onnxruntime 1.30 loses a rejection of WebNN's
 * `build()` and waits for ever.
 * @template T
 * @param {Promise<T>} work
 * @returns {Promise<T>}
 */
function unlessEscaped(work) {
  /** @type {(event: PromiseRejectionEvent) => void} */
  let listener = () => {};
  const escape = new Promise((_, reject) => {
    listener = (event) => {
      event.preventDefault();
      reject(new Escaped(`an error that onnxruntime did not handle: ${String(event.reason)}`));
    };
    globalThis.addEventListener("unhandledrejection", listener);
  });
  return Promise.race([work, /** @type {Promise<T>} */ (escape)]).finally(() =>
    globalThis.removeEventListener("unhandledrejection", listener),
  );
}

/** Lines that onnxruntime printed while someone listens: its only account of where nodes were placed. */
class LogTap {
  constructor() {
    /** @type {string[] | null} */
    this.lines = null;
    for (const level of /** @type {const} */ (["error", "warn", "log", "info", "debug"])) {
      const original = console[level].bind(console);
      console[level] = (...words) => {
        const text = words.map(String).join(" ");
        if (this.lines) this.lines.push(text);
        else if (!text.includes(":onnxruntime:")) original(...words);
      };
    }
  }

  /** @template T @param {() => Promise<T>} work @returns {Promise<[T, string[]]>} */
  async during(work) {
    /** @type {string[]} */
    const lines = [];
    this.lines = lines;
    try {
      return [await work(), lines];
    } finally {
      this.lines = null;
    }
  }
}

// onnxruntime binds console.error when it starts, so the tap is laid before it is imported.
const tap = new LogTap();

/** Nodes of a provider that are named: an answer has room for so many. */
const MOST_NAMED = 200;

/**
 * Reads node placements from onnxruntime's verbose log.
 * @param {string[]} lines
 * @returns {{provider: string, nodes: number, operators: string[], names: string[]}[]} the operators of the nodes and
 *   the names of the first; none where one provider took all
 */
export function placements(lines) {
  /** @type {ReturnType<typeof placements>} */
  const found = [];
  let reading = false;
  for (const line of lines) {
    if (!line.includes("VerifyEachNodeIsAssignedToAnEp]")) continue;
    const words = line.slice(line.indexOf("AssignedToAnEp]") + "AssignedToAnEp]".length).trim();
    const all = /^All nodes placed on \[(\w+)\]\. Number of nodes: (\d+)/.exec(words);
    const some = /^Node\(s\) placed on \[(\w+)\]\. Number of nodes: (\d+)/.exec(words);
    const header = all ?? some;
    if (header) {
      found.push({ provider: header[1], nodes: Number(header[2]), operators: [], names: [] });
      reading = true;
      continue;
    }
    const node = /^(\S+) \((.*)\)/.exec(words);
    if (!reading || !node) continue;
    const { operators, names } = found[found.length - 1];
    operators.push(node[1]);
    if (names.length < MOST_NAMED) names.push(node[2].slice(0, 128));
  }
  return found;
}

export class OnnxEngine {
  /** @param {import("./device.mjs").LaneDevice} device */
  constructor(device) {
    this.device = device;
    /** @type {Map<string, any>} */
    this.sessions = new Map();
    /** @type {Map<string, {wanted: boolean, done: Promise<any>}>} */
    this.loads = new Map();
    /** @type {Map<string, Promise<any>>} */
    this.modules = new Map();
    /** How many times a module's memory was left as nobody knows it. */
    this.spoilt = 0;
    /** @type {Promise<unknown>} */
    this.last = Promise.resolve();
  }

  /** Forgets every session and the module itself: after a loss they cannot be trusted. */
  reset() {
    // New maps, not emptied ones: what is still under way belongs to the old device and ends in the old maps.
    this.sessions = new Map();
    this.loads = new Map();
    this.modules = new Map();
    this.last = Promise.resolve();
  }

  /**
   * Runs `work` after what was asked before: an onnxruntime session refuses two runs at once.
   * @template T
   * @param {() => Promise<T>} work
   * @returns {Promise<T>}
   */
  inTurn(work) {
    const turn = this.last.then(work, work);
    this.last = turn.catch(() => {});
    return turn;
  }

  /** @param {string} url @param {string} base */
  module(url, base) {
    let module = this.modules.get(url);
    if (!module) {
      const which = this.spoilt ? `${this.device.generation}.${this.spoilt}` : `${this.device.generation}`;
      module = import(`${url}?generation=${which}`).then((ort) => {
        ort.env.wasm.numThreads = 1;
        ort.env.wasm.wasmPaths = base;
        ort.env.logLevel = "verbose";
        return ort;
      });
      this.modules.set(url, module);
    }
    return module;
  }

  /**
   * Forgets a module, with its sessions, where `error` says that it stopped in the middle of something: every later
   * call into it would fail or, worse, answer. The next load takes a new one.
   * @param {unknown} error
   * @param {string} url
   */
  distrust(error, url) {
    const aborted = error instanceof Error && error.message.includes("Aborted(");
    const stopped = error instanceof WebAssembly.RuntimeError || error instanceof Escaped || typeof error === "number";
    if (!stopped && !aborted) return;
    this.spoilt += 1;
    this.last = Promise.resolve(); // what was asked of it will never end
    this.modules.delete(url);
    for (const [model, entry] of this.sessions) {
      if (entry.url !== url) continue;
      this.sessions.delete(model);
      this.loads.delete(model);
    }
  }

  /**
   * @param {{model: string, url: string, base: string, provider: string, placement: boolean, options?: any}} args
   * @param {ArrayBuffer} bytes
   */
  async load(args, bytes) {
    // Asked for again by another request, after the answer to the first was lost: it is the same model, so the same load.
    const { loads } = this;
    const under = loads.get(args.model);
    if (under) return under.done;
    /** @type {{wanted: boolean, done: Promise<any>}} */
    const load = { wanted: true, done: Promise.resolve() };
    load.done = this.begin(args, bytes, load);
    loads.set(args.model, load);
    load.done.catch(() => {
      if (loads.get(args.model) === load) loads.delete(args.model);
    });
    return load.done;
  }

  /**
   * @param {{model: string, url: string, base: string, provider: string, placement: boolean, options?: any}} args
   * @param {ArrayBuffer} bytes
   * @param {{wanted: boolean}} load
   */
  async begin(args, bytes, load) {
    const { sessions } = this;
    const ort = await this.module(args.url, args.base);
    const provider =
      args.provider === "webnn" ? { name: "webnn", deviceType: "cpu", context: this.device.context } : args.provider;
    const options = {
      ...args.options,
      executionProviders: [provider],
      logSeverityLevel: args.placement ? 0 : 3,
    };
    try {
      const create = () => ort.InferenceSession.create(new Uint8Array(bytes), options);
      const [session, lines] = await this.orLost(tap.during(() => this.inTurn(() => unlessEscaped(create()))));
      if (!load.wanted) {
        await within(session.release(), 5_000, "release");
        throw new OperationError("unloaded", "the model was unloaded before it was loaded");
      }
      const entry = { session, ort, url: args.url, device: null };
      sessions.set(args.model, entry);
      entry.device = args.provider === "webgpu" ? await ort.env.webgpu?.device : null;
      if (entry.device) this.device.watch(entry.device, this.device.generation);
      return {
        inputs: session.inputNames,
        outputs: session.outputNames,
        placement: args.placement ? placements(lines) : null,
        version: ort.env.versions?.web ?? ort.env.versions?.common ?? "",
      };
    } catch (error) {
      this.distrust(error, args.url);
      throw asOperationError("model", error);
    }
  }

  /**
   * @param {{model: string, outputs: string[] | null}} args
   * @param {Tensor[]} tensors
   * @returns {Promise<OutTensor[]>}
   */
  async run(args, tensors) {
    const entry = this.sessions.get(args.model);
    if (!entry) throw new OperationError("not_loaded", "the model is not loaded in this page");
    const { session, ort } = entry;
    /** @type {Record<string, any>} */
    const feeds = {};
    for (const { name, dtype, shape, data, text } of tensors) {
      feeds[name] = text
        ? new ort.Tensor("string", text, shape)
        : new ort.Tensor(dtype, new ARRAYS[dtype](data), shape);
    }
    let results;
    try {
      const fetches = args.outputs ?? session.outputNames;
      const run = () => session.run(feeds, fetches, { logSeverityLevel: 3 });
      results = await this.orLost(this.inTurn(() => unlessEscaped(run())));
    } catch (error) {
      this.distrust(error, entry.url);
      throw asOperationError("operator", error);
    }
    return Object.entries(results).map(([name, tensor]) => outTensor(name, tensor));
  }

  /**
   * Forgets a model; a session that cannot be released is as good as gone, and why not is in the answer.
   * @param {string} model
   */
  async unload(model) {
    const entry = this.sessions.get(model);
    const load = this.loads.get(model);
    if (load) load.wanted = false; // one that is still under way is dropped when it is there
    this.sessions.delete(model);
    this.loads.delete(model);
    if (!entry || this.device.isLost) return { released: false };
    // The native build ends its device with the last session that uses it.
    if (![...this.sessions.values()].some((other) => other.device === entry.device)) this.device.mayEnd(entry.device);
    try {
      await within(entry.session.release(), 5_000, "release");
      return { released: true };
    } catch (error) {
      return { released: false, reason: String(error).slice(0, 300) };
    }
  }

  /** @template T @param {Promise<T>} work @returns {Promise<T>} */
  orLost(work) {
    return Promise.race([work, this.device.lost]);
  }
}

/** @param {string} name @param {any} tensor @returns {OutTensor} */
function outTensor(name, tensor) {
  const shape = [...tensor.dims];
  const { data } = tensor;
  if (tensor.type === "string") return { name, dtype: "string", shape, bytes: new Uint8Array(0), text: [...data] };
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  return { name, dtype: tensor.type, shape, bytes };
}

/** @param {string} kind @param {unknown} error */
export function asOperationError(kind, error) {
  if (error instanceof OperationError) return error;
  if (error instanceof DeviceLost) return new OperationError("device_lost", error.message);
  // an Emscripten abort throws a number: the address of a C++ exception that nobody can read any more
  const words = error instanceof Error ? error.message : `onnxruntime aborted (${String(error)})`;
  return new OperationError(kind, words);
}
