// An app that survives the loss of its GPU device: a new copy of onnxruntime-web, a new session, the same question again.

const ORT = "/onnxruntime-web/";
const state = document.getElementById("state");
let generation = 0;
let current = begin();

/** Takes a fresh copy of onnxruntime-web each time: what belongs to a device that was lost cannot be mended. */
async function begin() {
  state.textContent = "loading";
  const ort = await import(`${ORT}ort.all.bundle.min.mjs?generation=${generation++}`);
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = ORT;
  const session = await ort.InferenceSession.create("model.onnx", { executionProviders: ["webgpu"] });
  const device = await ort.env.webgpu.device;
  const lost = device.lost.then((info) => {
    current = begin();
    throw new Error(`the device was lost: ${info.message}`);
  });
  lost.catch(() => {});
  state.textContent = "ready";
  return { ort, session, lost };
}

/** Answers (x + y) * 2; a question that its device did not survive is asked again of the next one. */
globalThis.answer = async (x, y) => {
  for (let attempt = 0; attempt < 3; attempt++) {
    const { ort, session, lost } = await current;
    const feeds = { x: new ort.Tensor("float32", x, [x.length]), y: new ort.Tensor("float32", y, [y.length]) };
    try {
      const { z } = await Promise.race([session.run(feeds), lost]);
      return Array.from(z.data);
    } catch (error) {
      state.textContent = String(error);
    }
  }
  throw new Error("no device lasted long enough");
};
