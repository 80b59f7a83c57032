"""A leased lane as somewhere that models run once."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from pytest_webaccel.engines.onnx import PROVIDERS
from pytest_webaccel.errors import DamagedLaneError, FeedError, ModelError, RecoveryError, RemoteError
from pytest_webaccel.parity.case import Surroundings
from pytest_webaccel.parity.verdict import Kind, Ran

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    import numpy as np

    from pytest_webaccel.pool.lease import Lease
    from pytest_webaccel.pool.worker import Worker
    from pytest_webaccel.terms import OrtBuild

__all__ = ["LaneRunner"]


class LaneRunner:
    """A leased lane as somewhere that models run. Nothing of a model stays on it.

    A lane that breaks under a model is mended by the test's strategy and asked again; where that is in vain the model
    is what crashes it.
    """

    def __init__(self, worker: Worker, lease: Lease, build: OrtBuild | None, timeout: float) -> None:
        self._worker = worker
        self._lease = lease
        self._build = build
        self._timeout = timeout

    @property
    def name(self) -> str:
        """The lane, with the build where one was named."""
        return f"{self._lease.lane.name}{f' ({self._build} build)' if self._build else ''}"

    def run(self, model: bytes, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Ran:
        """Load a model, run it once, drop it."""
        call, lease, deadline = self._worker.call, self._lease, self._timeout + self._worker.recovery_s
        held = set(lease.models)  # the test's own stay, also where the whole model is one of them
        try:
            loaded = call(lease.load(model, self._build, deadline=self._timeout), deadline=deadline)
        except ModelError as error:
            return Ran({}, Kind.UNSUPPORTED, _words(error))
        except (RecoveryError, DamagedLaneError) as error:
            return self._crashed(error)
        try:
            outputs, _ = call(lease.run(loaded, feeds, deadline=self._timeout), deadline=deadline)
        except (ModelError, FeedError) as error:
            return Ran({}, Kind.FAILED, _words(error))
        except (RecoveryError, DamagedLaneError) as error:
            return self._crashed(error)
        finally:
            if loaded.key not in held:
                call(lease.drop(loaded, deadline=self._timeout), deadline=deadline)
                if loaded.info.path.parent == lease.folder:
                    loaded.info.path.unlink(missing_ok=True)
        return Ran(outputs, fallbacks=loaded.placement.fallbacks, placement=loaded.placement.nodes)

    def _crashed(self, error: Exception) -> Ran:
        # a page that still answers may be stuck in the model: the next must not wait behind it
        self._lease.lane.distrust(f"a model broke it: {error}"[:300])
        return Ran({}, Kind.CRASHED, str(error))

    def surroundings(self, model: str) -> Surroundings:
        """Return what a case that was found here says of the place."""
        lane = self._lease.lane
        engine, probe = lane.here.engine, lane.probe
        return Surroundings(
            lane=str(lane.name),
            browser=f"{probe.lane.browser} {probe.version}",
            adapter=probe.adapter,
            engine=engine.ort.version,
            module=engine.ort.module(engine.choose(self._build)),
            provider=PROVIDERS[lane.name.backend],
            system=f"{platform.system()} {platform.machine()}",
            model=model,
        )


def _words(error: Exception) -> str:
    """Return the engine's own words, where it was the engine that said no."""
    return " ".join(str(error.__cause__ if isinstance(error.__cause__, RemoteError) else error).split())
