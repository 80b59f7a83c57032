"""What a crash amid a request of many steps costs: ``coordinated`` goes on where it was, the others start over.

The request is a sequence through a recurrent model. The browser is killed while one of the steps is
answered, drawn anew for each trial; ``undisturbed`` is the same request without a fault. Strategies take turns in an
order drawn for each round. Times are those of the whole request, milliseconds.
"""

from __future__ import annotations

import functools
import random
import statistics
import sys
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from pytest_webaccel.pool.steps import Script, run_steps
from pytest_webaccel.pool.worker import Worker
from pytest_webaccel.rows import RecoveryRow, TransactionRow
from pytest_webaccel.terms import Fault, FaultPlan, Strategy
from tests.bench.common import arguments, chromium_table, finish, row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pytest_webaccel.rows import Row
    from pytest_webaccel.terms import ProbeResult

_STEP_S = 30.0
_WIDTH = 1024
#: Between NumPy and a browser lie sums in another order and another tanh(), over a whole sequence.
_TOLERANCE = 1e-3
_CARRY = {"h": "h0"}
#: A step that was begun, as the journal tells it.
_BEGUN = ("step", "started")


class Case(NamedTuple):
    """Who mends: a strategy (None: nothing is broken), with how many warm spares."""

    strategy: Strategy | None
    spares: int = 0

    @property
    def name(self) -> str:
        """Its name in the table."""
        return f"{self.strategy or 'undisturbed'}{', spare' if self.spares else ''}"


CASES = (
    Case(None),
    *map(Case, (Strategy.SIMPLE, Strategy.PROGRESSIVE, Strategy.PARALLEL, Strategy.COORDINATED)),
    Case(Strategy.COORDINATED, 1),
)


class Walked(NamedTuple):
    """What one request came to."""

    ms: float
    struck: bool
    saved: int
    again: int


@functools.cache
def _weights() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    chance = np.random.default_rng(2026)
    scale = 0.9 / np.sqrt(_WIDTH)
    into, across = (chance.standard_normal((_WIDTH, _WIDTH)) * scale for _ in range(2))
    return into.astype(np.float32), across.astype(np.float32)


@functools.cache
def model() -> bytes:
    """Return a recurrent layer: ``x`` [1, 1024] and the state ``h0`` to the next state ``h``, tanh(x W + h0 U)."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["a"]),
            helper.make_node("MatMul", ["h0", "u"], ["b"]),
            helper.make_node("Add", ["a", "b"], ["c"]),
            helper.make_node("Tanh", ["c"], ["h"]),
        ],
        "recurrent",
        [value(name, TensorProto.FLOAT, [1, _WIDTH]) for name in ("x", "h0")],
        [value("h", TensorProto.FLOAT, [1, _WIDTH])],
        [numpy_helper.from_array(array, name) for array, name in zip(_weights(), ("w", "u"), strict=True)],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = made.SerializeToString()
    return data


def sequence(key: str, steps: int) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
    """Return the inputs of the trial called ``key``, and the states that they lead to, as NumPy computes them."""
    into, across = _weights()
    chance = np.random.default_rng(random.Random(f"steps\0{key}").getrandbits(64))
    inputs = [chance.standard_normal((1, _WIDTH)).astype(np.float32) for _ in range(steps)]
    states, state = [], np.zeros((1, _WIDTH), np.float32)
    for each in inputs:
        state = np.tanh(each @ into + state @ across)
        states.append(state)
    return inputs, states


class Workers:
    """A worker for each number of warm spares, and the rows that it writes."""

    def __init__(self, table: Sequence[ProbeResult]) -> None:
        self._rows: list[Row] = []
        self._workers = {
            spares: Worker(
                table,
                run_id="bench",
                worker="bench",
                strategy=Strategy.COORDINATED,
                record=self._rows.append,
                spares=spares,
            )
            for spares in sorted({case.spares for case in CASES})
        }

    def walk(self, case: Case, probe: ProbeResult, steps: int, key: str) -> Walked:
        """Send one request of many steps through a lane, and check every answer; its lane is whole again by then."""
        worker = self._workers[case.spares]
        self._rows.clear()
        inputs, states = sequence(key, steps)
        zero = {"h0": np.zeros((1, _WIDTH), np.float32)}
        with worker.lease(probe.lane, key, case.strategy) as lease:
            loaded = worker.call(lease.load(model(), None, deadline=_STEP_S), deadline=_STEP_S)
            if case.strategy is not None:
                lease.plans.waiting.append(FaultPlan(Fault.BROWSER_CRASH, recovery=case.strategy))
            script = Script([{"x": each} for each in inputs], _CARRY, zero)
            begun = time.perf_counter()
            asked = run_steps(lease, loaded, script, deadline=_STEP_S)
            results = worker.call(asked, deadline=(steps + 3) * _STEP_S)
            took = (time.perf_counter() - begun) * 1000
        worst = max(float(np.max(np.abs(one["h"] - state))) for one, state in zip(results, states, strict=True))
        if worst > _TOLERANCE:
            raise SystemExit(f"{case.name}: a wrong answer, off by {worst:g}")
        begun_steps = sum(isinstance(one, TransactionRow) and (one.kind, one.state) == _BEGUN for one in self._rows)
        recoveries = [one for one in self._rows if isinstance(one, RecoveryRow)]
        if any(one.outcome != "recovered" or one.duplicated or one.lost for one in recoveries):
            raise SystemExit(f"{case.name}: {recoveries[0].outcome}: {recoveries[0].detail}")
        saved = recoveries[0].steps_saved if recoveries else 0
        return Walked(took, bool(recoveries), saved, begun_steps - steps)

    def stop(self) -> None:
        """End them, and their browsers."""
        for worker in self._workers.values():
            worker.stop()


def measure(workers: Workers, probe: ProbeResult, *, rounds: int, steps: int) -> list[dict[str, Any]]:
    """Return a row for each case."""
    found: dict[Case, list[Walked]] = defaultdict(list)
    for index in range(rounds + 1):
        for case in random.Random(f"steps order\0{index}").sample(CASES, len(CASES)):
            one = workers.walk(case, probe, steps, f"steps {case.name} {index}")
            if one.struck == (case.strategy is None):
                raise SystemExit(f"{case.name}: the fault {'struck' if one.struck else 'did not strike'}")
            if index:  # the first round starts the lanes
                found[case].append(one)
    base = statistics.median(one.ms for one in found[CASES[0]])
    return [_row(case, found[case], steps, base, str(probe.evidence)) for case in CASES]


def _row(case: Case, walked: Sequence[Walked], steps: int, base: float, evidence: str) -> dict[str, Any]:
    times = [one.ms for one in walked]
    return row(
        case.name,
        times,
        evidence=evidence,
        steps=steps,
        recovered=sum(one.struck for one in walked),
        saved_steps=statistics.mean(one.saved for one in walked),
        steps_again=statistics.mean(one.again for one in walked),
        more_than_undisturbed_ms=statistics.median(times) - base,
    )


def main(given: Sequence[str] | None = None) -> int:
    options = arguments("steps", given)
    rounds, steps = (4, 100) if options.quick else (40, 200)
    table = chromium_table()
    probe = next((entry for entry in table if entry.lane.backend == "cpu"), table[0])
    workers = Workers(table)
    try:
        rows = measure(workers, probe, rounds=rounds, steps=steps)
    finally:
        workers.stop()
    finish("steps", rows, table, options.out)
    return verdict(rows)


def verdict(rows: Sequence[dict[str, Any]]) -> int:
    """Say how the strategies compare; return 0 where ``coordinated`` alone saved steps, and saved them every time."""
    found = {entry["case"]: entry for entry in rows}
    for case in CASES[1:4]:
        ratio = found["coordinated"]["more_than_undisturbed_ms"] / found[case.name]["more_than_undisturbed_ms"]
        print(f"coordinated without a spare takes {ratio:.2f} of the extra time of {case.name}")
    well = True
    for case in CASES[1:]:
        saves, again = found[case.name]["saved_steps"] > 0, found[case.name]["steps_again"] > 0
        if (saves, again) != ((True, False) if case.strategy is Strategy.COORDINATED else (False, True)):
            print(f"{case.name}: steps were {'' if saves else 'not '}saved, and {'' if again else 'none '}done again")
            well = False
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
