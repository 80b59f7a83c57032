"""Makes the WebAssembly of ``kernels/built`` from the C sources of all kernels: ``python kernels/build.py``.

One module holds all kernels; ``relaxed.wasm`` is for browsers that have relaxed SIMD, ``simd.wasm`` for the others. The
compiler is Zig's Clang, from PyPI's ``ziglang``; the same version of it makes the same bytes everywhere.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
#: What each module needs of a processor beside the first version of WebAssembly.
FEATURES = {"simd": "+bulk_memory+simd128", "relaxed": "+bulk_memory+simd128+relaxed_simd"}
COMPILER = ("-target", "wasm32-freestanding", "-std=c23", "-O3", "-ffreestanding", "-fno-builtin", "-nostdlib")
#: Each product and sum is rounded where the source says so; what is undefined is not trapped but must not be there.
MATHS = ("-ffp-contract=off", "-fno-sanitize=undefined", "-Wall", "-Wextra", "-Werror")
LINKER = ("--no-entry", "--strip-all", "-z", "stack-size=65536", "--export=__heap_base")


def build(folder: Path) -> None:
    """Write the modules into ``folder``; raises CalledProcessError where a source does not compile."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = sorted(path.relative_to(HERE).as_posix() for path in HERE.glob("*/*.c"))
    linker = [f"-Wl,{','.join(LINKER)}"]
    for name, features in FEATURES.items():
        asked = [*COMPILER, f"-mcpu=generic{features}", *MATHS, *linker, "-o", str(folder / f"{name}.wasm"), *sources]
        subprocess.run([sys.executable, "-m", "ziglang", "cc", *asked], cwd=HERE, check=True)
        (folder / f"{name}.wasm").chmod(0o644)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=HERE / "built", help="the folder that the modules go into")
    build(parser.parse_args().out.resolve())
