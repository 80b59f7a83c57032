"""What a process tree costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pytest_webaccel.browsers import usage
from pytest_webaccel.browsers.usage import Usage, tree_usage

_BYTES = 64 << 20
#: A child that holds memory and spends time, below a parent that does neither.
_CHILD = f"""
import time
held = bytearray({_BYTES})
held[::4096] = b"x" * len(held[::4096])
until = time.process_time() + 0.2
while time.process_time() < until:
    pass
print("spent", flush=True)
input()
"""
_PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {_CHILD!r}])"


@pytest.fixture
def tree():
    command = [sys.executable, "-c", _PARENT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdin is not None
        assert parent.stdout.readline() == "spent\n"
        yield parent
        parent.stdin.close()


def test_the_usage_of_a_tree_counts_descendants(tree):
    seen = tree_usage(tree.pid)
    assert seen.cpu_s >= 0.2
    assert _BYTES < seen.pss_bytes < 10 * _BYTES


def test_resident_memory_stands_in_where_the_share_is_not_told(tree, monkeypatch):
    def refuse(name):
        raise PermissionError(name)

    monkeypatch.setattr(usage, "Path", refuse)
    assert tree_usage(tree.pid).pss_bytes > _BYTES


def test_nothing_is_used_by_what_is_not_there():
    assert tree_usage(None) == Usage()
    assert tree_usage(1 << 23) == Usage()
    assert Usage(1.0, 2) + Usage(0.5, 3) == Usage(1.5, 5)
