"""The design of the recovery matrix: which cells, how often, in what order."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_webaccel.faults import INJECTORS
from pytest_webaccel.terms import Backend, Browser, Evidence, Fault, Lane, ProbeResult, Strategy
from tests.bench.matrix.design import MAIN, TWO_FAULTS, Arm, Cell, Counts, Trial, blocks, cells, chosen, counts

CPU, WEBGPU, WEBNN = (Lane(Browser.CHROMIUM, backend) for backend in (Backend.CPU, Backend.WEBGPU, Backend.WEBNN))
TABLE = [ProbeResult(lane, works=True, evidence=Evidence.SOFTWARE) for lane in (CPU, WEBGPU, WEBNN)]

some_cells = st.lists(
    st.builds(
        Cell, st.sampled_from(Arm.ALL), st.sampled_from([*map(str, Fault)]), st.just(str(CPU)), st.just("mid_request")
    ),
    max_size=8,
    unique=True,
)


@given(some_cells, st.data(), st.integers(0, 5))
def test_every_trial_of_every_cell_comes_exactly_once(found: list[Cell], data: st.DataObject, seed: int):
    numbers = {cell: data.draw(st.integers(1, 12)) for cell in found}
    drawn = [trial for block in blocks(numbers, seed) for trial in block]
    assert Counter(drawn) == {Trial(cell, number): 1 for cell, n in numbers.items() for number in range(n)}


@given(some_cells, st.data())
def test_a_cell_is_spread_evenly_over_the_blocks(found: list[Cell], data: st.DataObject):
    numbers = {cell: data.draw(st.integers(1, 12)) for cell in found}
    drawn = blocks(numbers, 0)
    for cell, n in numbers.items():
        for upto in range(len(drawn) + 1):
            before = sum(trial.cell == cell for block in drawn[:upto] for trial in block)
            assert abs(before - n * upto / len(drawn)) < 1


def test_the_seed_decides_the_order_within_blocks():
    numbers = counts(cells(TABLE, ["home"])[0], Counts(n=2, main=2))
    assert blocks(numbers, 1) == blocks(numbers, 1)
    assert blocks(numbers, 1) != blocks(numbers, 2)


def test_every_fault_has_cells_of_every_strategy_or_a_reason():
    found, excluded = cells(TABLE, ["home"])
    for fault in (*map(str, Fault), TWO_FAULTS):
        there = {cell.strategy for cell in found if cell.fault == fault}
        told = {one.strategy for one in excluded if one.fault == fault}
        assert "any" in told or there >= set(Arm.OURS), fault
        assert "any" in told or {Arm.RERUN, Arm.WORKER_RESTART} <= there | told | ({Arm.WORKER_RESTART} & {fault}), (
            fault
        )
    assert all(one.reason for one in excluded)


def test_cells_are_on_the_cheapest_lane_that_can_suffer_the_fault():
    lanes = {cell.fault: cell.lane for cell in cells(TABLE, ["home"])[0] if cell.strategy in Arm.OURS}
    assert lanes[Fault.BROWSER_CRASH] == str(CPU)
    assert lanes[Fault.DEVICE_LOST] == str(WEBGPU)


def test_a_lane_that_does_not_work_is_told_with_its_reason():
    broken = [ProbeResult(CPU, works=False, evidence=Evidence.SOFTWARE, reason="no browser")]
    found, excluded = cells(broken, [str(CPU)])
    assert not found
    assert all("no browser" in one.reason for one in excluded)


def test_points_are_ones_at_which_the_fault_can_meet_a_request():
    for cell in cells(TABLE, ["home"])[0]:
        if cell.fault in {*map(str, INJECTORS)}:
            assert INJECTORS[Fault(cell.fault)].misfit(cell.point) is None  # type: ignore[arg-type] # a StrEnum's text


def test_main_claims_get_their_own_count():
    found, _ = cells(TABLE, ["home"])
    numbers = counts(found, Counts(n=100, main=381, peers=50, sessions=7))
    main = {cell for cell, n in numbers.items() if n == 381}
    assert {cell.fault for cell in main} == MAIN
    assert {(cell.strategy, cell.spare) for cell in main} == {(Strategy.COORDINATED, True)}
    assert {n for cell, n in numbers.items() if cell.strategy in Arm.SESSIONS} == {7}
    assert {n for cell, n in numbers.items() if cell.strategy == Arm.RERUN} == {50}


def test_only_filters_by_strategy_and_by_fault():
    found, _ = cells(TABLE, ["home"])
    kept = chosen(found, ["simple", "none", "page_crash"])
    assert {(cell.strategy, cell.fault) for cell in kept} == {("simple", "page_crash"), ("none", "page_crash")}
    assert {cell.strategy for cell in chosen(found, ["simple"])} == {"simple"}
    assert chosen(found, []) == found


def test_an_unknown_word_of_only_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no such strategy or fault.*browser_crash"):
        chosen(cells(TABLE, ["home"])[0], ["brwser_crash"])


def test_what_strikes_twice_takes_turns():
    cpu, webgpu = (Cell("simple", TWO_FAULTS, str(lane), "during_recovery") for lane in (CPU, WEBGPU))
    assert {Trial(cpu, number).twice for number in range(6)} == {
        Fault.CONNECTION_LOST,
        Fault.PAGE_CRASH,
        Fault.BROWSER_CRASH,
    }
    assert Fault.DEVICE_LOST in {Trial(webgpu, number).twice for number in range(4)}
