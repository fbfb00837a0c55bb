"""Rows and records as the tables store them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, TypeVar

import sqlalchemy as sa

from autotl.errors import did_you_mean
from autotl.store.contender import Contender, Facts
from autotl.store.facts import RepeatFacts, TestResult, TrialFacts
from autotl.store.migrations.tables import TRIAL
from autotl.store.rows import DataIssueRow, EpochRow, ImageRow, RepeatRow, TestRow, TrialRow

Row = TypeVar("Row", TrialRow, EpochRow, RepeatRow, TestRow, DataIssueRow, ImageRow)

RECORDS: Mapping[type[Any], Mapping[str, type[Facts]]] = {
    TrialRow: {"facts": TrialFacts},
    RepeatRow: {"facts": RepeatFacts},
    TestRow: {"contender": Contender, "result": TestResult},
}
"""The columns that contain records, by the type of the row."""


def read_rows(
    connection: sa.Connection,
    kind: type[Row],
    table: sa.Table,
    study: str,
    *where: sa.ColumnElement[bool],
    order: str,
    **equal: Any,
) -> list[Row]:
    """Return the rows of a study as values of type ``kind``; JSON columns become records."""
    names = [field.name for field in fields(kind)]
    columns = [table.c[name] for name in names]
    same = [table.c[name] == value for name, value in equal.items()]
    keys = [column for column in table.primary_key if column.name != order]
    query = sa.select(*columns).where(table.c.study == study, *same, *where)
    records = RECORDS.get(kind, {})

    def value(name: str, stored: Any) -> Any:
        return records[name].model_validate(stored or {}) if name in records else stored

    rows = connection.execute(query.order_by(table.c[order], *keys)).all()
    return [kind(*map(value, names, row)) for row in rows]


def replace_rows(
    connection: sa.Connection, table: sa.Table, study: str, rows: Sequence[Any], **equal: Any
) -> None:
    """Replace the rows of a study whose columns have the values ``equal``, in this order."""
    values = [
        {"study": study, "position": position, **equal, **asdict(row)}
        for position, row in enumerate(rows)
    ]
    same = [table.c[name] == value for name, value in equal.items()]
    connection.execute(table.delete().where(table.c.study == study, *same))
    if values:
        connection.execute(table.insert(), values)


def merge_facts(
    connection: sa.Connection, here: tuple[sa.ColumnElement[bool], ...], new: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the column ``facts`` of a trial, updated with ``new``; empty if ``new`` is empty."""
    if not new:
        return {}
    # FOR UPDATE: no other process may change the facts before they are written.
    query = sa.select(TRIAL.c.facts).where(*here).with_for_update()
    return {"facts": {**(connection.scalar(query) or {}), **new}}


def to_json(record: type[Facts], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Convert some fields of a record to JSON, after validation of their types."""
    if unknown := sorted(set(changes) - set(record.model_fields)):
        hint = did_you_mean(unknown[0], record.model_fields)
        raise TypeError(f"{record.__name__} has no field {unknown[0]!r}; {hint}")
    checked = record.model_validate(dict(changes))
    return checked.model_dump(mode="json", include=set(changes))


def set_fields_to_json(record: Facts | None) -> dict[str, Any]:
    """Convert the fields of a record that were set explicitly to JSON."""
    return {} if record is None else record.model_dump(mode="json", exclude_unset=True)
