"""A leased lane as somewhere that models run once."""

from __future__ import annotations

import platform
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_webaccel.engines.onnx import PROVIDERS
from pytest_webaccel.errors import DamagedLaneError, FeedError, ModelError, RecoveryError, RemoteError
from pytest_webaccel.parity.case import Surroundings
from pytest_webaccel.parity.verdict import Kind, Ran
from pytest_webaccel.recovery.conductor import GivenUpError
from pytest_webaccel.terms import Symptom

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    import numpy as np

    from pytest_webaccel.engines.onnx import LoadedModel
    from pytest_webaccel.pool.lease import Lease
    from pytest_webaccel.pool.worker import Worker
    from pytest_webaccel.terms import OrtBuild

__all__ = ["LaneRunner"]

T = TypeVar("T")

#: Kinds of a page's errors that are the engine's own words about a model.
_ENGINES_OWN = frozenset({"model", "operator"})


class LaneRunner:
    """A leased lane as somewhere that models run. Nothing of a model stays on it.

    A lane that breaks under a model is mended by the test's strategy and asked again; where that is in vain the model
    is what crashes it, or what never ends.
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
        """Load a model, run it once, drop it; raises ModelError where it is not the engine that says no."""
        folder = Path(tempfile.mkdtemp(prefix="part-", dir=self._lease.folder))
        path = folder / "part.onnx"
        path.write_bytes(model)
        held = set(self._lease.models)  # the test's own stay, also where the whole model is one of them
        loaded: LoadedModel | None = None
        try:
            loaded = self._call(self._lease.load(path, self._build, deadline=self._timeout))
            outputs, _ = self._call(self._lease.run(loaded, feeds, deadline=self._timeout))
        except FeedError as error:
            ran = Ran({}, Kind.NOT_ASKED, str(error))
        except ModelError as error:
            if not isinstance(error.__cause__, RemoteError) or error.__cause__.kind not in _ENGINES_OWN:
                raise
            # its words, not ours around them
            ran = Ran({}, Kind.FAILED if loaded else Kind.UNSUPPORTED, " ".join(str(error.__cause__).split()))
        except (RecoveryError, DamagedLaneError) as error:
            ran = self._broken(error)
        else:
            ran = Ran(outputs, fallbacks=loaded.placement.fallbacks, placement=loaded.placement.nodes)
        finally:
            if loaded is not None and loaded.key not in held:
                self._call(self._lease.drop(loaded, deadline=self._timeout))
            if loaded is None or loaded.key not in held:  # a repair loads what is held from its file
                shutil.rmtree(folder, ignore_errors=True)
        return ran

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return self._worker.call(work, deadline=self._timeout + self._worker.recovery_s)

    def _broken(self, error: RecoveryError | DamagedLaneError) -> Ran:
        # a page that still answers may be stuck in the model: the next must not wait behind it
        self._lease.lane.distrust(f"a model broke it: {error}"[:300])
        self._call(self._lease.lane.settle())
        damage = error.damage if isinstance(error, DamagedLaneError | GivenUpError) else None
        # a page that computes for ever is silent, and that may be noticed first
        hung = damage is not None and damage.symptom in {Symptom.DEADLINE_PASSED, Symptom.HEARTBEAT_MISSED}
        return Ran({}, Kind.TIMED_OUT if hung else Kind.CRASHED, str(error))

    def surroundings(self, model: str) -> Surroundings:
        """Return what a case that was found here says of the place."""
        lane = self._lease.lane
        engine, probe = lane.here.engine, lane.probe
        return Surroundings(
            lane=str(lane.name),
            browser=f"{probe.lane.browser} {probe.version}",
            adapter=probe.adapter,
            engine=engine.ort.released,
            module=engine.ort.module(engine.choose(self._build)),
            provider=PROVIDERS[lane.name.backend],
            system=f"{platform.system()} {platform.machine()}",
            model=model,
        )
