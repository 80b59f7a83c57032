"""The documents name what exists, and what exists is documented."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING

import pytest

from pytest_webaccel import errors, faces, fixtures, hookspecs, testing
from pytest_webaccel.__main__ import _parser
from pytest_webaccel.app import AppFaults, AppPage
from pytest_webaccel.bridge.frames import CHUNK_BYTES, HEADER_BYTES
from pytest_webaccel.bridge.protocol import PROTOCOL_VERSION, Limits
from pytest_webaccel.declarations import MARKERS, OPTIONS
from pytest_webaccel.engines.onnx import AUTOMATIC_BUILDS
from pytest_webaccel.faults import INJECTORS
from pytest_webaccel.history.columns import columns
from pytest_webaccel.history.schema import VERSION
from pytest_webaccel.parity.tolerance import TOLERANCES
from pytest_webaccel.recovery.strategies import STRATEGIES
from pytest_webaccel.rows import TABLES
from pytest_webaccel.terms import Backend, Evidence, Fault, FaultPoint, LaneState, Mode, Strategy, Symptom
from tests.docs.pages import PAGES, REFERENCE, ROOT, anchors, prose, rows, section

if TYPE_CHECKING:
    from collections.abc import Iterable

OTHER_VARIABLES = {"PYTEST_WEBACCEL_ADAPTER", "PYTEST_WEBACCEL_CACHE"}


def words_in(text: str) -> set[str]:
    """What stands in backticks, up to the first character that ends a name."""
    return {match for quoted in re.findall(r"`([^`]+)`", text) for match in re.findall(r"^[\w.-]+", quoted)}


# -- flags -----------------------------------------------------------------------------------


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_option_has_its_row_in_the_reference(option):
    flag = option.flag + (f" {option.metavar}" if option.metavar else "")
    assert [f"`{flag}`", f"`{option.ini}`", f"`{option.environment}`", option.help] in rows(REFERENCE)


@pytest.mark.parametrize("document", PAGES)
def test_page_names_only_flags_and_variables_that_exist(document):
    flags = {option.flag for option in OPTIONS} | {f"--no-{o.flag[2:]}" for o in OPTIONS if o.is_switch}
    variables = {option.environment for option in OPTIONS} | OTHER_VARIABLES
    assert set(re.findall(r"--(?:no-)?webaccel-[a-z-]+[a-z]", PAGES[document])) <= flags
    assert set(re.findall(r"PYTEST_WEBACCEL_\w+", PAGES[document])) <= variables


# -- markers, fixtures, errors, commands -------------------------------------------------------


@pytest.mark.parametrize("line", MARKERS, ids=lambda line: line.split("(")[0])
def test_marker_and_each_of_its_arguments_is_documented(line):
    signature = line.split("):")[0] + ")"
    text = section(REFERENCE, f"### `@pytest.mark.{signature}`")
    for argument in re.findall(r"(\w+)=?[,)]", signature):
        assert f"| `{argument}` |" in text


@pytest.mark.parametrize(
    ("fixture", "face"),
    [("webaccel", faces.WebAccel), ("webaccel_faults", faces.Faults), ("webaccel_pool", faces.PoolFace)],
)
def test_fixture_and_everything_public_on_it_is_documented(fixture, face):
    text = section(REFERENCE, f"### `{fixture}`")
    source = inspect.getsource(face)
    public = {name for name in vars(face) if not name.startswith("_")} - {"finish"}
    public |= set(re.findall(r"self\.([a-z]\w*)\b[^=\n]* = ", source))
    assert {row[0].strip("`").split("(")[0] for row in rows(text)} >= public
    for name in public:
        member = getattr(face, name, None)
        if inspect.isfunction(member):
            documented = next(row[0] for row in rows(text) if row[0].startswith(f"`{name}("))
            parameters = [name for name in inspect.signature(member).parameters if name != "self"]
            assert re.findall(r"(\w+)(?:=[^,)]*)?[,)]", documented) == parameters


@pytest.mark.parametrize("face", [AppPage, AppFaults], ids=lambda face: face.__name__)
def test_everything_public_of_an_app_is_documented_with_its_parameters(face):
    documented = {
        row[0].strip("`").partition("(")[0]: row[0] for row in rows(section(REFERENCE, "### `webaccel_page`"))
    }
    public = {name for name in vars(face) if not name.startswith("_")} - {"finish"}
    assert set(documented) >= public
    for name in public - {"plan"}:
        member = getattr(face, name)
        if inspect.isfunction(member):
            parameters = [name for name in inspect.signature(member).parameters if name != "self"]
            assert re.findall(r"(\w+)(?:=[^,)]*)?[,)]", documented[name]) == parameters


def test_every_fixture_is_documented():
    public = {name for name in fixtures.__all__ if name.startswith("webaccel")}
    assert public == set(re.findall(r"^### `(webaccel\w*)`$", REFERENCE, re.MULTILINE))


@pytest.mark.parametrize("name", hookspecs.__all__)
def test_hook_and_its_arguments_are_documented(name):
    arguments = ", ".join(inspect.signature(getattr(hookspecs, name)).parameters)
    assert f"| `{name}({arguments})` |" in section(REFERENCE, "## Hooks")


def test_every_error_is_documented():
    assert set(errors.__all__) <= words_in(section(REFERENCE, "## Errors"))


def test_every_public_name_of_testing_is_documented():
    text = section(REFERENCE, "## `pytest_webaccel.testing`")
    assert set(testing.__all__) == words_in("\n".join(row[0] for row in rows(text)))


def test_every_command_and_each_of_its_flags_is_documented():
    text = section(REFERENCE, "## Commands")
    commands = next(action for action in _parser()._actions if action.dest == "command")
    assert isinstance(commands.choices, dict)
    for name, parser in commands.choices.items():
        line = next(row[0] for row in rows(text) if row[0].startswith(f"`python -m pytest_webaccel {name} "))
        for action in parser._actions:
            if action.dest != "help":
                assert (action.option_strings or [action.metavar or "|".join(action.choices or [])])[-1] in line


# -- tables ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TABLES.values(), ids=lambda kind: kind.table)
def test_table_and_each_of_its_columns_is_documented(kind):
    text = section(REFERENCE, "## Tables")
    common = [row[:2] for row in rows(text)][1:5]
    own = [row[:2] for row in rows(section(text, f"### `{kind.table}`"))][1:]
    assert sorted(common + own) == sorted([f"`{column.name}`", column.sql] for column in columns(kind))


def test_schema_version_is_the_documented_one():
    assert f"schema version {VERSION} in `webaccel_schema`" in REFERENCE


# -- the protocol ----------------------------------------------------------------------------


def test_bounds_are_the_documented_ones():
    default = Limits()
    documented = {row[0].strip("`"): row[1] for row in rows(section(REFERENCE, "### Bounds"))[1:]}
    assert documented == {name: str(getattr(default, name)) for name in Limits.__dataclass_fields__}


def test_messages_are_the_documented_ones():
    text = section(REFERENCE, "## The bridge's protocol")
    table = section(text, "### Text frames: a checksum, then a JSON object with a type `t`")
    documented = {row[0].strip("`") for row in rows(table)[1:]}
    python = "".join((ROOT / f"pytest_webaccel/bridge/{name}.py").read_text() for name in ("protocol", "messages"))
    script = (ROOT / "pytest_webaccel/page/session.mjs").read_text()
    spoken = set(re.findall(r'"t": "(\w+)"', python)) | set(re.findall(r'\bt: "(\w+)"', script))
    assert documented == spoken
    assert f"Version {PROTOCOL_VERSION}." in text


def test_operations_are_the_documented_ones():
    script = (ROOT / "pytest_webaccel/page/main.mjs").read_text()
    table = script[script.index("const operations") : script.index("\n};")]
    for operation in re.findall(r"^  (\w+): async", table, re.MULTILINE):
        assert f"`{operation}`" in section(REFERENCE, "## The bridge's protocol")


def test_frame_sizes_are_the_documented_ones():
    assert f"a header of {HEADER_BYTES} bytes" in REFERENCE
    assert f"at most {CHUNK_BYTES >> 20} MiB" in REFERENCE


def test_tolerances_are_the_documented_ones():
    documented = {row[0].strip("`"): row[1:] for row in rows(section(REFERENCE, "### `webaccel`"))}
    for name, tolerance in TOLERANCES.items():
        assert documented[name] == [f"{tolerance.atol}", f"{tolerance.rtol}"]


# -- the words -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [Backend, Evidence, Fault, FaultPoint, LaneState, Mode, Strategy, Symptom],
    ids=lambda words: words.__name__,
)
def test_every_word_of_the_vocabulary_is_explained(words: Iterable[str]):
    assert set(words) <= words_in(PAGES["docs/concepts.md"])


def test_documented_faults_and_strategies_are_those_that_exist():
    concepts = PAGES["docs/concepts.md"]
    faults = {row[0].strip("`") for row in rows(section(concepts, "## Faults are caused"))[1:]}
    strategies = {
        row[0].strip("`") for row in rows(section(concepts, "## Recovery")) if row[0].strip("`") in STRATEGIES
    }
    assert faults == set(INJECTORS) == set(Fault)
    assert strategies == set(STRATEGIES) == set(Strategy)


def test_symptom_of_each_fault_is_the_documented_one():
    documented = {row[0].strip("`"): row[2] for row in rows(section(PAGES["docs/concepts.md"], "## Faults are caused"))}
    for fault, injector in INJECTORS.items():
        assert injector.symptoms == words_in(documented[fault]) & set(Symptom)


def test_automatic_builds_are_the_documented_ones():
    text = " ".join(PAGES["docs/concepts.md"].split())
    builds = AUTOMATIC_BUILDS
    assert builds[Backend.WEBGPU] == builds[Backend.WEBNN]
    assert f"`cpu` lanes get `{builds[Backend.CPU]}`, `webgpu` and `webnn` lanes get `{builds[Backend.WEBGPU]}`" in text


# -- links and places ------------------------------------------------------------------------


@pytest.mark.parametrize("document", PAGES)
def test_links_lead_somewhere(document):
    here = (ROOT / document).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if re.match(r"[a-z]+:", target):
            assert target.startswith("https://")
            continue
        name, _, anchor = target.partition("#")
        path = (here / name).resolve() if name else ROOT / document
        assert path.is_file(), f"{document} links to {target}, which is not there"
        if anchor:
            assert anchor in anchors(str(path.relative_to(ROOT)))


def test_tree_of_the_package_is_the_documented_one():
    tree = PAGES["docs/contributing.md"].split("pytest_webaccel/\n", 1)[1].split("\nkernels/", 1)[0]
    named = set(re.findall(r"[\w/]+\.py|\b\w+/(?=\s)", tree))
    package = ROOT / "pytest_webaccel"
    present = {f"{path.name}/" for path in package.iterdir() if path.is_dir() and path.name != "__pycache__"}
    present |= {path.name for path in package.glob("*.py") if not path.name.startswith("_")}
    assert named == present


def test_every_benchmark_has_its_place_in_the_results():
    text = PAGES["docs/results.md"]
    benches = {path.stem for path in (ROOT / "tests/bench").glob("[a-z]*.py") if "def main(" in path.read_text()}
    opened, closed = (re.findall(rf"<!-- {mark}results:(\w+) -->", text) for mark in ("", "/"))
    assert opened == closed
    assert set(opened) == benches | {"demo", "kernels_alone"}
