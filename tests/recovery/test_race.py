from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from pytest_webaccel.errors import BrowserError, ModelError
from pytest_webaccel.recovery import STRATEGIES, GivenUpError, Recovery, Rung, Step, race
from pytest_webaccel.terms import Strategy, Symptom

from .virtual import FakeLane, clock, damage, run_virtually


@dataclass
class Entrant:
    """One contender on a scripted lane of its own."""

    rung: Rung
    lane: FakeLane
    ended: list[str]

    async def replay(self, deadline: float) -> str:
        await self.lane.replay(deadline)
        return self.rung.name

    def win(self) -> None:
        self.ended.append(f"{self.rung.name} won")

    def lose(self) -> None:
        self.ended.append(f"{self.rung.name} lost")


@dataclass
class Track:
    """Makes contenders; ``scripts`` are their lanes' by the rung's first step."""

    scripts: dict[Step, dict[Step, list[float | BaseException]]] = field(default_factory=dict)
    spare_ready: bool = True
    elsewhere: bool = False
    ended: list[str] = field(default_factory=list)
    entrants: list[Entrant] = field(default_factory=list)
    behind: list[asyncio.Task[None]] = field(default_factory=list)

    def contend(self, rung: Rung) -> Entrant:
        self.entrants.append(Entrant(rung, FakeLane(self.scripts.get(rung.steps[0], {})), self.ended))
        return self.entrants[-1]

    async def run(self, symptom: Symptom = Symptom.SOCKET_CLOSED, budget_s: float = 60.0) -> Recovery[str]:
        return await race(
            FakeLane(spare_ready=self.spare_ready, elsewhere=self.elsewhere),
            self.contend,
            damage=damage(symptom),
            strategy=STRATEGIES[Strategy.PARALLEL],
            fault_at=0.0,
            budget_s=budget_s,
            clock=clock,
            behind=lambda work: self.behind.append(asyncio.ensure_future(work)),
        )

    @property
    def running(self) -> int:
        return sum(entrant.lane.running for entrant in self.entrants)


def run(track: Track, **more: Any) -> Recovery[str]:
    async def main() -> Recovery[str]:
        found = await track.run(**more)
        await asyncio.gather(*track.behind)
        return found

    return run_virtually(main())


SLOW, QUICK = 9.0, 0.5


def test_the_first_answer_wins_and_the_losers_are_ended():
    track = Track({Step.RECONNECT: {Step.RECONNECT: [SLOW]}, Step.USE_SPARE: {Step.USE_SPARE: [QUICK]}})
    found = run(track)
    assert found.result == "use_spare"
    assert found.rungs == ("reconnect", "use_spare", "restart_browser")
    assert sorted(track.ended) == ["reconnect lost", "restart_browser lost", "use_spare won"]
    assert track.running == 0


def test_the_answer_does_not_wait_for_the_losers_to_end():
    track = Track({Step.RECONNECT: {Step.RECONNECT: [QUICK], Step.REPLAY: [QUICK]}})

    async def main() -> tuple[float, list[str]]:
        await track.run()
        at_answer = clock(), list(track.ended)
        await asyncio.gather(*track.behind)
        return at_answer

    assert run_virtually(main()) == (1.0, ["reconnect won"])


def test_time_is_the_winner_s_own():
    track = Track({Step.USE_SPARE: {Step.USE_SPARE: [QUICK], Step.REPLAY: [QUICK]}})
    phases = run(track, symptom=Symptom.BROWSER_EXITED).phases
    assert (phases.reassign, phases.replay, phases.total) == pytest.approx((500, 500, 1000))


def test_a_contender_that_fails_leaves_the_race_to_the_others():
    track = Track(
        {Step.RECONNECT: {Step.RECONNECT: [BrowserError("gone")]}, Step.USE_SPARE: {Step.REPLAY: [OSError("x")]}}
    )
    assert run(track).result == "restart_browser"


def test_when_all_of_a_heat_failed_the_rungs_that_are_left_race():
    gone: dict[Step, dict[Step, list[float | BaseException]]] = {
        step: {step: [BrowserError("gone")]} for step in (Step.RECONNECT, Step.USE_SPARE, Step.RESTART_BROWSER)
    }
    found = run(Track(gone, elsewhere=True))
    assert found.result in {"new_page", "fail_over"}
    assert found.rungs[:3] == ("reconnect", "use_spare", "restart_browser")


def test_two_rungs_never_mend_the_same_browser_at_once():
    track = Track()
    run(track, symptom=Symptom.RESULT_DAMAGED)
    own = {Step.USE_SPARE, Step.RESTART_BROWSER, Step.FAIL_OVER}
    assert sum(entrant.rung.steps[0] not in own for entrant in track.entrants) == 1


def test_when_every_rung_failed_the_error_says_why_each_did():
    gone: dict[Step, dict[Step, list[float | BaseException]]] = {
        step: {step: [BrowserError(f"{step} is no use")]} for step in Step
    }
    track = Track(gone)
    with pytest.raises(GivenUpError, match=r"reconnect is no use.*new_page is no use") as caught:
        run(track)
    assert caught.value.rungs == ("reconnect", "use_spare", "restart_browser", "new_page")
    assert len(track.ended) == 4


def test_an_error_that_is_the_true_answer_comes_out_and_ends_the_race():
    track = Track({Step.RECONNECT: {Step.RECONNECT: [QUICK], Step.REPLAY: [ModelError("no such operator")]}})
    with pytest.raises(ModelError, match="no such operator"):
        run(track)
    assert track.running == 0


def test_hanging_contenders_end_with_the_budget():
    track = Track({step: {key: [1000000000.0] for key in Step} for step in Step})

    async def main() -> float:
        with pytest.raises(GivenUpError):
            await track.run(budget_s=20.0)
        return clock()

    assert run_virtually(main()) <= 20.0 + 1e-6
    assert track.running == 0


def test_cancellation_leaves_no_contender_behind():
    track = Track({step: {key: [1000000000.0] for key in Step} for step in Step})

    async def main() -> None:
        task = asyncio.ensure_future(track.run())
        await asyncio.sleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run_virtually(main())
    assert track.running == 0
    assert len(track.ended) == 3
