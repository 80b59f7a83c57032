"""Fixtures: thin synchronous faces on the worker's lanes.

``webaccel`` is a leased lane, ``webaccel_pool`` several, ``webaccel_page`` the user's own app in a browser;
``webaccel_faults`` breaks the leased lane, or the app.
Everything heavy is imported when the first of them is used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from typing import TYPE_CHECKING

import pytest

from pytest_webaccel.declarations import PASSED_KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from pytest_webaccel.app import AppFaults, AppLease, AppPage, Apps
    from pytest_webaccel.faces import Faults, Manner, PoolFace, WebAccel
    from pytest_webaccel.faces.choices import Choices
    from pytest_webaccel.pool.lease import Lease
    from pytest_webaccel.pool.worker import Worker
    from pytest_webaccel.rows import Row
    from pytest_webaccel.scheduling.session import SessionInfo
    from pytest_webaccel.terms import FaultPlan, ProbeResult, Strategy

__all__ = ["webaccel", "webaccel_app", "webaccel_faults", "webaccel_ort", "webaccel_page", "webaccel_pool"]

_CHOICES_KEY = pytest.StashKey["Choices"]()
_ITEM_KEY = pytest.StashKey[list[pytest.Item]]()


@pytest.fixture
def webaccel_lane(request: pytest.FixtureRequest) -> ProbeResult:
    """What the probe saw of the lane that this item is for; skips, or fails under strict, where there is none."""
    from pytest_webaccel.scheduling.parametrization import granted
    from pytest_webaccel.scheduling.session import session_of

    return granted(request.param, strict=session_of(request.config).settings.strict)


@pytest.fixture
def webaccel_strategy(request: pytest.FixtureRequest) -> Strategy | None:
    """The recovery strategy that comparative mode gives this item; None otherwise."""
    return getattr(request, "param", None)


@pytest.fixture
def webaccel_ort(request: pytest.FixtureRequest) -> Path | None:
    """The copy of onnxruntime-web that this item runs on, by ``--webaccel-ort``; None for the pinned one."""
    from pytest_webaccel.scheduling.session import session_of

    copies = session_of(request.config).settings.ort
    given: Path | None = getattr(request, "param", copies[0] if copies else None)
    return given


@pytest.fixture(scope="session")
def _webaccel_workers(pytestconfig: pytest.Config) -> Iterator[Callable[[Path | None], Worker]]:
    """This process's loop and pool for a copy of onnxruntime-web; ended with the session, also after Ctrl-C."""
    present: list[pytest.Item] = []
    pytestconfig.stash[_ITEM_KEY] = present
    with contextlib.ExitStack() as ended:

        @functools.cache
        def of(ort: Path | None) -> Worker:
            worker = _begun(pytestconfig, ort, present)
            ended.callback(worker.stop)
            return worker

        yield of


@pytest.fixture
def _webaccel_worker(_webaccel_workers: Callable[[Path | None], Worker], webaccel_ort: Path | None) -> Worker:
    return _webaccel_workers(webaccel_ort)


def _begun(config: pytest.Config, ort: Path | None, present: Sequence[pytest.Item]) -> Worker:
    from pytest_webaccel.pool.worker import Worker
    from pytest_webaccel.scheduling.session import session_of
    from pytest_webaccel.terms import Browser

    session = session_of(config)
    if any(probe.lane.browser is Browser.FAKE for probe in session.table):
        from pytest_webaccel.testing import install_fake_browser, stand_in_ort

        install_fake_browser(session.settings.seed)
        if ort is None and all(probe.lane.browser is Browser.FAKE for probe in session.table if probe.works):
            ort, _ = stand_in_ort()

    def record(row: Row) -> None:
        session.record(present[-1] if present else None, row)

    return Worker(
        session.table,
        run_id=session.run_id,
        worker=session.worker,
        strategy=session.settings.recovery,
        spares=session.settings.spares,
        budget_s=session.settings.budget_s,
        seed=session.settings.seed,
        record=record,
        ort=ort,
        ort_name=_told_apart(session.settings.ort, ort),
        headed=session.settings.headed,
        ledgers=session.folder if session.worker != "main" else None,
    )


def _told_apart(copies: Sequence[Path], ort: Path | None) -> str:
    """Return what a copy of onnxruntime-web is called where there are several; empty: by its version."""
    from pytest_webaccel.browsers.install.ort import ort_versions

    return ort_versions(copies)[copies.index(ort)] if len(copies) > 1 and ort in copies else ""


@pytest.fixture
def _webaccel_item(request: pytest.FixtureRequest, _webaccel_worker: Worker) -> Iterator[pytest.Item]:
    """The test whose rows are being recorded."""
    item: pytest.Item = request.node
    present = request.config.stash[_ITEM_KEY]
    present.append(item)
    yield item
    _webaccel_worker.end_test(item.nodeid)
    present.remove(item)


@pytest.fixture
def _webaccel_lease(
    _webaccel_item: pytest.Item,
    _webaccel_worker: Worker,
    webaccel_lane: ProbeResult,
    webaccel_strategy: Strategy | None,
) -> Iterator[Lease]:
    from pytest_webaccel.scheduling.session import session_of

    session = session_of(_webaccel_item.config)
    draws = _draws(_webaccel_item, webaccel_strategy)
    with _webaccel_worker.lease(webaccel_lane.lane, _webaccel_item.nodeid, webaccel_strategy, draws=draws) as lease:
        lease.plans.waiting.extend(_plans(_webaccel_item, session, webaccel_lane, webaccel_strategy))
        yield lease
        if _webaccel_item.stash.get(PASSED_KEY, False) and (said := lease.never_fired()):
            pytest.fail(said, pytrace=False)


@pytest.fixture
def webaccel(_webaccel_lease: Lease, _webaccel_item: pytest.Item, _webaccel_worker: Worker) -> Iterator[WebAccel]:
    """A leased lane: ``load`` and ``run`` models, ``check`` lanes against each other, ``measure``.

    The test is run once for each lane that fits its ``webaccel`` marker, with the lane in its id.
    """
    from pytest_webaccel.faces import WebAccel

    face = WebAccel(_webaccel_worker, _webaccel_lease, _manner(_webaccel_item))
    yield face
    face.finish()


@pytest.fixture
def webaccel_app(pytestconfig: pytest.Config) -> str | Path | None:
    """The app that ``webaccel_page`` shows, a folder or an address: ``--webaccel-app``, unless overridden."""
    from pytest_webaccel.scheduling.session import session_of

    return session_of(pytestconfig).settings.app


@pytest.fixture(scope="session")
def _webaccel_apps(pytestconfig: pytest.Config, _webaccel_workers: Callable[[Path | None], Worker]) -> Apps:
    from pytest_webaccel.app import Apps
    from pytest_webaccel.scheduling.session import session_of

    settings = session_of(pytestconfig).settings
    ort = settings.ort[0] if settings.ort else None
    return Apps(_webaccel_workers(ort), headed=settings.headed, ort=ort, seed=settings.seed)


@pytest.fixture
def _webaccel_app_lease(
    request: pytest.FixtureRequest,
    _webaccel_item: pytest.Item,
    _webaccel_apps: Apps,
    webaccel_lane: ProbeResult,
    webaccel_app: str | Path | None,
) -> Iterator[AppLease]:
    from pytest_webaccel.app import objection, source_of
    from pytest_webaccel.errors import WebAccelError
    from pytest_webaccel.scheduling.session import session_of

    strict = session_of(_webaccel_item.config).settings.strict
    if reason := objection(webaccel_app, webaccel_lane):
        (pytest.fail if strict else pytest.skip)(reason)
    # Playwright runs once in a thread: where pytest-playwright is at work, the one is its.
    theirs = request.config.pluginmanager.hasplugin("playwright")
    playwright = request.getfixturevalue("playwright") if theirs else None
    with contextlib.ExitStack() as stack:
        try:
            source = source_of(webaccel_app)
            lease = stack.enter_context(_webaccel_apps.lease(source, webaccel_lane, _webaccel_item.nodeid, playwright))
        except WebAccelError as error:
            pytest.fail(str(error), pytrace=False)
        yield lease


@pytest.fixture
def webaccel_page(_webaccel_app_lease: AppLease) -> AppPage:
    """The user's app (``--webaccel-app``) as a Playwright page, in a browser of the leased lane's kind.

    The test is run once for each lane that fits its ``webaccel`` marker, with the lane in its id.
    """
    return _webaccel_app_lease.page


@pytest.fixture
def webaccel_faults(
    request: pytest.FixtureRequest,
    _webaccel_worker: Worker,
    webaccel_lane: ProbeResult,  # noqa: ARG001 - either lease takes it; named here, it parametrises the test
    webaccel_strategy: Strategy | None,  # noqa: ARG001 - likewise
) -> Faults | AppFaults:
    """Faults by hand: ``inject``, ``plan``, ``expect_recovery``; on the app in a test that uses ``webaccel_page``."""
    if "webaccel_page" in request.fixturenames:
        lease: AppLease = request.getfixturevalue("_webaccel_app_lease")
        return lease.faults
    from pytest_webaccel.faces import Faults

    return Faults(_webaccel_worker, request.getfixturevalue("_webaccel_lease"))


@pytest.fixture
def webaccel_pool(_webaccel_item: pytest.Item, _webaccel_worker: Worker) -> PoolFace:
    """Several lanes in one test: ``lanes``, ``lease(lane)``, ``statistics``."""
    from pytest_webaccel.faces import PoolFace

    return PoolFace(_webaccel_worker, _webaccel_item.nodeid, _manner(_webaccel_item))


def _manner(item: pytest.Item) -> Manner:
    from pytest_webaccel.faces import Manner
    from pytest_webaccel.faces.progress import progress
    from pytest_webaccel.markers import requirement
    from pytest_webaccel.scheduling.session import session_of

    settings = session_of(item.config).settings
    return Manner(
        strict=settings.strict,
        family=requirement(item).family,
        cases=settings.cases,
        choices=_choices(item.config, settings.db),
        tell=progress(item.config),
    )


def _choices(config: pytest.Config, database: Path | None) -> Choices:
    """Return the session's choices of constants for kernels; nothing is read before a kernel asks."""
    if _CHOICES_KEY not in config.stash:
        from pytest_webaccel.faces.choices import Choices

        config.stash[_CHOICES_KEY] = Choices(database)
    return config.stash[_CHOICES_KEY]


def _draws(item: pytest.Item, strategy: Strategy | None) -> str:
    """Return what a test's faults are drawn by: its id, without a strategy that comparative mode put there.

    So every strategy meets the same faults, of the same kinds, at the same moments.
    """
    head, bracket, rest = item.nodeid.partition("[")
    words = rest.removesuffix("]").split("-")
    if strategy is None or str(strategy) not in words:
        return item.nodeid
    words.remove(str(strategy))
    return f"{head}{bracket}{'-'.join(words)}]"


def _plans(item: pytest.Item, session: SessionInfo, probe: ProbeResult, strategy: Strategy | None) -> list[FaultPlan]:
    """Return the faults of the test's requests, in order: its markers', else one of the run's."""
    from pytest_webaccel.faults.plans import pick_plan
    from pytest_webaccel.faults.schedule import FaultSchedule
    from pytest_webaccel.markers import fault_choices
    from pytest_webaccel.recovery.worker_restart import no_worker
    from pytest_webaccel.terms import Strategy

    seed, draws = session.settings.seed, _draws(item, strategy)
    marked: list[FaultPlan] = []
    for number, choice in enumerate(fault_choices(item)):
        plan, reason = pick_plan(choice, seed, f"{draws}\0{number}" if number else draws, probe)
        if plan is None:
            pytest.skip(reason)
        marked.append(plan)
    chosen, _ = pick_plan(session.settings.faults, seed, draws, probe)
    plans = tuple(marked) or ((chosen,) if chosen is not None else ())
    if strategy is not None:
        plans = tuple(dataclasses.replace(plan, recovery=strategy) for plan in plans)
    default = session.settings.recovery
    if any((plan.recovery or default) is Strategy.WORKER_RESTART for plan in plans) and (reason := no_worker()):
        pytest.skip(f"strategy {Strategy.WORKER_RESTART} has no meaning here: {reason}")
    return list(FaultSchedule(plans, seed, draws).firings)
