"""What a kernel's folder says of itself: ``kernel.toml`` beside its source."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import tomllib
from typing import TYPE_CHECKING, Any

from pytest_webaccel.errors import ConfigurationError
from pytest_webaccel.shipped import shipped

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_webaccel.engines.kernels.dispatch import Target

__all__ = ["Manifest", "manifest", "names"]

_FILE = "kernel.toml"


@dataclasses.dataclass(frozen=True, slots=True)
class Manifest:
    """A kernel's implementation for one backend.

    ``code`` is its source, with what it shares with others behind it, ``entry`` the function that is dispatched, and
    ``tunable`` the constants that may be tuned, with the values to try, the default first. Constants are ``override``s
    of the source, or, where it is a ``template``, filled in by :meth:`rendered`; those that ``fixed`` names follow the
    uniform. ``features`` are constants that are better where the device has a feature, by its name, ``software`` those
    that are on a software adapter.
    """

    name: str
    summary: str
    code: str
    entry: str
    tunable: Mapping[str, Sequence[int]]
    template: bool = False
    features: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)
    software: Mapping[str, int] = dataclasses.field(default_factory=dict)
    fixed: Sequence[str] = ()

    def constants(self, chosen: Mapping[str, int] | None = None) -> dict[str, int]:
        """Return the tunable constants, those in ``chosen`` in place of the defaults.

        Raises ConfigurationError for one that there is not, or a value that is not among those to try.
        """
        values = {name: choices[0] for name, choices in self.tunable.items()}
        for name, value in (chosen or {}).items():
            if value not in self.tunable.get(name, ()):
                known = {name: list(choices) for name, choices in self.tunable.items()}
                raise ConfigurationError(f"kernel {self.name}: {name}={value!r} cannot be chosen (known: {known})")
            values[name] = value
        return values

    @property
    def digest(self) -> str:
        """What tells this source, and the values to try, from other versions of them."""
        told = json.dumps([self.code, self.entry, {name: list(values) for name, values in self.tunable.items()}])
        return hashlib.sha256(told.encode()).hexdigest()[:12]

    def untuned(self, target: Target) -> dict[str, int]:
        """Return the constants in which ``target`` differs from the defaults."""
        values: dict[str, int] = dict(self.software) if target.software else {}
        for feature in sorted(target.features):
            values |= self.features.get(feature, {})
        return values

    def rendered(self, **values: Any) -> str:
        """Return the source of a template with ``values`` filled in."""
        return _rendered(self.name, self.code, tuple(values.items()))


@functools.lru_cache(maxsize=256)
def _rendered(name: str, code: str, values: tuple[tuple[str, Any], ...]) -> str:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    settings = {"line_statement_prefix": "//%", "variable_start_string": "${", "variable_end_string": "}"}
    return SandboxedEnvironment(undefined=StrictUndefined, **settings).from_string(code).render(values, name=name)


def names(backend: str = "webgpu") -> tuple[str, ...]:
    """Return the kernels that there are for a backend; all are there for WebGPU."""
    return tuple(name for name, told in _manifests().items() if backend in told)


@functools.cache
def _manifests() -> Mapping[str, Mapping[str, Any]]:
    folders = sorted(path for path in shipped("kernels").iterdir() if (path / _FILE).is_file())
    return {folder.name: tomllib.loads((folder / _FILE).read_text(encoding="utf-8")) for folder in folders}


@functools.cache
def manifest(name: str, backend: str = "webgpu") -> Manifest:
    """Return a kernel's implementation for a backend; raises ConfigurationError where there is none."""
    if name not in _manifests():
        raise ConfigurationError(f"there is no kernel {name!r} (known: {', '.join(_manifests())})")
    root = shipped("kernels")
    folder = root / name
    told = _manifests()[name]
    section: Mapping[str, Any] | None = told.get(backend)
    if section is None:
        there = [key for key, value in told.items() if isinstance(value, dict)]
        raise ConfigurationError(f"kernel {name} is not there for {backend} (it is for {', '.join(there)})")
    files = [folder / section["file"], *(root / "shared" / file for file in section.get("shared", ()))]
    return Manifest(
        name=told["name"],
        summary=told["summary"],
        # its own lines come first, so that a compiler's messages name those of its file
        code="\n".join(file.read_text(encoding="utf-8") for file in files),
        entry=section["entry"],
        tunable={key: tuple(values) for key, values in section.get("tunable", {}).items()},
        template=section.get("template", False),
        features=section.get("features", {}),
        software=section.get("software", {}),
        fixed=tuple(section.get("constants", ())),
    )
