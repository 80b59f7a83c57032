"""The lane's page as the bridge serves it."""

from __future__ import annotations

import re
from importlib import resources

PAGE = resources.files("pytest_webaccel") / "page"
_IMPORT = re.compile(r'^import .*"\./([\w.]+)";$', re.MULTILINE)


def _imported(name: str) -> set[str]:
    """Return what a module imports when it is loaded, and all that those import."""
    found = set(_IMPORT.findall((PAGE / name).read_text(encoding="utf-8")))
    return found.union(*(_imported(other) for other in found))


def test_the_page_asks_for_every_module_at_once():
    asked = re.findall(r'rel="modulepreload" href="/page/([\w.]+)"', (PAGE / "lane.html").read_text(encoding="utf-8"))
    assert sorted(asked) == sorted(_imported("main.mjs"))
