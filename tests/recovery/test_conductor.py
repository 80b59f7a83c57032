from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pytest_webaccel.errors import BrowserError, DamagedLaneError, FeedError, RecoveryError, RemoteError
from pytest_webaccel.recovery import STRATEGIES, GivenUpError, Recovery, Step, recover
from pytest_webaccel.terms import Strategy, Symptom

from .virtual import FakeLane, clock, damage, run_virtually


async def mend(
    lane: FakeLane,
    symptom: Symptom = Symptom.SOCKET_CLOSED,
    *,
    strategy: Strategy = Strategy.COORDINATED,
    budget_s: float = 60.0,
) -> Recovery[str]:
    return await recover(
        lane,
        lane.replay,
        damage=damage(symptom),
        strategy=STRATEGIES[strategy],
        fault_at=0.0,
        budget_s=budget_s,
        clock=clock,
    )


def broken(symptom: Symptom) -> DamagedLaneError:
    return DamagedLaneError(damage(symptom))


def test_the_answer_comes_with_where_its_time_went():
    lane = FakeLane({Step.NEW_DEVICE: [2.0], Step.LOAD_MODELS: [3.0], Step.REPLAY: [0.5]})
    found = run_virtually(mend(lane, Symptom.DEVICE_LOST))

    assert found.result == "answer"
    assert found.steps == (Step.NEW_DEVICE, Step.LOAD_MODELS, Step.REPLAY)
    assert found.attempts == 1
    assert (found.phases.reassign, found.phases.load, found.phases.replay) == pytest.approx((2000, 3000, 500))
    assert found.phases.total == pytest.approx(5500)


@pytest.mark.parametrize(
    "error", [BrowserError("gone"), OSError("pipe"), TimeoutError(), AssertionError("odd")], ids=repr
)
def test_a_step_that_raises_has_failed_and_the_next_rung_is_tried(error):
    lane = FakeLane({Step.RECONNECT: [error]})
    found = run_virtually(mend(lane))

    assert lane.begun == [Step.RECONNECT, Step.NEW_PAGE, Step.LOAD_MODELS, Step.REPLAY]
    assert found.attempts == 2


def test_a_step_that_hangs_is_cut_off_at_its_deadline():
    lane = FakeLane({Step.RECONNECT: [1e9]})
    found = run_virtually(mend(lane))

    assert found.phases.restore == pytest.approx(lane.deadlines[0] * 1000)
    assert lane.running == 0


def test_every_step_hanging_ends_with_the_budget():
    lane = FakeLane({step: [1e9] * 9 for step in Step})

    async def main() -> float:
        with pytest.raises(GivenUpError, match="deadline passed"):
            await mend(lane, budget_s=30.0)
        return clock()

    assert run_virtually(main()) <= 30.0 + 1e-6
    assert lane.running == 0


@pytest.mark.parametrize("wrap", [lambda e: e, lambda e: ExceptionGroup("of a task group", [OSError("x"), e])])
def test_damage_during_recovery_is_planned_for_anew(wrap):
    lane = FakeLane({Step.RECONNECT: [wrap(broken(Symptom.BROWSER_EXITED))]}, spare_ready=True)
    found = run_virtually(mend(lane))

    assert lane.begun == [Step.RECONNECT, Step.USE_SPARE, Step.REPLAY, Step.REPAIR_IN_BACKGROUND]
    assert found.attempts == 2


def test_giving_up_says_what_was_tried_and_carries_the_figures():
    lane = FakeLane({Step.RESTART_BROWSER: [BrowserError("no such file")]})

    async def main() -> None:
        await mend(lane, Symptom.BROWSER_EXITED, strategy=Strategy.SIMPLE)

    with pytest.raises(RecoveryError, match="fake:webgpu: recovery by strategy simple gave up") as caught:
        run_virtually(main())
    assert isinstance(caught.value, GivenUpError)
    assert "restart_browser" in str(caught.value)
    assert "no such file" in str(caught.value)
    assert (caught.value.attempts, caught.value.steps) == (1, ())
    assert caught.value.phases.reassign == pytest.approx(1000)
    assert isinstance(caught.value.__cause__, BrowserError)


def test_strategy_none_gives_up_without_touching_the_lane():
    lane = FakeLane()
    with pytest.raises(GivenUpError, match="tries nothing"):
        run_virtually(mend(lane, strategy=Strategy.NONE))
    assert lane.begun == []


@pytest.mark.parametrize("error", [RemoteError("operator", "no such operator"), FeedError("no such input")], ids=repr)
def test_an_error_that_is_the_true_answer_comes_out_at_once(error):
    lane = FakeLane({Step.REPLAY: [error]})
    with pytest.raises(type(error)) as caught:
        run_virtually(mend(lane))
    assert caught.value is error
    assert lane.begun == [Step.RECONNECT, Step.REPLAY]


def test_a_true_answer_from_a_spare_still_has_the_broken_browser_mended():
    lane = FakeLane({Step.REPLAY: [RemoteError("operator", "no such operator")]}, spare_ready=True)
    with pytest.raises(RemoteError):
        run_virtually(mend(lane, Symptom.BROWSER_EXITED))
    assert lane.begun == [Step.USE_SPARE, Step.REPLAY, Step.REPAIR_IN_BACKGROUND]


def test_a_remote_error_while_loading_is_a_failed_step_and_no_answer():
    lane = FakeLane({Step.LOAD_MODELS: [RemoteError("model", "device not ready")]})
    found = run_virtually(mend(lane, Symptom.DEVICE_LOST))
    assert found.result == "answer"
    assert found.attempts == 2


def test_giving_up_with_a_spare_in_use_has_the_broken_browser_mended():
    lane = FakeLane({Step.REPLAY: [OSError("x")], Step.RESTART_BROWSER: [OSError("x")]}, spare_ready=True)
    with pytest.raises(GivenUpError):
        run_virtually(mend(lane, Symptom.BROWSER_EXITED))
    assert lane.begun[-1] is Step.REPAIR_IN_BACKGROUND


class NoRepairs(FakeLane):
    def repair_in_background(self) -> None:
        raise OSError("too many processes")


def test_an_answer_outlives_a_repair_that_could_not_begin():
    lane = NoRepairs(spare_ready=True)
    assert run_virtually(mend(lane, Symptom.BROWSER_EXITED)).result == "answer"


def test_giving_up_outlives_a_repair_that_could_not_begin():
    lane = NoRepairs({Step.REPLAY: [OSError("x")], Step.RESTART_BROWSER: [OSError("x")]}, spare_ready=True)
    with pytest.raises(GivenUpError) as caught:
        run_virtually(mend(lane, Symptom.BROWSER_EXITED))
    assert "too many processes" in caught.value.__notes__[0]


@pytest.mark.parametrize("step", [Step.RECONNECT, Step.REPLAY])
def test_cancellation_comes_out_at_once_and_leaves_nothing_running(step):
    lane = FakeLane({step: [10.0]})

    async def main() -> list[Any]:
        task = asyncio.create_task(mend(lane))
        await asyncio.sleep(5.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return [lane.running, clock(), lane.begun[-1], asyncio.all_tasks() - {asyncio.current_task()}]

    assert run_virtually(main()) == [0, 5.0, step, set()]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_what_ends_the_process_is_not_taken_for_a_failed_step(error):
    lane = FakeLane({Step.RECONNECT: [error]})
    with pytest.raises(type(error)):
        run_virtually(mend(lane))
    assert lane.begun == [Step.RECONNECT]
