from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_webaccel.errors import HistoryError
from pytest_webaccel.history import Spool, read_spool, scan_spool
from pytest_webaccel.history.spool import MAX_LINE_BYTES
from pytest_webaccel.rows import Row, TestRow, TransactionRow, encode_row
from pytest_webaccel.terms import Evidence


def row(test_id: str = "test_x[chromium:cpu]", **changes) -> TestRow:
    values: dict[str, Any] = {"run_id": "r", "evidence": Evidence.SOFTWARE, "lane": "chromium:cpu", "worker": "gw0"}
    return TestRow(**{**values, "test_id": test_id, "outcome": "passed", "duration_ms": 1.5, **changes})


def ids(rows: list[Row]) -> list[str]:
    return [each.test_id for each in rows if isinstance(each, TestRow)]


def test_rows_come_back_equal_and_in_order(tmp_path):
    rows = [row(f"test_{n}") for n in range(5)]
    with Spool(tmp_path / "new" / "folder" / "gw0.jsonl") as spool:
        for each in rows:
            spool.append(each)
    assert read_spool(spool.path) == rows


def test_spool_is_readable_by_its_owner_only(tmp_path):
    with Spool(tmp_path / "s.jsonl"):
        assert (tmp_path / "s.jsonl").stat().st_mode & 0o777 == 0o600


def test_rows_of_a_killed_process_are_all_there(tmp_path):
    path = tmp_path / "s.jsonl"
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from pytest_webaccel.history import Spool\n"
        "from pytest_webaccel.rows import TransactionRow\n"
        "from pytest_webaccel.terms import Evidence\n"
        "spool = Spool(Path(sys.argv[1]))\n"
        "for n in range(300):\n"
        "    spool.append(TransactionRow(run_id='r', evidence=Evidence.FAKE, lane='fake:cpu',\n"
        "                                transaction_id=str(n), state='started', kind='run'))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    rows = read_spool(path)
    assert [each.transaction_id for each in rows if isinstance(each, TransactionRow)] == [str(n) for n in range(300)]


def test_two_writers_of_one_spool_do_not_spoil_each_others_lines(tmp_path):
    with Spool(tmp_path / "s.jsonl") as one, Spool(tmp_path / "s.jsonl") as two:
        for n in range(20):
            one.append(row(f"one{n}"))
            two.append(row(f"two{n}"))
    assert scan_spool(tmp_path / "s.jsonl").invalid == 0
    assert len(read_spool(tmp_path / "s.jsonl")) == 40


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 400))
def test_a_spool_cut_anywhere_gives_its_whole_rows(cut, tmp_path_factory):
    path = tmp_path_factory.mktemp("cut") / "s.jsonl"
    lines = [encode_row(row(f"test_{n}")).encode() + b"\n" for n in range(3)]
    whole = b"".join(lines)
    end = max(0, len(whole) - cut)
    path.write_bytes(whole[:end])
    contents = scan_spool(path)
    # A last line that lacks only its newline is still whole.
    expected = sum(end >= len(b"".join(lines[: n + 1])) - 1 for n in range(3))
    assert len(contents.rows) == expected
    assert contents.invalid == 0


def test_appending_after_a_torn_line_loses_that_line_only(tmp_path):
    path = tmp_path / "s.jsonl"
    path.write_bytes(encode_row(row("first")).encode() + b"\n" + b'{"table":"tests","run_')
    assert scan_spool(path).torn
    with Spool(path) as spool:
        spool.append(row("second"))
    contents = scan_spool(path)
    assert ids(contents.rows) == ["first", "second"]
    assert contents.invalid == 1
    assert not contents.torn


@settings(max_examples=150, deadline=None)
@given(garbage=st.binary(max_size=300))
def test_garbage_is_counted_and_never_raises(garbage, tmp_path_factory):
    path = tmp_path_factory.mktemp("garbage") / "s.jsonl"
    path.write_bytes(garbage + b"\n" + encode_row(row("good")).encode() + b"\n")
    contents = scan_spool(path)
    assert ids(contents.rows)[-1:] == ["good"]
    assert contents.invalid == sum(1 for line in garbage.split(b"\n") if line.strip())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"duration_ms": "fast"}, "duration_ms is not a number"),
        ({"duration_ms": True}, "duration_ms is not a number"),
        ({"lane": 3}, "lane is not text"),
        ({"at": "yesterday"}, "at is not ISO 8601 text"),
    ],
)
def test_a_row_with_a_value_of_the_wrong_type_is_invalid(tmp_path, changes, words):
    path = tmp_path / "s.jsonl"
    path.write_text(encode_row(row(**changes)) + "\n", encoding="utf-8")
    contents = scan_spool(path)
    assert (contents.rows, contents.invalid) == ([], 1)
    assert words in contents.problem


def test_a_deeply_nested_line_is_invalid_and_not_a_crash(tmp_path):
    path = tmp_path / "s.jsonl"
    path.write_text("[" * 200_000 + "\n", encoding="utf-8")
    assert scan_spool(path).invalid == 1


def test_an_overlong_line_is_skipped_in_bounded_pieces(tmp_path):
    path = tmp_path / "s.jsonl"
    path.write_bytes(b"x" * (MAX_LINE_BYTES * 2 + 7) + b"\n" + encode_row(row("after")).encode() + b"\n")
    contents = scan_spool(path)
    assert ids(contents.rows) == ["after"]
    assert contents.invalid == 1


def test_an_overlong_row_is_refused_before_anything_is_written(tmp_path):
    with Spool(tmp_path / "s.jsonl") as spool:
        with pytest.raises(HistoryError, match="Shorten its text"):
            spool.append(row("x" * MAX_LINE_BYTES))
        assert spool.path.read_bytes() == b""


def test_invalid_lines_are_reported_in_the_log(tmp_path, caplog):
    path = tmp_path / "s.jsonl"
    path.write_text("nonsense\n", encoding="utf-8")
    assert read_spool(path) == []
    assert "1 invalid lines left out" in caplog.text


def test_a_missing_spool_is_empty_and_an_unreadable_one_is_reported(tmp_path):
    assert read_spool(tmp_path / "none.jsonl") == []
    assert "cannot be read" in scan_spool(tmp_path).problem


def test_a_full_disk_says_so():
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with Spool(Path("/dev/full")) as spool, pytest.raises(HistoryError, match="No space left"):
        spool.append(row())


def test_closing_twice_closes_nobody_elses_file(tmp_path):
    spool = Spool(tmp_path / "s.jsonl")
    spool.close()
    with (tmp_path / "other").open("wb", buffering=0) as other:  # takes the number that the spool gave back
        spool.close()
        assert other.write(b"still open") == 10
