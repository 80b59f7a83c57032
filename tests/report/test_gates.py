from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_webaccel.report.gates import check
from pytest_webaccel.terms import Evidence

from .samples import a_recovery, a_test


def rows(*outcomes: str, **changes):
    return [a_recovery(outcome=outcome, **changes) for outcome in outcomes]


def test_no_gate_asks_nothing():
    assert check([], min_success=None, max_recovery_ms=None) == []


def test_gates_that_hold_are_silent():
    assert check(rows("recovered", "recovered"), min_success=1.0, max_recovery_ms=100.0) == []


def test_a_gate_without_data_fails_and_says_what_to_do():
    messages = check([a_test()], min_success=0.5, max_recovery_ms=100.0)
    assert len(messages) == 2
    assert all("--webaccel-fault" in message for message in messages)


@pytest.mark.parametrize("outcome", ["unknown", "failed"])
def test_what_did_not_surely_recover_counts_against_the_rate(outcome):
    (message,) = check(rows("recovered", outcome), min_success=0.9, max_recovery_ms=None)
    assert "1 of 2 faults recovered on software evidence" in message
    assert "browser_crash/simple in t[chromium:webgpu]" in message


def test_time_is_gated_over_recovered_faults_only():
    slow_failure = rows("failed", total_ms=9e9)
    assert check([*rows("recovered"), *slow_failure], min_success=None, max_recovery_ms=100.0) == []
    (message,) = check(rows("recovered", total_ms=150.0), min_success=None, max_recovery_ms=100.0)
    assert "150 ms" in message
    (message,) = check(slow_failure, min_success=None, max_recovery_ms=100.0)
    assert "no fault was recovered" in message


def test_a_time_that_is_no_number_fails():
    assert check(rows("recovered", total_ms=math.nan), min_success=None, max_recovery_ms=100.0)


def test_grades_are_gated_apart():
    mixed = [*rows("recovered", "recovered", "recovered"), *rows("failed", evidence=Evidence.HARDWARE)]
    (message,) = check(mixed, min_success=0.7, max_recovery_ms=None)
    assert "hardware" in message


def test_times_of_the_fake_browser_are_refused():
    (message,) = check(rows("recovered", evidence=Evidence.FAKE), min_success=1.0, max_recovery_ms=1e9)
    assert "real browser" in message


@pytest.mark.parametrize("control", ["none", "worker_restart"])
def test_controls_are_not_gated(control):
    assert check([*rows("recovered"), *rows("failed", strategy=control)], min_success=1.0, max_recovery_ms=None) == []


@given(st.lists(st.sampled_from(["recovered", "failed", "unknown"]), min_size=1), st.floats(0, 1))
def test_the_gate_is_the_plain_rate(outcomes, least):
    rate = outcomes.count("recovered") / len(outcomes)
    assert bool(check(rows(*outcomes), min_success=least, max_recovery_ms=None)) == (rate < least)
