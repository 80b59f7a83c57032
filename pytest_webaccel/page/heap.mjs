// What lies where in a WebAssembly memory: it grows where it must, and what is freed is taken again.

import { OperationError } from "./onnx.mjs";

const ALIGNMENT = 64;
const PAGE_BYTES = 65_536;
const MOST_BYTES = 2 ** 32;

export class Heap {
  /** @param {WebAssembly.Memory} memory @param {number} base the first address that is free */
  constructor(memory, base) {
    this.memory = memory;
    /** Where nothing was ever taken. */
    this.end = aligned(base);
    /** Bytes of what is taken, by address. @type {Map<number, number>} */
    this.taken = new Map();
    /** Gaps by address, none beside another or at the end. @type {{at: number, bytes: number}[]} */
    this.gaps = [];
  }

  /**
   * Takes memory, its content undefined, and returns its address, a multiple of 64.
   * @param {number} wanted bytes
   */
  take(wanted) {
    const bytes = aligned(Math.max(wanted, 1));
    const index = this.gaps.findIndex((gap) => gap.bytes >= bytes);
    let at = this.end;
    if (index >= 0) {
      const gap = this.gaps[index];
      at = gap.at;
      if (gap.bytes === bytes) this.gaps.splice(index, 1);
      else this.gaps[index] = { at: at + bytes, bytes: gap.bytes - bytes };
    } else {
      this.grow(at + bytes);
      this.end = at + bytes;
    }
    this.taken.set(at, bytes);
    return at;
  }

  /** Frees what was taken. @param {number} at */
  give(at) {
    const bytes = this.taken.get(at);
    if (bytes === undefined) throw new Error(`nothing was taken at ${at}`);
    this.taken.delete(at);
    const after = this.gaps.findIndex((gap) => gap.at > at);
    const index = after < 0 ? this.gaps.length : after;
    const gap = { at, bytes };
    const next = this.gaps[index];
    if (next?.at === at + bytes) gap.bytes += next.bytes;
    const before = this.gaps[index - 1];
    const joins = before !== undefined && before.at + before.bytes === at;
    if (joins) {
      gap.at = before.at;
      gap.bytes += before.bytes;
    }
    const first = joins ? index - 1 : index;
    const past = gap.at + gap.bytes === this.end;
    if (past) this.end = gap.at;
    this.gaps.splice(first, (joins ? 1 : 0) + (next?.at === at + bytes ? 1 : 0), ...(past ? [] : [gap]));
  }

  /** @param {number} until the first address that is not needed */
  grow(until) {
    const size = this.memory.buffer.byteLength;
    if (until <= size) return;
    if (until > MOST_BYTES)
      throw new OperationError("memory", `${until} bytes are more than the ${MOST_BYTES} that WebAssembly addresses`);
    try {
      this.memory.grow(Math.ceil((until - size) / PAGE_BYTES));
    } catch (error) {
      throw new OperationError("memory", `memory of ${size} bytes cannot grow to ${until}: ${String(error)}`);
    }
  }
}

/** @param {number} bytes */
function aligned(bytes) {
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
}
