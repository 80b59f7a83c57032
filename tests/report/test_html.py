from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest

from pytest_webaccel.errors import HistoryError
from pytest_webaccel.history import record
from pytest_webaccel.report import standalone
from pytest_webaccel.report.data import ReportData
from pytest_webaccel.report.extra import test_extra as extra
from pytest_webaccel.report.figures import pictures
from pytest_webaccel.report.section import section
from pytest_webaccel.terms import Evidence

from .samples import HOSTILE, a_recovery, a_test, a_whole_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_webaccel.rows import Row

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Reader(HTMLParser):
    """Reads a page strictly enough to see a tag that text brought in, or one left open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words.append(data)


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


def assert_harmless(html: str) -> Reader:
    reader = read(html)
    html.encode("utf-8")
    for tag, attributes in reader.tags:
        assert tag not in {"script", "iframe", "object", "link", "base", "foreignobject"}
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href"):
            value = attributes.get(name) or ""
            assert value == "" or value.startswith(("#", "data:image/png;base64,"))
    return reader


@pytest.mark.parametrize(
    "make",
    [section, standalone.page, lambda data: extra([*data.tests, *data.recoveries, *data.parity, *data.measurements])],
)
def test_hostile_text_in_every_field_stays_text(make):
    html = make(ReportData.from_rows(a_whole_run(extra=HOSTILE), notes=[HOSTILE]))
    reader = assert_harmless(html)
    assert "<script>window.pwned=1</script>" in "".join(reader.words)


def test_png_figures_are_data_urls_with_alternative_text():
    reader = assert_harmless(section(ReportData.from_rows(a_whole_run()), png=True))
    images = [attributes for tag, attributes in reader.tags if tag == "img"]
    assert len(images) == 4
    assert all((image["alt"] or "").startswith(("Success", "Recovery", "Mean", "Duration")) for image in images)


def test_a_page_says_who_where_what_and_how_good_the_evidence_is():
    words = " ".join(read(standalone.page(ReportData.from_rows(a_whole_run()))).words)
    for fact in ("4711", "comparative", "chromium 153.0", "SwiftShader", "software evidence", "crashes", "worker died",
                 "no lane for it", "no Firefox found", "LSTM", "subgroups", "5.5 ms", "Wilson interval"):  # fmt: skip
        assert fact in words


def test_ids_in_a_page_are_unique_and_every_reference_meets_one():
    rows = [*a_whole_run(), *a_whole_run(Evidence.FAKE)]
    reader = read(standalone.page(ReportData.from_rows(rows)))
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = {(attributes.get("href") or "")[1:] for tag, attributes in reader.tags if tag == "use"}
    assert used
    assert used <= set(ids)


def test_grades_never_share_a_figure_and_fake_ones_say_so():
    rows = [*a_whole_run(), *a_whole_run(Evidence.FAKE, tries=2)]
    data = ReportData.from_rows(rows)
    drawn = pictures(data)
    assert [(picture.name, picture.evidence) for picture in drawn] == [
        (name, grade)
        for grade in (Evidence.SOFTWARE, Evidence.FAKE)
        for name in ("success-board", "recovery-times", "recovery-phases", "durations")
    ]
    counts = {
        picture.evidence: {row[2] for row in picture.rows} for picture in drawn if picture.name == "recovery-times"
    }
    assert counts == {Evidence.SOFTWARE: {"4"}, Evidence.FAKE: {"2"}}
    watermarked = {
        picture.evidence for picture in drawn if any("FAKE" in text.get_text() for text in picture.figure.texts)
    }
    assert watermarked == {Evidence.FAKE}
    assert "measure nothing" in section(data)


def test_figures_are_the_same_each_time_and_carry_no_date_or_style():
    rows = a_whole_run()
    one, two = ([picture.svg() for picture in pictures(ReportData.from_rows(rows))] for _ in range(2))
    assert one == two
    assert all("style" not in svg and "<metadata" not in svg and "<text" not in svg for svg in one)


def test_figures_leave_the_users_matplotlib_settings_alone():
    import matplotlib as mpl

    with mpl.rc_context({"font.size": 33.0}):
        [picture.png(40) for picture in pictures(ReportData.from_rows(a_whole_run()))]
        assert mpl.rcParams["font.size"] == 33.0
    assert "matplotlib.pyplot" not in sys.modules


def test_values_that_are_no_numbers_are_left_out_of_figures():
    rows: list[Row] = [a_recovery(total_ms=value) for value in (float("nan"), float("inf"), -1.0)]
    rows += [a_test(duration_ms=float("nan")), a_recovery(outcome="failed", total_ms=0.0)]
    data = ReportData.from_rows(rows)
    assert_harmless(standalone.page(data))
    times = next(picture for picture in pictures(data) if picture.name == "recovery-times")
    assert times.rows[0][2:4] == ("4", "none recovered")


def drawn_times(rows: Sequence[Row]) -> tuple[tuple[str, ...], Any]:
    """Return the words of the one fault that there is, and the axes that it is drawn on."""
    (picture,) = [one for one in pictures(ReportData.from_rows(rows)) if one.name == "recovery-times"]
    return picture.rows[0], picture.figure.axes[0]


def crosses(axes: Any) -> list[float]:
    return sorted(
        float(x) for dots in axes.collections if dots.get_zorder() == 4 for x, _ in dots.get_offsets().tolist()
    )


def test_what_failed_is_drawn_as_a_cross_where_it_was_given_up_and_counts_as_longest():
    recovered = [a_recovery(total_ms=float(ms)) for ms in range(100, 110)]
    failed = [a_recovery(outcome="failed", total_ms=ms) for ms in (500.0, 700.0)]
    words, axes = drawn_times([*recovered, *failed])
    assert crosses(axes) == [500.0, 700.0]
    assert words[2:4] == ("12", "median 106 ms")
    assert words[5:] == ("", "2", "0"), "the 95th percentile falls among what failed"


def test_a_median_among_failures_is_not_drawn():
    recovered = [a_recovery(total_ms=float(ms)) for ms in range(100, 104)]
    words, axes = drawn_times([*recovered, *(a_recovery(outcome="failed", total_ms=900.0) for _ in range(6))])
    assert words[3] == "half or more failed"
    assert len(axes.lines) == 0


def test_what_says_nothing_of_time_is_counted_apart_and_drawn_nowhere():
    unknown = [a_recovery(outcome="unknown", total_ms=0.0), a_recovery(outcome="failed", total_ms=0.0)]
    words, axes = drawn_times([a_recovery(total_ms=100.0), a_recovery(total_ms=120.0), *unknown])
    assert crosses(axes) == []
    assert words[6:] == ("1", "1")
    assert words[3] == "median 120 ms"


def test_rungs_kinds_and_steps_saved_are_shown_of_every_fault():
    row = a_recovery(rungs="reconnect,new_page", kind="page_loop", point="mid_request", steps=9, steps_saved=4)
    words = " ".join(read(section(ReportData.from_rows([row]))).words)
    assert "reconnect → new_page" in words
    assert "4 of 9 steps saved" in words
    assert "page_loop" in words


def test_a_run_without_faults_says_how_to_plan_one():
    words = " ".join(read(section(ReportData.from_rows([a_test()]))).words)
    assert "No faults were planned in this run" in words
    assert "--webaccel-fault" in words
    assert read(standalone.page(ReportData())).open == []


def test_a_long_run_stays_a_page_that_opens():
    rows = [a_recovery(total_ms=float(n + 1)) for n in range(5000)]
    html = section(ReportData.from_rows(rows))
    assert "4500 more are in the database" in html
    assert len(html) < 1_500_000


def test_an_extra_says_what_happened_and_is_empty_when_nothing_did():
    words = " ".join(read(extra([a_test(), a_recovery(outcome="unknown", attempts=2, lost=1)])).words)
    for fact in (
        "chromium:webgpu",
        "browser_crash",
        "simple",
        "unknown",
        "100 ms in all",
        "load 50 ms",
        "2 attempts",
        "1 lost",
    ):
        assert fact in words
    assert extra([]) == ""
    assert extra([a_test(lane="")]) == ""


def test_the_page_is_written_whole_to_new_folders_and_over_old_files(tmp_path):
    target = tmp_path / "a" / "r.html"
    record(tmp_path / "h.duckdb", a_whole_run(), "r")
    for _ in range(2):
        assert standalone.from_database(tmp_path / "h.duckdb", target) == target
    assert target.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert [each.name for each in target.parent.iterdir()] == ["r.html"]


def test_a_page_that_cannot_be_written_says_where_and_leaves_nothing(tmp_path):
    (tmp_path / "r.html").mkdir()
    with pytest.raises(HistoryError, match="--webaccel-report"):
        standalone.write(ReportData(), tmp_path / "r.html")
    assert [each.name for each in tmp_path.iterdir()] == ["r.html"]


def test_importing_the_report_loads_nothing_heavy():
    code = (
        "import sys, pytest_webaccel.report.pytest_html, pytest_webaccel.report.standalone, "
        "pytest_webaccel.report.gates, pytest_webaccel.report.terminal\n"
        "heavy = {'duckdb', 'numpy', 'matplotlib', 'scipy', 'pytest_html', 'aiohttp'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
