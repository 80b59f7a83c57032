"""The database's tables, made from the row types, and how an older database is brought up to date."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_webaccel.errors import HistoryError
from pytest_webaccel.history.columns import columns
from pytest_webaccel.rows import TABLES, Row

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import duckdb

__all__ = ["MIGRATIONS", "VERSION", "create_statement", "existing", "prepare", "require_known"]

#: Version of the tables. A column that is only added does not raise it: :func:`prepare` adds it.
VERSION = 1

#: SQL that brings a database from the version that is the key to the next one.
MIGRATIONS: Mapping[int, Sequence[str]] = {}

_OURS = "CREATE TABLE webaccel_schema (version INTEGER NOT NULL, changed_at TIMESTAMP NOT NULL)"


def create_statement(kind: type[Row]) -> str:
    """Return the CREATE TABLE statement for rows of ``kind``.

    Names are quoted: ``at`` is a reserved word in DuckDB.
    """
    parts = [f'"{column.name}" {column.sql}' + _constraint(column.name) for column in columns(kind)]
    return f'CREATE TABLE "{kind.table}" ({", ".join(parts)})'


def _constraint(name: str) -> str:
    return {"row_id": " PRIMARY KEY", "run_id": " NOT NULL", "evidence": " NOT NULL"}.get(name, "")


def prepare(connection: duckdb.DuckDBPyConnection, where: str) -> None:
    """Create or update the tables, all in one transaction.

    Raises HistoryError when the database is of a newer version, or its tables are someone else's.
    """
    connection.begin()
    try:
        version = require_known(connection, where)
        if version is None:
            connection.execute(_OURS)
            for kind in TABLES.values():
                connection.execute(create_statement(kind))
            _stamp(connection)
        else:
            for step in range(version, VERSION):
                for statement in MIGRATIONS[step]:
                    connection.execute(statement)
            if version < VERSION:
                _stamp(connection)
            _add_columns(connection)
    except BaseException:
        connection.rollback()
        raise
    connection.commit()


def require_known(connection: duckdb.DuckDBPyConnection, where: str) -> int | None:
    """Return the database's version, or None when it holds no tables of ours.

    Raises HistoryError when the version is newer than :data:`VERSION`, or when a table has a name
    of ours and no version stands beside it.
    """
    names = set(existing(connection))
    if "webaccel_schema" not in names:
        if foreign := sorted(names & set(TABLES)):
            raise HistoryError(
                f"The database {where} was not written by pytest-webaccel, and its table {foreign[0]!r} has a name "
                "that this plugin needs. Nothing was changed in it. Name another file with --webaccel-db."
            )
        return None
    found = connection.execute("SELECT max(version) FROM webaccel_schema").fetchone()
    version = found[0] if found else None
    if not isinstance(version, int):
        raise HistoryError(
            f"The database {where} does not say which schema version it has. Move it away, or name another file "
            "with --webaccel-db."
        )
    if version > VERSION:
        raise HistoryError(
            f"The database {where} has schema version {version}; this pytest-webaccel knows versions up to {VERSION}. "
            "Nothing was changed in it. Upgrade pytest-webaccel, or name another file with --webaccel-db."
        )
    return version


def existing(connection: duckdb.DuckDBPyConnection) -> dict[str, set[str]]:
    """Return the columns of each table in the main schema."""
    tables: dict[str, set[str]] = {}
    query = (
        "SELECT table_name, column_name FROM information_schema.columns "
        "WHERE table_schema = 'main' AND table_catalog = current_database()"
    )
    for table, column in connection.execute(query).fetchall():
        tables.setdefault(table, set()).add(column)
    return tables


def _add_columns(connection: duckdb.DuckDBPyConnection) -> None:
    there = existing(connection)
    for table, kind in TABLES.items():
        if table not in there:
            connection.execute(create_statement(kind))
            continue
        for column in columns(kind):
            if column.name not in there[table]:
                connection.execute(f'ALTER TABLE "{table}" ADD COLUMN "{column.name}" {column.sql}')


def _stamp(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute("INSERT INTO webaccel_schema SELECT ?, current_timestamp::TIMESTAMP", [VERSION])
