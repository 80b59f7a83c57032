// CRC-32 as zlib, PNG and Ethernet have it, sixteen bytes at a time ("slicing by 16").

const POLYNOMIAL = 0xedb88320;
const SLICES = 16;

/** Row s, at s * 256: what a byte does to the checksum when s more bytes follow it. */
const TABLE = new Int32Array(SLICES * 256);
for (let byte = 0; byte < 256; byte++) {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ POLYNOMIAL : value >>> 1;
  TABLE[byte] = value;
}
for (let at = 256; at < TABLE.length; at++) {
  TABLE[at] = (TABLE[at - 256] >>> 8) ^ TABLE[TABLE[at - 256] & 0xff];
}

/**
 * @param {Uint8Array} bytes
 * @param {number} before checksum of what came before
 * @returns {number} unsigned
 */
export function crc32(bytes, before = 0) {
  let crc = ~before;
  let at = 0;
  const end = bytes.length;
  // Words can only be read where they are aligned, which payloads of frames are.
  if (bytes.byteOffset % 4 === 0 && end >= SLICES) {
    const words = new Int32Array(bytes.buffer, bytes.byteOffset, end >> 2);
    const last = end - SLICES;
    for (; at <= last; at += SLICES) {
      const word = at >> 2;
      const a = words[word] ^ crc;
      const b = words[word + 1];
      const c = words[word + 2];
      const d = words[word + 3];
      crc =
        TABLE[3840 + (a & 0xff)] ^
        TABLE[3584 + ((a >>> 8) & 0xff)] ^
        TABLE[3328 + ((a >>> 16) & 0xff)] ^
        TABLE[3072 + (a >>> 24)] ^
        TABLE[2816 + (b & 0xff)] ^
        TABLE[2560 + ((b >>> 8) & 0xff)] ^
        TABLE[2304 + ((b >>> 16) & 0xff)] ^
        TABLE[2048 + (b >>> 24)] ^
        TABLE[1792 + (c & 0xff)] ^
        TABLE[1536 + ((c >>> 8) & 0xff)] ^
        TABLE[1280 + ((c >>> 16) & 0xff)] ^
        TABLE[1024 + (c >>> 24)] ^
        TABLE[768 + (d & 0xff)] ^
        TABLE[512 + ((d >>> 8) & 0xff)] ^
        TABLE[256 + ((d >>> 16) & 0xff)] ^
        TABLE[d >>> 24];
    }
  }
  for (; at < end; at++) crc = (crc >>> 8) ^ TABLE[(crc ^ bytes[at]) & 0xff];
  return ~crc >>> 0;
}
