"""Runs the tests that matter against the installed wheel: from a copy, so that the checkout cannot stand in for it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

FOLDERS = ("acceptance", "bridge", "browsers")


def main(root: Path, scratch: Path) -> int:
    import pytest_webaccel

    where = Path(pytest_webaccel.__file__)
    if root in where.parents and ".tox" not in where.parts:
        raise SystemExit(f"pytest_webaccel is the checkout's, {where}, not an installed wheel's")
    package = resources.files("pytest_webaccel")
    for name in (
        "page/main.mjs",
        "page/webnn.mjs",
        "page/lane.html",
        "page/probe.js",
        "kernels/README.md",
        "kernels/built/simd.wasm",
        "kernels/built/relaxed.wasm",
        "kernels/silu/silu.mjs",
        "py.typed",
    ):
        if not (package / name).is_file():
            raise SystemExit(f"the wheel lacks {name}")
    copy = scratch / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir(parents=True)
    shutil.copytree(root / "tests", copy / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(root / name, copy / name)
    tests = [f"tests/{folder}" for folder in FOLDERS]
    return subprocess.run([sys.executable, "-m", "pytest", "-n", "2", *tests], cwd=copy, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()))
