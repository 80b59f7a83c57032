"""The benchmark of many steps, without a browser: its order, its rows, its verdict."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import load_from_string
from onnx.reference import ReferenceEvaluator

from pytest_webaccel.terms import Backend, Browser, Evidence, Lane, ProbeResult, Strategy
from tests.bench import steps
from tests.bench.steps import CASES, Walked

PROBE = ProbeResult(Lane(Browser.CHROMIUM, Backend.CPU), True, Evidence.SOFTWARE)


class Stub:
    """Workers that need no time."""

    def __init__(self, saving: Strategy = Strategy.COORDINATED) -> None:
        self.saving = saving
        self.walks: list[str] = []

    def walk(self, case: steps.Case, probe: ProbeResult, count: int, key: str) -> Walked:
        assert (probe, count) == (PROBE, 10)
        self.walks.append(key)
        if case.strategy is None:
            return Walked(100.0, False, 0, 0)
        saves = case.strategy is self.saving
        return Walked(700.0 if saves else 750.0, True, 4 if saves else 0, 0 if saves else 4)


def rows(**more: Any) -> list[dict[str, Any]]:
    return steps.measure(Stub(**more), PROBE, rounds=5, steps=10)  # type: ignore[arg-type]


def test_each_case_has_a_row_with_what_was_saved_and_what_it_cost():
    found = {row["case"]: row for row in rows()}
    assert list(found) == [case.name for case in CASES]
    assert (found["coordinated"]["n"], found["coordinated"]["recovered"]) == (5, 5)
    assert (found["coordinated"]["saved_steps"], found["coordinated"]["steps_again"]) == (4, 0)
    assert (found["simple"]["saved_steps"], found["simple"]["steps_again"]) == (0, 4)
    assert found["simple"]["more_than_undisturbed_ms"] == 650.0
    assert found["undisturbed"]["recovered"] == 0


def test_cases_take_turns_in_an_order_of_each_round():
    stub = Stub()
    steps.measure(stub, PROBE, rounds=3, steps=10)  # type: ignore[arg-type]
    rounds = [stub.walks[place : place + len(CASES)] for place in range(0, len(stub.walks), len(CASES))]
    assert len(rounds) == 4
    names = [[key.rsplit(" ", 1)[0] for key in one] for one in rounds]
    assert all(sorted(one) == sorted(names[0]) for one in names)
    assert len({tuple(one) for one in names}) > 1


def test_the_verdict_is_that_coordinated_alone_saves_steps(capsys):
    assert steps.verdict(rows()) == 0
    assert "0.92 of the extra time of simple" in capsys.readouterr().out
    assert steps.verdict(rows(saving=Strategy.SIMPLE)) == 1
    assert "coordinated: steps were not saved, and done again" in capsys.readouterr().out


def test_a_fault_that_did_not_strike_ends_the_benchmark():
    class Calm(Stub):
        def walk(self, case, probe, count, key):
            return Walked(1.0, False, 0, 0)

    with pytest.raises(SystemExit, match="the fault did not strike"):
        steps.measure(Calm(), PROBE, rounds=1, steps=10)  # type: ignore[arg-type]


def test_the_states_are_those_of_the_model():
    inputs, states = steps.sequence("key", 3)
    evaluator = ReferenceEvaluator(load_from_string(steps.model()))
    state: Any = np.zeros((1, 1024), np.float32)
    for x, wanted in zip(inputs, states, strict=True):
        (state,) = evaluator.run(["h"], {"x": x, "h0": state})
        np.testing.assert_allclose(state, wanted, atol=1e-5)
    again, _ = steps.sequence("key", 3)
    np.testing.assert_array_equal(inputs, again)
