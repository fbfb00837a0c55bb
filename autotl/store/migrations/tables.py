"""AutoTL's tables in the newest schema; a test checks that the migrations create the same ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

PREFIX = "autotl_"
METADATA = sa.MetaData()


class Utc(sa.TypeDecorator[datetime]):
    """A time with a zone, stored as UTC without one, because SQLite and MySQL drop the zone."""

    impl = sa.DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Convert to UTC and remove the zone."""
        return value and value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Add the zone UTC."""
        return value and value.replace(tzinfo=UTC)


class Number(sa.TypeDecorator[float]):
    """A finite float or null, because MySQL rejects NaN and SQLite returns null for it."""

    impl = sa.Double
    cache_ok = True

    def process_bind_param(self, value: float | None, dialect: sa.Dialect) -> float | None:
        """Replace a float that is not finite by None."""
        return value if value is not None and math.isfinite(value) else None


class Text(sa.TypeDecorator[str]):
    """Text in which bytes of file names that are not valid Unicode are escaped."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        """Remove null characters, which PostgreSQL rejects, and escape surrogates."""
        if value is None:
            return None
        return value.replace("\0", "").encode(errors="backslashreplace").decode()


class Json(sa.TypeDecorator[Any]):
    """JSON with null for NaN and infinity, which JSON does not support."""

    impl = sa.JSON
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        """Replace all floats in ``value`` that are not finite by None."""
        return _finite(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


# There are no foreign keys: SQLite enforces them only on connections that enable them, and Optuna
# opens the connections. A constraint that only some databases enforce would hide errors.
NAME = sa.String(512)  # of a study, as long as Optuna's


BYTES = sa.LargeBinary(2**24 - 1)  # without a length, MySQL limits it to 64 KiB


def _study_key() -> sa.Column[str]:
    return sa.Column("study", NAME, primary_key=True)


STUDY = sa.Table(
    PREFIX + "study",
    METADATA,
    sa.Column("name", NAME, primary_key=True),
    sa.Column("created", Utc, nullable=False),
    sa.Column("updated", Utc, nullable=False),
)
STUDY_FACT = sa.Table(  # one row for each field of store.StudyFacts
    PREFIX + "study_fact",
    METADATA,
    _study_key(),
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", Json),
)
DATA_ISSUE = sa.Table(
    PREFIX + "data_issue",
    METADATA,
    _study_key(),
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("name", Text, nullable=False),
    sa.Column("problem", Text, nullable=False),
    sa.Column("action", Text, nullable=False),
)
LATENCY = sa.Table(
    PREFIX + "latency",
    METADATA,
    _study_key(),
    sa.Column("backbone", sa.String(256), primary_key=True),
    sa.Column("milliseconds", Number, nullable=False),  # for one image
)
IMAGE = sa.Table(  # label issues (opening 0), and the errors of a test
    PREFIX + "image",
    METADATA,
    _study_key(),
    sa.Column("opening", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("name", Text, nullable=False),
    sa.Column("truth", Text, nullable=False),
    sa.Column("guess", Text, nullable=False),
    sa.Column("probability", Number),
    sa.Column("thumbnail", Text, nullable=False),  # data URIs
    sa.Column("saliency", Text, nullable=False),
)
TRIAL = sa.Table(
    PREFIX + "trial",
    METADATA,
    _study_key(),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),  # Optuna's
    sa.Column("status", sa.String(32), nullable=False),  # one of store.STATUSES
    sa.Column("reason", Text, nullable=False),
    sa.Column("config", Json, nullable=False),
    sa.Column("score", Number),
    sa.Column("epochs", sa.Integer, nullable=False),
    sa.Column("parameters", sa.BigInteger),
    sa.Column("trained_parameters", sa.BigInteger),
    sa.Column("seconds", Number, nullable=False),
    sa.Column("started", Utc, nullable=False),
    sa.Column("facts", Json),  # null for trials of versions without facts
    sa.Column("contributions", BYTES),  # float32, to the score, by sampling unit
    sa.Column("worker", sa.Integer),  # null for trials of versions without workers
)
WORKER = sa.Table(  # a process that runs trials; times are those of the database, see store.clock
    PREFIX + "worker",
    METADATA,
    _study_key(),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("host", sa.String(256), nullable=False),
    sa.Column("lock", Text, nullable=False),  # a file that the process locks
    sa.Column("device", sa.String(256), nullable=False),
    sa.Column("began", sa.Double, nullable=False),
    sa.Column("seen", sa.Double, nullable=False),
    sa.Column("ended", sa.Double),
)
LEASE = sa.Table(  # what only one worker may do at a time
    PREFIX + "lease",
    METADATA,
    _study_key(),
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("worker", sa.Integer, nullable=False),
)
# Predictions are in the database and not in files: a study that is moved, continued or deleted
# takes them along, and a report needs nothing else. They have a table of their own, because a list
# of trials does not need them; Store.add_predictions limits their size.
PREDICTION = sa.Table(  # of a trial, for the validation split
    PREFIX + "prediction",
    METADATA,
    _study_key(),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("outputs", sa.Integer, nullable=False),
    sa.Column("predictions", BYTES, nullable=False),  # [N, outputs]
    sa.Column("number_type", sa.String(8), nullable=False),  # NumPy's: <f2, or <f4 for numbers
)
EPOCH = sa.Table(
    PREFIX + "epoch",
    METADATA,
    _study_key(),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),  # of the trial
    sa.Column("epoch", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("loss", Number),
    sa.Column("score", Number),
    sa.Column("seconds", Number, nullable=False),
)
REPEAT = sa.Table(  # of the final selection
    PREFIX + "repeat",
    METADATA,
    _study_key(),
    sa.Column("kind", sa.String(16), primary_key=True),  # of the contender
    sa.Column("trial", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("repeat", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("score", Number),
    sa.Column("seconds", Number, nullable=False),
    sa.Column("facts", Json, nullable=False),
)
TEST = sa.Table(
    PREFIX + "test",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("study", NAME, nullable=False, index=True),
    sa.Column("opened", Utc, nullable=False),
    sa.Column("contender", Json, nullable=False),
    sa.Column("config", Json, nullable=False),
    sa.Column("result", Json, nullable=False),
)
TABLES_OF_STUDY = (
    STUDY_FACT, DATA_ISSUE, LATENCY, IMAGE, TRIAL, EPOCH, PREDICTION, REPEAT, TEST, WORKER, LEASE
)  # fmt: skip
"""The tables whose column ``study`` has the study that a row belongs to."""


@contextmanager
def write_transaction(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Run a transaction that writes: it is committed at the end, or rolled back after an error.

    On SQLite it starts with ``BEGIN IMMEDIATE``, which takes the write lock at once. Otherwise a
    transaction that reads first would fail if another one has written in between, and a migration
    would not be a single transaction, because Python's driver starts none before CREATE TABLE.
    Other databases lock rows when they are written.
    """
    with engine.begin() as connection:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        yield connection
