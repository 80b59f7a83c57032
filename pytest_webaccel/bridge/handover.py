"""Files on their way into a page: each under a name that is new, unguessable and ours, removed when it was used."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np

__all__ = ["Handover", "checksum"]

_READ_BYTES = 1 << 20


class Handover:
    """The files of one channel's requests, in a folder of its own below ``parent``."""

    def __init__(self, parent: Path | None) -> None:
        self._parent = parent
        self._directory: Path | None = None
        self._paths: dict[str, Path] = {}
        self._of: dict[int, tuple[Path, ...]] = {}

    @property
    def folder(self) -> Path:
        """The folder, made when it is first wanted."""
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="files-", dir=self._parent))
        return self._directory

    def place(self, path: Path) -> Path:
        """Return ``path`` under a new name.

        New each time, since an input that is handed the file it has already says nothing to the page;
        not a symbolic link, since the page would see the name of what it points to.
        """
        placed = self.folder / secrets.token_hex(8)
        try:
            os.link(path.resolve(), placed)
        except OSError:
            shutil.copyfile(path, placed)
        return placed

    def place_array(self, array: np.ndarray[Any, Any]) -> Path:
        """Return a file of the array's bytes."""
        placed = self.folder / secrets.token_hex(8)
        array.tofile(placed)
        return placed

    def keep(self, request_id: int, paths: Iterable[Path]) -> None:
        """Let the page of a request fetch ``paths`` until :meth:`forget`."""
        self._of[request_id] = tuple(paths)
        self._paths.update((path.name, path) for path in self._of[request_id])

    def find(self, key: str) -> Path | None:
        """Return the file that the page may fetch under ``key``."""
        return self._paths.get(key)

    def forget(self, request_id: int) -> None:
        """Remove the files of a request."""
        for path in self._of.pop(request_id, ()):
            self._paths.pop(path.name, None)
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove everything."""
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)


async def checksum(path: Path) -> int:
    """Return the CRC-32 of a file's bytes; raises OSError where it cannot be read."""

    def read() -> int:
        value = 0
        with path.open("rb") as file:
            while data := file.read(_READ_BYTES):
                value = zlib.crc32(data, value)
        return value

    return await asyncio.to_thread(read)
