// What really works in this browser: each backend runs something tiny, and its numbers are checked.
// A plain script, evaluated as a whole by the prober; `webaccelProbe` resolves to JSON and never rejects.

/**
 * @typedef {object} Finding
 * @property {boolean} works
 * @property {boolean} timedOut whether a deadline, not an answer, is the reason
 * @property {string} reason
 * @property {string} adapter
 * @property {boolean} fallback whether the adapter calls itself a fallback
 * @property {boolean} accelerated whether a WebNN context calls itself accelerated
 * @property {string[]} features
 * @property {Record<string, number>} limits
 */

/**
 * @param {number} deadlineMs of each await on a browser's service, in milliseconds
 * @returns {Promise<{secure: boolean, userAgent: string, webgpu: Finding, webnn: Finding, cpu: Finding}>}
 */
async function webaccelProbe(deadlineMs) {
  class DeadlineError extends Error {}

  /** @type {<T>(what: string, promise: PromiseLike<T>) => Promise<T>} */
  const within = (what, promise) => {
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;
    const deadline = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new DeadlineError(`${what} did not answer within ${deadlineMs} ms`)), deadlineMs);
    });
    return /** @type {Promise<any>} */ (Promise.race([promise, deadline])).finally(() => clearTimeout(timer));
  };

  /** @returns {Finding} */
  const blank = () => ({
    works: false,
    timedOut: false,
    reason: "",
    adapter: "",
    fallback: false,
    accelerated: false,
    features: [],
    limits: {},
  });

  /** @type {(run: (finding: Finding) => Promise<void>) => Promise<Finding>} */
  const attempt = async (run) => {
    const finding = blank();
    try {
      await run(finding);
      finding.works = true;
    } catch (error) {
      finding.timedOut = error instanceof DeadlineError;
      finding.reason = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
    }
    return finding;
  };

  /** @type {(found: Float32Array, expected: number[], what: string) => void} */
  const check = (found, expected, what) => {
    const wrong = expected.findIndex((value, index) => found[index] !== value);
    if (found.length !== expected.length || wrong >= 0) {
      throw new Error(`${what} computed ${found[wrong]} where ${expected[wrong]} is right (element ${wrong})`);
    }
  };

  const count = 64;
  const input = Float32Array.from({ length: count }, (_, index) => index - 7);
  const expected = Array.from(input, (value) => value * 2 + 1);

  /** @type {(device: GPUDevice, body: string) => Promise<Float32Array>} what `body` makes of the input as `data` */
  const compute = async (device, body) => {
    device.pushErrorScope("validation");
    const module = device.createShaderModule({
      code: `@group(0) @binding(0) var<storage, read_write> data: array<f32>;
        @compute @workgroup_size(${count}) fn main(@builtin(global_invocation_id) id: vec3u) { ${body} }`,
    });
    const pipeline = await within(
      "createComputePipelineAsync",
      device.createComputePipelineAsync({ layout: "auto", compute: { module, entryPoint: "main" } }),
    );
    const size = input.byteLength;
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
    const buffer = device.createBuffer({ size, usage });
    const result = device.createBuffer({ size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
    device.queue.writeBuffer(buffer, 0, input);
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    pass.setPipeline(pipeline);
    const layout = pipeline.getBindGroupLayout(0);
    pass.setBindGroup(0, device.createBindGroup({ layout, entries: [{ binding: 0, resource: { buffer } }] }));
    pass.dispatchWorkgroups(1);
    pass.end();
    encoder.copyBufferToBuffer(buffer, 0, result, 0, size);
    device.queue.submit([encoder.finish()]);
    const error = await within("popErrorScope", device.popErrorScope());
    if (error) throw new Error(error.message);
    await within("mapAsync", result.mapAsync(GPUMapMode.READ));
    return new Float32Array(result.getMappedRange().slice(0));
  };

  /** @type {(finding: Finding) => Promise<void>} */
  const webgpu = async (finding) => {
    if (!navigator.gpu) throw new Error("this browser has no WebGPU: navigator.gpu is missing");
    const adapter = await within(
      "requestAdapter",
      navigator.gpu.requestAdapter({ powerPreference: "high-performance" }),
    );
    if (!adapter) throw new Error("requestAdapter gave no adapter");
    const info = /** @type {any} */ (adapter).info ?? {};
    finding.adapter = [info.vendor, info.architecture, info.device, info.description].filter(Boolean).join(" ");
    finding.fallback = Boolean(info.isFallbackAdapter ?? /** @type {any} */ (adapter).isFallbackAdapter);
    const language = /** @type {any} */ (navigator.gpu).wgslLanguageFeatures ?? [];
    finding.features = [...Array.from(adapter.features, String), ...Array.from(language, String)].sort();
    for (const name in adapter.limits) {
      const value = /** @type {any} */ (adapter.limits)[name];
      if (typeof value === "number" && Number.isSafeInteger(value)) finding.limits[name] = value;
    }
    const device = await within("requestDevice", adapter.requestDevice());
    try {
      check(await compute(device, "data[id.x] = data[id.x] * 2.0 + 1.0;"), expected, "a dispatch");
      // Mesa's lavapipe was seen to leave a loop after 65,535 turns, without an error.
      const turns = 70_000;
      const looped = await compute(
        device,
        `if (id.x == 0u) {
          let turns = u32(data[0] + ${turns - input[0]}.0);
          var sum = 0u;
          for (var turn = 0u; turn < turns; turn++) { sum = sum + 1u; }
          data[0] = f32(sum);
        }`,
      );
      if (looped[0] !== turns) finding.features.push("loops-cut-short");
    } finally {
      device.destroy();
    }
  };

  /** @type {(deviceType: string, finding: Finding) => Promise<void>} */
  const webnnOn = async (deviceType, finding) => {
    const ml = /** @type {any} */ (navigator).ml;
    const Builder = /** @type {any} */ (globalThis).MLGraphBuilder;
    const context = await within(`createContext(${deviceType})`, ml.createContext({ deviceType }));
    try {
      const limits = context.opSupportLimits?.() ?? {};
      finding.limits[`operators_${deviceType}`] = Object.keys(limits).length;
      const builder = new Builder(context);
      const descriptor = { dataType: "float32", shape: [count] };
      const x = builder.input("x", descriptor);
      const scalar = (/** @type {number} */ value) =>
        builder.constant({ dataType: "float32", shape: [1] }, new Float32Array([value]));
      const y = builder.add(builder.mul(x, scalar(2)), scalar(1));
      const graph = await within("MLGraphBuilder.build", builder.build({ y }));
      const [from, to] = await within(
        "createTensor",
        Promise.all([
          context.createTensor({ ...descriptor, writable: true }),
          context.createTensor({ ...descriptor, readable: true }),
        ]),
      );
      context.writeTensor(from, input);
      context.dispatch(graph, { x: from }, { y: to });
      check(new Float32Array(await within("readTensor", context.readTensor(to))), expected, "a graph");
      finding.accelerated ||= deviceType !== "cpu" && context.accelerated === true;
    } finally {
      context.destroy?.();
    }
  };

  /** @type {(finding: Finding) => Promise<void>} */
  const webnn = async (finding) => {
    if (!(/** @type {any} */ (navigator).ml)) throw new Error("this browser has no WebNN: navigator.ml is missing");
    const devices = [];
    for (const deviceType of ["cpu", "gpu", "npu"]) {
      const one = await attempt((own) => webnnOn(deviceType, own));
      Object.assign(finding.limits, one.limits);
      finding.timedOut ||= one.timedOut;
      finding.accelerated ||= one.works && one.accelerated;
      if (one.works) devices.push(deviceType);
      else if (!finding.reason) finding.reason = `${deviceType}: ${one.reason}`;
    }
    if (!devices.length) throw new Error(finding.reason);
    finding.reason = "";
    finding.adapter = devices.join(", ");
    finding.features = devices;
  };

  /** @type {(finding: Finding) => Promise<void>} */
  const cpu = async (finding) => {
    // (func (export "f") (param i32) (result i32)
    //   (i32x4.extract_lane 3 (i32x4.add (i32x4.splat (local.get 0)) (i32x4.splat (local.get 0)))))
    const bytes = Uint8Array.from([
      0, 97, 115, 109, 1, 0, 0, 0, 1, 6, 1, 96, 1, 127, 1, 127, 3, 2, 1, 0, 7, 5, 1, 1, 102, 0, 0, 10, 18, 1, 16, 0, 32,
      0, 253, 17, 32, 0, 253, 17, 253, 174, 1, 253, 27, 3, 11,
    ]);
    const { instance } = await within("WebAssembly.instantiate", WebAssembly.instantiate(bytes));
    const answer = /** @type {any} */ (instance.exports).f(21);
    if (answer !== 42) throw new Error(`a SIMD addition computed ${answer} where 42 is right`);
    finding.adapter = "WebAssembly SIMD";
    finding.features = ["simd"];
    finding.limits.threads = navigator.hardwareConcurrency;
  };

  return {
    secure: globalThis.isSecureContext === true,
    userAgent: navigator.userAgent,
    webgpu: await attempt(webgpu),
    webnn: await attempt(webnn),
    cpu: await attempt(cpu),
  };
}
