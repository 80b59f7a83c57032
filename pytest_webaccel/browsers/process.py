"""A browser's process tree that this process owns: started in a group of its own, watched, ended whole.

The tree is tied to this process three times over: one with a pipe (Chromium, Deno) exits when it
closes, the root process is sent SIGKILL when the thread that started it ends (Linux; Firefox would live on), and
:meth:`OwnedProcess.kill` reaches every descendant, also those that were re-parented.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from pytest_webaccel.errors import BrowserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import psutil

__all__ = ["OwnedProcess", "lives", "start_failure", "status_text", "suspend", "wait_gone"]

#: Bytes of standard error that are kept for error messages.
_TAIL = 16 * 1024
#: Standard input and output become file descriptors 3 and 4, where Chromium looks for its debugging pipe.
#: A shell does this renumbering safely; dup2 between fork and exec could hit Python's own error pipe.
_LAUNCHER = 'exec "$0" "$@" 3<&0 4>&1 0</dev/null 1>&2'
_PR_SET_PDEATHSIG = 1

# PyDLL, because it keeps the interpreter lock: nothing may wait for a lock between fork and exec.
_prctl = ctypes.PyDLL(None).prctl if sys.platform == "linux" else None


def _die_with(owner: int) -> Callable[[], None] | None:
    """Return what the child calls before exec, so that it dies with the thread that started it."""
    if _prctl is None:
        return None

    def bind() -> None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != owner:  # the owner died before the line above took effect
            os._exit(1)

    return bind


class _Tail(asyncio.Protocol):
    """Keeps the end of what the browser writes to standard error."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.listener: Callable[[bytes], None] | None = None

    def data_received(self, data: bytes) -> None:
        self.data += data
        del self.data[:-_TAIL]
        if self.listener is not None:
            self.listener(bytes(self.data))


class OwnedProcess:
    """One process tree, started now.

    ``arguments`` begins with the executable. ``environment`` is added to this process's own. With ``pipe``, file
    descriptors 3 and 4 (with ``standard``, 0 and 1) are a pipe, to be taken with :meth:`connect`; without it, standard
    input is empty and standard output is thrown away, and :meth:`listen` is called instead.
    Raises BrowserError when it cannot be started. Must be made in the loop's thread, which has to live
    as long as the process.
    """

    def __init__(
        self, arguments: Sequence[str], environment: Mapping[str, str], *, pipe: bool = True, standard: bool = False
    ) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            self._popen = subprocess.Popen(
                ["/bin/sh", "-c", _LAUNCHER, *arguments] if pipe and not standard else list(arguments),
                stdin=subprocess.PIPE if pipe else subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipe else subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                bufsize=0,
                env={**os.environ, **environment},
                start_new_session=True,
                preexec_fn=_die_with(os.getpid()),  # one prebound system call, see _prctl
            )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise BrowserError(f"{arguments[0]} did not start: {error}. Check that it may be executed.") from error
        self.pid = self._popen.pid
        #: Resolves to the exit status once the root process has ended.
        self.exited: asyncio.Future[int] = self._loop.create_future()
        self._tail = _Tail()
        self._attached = False
        self._transports: list[asyncio.BaseTransport] = []
        self._family: dict[int, psutil.Process] = {}
        self._watcher: asyncio.Task[None] | None = None
        self._watch()

    async def connect(self, protocol: asyncio.Protocol) -> asyncio.WriteTransport:
        """Attach ``protocol`` to what the browser sends on the pipe; return the way to the browser."""
        popen = self._popen
        assert popen.stdin is not None
        assert popen.stdout is not None
        await self.listen()
        reading, _ = await self._loop.connect_read_pipe(lambda: protocol, popen.stdout)
        writing, _ = await self._loop.connect_write_pipe(asyncio.BaseProtocol, popen.stdin)
        self._transports += [reading, writing]
        return writing

    async def listen(self) -> None:
        """Begin to keep what the browser writes to standard error."""
        assert self._popen.stderr is not None
        self._attached = True
        errors, _ = await self._loop.connect_read_pipe(lambda: self._tail, self._popen.stderr)
        self._transports.append(errors)

    @property
    def error_output(self) -> str:
        """The end of what the browser wrote to standard error, at most 16 KiB."""
        return self._tail.data.decode(errors="replace").strip()

    async def error_match(self, pattern: re.Pattern[bytes], *, deadline: float) -> str:
        """Return the group of ``pattern`` where it is first found in standard error; TimeoutError past ``deadline``."""
        found: asyncio.Future[str] = self._loop.create_future()

        def look(data: bytes) -> None:
            if not found.done() and (match := pattern.search(data)):
                found.set_result(match[1].decode())

        self._tail.listener = look
        look(bytes(self._tail.data))
        try:
            return await asyncio.wait_for(found, deadline)
        finally:
            self._tail.listener = None

    def _watch(self) -> None:
        if sys.platform == "linux":
            descriptor = os.pidfd_open(self.pid)

            def ended() -> None:
                self._loop.remove_reader(descriptor)
                os.close(descriptor)
                self._finish()

            self._loop.add_reader(descriptor, ended)
        else:
            self._watcher = self._loop.create_task(self._watch_in_thread())

    async def _watch_in_thread(self) -> None:
        await asyncio.to_thread(self._popen.wait)
        self._finish()

    def _finish(self) -> None:
        # Before the root is reaped, while its process id still is no one else's.
        if self._popen.returncode is None:
            self._signal_family()
        status = self._popen.wait()
        if not self.exited.done():
            self.exited.set_result(status)

    def _signal_family(self) -> None:
        """Send SIGKILL to the root, its descendants and everything in its group or session."""
        import psutil

        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.pid).children(recursive=True):
                self._family[child.pid] = child
        for pid in _session_members(self.pid):
            with contextlib.suppress(psutil.Error):
                self._family.setdefault(pid, psutil.Process(pid))
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        for member in self._family.values():
            with contextlib.suppress(psutil.Error):
                member.kill()

    def kill(self) -> None:
        """SIGKILL the whole tree at once; harmless when it is gone already."""
        if self._popen.returncode is None:
            self._signal_family()
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    async def end(self, *, deadline: float) -> bool:
        """Kill the tree and wait up to ``deadline`` seconds; return whether every process of it is gone."""
        until = self._loop.time() + deadline
        self.kill()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self.exited), max(0.01, until - self._loop.time()))
        gone = await wait_gone(
            [pid for pid, member in self._family.items() if member.is_running()],
            deadline=max(0.01, until - self._loop.time()),
        )
        for transport in self._transports:
            transport.close()
        self._transports.clear()
        if not self._attached:
            for stream in (self._popen.stdin, self._popen.stdout, self._popen.stderr):
                if stream is not None:
                    stream.close()
        return gone and self.exited.done()


def _session_members(leader: int) -> list[int]:
    """Return the live processes whose group or session is ``leader``'s, the leader left out."""
    import psutil

    members = []
    for pid in psutil.pids():
        if pid == leader:
            continue
        with contextlib.suppress(OSError):
            if os.getsid(pid) == leader or os.getpgid(pid) == leader:
                members.append(pid)
    return members


def lives(process: int | psutil.Process) -> bool:
    """Return whether a process runs. One that ended does not, also while its parent has yet to take note of it."""
    import psutil

    try:
        known = psutil.Process(process) if isinstance(process, int) else process
        return known.is_running() and known.status() not in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
    except psutil.NoSuchProcess:
        return False


async def wait_gone(pids: Iterable[int], *, deadline: float) -> bool:
    """Return whether all of ``pids`` ended within ``deadline`` seconds. A zombie counts as ended."""
    results = await asyncio.gather(*(_wait_one(pid, deadline) for pid in pids))
    return all(results)


async def _wait_one(pid: int, deadline: float) -> bool:
    if sys.platform != "linux":
        return await asyncio.to_thread(_wait_in_thread, pid, deadline)
    loop = asyncio.get_running_loop()
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        async with asyncio.timeout(deadline):
            await ended.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    return True


def _wait_in_thread(pid: int, deadline: float) -> bool:
    import psutil

    try:
        psutil.Process(pid).wait(deadline)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True


async def suspend(process: int | psutil.Process, what: str, *, deadline: float) -> None:
    """SIGSTOP ``process``, return once it stands still.

    Raises BrowserError, which calls it ``what``, where that takes longer than ``deadline`` seconds or it has ended.
    """
    import psutil

    until = time.monotonic() + deadline
    with contextlib.suppress(psutil.NoSuchProcess):
        known = psutil.Process(process) if isinstance(process, int) else process
        known.suspend()
        while lives(known) and known.status() != psutil.STATUS_STOPPED:
            if time.monotonic() >= until:
                raise BrowserError(f"{what} did not stop within {deadline:.1f} s")
            await asyncio.sleep(0.001)
    if not lives(process):
        raise BrowserError(f"{what} ended before it could be stopped")


def status_text(status: int) -> str:
    """Return what an exit status means, in words."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"


def start_failure(where: str, cause: str, output: str, installer: str) -> str:
    """Return why ``where`` did not start: ``cause``, what it said last, and what to do; ``installer`` is a command."""
    lines = output.splitlines()[-6:]
    said = f" It said: {' | '.join(lines)}." if lines else ""
    missing = re.search(r"error while loading shared libraries: (\S+):", output)
    if missing:
        remedy = f"The shared library {missing[1]} is missing: install the browser's system packages"
    elif "No usable sandbox" in output:
        remedy = (
            "This system denies its sandbox: allow unprivileged user namespaces, use a browser of the system's own "
            "packages, whose sandbox is set up"
        )
    else:
        remedy = "Run it by hand with --version"
    return f"{where} did not start: {cause}.{said} {remedy}, or bring another one with `{installer}`."
