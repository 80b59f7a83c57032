"""Rows for the tests of reports: a small run with every kind of row, and the same with hostile text."""

from __future__ import annotations

import itertools
import random
from typing import Any

from pytest_webaccel.rows import (
    ConformanceRow,
    LaneRow,
    MeasurementRow,
    ParityRow,
    PlacementRow,
    RecoveryRow,
    Row,
    RunRow,
    TestRow,
)
from pytest_webaccel.terms import Evidence, Mode

#: Breaks out of an attribute, a comment, a tag and a style, and carries what UTF-8 cannot.
HOSTILE = (
    "\"'--></style></svg></title><script>window.pwned=1</script><img src=x onerror=window.pwned=1>$x_1$\x00\ud800é"
)


BASE: dict[str, Any] = {"run_id": "r", "evidence": Evidence.SOFTWARE}
TEST: dict[str, Any] = {"test_id": "t[chromium:webgpu]", "lane": "chromium:webgpu", "model": "silero"}


def a_recovery(**changes) -> RecoveryRow:
    values: dict[str, Any] = {
        "run_id": "r",
        "evidence": Evidence.SOFTWARE,
        "test_id": "t[chromium:webgpu]",
        "lane": "chromium:webgpu",
        "fault": "browser_crash",
        "strategy": "simple",
        "outcome": "recovered",
        "total_ms": 100.0,
        "detect_ms": 10.0,
        "reassign_ms": 5.0,
        "load_ms": 50.0,
        "restore_ms": 5.0,
        "replay_ms": 20.0,
        "attempts": 1,
        "duplicated": 0,
        "lost": 0,
    }
    return RecoveryRow(**{**values, **changes})


def a_test(**changes) -> TestRow:
    values: dict[str, Any] = {
        "run_id": "r",
        "evidence": Evidence.SOFTWARE,
        "test_id": "t[chromium:webgpu]",
        "lane": "chromium:webgpu",
        "worker": "gw0",
        "outcome": "passed",
        "duration_ms": 12.0,
    }
    return TestRow(**{**values, **changes})


def a_lane(**changes) -> LaneRow:
    values: dict[str, Any] = {
        "run_id": "r",
        "evidence": Evidence.SOFTWARE,
        "lane": "chromium:webgpu",
        "browser": "chromium",
        "browser_version": "153.0",
        "backend": "webgpu",
        "adapter": "SwiftShader",
        "features": ["subgroups"],
        "worker": "gw0",
        "host": "h",
    }
    return LaneRow(**{**values, **changes})


def a_result(*, extra: str = "", **changes) -> ConformanceRow:
    values: dict[str, Any] = {
        "run_id": "r",
        "evidence": Evidence.SOFTWARE,
        "test_id": "test_node[test_abs-chromium:webgpu]" + extra,
        "lane": "chromium:webgpu",
        "case": "test_abs",
        "operator": "Abs" + extra,
        "opset": 13,
        "kind": "wrong_answer",
        "expected": "agrees",
        "detail": "no" + extra,
        "build": "jsep" + extra,
        "version": "1.30.0",
        "ms": 12.5,
    }
    return ConformanceRow(**{**values, **changes})


def a_measurement(**changes) -> MeasurementRow:
    values: dict[str, Any] = {
        "family": "audio",
        "engine": "onnx",
        "bits": 16,
        "metric": "run",
        "value": 5.5,
        "unit": "ms",
    }
    return MeasurementRow(**{**BASE, **TEST, **values, **changes})


def a_parity(**changes) -> ParityRow:
    values: dict[str, Any] = {
        "output": "prob",
        "reference": "onnxruntime",
        "agrees": False,
        "max_abs": 0.1,
        "max_ulp": 1e6,
        "tolerance": 1e-4,
        "blamed_operator": "LSTM",
        "placement": {"wasm": 3},
    }
    return ParityRow(**{**BASE, **TEST, **values, **changes})


def a_placement(**changes) -> PlacementRow:
    values: dict[str, Any] = {
        "build": "jsep",
        "version": "1.30.0",
        "provider": "JsExecutionProvider",
        "nodes": 7,
        "operators": {"Conv": 5, "Add": 2},
    }
    return PlacementRow(**{**BASE, **TEST, **values, **changes})


def recoveries(tries: int, **changes) -> list[Row]:
    """Return ``tries`` of each of two faults under each of two strategies, some of them failed."""
    chance, extra = random.Random(1), changes.pop("extra")
    found: list[Row] = []
    for _, fault, strategy in itertools.product(
        range(tries), ("browser_crash", "device_lost"), ("simple", "coordinated")
    ):
        total = chance.lognormvariate(5, 1)
        outcome = "failed" if chance.random() < 0.2 else "recovered"
        times = {"total_ms": total, "detect_ms": total * 0.2, "load_ms": total * 0.4}
        words = {"fault": fault + extra, "strategy": strategy + extra, "detail": "socket closed" + extra}
        found.append(a_recovery(**changes, **times, **words, outcome=outcome))
    return found


def a_run(extra: str, **changes) -> RunRow:
    return RunRow(
        **changes,
        started_at="2026-01-02T03:04:05.000006+00:00",
        finished_at="2026-01-02T03:05:05.000006+00:00",
        mode=Mode.COMPARATIVE,
        seed=4711,
        versions={
            "plugin": "0.1.0" + extra,
            "browsers" + extra: {"chromium" + extra: "153.0" + extra},
            "missing_lanes": {"firefox:webgpu" + extra: "no Firefox found" + extra},
        },
        host="host" + extra,
        exit_status=1,
    )


def a_whole_run(evidence: Evidence = Evidence.SOFTWARE, extra: str = "", tries: int = 4) -> list[Row]:
    """Return rows of every table; ``extra`` is appended to each text."""
    base: dict[str, Any] = {"run_id": "r" + extra, "evidence": evidence}
    lane, worker = "chromium:webgpu" + extra, "gw0" + extra
    test: dict[str, Any] = {"test_id": "t[chromium:webgpu]" + extra, "lane": lane, "model": "silero" + extra}
    named = {name: value + extra for name, value in {"browser": "chromium", "browser_version": "153.0"}.items()}
    measured = {"family": "audio" + extra, "engine": "onnx" + extra, "metric": "run" + extra, "unit": "ms" + extra}
    blamed = {"output": "prob" + extra, "reference": "onnxruntime" + extra, "blamed_operator": "LSTM" + extra}
    placed = {"build": "jsep" + extra, "version": "1.30.0" + extra, "operators": {"Conv" + extra: 2}}
    on_cpu = {"provider": "CPUExecutionProvider", "nodes": 3, "names": ["Conv (first)" + extra]}
    return [
        a_run(extra, **base),
        a_lane(
            **base, **named, lane=lane, adapter="SwiftShader" + extra, features=["subgroups" + extra], worker=worker
        ),
        a_test(**base, **test, worker=worker),
        a_test(**base, test_id="crashes" + extra, lane=lane, outcome="crashed", reason="worker died" + extra),
        a_test(**base, test_id="skips" + extra, lane="", outcome="skipped", reason="no lane for it" + extra),
        a_test(**base, test_id="odd" + extra, lane=lane, outcome="weird" + extra),
        a_measurement(**base, **test, **measured),
        a_parity(**base, **test, **blamed, placement={"wasm" + extra: 3}),
        a_placement(**base, **test, **placed, **on_cpu),
        *(a_result(**base, lane=lane, case=f"test_{n}{extra}", extra=extra, version=v) for n in (1, 2) for v in "12"),
        *recoveries(tries, **base, **test, extra=extra),
    ]
