from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_webaccel.errors import ConfigurationError
from pytest_webaccel.faults import FaultSchedule, choose
from pytest_webaccel.terms import Fault, FaultPlan, FaultPoint, Strategy

plan = st.builds(
    FaultPlan,
    fault=st.sampled_from(Fault),
    at=st.sampled_from(FaultPoint),
    times=st.integers(1, 4),
    recovery=st.none() | st.sampled_from(Strategy),
)
plans = st.lists(plan, max_size=5)
seeds = st.integers(0, 2**64)
test_ids = st.text(max_size=30)


@given(plans, seeds, test_ids)
def test_each_plan_fires_its_times_one_a_request_from_the_first(chosen, seed, test_id):
    schedule = FaultSchedule(chosen, seed, test_id)
    total = sum(one.times for one in chosen)
    fired = [schedule.plan_for(request) for request in range(total + 3)]

    expected: Counter[FaultPlan] = Counter()
    for one in chosen:
        expected[one] += one.times
    assert Counter(fired[:total]) == expected
    assert fired[total:] == [None] * 3
    assert schedule.plan_for(-1) is None


@given(plans, seeds, test_ids, st.integers(0, 25))
def test_what_did_not_fire_is_what_the_requests_did_not_reach(chosen, seed, test_id, requests):
    schedule = FaultSchedule(chosen, seed, test_id)
    fired = [one for request in range(requests) if (one := schedule.plan_for(request))]
    assert (*fired, *schedule.unfired(requests)) == schedule.firings


@given(plans, seeds, test_ids)
def test_the_same_seed_and_test_give_the_same_schedule(chosen, seed, test_id):
    assert FaultSchedule(chosen, seed, test_id).firings == FaultSchedule(chosen, seed, test_id).firings


def test_seed_and_test_id_both_change_the_order():
    three = [FaultPlan(fault) for fault in list(Fault)[:3]]
    assert len({FaultSchedule(three, seed, "test_a").firings for seed in range(100)}) == 6
    assert len({FaultSchedule(three, 1, f"test_{i}").firings for i in range(100)}) == 6


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_the_schedule_does_not_depend_on_the_process(hash_seed):
    program = (
        "from pytest_webaccel.faults import FaultSchedule, choose\n"
        "from pytest_webaccel.terms import Fault, FaultPlan\n"
        "three = [FaultPlan(fault) for fault in list(Fault)[:3]]\n"
        "print(*(p.fault for p in FaultSchedule(three, 7, 'test_a').firings))\n"
        "print(*(choose(three, 7, f'test_{i}', lambda fault: True).fault for i in range(20)))\n"
    )
    environment = {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(filter(None, sys.path))}
    there = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)

    three = [FaultPlan(fault) for fault in list(Fault)[:3]]
    orders = [p.fault for p in FaultSchedule(three, 7, "test_a").firings]
    choices = [one.fault for i in range(20) if (one := choose(three, 7, f"test_{i}", lambda fault: True))]
    assert there.stdout.splitlines() == [" ".join(orders), " ".join(choices)]


def test_a_plan_that_never_fires_is_refused():
    with pytest.raises(ConfigurationError, match="test_a: fault device_lost has times=0"):
        FaultSchedule([FaultPlan(Fault.DEVICE_LOST, times=0)], 1, "test_a")


@given(plans, seeds, test_ids, st.sets(st.sampled_from(Fault)))
def test_only_a_meaningful_plan_is_chosen_and_one_always_when_there_is_one(chosen, seed, test_id, meaningful):
    found = choose(chosen, seed, test_id, meaningful.__contains__)
    candidates = [one for one in chosen if one.fault in meaningful]
    assert found in candidates if candidates else found is None


@given(plans, plan, seeds, test_ids)
def test_a_plan_that_joins_changes_only_the_tests_that_get_it(chosen, new, seed, test_id):
    before = choose(chosen, seed, test_id, lambda fault: True)
    assert choose([*chosen, new], seed, test_id, lambda fault: True) in (before, new)


def test_a_run_spreads_its_plans_over_its_tests():
    three = [FaultPlan(fault) for fault in list(Fault)[:3]]
    counts = Counter(choose(three, 1, f"test_{i}", lambda fault: True) for i in range(900))
    assert set(counts) == set(three)
    assert min(counts.values()) > 240
