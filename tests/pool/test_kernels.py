"""What a page tells of a run of kernels, which may be anything."""

from __future__ import annotations

import pytest

from pytest_webaccel.bridge.messages import Reply
from pytest_webaccel.errors import ModelError
from pytest_webaccel.pool.kernels import timings

TOLD = {"first_ms": 2.5, "times_ms": [3.0, 4], "kept_bytes": 8, "passing_bytes": 16}


def reply(value: object) -> Reply:
    return Reply(value, {}, 1.0, 1)


def test_times_are_taken_as_they_are_told():
    told = timings(reply(TOLD), 2)
    assert (told.first_ms, told.times_ms, told.kept_bytes, told.passing_bytes) == (2.5, [3.0, 4.0], 8, 16)


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        TOLD | {"times_ms": [1.0]},
        TOLD | {"times_ms": "ab"},
        TOLD | {"times_ms": [1.0, float("nan")]},
        TOLD | {"first_ms": -1},
        TOLD | {"kept_bytes": "8"},
        {name: one for name, one in TOLD.items() if name != "first_ms"},
    ],
)
def test_anything_else_is_refused(value):
    with pytest.raises(ModelError, match="the page told no times of 2 runs"):
        timings(reply(value), 2)
