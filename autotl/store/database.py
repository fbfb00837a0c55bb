"""The store: reads and writes AutoTL's tables of studies, trials, repeats and tests."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np
import optuna
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy import exc

from autotl.errors import StoreError, StudyError, did_you_mean
from autotl.store.connection import Database
from autotl.store.contender import Contender
from autotl.store.facts import StudyFacts, TestResult, TrialFacts
from autotl.store.mapping import (
    merge_facts,
    read_rows,
    replace_rows,
    set_fields_to_json,
    to_json,
)
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
from autotl.store.opening import convert_errors
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
from autotl.store.waiting import repeat_lost_calls

MAX_PREDICTION_BYTES = 2**20
"""The size of the predictions of a trial up to which they are stored."""


@repeat_lost_calls()
class Store(Database):
    """What is stored of studies, trials, repeats and tests.

    Facts are read and written only as the records of ``store.facts``. Every method raises
    ``StoreError`` if the database cannot be used, see ``Database``.
    """

    # studies

    def begin_study(self, study: str, **facts: Any) -> None:
        """Add the study if it does not exist, and update its facts as ``update_study`` does."""
        now = datetime.now(UTC)
        # Another process may have added it in the meantime.
        with suppress(exc.IntegrityError), self.write() as connection:
            connection.execute(STUDY.insert().values(name=study, created=now, updated=now))
        self.update_study(study, **facts)

    def update_study(self, study: str, **facts: Any) -> None:
        """Replace some facts of the study, by the names of the fields of ``StudyFacts``.

        Raises:
            StudyError: There is no such study.
            pydantic.ValidationError: A value does not have the type of its field.
            TypeError: There is no such field.
        """
        values = to_json(StudyFacts, facts)
        with self.write() as connection:
            change = STUDY.update().where(STUDY.c.name == study)
            count = connection.execute(change.values(updated=datetime.now(UTC))).rowcount
            if count and values:
                names = STUDY_FACT.c.study == study, STUDY_FACT.c.name.in_(values)
                connection.execute(STUDY_FACT.delete().where(*names))
                rows = [{"study": study, "name": k, "value": v} for k, v in values.items()]
                connection.execute(STUDY_FACT.insert(), rows)
        if not count:
            raise self._no_study(study)

    def merge_study(self, study: str, **facts: Mapping[str, Any]) -> None:
        """Add entries to facts of the study that are dictionaries; other entries stay.

        Several workers may do so at once.

        Raises:
            StudyError: There is no such study.
        """
        new = to_json(StudyFacts, facts)
        with self.write() as connection:
            # FOR UPDATE, on the study: a fact that is not stored yet has no row to be locked.
            query = sa.select(STUDY.c.name).where(STUDY.c.name == study).with_for_update()
            if connection.scalar(query) is None:
                raise self._no_study(study)
            for name, value in new.items():
                here = STUDY_FACT.c.study == study, STUDY_FACT.c.name == name
                stored = connection.scalar(sa.select(STUDY_FACT.c.value).where(*here)) or {}
                connection.execute(STUDY_FACT.delete().where(*here))
                row = {"study": study, "name": name, "value": {**stored, **value}}
                connection.execute(STUDY_FACT.insert().values(row))

    def find_study(self, study: str) -> StudyFacts | None:
        """The facts of the study, or None if there is no such study."""
        columns = STUDY_FACT.c.name, STUDY_FACT.c.value
        with self.read() as connection:
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

    def state(self, study: str) -> str:
        """The state of the study; empty if there is no such study, or if it has none yet."""
        here = STUDY_FACT.c.study == study, STUDY_FACT.c.name == "state"
        with self.read() as connection:
            return connection.scalar(sa.select(STUDY_FACT.c.value).where(*here)) or ""

    def studies(self) -> list[str]:
        """The names of all studies, sorted."""
        with self.read() as connection:
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
        with convert_errors(self.label), suppress(KeyError):
            optuna.delete_study(study_name=study, storage=self.storage)
        with self.write() as connection:
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
        with convert_errors(self.label):
            return study in optuna.get_all_study_names(self.storage)

    # the data of a study

    def set_data_issues(self, study: str, issues: Sequence[DataIssueRow]) -> None:
        """Replace the problems of the data."""
        with self.write() as connection:
            replace_rows(connection, DATA_ISSUE, study, issues)

    def data_issues(self, study: str) -> list[DataIssueRow]:
        """Return the problems of the data."""
        with self.read() as connection:
            return read_rows(connection, DataIssueRow, DATA_ISSUE, study, order="position")

    def set_images(self, study: str, images: Sequence[ImageRow], opening: int = 0) -> None:
        """Replace the possible label issues, or the errors of the test ``opening``."""
        with self.write() as connection:
            replace_rows(connection, IMAGE, study, images, opening=opening)

    def images(self, study: str, opening: int = 0) -> list[ImageRow]:
        """Return the possible label issues, or the errors of a test, the most confident first."""
        with self.read() as connection:
            return read_rows(connection, ImageRow, IMAGE, study, order="position", opening=opening)

    def add_latencies(self, study: str, milliseconds: Mapping[str, float]) -> None:
        """Store the latency of some backbones for one image; older values are replaced."""
        rows = [
            {"study": study, "backbone": name, "milliseconds": value}
            for name, value in milliseconds.items()
        ]
        if not rows:
            return
        names = LATENCY.c.study == study, LATENCY.c.backbone.in_(milliseconds)
        with self.write() as connection:
            connection.execute(LATENCY.delete().where(*names))
            connection.execute(LATENCY.insert(), rows)

    def latencies(self, study: str) -> dict[str, float]:
        """Return the measured latencies by backbone, in milliseconds for one image."""
        query = sa.select(LATENCY.c.backbone, LATENCY.c.milliseconds)
        with self.read() as connection:
            return {k: v for k, v in connection.execute(query.where(LATENCY.c.study == study))}

    # trials

    def begin_trial(
        self,
        study: str,
        number: int,
        config: Mapping[str, Any],
        epochs: int,
        facts: TrialFacts | None = None,
        worker: int | None = None,
    ) -> None:
        """Add a running trial of ``epochs`` epochs; an older one of the same number is deleted.

        ``worker`` is the number of the worker that runs it.
        """
        values = {
            "config": config,
            "epochs": epochs,
            "status": "running",
            "reason": "",
            "seconds": 0.0,
            "started": datetime.now(UTC),
            "facts": set_fields_to_json(facts),
            "worker": worker,
        }
        with self.write() as connection:
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
        here, new = _at(TRIAL, study, number), to_json(TrialFacts, facts)
        values = dict(columns or {})
        with self.write() as connection:
            values |= merge_facts(connection, here, new)
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
        worker: int | None = None,
        **facts: Any,
    ) -> bool:
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
            worker: The worker that ran it; None for any.
            facts: New values by field of ``TrialFacts``.

        Returns:
            Whether it was stored. It is not if the trial was taken from the worker (``bury``).

        Raises:
            StudyError: There is no such trial.
            ValueError: ``status`` is not one of ``STATUSES``.
        """
        if status not in STATUSES:
            raise ValueError(f"{status!r} is not a status; {did_you_mean(status, STATUSES)}")
        here, new = _at(TRIAL, study, number), to_json(TrialFacts, facts)
        result: dict[str, Any] = {
            "status": status,
            "reason": reason,
            "score": score,
            "seconds": seconds,
        }
        if trained_parameters is not None:
            result["trained_parameters"] = trained_parameters
        own = [] if worker is None else [TRIAL.c.worker == worker, TRIAL.c.status == "running"]
        with self.write() as connection:
            result |= merge_facts(connection, here, new)
            change = TRIAL.update().where(*here, *own).values(**result)
            count = connection.execute(change).rowcount
            if count and epochs:
                connection.execute(EPOCH.delete().where(*_at(EPOCH, study, number)))
                rows = [{"study": study, "number": number, **asdict(row)} for row in epochs]
                connection.execute(EPOCH.insert(), rows)
            exists = count or connection.scalar(sa.select(TRIAL.c.number).where(*here)) is not None
        if not exists:
            raise self._no_trial(study, number)
        return bool(count)

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
        with self.read() as connection:
            return read_rows(connection, TrialRow, TRIAL, study, wanted, order="number")

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
        with self.write() as connection:
            connection.execute(PREDICTION.delete().where(*_at(PREDICTION, study, number)))
            connection.execute(PREDICTION.insert().values(study=study, number=number, **values))

    def predictions(self, study: str, number: int) -> NDArray[np.float32] | None:
        """Return the predictions ``[N, K]`` of a trial for the validation split, if stored."""
        query = sa.select(PREDICTION)
        with self.read() as connection:
            row = connection.execute(query.where(*_at(PREDICTION, study, number))).first()
            if row is None:
                return None
            values = np.frombuffer(row.predictions, row.number_type).astype(np.float32)
            return values.reshape(-1, row.outputs)

    def epochs(self, study: str, number: int) -> list[EpochRow]:
        """Return the epochs of a trial, in order."""
        with self.read() as connection:
            return read_rows(connection, EpochRow, EPOCH, study, order="epoch", number=number)

    # the final selection

    def add_repeat(self, study: str, row: RepeatRow) -> None:
        """Store a repeat of a contender; an older one of the same number is replaced."""
        keys = {"study": study, "kind": row.kind, "trial": row.trial, "repeat": row.repeat}
        values = {
            "score": row.score,
            "seconds": row.seconds,
            "facts": set_fields_to_json(row.facts),
        }
        with self.write() as connection:
            same = [REPEAT.c[key] == value for key, value in keys.items()]
            connection.execute(REPEAT.delete().where(*same))
            connection.execute(REPEAT.insert().values(**keys, **values))

    def repeats(self, study: str) -> list[RepeatRow]:
        """Return all repeats of the final selection of the study."""
        with self.read() as connection:
            return read_rows(connection, RepeatRow, REPEAT, study, order="repeat")

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
        with self.write() as connection:
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
        with self.write() as connection:
            change = TEST.update().where(TEST.c.id == opening)
            count = connection.execute(change.values(result=set_fields_to_json(result))).rowcount
        if not count:
            raise StudyError(
                f"there is no test {opening}; if the study was deleted while it ran, start the "
                "search again"
            )

    def tests(self, study: str) -> list[TestRow]:
        """Return all uses of the study's test split, oldest first."""
        with self.read() as connection:
            return read_rows(connection, TestRow, TEST, study, order="id")

    def _no_study(self, study: str) -> StudyError:
        hint = did_you_mean(study, self.studies())
        return StudyError(f"there is no study {study!r} in {self.label}; {hint}")

    @staticmethod
    def _no_trial(study: str, number: int) -> StudyError:
        return StudyError(
            f"study {study!r} has no trial {number}; if it was deleted while it ran, start the "
            "search again"
        )


def _at(table: sa.Table, study: str, number: int) -> tuple[sa.ColumnElement[bool], ...]:
    return table.c.study == study, table.c.number == number
