"""What is kept of studies, trials, finals and tests, beside what Optuna keeps."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import optuna
import sqlalchemy as sa
from optuna.storages import RDBStorage
from sqlalchemy import exc

from autotl.errors import StudyError, did_you_mean
from autotl.store.migrations import tables
from autotl.store.migrations.tables import EPOCH, FINAL, STUDY, TEST, TRIAL
from autotl.store.opening import explained, open_database
from autotl.store.rows import STATUSES, EpochRow, FinalRow, TestRow, TrialRow

_Row = TypeVar("_Row", TrialRow, EpochRow, FinalRow, TestRow)


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
        opened = open_database(url)
        self.storage, self.url, self._place = opened.storage, opened.url, opened.place

    def options(self, out: Path) -> str:
        """What a command is to be given to find this database and the run folders in ``out``."""
        parts = [] if out == Path("runs") else ["--out", str(out)]
        if self._place != str(out / "autotl.db"):
            parts += ["--storage", self.url]
        return "".join(f" {shlex.quote(part)}" for part in parts)

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
        with explained(self._place), suppress(KeyError):
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
        state = {"status": "running", "reason": "", "seconds": 0.0, "started": now, "facts": {}}
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
        status: str,
        *,
        reason: str = "",
        score: float | None = None,
        seconds: float = 0.0,
    ) -> None:
        """Write how the trial ended, one of ``STATUSES``, and why.

        Raises:
            StudyError: There is no such trial.
            ValueError: ``status`` is none of ``STATUSES``.
        """
        if status not in STATUSES:
            raise ValueError(f"a trial cannot end as {status!r}; {did_you_mean(status, STATUSES)}")
        why = _legible(reason)
        self.update_trial(study, number, status=status, reason=why, score=score, seconds=seconds)

    def add_epoch(
        self,
        study: str,
        number: int,
        *,
        epoch: int,
        loss: float,
        score: float,
        seconds: float,
        trained_parameters: int | None = None,
    ) -> None:
        """Write an epoch of a trial; an epoch that is run again takes the place of the first.

        ``trained_parameters`` is how many parameters have learned so far, which the trial is told.
        """
        row = {"epoch": epoch, "loss": loss, "score": score, "seconds": seconds}
        same = (*_at(EPOCH, study, number), EPOCH.c.epoch == epoch)
        with self._write() as connection:
            connection.execute(EPOCH.delete().where(*same))
            connection.execute(EPOCH.insert().values(study=study, number=number, **row))
            if trained_parameters is not None:
                told = TRIAL.update().where(*_at(TRIAL, study, number))
                connection.execute(told.values(trained_parameters=trained_parameters))

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

    def open_test(self, study: str, trial: int, config: Mapping[str, Any], **facts: Any) -> int:
        """Write that the test part is about to be looked at; returns what ``close_test`` asks for.

        When this returns the database has it, so that no crash can hide that it was opened.

        Args:
            study: Whose test part.
            trial: Whose model is tested, or the heaviest of several as one.
            config: Of the trial.
            facts: Who is tested, ``candidate`` and ``members``.
        """
        row = {"study": study, "trial": trial, "config": config, "facts": facts}
        with self._write() as connection:
            result = connection.execute(TEST.insert().values(opened=datetime.now(UTC), **row))
            key = result.inserted_primary_key
        assert key is not None  # only an insert of several rows has none
        return int(key[0])

    def close_test(self, opening: int, **facts: Any) -> None:
        """Write what the test part showed: ``score``, and such as ``low``, ``high`` and ``n``.

        They take the place of the facts that it was opened with.

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

    def faults(self) -> AbstractContextManager[None]:
        """Within it, what Optuna says of a database that fails becomes a StoreError too."""
        return explained(self._place)

    @contextmanager
    def _read(self) -> Iterator[sa.Connection]:
        with explained(self._place), self.storage.engine.connect() as connection:
            yield connection

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        with explained(self._place), tables.write(self.storage.engine) as connection:
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


def _at(table: sa.Table, study: str, number: int) -> tuple[sa.ColumnElement[bool], ...]:
    return table.c.study == study, table.c.number == number


def _legible(text: str) -> str:
    """``text`` as every database takes it: a message may quote a file name that is no Unicode."""
    return text.replace("\0", "").encode(errors="backslashreplace").decode()
