// The lane's accelerator as the page sees it: acquired with a deadline, watched for loss, renewed.

const ACQUIRE_MS = 15_000;
/** What a device is asked for as large as the adapter has it; else it would have the least that every adapter has. */
const LIMITS = /** @type {const} */ ([
  "maxBufferSize",
  "maxStorageBufferBindingSize",
  "maxStorageBuffersPerShaderStage",
]);

/**
 * Awaits `promise` no longer than `ms`: any await on the GPU can hang for ever after a crash.
 * @template T
 * @param {Promise<T>} promise
 * @param {number} ms
 * @param {string} what
 * @returns {Promise<T>}
 */
export function within(promise, ms, what) {
  /** @type {ReturnType<typeof setTimeout>} */
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: nothing within ${ms} ms`)), ms);
  });
  return Promise.race([promise, /** @type {Promise<T>} */ (late)]).finally(() => clearTimeout(timer));
}

/** What a device is asked for where the adapter has it: kernels look whether it has. */
const FEATURES = /** @type {const} */ (["subgroups", "shader-f16"]);
/** Which adapter is asked for; the same as by the probe, whose findings are believed of this one. */
const ADAPTER = /** @type {const} */ ({ powerPreference: "high-performance" });

export class LaneDevice {
  /**
   * @param {"webgpu" | "webnn" | "cpu"} backend
   * @param {(info: {reason: string, message: string, generation: number}) => void} onLost
   */
  constructor(backend, onLost) {
    this.backend = backend;
    this.onLost = onLost;
    this.generation = 0;
    this.isLost = false;
    /** @type {any} */
    this.context = null;
    /** Devices, or the context, that the lane works with: its own and onnxruntime's. @type {Set<any>} */
    this.devices = new Set();
    /** Those whose owner may end them by itself, which is no loss. @type {Set<any>} */
    this.ending = new Set();
    /** @type {(reason: Error) => void} */
    this.rejectLost = () => {};
    /** @type {Promise<never>} */
    this.lost = Promise.reject(new Error("no device yet"));
    this.lost.catch(() => {});
  }

  /** Takes a new device, whatever there was before; verified by a queue that answers. */
  async renew() {
    const generation = ++this.generation;
    for (const old of this.devices) old.destroy?.(); // with all the memory that it still has
    this.devices.clear();
    this.ending.clear();
    this.isLost = false;
    this.lost = new Promise((_, reject) => {
      this.rejectLost = reject;
    });
    this.lost.catch(() => {});
    if (this.backend === "webgpu") await this.renewGpu(generation);
    if (this.backend === "webnn") await this.renewMl(generation);
    return generation;
  }

  /** The lane's GPUDevices; none where it works with something else. @returns {GPUDevice[]} */
  gpus() {
    return this.backend === "webgpu" ? [...this.devices] : [];
  }

  /**
   * Whether every GPUDevice does within `ms` what was submitted to it; true where there is none.
   * @param {number} ms
   */
  async answers(ms) {
    const idle = Promise.all(this.gpus().map((gpu) => gpu.queue.onSubmittedWorkDone()));
    return within(idle, ms, "the GPU's queue").then(
      () => true,
      () => false,
    );
  }

  /** @param {number} generation */
  async renewGpu(generation) {
    const adapter = await within(navigator.gpu.requestAdapter(ADAPTER), ACQUIRE_MS, "requestAdapter");
    if (!adapter) throw new Error("requestAdapter answered null: no WebGPU adapter");
    const requiredLimits = Object.fromEntries(LIMITS.map((name) => [name, Number(adapter.limits[name])]));
    const requiredFeatures = FEATURES.filter((name) => adapter.features.has(name));
    const asking = adapter.requestDevice({ requiredLimits, requiredFeatures });
    const device = await within(asking, ACQUIRE_MS, "requestDevice");
    this.watch(device, generation);
    device.queue.submit([]);
    await within(device.queue.onSubmittedWorkDone(), ACQUIRE_MS, "onSubmittedWorkDone");
  }

  /** @param {number} generation */
  async renewMl(generation) {
    const ml = /** @type {any} */ (navigator).ml;
    if (!ml) throw new Error("navigator.ml is not there: no WebNN");
    this.context = await within(ml.createContext({ deviceType: "cpu" }), ACQUIRE_MS, "createContext");
    this.watch(this.context, generation);
  }

  /**
   * Keeps a device or context that belongs to `generation`, and reports its loss.
   * @param {{lost: Promise<any>}} device
   * @param {number} generation
   */
  watch(device, generation) {
    if (!device?.lost || generation !== this.generation) return;
    this.ending.delete(device);
    if (this.devices.has(device)) return;
    this.devices.add(device);
    device.lost.then((info) => {
      if (generation !== this.generation || this.isLost) return;
      if (this.ending.delete(device) && info?.reason === "destroyed") {
        this.devices.delete(device);
        return;
      }
      this.isLost = true;
      const message = String(info?.message ?? "");
      this.onLost({ reason: String(info?.reason ?? "unknown"), message, generation });
      this.rejectLost(new DeviceLost(message));
    });
  }

  /** Has the end of a device by its owner's hand count as no loss, until it is watched again. @param {any} device */
  mayEnd(device) {
    if (this.devices.has(device)) this.ending.add(device);
  }
}

export class DeviceLost extends Error {}
