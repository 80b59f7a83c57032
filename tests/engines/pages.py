"""A blank page of a real Chromium, beside the lane's modules and the kernels."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from pytest_webaccel import browsers
from pytest_webaccel.shipped import shipped
from pytest_webaccel.terms import Browser
from tests.browsers.driving import DEADLINE, running
from tests.serving import serving

__all__ = ["in_page"]


def in_page(script: str, *, needs: str = "true", lacking: str = "") -> Any:
    """Return what ``script``, the body of an async function, returns in such a page.

    Skips where there is no Chromium, or saying what is ``lacking`` where the expression ``needs`` is not true there.
    """
    installed = browsers.find(Browser.CHROMIUM)
    if installed is None:
        pytest.skip("no Chromium is here: python -m pytest_webaccel install")

    async def told() -> str:
        with serving({"page": shipped("page"), "kernels": shipped("kernels")}) as address:
            async with running(installed) as driver:
                await driver.open(f"{address}/page/blank.html", deadline=DEADLINE)
                if await driver.evaluate(needs, deadline=DEADLINE) is not True:
                    pytest.skip(lacking)
                work = f"(async () => {{ {script} }})().then(JSON.stringify)"
                return str(await driver.evaluate(work, deadline=DEADLINE))

    return json.loads(asyncio.run(told()))
