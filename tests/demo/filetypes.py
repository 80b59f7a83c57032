"""Bytes in, a file type out: what magika needs around the model, and files of known type."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["as_features", "as_types", "read_config", "samples"]


def read_config(path: Path) -> Mapping[str, Any]:
    """Return the model's configuration; ValueError when it asks for features this module does not make."""
    config: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if config["mid_size"] or config["use_inputs_at_offsets"]:
        raise ValueError(f"{path.name}: features from the middle of a file are not made here")
    return config


def as_features(data: bytes, config: Mapping[str, Any]) -> NDArray[np.int32]:
    """Return i32[beg_size + end_size]: the first and the last bytes of a file, one number a byte.

    A block from each end is stripped of white space first; what is too short is padded towards the
    middle with ``padding_token``.
    """
    block, token = config["block_size"], config["padding_token"]
    begin = data[:block].lstrip()[: config["beg_size"]]
    end = data[-block:].rstrip()[-config["end_size"] :]
    features = np.full(config["beg_size"] + config["end_size"], token, np.int32)
    features[: len(begin)] = list(begin)
    features[len(features) - len(end) :] = list(end)
    return features


def as_types(scores: NDArray[Any], config: Mapping[str, Any]) -> list[str]:
    """Return the best type for each row of ``scores``, f32[n, types]; ``?`` where the model is not sure."""
    found = []
    for row in scores:
        name = config["target_labels_space"][int(row.argmax())]
        needed = config["thresholds"].get(name, config["medium_confidence_threshold"])
        found.append(name if row.max() >= needed else "?")
    return found


def samples() -> Mapping[str, bytes]:
    """Return small files by their type, in magika's words."""
    return {
        "python": PYTHON.encode(),
        "json": json.dumps({"lanes": ["webgpu", "webnn"], "limits": {"seconds": 90}, "note": None}, indent=2).encode(),
        "pdf": PDF.encode(),
        "png": _png(),
    }


def _png() -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").save(file, "PNG")
    return file.getvalue()


PYTHON = '''"""Counts the words of a text."""

from __future__ import annotations

import collections
import re
import sys


def count(text: str) -> dict[str, int]:
    """Return how often each word of ``text`` occurs."""
    return dict(collections.Counter(word.lower() for word in re.findall(r"\\w+", text)))


if __name__ == "__main__":
    for word, times in sorted(count(sys.stdin.read()).items()):
        print(f"{word}: {times}")
'''

PDF = """%PDF-1.4
1 0 obj
<< /Type /Catalog /Pages 2 0 R >>
endobj
2 0 obj
<< /Type /Pages /Kids [3 0 R] /Count 1 >>
endobj
3 0 obj
<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R
   /Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>
endobj
4 0 obj
<< /Length 41 >>
stream
BT /F1 24 Tf 72 720 Td (Hello GPU) Tj ET
endstream
endobj
trailer
<< /Size 5 /Root 1 0 R >>
%%EOF
"""
