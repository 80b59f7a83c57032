"""Binary frames: how tensors cross the socket.

A tensor is announced in a JSON message (name, dtype, shape, bytes) and follows in chunks. A chunk is
a header of 64 bytes, little-endian, then raw little-endian payload, so that the payload starts
64-byte aligned:

======  ====  =====================================================
offset  type  field
======  ====  =====================================================
0       u32   magic, ``WAX1``
4       u32   request id
8       u32   index of the tensor in the announcing message
12      u32   payload bytes in this frame
16      u64   offset of the payload in the tensor
24      u64   bytes of the whole tensor
32      u32   CRC-32 of the 32 bytes before it and the payload
36      --    zero
======  ====  =====================================================

A text message starts with the CRC-32 of its UTF-8 bytes, as 8 hexadecimal digits, before the JSON object. One that
starts with its ``{`` is taken unchecked. The CRC-32 is that of zlib, PNG and Ethernet.
"""

from __future__ import annotations

import dataclasses
import math
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = [
    "CHUNK_BYTES",
    "DTYPES",
    "HEADER_BYTES",
    "Assembly",
    "Chunk",
    "TensorSpec",
    "chunks",
    "decode_chunk",
    "seal",
    "spec_of",
    "unseal",
]

HEADER_BYTES = 64
CHUNK_BYTES = 1 << 20
MAX_NAME = 1024
MAX_RANK = 32
_HEADER = struct.Struct("<4sIIIQQ")
_CHECKSUM = struct.Struct("<I28s")
_ZEROS = bytes(28)
_MAGIC = b"WAX1"

#: Wire names of dtypes, those of ONNX and of onnxruntime-web, with NumPy's dtype of each.
DTYPES: Mapping[str, np.dtype[Any]] = {
    name: np.dtype(name)
    for name in (
        "float32",
        "float64",
        "float16",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "bool",
    )
}


@dataclasses.dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a message announces of one tensor. A string tensor carries its ``text`` in the message itself."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    text: tuple[str, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the announcement."""
        data: dict[str, Any] = {"name": self.name, "dtype": self.dtype, "shape": list(self.shape), "bytes": self.bytes}
        if self.text is not None:
            data["text"] = list(self.text)
        return data

    @classmethod
    def from_json(cls, data: object, *, limit: int) -> TensorSpec:
        """Return the announced tensor, refused as ProtocolError unless whole, consistent and within ``limit`` bytes."""
        if not isinstance(data, dict):
            raise ProtocolError(f"a tensor is announced by an object, not by {type(data).__name__}")
        name, dtype, shape, size = (data.get(key) for key in ("name", "dtype", "shape", "bytes"))
        if not isinstance(name, str) or len(name) > MAX_NAME:
            raise ProtocolError("a tensor's name is a string of at most 1024 characters")
        if (
            not isinstance(shape, list)
            or len(shape) > MAX_RANK
            or not all(type(extent) is int and 0 <= extent < 1 << 40 for extent in shape)
        ):
            raise ProtocolError(f"tensor {name!r}: the shape is a list of at most {MAX_RANK} sizes")
        count = math.prod(shape)
        if dtype == "string":
            text = data.get("text")
            if not isinstance(text, list) or len(text) != count or not all(isinstance(item, str) for item in text):
                raise ProtocolError(f"tensor {name!r}: a string tensor carries one string an element")
            return cls(name, dtype, tuple(shape), 0, tuple(text))
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise ProtocolError(f"tensor {name!r}: dtype {str(dtype)[:40]!r} is none of {', '.join(DTYPES)}, string")
        if type(size) is not int or size != count * DTYPES[dtype].itemsize:
            raise ProtocolError(f"tensor {name!r}: {size!r} bytes announced, shape and dtype make {count} elements")
        if size > limit:
            raise ProtocolError(f"tensor {name!r}: {size} bytes are over the limit of {limit}")
        return cls(name, dtype, tuple(shape), size)


def spec_of(name: str, array: np.ndarray[Any, Any]) -> TensorSpec:
    """Return the announcement of ``array``; raises TypeError for a dtype that cannot cross."""
    if array.dtype.kind in "UOT":
        return TensorSpec(name, "string", array.shape, 0, tuple(str(item) for item in array.ravel().tolist()))
    if array.dtype.name not in DTYPES:
        raise TypeError(f"dtype {array.dtype} cannot cross the bridge; known: {', '.join(DTYPES)}, string")
    return TensorSpec(name, array.dtype.name, array.shape, array.nbytes)


@dataclasses.dataclass(frozen=True, slots=True)
class Chunk:
    """One decoded binary frame; ``payload`` is a view into the frame, ``intact`` whether its checksum is right."""

    request: int
    tensor: int
    offset: int
    total: int
    payload: memoryview
    intact: bool


def chunks(request: int, tensor: int, data: memoryview, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
    """Yield the frames that carry ``data`` (contiguous bytes); none for an empty tensor."""
    total = data.nbytes
    for offset in range(0, total, chunk_bytes):
        payload = data[offset : offset + chunk_bytes]
        header = _HEADER.pack(_MAGIC, request, tensor, payload.nbytes, offset, total)
        yield b"".join((header, _CHECKSUM.pack(zlib.crc32(payload, zlib.crc32(header)), _ZEROS), payload))


def decode_chunk(frame: bytes) -> Chunk:
    """Return the chunk in ``frame``; raises ProtocolError when it is not one."""
    if len(frame) < HEADER_BYTES:
        raise ProtocolError(f"a binary frame of {len(frame)} bytes is shorter than its header")
    magic, request, tensor, length, offset, total = _HEADER.unpack_from(frame)
    if magic != _MAGIC:
        raise ProtocolError("a binary frame does not start with the magic number WAX1")
    payload = memoryview(frame)[HEADER_BYTES:]
    if payload.nbytes != length or length == 0:
        raise ProtocolError(f"a binary frame says {length} bytes of payload and carries {payload.nbytes}")
    if offset + length > total:
        raise ProtocolError(f"a chunk of {length} bytes at {offset} runs past its tensor of {total} bytes")
    checksum, zeros = _CHECKSUM.unpack_from(frame, _HEADER.size)
    intact = zlib.crc32(payload, zlib.crc32(frame[: _HEADER.size])) == checksum and zeros == _ZEROS
    return Chunk(request, tensor, offset, total, payload, intact)


def seal(text: str) -> str:
    """Return the JSON object ``text`` with its checksum before it."""
    return f"{zlib.crc32(text.encode()):08x}{text}"


def unseal(text: str) -> str:
    """Return the JSON in ``text``, whose checksum was right where it has one; raises ProtocolError where it is not."""
    if text[:1] == "{" or text[8:9] != "{":
        return text
    if text[:8] != f"{zlib.crc32(text[8:].encode('utf-8', 'replace')):08x}":
        raise ProtocolError("a text frame arrived damaged: its checksum is not the one it says")
    return text[8:]


class Assembly:
    """Tensors of one message, being put together from chunks that arrive in order."""

    def __init__(self, specs: Sequence[TensorSpec]) -> None:
        """Allocate what ``specs`` (already bounded) announce."""
        self._specs = tuple(specs)
        self._buffers = [bytearray(spec.bytes) for spec in specs]
        self._filled = [0] * len(self._specs)

    @property
    def complete(self) -> bool:
        """Whether every announced byte is there."""
        return all(filled == spec.bytes for filled, spec in zip(self._filled, self._specs, strict=True))

    def add(self, chunk: Chunk) -> None:
        """Take one chunk; raises ProtocolError for one that was not announced or is out of order."""
        if chunk.tensor >= len(self._specs):
            raise ProtocolError(f"a chunk for tensor {chunk.tensor}, where {len(self._specs)} were announced")
        spec = self._specs[chunk.tensor]
        if chunk.total != spec.bytes:
            raise ProtocolError(f"tensor {spec.name!r}: a chunk says {chunk.total} bytes, announced were {spec.bytes}")
        if chunk.offset != self._filled[chunk.tensor]:
            raise ProtocolError(
                f"tensor {spec.name!r}: a chunk at {chunk.offset}, expected one at {self._filled[chunk.tensor]}"
            )
        self._buffers[chunk.tensor][chunk.offset : chunk.offset + chunk.payload.nbytes] = chunk.payload
        self._filled[chunk.tensor] += chunk.payload.nbytes

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return the tensors by name, writable, owning their memory."""
        result: dict[str, np.ndarray[Any, Any]] = {}
        for spec, buffer in zip(self._specs, self._buffers, strict=True):
            if spec.text is not None:
                result[spec.name] = np.array(spec.text, dtype=object).reshape(spec.shape)
            else:
                result[spec.name] = np.frombuffer(buffer, dtype=DTYPES[spec.dtype]).reshape(spec.shape)
        return result
