// Binary frames: 64 bytes of little-endian header, then raw little-endian payload.
// The layout is documented once, in pytest_webaccel/bridge/frames.py.

import { crc32 } from "./checksum.mjs";

export const HEADER_BYTES = 64;
const MAGIC = 0x31584157; // "WAX1", little-endian
const CHECKED_BYTES = 32; // of the header, before the checksum

/** @typedef {{name: string, dtype: string, shape: number[], bytes: number, text?: string[]}} TensorSpec */
/** @typedef {{name: string, dtype: string, shape: number[], data: ArrayBuffer, text?: string[]}} Tensor */

/**
 * Yields the frames that carry `bytes`; none for an empty tensor.
 * @param {number} request
 * @param {number} tensor
 * @param {Uint8Array} bytes
 * @param {number} chunkBytes
 * @returns {Generator<ArrayBuffer>}
 */
export function* chunks(request, tensor, bytes, chunkBytes) {
  const total = bytes.byteLength;
  for (let offset = 0; offset < total; offset += chunkBytes) {
    const length = Math.min(chunkBytes, total - offset);
    const frame = new ArrayBuffer(HEADER_BYTES + length);
    const header = new DataView(frame);
    header.setUint32(0, MAGIC, true);
    header.setUint32(4, request, true);
    header.setUint32(8, tensor, true);
    header.setUint32(12, length, true);
    header.setBigUint64(16, BigInt(offset), true);
    header.setBigUint64(24, BigInt(total), true);
    const payload = new Uint8Array(frame, HEADER_BYTES);
    payload.set(bytes.subarray(offset, offset + length));
    header.setUint32(CHECKED_BYTES, checksum(frame, payload), true);
    yield frame;
  }
}

/** @param {ArrayBuffer} frame @param {Uint8Array} payload */
function checksum(frame, payload) {
  return crc32(payload, crc32(new Uint8Array(frame, 0, CHECKED_BYTES)));
}

/**
 * @param {string} text a JSON object
 * @returns {string} with its checksum before it
 */
export function seal(text) {
  return textChecksum(text) + text;
}

/**
 * @param {string} text
 * @returns {string} the JSON in it, whose checksum was right where it has one
 */
export function unseal(text) {
  if (text.startsWith("{")) return text;
  const object = text.slice(8);
  if (textChecksum(object) !== text.slice(0, 8)) throw new Error("a text frame arrived damaged");
  return object;
}

const encoder = new TextEncoder();

/** @param {string} text */
function textChecksum(text) {
  return crc32(encoder.encode(text)).toString(16).padStart(8, "0");
}

/**
 * @param {ArrayBuffer} frame
 * @returns {{request: number, tensor: number, offset: number, total: number, payload: Uint8Array, intact: boolean}}
 */
export function decodeChunk(frame) {
  const header = new DataView(frame);
  if (frame.byteLength < HEADER_BYTES || header.getUint32(0, true) !== MAGIC) {
    throw new Error("a binary frame does not start with the magic number WAX1");
  }
  const length = header.getUint32(12, true);
  if (length !== frame.byteLength - HEADER_BYTES) {
    throw new Error("a binary frame's length is not the one it says");
  }
  const payload = new Uint8Array(frame, HEADER_BYTES, length);
  const rest = new Uint32Array(frame, CHECKED_BYTES + 4, (HEADER_BYTES - CHECKED_BYTES) / 4 - 1);
  return {
    request: header.getUint32(4, true),
    tensor: header.getUint32(8, true),
    offset: Number(header.getBigUint64(16, true)),
    total: Number(header.getBigUint64(24, true)),
    payload,
    intact: checksum(frame, payload) === header.getUint32(CHECKED_BYTES, true) && rest.every((word) => word === 0),
  };
}

/** Tensors of one message, being put together from chunks that arrive in order. */
export class Assembly {
  /** @param {TensorSpec[]} specs */
  constructor(specs) {
    this.specs = specs;
    this.buffers = specs.map((spec) => new Uint8Array(spec.bytes));
    this.filled = specs.map(() => 0);
  }

  get complete() {
    return this.specs.every((spec, index) => this.filled[index] === spec.bytes);
  }

  /** @param {ReturnType<typeof decodeChunk>} chunk */
  add(chunk) {
    const buffer = this.buffers[chunk.tensor];
    if (!buffer || chunk.offset !== this.filled[chunk.tensor] || chunk.total !== buffer.byteLength) {
      throw new Error(`tensor ${chunk.tensor}: a chunk that was not announced or is out of order`);
    }
    buffer.set(chunk.payload, chunk.offset);
    this.filled[chunk.tensor] += chunk.payload.byteLength;
  }

  /** @returns {Tensor[]} */
  tensors() {
    return this.specs.map((spec, index) => ({
      name: spec.name,
      dtype: spec.dtype,
      shape: spec.shape,
      text: spec.text,
      data: /** @type {ArrayBuffer} */ (this.buffers[index].buffer),
    }));
  }
}
