"""The ledger: what a killed worker committed is there for the next one, and nothing else is."""

from __future__ import annotations

import pathlib
import tempfile
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_webaccel.recovery.ledger import (
    Death,
    Ledger,
    LedgerError,
    digest,
    ledger_path,
    read_ledger,
)
from pytest_webaccel.terms import Backend, Browser, Evidence, Fault, FaultPoint, Lane, Outcome, Strategy

LANE = Lane(Browser.FAKE, Backend.CPU)
OTHER = Lane(Browser.FAKE, Backend.WEBGPU)
FEEDS = {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}
SAME = digest("model", ["wasm"], FEEDS, None)


def death(**changes):
    values = {
        "fault": Fault.WORKER_CRASH,
        "strategy": Strategy.COORDINATED,
        "point": FaultPoint.MID_REQUEST,
        "lane": LANE,
        "evidence": Evidence.FAKE,
        "request": 1,
        "at": 12.5,
        "taken": {"run": 1},
    }
    return Death(**{**values, **changes})


def committed(ledger, number, lane=LANE):
    turn = ledger.turn(lane, SAME)
    assert turn.number == number
    turn.start()
    turn.commit({"y": np.full((2,), number, np.int64)})


@pytest.fixture
def path(tmp_path):
    return ledger_path(tmp_path, "test_a")


def again(path, test_id="test_a", **options):
    return Ledger(path, test_id, **options)


def test_what_was_committed_is_answered_in_the_next_life_and_what_was_not_is_not(path):
    ledger = again(path)
    committed(ledger, 0)
    ledger.turn(LANE, SAME).start()
    ledger.close()

    later = again(path)
    assert later.turn(LANE, SAME).answer == {"y": pytest.approx(np.array([0, 0]))}
    assert later.turn(LANE, SAME).answer is None
    assert later.turn(LANE, SAME).answer is None


def test_a_first_life_finds_nothing(path):
    turn = again(path).turn(LANE, SAME)
    assert turn.answer is None
    assert turn.reference is None
    assert turn.resumable == (0, {})


def test_lanes_count_their_own_requests(path):
    ledger = again(path)
    committed(ledger, 0, LANE)
    committed(ledger, 0, OTHER)
    committed(ledger, 1, LANE)
    assert (ledger.count(LANE), ledger.count(OTHER)) == (2, 1)
    ledger.close()
    later = again(path)
    assert later.turn(OTHER, SAME).answer["y"].tolist() == [0, 0]


def test_a_test_that_asks_something_else_is_answered_nothing_more_on_that_lane(path):
    ledger = again(path)
    for number in range(3):
        committed(ledger, number)
    committed(ledger, 0, OTHER)
    ledger.close()

    later = again(path)
    assert later.turn(LANE, SAME).answer is not None
    assert later.turn(LANE, "something else").answer is None
    assert later.turn(LANE, SAME).answer is None
    assert later.diverged == {LANE}
    assert later.turn(OTHER, SAME).answer is not None


def test_the_control_starts_over_and_keeps_its_reference(path):
    ledger = again(path)
    committed(ledger, 0)
    turn = ledger.turn(LANE, SAME)
    turn.refer({"y": np.ones(1)})
    turn.checkpoint(2, {"0:y": np.ones(1), "1:y": np.ones(1)})
    ledger.die(death(strategy=Strategy.WORKER_RESTART))
    ledger.close()

    later = again(path)
    assert later.turn(LANE, SAME).answer is None
    struck = later.turn(LANE, SAME)
    assert struck.resumable == (0, {})
    assert struck.reference["y"].tolist() == [1.0]


def test_checkpoints_add_up(path):
    ledger = again(path)
    turn = ledger.turn(LANE, SAME)
    turn.checkpoint(2, {"0:y": np.zeros(1), "1:y": np.ones(1)})
    turn.checkpoint(3, {"2:y": np.full(1, 2.0)})
    ledger.close()
    done, kept = again(path).turn(LANE, SAME).resumable
    assert done == 3
    assert {name: float(array[0]) for name, array in kept.items()} == {"0:y": 0.0, "1:y": 1.0, "2:y": 2.0}


def test_a_death_and_the_moment_it_was_noticed_are_read_back(path):
    ledger = again(path)
    ledger.die(death(model="m", detect_ms=2.0, step=4, symptom="device_lost"))
    ledger.noticed(99.5)
    ledger.close()
    past = read_ledger(path)
    assert past.deaths == [death(model="m", detect_ms=2.0, step=4, symptom="device_lost")]
    assert past.noticed == [99.5]
    row = past.deaths[0].row("run", "test_a", Outcome.UNKNOWN, "why")
    assert (row.fault, row.strategy, row.outcome, row.detail) == ("worker_crash", "coordinated", "unknown", "why")


@pytest.mark.parametrize(
    "array",
    [
        np.array(3.5),
        np.zeros((0, 4), np.float32),
        np.array([True, False]),
        np.arange(4, dtype=np.uint64)[::2],
        np.array([[1.5, np.nan]], np.float16),
        np.array(["a", "ü\n"], dtype=object),
    ],
    ids=["scalar", "empty", "bool", "strided", "half", "text"],
)
def test_answers_come_back_as_they_were(path, array):
    ledger = again(path)
    ledger.turn(LANE, SAME).commit({"y": array})
    ledger.close()
    kept = again(path).turn(LANE, SAME).answer["y"]
    assert (kept.dtype, kept.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(kept, array)


def test_answers_beyond_the_bound_are_committed_without_and_asked_again(path):
    ledger = again(path, keep_bytes=100)
    for _ in range(3):
        ledger.turn(LANE, SAME).commit({"y": np.zeros(10, np.float32)})
    ledger.close()
    later = again(path, keep_bytes=100)
    assert [later.turn(LANE, SAME).answer is not None for _ in range(3)] == [True, True, False]
    assert later.past.requests[str(LANE), 2].committed


def test_a_ledger_of_another_test_is_not_believed(path):
    ledger = again(path, "test_b")
    committed(ledger, 0)
    ledger.close()
    assert again(path, "test_a").turn(LANE, SAME).answer is None


def test_a_test_that_ended_leaves_nothing(path):
    ledger = again(path)
    committed(ledger, 0)
    ledger.end()
    assert not path.exists()


def test_a_ledger_that_cannot_be_opened_says_where(tmp_path):
    (tmp_path / "ledgers").write_text("in the way")
    with pytest.raises(LedgerError, match="ledgers"):
        again(ledger_path(tmp_path, "test_a"))


def test_digests_tell_requests_apart():
    others = [
        digest("model2", ["wasm"], FEEDS, None),
        digest("model", ["jsep"], FEEDS, None),
        digest("model", ["wasm"], FEEDS, ["y"]),
        digest("model", ["wasm"], {"x": FEEDS["x"] + 1}, None),
        digest("model", ["wasm"], {"x": FEEDS["x"].reshape(3, 2)}, None),
        digest("model", ["wasm"], {"x": FEEDS["x"].astype(np.float64)}, None),
        digest("model", ["wasm"], {"z": FEEDS["x"]}, None),
        digest("model", ["wasm"], {"x": np.array(["a"], dtype=object)}, None),
        digest("model", ["wasm"], {"x": np.array(["b"], dtype=object)}, None),
    ]
    assert len({SAME, *others}) == len(others) + 1
    assert digest("model", ["wasm"], {"x": FEEDS["x"].copy()}, None) == SAME


def write_sample(path, requests):
    """Write a ledger and return the size of the file after each record, with how many answers it then holds."""
    marks = []
    ledger = Ledger(path, "test_a")
    marks.append((path.stat().st_size, 0))
    for number in range(requests):
        turn = ledger.turn(LANE, SAME)
        turn.start()
        marks.append((path.stat().st_size, number))
        turn.commit({"y": np.full(3, number, np.float32)})
        marks.append((path.stat().st_size, number + 1))
    ledger.close()
    return marks


@pytest.fixture(scope="module")
def sample():
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "sample"
        marks = write_sample(path, 5)
        yield path.read_bytes(), marks


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_a_ledger_cut_anywhere_replays_exactly_the_committed_prefix_and_goes_on(sample, data):
    whole, marks = sample
    cut = data.draw(st.integers(0, len(whole)))
    kept = max((answers for size, answers in marks if size <= cut), default=0)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "cut"
        path.write_bytes(whole[:cut])
        later = Ledger(path, "test_a")
        answers = [later.turn(LANE, SAME) for _ in range(5)]
        found = [turn.answer for turn in answers]
        assert [answer is not None for answer in found] == [True] * kept + [False] * (5 - kept)
        assert all(answer["y"].tolist() == [number] * 3 for number, answer in enumerate(found[:kept]) if answer)
        # what the second life does is there for the third, whatever the first left torn
        for turn in answers[kept:]:
            turn.commit({"y": np.full(3, turn.number, np.float32)})
        later.close()
        third = Ledger(path, "test_a")
        kept_now = [third.turn(LANE, SAME).answer or {} for _ in range(5)]
        assert [answer["y"].tolist() for answer in kept_now] == [[number] * 3 for number in range(5)]
        third.close()


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_a_damaged_ledger_never_answers_wrong(sample, data):
    whole, _ = sample
    at = data.draw(st.integers(0, len(whole) - 1))
    bit = data.draw(st.integers(0, 7))
    damaged = bytearray(whole)
    damaged[at] ^= 1 << bit
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "damaged"
        path.write_bytes(damaged)
        past = read_ledger(path)
    for (_, number), entry in past.requests.items():
        assert entry.answer is None or entry.answer.tensors["y"].tolist() == [number] * 3


@given(junk=st.binary(max_size=200))
@settings(deadline=None, max_examples=50)
def test_junk_is_an_empty_ledger(junk):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "junk"
        path.write_bytes(junk)
        assert read_ledger(path).requests == {}


def test_keeping_a_small_answer_costs_a_fraction_of_a_millisecond(path):
    ledger = again(path)
    spent = []
    for _ in range(200):
        begun = time.perf_counter()
        turn = ledger.turn(LANE, digest("m", ["wasm"], FEEDS, None))
        turn.start()
        turn.commit(FEEDS)
        spent.append(time.perf_counter() - begun)
    ledger.close()
    assert sorted(spent)[len(spent) // 2] < 0.0003
