// Harm that a lane's page does to itself when a fault asks for it (pytest_webaccel/faults). Loaded only then.

import { within } from "./device.mjs";
import { OperationError } from "./onnx.mjs";

/** @typedef {{device: import("./device.mjs").LaneDevice, onnx: import("./onnx.mjs").OnnxEngine}} Lane */

const BLOCK_BYTES = 32 << 20;

/** What is held so that nothing else can have it: GPU buffers, and a chain of blocks of numbers. @type {any[]} */
let ballast = [];
/** @type {{before: any, block: number[]} | null} */
let heap = null;
let refusal = "";

// Loops inside loops, since a driver may end a single one after 65,535 rounds; the value read is never 1.
const ENDLESS = `
@group(0) @binding(0) var<storage, read_write> cell: array<u32>;
@compute @workgroup_size(1) fn main() {
  loop {
    if (cell[0] == 1u) { break; }
    loop {
      if (cell[0] == 1u || cell[1] == 0xffffffffu) { break; }
      for (var i = 0u; i < 60000u; i++) { cell[1] = (cell[1] + i) % 0xfffffff0u; }
    }
  }
}`;

/** @type {Record<string, (lane: Lane, args: any) => Promise<any>>} */
const kinds = {
  /** Takes the page's only thread, for ever. */
  page_loop: async () => {
    for (;;);
  },

  /** Gives every device of the lane a shader that never ends; what is submitted after it is never done. */
  gpu_loop: async ({ device }) => {
    const devices = gpus(device);
    for (const gpu of devices) {
      const module = gpu.createShaderModule({ code: ENDLESS });
      const pipeline = await gpu.createComputePipelineAsync({
        layout: "auto",
        compute: { module, entryPoint: "main" },
      });
      const buffer = gpu.createBuffer({ size: 8, usage: GPUBufferUsage.STORAGE });
      const group = gpu.createBindGroup({
        layout: pipeline.getBindGroupLayout(0),
        entries: [{ binding: 0, resource: { buffer } }],
      });
      const encoder = gpu.createCommandEncoder();
      const pass = encoder.beginComputePass();
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, group);
      pass.dispatchWorkgroups(1);
      pass.end();
      gpu.queue.submit([encoder.finish()]);
    }
    return { devices: devices.length };
  },

  /** Answers once every device has done what was submitted to it; fails after `ms`. */
  await_device: async ({ device }, { ms }) => {
    if (!(await device.answers(ms))) throw new OperationError("device", `the GPU left its work undone for ${ms} ms`);
  },

  /** Destroys every device or context that the lane works with. */
  device_destroyed: async ({ device }) => {
    const devices = [...device.devices];
    if (!devices.length) throw new OperationError("usage", "the lane has no device that could be destroyed");
    for (const one of devices) one.destroy();
    return { devices: devices.length };
  },

  /** Frees the engine's sessions while the lane still counts on them: their next run raises. */
  component_error: async ({ onnx }) => {
    const entries = [...onnx.sessions.values()];
    if (!entries.length) throw new OperationError("usage", "no model is loaded whose session could be released");
    for (const { session } of entries) await onnx.inTurn(() => session.release());
    return { sessions: entries.length };
  },

  /** Answers with `bytes` bytes, to measure how fast they come. No harm in itself. */
  speak: async (_, { bytes }) => "x".repeat(bytes),

  /** Fills the page's heap until the process dies, or the engine says that there is no more. */
  heap: async () => {
    // An engine that refuses a large block may still have smaller ones.
    for (const numbers of [1 << 16, 1 << 12, 1 << 8, 1 << 4]) {
      try {
        for (;;) heap = { before: heap, block: new Array(numbers).fill(numbers + 0.5) };
      } catch (error) {
        refusal = String(error);
      }
    }
    throw new OperationError("memory", `the page's heap is full: ${refusal}`);
  },

  /** Takes GPU memory until the device refuses to give more, and keeps it. */
  gpu_memory: async ({ device }, { ms }) => {
    const gpu = gpus(device)[0];
    for (let taken = 0; ; taken += BLOCK_BYTES) {
      gpu.pushErrorScope("out-of-memory");
      const buffer = gpu.createBuffer({ size: BLOCK_BYTES, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST });
      const scope = /** @type {Promise<GPUError | null>} */ (gpu.popErrorScope());
      const error = await within(scope, ms, "popErrorScope");
      if (error) {
        const words = `${error.constructor.name} after ${taken >> 20} MiB: ${error.message}`;
        throw new OperationError("memory", words.slice(0, 300));
      }
      ballast.push(buffer);
    }
  },

  /** Gives back what `heap` and `gpu_memory` took. */
  free: async () => {
    for (const held of ballast) held.destroy?.();
    ballast = [];
    heap = null;
  },
};

/** @param {import("./device.mjs").LaneDevice} device */
function gpus(device) {
  const found = device.gpus();
  if (!found.length) throw new OperationError("usage", "the lane has no WebGPU device");
  return found;
}

/**
 * @param {any} args `kind`, and what that kind takes
 * @param {Lane} lane
 */
export async function harm(args, lane) {
  const { kind } = args;
  if (!Object.hasOwn(kinds, kind)) throw new OperationError("usage", `no harm ${String(kind)}`);
  return kinds[kind](lane, args);
}
