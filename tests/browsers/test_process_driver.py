"""What every driver that owns a process does, with one that launches nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_webaccel.browsers.locate import Installation
from pytest_webaccel.browsers.process_driver import ProcessDriver
from pytest_webaccel.errors import BrowserError
from pytest_webaccel.terms import Browser

if TYPE_CHECKING:
    from pytest_webaccel.browsers.profiles import Profile


class Scripted(ProcessDriver[Any]):
    """A driver whose launch ends as ``ends`` says."""

    def __init__(self, ends: BaseException) -> None:
        super().__init__(Installation(Browser.CHROMIUM, Path("/none"), "1", "path"))
        self.ends = ends
        self.seen: Path | None = None

    async def _launch(self, profile: Profile, deadline: float) -> None:
        self.seen = profile.folder
        raise self.ends

    def _forget_page(self) -> None:
        pass

    async def evaluate(self, expression: str, *, deadline: float) -> object:
        raise NotImplementedError

    async def gpu_process(self, *, deadline: float) -> int | None:
        return None


@pytest.mark.parametrize("ends", [KeyError("browserVersion"), TypeError("no list"), ValueError("no JSON")])
def test_an_answer_that_cannot_be_read_is_a_failure_to_start_and_leaves_no_profile(ends):
    driver = Scripted(ends)
    with pytest.raises(BrowserError, match=rf"its answer cannot be read \({type(ends).__name__}"):
        asyncio.run(driver.start(deadline=5))
    assert driver.profile is None
    assert driver.seen is not None
    assert not driver.seen.exists()


def test_what_nobody_expects_leaves_no_profile_either():
    driver = Scripted(RuntimeError("of our own"))
    with pytest.raises(RuntimeError, match="of our own"):
        asyncio.run(driver.start(deadline=5))
    assert driver.seen is not None
    assert not driver.seen.exists()
