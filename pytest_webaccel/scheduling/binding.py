"""Binding workers to lanes: which lanes each xdist worker serves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_webaccel.errors import ConfigurationError
from pytest_webaccel.terms import Backend, Lane

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["WEIGHTS", "bind", "bind_specs", "bind_workers", "format_lanes", "parse_lanes"]

#: Relative cost of one test on a backend without a GPU, from measured model runs.
WEIGHTS: Mapping[Backend, float] = {Backend.WEBGPU: 4.0, Backend.WEBNN: 1.5, Backend.CPU: 1.0}


def bind(lanes: Sequence[Lane], workers: int, weights: Mapping[Lane, float] | None = None) -> list[tuple[Lane, ...]]:
    """Return for each of ``workers`` the lanes it serves.

    Longest processing time first: lanes go, heaviest first, to the least laden worker, so every
    lane is served at least once. Workers left without a lane then each take the lane that has the
    most weight for each worker serving it. ``weights`` are positive, by lane; a lane that is not in them
    has its backend's. Ties fall to the order given. Without lanes every worker gets none.

    Raises ValueError for fewer than one worker or a weight that is not positive.
    """
    if workers < 1:
        raise ValueError(f"{workers} workers cannot serve any lane")
    weight = {lane: (weights or {}).get(lane, WEIGHTS[lane.backend]) for lane in dict.fromkeys(lanes)}
    if bad := [lane for lane, value in weight.items() if not value > 0]:
        raise ValueError(f"lane {bad[0]} has weight {weight[bad[0]]}, which is not positive")
    bound: list[list[Lane]] = [[] for _ in range(workers)]
    load = [0.0] * workers
    for lane in sorted(weight, key=lambda lane: -weight[lane]):
        lightest = load.index(min(load))
        bound[lightest].append(lane)
        load[lightest] += weight[lane]
    servers = dict.fromkeys(weight, 1)
    for worker in bound:
        if not worker and weight:
            lane = max(weight, key=lambda lane: weight[lane] / servers[lane])
            worker.append(lane)
            servers[lane] += 1
    return [tuple(worker) for worker in bound]


def bind_specs(specs: Iterable[Any], lanes: Sequence[Lane]) -> None:
    """Write a lane set into each execnet XSpec as ``spec.webaccel``.

    A spec that the user bound by hand (``--tx popen//webaccel=firefox:webgpu``) keeps what it has, and
    the other workers see to the lanes that it leaves. xdist clones a replacement from its
    predecessor's spec, so the binding outlives a crash.

    Raises ConfigurationError when a hand-written binding names no lane.
    """
    specs = list(specs)
    taken: set[Lane] = set()
    for spec in specs:
        if isinstance(spec.webaccel, str):
            try:
                taken.update(parse_lanes(spec.webaccel))
            except ValueError as error:
                raise ConfigurationError(f"--tx {spec}: {error}") from error
    free = [spec for spec in specs if not isinstance(spec.webaccel, str)]
    if not free:
        return
    left = [lane for lane in lanes if lane not in taken] or list(lanes)
    for spec, mine in zip(free, bind(left, len(free)), strict=True):
        spec.webaccel = format_lanes(mine)


def bind_workers(config: pytest.Config, specs: Iterable[Any]) -> None:
    """Bind the workers of xdist to the lanes that work here; raises pytest.UsageError for a bad ``--tx``."""
    from pytest_webaccel.scheduling.session import session_of

    try:
        bind_specs(specs, [probe.lane for probe in session_of(config).table if probe.works])
    except ConfigurationError as error:
        raise pytest.UsageError(str(error)) from error


def format_lanes(lanes: Iterable[Lane]) -> str:
    """Return ``lanes`` as the value of a spec's key: ``chromium:webgpu+chromium:cpu``."""
    return "+".join(map(str, lanes))


def parse_lanes(text: str) -> tuple[Lane, ...]:
    """Return the lanes that :func:`format_lanes` wrote; raises ValueError naming the unknown half."""
    return tuple(Lane.parse(part) for part in text.split("+") if part)
