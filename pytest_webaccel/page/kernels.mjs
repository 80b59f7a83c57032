// Engine `kernels` on WebGPU: one compute shader, its buffers, its answer. What is computed is said by the server.

import { OperationError, asOperationError } from "./onnx.mjs";

/** @typedef {{name: string, dtype: string, shape: number[], bytes: number}} Output */
/**
 * @typedef {{kernel: string, code: string, entry: string, constants: Record<string, number>,
 *   bindings: string[], uniform: number[], outputs: Output[], workgroups: number[]}} Program
 */

const LEAST_BYTES = 16; // a binding of nothing is none
const BYTES_OF_COPY = 4;
const LOSS_MS = 200;

export class Kernels {
  /** @param {import("./device.mjs").LaneDevice} device */
  constructor(device) {
    this.device = device;
    /** Pipelines of the present device by what they are made of. @type {Map<string, Promise<GPUComputePipeline>>} */
    this.pipelines = new Map();
    this.generation = 0;
  }

  /**
   * Runs a program once.
   * @param {Program} program
   * @param {{name: string, data: ArrayBuffer}[]} tensors inputs, by the names of bindings
   */
  async run(program, tensors) {
    const [gpu] = this.device.gpus();
    if (!gpu) throw new OperationError("unsupported", "this lane has no WebGPU device");
    if (this.generation !== this.device.generation) this.pipelines.clear();
    this.generation = this.device.generation;
    try {
      return await Promise.race([this.onDevice(gpu, program, tensors), this.device.lost]);
    } catch (error) {
      // A lost device fails what is asked of it before it says that it is lost.
      const late = new Promise((resolve) => setTimeout(resolve, LOSS_MS));
      const lost = await Promise.race([this.device.lost.catch((/** @type {unknown} */ reason) => reason), late]);
      throw asOperationError("kernel", lost ?? error);
    }
  }

  /** @param {GPUDevice} gpu @param {Program} program @param {{name: string, data: ArrayBuffer}[]} tensors */
  async onDevice(gpu, program, tensors) {
    const pipeline = await this.pipeline(gpu, program);
    gpu.pushErrorScope("out-of-memory");
    gpu.pushErrorScope("validation");
    /** @type {GPUBuffer[]} */
    const buffers = [];
    try {
      const { entries, outputs } = bound(gpu, program, tensors, buffers);
      const group = gpu.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries });
      const [x, y, z] = program.workgroups;
      const encoder = gpu.createCommandEncoder();
      const pass = encoder.beginComputePass();
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, group);
      pass.dispatchWorkgroups(x, y, z);
      pass.end();
      gpu.queue.submit([encoder.finish()]);
      return { tensors: await Promise.all(outputs.map((output) => fetched(gpu, output, buffers))) };
    } finally {
      const problems = [await gpu.popErrorScope(), await gpu.popErrorScope()];
      for (const buffer of buffers) buffer.destroy();
      const problem = problems.find((one) => one);
      if (problem) throw new OperationError("kernel", `${program.kernel}: ${problem.message}`);
    }
  }

  /** @param {GPUDevice} gpu @param {Program} program */
  pipeline(gpu, program) {
    const key = JSON.stringify([program.code, program.entry, program.constants]);
    const there = this.pipelines.get(key);
    if (there) return there;
    const made = compiled(gpu, program);
    this.pipelines.set(key, made);
    made.catch(() => this.pipelines.delete(key));
    return made;
  }
}

/** @param {GPUDevice} gpu @param {Program} program */
async function compiled(gpu, { kernel, code, entry, constants }) {
  const module = gpu.createShaderModule({ code, label: kernel });
  const { messages } = await module.getCompilationInfo();
  const wrong = messages.filter((message) => message.type === "error");
  if (wrong.length) {
    const told = wrong.slice(0, 5).map(({ lineNum, linePos, message }) => `line ${lineNum}:${linePos}: ${message}`);
    throw new OperationError("kernel", `${kernel} does not compile: ${told.join("; ")}`);
  }
  try {
    return await gpu.createComputePipelineAsync({ layout: "auto", compute: { module, entryPoint: entry, constants } });
  } catch (error) {
    throw new OperationError("kernel", `${kernel} is no pipeline: ${error instanceof Error ? error.message : error}`);
  }
}

/**
 * Makes the buffers of a program, one for each of its bindings in turn.
 * @param {GPUDevice} gpu
 * @param {Program} program
 * @param {{name: string, data: ArrayBuffer}[]} tensors
 * @param {GPUBuffer[]} buffers takes what must be destroyed
 */
function bound(gpu, program, tensors, buffers) {
  const { STORAGE, UNIFORM, COPY_SRC, COPY_DST } = GPUBufferUsage;
  const given = new Map(tensors.map(({ name, data }) => [name, data]));
  /** @type {{spec: Output, buffer: GPUBuffer}[]} */
  const outputs = [];
  /** @param {number} bytes @param {number} usage */
  const made = (bytes, usage) => {
    const size = Math.max(LEAST_BYTES, Math.ceil(bytes / BYTES_OF_COPY) * BYTES_OF_COPY);
    const buffer = gpu.createBuffer({ size, usage: usage | COPY_DST });
    buffers.push(buffer);
    return buffer;
  };
  /** @param {GPUBuffer} buffer @param {ArrayBuffer} data */
  const filled = (buffer, data) => {
    const whole = data.byteLength - (data.byteLength % BYTES_OF_COPY);
    gpu.queue.writeBuffer(buffer, 0, data, 0, whole);
    if (whole === data.byteLength) return buffer;
    const rest = new Uint8Array(BYTES_OF_COPY);
    rest.set(new Uint8Array(data, whole));
    gpu.queue.writeBuffer(buffer, whole, rest);
    return buffer;
  };
  const entries = program.bindings.map((name, binding) => {
    const spec = program.outputs.find((output) => output.name === name);
    if (spec) {
      const buffer = made(spec.bytes, STORAGE | COPY_SRC);
      outputs.push({ spec, buffer });
      return { binding, resource: { buffer } };
    }
    if (name === "uniform") {
      const data = new Uint32Array(program.uniform);
      return { binding, resource: { buffer: filled(made(data.byteLength, UNIFORM), data.buffer) } };
    }
    const data = given.get(name);
    if (!data) throw new OperationError("usage", `${program.kernel}: nothing was sent for ${name}`);
    return { binding, resource: { buffer: filled(made(data.byteLength, STORAGE), data) } };
  });
  return { entries, outputs };
}

/** @param {GPUDevice} gpu @param {{spec: Output, buffer: GPUBuffer}} output @param {GPUBuffer[]} buffers */
async function fetched(gpu, { spec, buffer }, buffers) {
  const staging = gpu.createBuffer({ size: buffer.size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
  buffers.push(staging);
  const encoder = gpu.createCommandEncoder();
  encoder.copyBufferToBuffer(buffer, 0, staging, 0, buffer.size);
  gpu.queue.submit([encoder.finish()]);
  await staging.mapAsync(GPUMapMode.READ);
  const bytes = new Uint8Array(staging.getMappedRange().slice(0, spec.bytes));
  staging.unmap();
  return { name: spec.name, dtype: spec.dtype, shape: spec.shape, bytes };
}
