"""The documents as data: their fenced blocks, tables, links and headings."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: Every document that a reader may meet, by its path from the root.
PAGES: dict[str, str] = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "kernels/README.md", *sorted(ROOT.glob("docs/*.md"))]
}

REFERENCE = PAGES["docs/reference.md"]

_FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<body>.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block: its language, the words and ``key="value"`` pairs after it, its text, and where it stands."""

    page: str
    line: int
    language: str
    options: dict[str, str]
    body: str

    @property
    def title(self) -> str:
        return self.options.get("title", "")

    def __str__(self) -> str:
        return f"{self.page}:{self.line}" + (f" {self.title}" if self.title else "")

    def commands(self) -> list[list[str]]:
        """The commands of a console block as argument lists, ``&&`` split and ``python3``, ``time`` left out."""
        found = []
        for line in self.body.replace("\\\n", " ").splitlines():
            assert line.startswith("$ "), f"{self}: a console block holds commands only, each after '$ ': {line!r}"
            for command in line[2:].split(" && "):
                words = shlex.split(command)
                words = words[1:] if words[0] == "time" else words
                assert words[0] in {"python", "python3"}, f"{self}: {command!r} does not start with python"
                found.append(words[1:])
        return found


def _blocks(page: str, text: str) -> list[Block]:
    found = []
    for match in _FENCE.finditer(text):
        language, *words = shlex.split(match["info"])
        options = dict(word.partition("=")[::2] for word in words)
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(page, line, language, options, match["body"]))
    return found


BLOCKS: list[Block] = [block for page, text in PAGES.items() for block in _blocks(page, text)]


def blocks(language: str, page: str | None = None) -> list[Block]:
    return [block for block in BLOCKS if block.language == language and page in (None, block.page)]


def files(page: str) -> dict[str, str]:
    """The Python files that a page's examples are, by name."""
    return {block.title: block.body for block in blocks("python", page) if block.title}


def prose(page: str) -> str:
    """The text of a page without its fenced blocks."""
    return _FENCE.sub("", PAGES[page])


def section(text: str, heading: str) -> str:
    """What stands under ``heading`` (given with its hashes), up to the next heading of that level or above."""
    level = heading.split(" ", 1)[0]
    begin = text.index(f"\n{heading}\n") + len(heading) + 2
    end = re.search(rf"^#{{1,{len(level)}}} ", text[begin:], re.MULTILINE)
    return text[begin : begin + end.start()] if end else text[begin:]


def rows(text: str) -> list[list[str]]:
    """The cells of every table row in ``text``, headers and rules left out."""
    found = []
    for line in text.splitlines():
        if line.startswith("| ") and not line.startswith("| ---"):
            found.append([cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return found


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, made as GitHub makes them."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        plain = heading.replace("`", "").strip().lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"))
    return found
