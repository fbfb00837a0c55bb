"""The trial loop: begin a trial, train it, store its result, and stop where that is due.

It uses Optuna, but not torch.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import cache
from typing import Any

import optuna

from autotl import events
from autotl.errors import (
    AutoTLError,
    Duplicate,
    OutOfTime,
    StudyError,
    find_device_fault,
    free_frames,
    is_machine_fault,
)
from autotl.events import Listener
from autotl.search import resume, warm_start
from autotl.search.best_model import BestModel
from autotl.search.budget import Budget
from autotl.search.context import TrainingContext
from autotl.search.leaderboard import Leaderboard
from autotl.search.outcome import classify, search_error
from autotl.search.portfolio import Portfolio
from autotl.search.predictions import store_predictions
from autotl.search.progress import Progress
from autotl.search.resume import RETRIED
from autotl.search.screening import Screening
from autotl.search.trial_queue import Begun, TrialQueue
from autotl.search.trial_training import RunningTrial, TrialTraining
from autotl.space import space
from autotl.space.space import Space
from autotl.store import QUEUE, EpochRow, Store, Worker

GIVE_UP = 8
"""The number of consecutive trials that fail, or that are out of time, after which the search ends.

Cheap trials between those that are out of time do not reset the count, unless they are the best."""

WAIT_SECONDS = 1.0
"""The pause before a worker looks again whether the trials of others have ended."""


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Silence Optuna's log inside, because events report the same; restore the verbosity."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


class TrialLoop:
    """Runs the trials of one study.

    Args:
        store: The database.
        study: Optuna's study.
        space: The search space.
        context: The context of all trainings of the study.
        leaderboard: The trials so far.
        budget: The wall-clock budget.
        listener: Called with the events of the progress.
        worker: This process as a worker of the study.

    Attributes:
        best: The model of the best trial, if a worker of this run trained it.
    """

    def __init__(
        self,
        store: Store,
        study: optuna.Study,
        space: Space,
        context: TrainingContext,
        leaderboard: Leaderboard,
        budget: Budget,
        listener: Listener,
        worker: Worker,
    ) -> None:
        self.store, self.study, self.context, self.worker = store, study, context, worker
        self.leaderboard, self.listener = leaderboard, listener
        self.settings, self.name = context.settings, context.settings.name
        self.best = BestModel(context, leaderboard, worker)
        self.portfolio = Portfolio(
            space,
            cache(lambda: warm_start.recall(store, self.settings, space)),
            leaderboard.first_trial,
            unlabelled=context.tries_unlabelled,
        )
        screening = Screening(store, context, self.portfolio, leaderboard)
        self.queue = TrialQueue(
            store,
            study,
            space,
            self.settings,
            leaderboard,
            self.portfolio,
            budget,
            worker,
            screening,
        )
        self.progress = Progress(listener, leaderboard, worker)
        self.training = TrialTraining(
            store, context, leaderboard, budget, self.queue, self.progress
        )
        self._stored: dict[str, Any] = {}

    def run(self) -> None:
        """Run trials until the maximum number, the end of the budget, or ``GIVE_UP`` failures.

        Raises:
            StudyError: No trial completed.
            DataError: An image can no longer be read; its trial is retried by the next run.
            StoreError: The disk is full, say; its trial is retried by the next run.
        """
        failed = late = duplicates = 0
        status = reason = ""
        while True:
            gives_up = max(failed, late, duplicates) >= GIVE_UP
            if not gives_up:
                self.queue.compare_backbones(status)
            begun = None if gives_up else self.queue.begin_next(status)
            if begun is None:
                others_run = self.queue.others_run()
                self.progress.tell_others()  # afterwards, because a trial may just have finished
                if not others_run:
                    break
                self.listener(events.Stage("waiting for the trials of other workers"))
                time.sleep(WAIT_SECONDS)
                continue
            status, reason = self._run_trial(begun)
            duplicates = duplicates + 1 if status == Duplicate.status else 0
            if status == Duplicate.status:
                continue
            if status in ("complete", "pruned"):
                failed = 0
                row = self.leaderboard.rows[begun[0].number]
                if not self.portfolio.is_cheap(row.config) or self.leaderboard.best == row:
                    late = 0
            else:
                failed += 1
                late += status == OutOfTime.status
        if not self.leaderboard.ranked:
            raise self._no_result_error(status, reason)

    def _no_result_error(self, status: str, reason: str) -> StudyError:
        """Return the error of a search without a complete trial, given its last trial."""
        if not status and any(row.facts.excluded for row in self.leaderboard.rows.values()):
            return StudyError(
                "the limits exclude every trial so far; give more --trials or a larger --budget"
            )
        if not status and self.queue.has_all_trials():
            last = self.leaderboard.rows[max(self.leaderboard.rows)]
            return StudyError(
                f"none of the {self.leaderboard.finished} trials so far completed; the last one: "
                f"{last.status} ({last.reason}); give more --trials"
            )
        if status in ("", OutOfTime.status):
            why = reason or "it ended before the first trial"
            return StudyError(
                f"the budget is too short for a trial ({why}); give a larger --budget"
            )
        return StudyError(f"no trial completed; status of the last trial: {status} ({reason})")

    # ---------------------------------------------------------------- running a trial

    def _run_trial(self, begun: Begun) -> tuple[str, str]:
        """Run a trial and store its result; return its status and the reason.

        Heads on the same frozen backbone may be trained together; each is a trial.
        """
        began = time.monotonic()
        running = [RunningTrial(*begun)]
        try:
            with self.store.convert_errors():
                self.progress.tell_others()  # Ctrl-C may take effect here, too
                self.training.train(running)
        except (Exception, KeyboardInterrupt) as error:
            for each in running:
                each.outcome = replace(each.outcome, model=None, error=error)
        seconds = (time.monotonic() - began) / len(running)
        if self.portfolio.is_cheap(space.to_json(running[0].config)):
            self.queue.probing_seconds += seconds * len(running)
        results = [self._store_result(each, seconds) for each in running]
        self._store_measurements()
        self.leaderboard.refresh()
        self.best.keep((each.number, each.outcome.model) for each in running)
        for each, result in zip(running, results, strict=True):
            self.progress.finish(each.number, each.config, each.outcome, result, seconds)
        first = running[0].outcome.error
        if isinstance(first, KeyboardInterrupt):
            raise first
        if first is not None and is_machine_fault(first):
            raise search_error(first, running[0].number)
        for each in running:  # the next trial needs the memory that a failed one had
            free_frames(each.outcome.error)
        return results[0]

    # ---------------------------------------------------------------- results

    def _store_result(self, running: RunningTrial, seconds: float) -> tuple[str, str]:
        """Write the result of a trial to the store, then to Optuna; return its status and reason.

        Optuna is told last: if the process is killed in between, the store has the whole result,
        and ``resume`` tells Optuna when the study continues.
        """
        trial, outcome = running.trial, running.outcome
        error, score = outcome.error, outcome.score
        status, reason = classify(error, retried=RETRIED in trial.user_attrs)
        state = resume.optuna_state(status, trial.constraints)
        facts = dict(outcome.facts)
        if status == "failed" and not isinstance(error, AutoTLError) and error:
            facts["traceback"] = "".join(traceback.format_exception(error))
        if isinstance(error, OutOfTime):
            facts["budget_needed"] = error.budget
        if score is not None and (predicted := outcome.predictions) is not None:
            count = outcome.cross_validated.folds if outcome.cross_validated else None
            store_predictions(self.store, self.context, trial.number, predicted, count)
        trained = outcome.epochs[-1].trained_parameters if outcome.epochs else None
        # No other worker may choose the recipe of an interrupted trial before it is enqueued.
        with self.worker.lease(QUEUE) if status == "interrupted" else nullcontext():
            is_stored = self.store.finish_trial(
                self.name,
                trial.number,
                status,
                reason=reason,
                score=score,
                seconds=seconds,
                trained_parameters=trained,
                epochs=[EpochRow(e.number, e.loss, e.score, e.seconds) for e in outcome.epochs],
                worker=self.worker.number,
                **facts,
            )
            if is_stored and status == "interrupted":
                retried = {RETRIED: True} if find_device_fault(error) else {}
                attributes = {**trial.user_attrs, **retried}
                resume.requeue(self.study, trial.number, trial.params, attributes)
        if not is_stored:
            text = (
                f"the result of trial {trial.number} is not stored: this worker did not respond "
                "for a minute, and the trial was given to another one"
            )
            self.progress.note(text, warning=True)
            return "interrupted", text
        finished = optuna.exceptions.UpdateFinishedTrialError  # another worker has told Optuna
        with suppress(finished), self.store.storage.together():
            trial.set_user_attr("status", status)  # long values make Optuna Dashboard's page wide
            if trained is not None:
                trial.set_user_attr("trained_parameters", trained)
        value = score if error is None else None
        self.study.tell(trial, value, state=state, skip_if_finished=True)
        return status, reason

    def _store_measurements(self) -> None:
        """Store the measurements of trainings that are new; those of other workers stay."""
        measured: dict[str, Mapping[str, Any]] = {
            "micro_batch_sizes": self.context.micro_batch_sizes,
            "measured_costs": self.context.measured_costs,
        }
        before = self._stored
        new = {
            name: {k: v for k, v in values.items() if before.get(name, {}).get(k) != v}
            for name, values in measured.items()
        }
        if changed := {name: values for name, values in new.items() if values}:
            self.store.merge_study(self.name, **changed)
            self._stored = {name: dict(values) for name, values in measured.items()}
