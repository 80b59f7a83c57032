"""Columns of the tables, read off the row types: the one place where a field becomes a SQL type."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, get_origin, get_type_hints

from pytest_webaccel.rows import TABLES, Row
from pytest_webaccel.terms import Evidence, Mode

__all__ = ["Column", "columns", "row_problem"]


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """One column: its SQL type, how a value goes in, comes out, and what is wrong with one."""

    name: str
    sql: str
    store: Callable[[Any], Any]
    load: Callable[[Any], Any]
    problem: Callable[[Any], str]


def _clean(text: str) -> str:
    """Return ``text`` with lone surrogates, which UTF-8 cannot carry, replaced by ``?``."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _store_time(text: str) -> datetime | None:
    """Return ISO 8601 ``text`` as naive UTC, the form of a TIMESTAMP; empty text is NULL."""
    if not text:
        return None
    moment = datetime.fromisoformat(text)
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def _load_time(moment: datetime | None) -> str:
    return moment.replace(tzinfo=UTC).isoformat(timespec="microseconds") if moment else ""


def _time_problem(value: Any) -> str:
    try:
        _store_time(value)
    except (ValueError, TypeError, OverflowError):
        return "is not ISO 8601 text"
    return ""


def _store_json(value: Any) -> str:
    return _clean(json.dumps(value, default=str, ensure_ascii=True))


def _load_json(text: str | None) -> Any:
    return json.loads(text) if text is not None else None


def _expects(words: str, *kinds: type) -> Callable[[Any], str]:
    def problem(value: Any) -> str:
        # A bool is an int to isinstance and a different thing to a column.
        right = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
        return "" if right else f"is not {words}"

    return problem


def _integer_problem(bits: int) -> Callable[[Any], str]:
    expects = _expects("a whole number", int)

    def problem(value: Any) -> str:
        return expects(value) or ("" if -(1 << bits - 1) <= value < 1 << bits - 1 else f"does not fit {bits} bits")

    return problem


def _same(value: Any) -> Any:
    return value


_TIMES = frozenset({"at", "started_at", "finished_at"})
#: A seed may be any number that a user gave, so it has the widest type.
_WIDE = frozenset({"seed"})


def _column(name: str, hint: Any) -> Column:
    if name in _TIMES:
        return Column(name, "TIMESTAMP", _store_time, _load_time, _time_problem)
    if hint is bool:
        return Column(name, "BOOLEAN", _same, _same, _expects("true or false", bool))
    if hint is int and name in _WIDE:
        return Column(name, "HUGEINT", _same, _same, _integer_problem(128))
    if hint is int:
        return Column(name, "BIGINT", _same, _same, _integer_problem(64))
    if hint is float:
        return Column(name, "DOUBLE", float, _same, _expects("a number", int, float))
    if get_origin(hint) is Mapping:
        return Column(name, "JSON", _store_json, _load_json, _expects("a mapping", Mapping))
    if get_origin(hint) is Sequence:
        return Column(name, "JSON", lambda value: _store_json(list(value)), _load_json, _expects("a list", list, tuple))
    load = {Evidence: Evidence, Mode: Mode}.get(hint, _same)
    return Column(name, "VARCHAR", lambda value: _clean(str(value)), load, _expects("text", str))


def columns(kind: type[Row]) -> tuple[Column, ...]:
    """Return the columns of the table that holds rows of ``kind``, ``row_id`` first.

    Times are TIMESTAMP in UTC: DuckDB's zoned type cannot be fetched into Python without pytz.
    """
    return _columns(kind.table)


@functools.cache
def _columns(table: str) -> tuple[Column, ...]:
    kind = TABLES[table]
    # terms.py imports these two for type checkers only, so the names are given here.
    hints = get_type_hints(kind, localns={"Mapping": Mapping, "Sequence": Sequence})
    names = [field.name for field in dataclasses.fields(kind)]
    names.sort(key=lambda name: name != "row_id")
    return tuple(_column(name, hints[name]) for name in names)


def row_problem(row: Row) -> str:
    """Return why ``row`` cannot be stored, naming table and column, or nothing when it can."""
    for column in columns(type(row)):
        if problem := column.problem(getattr(row, column.name)):
            return f"row of table {row.table!r}: {column.name} {problem}"
    return ""
