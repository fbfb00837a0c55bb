"""Optuna's storage with fewer statements for what a trial writes and reads.

Optuna reads a trial before each value that it writes, and commits each value by itself: fifteen
parameters, twelve epochs and four attributes took half of a trial's bookkeeping, and more on a
server. Here the parameters are one statement. Optuna also reads all trials that are running, with
their parameters, each time that it reads the trials; with 64 workers that took a second of each
trial. Here only their states are read again. The tables are Optuna's.
"""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from optuna.distributions import (
    BaseDistribution,
    check_distribution_compatibility,
    distribution_to_json,
    json_to_distribution,
)
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import exc

from autotl.store.migrations.tables import write_transaction
from autotl.store.waiting import repeat_lost_calls

IDLE_SECONDS = 0.05
"""How long a connection may be unused before the next use checks that the server still has it. No
server restarts faster, and most uses follow each other faster."""

_TRIAL: Any = models.TrialModel.__table__
_PARAM: Any = models.TrialParamModel.__table__
_ATTRIBUTE: Any = models.TrialUserAttributeModel.__table__
_VALUE: Any = models.TrialIntermediateValueModel.__table__

TRANSACTIONS = (
    *("create_new_study", "delete_study", "get_all_studies", "get_study_directions"),
    *("get_study_id_from_name", "get_study_name_from_id", "get_study_system_attrs"),
    *("get_study_user_attrs", "set_study_system_attr", "set_study_user_attr"),
    *("get_trial", "get_trial_id_from_study_id_trial_number", "set_trial_intermediate_value"),
    *("set_trial_state_values", "set_trial_system_attr", "set_trial_user_attr"),
    *("_create_new_trial", "_get_best_trial_id", "_get_trials", "_insert", "_set_trial_param"),
)
"""The methods that Optuna's cache of a storage calls, and our own: each is one transaction."""

Rows = Mapping[Any, Sequence[dict[str, Any]]]
"""Rows by table."""


@repeat_lost_calls(TRANSACTIONS)
class TrialStorage(RDBStorage):
    """Optuna's storage; inside ``together`` parameters and user attributes are written at once."""

    def __init__(self, url: str, **keywords: Any) -> None:
        super().__init__(url, **keywords)
        self._local = threading.local()  # two threads may write two trials
        self._running: dict[int, FrozenTrial] = {}  # as they were read, by their identifiers
        is_server = self.engine.dialect.name != "sqlite"  # which is asked to begin and to commit
        options = {"isolation_level": "AUTOCOMMIT"} if is_server else {}
        self._single_statements = self.engine.execution_options(**options)
        _check_idle_connections(self.engine)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Write the parameters and user attributes that are set inside at the end, at once.

        After an error inside they are written too, as far as they were set. They can be read from
        the trial itself at once, but from the database only at the end.
        """
        rows: defaultdict[int, defaultdict[Any, list[dict[str, Any]]]]
        rows = defaultdict(lambda: defaultdict(list))
        self._local.rows = rows
        try:
            yield
        finally:
            self._local.rows = None
            for trial, its_rows in rows.items():
                self._insert(trial, its_rows)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set a user attribute of a trial."""
        self._running.pop(trial_id, None)
        if (rows := getattr(self._local, "rows", None)) is None:
            super().set_trial_user_attr(trial_id, key, value)
        else:
            row = {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}
            rows[trial_id][_ATTRIBUTE].append(row)

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        """Set the score of an epoch."""
        value, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(
            intermediate_value
        )
        row = {"step": step, "intermediate_value": value, "intermediate_value_type": kind}
        columns = [_VALUE.c[name] for name in row]
        values = [sa.literal(row[column.name], column.type) for column in columns]
        running = _TRIAL.c.trial_id == trial_id, _TRIAL.c.state == TrialState.RUNNING
        query = sa.select(_TRIAL.c.trial_id, *values).where(*running)
        change = _VALUE.insert().from_select([_VALUE.c.trial_id, *columns], query)
        try:
            with self._single_statements.begin() as connection:
                is_added = connection.execute(change).rowcount
        except exc.IntegrityError:  # the epoch has a score, which is replaced
            is_added = 0
        if not is_added:
            super().set_trial_intermediate_value(trial_id, step, intermediate_value)

    def _set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None,
    ) -> None:
        """Set a parameter; the first time in a process, its earlier distribution is read."""
        rows = getattr(self._local, "rows", None)
        if rows is None:
            super()._set_trial_param(
                trial_id, param_name, param_value_internal, distribution, previous_distribution
            )
            return
        previous = previous_distribution or self._read_distribution(trial_id, param_name)
        if previous:
            check_distribution_compatibility(previous, distribution)
        row = {
            "trial_id": trial_id,
            "param_name": param_name,
            "param_value": param_value_internal,
            "distribution_json": distribution_to_json(distribution),
        }
        rows[trial_id][_PARAM].append(row)

    def _read_distribution(self, trial: int, name: str) -> BaseDistribution | None:
        """Read the distribution of a parameter in the study of a trial; None if it is new."""
        study = sa.select(_TRIAL.c.study_id).where(_TRIAL.c.trial_id == trial).scalar_subquery()
        query = (
            sa.select(_PARAM.c.distribution_json)
            .join(_TRIAL, _TRIAL.c.trial_id == _PARAM.c.trial_id)
            .where(_TRIAL.c.study_id == study, _PARAM.c.param_name == name)
            .limit(1)
        )
        with self._single_statements.connect() as connection:
            text = connection.scalar(query)
        return None if text is None else json_to_distribution(text)

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        """Read the trials that a cache of the storage does not have, or that were not finished.

        Of one that was running with parameters, and still is, what was read then is returned: its
        parameters do not change. The attributes that another process gives it, and the scores of
        its epochs, are read after its end.
        """
        if states is not None:
            return super()._get_trials(study_id, states, included_trial_ids, trial_id_greater_than)
        chosen = sa.or_(
            _TRIAL.c.trial_id > trial_id_greater_than, _TRIAL.c.trial_id.in_(included_trial_ids)
        )
        query = sa.select(_TRIAL.c.trial_id, _TRIAL.c.state).where(
            _TRIAL.c.study_id == study_id, chosen
        )
        with self._single_statements.connect() as connection:
            current = {trial: state for trial, state in connection.execute(query)}
        running = {i for i, state in current.items() if state == TrialState.RUNNING}
        same = [self._running[i] for i in running & self._running.keys()]
        changed = current.keys() - {trial._trial_id for trial in same}
        read = []
        if changed:
            read = super()._get_trials(study_id, None, changed, max(current))
        for trial in read:
            if trial.state == TrialState.RUNNING and trial.params:  # all are written at once
                self._running[trial._trial_id] = trial
            else:
                self._running.pop(trial._trial_id, None)
        return sorted([*same, *read], key=lambda trial: trial.number)

    def _insert(self, trial: int, rows: Rows) -> None:
        """Add rows to a trial that is running.

        Raises:
            KeyError: There is no such trial.
            UpdateFinishedTrialError: The trial is finished.
        """
        with write_transaction(self.engine) as connection:
            state = connection.scalar(sa.select(_TRIAL.c.state).where(_TRIAL.c.trial_id == trial))
            if state is None:
                raise KeyError(models.NOT_FOUND_MSG)
            self.check_trial_is_updatable(trial, state)
            for table, its_rows in rows.items():
                if table is _ATTRIBUTE:
                    last = {row["key"]: row for row in its_rows}
                    same = table.c.trial_id == trial, table.c.key.in_(last)
                    connection.execute(table.delete().where(*same))
                    its_rows = list(last.values())
                connection.execute(table.insert(), its_rows)


def _check_idle_connections(engine: sa.Engine) -> None:
    """Check a connection to a server before its use if it was unused for ``IDLE_SECONDS``.

    The server may have been restarted meanwhile. The pool then opens another connection.
    """
    if engine.dialect.name == "sqlite":
        return

    @sa.event.listens_for(engine, "checkin")
    def remember(_: Any, record: Any) -> None:
        record.info["used"] = time.monotonic()

    @sa.event.listens_for(engine, "checkout")
    def check(connection: Any, record: Any, _: Any) -> None:
        if time.monotonic() - record.info.get("used", time.monotonic()) > IDLE_SECONDS:
            try:
                engine.dialect.do_ping(connection)
            except engine.dialect.loaded_dbapi.Error as error:
                raise exc.DisconnectionError from error
