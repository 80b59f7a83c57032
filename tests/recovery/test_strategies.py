from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_webaccel.recovery.strategies import STAGES, STRATEGIES, Rung, Situation, Step
from pytest_webaccel.terms import Damage, Strategy, Symptom

situations = st.builds(
    Situation,
    damage=st.builds(Damage, symptom=st.sampled_from(Symptom), detail=st.just("test"), at=st.just(0.0)),
    spare_ready=st.booleans(),
    models=st.integers(0, 3),
    failed_rungs=st.just(()),
)


def steps(strategy: Strategy, symptom: Symptom, *, spare: bool = False, models: int = 1) -> list[tuple[Step, ...]]:
    situation = Situation(Damage(symptom, "test", 0.0), spare, models, ())
    return [rung.steps for rung in STRATEGIES[strategy].rungs(situation)]


RECONNECT = (Step.RECONNECT, Step.REPLAY)
DEVICE = (Step.NEW_DEVICE, Step.LOAD_MODELS, Step.REPLAY)
PAGE = (Step.NEW_PAGE, Step.LOAD_MODELS, Step.REPLAY)
RESTART = (Step.RESTART_BROWSER, Step.LOAD_MODELS, Step.REPLAY)
SPARE = (Step.USE_SPARE, Step.REPLAY, Step.REPAIR_IN_BACKGROUND)


def test_every_strategy_is_registered_under_its_own_name():
    assert {name: strategy.name for name, strategy in STRATEGIES.items()} == {name: name for name in Strategy}


def test_every_step_has_a_stage():
    assert set(STAGES) == set(Step)


@pytest.mark.parametrize(
    ("symptom", "spare", "expected"),
    [
        (Symptom.SOCKET_CLOSED, True, [RECONNECT, PAGE, RESTART]),
        (Symptom.HEARTBEAT_MISSED, False, [RECONNECT, PAGE, RESTART]),
        (Symptom.DEVICE_LOST, True, [DEVICE, PAGE, RESTART]),
        (Symptom.PAGE_CRASHED, False, [PAGE, RESTART]),
        (Symptom.PAGE_CRASHED, True, [SPARE, PAGE, RESTART]),
        (Symptom.PAGE_REPLACED, True, [SPARE, PAGE, RESTART]),
        (Symptom.DEADLINE_PASSED, True, [SPARE, PAGE, RESTART]),
        (Symptom.BROWSER_EXITED, True, [SPARE, RESTART]),
        (Symptom.BROWSER_EXITED, False, [RESTART]),
    ],
)
def test_coordinated_does_the_least_that_mends_the_damage_first(symptom, spare, expected):
    assert steps(Strategy.COORDINATED, symptom, spare=spare) == expected


@given(situations)
def test_simple_knows_one_rung(situation):
    (rung,) = STRATEGIES[Strategy.SIMPLE].rungs(situation)
    assert rung.steps[0] is Step.RESTART_BROWSER
    assert rung.steps[-1] is Step.REPLAY


@given(situations)
def test_none_tries_nothing(situation):
    assert STRATEGIES[Strategy.NONE].rungs(situation) == ()


@given(situations, st.sampled_from([Strategy.SIMPLE, Strategy.COORDINATED]))
def test_whatever_the_situation_the_last_rung_is_a_cold_restart(situation, strategy):
    assert STRATEGIES[strategy].rungs(situation)[-1].steps[0] is Step.RESTART_BROWSER


@given(situations, st.sampled_from(Strategy))
def test_models_are_loaded_exactly_where_they_were_lost(situation, strategy):
    for rung in STRATEGIES[strategy].rungs(situation):
        keeps = rung.steps[0] in {Step.RECONNECT, Step.USE_SPARE}
        assert (Step.LOAD_MODELS in rung.steps) == (not keeps and situation.models > 0)


@given(situations, st.sampled_from(Strategy))
def test_a_spare_is_used_only_when_ready_and_always_repaid(situation, strategy):
    rungs = STRATEGIES[strategy].rungs(situation)
    assert len({rung.name for rung in rungs}) == len(rungs)
    for rung in rungs:
        assert (Step.USE_SPARE in rung.steps) == (Step.REPAIR_IN_BACKGROUND in rung.steps)
        assert situation.spare_ready or Step.USE_SPARE not in rung.steps


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
