"""Takes over into a file of expectations what a run found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_webaccel.conformance.expectations import Expectations, updated
from pytest_webaccel.errors import HistoryError
from pytest_webaccel.history import Store
from pytest_webaccel.rows import ConformanceRow

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["update"]


def update(database: Path, file: Path) -> str:
    """Bring ``file`` up to the newest conformance run in ``database``; return what changed, for people.

    Raises HistoryError where there is none, ConfigurationError for a file that is not one of expectations. Nothing is
    written then.
    """
    with Store.open(database, read_only=True) as store:
        rows = _newest(store)
    if not rows:
        raise HistoryError(
            f"The database {database} holds no conformance run. Make one: "
            f"pytest --pyargs pytest_webaccel.conformance --webaccel-db={database}."
        )
    known = Expectations.read(file) if file.exists() else Expectations({})
    new = updated(known, rows)
    file.write_text(str(new), encoding="utf-8")
    changed = sum(
        len(dict.fromkeys([*section, *known.places.get(place, {})]))
        - sum(known.places.get(place, {}).get(name) == one for name, one in section.items())
        for place, section in new.places.items()
    )
    places = ", ".join(sorted({f"{row.lane} {row.build} {row.version}" for row in rows}))
    return f"{file}: {changed} lines changed, from {len(rows)} results on {places}"


def _newest(store: Store) -> list[ConformanceRow]:
    for run in store.runs():
        if rows := store.rows(ConformanceRow, run.run_id):
            return rows
    return []
