from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_webaccel.recovery.rungs import LADDER, STAGES, Rung, Situation, Step
from pytest_webaccel.recovery.strategies import STRATEGIES
from pytest_webaccel.terms import MENDING, Damage, Strategy, Symptom

situations = st.builds(
    Situation,
    damage=st.builds(Damage, symptom=st.sampled_from(Symptom), detail=st.just("test"), at=st.just(0.0)),
    spare_ready=st.booleans(),
    models=st.integers(0, 3),
    failed_rungs=st.just(()),
)


MENDS = sorted(MENDING)


def steps(strategy: Strategy, symptom: Symptom, **more: bool) -> list[Step]:
    situation = Situation(Damage(symptom, "test", 0.0), more.pop("spare", False), 1, (), **more)
    return [rung.steps[0] for rung in STRATEGIES[strategy].rungs(situation)]


RECONNECT, DEVICE, PAGE, SPARE = Step.RECONNECT, Step.NEW_DEVICE, Step.NEW_PAGE, Step.USE_SPARE
RESTART, OVER = Step.RESTART_BROWSER, Step.FAIL_OVER


def test_every_strategy_is_registered_under_its_own_name():
    assert {name: strategy.name for name, strategy in STRATEGIES.items()} == {name: name for name in Strategy}


def test_every_step_has_a_stage_and_every_symptom_a_ladder():
    assert set(STAGES) == set(Step)
    assert set(LADDER) == set(Symptom)


@pytest.mark.parametrize(
    ("symptom", "spare", "expected"),
    [
        (Symptom.SOCKET_CLOSED, True, [RECONNECT, SPARE, PAGE, RESTART]),
        (Symptom.RESULT_DAMAGED, True, [Step.RESEND, SPARE, RECONNECT, PAGE, RESTART]),
        (Symptom.HEARTBEAT_MISSED, False, [RECONNECT, PAGE, RESTART]),
        (Symptom.HEARTBEAT_MISSED, True, [SPARE, RECONNECT, PAGE, RESTART]),
        (Symptom.DEVICE_LOST, True, [SPARE, DEVICE, PAGE, RESTART]),
        (Symptom.DEVICE_LOST, False, [DEVICE, PAGE, RESTART]),
        (Symptom.PAGE_CRASHED, False, [PAGE, RESTART]),
        (Symptom.PAGE_CRASHED, True, [SPARE, PAGE, RESTART]),
        (Symptom.PAGE_REPLACED, True, [SPARE, Step.ADOPT_PAGE, PAGE, RESTART]),
        (Symptom.OPERATION_FAILED, False, [Step.RELOAD_MODELS, PAGE, RESTART]),
        (Symptom.DEADLINE_PASSED, True, [SPARE, PAGE, RESTART]),
        (Symptom.BROWSER_EXITED, True, [SPARE, RESTART]),
        (Symptom.BROWSER_EXITED, False, [RESTART]),
    ],
)
def test_coordinated_takes_the_page_s_own_way_then_the_spare_then_climbs(symptom, spare, expected):
    assert steps(Strategy.COORDINATED, symptom, spare=spare) == expected


@given(situations)
def test_simple_knows_one_rung(situation):
    (rung,) = STRATEGIES[Strategy.SIMPLE].rungs(situation)
    assert rung.steps[0] is Step.RESTART_BROWSER
    assert rung.steps[-1] is Step.REPLAY


@given(situations, st.sampled_from([Strategy.NONE, Strategy.WORKER_RESTART]))
def test_controls_try_nothing(situation, strategy):
    assert STRATEGIES[strategy].rungs(situation) == ()


@given(situations)
def test_progressive_climbs_the_ladder_without_a_spare(situation):
    rungs = [rung.steps[0] for rung in STRATEGIES[Strategy.PROGRESSIVE].rungs(situation)]
    assert rungs == [*LADDER[situation.damage.symptom], RESTART]


@pytest.mark.parametrize("strategy", MENDS)
def test_a_browser_whose_breaker_is_open_is_not_started(strategy):
    assert RESTART not in steps(strategy, Symptom.BROWSER_EXITED, startable=False)


@pytest.mark.parametrize("strategy", [Strategy.PROGRESSIVE, Strategy.PARALLEL, Strategy.COORDINATED])
def test_another_browser_is_the_last_resort_and_the_only_one_where_nothing_starts(strategy):
    assert steps(strategy, Symptom.BROWSER_EXITED, elsewhere=True) == [RESTART, OVER]
    assert steps(strategy, Symptom.BROWSER_EXITED, elsewhere=True, startable=False) == [OVER]


def test_parallel_races_the_cheapest_with_the_spare_and_a_cold_start():
    assert steps(Strategy.PARALLEL, Symptom.SOCKET_CLOSED, spare=True)[:3] == [RECONNECT, SPARE, RESTART]
    assert STRATEGIES[Strategy.PARALLEL].races == 3


@given(situations, st.sampled_from(Strategy))
def test_models_are_loaded_exactly_where_they_were_lost(situation, strategy):
    for rung in STRATEGIES[strategy].rungs(situation):
        loses = rung.steps[0] in {DEVICE, PAGE, RESTART, Step.ADOPT_PAGE}
        assert (Step.LOAD_MODELS in rung.steps) == (loses and situation.models > 0)


@given(situations, st.sampled_from(Strategy))
def test_whatever_stands_in_is_used_only_when_ready_and_always_repaid(situation, strategy):
    rungs = STRATEGIES[strategy].rungs(situation)
    assert len({rung.name for rung in rungs}) == len(rungs)
    for rung in rungs:
        assert (rung.steps[0] in {SPARE, OVER}) == (Step.REPAIR_IN_BACKGROUND in rung.steps)
        assert situation.spare_ready or SPARE not in rung.steps
        assert rung.name == rung.steps[0]


@pytest.mark.parametrize(
    ("steps", "deadline_s", "match"),
    [
        ((Step.REPLAY, Step.RECONNECT), 1.0, "out of order"),
        ((Step.NEW_PAGE, Step.NEW_DEVICE, Step.REPLAY), 1.0, "out of order"),
        ((Step.REPLAY, Step.REPLAY), 1.0, "out of order"),
        ((Step.RECONNECT,), 1.0, "never replays"),
        ((), 1.0, "never replays"),
        ((Step.REPLAY,), 0.0, "deadline_s"),
        ((Step.REPLAY,), float("inf"), "deadline_s"),
        ((Step.REPLAY,), float("nan"), "deadline_s"),
    ],
)
def test_a_rung_that_cannot_be_meant_is_refused(steps, deadline_s, match):
    with pytest.raises(ValueError, match=match):
        Rung("bad", steps, deadline_s)
