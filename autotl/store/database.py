"""The store: reads and writes AutoTL's tables of studies, trials, repeats and tests."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import optuna
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy import exc

from autotl.errors import StoreError, StudyError, did_you_mean
from autotl.store import quick
from autotl.store.contender import Contender, Facts
from autotl.store.facts import RepeatFacts, StudyFacts, TestResult, TrialFacts
from autotl.store.lock import lock
from autotl.store.migrations import tables
from autotl.store.migrations.tables import (
    DATA_ISSUE,
    EPOCH,
    IMAGE,
    LATENCY,
    PREDICTION,
    REPEAT,
    STUDY,
    STUDY_FACT,
    TABLES_OF_STUDY,
    TEST,
    TRIAL,
)
from autotl.store.opening import (
    DATABASE_ERRORS,
    convert_damage,
    convert_damage_of_optuna,
    convert_errors,
    merge_write_ahead_log,
    open_database,
)
from autotl.store.optuna_storage import TrialStorage
from autotl.store.rows import (
    CONTRIBUTION_TYPE,
    STATUSES,
    DataIssueRow,
    EpochRow,
    ImageRow,
    RepeatRow,
    TestRow,
    TrialRow,
)

_Row = TypeVar("_Row", TrialRow, EpochRow, RepeatRow, TestRow, DataIssueRow, ImageRow)

MAX_PREDICTION_BYTES = 2**20
"""The size of the predictions of a trial up to which they are stored."""

RECORDS: Mapping[type[Any], Mapping[str, type[Facts]]] = {
    TrialRow: {"facts": TrialFacts},
    RepeatRow: {"facts": RepeatFacts},
    TestRow: {"contender": Contender, "result": TestResult},
}
"""The columns that contain records, by the type of the row."""


class Store:
    """An open database: ``storage`` is Optuna's storage, ``url`` the URL without the password.

    Facts are read and written only as the records of ``store.facts``. Every method raises
    ``StoreError`` if the database cannot be used, because it is locked for a minute or read-only,
    the disk is full, or the server does not respond.
    """

    storage: TrialStorage
    url: str

    def __init__(self, url: str) -> None:
        """Open or create a database, and migrate AutoTL's tables to the schema of this version.

        Raises:
            StoreError: It cannot be opened, or a newer version of AutoTL created it.
        """
        database = open_database(url)
        self.storage, self.url, self._label = database.storage, database.public_url, database.label

    def options(self, out: Path) -> str:
        """Return the options that select this database and the run folders in ``out``."""
        parts = [] if out == Path("runs") else ["--out", str(out)]
        if self._label != str(out / "autotl.db"):
            parts += ["--storage", self.url]
        return "".join(f" {shlex.quote(part)}" for part in parts)

    def lock_file(self, study: str, folder: Path) -> Path:
        """Return the file that a process locks while it runs the study, see ``quick``."""
        engine = self.storage.engine
        file = engine.url.database if engine.dialect.name == "sqlite" else None
        return quick.lock_file(Path(file) if file else None, study, folder)

    def lock(self, study: str, folder: Path, advice: str = "") -> AbstractContextManager[None]:
        """Lock the study, see ``store.lock``; ``folder`` is its run folder.

        Raises:
            StudyError: Another process runs the study.
            StoreError: The lock file cannot be written.
        """
        return lock(self.lock_file(study, folder), study, advice)

    def close(self) -> None:
        """Close the connections; the next use opens new ones."""
        self.storage.remove_session()
        self.storage.engine.dispose()
        merge_write_ahead_log(self.storage.engine)

    # studies

    def begin_study(self, study: str, **facts: Any) -> None:
        """Add the study if it does not exist, and update its facts as ``update_study`` does."""
        now = datetime.now(UTC)
        # Another process may have added it in the meantime.
        with suppress(exc.IntegrityError), self._write() as connection:
            connection.execute(STUDY.insert().values(name=study, created=now, updated=now))
        self.update_study(study, **facts)

    def update_study(self, study: str, **facts: Any) -> None:
        """Replace some facts of the study, by the names of the fields of ``StudyFacts``.

        Raises:
            StudyError: There is no such study.
            pydantic.ValidationError: A value does not have the type of its field.
            TypeError: There is no such field.
        """
        values = _to_json(StudyFacts, facts)
        with self._write() as connection:
            change = STUDY.update().where(STUDY.c.name == study)
            count = connection.execute(change.values(updated=datetime.now(UTC))).rowcount
            if count and values:
                names = STUDY_FACT.c.study == study, STUDY_FACT.c.name.in_(values)
                connection.execute(STUDY_FACT.delete().where(*names))
                rows = [{"study": study, "name": k, "value": v} for k, v in values.items()]
                connection.execute(STUDY_FACT.insert(), rows)
        if not count:
            raise self._no_study(study)

    def find_study(self, study: str) -> StudyFacts | None:
        """The facts of the study, or None if there is no such study."""
        columns = STUDY_FACT.c.name, STUDY_FACT.c.value
        with self._read() as connection:
            exists = connection.scalar(sa.select(STUDY.c.name).where(STUDY.c.name == study))
            query = sa.select(*columns).where(STUDY_FACT.c.study == study)
            facts = {name: value for name, value in connection.execute(query)}
            given = {name: value for name, value in facts.items() if value is not None}
            return StudyFacts.model_validate(given) if exists else None

    def study(self, study: str) -> StudyFacts:
        """The facts of the study.

        Raises:
            StudyError: There is no such study.
        """
        if (facts := self.find_study(study)) is None:
            raise self._no_study(study)
        return facts

    def studies(self) -> list[str]:
        """The names of all studies, sorted."""
        with self._read() as connection:
            return sorted(connection.scalars(sa.select(STUDY.c.name)))

    def delete(self, study: str) -> None:
        """Delete everything that is stored of the study, and Optuna's study of that name.

        Raises:
            StudyError: There is no such study. A study that is only in Optuna's tables counts as
                missing, because AutoTL did not create it.
        """
        self.study(study)
        # Optuna's study is deleted first: after an interruption, the study is still listed and
        # can be deleted.
        with convert_errors(self._label), suppress(KeyError):
            optuna.delete_study(study_name=study, storage=self.storage)
        with self._write() as connection:
            for table in TABLES_OF_STUDY:
                connection.execute(table.delete().where(table.c.study == study))
            connection.execute(STUDY.delete().where(STUDY.c.name == study))

    @contextmanager
    def expect_study(self, study: str) -> Iterator[None]:
        """Explain an error inside if its cause is that somebody has deleted the study meanwhile.

        Raises:
            StudyError: The study, or Optuna's study of that name, is missing after an error.
        """
        try:
            yield
        except Exception as error:
            with suppress(StoreError):
                if not self._is_complete(study):
                    raise StudyError(
                        f"study {study!r} was deleted while it ran; the files in its run folder "
                        "stay; repeat the command to begin a new study"
                    ) from error
            raise

    def _is_complete(self, study: str) -> bool:
        """Whether the study is in AutoTL's tables and, once it has a trial, in Optuna's."""
        if self.find_study(study) is None:
            return False
        if not self.trials(study):
            return True
        with convert_errors(self._label):
            return study in optuna.get_all_study_names(self.storage)

    # the data of a study

    def set_data_issues(self, study: str, issues: Sequence[DataIssueRow]) -> None:
        """Replace the problems of the data."""
        self._replace(DATA_ISSUE, study, issues)

    def data_issues(self, study: str) -> list[DataIssueRow]:
        """Return the problems of the data."""
        return self._list(DataIssueRow, DATA_ISSUE, study, order="position")

    def set_images(self, study: str, images: Sequence[ImageRow], opening: int = 0) -> None:
        """Replace the possible label issues, or the errors of the test ``opening``."""
        self._replace(IMAGE, study, images, opening=opening)

    def images(self, study: str, opening: int = 0) -> list[ImageRow]:
        """Return the possible label issues, or the errors of a test, the most confident first."""
        return self._list(ImageRow, IMAGE, study, order="position", opening=opening)

    def add_latencies(self, study: str, milliseconds: Mapping[str, float]) -> None:
        """Store the latency of some backbones for one image; older values are replaced."""
        rows = [
            {"study": study, "backbone": name, "milliseconds": value}
            for name, value in milliseconds.items()
        ]
        if not rows:
            return
        names = LATENCY.c.study == study, LATENCY.c.backbone.in_(milliseconds)
        with self._write() as connection:
            connection.execute(LATENCY.delete().where(*names))
            connection.execute(LATENCY.insert(), rows)

    def latencies(self, study: str) -> dict[str, float]:
        """Return the measured latencies by backbone, in milliseconds for one image."""
        query = sa.select(LATENCY.c.backbone, LATENCY.c.milliseconds)
        with self._read() as connection:
            return {k: v for k, v in connection.execute(query.where(LATENCY.c.study == study))}

    # trials

    def begin_trial(
        self,
        study: str,
        number: int,
        config: Mapping[str, Any],
        epochs: int,
        facts: TrialFacts | None = None,
    ) -> None:
        """Add a running trial of ``epochs`` epochs; an older one of the same number is deleted."""
        values = {
            "config": config,
            "epochs": epochs,
            "status": "running",
            "reason": "",
            "seconds": 0.0,
            "started": datetime.now(UTC),
            "facts": _set_fields_to_json(facts),
        }
        with self._write() as connection:
            for table in (EPOCH, PREDICTION, TRIAL):
                connection.execute(table.delete().where(*_at(table, study, number)))
            connection.execute(TRIAL.insert().values(study=study, number=number, **values))

    def update_trial(
        self, study: str, number: int, columns: Mapping[str, Any] | None = None, **facts: Any
    ) -> None:
        """Replace some columns and some facts of a trial.

        Args:
            study: The name of the study.
            number: The number of the trial.
            columns: New values by column, such as ``{"parameters": 5_288_548}``.
            facts: New values by field of ``TrialFacts``.

        Raises:
            StudyError: There is no such trial.
        """
        here, values, new = (
            _at(TRIAL, study, number),
            dict(columns or {}),
            _to_json(TrialFacts, facts),
        )
        with self._write() as connection:
            values |= _merged_facts(connection, here, new)
            count = connection.execute(TRIAL.update().where(*here).values(**values)).rowcount
        if not count:
            raise self._no_trial(study, number)

    def finish_trial(
        self,
        study: str,
        number: int,
        status: str,
        *,
        reason: str = "",
        score: float | None = None,
        seconds: float = 0.0,
        trained_parameters: int | None = None,
        epochs: Sequence[EpochRow] = (),
        **facts: Any,
    ) -> None:
        """Store the final status of a trial, its result and its epochs.

        Args:
            study: The name of the study.
            number: The number of the trial.
            status: One of ``STATUSES``.
            reason: Why it has this status; empty for ``complete``.
            score: The score in the metric of the study; None unless the trial is complete.
            seconds: The wall-clock time of the trial.
            trained_parameters: The number of parameters that were trained.
            epochs: The results of its epochs.
            facts: New values by field of ``TrialFacts``.

        Raises:
            StudyError: There is no such trial.
            ValueError: ``status`` is not one of ``STATUSES``.
        """
        if status not in STATUSES:
            raise ValueError(f"{status!r} is not a status; {did_you_mean(status, STATUSES)}")
        here, new = _at(TRIAL, study, number), _to_json(TrialFacts, facts)
        result: dict[str, Any] = {
            "status": status,
            "reason": reason,
            "score": score,
            "seconds": seconds,
        }
        if trained_parameters is not None:
            result["trained_parameters"] = trained_parameters
        with self._write() as connection:
            result |= _merged_facts(connection, here, new)
            count = connection.execute(TRIAL.update().where(*here).values(**result)).rowcount
            if count and epochs:
                connection.execute(EPOCH.delete().where(*_at(EPOCH, study, number)))
                rows = [{"study": study, "number": number, **asdict(row)} for row in epochs]
                connection.execute(EPOCH.insert(), rows)
        if not count:
            raise self._no_trial(study, number)

    def trials(self, study: str, after: int = -1, numbers: Collection[int] = ()) -> list[TrialRow]:
        """Return the trials of the study, sorted by number.

        Args:
            study: The name of the study.
            after: Only trials with a larger number than this are returned.
            numbers: Trials that are returned in addition.
        """
        wanted = TRIAL.c.number > after
        if numbers:
            wanted |= TRIAL.c.number.in_(numbers)
        return self._list(TrialRow, TRIAL, study, wanted, order="number")

    def add_predictions(
        self,
        study: str,
        number: int,
        predictions: NDArray[np.float32],
        contributions: NDArray[np.float64],
        *,
        are_probabilities: bool = True,
        **facts: Any,
    ) -> None:
        """Store the predictions of a trial for the validation split.

        Args:
            study: The name of the study.
            number: The number of the trial.
            predictions: ``[N, K]``; not stored if they are larger than ``MAX_PREDICTION_BYTES``.
            contributions: What each sampling unit contributes to the score, ``[U]``.
            are_probabilities: Whether float16 is precise enough for the predictions.
            facts: New values by field of ``TrialFacts``.

        Raises:
            StudyError: There is no such trial.
        """
        number_type = "<f2" if are_probabilities else "<f4"
        data = predictions.astype(number_type).tobytes()
        contributed = contributions.astype(CONTRIBUTION_TYPE).tobytes()
        self.update_trial(study, number, {"contributions": contributed}, **facts)
        if len(data) > MAX_PREDICTION_BYTES:
            return
        values = {
            "outputs": predictions.shape[1],
            "predictions": data,
            "number_type": number_type,
        }
        with self._write() as connection:
            connection.execute(PREDICTION.delete().where(*_at(PREDICTION, study, number)))
            connection.execute(PREDICTION.insert().values(study=study, number=number, **values))

    def predictions(self, study: str, number: int) -> NDArray[np.float32] | None:
        """Return the predictions ``[N, K]`` of a trial for the validation split, if stored."""
        query = sa.select(PREDICTION)
        with self._read() as connection:
            row = connection.execute(query.where(*_at(PREDICTION, study, number))).first()
            if row is None:
                return None
            values = np.frombuffer(row.predictions, row.number_type).astype(np.float32)
            return values.reshape(-1, row.outputs)

    def epochs(self, study: str, number: int) -> list[EpochRow]:
        """Return the epochs of a trial, in order."""
        return self._list(EpochRow, EPOCH, study, order="epoch", number=number)

    # the final selection

    def add_repeat(self, study: str, row: RepeatRow) -> None:
        """Store a repeat of a contender; an older one of the same number is replaced."""
        keys = {"study": study, "kind": row.kind, "trial": row.trial, "repeat": row.repeat}
        values = {
            "score": row.score,
            "seconds": row.seconds,
            "facts": _set_fields_to_json(row.facts),
        }
        with self._write() as connection:
            same = [REPEAT.c[key] == value for key, value in keys.items()]
            connection.execute(REPEAT.delete().where(*same))
            connection.execute(REPEAT.insert().values(**keys, **values))

    def repeats(self, study: str) -> list[RepeatRow]:
        """Return all repeats of the final selection of the study."""
        return self._list(RepeatRow, REPEAT, study, order="repeat")

    # the test split

    def open_test(self, study: str, contender: Contender, config: Mapping[str, Any]) -> int:
        """Record that the test split is about to be used; return the number of this use.

        The record is committed before the function returns, so that a crash cannot hide the use.

        Args:
            study: The name of the study.
            contender: The contender that is tested.
            config: The configuration of its trial with the largest weight.

        Returns:
            The argument ``opening`` of ``close_test``.
        """
        row = {"study": study, "contender": contender.reference(), "config": config, "result": {}}
        with self._write() as connection:
            result = connection.execute(TEST.insert().values(opened=datetime.now(UTC), **row))
            key = result.inserted_primary_key
        assert key is not None  # only an insert of several rows has none
        return int(key[0])

    def close_test(self, opening: int, result: TestResult) -> None:
        """Store the result on the test split.

        Args:
            opening: The result of ``open_test``.
            result: The scores and measurements.

        Raises:
            StudyError: There is no test of this number.
        """
        with self._write() as connection:
            change = TEST.update().where(TEST.c.id == opening)
            count = connection.execute(change.values(result=_set_fields_to_json(result))).rowcount
        if not count:
            raise StudyError(
                f"there is no test {opening}; if the study was deleted while it ran, start the "
                "search again"
            )

    def tests(self, study: str) -> list[TestRow]:
        """Return all uses of the study's test split, oldest first."""
        return self._list(TestRow, TEST, study, order="id")

    @contextmanager
    def convert_errors(self) -> Iterator[None]:
        """Convert errors of the database that Optuna raises inside to StoreError."""
        with convert_errors(self._label), convert_damage_of_optuna(self._label):
            yield

    @contextmanager
    def _read(self) -> Iterator[sa.Connection]:
        with (
            convert_errors(self._label, (*DATABASE_ERRORS, exc.DatabaseError)),
            convert_damage(self._label),
            self.storage.engine.connect() as connection,
        ):
            yield connection

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        with (
            convert_errors(self._label),
            tables.write_transaction(self.storage.engine) as connection,
        ):
            yield connection

    def _list(
        self,
        kind: type[_Row],
        table: sa.Table,
        study: str,
        *where: sa.ColumnElement[bool],
        order: str,
        **equal: Any,
    ) -> list[_Row]:
        """Return the rows of a study as values of type ``kind``; JSON columns become records."""
        names = [field.name for field in fields(kind)]
        columns = [table.c[name] for name in names]
        same = [table.c[name] == value for name, value in equal.items()]
        keys = [column for column in table.primary_key if column.name != order]
        query = sa.select(*columns).where(table.c.study == study, *same, *where)
        records = RECORDS.get(kind, {})

        def value(name: str, stored: Any) -> Any:
            return records[name].model_validate(stored or {}) if name in records else stored

        with self._read() as connection:
            rows = connection.execute(query.order_by(table.c[order], *keys)).all()
            return [kind(*map(value, names, row)) for row in rows]

    def _replace(self, table: sa.Table, study: str, rows: Sequence[Any], **equal: Any) -> None:
        """Replace the rows of a study whose columns have the values ``equal``, in this order."""
        values = [
            {"study": study, "position": position, **equal, **asdict(row)}
            for position, row in enumerate(rows)
        ]
        same = [table.c[name] == value for name, value in equal.items()]
        with self._write() as connection:
            connection.execute(table.delete().where(table.c.study == study, *same))
            if values:
                connection.execute(table.insert(), values)

    def _no_study(self, study: str) -> StudyError:
        hint = did_you_mean(study, self.studies())
        return StudyError(f"there is no study {study!r} in {self._label}; {hint}")

    @staticmethod
    def _no_trial(study: str, number: int) -> StudyError:
        return StudyError(
            f"study {study!r} has no trial {number}; if it was deleted while it ran, start the "
            "search again"
        )


def _merged_facts(
    connection: sa.Connection, here: tuple[sa.ColumnElement[bool], ...], new: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the column ``facts`` of a trial, updated with ``new``; empty if ``new`` is empty."""
    if not new:
        return {}
    # FOR UPDATE: no other process may change the facts before they are written.
    query = sa.select(TRIAL.c.facts).where(*here).with_for_update()
    return {"facts": {**(connection.scalar(query) or {}), **new}}


def _to_json(record: type[Facts], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Convert some fields of a record to JSON, after validation of their types."""
    if unknown := sorted(set(changes) - set(record.model_fields)):
        hint = did_you_mean(unknown[0], record.model_fields)
        raise TypeError(f"{record.__name__} has no field {unknown[0]!r}; {hint}")
    checked = record.model_validate(dict(changes))
    return checked.model_dump(mode="json", include=set(changes))


def _set_fields_to_json(record: Facts | None) -> dict[str, Any]:
    """Convert the fields of a record that were set explicitly to JSON."""
    return {} if record is None else record.model_dump(mode="json", exclude_unset=True)


def _at(table: sa.Table, study: str, number: int) -> tuple[sa.ColumnElement[bool], ...]:
    return table.c.study == study, table.c.number == number
