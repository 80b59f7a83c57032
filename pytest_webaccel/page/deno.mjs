// Stands in for the browser where a lane runs in Deno: makes what the page's modules miss there, and does what the driver
// (pytest_webaccel/browsers/deno.py) says. Its words come on standard input and are answered on standard output, each one
// JSON object with a NUL byte after it, as on Chromium's debugging pipe.

const scope = /** @type {any} */ (globalThis);
const { Deno: deno } = scope;
const { fetch: fetchAbsolute, WebSocket: PlainSocket } = scope;

// Standard output is the driver's.
console.log = console.info = console.debug = console.error;
// An error that nobody handles would end Deno; a browser reports it and goes on.
addEventListener("error", (event) => event.preventDefault());
addEventListener("unhandledrejection", (event) => event.preventDefault());
// Where it is there, onnxruntime-web takes itself to be in Node.
delete scope.process;
// An address without a server is one of the page's own.
scope.fetch = (/** @type {any} */ resource, /** @type {any} */ options) =>
  fetchAbsolute(typeof resource === "string" ? new URL(resource, location.href) : resource, options);
// Deno does not say where a socket comes from, and the bridge admits nobody who does not.
scope.WebSocket = class extends PlainSocket {
  /** @param {string} url @param {string[]} protocols */
  constructor(url, protocols) {
    super(url, { protocols, headers: { Origin: location.origin } });
  }
};

/** @type {Record<string, (parameters: any) => unknown>} */
const calls = {
  version: () => deno.version.deno,
  open: async ({ url }) => {
    scope.location = new URL(url);
    if (location.protocol === "http:") await import(new URL("/page/main.mjs", url).href);
  },
  evaluate: ({ expression }) => (0, eval)(expression), // indirect, and so in the global scope
};

/** @param {{id: number, method: string, params: any}} call */
async function answered({ id, method, params }) {
  try {
    const value = (await calls[method](params)) ?? null;
    return JSON.stringify({ id, result: { value } });
  } catch (error) {
    const threw = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
    return JSON.stringify({ id, result: { threw } });
  }
}

const encoder = new TextEncoder();

/** @param {string} text */
function say(text) {
  let bytes = encoder.encode(`${text}\0`);
  while (bytes.length) bytes = bytes.subarray(deno.stdout.writeSync(bytes));
}

let buffer = "";
for await (const text of deno.stdin.readable.pipeThrough(new TextDecoderStream())) {
  const messages = (buffer + text).split("\0");
  buffer = /** @type {string} */ (messages.pop());
  for (const message of messages) void answered(JSON.parse(message)).then(say);
}
deno.exit(); // the driver is gone
