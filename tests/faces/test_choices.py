"""What was chosen for kernels: kept by adapter, browser and form, taken from the database, and never an error."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_webaccel.engines.kernels import Resident, Target, program
from pytest_webaccel.engines.packing import quantise
from pytest_webaccel.faces.choices import Choices, browser_of
from pytest_webaccel.history.store import record
from pytest_webaccel.rows import TuningRow
from pytest_webaccel.terms import Evidence, Lane, ProbeResult

INPUTS = {"x": np.ones((2, 64), np.float32), "weights": quantise(np.ones((6, 64), np.float32), 4)}
PROBE = ProbeResult(
    Lane.parse("chromium:webgpu"), works=True, evidence=Evidence.SOFTWARE, version="1.2", adapter="some adapter"
)
PROGRAM = program("matmul_nbits", INPUTS)
WEBNN = ProbeResult(Lane.parse("chromium:webnn"), works=True, evidence=Evidence.SOFTWARE, version="1.2", adapter="cpu")
UNTUNED = PROGRAM.lowered(Target.of(PROBE))


def row(**changed: object) -> TuningRow:
    given = {
        "run_id": "r",
        "evidence": Evidence.SOFTWARE,
        "test_id": "t",
        "lane": "chromium:webgpu",
        "adapter": "some adapter",
        "browser": browser_of(PROBE),
        "kernel": "matmul_nbits",
        "signature": UNTUNED.signature,
        "constants": {"TILE_ROWS": 2},
        "state": "timed",
        "chosen": True,
    }
    return TuningRow(**{**given, **changed})  # type: ignore[arg-type]


def made(choices: Choices, probe: ProbeResult = PROBE) -> int:
    return choices.tuned(probe, PROGRAM).chosen["TILE_ROWS"]


def test_the_latest_choice_of_the_database_runs(tmp_path):
    path = tmp_path / "runs.duckdb"
    assert made(Choices(path)) == 4, "there is none yet"
    record(
        path,
        [row(at="2026-01-01T00:00:00+00:00"), row(constants={"TILE_ROWS": 1}, at="2026-01-02T00:00:00+00:00")],
        "r",
    )
    record(path, [row(constants={"TILE_ROWS": 8}, chosen=False)], "r")
    assert made(Choices(path)) == 1


def test_one_for_another_adapter_browser_or_source_does_not(tmp_path):
    path = tmp_path / "runs.duckdb"
    others = [
        row(adapter="another"),
        row(browser="chromium 9"),
        row(signature={**UNTUNED.signature, "source": "older"}),
        row(signature={**UNTUNED.signature, "x": [3, 64]}),
    ]
    record(path, others, "r")
    assert made(Choices(path)) == 4


def test_one_that_cannot_be_any_more_is_told_and_left(tmp_path, caplog):
    path = tmp_path / "runs.duckdb"
    record(path, [row(constants={"GONE": 2})], "r")
    assert made(Choices(path)) == 4
    assert "kernel matmul_nbits runs untuned, since what was chosen cannot be" in caplog.text


def test_one_that_needs_what_the_device_has_not_is_left():
    choices = Choices(None)
    choices.choose(PROBE, UNTUNED, {"QUADS": 1, "TILE_ROWS": 2})
    assert made(choices) == 4


def test_constants_that_were_asked_for_are_not_tuned():
    choices = Choices(None)
    choices.choose(PROBE, UNTUNED, {"TILE_ROWS": 2})
    assert choices.tuned(PROBE, program("matmul_nbits", INPUTS, {"TILE_ROWS": 1})).chosen["TILE_ROWS"] == 1


def test_what_was_tried_is_kept_until_a_choice_is_made():
    choices = Choices(None)
    assert choices.tried(PROBE, UNTUNED) is choices.tried(PROBE, UNTUNED)
    before = choices.tried(PROBE, UNTUNED)
    choices.choose(PROBE, UNTUNED, {"TILE_ROWS": 2})
    assert choices.tried(PROBE, UNTUNED) is not before
    assert made(choices) == 2


def test_a_database_that_is_none_is_told_and_left(tmp_path, caplog):
    path = tmp_path / "runs.duckdb"
    path.write_text("no database")
    assert made(Choices(path)) == 4
    assert "kernels run untuned" in caplog.text


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize(("chosen", "told"), [({"BAKED": 0, "CODES": 1}, False), ({"BAKED": 1, "CODES": 0}, True)])
def test_on_webnn_what_was_chosen_for_weights_that_stay_is_for_others_too_where_it_can_be(caplog, rows, chosen, told):
    inputs = {**INPUTS, "x": np.ones((rows, 64), np.float32)}
    staying = program("matmul_nbits", {**inputs, "weights": Resident(inputs["weights"])})
    choices = Choices(None)
    choices.choose(WEBNN, staying.lowered(Target.of(WEBNN)), chosen)
    assert choices.tuned(WEBNN, staying).chosen == chosen
    found = choices.tuned(WEBNN, program("matmul_nbits", inputs)).chosen
    assert found == ({"BAKED": 0, "CODES": 0} if told else chosen)
    assert ("BAKED=1 goes with weights that are Resident" in caplog.text) is told
