"""One database: Optuna's storage and, beside it, our tables for what Optuna does not keep.

Optuna keeps parameters and values. Ours keep what a study was asked to do, how each trial ended
and why, every epoch, and each time that the sealed test part was opened. The names of our tables
begin with ``autotl_``, and ``autotl.migrations`` alone makes and changes them.

Several processes may write at once. A float that is not finite, such as the loss of a trial that
diverged, is stored as None; times are UTC.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import optuna
import sqlalchemy as sa
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import exc

from autotl.errors import StoreError, StudyError, did_you_mean
from autotl.migrations import migrate, tables
from autotl.migrations.tables import EPOCH, FINAL, STUDY, TEST, TRIAL

ENDS = (
    "running",
    "complete",
    "pruned",
    "failed",
    "out_of_memory",
    "diverged",
    "incompatible",
    "out_of_time",
    "interrupted",
)

_LOCK_SECONDS = 60  # how long to wait for another process that is writing to a SQLite file
_FAULTS = (exc.OperationalError, StorageInternalError)  # what befalls an open database
_ADVICE = {  # by what the driver says; the last one fits everything
    "not a database": "it is a file of another kind, name a new one with --storage",
    "locked": "another program is writing to it, try again when that is done",
    "readonly": "give yourself the right to write there, or name another with --storage",
    "unable to open": "check that its folder is there and may be read and written",
    "disk is full": "make room and run the command again",
    "no module named": "install the driver, for PostgreSQL pip install 'psycopg[binary]'",
    "pq wrapper": "install the whole driver with pip install 'psycopg[binary]'",
    "can't load plugin": "write sqlite:///FILE.db, or postgresql+psycopg://... and "
    "pip install 'psycopg[binary]'",
    "optuna version": "keep a copy of the database before you do so",
    "": "check --storage: the server or file, the name, the user, the password and their rights",
}


@dataclass(frozen=True)
class TrialRow:
    """One trial: what was tried and how it ended."""

    number: int
    end: str  # one of ENDS
    reason: str  # why it ended so; empty for complete
    config: dict[str, Any]
    score: float | None
    epochs: int  # how many were planned
    parameters: int | None
    learned_parameters: int | None
    seconds: float
    started: datetime
    facts: dict[str, Any] = field(default_factory=dict)  # what it measured beside the score


@dataclass(frozen=True)
class EpochRow:
    """One epoch of a trial; loss and score are None where they were not finite."""

    epoch: int
    loss: float | None
    score: float | None
    seconds: float


@dataclass(frozen=True)
class FinalRow:
    """One run of a candidate in the finals; runs of one number share their split and seed."""

    candidate: str  # a trial's number, or what is made of several, such as "ensemble"
    run: int
    trial: int | None
    score: float | None
    seconds: float
    facts: dict[str, Any]


@dataclass(frozen=True)
class TestRow:
    """One opening of the sealed test part; ``facts`` is empty until its result is written."""

    __test__ = False  # by its name pytest would take it for a class of tests

    id: int
    trial: int
    opened: datetime
    config: dict[str, Any]
    facts: dict[str, Any]


_Row = TypeVar("_Row", TrialRow, EpochRow, FinalRow, TestRow)


def default_url(out: Path) -> str:
    """The URL of the database in the folder ``out``, which is made where it is missing.

    Raises:
        StoreError: The folder cannot be made, or not written to.
    """
    file = out / "autotl.db"
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise StoreError(f"cannot make the folder {out}: {e.strerror}; choose another --out") from e
    if not file.exists() and not os.access(out, os.W_OK | os.X_OK):
        raise StoreError(f"the folder {out} is unwritable; choose another --out")
    return sa.URL.create("sqlite", database=str(file)).render_as_string()


def existing_url(place: str) -> str:
    """The URL of a database that is there already; opening one that is not would make it.

    Args:
        place: A URL, or the file of a SQLite database.

    Raises:
        StoreError: There is no such file.
    """
    if "://" not in place:
        place = sa.URL.create("sqlite", database=place).render_as_string()
    file = Path(place.removeprefix("sqlite:///"))
    if place.startswith("sqlite:///") and not file.is_file():
        near = [f.name for f in file.parent.glob("*.db")]
        raise StoreError(f"there is no database {file}; {did_you_mean(file.name, near)}")
    return place


class Store:
    """An open database: ``storage`` is Optuna's part, ``url`` where it is, without the password.

    Any method raises ``StoreError`` when the database can no longer be used: locked for a minute,
    read-only, on a full disk, or its server gone.
    """

    storage: RDBStorage
    url: str

    def __init__(self, url: str) -> None:
        """Open the database, made if missing, and bring our tables to this program's schema.

        Raises:
            StoreError: It cannot be opened, or a newer autotl made it.
        """
        try:
            parsed = sa.make_url(url)
        except (exc.ArgumentError, ValueError):
            # Neither the URL nor the cause is shown: a password may stand in either.
            raise StoreError(
                "the storage is not a database URL; write sqlite:///FILE.db or "
                "postgresql+psycopg://USER:PASSWORD@HOST/NAME, where %40 is an @ in the password"
            ) from None
        shown = parsed.difference_update_query(["password", "passwd"])
        self.url = shown.render_as_string(hide_password=True)
        local = parsed.get_backend_name() == "sqlite"
        self._place = (parsed.database if local else None) or self.url
        if local and Path(self._place).is_dir():
            raise StoreError(f"the database {self._place} is a folder; name a file in it")
        options = {"connect_args": {"timeout": _LOCK_SECONDS}} if local else {"pool_pre_ping": True}
        with self._explained((*_FAULTS, exc.SQLAlchemyError, ImportError, RuntimeError)):
            self.storage = _open(url, options, self._place)

    def close(self) -> None:
        """Let go of the connections; the next use makes new ones."""
        self.storage.remove_session()
        self.storage.engine.dispose()

    # studies

    def begin(self, study: str, facts: Mapping[str, Any]) -> None:
        """Write what the study is; facts that it had before are replaced."""
        now = datetime.now(UTC)
        values = {"facts": facts, "updated": now}
        try:
            with self._write() as connection:
                connection.execute(STUDY.insert().values(name=study, created=now, **values))
        except exc.IntegrityError:  # it is there, perhaps since another worker began it just now
            with self._write() as connection:
                connection.execute(STUDY.update().where(STUDY.c.name == study).values(**values))

    def update(self, study: str, **facts: Any) -> None:
        """Add to the study's facts, replacing those of the same names.

        Raises:
            StudyError: There is no such study.
        """
        here = STUDY.c.name == study
        with self._write() as connection:
            # FOR UPDATE: nobody else shall merge into the same old facts at the same time.
            old = connection.scalar(sa.select(STUDY.c.facts).where(here).with_for_update())
            if old is not None:
                values = {"facts": {**old, **facts}, "updated": datetime.now(UTC)}
                connection.execute(STUDY.update().where(here).values(**values))
        if old is None:
            raise self._no_study(study)

    def facts(self, study: str) -> dict[str, Any] | None:
        """The study's facts, or None if there is no such study."""
        with self._read() as connection:
            found = connection.scalar(sa.select(STUDY.c.facts).where(STUDY.c.name == study))
        return None if found is None else dict(found)

    def require(self, study: str) -> dict[str, Any]:
        """The study's facts.

        Raises:
            StudyError: There is no such study.
        """
        if (found := self.facts(study)) is None:
            raise self._no_study(study)
        return found

    def studies(self) -> list[str]:
        """The names of all studies, sorted."""
        with self._read() as connection:
            return sorted(connection.scalars(sa.select(STUDY.c.name)))

    def delete(self, study: str) -> None:
        """Delete all that is known of the study, and Optuna's study of that name.

        Raises:
            StudyError: There is no such study; one that only Optuna knows is not ours to delete.
        """
        self.require(study)
        # Optuna's first: if this is cut off half-way, the study is still listed and can be deleted.
        with self._explained(), suppress(KeyError):
            optuna.delete_study(study_name=study, storage=self.storage)
        with self._write() as connection:
            for table in (EPOCH, TRIAL, FINAL, TEST):
                connection.execute(table.delete().where(table.c.study == study))
            connection.execute(STUDY.delete().where(STUDY.c.name == study))

    # trials

    def begin_trial(self, study: str, number: int, config: Mapping[str, Any], epochs: int) -> None:
        """Write that a trial of so many ``epochs`` begins; what its number had before goes."""
        chosen = {"study": study, "number": number, "config": config, "epochs": epochs}
        now = datetime.now(UTC)
        state = {"end": "running", "reason": "", "seconds": 0.0, "started": now, "facts": {}}
        with self._write() as connection:
            for table in (EPOCH, TRIAL):
                connection.execute(table.delete().where(*_at(table, study, number)))
            connection.execute(TRIAL.insert().values(**chosen, **state))

    def update_trial(self, study: str, number: int, **columns: Any) -> None:
        """Fill in columns that were not known when the trial began, such as ``parameters``.

        Raises:
            StudyError: There is no such trial.
        """
        change = TRIAL.update().where(*_at(TRIAL, study, number)).values(**columns)
        with self._write() as connection:
            found = connection.execute(change).rowcount
        if not found:
            raise self._no_trial(study, number)

    def note_trial(self, study: str, number: int, **facts: Any) -> None:
        """Add to what a trial measured, replacing facts of the same names.

        Raises:
            StudyError: There is no such trial.
        """
        here = _at(TRIAL, study, number)
        with self._write() as connection:
            query = sa.select(TRIAL.c.facts).where(*here).with_for_update()
            if found := connection.execute(query).first():
                new = {**(found.facts or {}), **facts}
                connection.execute(TRIAL.update().where(*here).values(facts=new))
        if not found:
            raise self._no_trial(study, number)

    def end_trial(
        self,
        study: str,
        number: int,
        end: str,
        *,
        reason: str = "",
        score: float | None = None,
        seconds: float = 0.0,
    ) -> None:
        """Write how the trial ended, one of ``ENDS``, and why.

        Raises:
            StudyError: There is no such trial.
            ValueError: ``end`` is none of ``ENDS``.
        """
        if end not in ENDS:
            raise ValueError(f"a trial cannot end as {end!r}; {did_you_mean(end, ENDS)}")
        why = _legible(reason)
        self.update_trial(study, number, end=end, reason=why, score=score, seconds=seconds)

    def add_epoch(
        self,
        study: str,
        number: int,
        *,
        epoch: int,
        loss: float,
        score: float,
        seconds: float,
        learned: int | None = None,
    ) -> None:
        """Write an epoch of a trial; an epoch that is run again takes the place of the first.

        ``learned`` is how many parameters have learned so far, which the trial is told.
        """
        row = {"epoch": epoch, "loss": loss, "score": score, "seconds": seconds}
        same = (*_at(EPOCH, study, number), EPOCH.c.epoch == epoch)
        with self._write() as connection:
            connection.execute(EPOCH.delete().where(*same))
            connection.execute(EPOCH.insert().values(study=study, number=number, **row))
            if learned is not None:
                told = TRIAL.update().where(*_at(TRIAL, study, number))
                connection.execute(told.values(learned_parameters=learned))

    def trials(self, study: str) -> list[TrialRow]:
        """The study's trials, by number."""
        rows = self._rows(TrialRow, TRIAL, TRIAL.c.study == study)
        return [row if row.facts is not None else replace(row, facts={}) for row in rows]

    def epochs(self, study: str, number: int) -> list[EpochRow]:
        """The epochs of a trial, in order."""
        return self._rows(EpochRow, EPOCH, *_at(EPOCH, study, number))

    # the finals

    def add_final(
        self,
        study: str,
        candidate: str,
        run: int,
        *,
        trial: int | None = None,
        score: float,
        seconds: float = 0.0,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a run of the finals; one that is run again takes the place of the first."""
        row = {"trial": trial, "score": score, "seconds": seconds, "facts": facts or {}}
        keys = {"study": study, "candidate": candidate, "run": run}
        same = [FINAL.c[key] == value for key, value in keys.items()]
        with self._write() as connection:
            connection.execute(FINAL.delete().where(*same))
            connection.execute(FINAL.insert().values(**keys, **row))

    def finals(self, study: str) -> list[FinalRow]:
        """All runs of the study's finals, by candidate and run."""
        return self._rows(FinalRow, FINAL, FINAL.c.study == study)

    # the sealed test part

    def open_test(self, study: str, trial: int, config: Mapping[str, Any]) -> int:
        """Write that the test part is about to be looked at; returns what ``close_test`` asks for.

        When this returns the database has it, so that no crash can hide that it was opened.
        """
        row = {"study": study, "trial": trial, "config": config, "facts": {}}
        with self._write() as connection:
            result = connection.execute(TEST.insert().values(opened=datetime.now(UTC), **row))
            key = result.inserted_primary_key
        assert key is not None  # only an insert of several rows has none
        return int(key[0])

    def close_test(self, opening: int, **facts: Any) -> None:
        """Write what the test part showed, such as ``score``, ``low``, ``high`` and ``n``.

        Raises:
            StudyError: There is no such opening.
        """
        with self._write() as connection:
            change = TEST.update().where(TEST.c.id == opening).values(facts=facts)
            found = connection.execute(change).rowcount
        if not found:
            raise StudyError(f"no test part was opened as {opening}; was the study deleted?")

    def tests(self, study: str) -> list[TestRow]:
        """Each opening of the study's test part, oldest first."""
        return self._rows(TestRow, TEST, TEST.c.study == study)

    @contextmanager
    def _read(self) -> Iterator[sa.Connection]:
        with self._explained(), self.storage.engine.connect() as connection:
            yield connection

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        with self._explained(), tables.write(self.storage.engine) as connection:
            yield connection

    def _rows(
        self, kind: type[_Row], table: sa.Table, *where: sa.ColumnElement[bool]
    ) -> list[_Row]:
        columns = [table.c[field.name] for field in fields(kind)]
        query = sa.select(*columns).where(*where).order_by(*columns[:2])
        with self._read() as connection:
            return [kind(*row) for row in connection.execute(query)]

    def _no_study(self, study: str) -> StudyError:
        hint = did_you_mean(study, self.studies())
        return StudyError(f"no study is called {study!r} in {self._place}; {hint}")

    @staticmethod
    def _no_trial(study: str, number: int) -> StudyError:
        return StudyError(
            f"study {study!r} has no trial {number}; if somebody deleted it while it ran, "
            "start the search again"
        )

    @contextmanager
    def _explained(self, faults: tuple[type[Exception], ...] = _FAULTS) -> Iterator[None]:
        """Turns faults that the user can mend into a StoreError that says how."""
        try:
            yield
        except faults as e:
            first: BaseException = e  # the error that the others wrap has the plainest words
            while first.__cause__:
                first = first.__cause__
            said = (str(first).splitlines() or [type(first).__name__])[0]
            advice = next(do for part, do in _ADVICE.items() if part in said.lower())
            raise StoreError(f"cannot use the database {self._place}: {said}; {advice}") from e


def _open(url: str, options: dict[str, Any], place: str, tries: int = 5) -> RDBStorage:
    try:
        # Optuna calls str.format on the URL; a folder may have braces in its name.
        storage = RDBStorage(url.replace("{", "{{").replace("}", "}}"), engine_kwargs=options)
        migrate(storage.engine, place)
    except exc.DBAPIError as e:
        # Workers that start together all find no tables, and only one of them can make them.
        lost_race = isinstance(e, exc.IntegrityError) or "already exists" in str(e)
        if not lost_race or tries == 1:
            raise
        time.sleep(0.2)
        return _open(url, options, place, tries - 1)
    return storage


def _at(table: sa.Table, study: str, number: int) -> tuple[sa.ColumnElement[bool], ...]:
    return table.c.study == study, table.c.number == number


def _legible(text: str) -> str:
    """``text`` as every database takes it: a message may quote a file name that is no Unicode."""
    return text.replace("\0", "").encode(errors="backslashreplace").decode()
