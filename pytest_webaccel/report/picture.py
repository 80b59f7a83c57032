"""A figure with its words: alternative text, data table, and its forms as SVG and PNG.

The SVG carries no script, no style sheet and no style attribute, only presentation attributes, so
that it shows under a content policy that forbids inline styles. It is the same for the same data.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from pytest_webaccel.report.palette import INK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.figure import Figure

    from pytest_webaccel.terms import Evidence

__all__ = ["Picture", "drawing", "label"]

#: Settings under which figures are built and saved; they never leak into the user's own.
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "path",
    "svg.hashsalt": "pytest-webaccel",
    "text.parse_math": False,
    "text.usetex": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.unicode_minus": False,
}

_REFERENCE = re.compile(r"url\(#([^)]+)\)")


@contextmanager
def drawing() -> Iterator[None]:
    """Draw and save under this project's settings, starting from matplotlib's defaults."""
    import matplotlib as mpl

    # The user's own style, or a matplotlibrc in the working folder, must not change a report.
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        yield


def label(text: str, longest: int = 24) -> str:
    """Return ``text`` for a figure: printable ASCII, which the font surely has, and not too long."""
    plain = "".join(letter if " " <= letter <= "~" else "?" for letter in text)
    return plain if len(plain) <= longest else plain[: longest - 3] + "..."


@dataclasses.dataclass(frozen=True)
class Picture:
    """One figure for one grade of evidence. ``header`` and ``rows`` are its data as text."""

    name: str
    title: str
    evidence: Evidence
    alt: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    figure: Figure

    def svg(self) -> str:
        """Return an ``<svg>`` element that can stand in an HTML page, beside others."""
        buffer = io.BytesIO()
        with drawing():
            self.figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        return _inline(buffer.getvalue(), f"{self.name}-{self.evidence}", self.alt)

    def png(self, dots_per_inch: int = 144) -> bytes:
        """Return the figure as a PNG image on white."""
        buffer = io.BytesIO()
        with drawing():
            self.figure.savefig(buffer, format="png", dpi=dots_per_inch, facecolor="white", metadata={"Software": None})
        return buffer.getvalue()

    def png_data_url(self) -> str:
        """Return the PNG as a ``data:`` URL, for viewers that block SVG."""
        return "data:image/png;base64," + base64.b64encode(self.png()).decode("ascii")


def _inline(document: bytes, prefix: str, alt: str) -> str:
    """Return matplotlib's SVG as an element whose ids and styles touch nothing outside it."""
    root = ET.fromstring(document)  # noqa: S314 - matplotlib wrote it a moment ago, from plain labels
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in {"metadata", "style"}:
                parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = dict(_attributes(element.attrib, prefix))
    box = root.attrib.get("viewBox", "")
    root.attrib = {
        "xmlns": "http://www.w3.org/2000/svg",
        "viewBox": box,
        "width": "100%",
        "role": "img",
        "aria-label": alt.encode("utf-8", "replace").decode("utf-8"),
        # What the removed style sheet said, inherited from here.
        "stroke-linejoin": "round",
        "stroke-linecap": "butt",
    }
    return ET.tostring(root, encoding="unicode")


def _attributes(attributes: dict[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in attributes.items():
        name = _local(key)
        if name == "style":
            for part in str(value).split(";"):
                key_part, _, value_part = part.partition(":")
                if key_part.strip():
                    yield key_part.strip(), _value(value_part.strip(), prefix)
        elif name == "id":
            yield name, f"{prefix}-{value}"
        elif name == "href":
            yield name, f"#{prefix}-{str(value).removeprefix('#')}"
        else:
            yield name, _value(str(value), prefix)


def _value(value: str, prefix: str) -> str:
    if value.lower() == INK:
        return "currentColor"
    return _REFERENCE.sub(lambda found: f"url(#{prefix}-{found[1]})", value)


def _local(name: str) -> str:
    return name.rpartition("}")[2]
