// Firefox looks only every 100 ms whether its GPU is done, so each wait for it takes 100 ms. An empty submission makes
// it look at once; here one follows another for as long as anything waits. Other browsers do not need this.

const PAUSE_MS = 1;

/** Queue of each buffer's device. @type {WeakMap<GPUBuffer, GPUQueue>} */
const queues = new WeakMap();
/** How many waits each queue has; a queue with any is polled. @type {WeakMap<GPUQueue, number>} */
const waits = new WeakMap();
const later = globalThis.setTimeout.bind(globalThis);
/** Queues that are polled. @type {WeakSet<GPUQueue>} */
const polled = new WeakSet();
/** Queues whose pause is over. @type {GPUQueue[]} */
const due = [];
const { port1, port2 } = new MessageChannel();
port1.onmessage = () => due.splice(0).forEach(poll);

/** @param {GPUQueue} queue */
function poll(queue) {
  if (!waits.get(queue)) {
    polled.delete(queue);
    return;
  }
  polled.add(queue);
  queue.submit([]);
  // A timer that a timer sets is held back for 4 ms, after some of them; one that a message sets is not.
  later(() => {
    due.push(queue);
    port2.postMessage(null);
  }, PAUSE_MS);
}

/**
 * Polls `queue` until `work` is settled, whichever way.
 * @template T
 * @param {GPUQueue} queue
 * @param {Promise<T>} work
 * @returns {Promise<T>}
 */
function hasten(queue, work) {
  waits.set(queue, (waits.get(queue) ?? 0) + 1);
  const done = () => void waits.set(queue, (waits.get(queue) ?? 1) - 1);
  work.then(done, done);
  if (!polled.has(queue)) poll(queue);
  return work;
}

/** Has `mapAsync` and `onSubmittedWorkDone` of every device made from now on answer as soon as the work is done. */
export function hastenWaits() {
  const { createBuffer } = GPUDevice.prototype;
  GPUDevice.prototype.createBuffer = function (/** @type {GPUBufferDescriptor} */ descriptor) {
    const buffer = createBuffer.call(this, descriptor);
    queues.set(buffer, this.queue);
    return buffer;
  };
  const { mapAsync } = GPUBuffer.prototype;
  GPUBuffer.prototype.mapAsync = function (/** @type {[mode: number, offset?: number, size?: number]} */ ...range) {
    const mapped = mapAsync.apply(this, range);
    const queue = queues.get(this);
    return queue ? hasten(queue, mapped) : mapped;
  };
  const { onSubmittedWorkDone } = GPUQueue.prototype;
  GPUQueue.prototype.onSubmittedWorkDone = function () {
    return hasten(this, onSubmittedWorkDone.call(this));
  };
}
