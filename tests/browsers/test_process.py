from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import pytest_webaccel
from pytest_webaccel.browsers.process import OwnedProcess, lives, wait_gone
from pytest_webaccel.errors import BrowserError

DEADLINE = 20.0

#: Unlike a browser, it does not care whether its pipe is open.
CHILD = """
import asyncio
from pytest_webaccel.browsers.process import OwnedProcess
async def main():
    print(OwnedProcess(["/bin/sleep", "600"], {}).pid, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_process_dies_with_its_owner_even_without_watching_the_pipe():
    environment = {**os.environ, "PYTHONPATH": str(Path(pytest_webaccel.__file__).parents[1])}
    with subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True, env=environment) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert psutil.pid_exists(pid)
        owner.kill()
    assert asyncio.run(wait_gone([pid], deadline=DEADLINE))


def test_child_that_was_reparented_is_ended_with_the_tree():
    script = '(sleep 600 & echo "orphan $! end" >&2); exec sleep 600'

    async def scenario() -> int:
        process = OwnedProcess(["/bin/sh", "-c", script], {})
        await process.connect(asyncio.Protocol())
        orphan = int(await process.error_match(re.compile(rb"orphan (\d+) end"), deadline=DEADLINE))
        assert psutil.Process(orphan).ppid() != process.pid
        assert await process.end(deadline=DEADLINE)
        return orphan

    orphan = asyncio.run(scenario())
    assert not lives(orphan)


def test_environment_reaches_the_process_and_its_words_are_kept_but_bounded():
    async def scenario() -> None:
        script = 'i=0; while [ $i -lt 3000 ]; do echo "line $i $WORD" >&2; i=$((i+1)); done'
        process = OwnedProcess(["/bin/sh", "-c", script], {"WORD": "hello"})
        await process.connect(asyncio.Protocol())
        last = await process.error_match(re.compile(rb"(line 2999 hello)"), deadline=DEADLINE)
        assert last == "line 2999 hello"
        assert len(process.error_output) <= 16 * 1024
        assert await asyncio.wait_for(process.exited, DEADLINE) == 0
        await process.end(deadline=DEADLINE)

    asyncio.run(scenario())


def test_exit_status_of_a_program_that_is_not_there_is_seen(tmp_path):
    async def scenario() -> None:
        process = OwnedProcess([str(tmp_path / "missing")], {})
        assert await asyncio.wait_for(process.exited, DEADLINE) == 127
        await process.end(deadline=DEADLINE)

    asyncio.run(scenario())


def test_process_lives_until_it_ended_whether_or_not_its_parent_noticed():
    child = subprocess.Popen(["sleep", "600"])
    assert lives(child.pid)
    child.send_signal(signal.SIGSTOP)
    assert lives(psutil.Process(child.pid))
    child.kill()
    assert asyncio.run(wait_gone([child.pid], deadline=DEADLINE))
    assert not lives(child.pid)  # nobody waited for it: a zombie
    child.wait()
    assert not lives(child.pid)


def test_process_that_is_just_being_reaped_does_not_live(monkeypatch):
    monkeypatch.setattr(psutil.Process, "status", lambda _: psutil.STATUS_DEAD)  # so for an instant, on Linux
    assert not lives(os.getpid())


def test_waiting_for_a_living_process_ends_at_the_deadline():
    assert asyncio.run(wait_gone([os.getpid()], deadline=0.05)) is False


def test_process_that_cannot_be_started_is_a_browser_error():
    async def scenario() -> None:
        with pytest.raises(BrowserError, match="did not start"):
            OwnedProcess(["/bin/true"], {"BAD\0NAME": "x"})

    asyncio.run(scenario())
