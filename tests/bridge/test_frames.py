from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_webaccel.bridge.frames import (
    DTYPES,
    HEADER_BYTES,
    Assembly,
    TensorSpec,
    chunks,
    decode_chunk,
    spec_of,
)
from pytest_webaccel.errors import ProtocolError
from tests.bridge.messages import chunk
from tests.bridge.strategies import json_values, native_arrays, same

LIMIT = 1 << 20


def flat(array):
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


@given(array=native_arrays())
def test_an_announced_and_chunked_tensor_arrives_as_it_was(array):
    spec = TensorSpec.from_json(spec_of("x", array).to_json(), limit=LIMIT)
    assembly = Assembly([spec])
    if spec.text is None and array.nbytes:
        for frame in chunks(3, 0, flat(array), chunk_bytes=7):
            assert not assembly.complete
            assembly.add(decode_chunk(frame))
    assert assembly.complete
    assert same(array, assembly.arrays()["x"])


def test_arrived_tensors_can_be_written_to():
    assembly = Assembly([TensorSpec("x", "float32", (2,), 8)])
    for frame in chunks(1, 0, flat(np.ones(2, np.float32))):
        assembly.add(decode_chunk(frame))
    arrived = assembly.arrays()["x"]
    arrived[0] = 5
    assert arrived.tolist() == [5, 1]


@given(total=st.integers(1, 5000), size=st.integers(1, 700))
def test_chunks_cover_the_tensor_once_in_order_with_an_aligned_payload(total, size):
    data = bytes(index % 251 for index in range(total))
    frames = list(chunks(9, 2, memoryview(data), size))
    assert all(len(frame) <= HEADER_BYTES + size for frame in frames)
    decoded = [decode_chunk(frame) for frame in frames]
    assert b"".join(bytes(chunk.payload) for chunk in decoded) == data
    assert {(chunk.request, chunk.tensor, chunk.total) for chunk in decoded} == {(9, 2, total)}
    assert HEADER_BYTES % 64 == 0


def test_an_empty_tensor_needs_no_chunks():
    assert list(chunks(1, 0, memoryview(b""))) == []
    assert Assembly([TensorSpec("x", "float32", (0, 3), 0)]).arrays()["x"].shape == (0, 3)


@given(st.binary(max_size=200) | st.binary(max_size=150).map(lambda tail: b"WAX1" + tail))
@example(b"WAX1" + bytes(60))
def test_arbitrary_bytes_are_a_chunk_within_its_tensor_or_a_protocol_error(frame):
    try:
        chunk = decode_chunk(frame)
    except ProtocolError:
        return
    assert 0 < chunk.payload.nbytes == len(frame) - HEADER_BYTES
    assert chunk.offset + chunk.payload.nbytes <= chunk.total


@given(json_values | st.fixed_dictionaries(dict.fromkeys(("name", "dtype", "shape", "bytes", "text"), json_values)))
@example({"name": "x", "dtype": "float32", "shape": [1 << 39] * 3, "bytes": 4})
@example({"name": "x", "dtype": "float32", "shape": [True], "bytes": 4})
@example({"name": "x", "dtype": "string", "shape": [2], "bytes": 0, "text": ["a"]})
@example({"name": "x", "dtype": "float32", "shape": [1] * 33, "bytes": 4})
@example({"name": "x" * 1025, "dtype": "float32", "shape": [1], "bytes": 4})
@example({"name": "x", "dtype": "uint8", "shape": [LIMIT + 1], "bytes": LIMIT + 1})
@example({"name": "x", "dtype": "uint8", "shape": [-1], "bytes": -1})
def test_an_arbitrary_announcement_is_within_bounds_or_a_protocol_error(data):
    try:
        spec = TensorSpec.from_json(data, limit=LIMIT)
    except ProtocolError:
        return
    assert 0 <= spec.bytes <= LIMIT
    assert len(spec.shape) <= 32
    assert len(spec.name) <= 1024
    assert spec.text is not None or spec.bytes == np.zeros(spec.shape, DTYPES[spec.dtype]).nbytes


@pytest.mark.parametrize(
    ("tensor", "offset", "total", "words"),
    [
        (1, 0, 8, "1 were announced"),
        (0, 4, 8, "expected one at 0"),
        (0, 0, 12, "announced were 8"),
    ],
)
def test_a_chunk_that_was_not_announced_so_is_refused(tensor, offset, total, words):
    assembly = Assembly([TensorSpec("x", "float32", (2,), 8)])
    with pytest.raises(ProtocolError, match=words):
        assembly.add(decode_chunk(chunk(1, tensor, offset, total, b"abcd")))


def test_a_chunk_that_comes_twice_is_refused():
    assembly = Assembly([TensorSpec("x", "float32", (2,), 8)])
    first, _ = chunks(1, 0, memoryview(b"abcdefgh"), 4)
    assembly.add(decode_chunk(first))
    with pytest.raises(ProtocolError, match="expected one at 4"):
        assembly.add(decode_chunk(first))


@pytest.mark.parametrize("dtype", [np.complex64, "datetime64[s]", np.void])
def test_a_dtype_that_cannot_cross_is_named(dtype):
    with pytest.raises(TypeError, match="cannot cross"):
        spec_of("x", np.zeros(1, dtype))
