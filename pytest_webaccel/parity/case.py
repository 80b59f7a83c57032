"""A case to file: what was found to blame as one folder that needs nothing of ours to be looked into.

``model.onnx`` with ``inputs``, ``expected`` and ``got`` as ``.npy`` files, ``case.json`` with all that is known,
``ISSUE.md`` for an issue tracker, and ``index.html``: one page that holds model and tensors, runs them with
onnxruntime-web and says whether the answer is right. Whatever comes from a model or a page is escaped.
"""

from __future__ import annotations

import base64
import dataclasses
import gzip
import html
import json
import re
import shutil
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_webaccel.parity.tolerance import tolerance_for

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from pytest_webaccel.parity.blame import Blame
    from pytest_webaccel.parity.tolerance import Tolerance

__all__ = ["Surroundings", "write_case"]

#: Bytes of model and tensors up to which ``index.html`` holds them.
PAGE_BYTES = 64 << 20
#: Where the page takes onnxruntime-web from, unless its address says ``?ort=URL``.
_ORT = "https://cdn.jsdelivr.net/npm/onnxruntime-web@{version}/dist/"


@dataclasses.dataclass(frozen=True, slots=True)
class Surroundings:
    """Where it was seen: ``module`` is the file of onnxruntime-web, ``provider`` its execution provider's name."""

    lane: str
    browser: str
    adapter: str
    engine: str
    module: str
    provider: str
    system: str
    model: str


def write_case(blame: Blame, surroundings: Surroundings, folder: Path) -> Path:
    """Write the case into ``folder``, made where it is not there, in place of an older one; return the folder.

    Raises ValueError where there is nothing to show: nothing to blame, or nothing that was confirmed.
    """
    if not blame.model or not blame.confirmed:
        raise ValueError(f"no case to write: {blame}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.html").unlink(missing_ok=True)
    for kind in ("inputs", "expected", "got"):
        shutil.rmtree(folder / kind, ignore_errors=True)
    (folder / "model.onnx").write_bytes(blame.model)
    told = {
        kind: _tensors(folder / kind, arrays)
        for kind, arrays in (("inputs", blame.feeds), ("expected", blame.expected), ("got", blame.got))
    }
    facts = {
        "operators": list(blame.operators),
        "nodes": list(blame.nodes),
        "steps": list(blame.steps),
        "of_steps": blame.total,
        "kind": str(blame.verdict.kind),
        "detail": blame.verdict.detail,
        "confirmed": blame.confirmed,
        "blank": blame.blank,
        "cut_short": blame.cut_short,
        "runs": blame.runs,
        "seconds": round(blame.seconds, 1),
        "reference": blame.reference,
        "whole_model": {"kind": str(blame.whole.kind), "detail": blame.whole.detail},
        **dataclasses.asdict(surroundings),
        "tensors": told,
    }
    (folder / "case.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    (folder / "ISSUE.md").write_text(_issue(blame, surroundings), encoding="utf-8")
    if (page := _page(blame, surroundings)) is not None:
        (folder / "index.html").write_text(page, encoding="utf-8")
    return folder


def _tensors(folder: Path, arrays: Mapping[str, NDArray[Any]]) -> list[dict[str, Any]]:
    """Save each array, and return what the files hold: a tensor's name need not be one that a file can have."""
    told = []
    for number, (name, array) in enumerate(arrays.items()):
        folder.mkdir(exist_ok=True)
        file = f"{number}-{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)[:60]}.npy"
        np.save(folder / file, array.astype("U") if array.dtype.kind == "O" else array, allow_pickle=False)
        told.append({"name": name, "file": f"{folder.name}/{file}", "dtype": str(array.dtype), "shape": array.shape})
    return told


def _code(text: str) -> str:
    """Return text as Markdown code: nothing in it is read as Markdown."""
    fence = "`" * (max((len(run) for run in re.findall(r"`+", text)), default=0) + 1)
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{' '.join(text.split())}{pad}{fence}"


#: What is said of one operator, and of several.
_DOES: Mapping[str, tuple[str, str]] = {
    "wrong_answer": ("answers wrongly", "answer wrongly"),
    "not_finite": ("answers NaN or infinity", "answer NaN or infinity"),
    "unsupported": ("is refused", "are refused"),
    "failed": ("fails", "fail"),
    "crashed": ("crashes the page", "crash the page"),
    "timed_out": ("never answers", "never answer"),
    "fell_back": ("runs on wasm without a word", "run on wasm without a word"),
}


def _issue(blame: Blame, where: Surroundings) -> str:
    several = len(blame.operators) > 1
    does = _DOES[str(blame.verdict.kind)]
    one = f"These {len(blame.operators)} operators together, out" if several else "This operator, out"
    inputs = [f"- {_code(name)}: {_signature(array)}" for name, array in blame.feeds.items()]
    outputs = [f"- {_code(name)}: {one}" for name, one in blame.verdict.differences.items()]
    about = (
        f"{one} of {_code(where.model)}, {does[several]} in onnxruntime-web {where.engine} ({_code(where.module)}). "
        f"The attached `model.onnx` holds nothing else; {_code(blame.reference)} runs it as expected."
    )
    how = (
        "Serve the folder and open `index.html` (it holds the model and its tensors), or load `model.onnx`, feed it "
        "`inputs/`, and compare with `expected/`."
        + (" Its larger floating-point weights and its floating-point inputs are zeros." if blame.blank else "")
    )
    found = (
        f"Found by parts: {blame.runs} runs, {len(blame.steps)} of {blame.total} steps left; "
        f"{'seen to fail alone twice' if blame.confirmed else 'not confirmed'}."
        f"{' The time for the search was over then: a smaller part may fail as well.' if blame.cut_short else ''}"
    )
    lines = [
        f"# {_code(blame.operator[:80])} {does[0]} with the {_code(where.provider)} execution provider",
        "",
        about,
        "",
        "## To reproduce",
        "",
        how,
        "",
        f"Operators: {', '.join(map(_code, blame.operators))}",
        "",
        "Inputs:",
        *inputs,
        "",
        "## Expected and got",
        "",
        *(outputs or [_code(blame.verdict.detail)]),
        "",
        "## Where",
        "",
        *(
            f"- {name}: {_code(value)}"
            for name, value in (
                ("browser", where.browser),
                ("adapter", where.adapter),
                ("onnxruntime-web", where.engine),
                ("build", where.module),
                ("system", where.system),
            )
        ),
        "",
        found,
        "",
    ]
    return "\n".join(lines)


def _signature(array: NDArray[Any]) -> str:
    return f"{array.dtype}{list(array.shape)}"


def _page(blame: Blame, where: Surroundings) -> str | None:
    """Return the page; None where model and tensors are too much for one, or a dtype that a page has not."""
    arrays = [*blame.feeds.values(), *blame.expected.values()]
    if len(blame.model) + sum(array.nbytes for array in arrays) > PAGE_BYTES:
        return None
    if any(array.dtype.kind not in "fiub" for array in arrays):
        return None
    title = f"{blame.operator[:80]}: {blame.verdict.kind}"
    data = {
        "title": title,
        "detail": blame.verdict.detail,
        "where": dataclasses.asdict(where),
        "reference": blame.reference,
        "ort": _ORT.format(version=where.engine),
        "module": where.module,
        "provider": where.provider,
        "model": _zipped(blame.model),
        "inputs": {name: _packed(array) for name, array in blame.feeds.items()},
        "expected": {
            name: _packed(
                array, blame.verdict.differences[name].tolerance if name in blame.verdict.differences else None
            )
            for name, array in blame.expected.items()
        },
    }
    template = resources.files("pytest_webaccel.parity").joinpath("case.html").read_text(encoding="utf-8")
    # "<" cannot end the element that holds the data, nor begin a comment in it.
    held = json.dumps(data).replace("<", "\\u003c")
    return template.replace("TITLE", html.escape(title)).replace('"DATA"', held)


def _zipped(data: bytes) -> str:
    """Return bytes as the page reads them: gzip, in Base64. The same bytes, the same text."""
    return base64.b64encode(gzip.compress(data, mtime=0)).decode()


def _packed(array: NDArray[Any], rule: Tolerance | None = None) -> dict[str, Any]:
    rule = rule or tolerance_for(array.dtype)
    little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"))
    return {
        "dtype": array.dtype.name,
        "shape": list(array.shape),
        "data": _zipped(little.tobytes()),
        "atol": rule.atol,
        "rtol": rule.rtol,
    }
