"""Relations that hold between a lane's own answers, checked for a test that has leased it."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from pytest_webaccel.engines.models import check_feeds
from pytest_webaccel.errors import ConfigurationError
from pytest_webaccel.faces.faults import Faults
from pytest_webaccel.faces.records import Standing
from pytest_webaccel.parity.compare import compare_all, message
from pytest_webaccel.parity.metamorphic import axes_of, batch_size, item, joined, permuted
from pytest_webaccel.parity.tolerance import EXACT, Tolerance

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from pytest_webaccel.engines.onnx import LoadedModel
    from pytest_webaccel.faces.records import Records
    from pytest_webaccel.pool.lease import Lease
    from pytest_webaccel.pool.worker import Worker

__all__ = ["Relations"]

_MOST_REPEATS = 1000

Arrays = dict[str, "np.ndarray[Any, Any]"]


class Relations:
    """Asks one lane several times, and holds its answers against each other."""

    def __init__(self, worker: Worker, lease: Lease, records: Records, model: LoadedModel, timeout: float) -> None:
        self._worker = worker
        self._lease = lease
        self._records = records
        self._model = model
        self._timeout = timeout

    def repeats(
        self,
        feeds: Mapping[str, Any],
        *,
        times: int,
        after: Sequence[str],
        fault: str,
        tolerance: Tolerance | None,
    ) -> None:
        """See :meth:`pytest_webaccel.faces.WebAccel.check_repeats`."""
        if not 1 <= times <= _MOST_REPEATS or (times == 1 and not after):
            raise ConfigurationError(f"times={times} is not from 2 to {_MOST_REPEATS}, or 1 with after=")
        first = self._run(feeds)
        rule = tolerance or EXACT
        for number in range(2, times + 1):
            self._hold("itself, asked before", first, self._run(feeds), rule, f"asked {number} times")
        for strategy in after:
            Faults(self._worker, self._lease).inject(fault, recovery=strategy)
            words = f"after {fault} and {strategy}"
            self._hold(f"itself, before {fault}", first, self._run(feeds), rule, words)

    def batch(
        self,
        feeds: Mapping[str, Any],
        *,
        axes: int | Mapping[str, int],
        output_axes: int | Mapping[str, int],
        tolerance: Tolerance | None,
    ) -> None:
        """See :meth:`pytest_webaccel.faces.WebAccel.check_batch`."""
        arrays, into, out = self._batch(feeds, axes, output_axes)
        whole = self._run(arrays)
        size = batch_size(arrays, into)
        single = joined([self._run(item(arrays, into, index)) for index in range(size)], out)
        self._hold("itself, one by one", single, whole, tolerance, f"a batch of {size}")

    def permutation(
        self,
        feeds: Mapping[str, Any],
        *,
        axes: int | Mapping[str, int],
        output_axes: int | Mapping[str, int],
        tolerance: Tolerance | None,
    ) -> None:
        """See :meth:`pytest_webaccel.faces.WebAccel.check_permutation`."""
        arrays, into, out = self._batch(feeds, axes, output_axes)
        size = batch_size(arrays, into)
        order = list(range(size))
        chance = random.Random(f"order\0{self._lease.terms.seed}\0{self._lease.terms.drawn_by}")
        while order == sorted(order):
            chance.shuffle(order)
        expected = permuted(self._run(arrays), out, order)
        self._hold(
            "itself, put in order", expected, self._run(permuted(arrays, into, order)), tolerance, f"order {order}"
        )

    # -- inside ------------------------------------------------------------------------------

    def _batch(
        self, feeds: Mapping[str, Any], axes: int | Mapping[str, int], output_axes: int | Mapping[str, int]
    ) -> tuple[Arrays, dict[str, int], dict[str, int]]:
        info = self._model.info
        arrays = check_feeds(info, feeds)
        outputs = [one.name for one in info.outputs]
        return arrays, axes_of(axes, list(arrays), "axes="), axes_of(output_axes, outputs, "output_axes=")

    def _run(self, feeds: Mapping[str, Any]) -> Arrays:
        work = self._lease.run(self._model, feeds, deadline=self._timeout)
        answer, _ = self._worker.call(work, deadline=2 * self._timeout + self._worker.recovery_s)
        return answer

    def _hold(self, reference: str, expected: Arrays, got: Arrays, tolerance: Tolerance | None, what: str) -> None:
        lane = str(self._lease.lane.name)
        allowed = None if tolerance is None else dict.fromkeys(expected, tolerance)
        comparison = compare_all({reference: expected, lane: got}, reference, allowed)
        for output, difference in comparison.differences[lane].items():
            name, nodes = self._model.info.name, self._model.placement.nodes
            standing = Standing.of(difference)
            self._records.parity(self._lease.lane.name, name, output, reference, standing, placement=nodes)
        assert comparison.agrees, f"{what}: {message(comparison, self._model.info.name)}"
