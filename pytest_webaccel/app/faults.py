"""Faults aimed at the user's app, and the record of how the app recovered by itself."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import enum
import logging
import random
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_webaccel.asking import Answer, Predicate, ask, bound, checked_ms
from pytest_webaccel.errors import BrowserError, ConfigurationError, FaultError, RecoveryError, WebAccelError
from pytest_webaccel.faults import INJECTORS, ComponentTimeout, Hang, Memory, OutOfMemory
from pytest_webaccel.rows import RecoveryRow
from pytest_webaccel.terms import Backend, Damage, Fault, Lane, Outcome, Symptom
from pytest_webaccel.words import pick

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_webaccel.app.host import AppHost
    from pytest_webaccel.app.page import AppPage, Tab
    from pytest_webaccel.faults.injector import Injector
    from pytest_webaccel.rows import Row
    from pytest_webaccel.terms import ProbeResult

    Call = Callable[..., Any]

Word = TypeVar("Word", bound=enum.StrEnum)

__all__ = ["STRATEGY", "AppFaults", "Belonging"]

_log = logging.getLogger(__name__)

#: What stands for a strategy in the record of an app: nothing of ours mended it.
STRATEGY = "app"

#: Seconds between two looks at whether an app has recovered.
_ASK_AGAIN_S = 0.005
#: Seconds that a predicate may take beyond its deadline before the app's browser is ended, so that it returns.
_GRACE_S = 3.0
#: Seconds to make ready for a fault, to cause it, to see its damage, and to take away what it left.
_READY_S = 12.0
_CAUSE_S = 10.0
_OBSERVE_S = 15.0
_ROLL_BACK_S = 5.0

#: Damage from which a page cannot bring itself back.
_FATAL = frozenset({Symptom.PAGE_CRASHED, Symptom.BROWSER_EXITED})

#: Faults of several kinds, some of which need a device of the page's.
_KINDS = (Fault.COMPONENT_TIMEOUT, Fault.OUT_OF_MEMORY)
_KIND_NAMES = ", ".join(_KINDS)

#: Faults that no app can suffer, each with the reason.
_UNFIT = {
    Fault.COMPONENT_ERROR: "it breaks a model that the plugin loaded, and the app loads its own",
    Fault.PARTIAL_RESULT: "it damages an answer of the plugin's own page, and the app's answers go nowhere",
    Fault.WORKER_CRASH: "it ends the pytest worker, and with it the browser in which the app could recover",
    Fault.MULTI_BROWSER: "it takes several browsers, and the app has one",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Belonging:
    """Where an app's rows belong, and what faults draw from."""

    run_id: str
    test_id: str
    worker: str
    seed: int


@dataclasses.dataclass(slots=True)
class _Story:
    """One fault and what came of it. Times are seconds on the loop's clock, which is the machine's monotonic one."""

    fault: Fault
    fault_at: float
    opened: int
    damage: Damage | None = None
    outcome: Outcome = Outcome.UNKNOWN
    ended_at: float | None = None
    detail: str = "the test did not ask whether the app recovered"


class AppFaults:
    """Faults by hand on the app: ``inject``, ``expect_recovery``, ``roll_back``.

    ``call`` runs a coroutine in the worker's loop, ``record`` takes finished rows.
    """

    def __init__(
        self, host: AppHost, tab: Tab, page: AppPage, belonging: Belonging, *, call: Call, record: Callable[[Row], None]
    ) -> None:
        self._host = host
        self._tab = tab
        self._page = page
        self._belonging = belonging
        self._call = call
        self._record = record
        self._chance = random.Random(f"app\0{belonging.seed}\0{belonging.test_id}")
        self._left: list[Injector] = []
        self._open: list[_Story] = []
        self._killed = False

    def inject(
        self,
        name: str,
        *,
        kind: str | None = None,
        recovery: str | None = None,
        healthy: Predicate | None = None,
        within_ms: float = 30_000,
    ) -> Damage:
        """Break the app now, and return the damage that was seen.

        ``kind`` says which of a fault's kinds is meant: of ``component_timeout`` (``stopped``, ``page_loop``,
        ``gpu_loop``) or ``out_of_memory`` (``heap``, ``gpu``); by default one is drawn by the run's seed.
        With ``healthy`` the fault waits until that predicate is true, for at most ``within_ms`` milliseconds: an app
        that does not work cannot be seen to recover. Raises RecoveryError where it never is; FaultError for an unknown
        fault, and where it has no meaning for an app on this lane or did no harm; ConfigurationError for ``recovery``,
        since it is the app that recovers. Each is in the record, with the outcome ``unknown``.
        """
        if recovery is not None:
            raise ConfigurationError(
                f"recovery={recovery!r}: no strategy mends an app; it recovers by itself, and expect_recovery(...) "
                "measures that"
            )
        fault = _word(Fault, name, "fault")
        chosen = _of_kind(fault, kind) if kind is not None else None
        story = _Story(fault, time.monotonic(), self._tab.opened)
        self._open.append(story)
        try:
            if healthy is not None:
                self._steady(fault, healthy, checked_ms(within_ms))
            self._call(self._cause(story, chosen), deadline=_READY_S + _CAUSE_S + _OBSERVE_S)
        except WebAccelError as error:
            story.detail = str(error)[:500]
            self._finish(story)
            raise
        assert story.damage is not None
        return story.damage

    def plan(self, name: str, **_: object) -> None:
        """Refuse: a planned fault waits for a request of the plugin's, and an app makes none."""
        raise ConfigurationError(
            f"fault {name!r} cannot be planned for an app: a planned fault strikes the next webaccel.run(...), and the "
            "app runs by itself. Use webaccel_faults.inject(...) at the moment that you mean."
        )

    def expect_recovery(self, predicate: Predicate, *, within_ms: float) -> float:
        """Return the milliseconds from the fault until ``predicate`` was true of the app, asked again and again.

        ``within_ms`` counts from the moment that the damage was seen. A predicate that takes an argument gets the
        app's page. What it raises counts as not yet; the last error is the cause of the RecoveryError that is raised
        where it is not true in time. Either way the record has a row for each fault since the last call.
        """
        within_ms = checked_ms(within_ms)
        asked = bound(predicate, self._page)
        stories = [story for story in self._open if story.damage is not None]
        if not stories:
            raise ConfigurationError(
                "expect_recovery(...) without a fault before it: nothing broke the app, so it cannot recover. Call "
                "webaccel_faults.inject(...) first; what it then waits for must be true of a healthy app only."
            )
        for story in stories:
            story.detail = "interrupted before its end"
        last = max(story.damage.at for story in stories if story.damage is not None)
        answer = self._ask(asked, last + within_ms / 1000)
        waited = (answer.ended_at - last) * 1000
        why = "" if answer.healthy else self._why_not(answer, stories[-1], within_ms, waited)
        for story in stories:
            story.outcome = Outcome.RECOVERED if answer.healthy else Outcome.FAILED
            story.ended_at, story.detail = answer.ended_at, why or _how(answer)
            self._finish(story)
        if not answer.healthy:
            raise RecoveryError(why) from answer.error
        return (answer.ended_at - stories[-1].fault_at) * 1000

    def roll_back(self) -> None:
        """Take away what faults left in place: a network that is slow or stalled, a process that is stopped.

        Damage stays. Done at the end of the test in any case.
        """
        left, self._left = self._left, []
        self._call(self._roll_back(left), deadline=_ROLL_BACK_S * max(len(left), 1))

    def finish(self) -> None:
        """Record the faults of which the test did not ask what became."""
        for story in list(self._open):
            self._finish(story)

    # -- inside ------------------------------------------------------------------------------

    def _steady(self, fault: Fault, healthy: Predicate, within_ms: float) -> None:
        answer = self._ask(bound(healthy, self._page), time.monotonic() + within_ms / 1000)
        if not answer.healthy:
            raise RecoveryError(
                f"{self._host.probe.lane}, app {self._host.source}: {fault} was not caused, since the app was not "
                f"healthy before it within {within_ms:g} ms: {answer.why_not()}. Mend the app, or give it more time."
            ) from answer.error

    async def _cause(self, story: _Story, chosen: Injector | None) -> None:
        fault, probe = story.fault, self._host.probe
        if reason := _UNFIT.get(fault):
            raise FaultError(f"{probe.lane}: fault {fault} has no meaning for an app: {reason}")
        if reason := (chosen or INJECTORS[fault]).meaning(probe):
            raise FaultError(f"{probe.lane}: fault {fault} has no meaning here: {reason}")
        target = self._host.target
        try:
            gpus = await target.attend()
        except BrowserError as error:
            raise FaultError(f"{probe.lane}: {fault} was not caused: the app's page is gone: {error}") from error
        drawn_for = probe if gpus or fault not in _KINDS else _without_gpu(probe)
        injector = chosen or INJECTORS[fault].drawn(self._chance, drawn_for)
        try:
            self._left.append(injector)
            story.fault_at = asyncio.get_running_loop().time()
            await injector.cause(target, deadline=_CAUSE_S)
            story.damage = await injector.observe(target, deadline=_OBSERVE_S)
        finally:
            await target.leave()

    async def _roll_back(self, left: list[Injector]) -> None:
        target = self._host.target
        for injector in reversed(left):
            try:
                await injector.roll_back(target, deadline=_ROLL_BACK_S)
            except WebAccelError as error:  # what it was laid on is gone
                _log.debug("%s: rolling back %s: %s", self._host.probe.lane, injector.fault, error)
        await target.roll_back_later()

    def _ask(self, predicate: Callable[[], object], until: float) -> Answer:
        self._killed = False
        with self._guard(until + _GRACE_S):
            return ask(predicate, until=until, clock=time.monotonic, pause=self._pause)

    def _pause(self) -> None:
        """Wait a moment in which what the page told is heard: handlers of a test may be what its predicate asks."""
        from playwright.sync_api import Error

        page = self._tab.page
        if page is not None:
            with contextlib.suppress(Error):
                page.wait_for_timeout(_ASK_AGAIN_S * 1000)
                return
        threading.Event().wait(_ASK_AGAIN_S)

    @contextlib.contextmanager
    def _guard(self, until: float) -> Iterator[None]:
        """End the app's browser at ``until``, in case a call into a page that hangs still holds the test then."""

        async def begin() -> asyncio.TimerHandle:
            return asyncio.get_running_loop().call_at(until, self._end_browser)

        async def cancel() -> None:
            timer.cancel()

        timer = self._call(begin(), deadline=1.0)
        try:
            yield
        finally:
            self._call(cancel(), deadline=1.0)

    def _end_browser(self) -> None:
        self._killed = True
        self._host.driver.kill()

    def _why_not(self, answer: Answer, story: _Story, within_ms: float, waited: float) -> str:
        where = f"{self._host.probe.lane}, app {self._host.source}"
        text = f"{where}: not recovered from {story.fault} within {within_ms:g} ms ({waited:.0f} ms waited)"
        text = f"{text}: {answer.why_not()}"
        if self._killed:
            text += (
                f". The predicate had not returned {_GRACE_S:g} s after its time, as in a page that hangs, so the "
                "app's browser was ended"
            )
        elif story.damage is not None and story.damage.symptom in _FATAL and story.opened == self._tab.opened:
            text += (
                ". The app's page is gone, and no page brings itself back from that: call "
                "webaccel_page.webaccel_reopen() after the fault, as a user would open it again"
            )
        return text

    def _finish(self, story: _Story) -> None:
        self._open.remove(story)
        reopened = self._tab.opened - story.opened
        ended_at = story.fault_at if story.ended_at is None else story.ended_at
        detect = story.damage.at - story.fault_at if story.damage is not None else 0.0
        self._record(
            RecoveryRow(
                run_id=self._belonging.run_id,
                evidence=self._host.probe.evidence,
                test_id=self._belonging.test_id,
                lane=str(self._host.probe.lane),
                fault=str(story.fault),
                strategy=STRATEGY,
                outcome=str(story.outcome),
                total_ms=(ended_at - story.fault_at) * 1000,
                detect_ms=max(detect, 0.0) * 1000,
                reassign_ms=0.0,
                load_ms=0.0,
                restore_ms=0.0,
                replay_ms=0.0,
                attempts=reopened,
                duplicated=0,
                lost=0,
                worker=self._belonging.worker,
                detail=story.detail[:500],
                point=STRATEGY,
                rungs=",".join(["reopen"] * reopened),
                symptom=str(story.damage.symptom) if story.damage is not None else "",
            )
        )


def _word(kind: type[Word], text: object, what: str) -> Word:
    try:
        return pick(kind, str(text), what)
    except ValueError as error:
        raise FaultError(str(error)) from None


def _of_kind(fault: Fault, kind: str) -> Injector:
    """Return the injector of ``fault`` in one of its kinds; raises FaultError for a kind that it has not."""
    match fault:
        case Fault.COMPONENT_TIMEOUT:
            return ComponentTimeout(_word(Hang, kind, f"kind of {fault}"))
        case Fault.OUT_OF_MEMORY:
            return OutOfMemory(_word(Memory, kind, f"kind of {fault}"))
        case _:
            raise FaultError(f"fault {fault} is of one kind, so kind={kind!r} means nothing; kinds have: {_KIND_NAMES}")


def _without_gpu(probe: ProbeResult) -> ProbeResult:
    """Return what the probe would be of a lane whose pages hold no GPU device, as this app's page holds none."""
    return dataclasses.replace(probe, lane=Lane(probe.lane.browser, Backend.CPU))


def _how(answer: Answer) -> str:
    if answer.asked == 1:
        return "healthy at the first look; if the predicate asks the app for no work, it may never have been otherwise"
    return ""
