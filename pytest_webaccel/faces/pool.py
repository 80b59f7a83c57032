"""The face of the pool: the fixture ``webaccel_pool``."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from pytest_webaccel.faces.lane import WebAccel
from pytest_webaccel.terms import Lane, ProbeResult

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_webaccel.faces.arguments import Manner
    from pytest_webaccel.pool.worker import Worker

__all__ = ["PoolFace"]


class PoolFace:
    """Several lanes at once, for tests that compare or fail over by hand."""

    def __init__(self, worker: Worker, test_id: str, manner: Manner) -> None:
        self._worker = worker
        self._test_id = test_id
        self._manner = manner

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """Lanes of the run that work on this machine."""
        return self._worker.pool.lanes

    @property
    def probes(self) -> tuple[ProbeResult, ...]:
        """What the probe saw of every lane of the run, working or not."""
        return self._worker.pool.probes

    @contextlib.contextmanager
    def lease(self, lane: Lane | str) -> Iterator[WebAccel]:
        """Lease a lane by name until the block ends; raises LaneUnavailableError with the reason."""
        name = Lane.parse(lane) if isinstance(lane, str) else lane
        with self._worker.lease(name, self._test_id) as lease:
            face = WebAccel(self._worker, lease, self._manner)
            yield face
            face.finish()

    def statistics(self) -> list[dict[str, Any]]:
        """Return a snapshot of every lane that was started."""
        return self._worker.pool.statistics()
