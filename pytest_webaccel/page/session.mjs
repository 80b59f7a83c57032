// The page's end of the protocol, without I/O: frames in, frames and callbacks out. It outlives
// connections: results are kept until acknowledged, so a request that is sent again after a
// reconnect is answered and not run twice. Messages: see pytest_webaccel/bridge/protocol.py.

import { Assembly, chunks, decodeChunk, seal, unseal } from "./frames.mjs";

const PROTOCOL_VERSION = 2;
const CHUNK_BYTES = 1 << 20;
const REMEMBERED = 256;

/**
 * @typedef {import("./frames.mjs").Tensor} Tensor
 * @typedef {{name: string, dtype: string, shape: number[], bytes: Uint8Array, text?: string[]}} OutTensor
 * @typedef {{name: string, key: string, bytes: number, via: "file" | "http"}} FileRef
 * @typedef {{id: number, op: string, args: any, tensors: Tensor[], files: FileRef[]}} Request
 * @typedef {{ok: true, value?: any, tensors?: OutTensor[], ms: number} |
 *           {ok: false, error: {kind: string, message: string}, ms: number}} Answer
 * @typedef {{state: "receiving", message: any, assembly: Assembly} |
 *           {state: "held", release: () => void} |
 *           {state: "running"} | {state: "cancelled"} |
 *           {state: "done", answer: Answer, sentOn: number}} Entry
 */

export class PageSession {
  /**
   * @param {string} instance random name of this page's life
   * @param {(frame: string | ArrayBuffer) => void} send puts a frame on the present connection
   * @param {(request: Request) => void} onRequest called once for each request
   */
  constructor(instance, send, onRequest) {
    this.instance = instance;
    this.send = send;
    this.onRequest = onRequest;
    this.connection = 0;
    this.welcomed = false;
    this.eventNumber = 0;
    /** @type {Map<number, Entry>} */
    this.entries = new Map();
    /** @type {Map<number, any>} */
    this.events = new Map();
    /** @type {Map<number, number>} */
    this.executions = new Map();
  }

  /** A connection opened: greet. */
  opened() {
    this.connection += 1;
    this.welcomed = false;
    this.json({ t: "hello", protocol: PROTOCOL_VERSION, instance: this.instance });
  }

  /** The connection is gone; half-received requests will come again whole. */
  closed() {
    this.welcomed = false;
    for (const [id, entry] of this.entries) {
      if (entry.state === "receiving") this.entries.delete(id);
    }
  }

  /** @param {string} text */
  text(text) {
    const message = JSON.parse(unseal(text));
    switch (message.t) {
      case "welcome":
        return this.resume(new Set(message.pending));
      case "request":
        return this.request(message);
      case "release": {
        const entry = this.entries.get(message.id);
        if (entry?.state === "held") entry.release();
        return;
      }
      case "cancel":
        this.remember(message.id, { state: "cancelled" });
        return;
      case "again":
        return this.sendAnswer(message.id, true);
      case "ping":
        return this.json({ t: "pong", n: message.n });
      case "ack":
        for (const id of message.ids ?? []) this.remember(id, { state: "cancelled" });
        if (message.events !== undefined) this.events.delete(message.events);
        return;
      default:
        throw new Error(`unknown message type ${String(message.t)}`);
    }
  }

  /** @param {ArrayBuffer} frame */
  binary(frame) {
    const chunk = decodeChunk(frame);
    const entry = this.entries.get(chunk.request);
    if (entry?.state !== "receiving") return; // known and complete already, or asked for again
    if (!chunk.intact) {
      this.entries.delete(chunk.request);
      return this.json({ t: "again", id: chunk.request });
    }
    entry.assembly.add(chunk);
    this.takeUpWhenWhole(chunk.request);
  }

  beat() {
    if (this.welcomed) this.json({ t: "beat" });
  }

  /** @param {string} name @param {any} data */
  event(name, data) {
    const message = { t: "event", n: ++this.eventNumber, name, data };
    this.events.set(message.n, message);
    if (this.welcomed) this.json(message);
  }

  /** @param {number} id @param {Answer} answer */
  answer(id, answer) {
    const entry = this.entries.get(id);
    if (entry?.state !== "running") return; // cancelled meanwhile
    this.entries.set(id, { state: "done", answer, sentOn: 0 });
    if (this.welcomed) this.sendAnswer(id);
  }

  /** @param {Set<number>} pending what the server still wants answered: a cancel or an ack may have been lost */
  resume(pending) {
    this.welcomed = true;
    for (const id of [...this.entries.keys()]) if (!pending.has(id)) this.remember(id, { state: "cancelled" });
    for (const message of this.events.values()) this.json(message);
    for (const [id, entry] of this.entries) if (entry.state === "done") this.sendAnswer(id);
  }

  /** @param {any} message */
  request(message) {
    const entry = this.entries.get(message.id);
    if (entry === undefined || entry.state === "receiving") {
      const assembly = new Assembly(message.tensors);
      this.entries.set(message.id, { state: "receiving", message, assembly });
      return this.takeUpWhenWhole(message.id);
    }
    if (entry.state === "done") return this.sendAnswer(message.id);
    if (entry.state === "held" && !message.hold) return entry.release();
    if (entry.state === "held" || entry.state === "running") this.json({ t: "started", id: message.id });
  }

  /** @param {number} id */
  takeUpWhenWhole(id) {
    const entry = this.entries.get(id);
    if (entry?.state !== "receiving" || !entry.assembly.complete) return;
    const { message, assembly } = entry;
    const start = () => {
      this.entries.set(id, { state: "running" });
      this.executions.set(id, (this.executions.get(id) ?? 0) + 1);
      this.onRequest({ id, op: message.op, args: message.args, tensors: assembly.tensors(), files: message.files });
    };
    if (message.hold) {
      this.entries.set(id, { state: "held", release: start });
      this.json({ t: "started", id });
    } else {
      start();
    }
  }

  /** @param {number} id @param {boolean} again whether what was sent on this connection arrived damaged */
  sendAnswer(id, again = false) {
    const entry = this.entries.get(id);
    if (entry?.state !== "done" || (entry.sentOn === this.connection && !again)) return;
    entry.sentOn = this.connection;
    const { answer } = entry;
    const tensors = answer.ok ? (answer.tensors ?? []) : [];
    const message = {
      t: "result",
      id,
      ok: answer.ok,
      value: answer.ok ? (answer.value ?? null) : undefined,
      error: answer.ok ? undefined : answer.error,
      ms: answer.ms,
      executions: this.executions.get(id) ?? 1,
      tensors: tensors.map(({ name, dtype, shape, bytes, text }) => ({
        name,
        dtype,
        shape,
        bytes: text ? 0 : bytes.byteLength,
        text,
      })),
    };
    this.json(message);
    tensors.forEach((tensor, index) => {
      if (tensor.text) return;
      for (const frame of chunks(id, index, tensor.bytes, CHUNK_BYTES)) this.send(frame);
    });
  }

  /** @param {number} id @param {Entry} entry */
  remember(id, entry) {
    this.entries.set(id, entry);
    if (this.entries.size <= REMEMBERED) return;
    for (const [old, known] of this.entries) {
      if (known.state === "cancelled") {
        this.entries.delete(old);
        this.executions.delete(old);
        return;
      }
    }
  }

  /** @param {any} message */
  json(message) {
    this.send(seal(JSON.stringify(message)));
  }
}
