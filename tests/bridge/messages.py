"""What a page says, written by hand, and each end's way to take it."""

from __future__ import annotations

import json
import struct
import zlib

from pytest_webaccel.bridge.protocol import PROTOCOL_VERSION


def hello(instance="instance-1", **more):
    return json.dumps({"t": "hello", "protocol": PROTOCOL_VERSION, "instance": instance, **more})


def result(request_id, **more):
    return json.dumps({"t": "result", "id": request_id, "ok": True, "ms": 1.0, "executions": 1, "tensors": [], **more})


def announced(size=8, name="x", **more):
    """A tensor of so many bytes, as a result announces it."""
    return {"name": name, "dtype": "uint8", "shape": [size], "bytes": size, **more}


def chunk(request=1, tensor=0, offset=0, total=8, payload=b"12345678", length=None):
    length = len(payload) if length is None else length
    header = struct.pack("<4sIIIQQ", b"WAX1", request, tensor, length, offset, total)
    return header + struct.pack("<I28x", zlib.crc32(payload, zlib.crc32(header))) + payload


def take(end, frame, *now):
    """What the session of the server, or of a page, makes of a frame, text or binary."""
    return (end.text if isinstance(frame, str) else end.binary)(frame, *now)
