"""What tests of drivers share."""

from __future__ import annotations

import asyncio
import contextlib
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from pytest_webaccel.browsers import Installation, make_driver
from pytest_webaccel.browsers.process import lives

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from pytest_webaccel.terms import Damage

DEADLINE = 20.0
#: A second software adapter beside SwiftShader, where it is installed.
LAVAPIPE = Path("/usr/share/vulkan/icd.d/lvp_icd.x86_64.json")


@contextlib.asynccontextmanager
async def running(installation: Installation, **options: bool) -> AsyncIterator[Any]:
    """A driver of one's own, started."""
    driver = make_driver(installation, **options)
    await driver.start(deadline=DEADLINE)
    try:
        yield driver
    finally:
        await driver.stop(deadline=DEADLINE)


class Stage:
    """A driver that many tests use one after the other, in one loop; started again where a test ended it."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self.driver: Any = make_driver(installation)
        self._runner = asyncio.Runner()

    def run(self, scenario: Callable[[Any], Awaitable[None]]) -> None:
        """Run one test's scenario with the driver."""

        async def whole() -> None:
            if self.driver.pid is None:
                await self.driver.start(deadline=DEADLINE)
            await scenario(self.driver)

        self._runner.run(whole())

    def end(self) -> None:
        """End the browser."""
        self._runner.run(self.driver.stop(deadline=DEADLINE))
        self._runner.close()


def blank() -> str:
    return Path(str(resources.files("pytest_webaccel") / "page" / "blank.html")).as_uri()


def watch(driver: Any) -> asyncio.Queue[Damage]:
    seen: asyncio.Queue[Damage] = asyncio.Queue()
    driver.on_damage(seen.put_nowait)
    return seen


async def next_damage(seen: asyncio.Queue[Damage]) -> Damage:
    return await asyncio.wait_for(seen.get(), DEADLINE)


def family(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if lives(process)]


def listening(pid: int) -> list[Any]:
    """Return the sockets of a process tree on which it listens for connections."""
    found = []
    for process in family(pid):
        with contextlib.suppress(psutil.NoSuchProcess):  # one of many may just be ending
            found += [each for each in process.net_connections("inet") if each.status == psutil.CONN_LISTEN]
    return found
