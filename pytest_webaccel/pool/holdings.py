"""What a lane must hold: its models, and what each was last fed, so that another browser can take over."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from pytest_webaccel.engines.models import ModelInfo
    from pytest_webaccel.engines.onnx import LoadedModel
    from pytest_webaccel.pool.station import Station
    from pytest_webaccel.terms import OrtBuild

__all__ = ["Holdings"]

#: Bytes of feeds that a lane keeps at most.
_REMEMBERED_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class _Feeds:
    """What a model was last fed, and which outputs were asked for."""

    feeds: Mapping[str, np.ndarray[Any, Any]]
    outputs: Sequence[str] | None

    @property
    def nbytes(self) -> int:
        """Size of the arrays."""
        return sum(array.nbytes for array in self.feeds.values())


class Holdings:
    """Models by their key in the page, and feeds to warm a browser with."""

    def __init__(self) -> None:
        self.models: dict[str, tuple[ModelInfo, OrtBuild]] = {}
        self._asked: dict[str, _Feeds] = {}

    def want(self, model: LoadedModel) -> None:
        """Hold ``model`` from now on."""
        self.models[model.key] = (model.info, model.build)

    def remember(
        self, model: LoadedModel, feeds: Mapping[str, np.ndarray[Any, Any]], outputs: Sequence[str] | None
    ) -> bool:
        """Keep what a model was fed; False where all feeds would come to more than 64 MiB."""
        feeding = _Feeds(feeds, outputs)
        others = sum(one.nbytes for key, one in self._asked.items() if key != model.key)
        if others + feeding.nbytes > _REMEMBERED_BYTES:
            return False
        self._asked[model.key] = feeding
        return True

    def fed(self, key: str) -> int:
        """Return the bytes of the feeds that are kept for a model."""
        return self._asked[key].nbytes if key in self._asked else 0

    def forget(self, key: str) -> None:
        """Need a model no more."""
        self.models.pop(key, None)
        self._asked.pop(key, None)

    def clear(self) -> None:
        """Need nothing any more."""
        self.models.clear()
        self._asked.clear()

    def warm_in(self, station: Station) -> bool:
        """Whether ``station`` holds every model, and has run those whose feeds are known."""
        wanted = set(self.models)
        return wanted <= set(station.loaded) and set(self._asked) & wanted <= station.ran

    async def fill(self, station: Station, *, deadline: float) -> None:
        """Load every model into ``station``."""
        for info, build in list(self.models.values()):
            await station.load(info, build, deadline=deadline)

    async def warm(self, station: Station, *, deadline: float) -> None:
        """Load every model and run each once with what it was last fed: a first run compiles, later ones do not."""
        await self.fill(station, deadline=deadline)
        for key, asked in list(self._asked.items()):
            if key in station.loaded:
                await station.warm(station.loaded[key], asked.feeds, asked.outputs, deadline)
