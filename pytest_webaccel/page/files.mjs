// The fastest way in: the driver sets local files on a hidden input, the page reads them by handle.
// A page whose browser cannot be handed files fetches the same bytes over HTTP.

import { crc32 } from "./checksum.mjs";

const TAKE_MS = 30_000;
const FETCHES = 5;
const FETCH_PAUSE_MS = 50;
const SILENCE_MS = 10_000;

/** @typedef {import("./session.mjs").FileRef} FileRef */

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
 * @param {FileRef} reference
 * @param {string} token
 * @returns {Promise<ArrayBuffer>}
 */
export async function takeFile(reference, token) {
  const bytes = reference.via === "file" ? await fromHandle(reference.key) : await fromServer(reference, token);
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

/**
 * Fetches a file, again where its connection was cut or fell silent, or its bytes are not those that were sent.
 * @param {FileRef} reference
 * @param {string} token
 */
async function fromServer(reference, token) {
  for (let attempt = 1; ; attempt++) {
    const stopping = new AbortController();
    try {
      const headers = { Authorization: `Bearer ${token}` };
      const response = await inTime(fetch(`/blob/${reference.key}`, { headers, signal: stopping.signal }));
      if (!response.ok) throw new Refused(`the bridge answered ${response.status} for a file`);
      const bytes = await readAll(response, reference.bytes);
      const checksum = crc32(bytes).toString(16).padStart(8, "0");
      if (checksum !== response.headers.get("X-Webaccel-Crc32")) throw new Error("the file arrived damaged");
      return /** @type {ArrayBuffer} */ (bytes.buffer);
    } catch (error) {
      stopping.abort();
      if (error instanceof Refused || attempt === FETCHES) throw error;
      await new Promise((resolve) => setTimeout(resolve, Math.random() * FETCH_PAUSE_MS * attempt));
    }
  }
}

/** What another attempt would not change. */
class Refused extends Error {}

/**
 * @param {Response} response
 * @param {number} announced
 */
async function readAll(response, announced) {
  const bytes = new Uint8Array(announced);
  const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
  let filled = 0;
  for (;;) {
    const { done, value } = await inTime(reader.read());
    if (done) break;
    if (filled + value.byteLength > announced) throw new Refused(`more than the ${announced} bytes announced came`);
    bytes.set(value, filled);
    filled += value.byteLength;
  }
  if (filled !== announced) throw new Error(`${filled} bytes came, ${announced} were announced`);
  return bytes;
}

/**
 * @template T
 * @param {Promise<T>} progress
 * @returns {Promise<T>}
 */
async function inTime(progress) {
  let timer = 0;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`nothing came for ${SILENCE_MS} ms`)), SILENCE_MS);
  });
  try {
    return await Promise.race([progress, /** @type {Promise<never>} */ (late)]);
  } finally {
    clearTimeout(timer);
  }
}
