"""Where an app comes from: a folder that is served here, or an address where it is served already."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from urllib.parse import urlsplit

from pytest_webaccel.errors import ConfigurationError

__all__ = ["Source", "source_of"]

_PORTS = {"http": 80, "https": 443}
_INDEX = "index.html"


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """An app: ``folder`` to serve, or the ``url`` at which ``host`` and ``port`` serve it."""

    folder: Path | None = None
    url: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        """Return what the user wrote, as a person reads it."""
        return self.url if self.folder is None else str(self.folder)


def source_of(app: object) -> Source:
    """Return the app that ``app``, the text of a flag or a path, names.

    Raises ConfigurationError for a folder that is not there or has no ``index.html``, and for an address that no
    page can be opened at.
    """
    text = str(app).strip()
    if "://" in text:
        return _address(text)
    folder = Path(text).expanduser().absolute()
    if not text or not folder.is_dir():
        what = "is a file, not a folder" if folder.is_file() else "is not there"
        raise ConfigurationError(
            f"app {text!r}: the folder {what}. --webaccel-app takes the folder that holds your app's {_INDEX}, as your "
            "build leaves it, or the http:// or https:// address where the app is served already."
        )
    if not (folder / _INDEX).is_file():
        there = sorted(path.name for path in folder.iterdir())[:8]
        raise ConfigurationError(
            f"app {text!r}: the folder has no {_INDEX}; it has {', '.join(there) or 'nothing'}. Name the folder that "
            f"holds your app's {_INDEX}, as your build leaves it."
        )
    return Source(folder=folder)


def _address(text: str) -> Source:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ConfigurationError(f"app {text!r} is no address: {error}") from error
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ConfigurationError(f"app {text!r} is no address of the form http://HOST[:PORT]/... or https://...")
    return Source(url=text, host=parts.hostname, port=port or _PORTS[parts.scheme])
