"""What runs in the app's page beside the app: the script that watches its devices, and the harm that faults do."""

from __future__ import annotations

import functools
import json
import re
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["attend", "harm", "init_script", "next_loss", "probe"]

_KEY = "globalThis.__webaccel"
#: Bytes by which one address is made longer at most; servers take 8,000 or more.
_PADDING_BYTES = 4000
_IMPORT = re.compile(r"^import [^;]*;\n", re.MULTILINE)
_EXPORT = re.compile(r"^export ", re.MULTILINE)


@functools.cache
def _source(name: str) -> str:
    return (resources.files("pytest_webaccel") / "page" / name).read_text(encoding="utf-8")


def init_script() -> str:
    """Return the script that every document of the app runs first."""
    return _source("app.mjs")


def attend() -> str:
    """Return the expression that makes ready for a fault; its value has ``id``, ``total``, ``gpus``, ``address``."""
    return f"{_KEY}.attend()"


def next_loss(known: int) -> str:
    """Return the expression that answers once more than ``known`` devices were lost: ``id``, ``losses``, ``total``."""
    return f"{_KEY}.next({known:d})"


def probe(number: int, size: int = 0) -> str:
    """Return the expression that is answered by way of the page's own script and its connection to its server.

    At least ``size`` bytes go to the server, in the addresses of requests that are each short enough for any.
    """
    count, padding = max(1, -(-size // _PADDING_BYTES)), min(size, _PADDING_BYTES)
    return f"""(async () => {{
  for (let part = 0; part < {count:d}; part++) {{
    const address = `/?webaccel-probe={number:d}.${{part}}{"x" * padding}`;
    await fetch(address, {{ method: "HEAD", cache: "no-store" }});
  }}
}})()"""


def harm(kind: str, arguments: Mapping[str, Any]) -> str:
    """Return the expression that has the page harm itself as a lane's page does (``page/harm.mjs``).

    Its value is an object with ``value``, or with ``error``: ``kind`` and ``message``. It stands on no module that the
    page would have to fetch, since the app's own server and its rules have no part in this.
    """
    body = _EXPORT.sub("", _IMPORT.sub("", _source("harm.mjs")))
    given = json.dumps({"kind": kind, **arguments})
    return f"""(async () => {{
  const page = {_KEY};
  page.harm ??= (() => {{
    const {{ OperationError, within }} = page;
    {body}
    return harm;
  }})();
  try {{
    return {{ value: (await page.harm({given}, page.lane({json.dumps(kind)}))) ?? null }};
  }} catch (error) {{
    return {{ error: {{ kind: String(error.kind ?? "page"), message: String(error.message ?? error).slice(0, 500) }} }};
  }}
}})()"""
