"""The DuckDB store. One process writes it, at the end of a run; readers open it read-only.

DuckDB locks a database for the process that has it open, so the store is opened late and held
briefly, and rows that could not be written are kept beside it for the next time.
"""

from __future__ import annotations

import dataclasses
import logging
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_webaccel.errors import HistoryError
from pytest_webaccel.history import rescue, schema
from pytest_webaccel.history.columns import columns, row_problem
from pytest_webaccel.history.spool import scan_spool
from pytest_webaccel.history.trouble import explain
from pytest_webaccel.rows import TABLES, RecoveryRow, Row, RunRow, TuningRow

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import duckdb

__all__ = ["Store", "chosen_constants", "expected_durations", "record"]

_log = logging.getLogger(__name__)

_Kind = TypeVar("_Kind", bound=Row)

#: Rows sent to DuckDB at a time: bounds the memory held twice.
_BATCH = 50_000

_DURATIONS = """
SELECT test_id, lane, median(duration_ms) FROM (
    SELECT *, row_number() OVER (PARTITION BY test_id, lane ORDER BY "at" DESC) AS age
    FROM tests WHERE outcome = 'passed'
) WHERE age <= ? GROUP BY test_id, lane
"""

#: A run is written once when it ends, but a run that came twice shows its last word only.
_RUNS = 'SELECT {} FROM runs QUALIFY row_number() OVER (PARTITION BY run_id ORDER BY "at" DESC) = 1 ORDER BY "at" DESC'


class Store:
    """An open database of runs. Use :meth:`open`; every method raises HistoryError on failure."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, path: Path) -> None:
        self._connection = connection
        self._path = path

    @classmethod
    @contextmanager
    def open(cls, path: Path, *, read_only: bool = False) -> Iterator[Store]:
        """Open the database at ``path`` for the length of a ``with`` block.

        Unless ``read_only``, the folder, the file and the tables are created where missing, and
        rows that an earlier run had to leave beside the database are taken in. Raises HistoryError
        when the database is locked, of a newer schema, not a database, or cannot be read or written.
        """
        import duckdb

        path = Path(path).absolute()
        if read_only and not path.exists():
            raise HistoryError(f"There is no database at {path}. Run pytest with --webaccel-db={path} first.")
        try:
            if not read_only:
                path.parent.mkdir(parents=True, exist_ok=True)
            connection = duckdb.connect(str(path), read_only=read_only)
        except (duckdb.Error, OSError) as error:
            raise HistoryError(explain(path, error)) from error
        try:
            store = cls(connection, path)
            store._prepare(read_only=read_only)
            yield store
        except duckdb.Error as error:
            raise HistoryError(explain(path, error)) from error
        finally:
            _close(connection, path)

    def _prepare(self, *, read_only: bool) -> None:
        if not read_only:
            schema.prepare(self._connection, str(self._path))
            self._take_in_rescued()
        elif schema.require_known(self._connection, str(self._path)) is None:
            raise HistoryError(f"The database {self._path} holds no runs of pytest-webaccel.")

    def add(self, rows: Iterable[Row]) -> int:
        """Store ``rows`` in one transaction and return how many were new.

        A row whose ``row_id`` is there already is left as it is.
        """
        batches = _by_table(rows)
        self._connection.begin()
        try:
            added = sum(self._insert(TABLES[table], batch) for table, batch in batches)
        except BaseException:
            self._connection.rollback()
            raise
        self._connection.commit()
        return added

    def _insert(self, kind: type[Row], rows: list[Row]) -> int:
        # One list parameter a column: ten times the rate of VALUES lists (250,000 rows/s against
        # 22,000 on two cores), and it needs neither NumPy nor Arrow.
        parts = columns(kind)
        names = ", ".join(f'"{part.name}"' for part in parts)
        values = ", ".join(f"unnest(?::{part.sql}[])" for part in parts)
        statement = f'INSERT OR IGNORE INTO "{kind.table}" ({names}) SELECT {values}'
        data = [[part.store(getattr(row, part.name)) for row in rows] for part in parts]
        found = self._connection.execute(statement, data).fetchone()
        return int(found[0]) if found else 0

    def rows(self, kind: type[_Kind], run_id: str | None = None) -> list[_Kind]:
        """Return the rows of one table, of one run or of all, oldest first.

        A database that an older version wrote, opened to be read only, may lack the table, or columns of it.
        """
        there = schema.existing(self._connection).get(kind.table)
        if there is None:
            return []
        names = ", ".join(f'"{part.name}"' if part.name in there else "NULL" for part in columns(kind))
        where = "" if run_id is None else "WHERE run_id = ? "
        query = f'SELECT {names} FROM "{kind.table}" {where}ORDER BY "at", row_id'  # noqa: S608 - names of our own types
        return self._fetch(kind, query, [] if run_id is None else [run_id])

    def chosen(self) -> list[TuningRow]:
        """Return the candidates that tuners chose, oldest first."""
        if TuningRow.table not in schema.existing(self._connection):
            return []
        names = ", ".join(f'"{part.name}"' for part in columns(TuningRow))
        query = f'SELECT {names} FROM "{TuningRow.table}" WHERE chosen ORDER BY "at", row_id'  # noqa: S608 - our own names
        return self._fetch(TuningRow, query, [])

    def runs(self) -> list[RunRow]:
        """Return every run once, the latest first."""
        names = ", ".join(f'"{part.name}"' for part in columns(RunRow))
        return self._fetch(RunRow, _RUNS.format(names), [])

    def recoveries(self, run_id: str) -> list[RecoveryRow]:
        """Return the faults of one run and what came of them, oldest first."""
        return self.rows(RecoveryRow, run_id)

    def durations(self, last: int = 20) -> dict[tuple[str, str], float]:
        """Return the median of the ``last`` passed durations in ms, by test id and lane."""
        found = self._connection.execute(_DURATIONS, [last]).fetchall()
        return {(test_id, lane): float(median) for test_id, lane, median in found}

    def _fetch(self, kind: type[_Kind], query: str, parameters: list[Any]) -> list[_Kind]:
        parts = columns(kind)
        defaults = _defaults(kind)
        found: list[_Kind] = []
        for values in self._connection.execute(query, parameters).fetchall():
            given = {
                # A column that was added later is NULL in rows written before.
                part.name: defaults[part.name] if value is None and part.name in defaults else part.load(value)
                for part, value in zip(parts, values, strict=True)
            }
            found.append(kind(**given))
        return found

    def _take_in_rescued(self) -> None:
        for path in rescue.files(self._path):
            contents = scan_spool(path)
            self.add(contents.rows)
            rescue.settle(path, contents)


def record(path: Path, rows: Iterable[Row], run_id: str) -> int:
    """Store ``rows`` of the run ``run_id`` in the database at ``path``; return how many were new.

    Raises HistoryError when that fails; the rows are then in a file beside the database, the
    message says which, and the next run that opens the database takes them in.
    """
    kept = list(rows)
    try:
        with Store.open(path) as store:
            return store.add(kept)
    except HistoryError as error:
        saved = rescue.save(Path(path).absolute(), kept, run_id)
        raise HistoryError(f"{error} {saved}") from error


def expected_durations(path: Path | None) -> Mapping[tuple[str, str], float]:
    """Return :meth:`Store.durations` of the database at ``path``, for scheduling.

    Empty without a database, or when it cannot be read now: a run is never stopped by its past.
    """
    if path is None or not Path(path).exists():
        return {}
    try:
        with Store.open(path, read_only=True) as store:
            return store.durations()
    except HistoryError as error:
        _log.warning("no durations for scheduling: %s", error)
        return {}


def chosen_constants(path: Path | None) -> list[TuningRow]:
    """Return what tuners chose, of the database at ``path``, the latest last; empty where it cannot be read now."""
    if path is None or not Path(path).exists():
        return []
    try:
        with Store.open(path, read_only=True) as store:
            return store.chosen()
    except HistoryError as error:
        _log.warning("kernels run untuned: %s", error)
        return []


def _by_table(rows: Iterable[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Return the rows by table, each ``row_id`` once, in batches; raise HistoryError for one that fits no table."""
    tables: dict[str, dict[str, Row]] = {table: {} for table in TABLES}
    for row in rows:
        if problem := row_problem(row):
            raise HistoryError(f"Rows were not stored, since one does not fit its table: {problem}.")
        tables[row.table].setdefault(row.row_id, row)
    for table, unique in tables.items():
        batch = list(unique.values())
        for start in range(0, len(batch), _BATCH):
            yield table, batch[start : start + _BATCH]


def _defaults(kind: type[Row]) -> dict[str, Any]:
    """Return the default of each field that has one; ids and times have none that could be meant here."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        if field.name in {"row_id", "at"}:
            continue
        if field.default is not dataclasses.MISSING:
            found[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            found[field.name] = field.default_factory()
    return found


def _close(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Close; a checkpoint that fails here loses nothing, for the write-ahead log has the rows."""
    import duckdb

    try:
        connection.close()
    except duckdb.Error as error:
        _log.warning("database %s: %s", path, error)
