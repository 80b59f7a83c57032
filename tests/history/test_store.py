from __future__ import annotations

import math
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_webaccel.errors import HistoryError
from pytest_webaccel.history import Store, expected_durations, record, schema
from pytest_webaccel.rows import (
    TABLES,
    ConformanceRow,
    LaneRow,
    MeasurementRow,
    ParityRow,
    PlacementRow,
    RecoveryRow,
    Row,
    RunRow,
    TestRow,
    TransactionRow,
)
from pytest_webaccel.terms import Evidence, Mode

if TYPE_CHECKING:
    from pathlib import Path
from typing import Any


def a_test(test_id: str = "test_x[chromium:cpu]", **changes) -> TestRow:
    values: dict[str, Any] = {"run_id": "r", "evidence": Evidence.SOFTWARE, "lane": "chromium:cpu", "worker": "gw0"}
    return TestRow(**{**values, "test_id": test_id, "outcome": "passed", "duration_ms": 1.5, **changes})


def a_run(run_id: str = "r", **changes) -> RunRow:
    values: dict[str, Any] = {
        "run_id": run_id,
        "evidence": Evidence.SOFTWARE,
        "started_at": "2026-01-02T03:04:05.000006+00:00",
        "finished_at": "2026-01-02T03:05:05.000006+00:00",
        "mode": Mode.BASIC,
        "seed": 7,
        "versions": {"plugin": "0.1.0", "browsers": {"chromium": "153"}},
        "host": "h",
        "exit_status": 0,
    }
    return RunRow(**{**values, **changes})


def one_of_each() -> list[Row]:
    base: dict[str, Any] = {"run_id": "r", "evidence": Evidence.SOFTWARE}
    where: dict[str, Any] = {**base, "test_id": "t[chromium:webgpu]", "lane": "chromium:webgpu", "model": "magika"}
    return [
        a_run(),
        LaneRow(
            **base,
            lane="chromium:webgpu",
            browser="chromium",
            browser_version="153",
            backend="webgpu",
            adapter="SwiftShader",
            features=["subgroups"],
            worker="gw0",
            host="h",
        ),
        a_test(),
        RecoveryRow(
            **where,
            fault="device_lost",
            strategy="simple",
            outcome="recovered",
            total_ms=10,
            detect_ms=1,
            reassign_ms=2,
            load_ms=3,
            restore_ms=0,
            replay_ms=4,
            attempts=1,
            duplicated=0,
            lost=0,
        ),
        MeasurementRow(**where, family="", engine="onnx", bits=16, metric="run", value=math.inf, unit="ms"),
        TransactionRow(**base, lane="chromium:webgpu", transaction_id="1", state="committed", kind="run"),
        ParityRow(
            **where,
            output="y",
            reference="onnxruntime",
            agrees=True,
            max_abs=1e-6,
            max_ulp=2,
            tolerance=1e-4,
            placement={"wasm": 2},
        ),
        PlacementRow(
            **where,
            build="jsep",
            version="1.30.0",
            provider="CPUExecutionProvider",
            nodes=2,
            operators={"Conv": 1, "Shape": 1},
            names=["Conv (a)"],
        ),
        ConformanceRow(
            **base,
            test_id="t[chromium:webgpu]",
            lane="chromium:webgpu",
            case="test_abs",
            operator="Abs",
            opset=13,
            kind="agrees",
            expected="agrees",
            detail="",
            build="jsep",
            version="1.30.0",
            ms=3.0,
            placement={"JsExecutionProvider": 1},
        ),
    ]


def test_a_row_of_every_table_comes_back_equal(tmp_path):
    rows = one_of_each()
    with Store.open(tmp_path / "h.duckdb") as store:
        assert store.add(rows) == len(rows)
    with Store.open(tmp_path / "h.duckdb", read_only=True) as store:
        assert [each for kind in TABLES.values() for each in store.rows(kind)] == rows


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    number=st.floats(allow_nan=False),
    seed=st.integers(-(2**127), 2**127 - 1),
)
def test_any_text_and_number_comes_back_equal(tmp_path_factory, text, number, seed):
    path = tmp_path_factory.mktemp("db") / "h.duckdb"
    rows = [a_test(text, duration_ms=number, reason=text), a_run(seed=seed, versions={text: [text, None, 1.5]})]
    with Store.open(path) as store:
        store.add(rows)
        assert [*store.rows(TestRow), *store.rows(RunRow)] == rows


def test_text_that_utf8_cannot_carry_is_replaced_and_not_refused(tmp_path):
    with Store.open(tmp_path / "h.duckdb") as store:
        store.add([a_test("bad \ud800 id")])
        assert store.rows(TestRow)[0].test_id == "bad ? id"


def test_a_row_that_comes_twice_is_kept_once(tmp_path):
    twice = a_test()
    with Store.open(tmp_path / "h.duckdb") as store:
        assert store.add([twice, twice]) == 1
        assert store.add([twice]) == 0
        assert store.rows(TestRow) == [twice]


def test_rows_are_stored_all_or_none(tmp_path):
    with Store.open(tmp_path / "h.duckdb") as store:
        with pytest.raises(HistoryError, match="lane is not text"):
            store.add([a_run(), a_test(lane=None)])
        assert store.runs() == []


def test_the_latest_run_comes_first_and_a_run_written_twice_shows_its_last_word(tmp_path):
    early = a_run("early", at="2026-01-01T00:00:00.000000+00:00")
    late = a_run("late", at="2026-01-02T00:00:00.000000+00:00", exit_status=1)
    later = a_run("late", at="2026-01-02T00:00:01.000000+00:00", exit_status=0)
    with Store.open(tmp_path / "h.duckdb") as store:
        store.add([early, late, later])
        assert store.runs() == [later, early]


def test_recoveries_are_those_of_the_run_asked_for(tmp_path):
    rows = one_of_each()
    with Store.open(tmp_path / "h.duckdb") as store:
        store.add(rows)
        assert store.recoveries("r") == [each for each in rows if isinstance(each, RecoveryRow)]
        assert store.recoveries("another") == []


def test_durations_are_medians_of_the_last_passes_by_test_and_lane(tmp_path):
    rows = [a_test("t", duration_ms=n, at=f"2026-01-01T00:00:{n:02d}.000000+00:00") for n in range(30)]
    rows += [a_test("t", duration_ms=9999.0, outcome="failed"), a_test("t", lane="firefox:cpu", duration_ms=5.0)]
    with Store.open(tmp_path / "h.duckdb") as store:
        store.add(rows)
        assert store.durations(last=3) == {("t", "chromium:cpu"): 28.0, ("t", "firefox:cpu"): 5.0}


def test_expected_durations_are_empty_when_there_is_no_usable_past(tmp_path, caplog):
    (tmp_path / "bad").write_text("not a database at all", encoding="utf-8")
    assert expected_durations(None) == {}
    assert expected_durations(tmp_path / "none") == {}
    assert expected_durations(tmp_path / "bad") == {}
    assert "is not a DuckDB database" in caplog.text


def test_columns_of_the_vocabulary_have_their_types(tmp_path):
    with Store.open(tmp_path / "h.duckdb") as store:
        store.add([a_run()])
    with duckdb.connect(str(tmp_path / "h.duckdb"), read_only=True) as connection:
        found = connection.execute("SELECT column_name, data_type FROM information_schema.columns").fetchall()
        seconds = connection.execute("SELECT epoch(finished_at - started_at) FROM runs").fetchall()
        browser = connection.execute("SELECT versions->'browsers'->>'chromium' FROM runs").fetchall()
    types = dict(found)
    assert types["total_ms"] == "DOUBLE"
    assert types["agrees"] == "BOOLEAN"
    assert types["features"] == types["placement"] == types["versions"] == "JSON"
    assert types["at"] == types["started_at"] == "TIMESTAMP"
    assert seconds == [(60.0,)]
    assert browser == [("153",)]


def test_ten_thousand_rows_are_stored_and_read_whole(tmp_path):
    rows = [a_test(f"t{n}") for n in range(10_000)]
    with Store.open(tmp_path / "h.duckdb") as store:
        assert store.add(rows) == 10_000
        assert {each.row_id for each in store.rows(TestRow)} == {each.row_id for each in rows}


# Databases that cannot be used


def hold_open(path: Path) -> subprocess.Popen[str]:
    code = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def test_a_locked_database_names_its_holder_and_the_rows_get_in_the_next_time(tmp_path):
    path = tmp_path / "h.duckdb"
    rows = one_of_each()
    with hold_open(path) as holder:
        with pytest.raises(HistoryError) as caught:
            record(path, rows, "r/../1")
        holder.communicate("")
    message = str(caught.value)
    assert f"process id {holder.pid}" in message
    assert "locked by another process" in message
    assert "\n" not in message
    rescued = path.with_name("h.duckdb.rescue-r____1.jsonl")
    assert str(rescued) in message
    assert rescued.is_file()
    with Store.open(path) as store:
        assert [each for kind in TABLES.values() for each in store.rows(kind)] == rows
    assert sorted(each.name for each in tmp_path.iterdir()) == ["h.duckdb"]


def test_rows_rescued_twice_for_one_run_are_both_kept(tmp_path):
    path = tmp_path / "h.duckdb"
    path.write_text("no database", encoding="utf-8")
    for test_id in ("one", "two"):
        with pytest.raises(HistoryError):
            record(path, [a_test(test_id)], "r")
    path.unlink()
    with Store.open(path) as store:
        assert {each.test_id for each in store.rows(TestRow)} == {"one", "two"}


def test_a_damaged_rescue_file_gives_its_good_rows_and_is_kept_under_another_name(tmp_path, caplog):
    path = tmp_path / "h.duckdb"
    path.write_text("no database", encoding="utf-8")
    with pytest.raises(HistoryError):
        record(path, [a_test("good")], "r")
    path.unlink()
    rescued = tmp_path / "h.duckdb.rescue-r.jsonl"
    rescued.write_text("damage\n" + rescued.read_text(encoding="utf-8"), encoding="utf-8")
    with Store.open(path) as store:
        assert [each.test_id for each in store.rows(TestRow)] == ["good"]
    assert rescued.with_name(rescued.name + ".damaged").exists()
    assert not rescued.exists()
    assert "left out" in caplog.text


def test_a_file_that_is_no_database_is_said_to_be_none_and_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("my notes " * 1000, encoding="utf-8")
    with pytest.raises(HistoryError, match="is not a DuckDB database") as caught:
        record(path, [a_test()], "r")
    assert "--webaccel-db" in str(caught.value)
    assert path.read_text(encoding="utf-8") == "my notes " * 1000


def test_a_newer_schema_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "h.duckdb"
    with Store.open(path):
        pass
    with duckdb.connect(str(path)) as connection:
        connection.execute("INSERT INTO webaccel_schema VALUES (99, current_timestamp::TIMESTAMP)")
    for read_only in (False, True):
        with (
            pytest.raises(HistoryError, match=r"schema version 99; .*versions up to 1.*Upgrade"),
            Store.open(path, read_only=read_only),
        ):
            pass
    with duckdb.connect(str(path)) as connection:
        assert connection.execute("SELECT max(version) FROM webaccel_schema").fetchall() == [(99,)]


def test_a_users_own_tables_are_never_written_to(tmp_path):
    path = tmp_path / "mine.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE tests (mine INTEGER)")
    with pytest.raises(HistoryError, match="table 'tests' has a name"), Store.open(path):
        pass
    with duckdb.connect(str(path)) as connection:
        assert connection.execute("SHOW TABLES").fetchall() == [("tests",)]


def test_a_database_of_an_older_schema_is_migrated(tmp_path, monkeypatch):
    path = tmp_path / "h.duckdb"
    with Store.open(path) as store:
        store.add([a_test()])
    monkeypatch.setattr(schema, "VERSION", 2)
    monkeypatch.setattr(schema, "MIGRATIONS", {1: ("UPDATE tests SET worker = 'moved'",)})
    with Store.open(path) as store:
        assert [each.worker for each in store.rows(TestRow)] == ["moved"]
    with Store.open(path) as store:
        store.add([a_test("later")])
        assert {each.worker for each in store.rows(TestRow)} == {"moved", "gw0"}


def test_a_failed_migration_leaves_the_database_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "h.duckdb"
    with Store.open(path) as store:
        store.add([a_test()])
    with monkeypatch.context() as patch:
        patch.setattr(schema, "VERSION", 2)
        patch.setattr(schema, "MIGRATIONS", {1: ("DELETE FROM tests", "SELECT * FROM nowhere")})
        with pytest.raises(HistoryError, match="nowhere"), Store.open(path):
            pass
    with Store.open(path) as store:
        assert len(store.rows(TestRow)) == 1


def test_a_column_added_since_is_added_and_old_rows_read_its_default(tmp_path):
    path = tmp_path / "h.duckdb"
    with Store.open(path) as store:
        store.add([a_test(reason="gone")])
    with duckdb.connect(str(path)) as connection:
        connection.execute("ALTER TABLE tests DROP COLUMN reason")
    with Store.open(path) as store:
        store.add([a_test("new", reason="kept")])
        assert {each.test_id: each.reason for each in store.rows(TestRow)} == {
            "test_x[chromium:cpu]": "",
            "new": "kept",
        }


def test_missing_folders_are_created(tmp_path):
    assert record(tmp_path / "a" / "b" / "h.duckdb", [a_test()], "r") == 1


def test_a_folder_in_place_of_the_database_is_said_to_be_one(tmp_path):
    with pytest.raises(HistoryError, match="is a folder"), Store.open(tmp_path):
        pass


def test_reading_a_database_that_is_not_there_does_not_create_it(tmp_path):
    with pytest.raises(HistoryError, match="There is no database"), Store.open(tmp_path / "none", read_only=True):
        pass
    assert not (tmp_path / "none").exists()


def test_reading_a_database_without_runs_says_so(tmp_path):
    duckdb.connect(str(tmp_path / "other.duckdb")).close()
    with (
        pytest.raises(HistoryError, match="holds no runs"),
        Store.open(tmp_path / "other.duckdb", read_only=True),
    ):
        pass


def test_rows_go_to_the_temporary_folder_when_nothing_can_be_written_beside_the_database(tmp_path, monkeypatch):
    spare = tmp_path / "spare"
    spare.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(spare))
    blocker = tmp_path / "file"
    blocker.write_text("", encoding="utf-8")
    with pytest.raises(HistoryError, match="move that file beside"):
        record(blocker / "h.duckdb", [a_test()], "r")
    assert (spare / "h.duckdb.rescue-r.jsonl").is_file()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (duckdb.IOException("IO Error: Could not write file: No space left on device"), "is full. Make room"),
        (OSError(28, "No space left on device"), "is full. Make room"),
        (duckdb.IOException("IO Error: Cannot open file: Permission denied"), "permission denied"),
        (duckdb.IOException("IO Error: Cannot open file: Read-only file system"), "it is read-only"),
        (
            duckdb.IOException("IO Error: Trying to read a database file with version number 99, but we read 64"),
            "written by another version of DuckDB",
        ),
        (duckdb.Error("something new"), "something new"),
    ],
)
def test_each_trouble_is_one_paragraph_with_the_place_and_what_to_do(tmp_path, error, words):
    from pytest_webaccel.history.trouble import explain

    message = explain(tmp_path / "h.duckdb", error)
    assert words in message
    assert str(tmp_path) in message
    assert "\n" not in message


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_says_so_and_keeps_the_rows(tmp_path, monkeypatch):
    disk, spare = tmp_path / "disk", tmp_path / "spare"
    disk.mkdir()
    spare.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(spare))
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        with pytest.raises(HistoryError, match="is full") as caught:
            record(disk / "h.duckdb", [a_test(f"t{n}") for n in range(2000)], "r")
        assert str(spare) in str(caught.value)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_table_or_column_that_an_older_version_did_not_have_is_empty_where_nothing_may_be_written(tmp_path):
    path = tmp_path / "h.duckdb"
    record(path, one_of_each(), "r")
    with duckdb.connect(str(path)) as connection:
        connection.execute("DROP TABLE conformance")
        connection.execute("ALTER TABLE tests DROP COLUMN reason")
    with Store.open(path, read_only=True) as store:
        assert store.rows(ConformanceRow) == []
        assert [row.reason for row in store.rows(TestRow)] == [""]
