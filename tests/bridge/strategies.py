"""Hypothesis strategies for what crosses the bridge."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pytest_webaccel.bridge.frames import DTYPES

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**300, max_value=10**320)
    | st.floats()
    | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)

shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


@st.composite
def arrays(draw):
    """Arrays of every dtype that crosses, any rank, possibly empty, big-endian or not contiguous."""
    name = draw(st.sampled_from([*DTYPES, "string"]))
    shape = draw(shapes)
    if name == "string":
        return draw(hnp.arrays(object, shape, elements=st.text(max_size=6), fill=st.just("")))
    dtype = DTYPES[name].newbyteorder(draw(st.sampled_from("<>")))
    array = draw(hnp.arrays(dtype, shape))
    return array[..., ::2] if array.ndim and draw(st.booleans()) else array


def native_arrays():
    """The same, in the byte order of this machine."""
    return arrays().map(lambda array: array if array.dtype.kind == "O" else array.astype(array.dtype.name))


def same(one, other):
    """Whether two arrays hold the same bits in the same shape."""
    if one.dtype.kind == "O":
        return other.shape == one.shape and other.ravel().tolist() == one.ravel().tolist()
    native = np.ascontiguousarray(one.astype(one.dtype.newbyteorder("="))).reshape(one.shape)
    return native.dtype == other.dtype and native.shape == other.shape and native.tobytes() == other.tobytes()
