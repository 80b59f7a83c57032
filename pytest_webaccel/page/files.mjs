// The fastest way in: the driver sets local files on a hidden input, the page reads them by handle.
// A page whose browser cannot be handed files fetches the same bytes over HTTP.

const TAKE_MS = 30_000;

/** @type {Map<string, File>} */
const arrived = new Map();
/** @type {Map<string, (file: File) => void>} */
const awaited = new Map();

/** @param {HTMLInputElement} input */
export function watchFiles(input) {
  input.addEventListener("change", () => {
    for (const file of input.files ?? []) {
      const waiting = awaited.get(file.name);
      awaited.delete(file.name);
      if (waiting) waiting(file);
      else arrived.set(file.name, file);
    }
  });
}

/**
 * @param {import("./session.mjs").FileRef} reference
 * @param {string} token
 * @returns {Promise<ArrayBuffer>}
 */
export async function takeFile(reference, token) {
  const bytes = reference.via === "file" ? await fromHandle(reference.key) : await fromServer(reference.key, token);
  if (bytes.byteLength !== reference.bytes) {
    throw new Error(`${reference.name}: ${bytes.byteLength} bytes came, ${reference.bytes} were announced`);
  }
  return bytes;
}

/** @param {string} key */
async function fromHandle(key) {
  const here = arrived.get(key);
  arrived.delete(key);
  /** @type {File} */
  const file =
    here ??
    (await new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        awaited.delete(key);
        reject(new Error(`no file was handed in within ${TAKE_MS} ms`));
      }, TAKE_MS);
      awaited.set(key, (/** @type {File} */ late) => {
        clearTimeout(timer);
        resolve(late);
      });
    }));
  return file.arrayBuffer();
}

/** @param {string} key @param {string} token */
async function fromServer(key, token) {
  const response = await fetch(`/blob/${key}`, { headers: { Authorization: `Bearer ${token}` } });
  if (!response.ok) throw new Error(`the bridge answered ${response.status} for a file`);
  return response.arrayBuffer();
}
