"""What a cold start costs, where no spare is kept: a lane's way back after its browser died, beside a bare start.

``bare`` is the yardstick: the same browser with the same flags shows a plain page, which imports the same build of
onnxruntime-web, makes a session of the same model and runs it once. ``restart`` is what recovery does: from the
SIGKILL of a lane's browser to the first answer of the next one. Both take turns. The ``restart_*`` rows say where the
time of ``restart`` goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.browsers.chromium import ChromiumDriver
from pytest_webaccel.browsers.install.ort import ort_dist, ort_version
from pytest_webaccel.browsers.usage import Usage, tree_usage
from pytest_webaccel.engines.models import inspect_model
from pytest_webaccel.pool.pool import Pool
from pytest_webaccel.pool.worker import installation_of
from tests.bench.common import arguments, chromium_table, finish, row
from tests.bench.matrix.site import Site
from tests.bench.matrix.work import Work, model, wrong

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from pytest_webaccel.browsers import Driver
    from pytest_webaccel.engines.models import ModelInfo
    from pytest_webaccel.pool.lane import LiveLane
    from pytest_webaccel.terms import Lane, ProbeResult

_DEADLINE = 90.0
_BACKENDS = ("cpu", "webgpu")

#: Milliseconds by case, and what the browser had used by then.
Times = dict[str, list[float]]
Used = dict[str, list[Usage]]


def _ms(begun: float) -> float:
    return (time.perf_counter() - begun) * 1000


class TimedDriver(ChromiumDriver):
    """Notes how long its start and its page took, in milliseconds."""

    start_ms = open_ms = 0.0

    async def start(self, *, deadline: float) -> None:
        begun = time.perf_counter()
        await super().start(deadline=deadline)
        self.start_ms = _ms(begun)

    async def open(self, url: str, *, deadline: float) -> None:
        begun = time.perf_counter()
        await super().open(url, deadline=deadline)
        self.open_ms = _ms(begun)


async def bare(probe: ProbeResult, site: Site, work: Work, times: Times, used: Used) -> None:
    """Start the browser, load and run the model with the plainest script."""
    driver = ChromiumDriver(installation_of(probe))
    begun = time.perf_counter()
    try:
        await driver.start(deadline=_DEADLINE)
        await driver.open(site.url(str(probe.lane)), deadline=_DEADLINE)
        await driver.evaluate("load()", deadline=_DEADLINE)
        answer = await driver.evaluate(f"run({work.x.ravel().tolist()})", deadline=_DEADLINE)
        times["bare"].append(_ms(begun))
        used["bare"].append(tree_usage(driver.pid))
        _check(work, np.asarray(answer, np.float32).reshape(work.y.shape))
    finally:
        await driver.stop(deadline=_DEADLINE)


async def restart(live: LiveLane, work: Work, times: Times, used: Used) -> None:
    """Kill a lane's browser; start the next one, load its models, run once."""
    begun = time.perf_counter()
    live.here.driver.kill()
    await live.restart_browser(deadline=_DEADLINE)
    started = time.perf_counter()
    await live.load_models(deadline=_DEADLINE)
    loaded = time.perf_counter()
    answer = await run(live, work)
    driver = live.here.driver
    assert isinstance(driver, TimedDriver)
    times["restart"].append(_ms(begun))
    times["restart_browser"].append(driver.start_ms)
    times["restart_page"].append(driver.open_ms)
    times["restart_rest"].append((started - begun) * 1000 - driver.start_ms - driver.open_ms)
    times["restart_load"].append((loaded - started) * 1000)
    times["restart_run"].append(_ms(loaded))
    used["restart"].append(tree_usage(driver.pid))
    _check(work, answer)
    await live.settle()  # the old browser and its profile are gone


async def run(live: LiveLane, work: Work) -> Any:
    """Return the lane's answer to ``work``."""
    station = live.here
    (loaded,) = station.loaded.values()
    request = station.engine.send_run(loaded, {"x": work.x}, None, deadline=_DEADLINE)
    reply = await station.engine.answer(loaded, request)
    return reply.tensors["y"]


def _check(work: Work, answer: Any) -> None:
    if trouble := wrong(work, answer):
        raise SystemExit(f"a wrong answer: {trouble}")


@contextlib.asynccontextmanager
async def lane(table: Sequence[ProbeResult], name: Lane, info: ModelInfo) -> AsyncIterator[LiveLane]:
    """A lane without a spare, its model loaded and run."""
    folder = ort_dist(None)

    def make(probe: ProbeResult) -> Driver:
        return TimedDriver(installation_of(probe))

    pool = Pool(table, make, lambda: (folder, ort_version(folder)))
    try:
        async with pool.lease(name) as live:
            await live.load(info, None, deadline=_DEADLINE)
            yield live
    finally:
        await pool.stop()


async def measure(table: Sequence[ProbeResult], probe: ProbeResult, rounds: int) -> list[dict[str, Any]]:
    """Return the rows of one lane."""
    times: Times = defaultdict(list)
    used: Used = defaultdict(list)
    site = Site()
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(model())
            async with lane(table, probe.lane, inspect_model(path, Path(folder))) as live:
                for index in range(rounds):
                    work = Work.drawn(f"cold start {index}")
                    await bare(probe, site, work, times, used)
                    await restart(live, work, times, used)
    finally:
        site.stop()
    return [_row(probe, case, values, used.get(case, [])) for case, values in times.items()]


def _row(probe: ProbeResult, case: str, values: list[float], used: list[Usage]) -> dict[str, Any]:
    more: dict[str, Any] = {}
    if used:
        more["cpu_ms"] = statistics.median(usage.cpu_s for usage in used) * 1000
        more["pss_mib"] = statistics.median(usage.pss_bytes for usage in used) / 2**20
    return {"on": str(probe.lane), **row(case, values, evidence=str(probe.evidence), **more)}


def main(given: Sequence[str] | None = None) -> int:
    options = arguments("cold_start", given)
    table = chromium_table()
    rows: list[dict[str, Any]] = []
    for probe in table:
        if str(probe.lane.backend) in _BACKENDS:
            rows += asyncio.run(measure(table, probe, 6 if options.quick else 25))
    finish("cold_start", rows, table, options.out)
    for probe in table:
        median = {entry["case"]: entry["median_ms"] for entry in rows if entry["on"] == str(probe.lane)}
        if median:
            print(f"{probe.lane}: a restart takes {median['restart'] / median['bare']:.2f} of a bare start")
    return 0


if __name__ == "__main__":
    sys.exit(main())
