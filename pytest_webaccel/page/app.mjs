// Put into every document of the user's app before its own scripts run: it knows the GPU devices and WebNN contexts that
// the document has, and tells of their loss. The app sees the very objects and promises that it would see without.

(() => {
  const KEY = "__webaccel";
  const DEVICE_NEEDED = new Set(["device_destroyed", "gpu_loop", "gpu_memory"]);
  const scope = /** @type {any} */ (globalThis);
  if (Object.hasOwn(scope, KEY)) return;

  class OperationError extends Error {
    /** @param {string} kind @param {string} message */
    constructor(kind, message) {
      super(message);
      this.kind = kind;
    }
  }

  /**
   * Awaits `promise` no longer than `ms`: any await on the GPU can hang for ever after a crash.
   * @template T
   * @param {Promise<T>} promise
   * @param {number} ms
   * @param {string} what
   * @returns {Promise<T>}
   */
  function within(promise, ms, what) {
    /** @type {ReturnType<typeof setTimeout>} */
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`${what}: nothing within ${ms} ms`)), ms);
    });
    return Promise.race([promise, /** @type {Promise<T>} */ (late)]).finally(() => clearTimeout(timer));
  }

  /** Devices and contexts that live; held weakly, so that the app's own references decide. @type {Set<WeakRef<any>>} */
  const living = new Set();
  /** @type {{reason: string, message: string}[]} */
  const losses = [];
  /** @type {(() => void)[]} */
  let waiting = [];
  /** Stands for the devices of workers, which are not seen from here. @type {any} */
  let sentinel = null;

  /** @param {{reason?: string, message?: string}} info */
  function lost(info) {
    losses.push({ reason: String(info?.reason ?? "unknown"), message: String(info?.message ?? "").slice(0, 300) });
    for (const wake of waiting) wake();
    waiting = [];
  }

  /** @param {any} device */
  function track(device) {
    if (!device?.lost) return;
    const reference = new WeakRef(device);
    living.add(reference);
    device.lost.then((/** @type {any} */ info) => {
      living.delete(reference);
      lost(info);
    });
  }

  /** Tracks for a document within a document of the app, too. @type {(device: any) => void} */
  let keep = track;
  try {
    if (scope.top !== scope) keep = scope.top[KEY].track;
  } catch {
    // A document of another origin: what it has, it has for itself.
  }

  /** @param {any} prototype @param {string} name */
  function follow(prototype, name) {
    const original = prototype?.[name];
    if (typeof original !== "function") return;
    const followed = {
      /** @this {any} @param {any[]} args */
      [name](...args) {
        const made = original.apply(this, args);
        made.then(keep, () => {});
        return made;
      },
    };
    Object.defineProperty(prototype, name, {
      ...Object.getOwnPropertyDescriptor(prototype, name),
      value: followed[name],
    });
  }

  /** @returns {any[]} */
  function devices() {
    const found = [];
    for (const reference of living) {
      const device = reference.deref();
      if (device) found.push(device);
      else living.delete(reference);
    }
    return found;
  }

  /** @returns {any[]} */
  const gpus = () => devices().filter((one) => one instanceof (scope.GPUDevice ?? Array));

  const requestDevice = scope.GPUAdapter?.prototype.requestDevice;
  follow(scope.GPUAdapter?.prototype, "requestDevice");
  follow(scope.ML?.prototype, "createContext");

  const state = {
    id: `${performance.timeOrigin}-${Math.random()}`,
    OperationError,
    within,
    /** @type {((args: any, lane: any) => Promise<any>) | undefined} */
    harm: undefined,
    track,

    /**
     * Answers with the losses after the first `known`, as soon as there are any.
     * @param {number} known
     */
    async next(known) {
      if (losses.length <= known) await new Promise((resolve) => waiting.push(() => resolve(undefined)));
      return { id: state.id, losses: losses.slice(known), total: losses.length };
    },

    /** Makes sure that the loss of the GPU process is seen although the document itself may hold no device. */
    async attend() {
      if (devices().length === 0 && sentinel === null && navigator.gpu && requestDevice) {
        const adapter = await within(navigator.gpu.requestAdapter(), 5000, "requestAdapter");
        sentinel = adapter && (await within(requestDevice.call(adapter), 5000, "requestDevice"));
        sentinel?.lost.then((/** @type {any} */ info) => {
          sentinel = null;
          lost(info);
        });
      }
      return { id: state.id, total: losses.length, gpus: gpus().length > 0, address: location.href };
    },

    /**
     * The document as `harm.mjs` knows a lane's page.
     * @param {string} kind
     */
    lane(kind) {
      const all = devices();
      const found = gpus();
      if (DEVICE_NEEDED.has(kind) && (kind === "device_destroyed" ? all : found).length === 0) {
        throw new OperationError("usage", "the app's page holds no device now; those of its workers are out of reach");
      }
      /** @param {number} ms */
      const answers = (ms) =>
        within(Promise.all(found.map((gpu) => gpu.queue.onSubmittedWorkDone())), ms, "the GPU's queue").then(
          () => true,
          () => false,
        );
      return { device: { devices: all, gpus, answers }, onnx: { sessions: new Map() } };
    },
  };

  Object.defineProperty(scope, KEY, { value: state });
})();
