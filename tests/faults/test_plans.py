from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_webaccel.faults import INJECTORS
from pytest_webaccel.faults.levels import LEVELS
from pytest_webaccel.faults.plans import pick_plan, plans_of
from pytest_webaccel.faults.schedule import chance_of
from pytest_webaccel.terms import Backend, Fault, FaultPlan, FaultPoint, Level, Strategy
from tests.faults.doubles import probe


def test_each_level_holds_the_lower_ones_and_something_of_its_own():
    assert list(LEVELS) == list(Level)
    for lower, higher in itertools.pairwise(LEVELS.values()):
        assert set(lower) < set(higher)
    assert sorted(LEVELS[Level.CRITICAL]) == sorted(Fault)


@given(st.sampled_from(Fault), st.sampled_from(FaultPoint), st.integers(1, 5), st.none() | st.sampled_from(Strategy))
def test_a_fault_is_one_plan_unless_it_can_never_fire(fault, point, times, strategy):
    if INJECTORS[fault].misfit(point):
        with pytest.raises(ValueError, match=f"fault {fault} can never fire at {point}: .*; it can at before"):
            plans_of(str(fault), point, times, strategy)
    else:
        assert plans_of(f" {fault} ", point, times, strategy) == (FaultPlan(fault, point, times, strategy),)


@given(st.sampled_from(Level), st.sampled_from(FaultPoint))
def test_a_level_is_the_plans_of_those_of_its_faults_that_can_fire(level, point):
    plans = plans_of(str(level), point, recovery=Strategy.SIMPLE)
    assert [plan.fault for plan in plans] == [one for one in LEVELS[level] if not INJECTORS[one].misfit(point)]
    assert plans
    assert {(plan.at, plan.recovery) for plan in plans} == {(point, Strategy.SIMPLE)}


def test_a_word_that_is_neither_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"unknown fault 'hihg' \(known: .*staggered, low.*\); did you mean 'high'"):
        plans_of("hihg")


@pytest.mark.parametrize("backend", Backend)
def test_a_level_gives_each_test_one_fault_that_means_something_by_seed(backend):
    lane, plans = probe(backend), plans_of("high")
    chosen = {test: pick_plan(plans, 7, f"test_{test}", lane)[0] for test in range(60)}
    assert chosen == {test: pick_plan(plans, 7, f"test_{test}", lane)[0] for test in range(60)}
    assert chosen != {test: pick_plan(plans, 8, f"test_{test}", lane)[0] for test in range(60)}
    faults = {plan.fault for plan in chosen.values() if plan}
    assert len(faults) > 5
    assert all(INJECTORS[fault].meaning(lane) is None for fault in faults)


def test_no_plan_that_means_something_says_why():
    plan, reason = pick_plan(plans_of("device_lost"), 1, "test", probe(Backend.CPU))
    assert plan is None
    assert reason.startswith("fault device_lost has no meaning on chromium:cpu: WebAssembly uses no GPU device")
    assert pick_plan((), 1, "test", probe()) == (None, "")


def test_chance_follows_seed_test_and_request():
    first = chance_of(1, "test", 0).random()
    assert chance_of(1, "test", 0).random() == first
    others = [chance_of(2, "test", 0), chance_of(1, "other", 0), chance_of(1, "test", 1)]
    assert first not in {other.random() for other in others}
