"""The copy of onnxruntime-web that pages load: the user's own, or the pinned one from npm."""

from __future__ import annotations

import json
import re
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_webaccel.browsers.install import npm
from pytest_webaccel.browsers.install.cache import Entry, cache_root, provide
from pytest_webaccel.errors import ConfigurationError, InstallError, WebAccelError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ORT", "install_ort", "ort_dist", "ort_version", "ort_versions"]

#: The pinned copy.
ORT = npm.Package(
    "onnxruntime-web",
    "1.30.0",
    "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
    33_106_585,
)
_KIND = "onnxruntime-web"
_MAIN = "package/dist/ort.all.bundle.min.mjs"
#: What pages load; source maps and CommonJS builds are left in the tarball.
_KEEP = re.compile(r"package/(dist/[\w.-]+\.(mjs|wasm)|package\.json|LICENSE|README\.md)")
_HEADER = re.compile(r"ONNX Runtime Web v(\d+\.\d+\.\d+\S*)")


def install_ort(*, force: bool = False) -> tuple[Entry, bool]:
    """Return the pinned copy, fetched when missing, and whether it was fetched now. Raises InstallError."""

    def fill(folder: Path) -> None:
        with (
            tempfile.TemporaryDirectory(prefix="download-", dir=folder.parent) as downloads,
            tarfile.open(npm.fetch(ORT, Path(downloads))) as archive,
        ):
            members = [member for member in archive if _KEEP.fullmatch(member.name)]
            archive.extractall(folder, members, filter="data")

    return provide(
        _KIND,
        ORT.version,
        version=ORT.version,
        main=_MAIN,
        source=f"npm {ORT.name}@{ORT.version}",
        fill=fill,
        force=force,
    )


def ort_dist(user: Path | None) -> Path:
    """Return the folder with onnxruntime-web's modules: the user's, or the pinned one.

    ``user`` is the package folder or its ``dist``. Raises ConfigurationError when it has no modules, and
    InstallError when the pinned copy is asked for and not installed.
    """
    if user is not None:
        given = user.expanduser().absolute()
        for folder in (given, given / "dist"):
            if any(folder.glob("ort.*.mjs")):
                return folder
        raise ConfigurationError(
            f"--webaccel-ort {user} has no ort.*.mjs, neither in it nor in a dist folder below it. Name the folder of "
            "the npm package, such as node_modules/onnxruntime-web."
        )
    entry = Entry.read(cache_root() / _KIND / ORT.version)
    if entry is None:
        raise InstallError(
            f"onnxruntime-web {ORT.version} is not installed in {cache_root()}. Run "
            "`python -m pytest_webaccel install`, or name your own copy with --webaccel-ort."
        )
    return (entry.folder / entry.main).parent


def ort_versions(copies: Sequence[Path]) -> list[str]:
    """Return the version of each of several copies, those of one version told apart: ``1.30.0``, then ``1.30.0+2``.

    A copy that cannot be used is named by its folder; what is wrong with it is said when it is used.
    """
    found: list[str] = []
    plain: list[str] = []
    for copy in copies:
        try:
            version = ort_version(ort_dist(copy))
        except WebAccelError:
            version = f"-{copy.name}"
        version = version.partition("+")[0]
        plain.append(version)
        same = plain.count(version)
        found.append(f"{version}+{same}" if same > 1 else version)
    return found


def ort_version(dist: Path) -> str:
    """Return the version of the copy whose modules lie in ``dist``; ``unknown`` where nothing says it."""
    for folder in (dist, dist.parent):
        try:
            data = json.loads((folder / "package.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(data, dict) and data.get("name") == ORT.name and isinstance(data.get("version"), str):
            return str(data["version"])
    for module in sorted(dist.glob("ort.*.mjs")):
        with module.open("rb") as stream:
            if match := _HEADER.search(stream.read(1024).decode(errors="replace")):
                return match[1]
    return "unknown"
