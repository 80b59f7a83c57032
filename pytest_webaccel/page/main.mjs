// What runs in a lane's page: a reconnecting socket, the session above it, the operations below it.

import { LaneDevice } from "./device.mjs";
import { takeFile, watchFiles } from "./files.mjs";
import { HeldTensors } from "./held.mjs";
import { OnnxEngine, OperationError } from "./onnx.mjs";
import { PageSession } from "./session.mjs";

// A device that takes longer to say that it has nothing to do hangs, and is as good as lost.
const DEVICE_MS = 1_500;
const BACKOFF_FIRST_MS = 10;
const BACKOFF_CAP_MS = 2_000;
// A connection that ends sooner counts as a failure, or one that is refused at once would be tried without a pause.
const SETTLED_MS = 100;

/** @typedef {import("./session.mjs").Request} Request */
/**
 * @typedef {import("./kernels.mjs").Kernels | import("./webnn.mjs").WebnnKernels |
 *   import("./wasm.mjs").WasmKernels} Kernels
 */
/** @typedef {{value?: any, tensors?: import("./session.mjs").OutTensor[]}} Outcome */

const query = new URLSearchParams(location.search);
const backend = /** @type {"webgpu" | "webnn" | "cpu"} */ (query.get("backend") ?? "cpu");
const beatMs = Number(query.get("beat") ?? 250);
const token = location.hash.slice(1);
const instance = crypto.randomUUID();

/** @type {WebSocket | null} */
let socket = null;
const session = new PageSession(
  instance,
  (frame) => socket?.send(frame),
  (request) => void answer(request),
);
const device = new LaneDevice(backend, (info) => session.event("device_lost", info));
const onnx = new OnnxEngine(device);
const held = new HeldTensors();
/** The engine `kernels`, fetched when it is first asked for. @type {Promise<Kernels> | null} */
let kernels = null;
/** Its implementations, by backend. @type {Record<string, () => Promise<Kernels>>} */
const implementations = {
  webgpu: () => import("./kernels.mjs").then((module) => new module.Kernels(device)),
  webnn: () => import("./webnn.mjs").then((module) => new module.WebnnKernels(device)),
  cpu: () => import("./wasm.mjs").then((module) => new module.WasmKernels()),
};

/** @type {Record<string, (request: Request) => Promise<Outcome>>} */
const operations = {
  /** First operation of a lane and first after a loss: a device that answers, nothing left from before. */
  renew: async () => {
    onnx.reset();
    held.reset();
    try {
      return { value: { generation: await device.renew() } };
    } catch (error) {
      throw new OperationError("device", error instanceof Error ? error.message : String(error));
    }
  },
  ping: async () => ({
    value: {
      generation: device.generation,
      lost: device.isLost || !(await device.answers(DEVICE_MS)),
      models: [...onnx.loads.keys()],
      held: held.statistics(),
      constants: (await kernels)?.statistics() ?? { count: 0, bytes: 0 },
    },
  }),
  load: async ({ args, files }) => ({ value: await onnx.load(args, await takeFile(files[0], token)) }),
  run: async ({ args, tensors, files }) => {
    const large = await Promise.all(files.map((file, index) => fileTensor(file, args.large[index])));
    const feeds = [...tensors, ...large, ...held.feeds(args.held ?? {})];
    const kept = args.keep ?? {};
    const fetched = args.outputs && [...new Set([...args.outputs, ...Object.keys(kept)])];
    return { tensors: held.keep(await onnx.run({ ...args, outputs: fetched }, feeds), kept, args.outputs) };
  },
  kernel: async ({ args, tensors, files }) => {
    const implementation = implementations[backend];
    if (!implementation) throw new OperationError("usage", `there are no kernels for ${backend}`);
    kernels ??= implementation();
    const large = await Promise.all(files.map((file, index) => fileTensor(file, args.large[index])));
    return (await kernels).run(args, [...tensors, ...large]);
  },
  unload: async ({ args }) => ({ value: await onnx.unload(args.model) }),
  /** Keeps a tensor under a name; `free` forgets those named. */
  hold: async ({ args, tensors, files }) => {
    const [tensor] = files.length ? [await fileTensor(files[0], args.large[0])] : tensors;
    held.hold(args.key, tensor);
    return { value: held.statistics() };
  },
  free: async ({ args }) => {
    if (args.constants) (await kernels)?.free();
    return { value: held.free(args.keys) };
  },
  /** A fault that the page itself causes. */
  harm: async ({ args }) => ({ value: await (await import("./harm.mjs")).harm(args, { device, onnx }) }),
  /** Three operations that do no work, to measure the bridge alone. */
  echo: async ({ args, tensors }) => ({
    value: args.value ?? null,
    tensors: tensors.map(({ name, dtype, shape, data, text }) => ({
      name,
      dtype,
      shape,
      bytes: new Uint8Array(data),
      text,
    })),
  }),
  sink: async ({ tensors, files }) => {
    let bytes = tensors.reduce((sum, tensor) => sum + tensor.data.byteLength, 0);
    for (const file of files) bytes += (await takeFile(file, token)).byteLength;
    return { value: { bytes } };
  },
  source: async ({ args }) => ({
    tensors: [{ name: "data", dtype: "uint8", shape: [args.bytes], bytes: new Uint8Array(args.bytes).fill(7) }],
  }),
};

/** @param {import("./session.mjs").FileRef} file @param {{dtype: string, shape: number[]}} spec */
async function fileTensor(file, spec) {
  return { name: file.name, dtype: spec.dtype, shape: spec.shape, data: await takeFile(file, token) };
}

/** @param {Request} request */
async function answer(request) {
  const start = performance.now();
  const elapsed = () => performance.now() - start;
  try {
    const operation = Object.hasOwn(operations, request.op) ? operations[request.op] : undefined;
    if (!operation) throw new OperationError("usage", `no operation ${request.op}`);
    session.answer(request.id, { ok: true, ...(await operation(request)), ms: elapsed() });
  } catch (error) {
    const kind = error instanceof OperationError ? error.kind : "page";
    const message = error instanceof Error ? error.message : String(error);
    session.answer(request.id, { ok: false, error: { kind, message: message.slice(0, 4000) }, ms: elapsed() });
  }
}

/** Connects, and connects again: at once where a connection lived, else with capped exponential backoff, full jitter. */
function connect(failures = 0) {
  const opening = new WebSocket(`ws://${location.host}/socket?instance=${instance}`, ["webaccel.1", token]);
  opening.binaryType = "arraybuffer";
  let openedAt = 0;
  opening.onopen = () => {
    openedAt = performance.now();
    socket = opening;
    session.opened();
  };
  opening.onmessage = ({ data }) => {
    try {
      if (typeof data === "string") session.text(data);
      else session.binary(data);
    } catch (error) {
      session.event("protocol_error", { message: String(error).slice(0, 300) });
      opening.close(4000);
    }
  };
  opening.onclose = () => {
    if (socket === opening) {
      socket = null;
      session.closed();
    }
    const lived = openedAt && performance.now() - openedAt >= SETTLED_MS;
    if (lived) return connect();
    const attempt = failures + 1;
    const ceiling = Math.min(BACKOFF_CAP_MS, BACKOFF_FIRST_MS * 2 ** Math.min(attempt, 16));
    setTimeout(connect, Math.random() * ceiling, attempt);
  };
}

const input = globalThis.document?.getElementById("webaccel-files"); // there is no document in Deno
if (input) watchFiles(/** @type {HTMLInputElement} */ (input));
setInterval(() => session.beat(), beatMs);
addEventListener("error", ({ message }) => session.event("page_error", { message: String(message).slice(0, 300) }));
addEventListener("unhandledrejection", ({ reason }) =>
  session.event("page_error", { message: String(reason).slice(0, 300) }),
);
// Loaded before anything may ask for a device; a dynamic import, so that the others do not fetch it.
if ("gpu" in navigator && navigator.userAgent.includes(" Firefox/")) {
  const { hastenWaits } = await import("./polling.mjs");
  hastenWaits();
}
connect();
