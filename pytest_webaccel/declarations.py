"""What pytest is told when it starts: flags, their ini and environment twins, and markers.

This is all that a run without a lane pays for, so nothing here imports anything of ours.
"""

from __future__ import annotations

import argparse
import os
from typing import Any, NamedTuple

import pytest

__all__ = ["MARKERS", "OPTIONS", "PASSED_KEY", "SESSION_MADE_KEY", "Option", "add_options", "any_given"]

#: Where a process keeps its :class:`~pytest_webaccel.scheduling.session.SessionInfo`, once it has one.
SESSION_MADE_KEY = pytest.StashKey[Any]()

#: Whether a test's own part, without set-up and clean-up, passed.
PASSED_KEY = pytest.StashKey[bool]()


class Option(NamedTuple):
    """One option: ``name`` as in the flag, and the field of :class:`~pytest_webaccel.options.Settings` it fills.

    One that is ``many`` may be given several times, as a flag; elsewhere its values stand in one text, with the
    separator of paths between them.
    """

    name: str
    field: str
    metavar: str | None
    help: str
    many: bool = False

    @property
    def flag(self) -> str:
        """The command line flag."""
        return f"--webaccel-{self.name}"

    @property
    def ini(self) -> str:
        """The ini key, which is also the key of the parsed flag."""
        return f"webaccel_{self.name.replace('-', '_')}"

    @property
    def environment(self) -> str:
        """The environment variable."""
        return f"PYTEST_{self.ini.upper()}"

    @property
    def is_switch(self) -> bool:
        """Whether the option is either on or off."""
        return self.metavar is None


OPTIONS: tuple[Option, ...] = (
    Option(
        "browser",
        "browsers",
        "NAME[,NAME]",
        "Browsers to use: chromium, chrome, edge, firefox, webkit, deno (no browser, but a WebGPU: proves kernels), or "
        "fake (nothing at all: proves logic, never performance). Default: every browser found in which something "
        "works.",
    ),
    Option(
        "backend",
        "backends",
        "NAME[,NAME]",
        "Backends to use: webgpu, webnn, cpu. Default: every one that the probe saw work.",
    ),
    Option(
        "lanes",
        "lanes",
        "BROWSER:BACKEND[,...]",
        "Exactly these lanes, such as chromium:webgpu,chromium:cpu. One that this machine lacks shows as skipped "
        "tests with the reason.",
    ),
    Option(
        "mode",
        "mode",
        "MODE",
        "basic (default): each test as written; comparative: each test with a fault under every recovery strategy.",
    ),
    Option(
        "fault",
        "faults",
        "FAULT[@POINT][,...]",
        "Faults to cause in tests on a lane, one a test, chosen by the seed: such as browser_crash@before,device_lost. "
        "Faults: connection_lost, connection_stalled, network_latency, network_bandwidth, network_jitter, page_crash, "
        "page_reload, browser_crash, device_lost, device_destroyed, component_timeout, component_error, "
        "out_of_memory, partial_result, worker_crash, cascade, multi_browser, staggered; or the level low, medium, "
        "high or critical, which stands for a set of them. Points: before, mid_request (default), mid_load, "
        "mid_transfer, during_recovery, after, random.",
    ),
    Option(
        "recovery",
        "recovery",
        "STRATEGY",
        "How to recover where a test does not say: simple, progressive, parallel, coordinated (default), or the "
        "controls none and worker_restart.",
    ),
    Option(
        "recovery-budget",
        "budget_s",
        "SECONDS",
        "Seconds that one recovery may take before it is given up and the fault counts as failed. Default: 120.",
    ),
    Option(
        "spares",
        "spares",
        "N",
        "Warm spares that each lane keeps, 0 (default) to 4: a started browser with the lane's models loaded, which "
        "coordinated recovery fails over to. Each costs a browser's memory; a second one helps where two faults follow "
        "one another.",
    ),
    Option(
        "db",
        "db",
        "FILE",
        "DuckDB file that keeps every run's results. Default: none is written.",
    ),
    Option(
        "report",
        "report",
        "FILE",
        "Write the report as one HTML file; needs no pytest-html.",
    ),
    Option(
        "seed",
        "seed",
        "N",
        "Seed of everything random here. Default: a new one, printed so it can be repeated.",
    ),
    Option(
        "strict",
        "strict",
        None,
        "Fail, instead of skip, a test whose lane is not to be had, and fail on silent fallback to the CPU.",
    ),
    Option(
        "min-success",
        "min_success",
        "RATE",
        "Gate: fail the run when less than this share (0 to 1) of the caused faults was recovered from.",
    ),
    Option(
        "max-recovery-ms",
        "max_recovery_ms",
        "MS",
        "Gate: fail the run when the 95th percentile of recovery times is above this many milliseconds.",
    ),
    Option(
        "cases",
        "cases",
        "DIR",
        "Write what is to blame for each disagreement between lanes there: a folder with the smallest model that fails "
        "alone, its inputs, what was expected and got, a page that shows it, and a text for an issue tracker.",
    ),
    Option(
        "expectations",
        "expectations",
        "FILE",
        "Known failures of the conformance suite (pytest --pyargs pytest_webaccel.conformance), by lane, build and "
        "engine version. Default: the file that comes with the plugin, for the pinned onnxruntime-web.",
    ),
    Option(
        "ort",
        "ort",
        "DIR",
        "Your own onnxruntime-web, the package's folder or its dist/: the version you ship is the one tested. Given "
        "several times, every test on a lane is run once for each.",
        many=True,
    ),
    Option(
        "app",
        "app",
        "DIR|URL",
        "Your own app for the fixture webaccel_page: the folder with its index.html, which is served on loopback, or "
        "the address where it is served already.",
    ),
    Option(
        "executable",
        "executable",
        "FILE",
        "Browser binary to start instead of the one found.",
    ),
    Option(
        "headed",
        "headed",
        None,
        "Show the browsers' windows.",
    ),
    Option(
        "doctor",
        "doctor",
        None,
        "Print what browsers and lanes there are, what is missing and why, and exit.",
    ),
)

#: Lines for ``pytest --markers``.
MARKERS: tuple[str, ...] = (
    (
        "webaccel(browser=, backend=, features=, family=, evidence=): run only on lanes of these browsers (chromium, "
        "chrome, edge, firefox, webkit, deno, fake) and backends (webgpu, webnn, cpu), whose probe reported all of "
        "these features, on evidence of these grades (hardware, software, fake); family is text, vision, audio, "
        "multimodal; each takes a word or a list of words."
    ),
    (
        "fault(name, recovery=, at=, times=): cause the fault (as --webaccel-fault names it, or a level) during the "
        "test and recover by the strategy (simple, progressive, parallel, coordinated, none, worker_restart); at is "
        "before, mid_request, mid_load, mid_transfer, during_recovery, after or random, times how often."
    ),
)


def add_options(parser: pytest.Parser) -> None:
    """Declare every flag and its ini twin."""
    group = parser.getgroup("webaccel", "models in real browsers: lanes, faults, recovery, evidence")
    for option in OPTIONS:
        text = f"{option.help} [{option.ini}, {option.environment}]"
        if option.is_switch:
            group.addoption(
                option.flag, dest=option.ini, default=None, action=argparse.BooleanOptionalAction, help=text
            )
        else:
            action = "append" if option.many else "store"
            group.addoption(
                option.flag, dest=option.ini, default=None, action=action, metavar=option.metavar, help=text
            )
        parser.addini(option.ini, option.help, default=None)


def any_given(config: pytest.Config) -> bool:
    """Return whether any option of ours was set, by flag, environment or ini."""
    return any(
        config.getoption(option.ini, default=None) is not None
        or os.environ.get(option.environment)
        or config.getini(option.ini)
        for option in OPTIONS
    )
