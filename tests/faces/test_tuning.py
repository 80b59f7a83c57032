"""How a tuner decides, with candidates whose times and answers are made up."""

from __future__ import annotations

import dataclasses
import types
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pytest_webaccel.engines.kernels import Target, program
from pytest_webaccel.engines.kernels.rows import silu
from pytest_webaccel.engines.kernels.tuning import Timing, TimingState, Tuning
from pytest_webaccel.errors import ConfigurationError, FeedError, ModelError, RecoveryError
from pytest_webaccel.faces import tuning
from pytest_webaccel.faces.choices import Choices
from pytest_webaccel.terms import Evidence, Lane, ProbeResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_webaccel.rows import TuningRow

INPUTS = {"x": np.ones((2, 64), np.float32)}
LANE = Lane.parse("chromium:webgpu")
PROBE = ProbeResult(LANE, works=True, evidence=Evidence.SOFTWARE, version="1.2", adapter="some adapter")
DEFAULT = 64  # the workgroup that runs untuned


class Scripted:
    """A lane on which ``takes`` says how many milliseconds a workgroup takes in try ``n``, or what comes instead."""

    def __init__(self, takes: Callable[[int, int], float | Timing | Exception]) -> None:
        self.takes = takes
        self.tries: list[int] = []

    def fits(self, constants: dict[str, int]) -> bool:
        del constants
        return True

    def timed(self, constants: dict[str, int], repeats: int) -> Timing:
        workgroup = constants["WORKGROUP"]
        self.tries.append(workgroup)
        took = self.takes(workgroup, self.tries.count(workgroup))
        if isinstance(took, Exception):
            raise took
        return took if isinstance(took, Timing) else Timing(constants, TimingState.TIMED, [took] * repeats, 9.0, 1e-9)


class Bench:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[TuningRow] = []
        self.choices = Choices(None)
        self._monkeypatch = monkeypatch

    def tune(self, lane: Scripted, **options: Any) -> Tuning:
        self._monkeypatch.setattr(tuning, "_Trial", lambda *_: lane)
        pool = types.SimpleNamespace(evidence=lambda _: Evidence.SOFTWARE)
        worker: Any = types.SimpleNamespace(run_id="r", record=self.rows.append, pool=pool)
        lease: Any = types.SimpleNamespace(lane=types.SimpleNamespace(probe=PROBE, name=LANE))
        if (probe := options.pop("probe", None)) is not None:
            lease.lane.probe = probe
        tuner = tuning.Tuner(worker, lease, "t", self.choices, lambda line: None)
        given: dict[str, Any] = {"whole": False, "repeats": 3, "seconds": 60.0, "timeout": 1.0, **options}
        inputs = given.pop("inputs", INPUTS)
        return tuner.tune("gelu", inputs, **given)

    @property
    def chosen(self) -> int | None:
        found = self.choices.of(PROBE, program("gelu", INPUTS).lowered(Target.of(PROBE)))
        return found["WORKGROUP"] if found else None


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_the_fastest_is_chosen_and_every_candidate_recorded(bench):
    tuned = bench.tune(Scripted(lambda workgroup, n: 100.0 / workgroup))
    assert (bench.chosen, tuned.best.constants["WORKGROUP"], tuned.gain) == (256, 256, 4.0)
    assert {row.constants["WORKGROUP"]: (row.chosen, row.untuned) for row in bench.rows} == {
        32: (False, False),
        DEFAULT: (False, True),
        128: (False, False),
        256: (True, False),
    }


def test_what_is_hardly_faster_is_not_chosen(bench):
    tuned = bench.tune(Scripted(lambda workgroup, n: 1.0 if workgroup == DEFAULT else 0.98))
    assert bench.chosen == DEFAULT
    assert tuned.best is tuned.untuned


def test_one_that_is_fast_and_sometimes_wrong_is_not_chosen(bench):
    wrong = Timing({"WORKGROUP": 256}, TimingState.WRONG, (), 1.0, 0.5, "answers with an NMSE of 5.0e-01")
    bench.tune(Scripted(lambda workgroup, n: (wrong if n == 3 else 0.1) if workgroup == 256 else 100.0 / workgroup))
    assert bench.chosen == 128
    assert [row.state for row in bench.rows if row.constants["WORKGROUP"] == 256] == ["wrong"]


@pytest.mark.parametrize("when", [1, 3])
def test_where_the_untuned_one_is_wrong_nothing_is_chosen(bench, when):
    wrong = Timing({"WORKGROUP": DEFAULT}, TimingState.WRONG, (), 1.0, float("nan"), "answers with an NMSE of nan")
    lane = Scripted(lambda workgroup, n: wrong if (workgroup, n) == (DEFAULT, when) else 1.0)
    with pytest.raises(ModelError, match=r"gelu on chromium:webgpu cannot be tuned: untuned it answers with"):
        bench.tune(lane)
    assert bench.chosen is None
    assert all(np.isfinite(row.nmse) for row in bench.rows)


def test_a_search_that_was_cut_off_goes_on_and_does_not_meet_again_what_broke_the_lane(bench):
    breaks = Scripted(lambda workgroup, n: RecoveryError("gave up") if workgroup == 128 else 1.0)
    with pytest.raises(RecoveryError):
        bench.tune(breaks)
    assert breaks.tries == [DEFAULT, 32, 128]
    assert [(row.constants["WORKGROUP"], row.state, row.chosen) for row in bench.rows] == [
        (DEFAULT, "timed", False),
        (32, "timed", False),
        (128, "failed", False),
    ]
    again = Scripted(lambda workgroup, n: 1.0 / workgroup)
    bench.tune(again)
    assert 128 not in again.tries
    assert bench.chosen == 256


def test_a_search_that_came_to_its_end_begins_anew(bench):
    bench.tune(Scripted(lambda workgroup, n: 1.0))
    again = Scripted(lambda workgroup, n: 1.0 / workgroup)
    bench.tune(again)
    assert set(again.tries) == {32, 64, 128, 256}
    assert bench.chosen == 256


def test_the_time_bounds_the_search(bench):
    lane = Scripted(lambda workgroup, n: 1.0)
    bench.tune(lane, seconds=0.0)
    assert set(lane.tries) == {DEFAULT}


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"repeats": 0}, ConfigurationError, r"repeats=0: a candidate is timed at least once"),
        ({"inputs": {"x": silu(INPUTS["x"])["y"]}}, FeedError, r"x is to be computed by another kernel"),
        ({"inputs": {}}, ConfigurationError, r"missing a required argument: 'x'"),
    ],
)
def test_what_cannot_be_tuned_is_refused(bench, options, kind, words):
    with pytest.raises(kind, match=words):
        bench.tune(Scripted(lambda workgroup, n: 1.0), **options)


def test_a_lane_where_nothing_can_be_tuned_says_so(bench):
    cpu = dataclasses.replace(PROBE, lane=Lane.parse("chromium:cpu"))
    with pytest.raises(ConfigurationError, match="kernel gelu has nothing to tune on chromium:cpu"):
        bench.tune(Scripted(lambda workgroup, n: 1.0), probe=cpu)
    assert not bench.rows
