// Engine `kernels` on WebGPU: compute shaders one after the other, their buffers, their answers. What is computed is said
// by the server.

import { OperationError, asOperationError } from "./onnx.mjs";

/** @typedef {{name: string, buffer: string, dtype: string, shape: number[], bytes: number}} Output */
/**
 * @typedef {{kernel: string, code: number, entry: string, constants: Record<string, number>, bindings: string[],
 *   uniform: number[], workgroups: number[]}} Step a binding without a name is that of the uniform
 */
/**
 * @typedef {{codes: string[], steps: Step[], temporaries: {name: string, bytes: number}[], dropped: string[],
 *   constants: string[], states: {name: string, bytes: number, fresh: boolean}[], outputs: Output[], repeats: number}} Plan states stay and
 *   are written in place; what is fresh begins as zeros, or as what was sent under its name
 */
/** @typedef {{name: string, data: ArrayBuffer}} Sent */
/** @typedef {{pipeline: GPUComputePipeline, group: GPUBindGroup, workgroups: number[]}} Ready */

const LEAST_BYTES = 16; // a binding of nothing is none
const BYTES_OF_COPY = 4;
const LOSS_MS = 200;

const MOST_PIPELINES = 256;

/** What belongs to one device and goes with it. */
class Belongings {
  /** @param {number} generation */
  constructor(generation) {
    this.generation = generation;
    /** Pipelines by what they are made of, the oldest first. @type {Map<string, Promise<GPUComputePipeline>>} */
    this.pipelines = new Map();
    /** Buffers that stay, by key. @type {Map<string, GPUBuffer>} */
    this.kept = new Map();
  }
}

export class Kernels {
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
    const [gpu] = this.device.gpus();
    if (!gpu) throw new OperationError("not_held", "this page has no WebGPU device");
    if (this.own.generation !== this.device.generation) this.own = new Belongings(this.device.generation);
    for (const key of plan.dropped) dropped(this.own, key);
    try {
      return await Promise.race([this.onDevice(gpu, this.own, plan, tensors), this.device.lost]);
    } catch (error) {
      // A lost device fails what is asked of it before it says that it is lost.
      const late = new Promise((resolve) => setTimeout(resolve, LOSS_MS));
      const lost = await Promise.race([this.device.lost.catch((/** @type {unknown} */ reason) => reason), late]);
      throw asOperationError("kernel", lost ?? error);
    }
  }

  /** How many buffers the device keeps, and of how many bytes. */
  statistics() {
    return { count: this.own.kept.size, bytes: total(this.own.kept.values()) };
  }

  /** Frees all that the device keeps. */
  free() {
    for (const buffer of this.own.kept.values()) buffer.destroy();
    this.own.kept.clear();
  }

  /** @param {GPUDevice} gpu @param {Belongings} own @param {Plan} plan @param {Sent[]} tensors */
  async onDevice(gpu, own, plan, tensors) {
    const begun = performance.now();
    const pipelines = await Promise.all(plan.steps.map((step) => pipelineOf(gpu, own, step, plan.codes[step.code])));
    /** @type {GPUBuffer[]} */
    const passing = [];
    const what = plan.steps.length === 1 ? plan.steps[0].kernel : `${plan.steps.length} programs`;
    gpu.pushErrorScope("out-of-memory");
    gpu.pushErrorScope("validation");
    /** @type {Promise<(GPUError | null)[]> | undefined} */
    let asked;
    const errors = () => {
      asked ??= Promise.all([gpu.popErrorScope(), gpu.popErrorScope()]);
      asked.catch(() => {}); // it is looked at in the end
      return asked;
    };
    try {
      const buffers = allBuffers(gpu, own, plan, tensors, passing);
      const ready = plan.steps.map((step, at) => bound(gpu, step, pipelines[at], buffers, passing));
      const inputs = tensors.filter(({ name }) => !stays(plan, name));
      const outputs = plan.outputs.map((spec) => ({ spec, staging: made(gpu, spec.bytes, READ, passing) }));
      const once = async () => {
        const from = performance.now();
        for (const { name, data } of inputs) filled(gpu, /** @type {GPUBuffer} */ (buffers.get(name)), data);
        const answer = await answered(gpu, ready, buffers, outputs);
        return { answer, ms: performance.now() - from };
      };
      const running = once();
      errors(); // all is submitted: what is wrong is told while it runs
      const first = await running;
      const first_ms = performance.now() - begun; // with what compiling and making buffers took
      const times = [];
      for (let turn = 0; turn < plan.repeats; turn++) times.push((await once()).ms);
      const sizes = { kept_bytes: total(own.kept.values()), passing_bytes: total(passing) };
      return { value: { first_ms, times_ms: times, ...sizes }, tensors: first.answer };
    } finally {
      const problems = await errors();
      for (const buffer of passing) buffer.destroy();
      const problem = problems.findLast((one) => one); // out of memory before what follows from it
      if (problem) {
        for (const { name } of tensors) dropped(own, name); // what could not be allocated must not count as kept
        for (const { name, fresh } of plan.states) if (fresh) dropped(own, name);
        throw new OperationError("kernel", `${what}: ${problem.message}`);
      }
    }
  }
}

const STORED = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
const READ = GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST;

/** Whether what is sent under a name outlives the run. @param {Plan} plan @param {string} name */
function stays(plan, name) {
  return plan.constants.includes(name) || plan.states.some((state) => state.name === name);
}

/** @param {Belongings} own @param {string} key */
function dropped(own, key) {
  own.kept.get(key)?.destroy();
  own.kept.delete(key);
}

/**
 * Returns the buffers of a plan by name: what was sent, what is kept, and what programs write.
 * @param {GPUDevice} gpu
 * @param {Belongings} own
 * @param {Plan} plan
 * @param {Sent[]} tensors
 * @param {GPUBuffer[]} passing takes what must be destroyed
 */
function allBuffers(gpu, own, plan, tensors, passing) {
  /** @type {Map<string, GPUBuffer>} */
  const buffers = new Map();
  for (const { name, bytes, fresh } of plan.states) {
    if (fresh) dropped(own, name); // what a run that failed has left
    const buffer = fresh ? made(gpu, bytes, STORED, []) : own.kept.get(name);
    if (!buffer) throw new OperationError("not_held", `nothing is kept as ${name} on this device`);
    own.kept.set(name, buffer);
    buffers.set(name, buffer);
  }
  for (const { name, data } of tensors) {
    const state = plan.states.find((one) => one.name === name);
    if (state) {
      if (data.byteLength !== state.bytes) throw new OperationError("usage", `${name} is of another size`);
      filled(gpu, /** @type {GPUBuffer} */ (buffers.get(name)), data);
      continue;
    }
    const keeps = plan.constants.includes(name);
    if (keeps) dropped(own, name); // what a run that failed has left
    const buffer = made(gpu, data.byteLength, STORED, keeps ? [] : passing);
    if (keeps) own.kept.set(name, filled(gpu, buffer, data));
    buffers.set(name, buffer);
  }
  for (const key of plan.constants) {
    const buffer = own.kept.get(key);
    if (!buffer) throw new OperationError("not_held", `nothing is kept as ${key} on this device`);
    buffers.set(key, buffer);
  }
  for (const { name, bytes } of plan.temporaries) buffers.set(name, made(gpu, bytes, STORED, passing));
  return buffers;
}

/** @param {GPUDevice} gpu @param {Belongings} own @param {Step} step @param {string} code */
function pipelineOf(gpu, own, step, code) {
  const key = JSON.stringify([code, step.entry, step.constants]);
  const there = own.pipelines.get(key);
  if (there) return there;
  const compiling = compiled(gpu, step, code);
  if (own.pipelines.size >= MOST_PIPELINES)
    own.pipelines.delete(/** @type {string} */ (own.pipelines.keys().next().value));
  own.pipelines.set(key, compiling);
  compiling.catch(() => own.pipelines.delete(key));
  return compiling;
}

/** @param {GPUDevice} gpu @param {Step} step @param {string} code */
async function compiled(gpu, { kernel, entry, constants }, code) {
  const module = gpu.createShaderModule({ code, label: kernel });
  const { messages } = await module.getCompilationInfo();
  const wrong = messages.filter((message) => message.type === "error");
  if (wrong.length) {
    const lines = code.split("\n");
    const told = wrong.slice(0, 5).map(({ lineNum, linePos, message }) => {
      return `line ${lineNum}:${linePos}: ${message} (${(lines[lineNum - 1] ?? "").trim().slice(0, 120)})`;
    });
    throw new OperationError("kernel", `${kernel} does not compile: ${told.join("; ")}`);
  }
  try {
    return await gpu.createComputePipelineAsync({ layout: "auto", compute: { module, entryPoint: entry, constants } });
  } catch (error) {
    throw new OperationError("kernel", `${kernel} is no pipeline: ${error instanceof Error ? error.message : error}`);
  }
}

/** @param {GPUDevice} gpu @param {number} bytes @param {number} usage @param {GPUBuffer[]} passing */
function made(gpu, bytes, usage, passing) {
  const size = Math.max(LEAST_BYTES, Math.ceil(bytes / BYTES_OF_COPY) * BYTES_OF_COPY);
  const buffer = gpu.createBuffer({ size, usage });
  passing.push(buffer);
  return buffer;
}

/** @param {GPUDevice} gpu @param {GPUBuffer} buffer @param {ArrayBuffer} data */
function filled(gpu, buffer, data) {
  const whole = data.byteLength - (data.byteLength % BYTES_OF_COPY);
  gpu.queue.writeBuffer(buffer, 0, data, 0, whole);
  if (whole === data.byteLength) return buffer;
  const rest = new Uint8Array(BYTES_OF_COPY);
  rest.set(new Uint8Array(data, whole));
  gpu.queue.writeBuffer(buffer, whole, rest);
  return buffer;
}

/** @param {Iterable<GPUBuffer>} buffers */
function total(buffers) {
  let bytes = 0;
  for (const { size } of buffers) bytes += size;
  return bytes;
}

/**
 * @param {GPUDevice} gpu
 * @param {Step} step
 * @param {GPUComputePipeline} pipeline
 * @param {Map<string, GPUBuffer>} buffers
 * @param {GPUBuffer[]} passing
 * @returns {Ready}
 */
function bound(gpu, { kernel, bindings, uniform, workgroups }, pipeline, buffers, passing) {
  const entries = bindings.map((name, binding) => {
    let buffer = buffers.get(name);
    if (name === "") {
      const data = new Uint32Array(uniform);
      const usage = GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST;
      buffer = filled(gpu, made(gpu, data.byteLength, usage, passing), data.buffer);
    }
    if (!buffer) throw new OperationError("usage", `${kernel}: nothing was sent for ${name}`);
    return { binding, resource: { buffer } };
  });
  return { pipeline, group: gpu.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries }), workgroups };
}

/**
 * Dispatches everything in turn and fetches the outputs.
 * @param {GPUDevice} gpu
 * @param {Ready[]} ready
 * @param {Map<string, GPUBuffer>} buffers
 * @param {{spec: Output, staging: GPUBuffer}[]} outputs
 */
async function answered(gpu, ready, buffers, outputs) {
  const encoder = gpu.createCommandEncoder();
  const pass = encoder.beginComputePass();
  for (const { pipeline, group, workgroups } of ready) {
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, group);
    pass.dispatchWorkgroups(workgroups[0], workgroups[1], workgroups[2]);
  }
  pass.end();
  for (const { spec, staging } of outputs) {
    const source = buffers.get(spec.buffer);
    if (!source) throw new OperationError("usage", `nothing writes ${spec.buffer}`);
    encoder.copyBufferToBuffer(source, 0, staging, 0, staging.size);
  }
  gpu.queue.submit([encoder.finish()]);
  return Promise.all(
    outputs.map(async ({ spec, staging }) => {
      await staging.mapAsync(GPUMapMode.READ);
      const bytes = new Uint8Array(staging.getMappedRange().slice(0, spec.bytes));
      staging.unmap();
      return { name: spec.name, dtype: spec.dtype, shape: spec.shape, bytes };
    }),
  );
}
