"""The trial loop: draw a configuration, build the model, fine-tune, report, prune.

It uses Optuna, but not torch.
"""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import optuna

from autotl import events, models, training
from autotl.errors import (
    AutoTLError,
    Duplicate,
    Incompatible,
    OutOfMemory,
    OutOfTime,
    StudyError,
    find_device_fault,
    is_machine_fault,
)
from autotl.events import Listener
from autotl.models import Model
from autotl.scoring.logme import logme
from autotl.search import folds, pruner, resume, warm_start
from autotl.search.best_model import BestModel
from autotl.search.budget import Budget
from autotl.search.context import TrainingContext
from autotl.search.leaderboard import Leaderboard, is_fine_tuned
from autotl.search.outcome import Outcome, classify, search_error
from autotl.search.portfolio import Portfolio
from autotl.search.predictions import store_predictions
from autotl.search.resume import RECIPE, RETRIED
from autotl.search.screening import Screening
from autotl.search.trial_budget import (
    Compared,
    TrialPlan,
    effective_config,
    plan_trial,
    refuse_too_slow,
)
from autotl.search.trial_queue import Begun, TrialQueue
from autotl.space import space
from autotl.space.space import Config, Space
from autotl.store import QUEUE, EpochRow, Store, Worker
from autotl.training import Epoch

GIVE_UP = 8
"""The number of consecutive trials that fail, or that are out of time, after which the search ends.

Cheap trials between those that are out of time do not reset the count, unless they are the best."""

OTHERS_SECONDS, OTHERS = 5.0, 8
"""The time between two reports of the trials of other workers during a trial. With more than this
number of running trials it grows in proportion, so that it takes the same part of the time."""

WAIT_SECONDS = 1.0
"""The pause before a worker looks again whether the trials of others have ended."""


@dataclass
class _Running:
    """A running trial: Optuna's trial, its configuration, and its outcome so far."""

    trial: optuna.Trial
    config: Config
    outcome: Outcome = field(default_factory=Outcome)
    started: bool = False  # whether the listener knows of it

    @property
    def number(self) -> int:
        return self.trial.number


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
        self.store, self.context, self.worker = store, context, worker
        self.leaderboard, self.budget, self.listener = leaderboard, budget, listener
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
        self.study = study
        self._stored: dict[str, Any] = {}
        self._read_others = time.monotonic()

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
                self._notify_others()
                if not self.queue.others_run():
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
        running = [_Running(*begun)]
        try:
            with self.store.convert_errors():
                self._notify_others()  # Ctrl-C may take effect here, too
                self._train(running)
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
        self._notify_finished(running, results, seconds)
        first = running[0].outcome.error
        if isinstance(first, KeyboardInterrupt):
            raise first
        if first is not None and is_machine_fault(first):
            raise search_error(first, running[0].number)
        return results[0]

    def _train(self, running: list[_Running]) -> None:
        """Train a trial; with the second head, train others and add their trials to ``running``."""
        first = running[0]
        plan = self._plan(first)
        if plan.backbone_frozen and self.queue.leads_heads(first.trial):
            for begun in self.queue.begin_other_heads((first.trial, first.config)):
                running.append(_Running(*begun))
                self._write_plan(begun[0], plan)
            self._train_heads(running, plan)
            self._cross_validate(running, plan)
            return
        try:
            first.outcome = self._fine_tune(first, plan)
            self._cross_validate(running, plan)
        except Exception as error:
            if not is_machine_fault(error):  # after that, and Ctrl-C, it continues from there
                folds.delete_checkpoints(self.context, first.config)
            raise
        folds.delete_checkpoints(self.context, first.config)
        if plan.backbone_frozen and self.portfolio.is_probe(first.trial.user_attrs.get(RECIPE, ())):
            facts = {"is_probe": True, "logme": self._estimate_transferability(plan, first.config)}
            first.outcome = replace(first.outcome, facts={**first.outcome.facts, **facts})

    def _cross_validate(self, running: Sequence[_Running], plan: TrialPlan) -> None:
        """Train the trials that completed the first fold on the others, if there are folds."""
        complete = [each for each in running if each.outcome.model]
        first = [(m, each.outcome.epochs[-1]) for each in running if (m := each.outcome.model)]
        if self.settings.folds is None or not complete:
            return
        results = folds.cross_validate(
            self.context,
            [each.config for each in complete],
            plan,
            first,
            trials=[each.number for each in complete],
            partial=not self.leaderboard.ranked,
        )
        for each, result in zip(complete, results, strict=True):
            if isinstance(result, Exception):
                each.outcome = replace(each.outcome, model=None, error=result)
                continue
            facts = {**each.outcome.facts, "folds": result.folds}
            each.outcome = replace(
                each.outcome, model=result.model, facts=facts, cross_validated=result
            )

    def _plan(self, running: _Running) -> TrialPlan:
        """Build the model of a trial and plan its training within the limits and the budget."""
        trial, config = running.trial, running.config
        plain, rows = space.to_json(config), self.leaderboard.representatives
        compared = self._compared(tuple(trial.user_attrs.get(RECIPE, ())))
        is_cheap = self.portfolio.is_cheap(plain)
        if any(map(is_fine_tuned, rows)) and not (is_cheap or compared):
            refuse_too_slow(plain, rows, self.context, self.budget)
        model = self.context.build(config, self.context.first_fold)
        count, most = models.count_parameters(model), self.settings.max_parameters
        if most is not None:
            trial.set_constraint("parameters", count - most)
            if count > most:
                raise Incompatible(resume.too_many_parameters(count, most))
        plan = plan_trial(
            model,
            config,
            self.context,
            self.budget,
            complete=rows,
            several_heads=self.queue.leads_heads(trial),
            compared=compared,
        )
        self._refuse_duplicate(plan)
        self._write_plan(trial, plan)
        self._notify_started(running, plan.job.epochs)
        return plan

    def _compared(self, recipe: tuple[str, ...]) -> Compared | None:
        """The trials that one of a comparison is compared with; None for other recipes."""
        names, recipes = self.portfolio.comparison, self.leaderboard.recipes
        if recipe not in names or len(names) < 2:
            return None
        done = [recipes[n] for n in names if n in recipes and recipes[n].status == "complete"]
        epochs = min((row.epochs for row in done), default=None)
        others = [name for name in names if name != recipe and name not in recipes]
        return Compared(epochs, 1 + len(others))

    def _refuse_duplicate(self, plan: TrialPlan) -> None:
        """Raise Duplicate if a complete trial had the same effective configuration."""
        same = plan.facts["effective_config"]
        running = self.leaderboard.running.values()
        others = (row for row in running if row.facts.effective_config == same)
        for row in (*self.leaderboard.by_effective_config.get(same, ()), *others):
            if row.epochs >= plan.job.epochs and row.facts.folds == self.settings.folds:
                raise Duplicate(f"it would be trained as trial {row.number} was")

    def _write_plan(self, trial: optuna.Trial, plan: TrialPlan) -> None:
        columns = {
            "epochs": plan.job.epochs,
            "parameters": models.count_parameters(plan.model),
        }
        self._write(trial, columns, **plan.facts)

    def _write(self, trial: optuna.Trial, columns: Mapping[str, int], **facts: Any) -> None:
        """Store columns and facts of a trial; Optuna Dashboard shows the columns too."""
        self.store.update_trial(self.name, trial.number, columns, **facts)
        with self.store.storage.together():
            for key, value in columns.items():
                trial.set_user_attr(key, value)

    def _fine_tune(self, running: _Running, plan: TrialPlan) -> Outcome:
        """Train a model and report every epoch. Recipes are baselines and are not pruned."""
        trial, done, epochs = running.trial, [], plan.job.epochs
        # Optuna would read all trials after every epoch, also where it never prunes.
        first = pruner.warmup_epochs(self.settings.epochs)
        can_be_pruned = RECIPE not in trial.user_attrs
        if plan.job.checkpoint and (saved := plan.job.checkpoint.facts.get("epochs")):
            text = f"trial {trial.number} continues after epoch {len(saved)} of {epochs}"
            self.listener(events.Note(text))
        for epoch in training.fine_tune(plan.model, running.config, plan.job):
            done.append(epoch)
            running.outcome = Outcome(epochs=tuple(done))
            _report(trial, epoch)
            self.listener(_event(trial.number, epoch, epochs))
            self._refresh_others()
            if can_be_pruned and first <= epoch.number < epochs and trial.should_prune():
                raise optuna.TrialPruned(f"pruned after epoch {epoch.number} of {epochs}")
        if len(done) < epochs:  # the deadline passed, or the score stalled
            self._write(trial, {"epochs": len(done)})
        return Outcome(
            plan.model,
            epochs=tuple(done),
            facts={"seconds_repeat": plan.repeat_seconds(done)},
        )

    # ---------------------------------------------------------------- several heads at once

    def _train_heads(self, running: Sequence[_Running], plan: TrialPlan) -> None:
        """Train the heads of a group in one pass over the cached features."""
        first = running[0]
        configs = [each.config for each in running]
        for results in training.train_probes(plan.model, configs, plan.job):
            for each, result in zip(running, results, strict=True):
                if isinstance(result, Exception):
                    each.outcome = replace(each.outcome, model=None, error=result)
                elif result:
                    self._add_epoch(each, result, plan.job.epochs, notify=each is first)
        for each in running:
            if each.outcome.model:
                self._write_head(each, each.outcome.model)

    def _write_head(self, running: _Running, model: Model) -> None:
        """Store the facts about a head that was trained together with another one."""
        closed_form = hasattr(model.head, "fit")
        facts = {"effective_config": effective_config(running.config, closed_form=closed_form)}
        epochs = len(running.outcome.epochs)
        columns = {"epochs": epochs, "parameters": models.count_parameters(model)}
        self._write(running.trial, columns, **facts)

    def _add_epoch(
        self, running: _Running, result: training.ProbeEpoch, epochs: int, *, notify: bool
    ) -> None:
        trial, epoch = running.trial, result.epoch
        _report(trial, epoch)
        running.outcome = Outcome(result.model, epochs=(*running.outcome.epochs, epoch))
        if notify:
            self.listener(_event(trial.number, epoch, epochs))

    def _estimate_transferability(self, plan: TrialPlan, config: Config) -> float | None:
        """Return the LogME of the frozen training features; None if it cannot be computed."""
        if config["head"].plugin.takes != "features":
            return None
        dataset = self.context.dataset
        try:
            features = training.extract_backbone_features(plan.model, config, plan.job)
            return logme(features, dataset.targets[plan.job.train.indices])
        except (OutOfTime, OutOfMemory, ValueError):
            return None

    # ---------------------------------------------------------------- results

    def _store_result(self, running: _Running, seconds: float) -> tuple[str, str]:
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
            self.listener(events.Note(text, warning=True))
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

    # ---------------------------------------------------------------- progress

    def _refresh_others(self) -> None:
        """Read and report the trials of other workers, every ``OTHERS_SECONDS`` if they are few."""
        pause = OTHERS_SECONDS * max(1.0, len(self.leaderboard.running) / OTHERS)
        if time.monotonic() - self._read_others > pause:
            self.leaderboard.refresh()
            self._notify_others()

    def _notify_others(self) -> None:
        """Report the trials of other workers: those that have finished, and those that run."""
        self._read_others = time.monotonic()
        for row in self.leaderboard.take_news():
            if row.worker not in (None, self.worker.number):
                began = events.TrialStarted(row.number, row.config, row.epochs, row.worker)
                self.listener(began)
                result = row.status, row.reason, row.score, row.seconds
                self.listener(events.TrialFinished(row.number, *result, row.worker))
        running = [
            events.TrialStarted(row.number, row.config, row.epochs, row.worker)
            for row in self.leaderboard.running.values()
            if row.worker != self.worker.number
        ]
        self.listener(events.OthersRunning(tuple(running)))

    def _notify_started(self, running: _Running, epochs: int) -> None:
        running.started = True
        config = space.to_json(running.config)
        self.listener(events.TrialStarted(running.number, config, epochs))

    def _notify_finished(
        self, running: Sequence[_Running], results: Sequence[tuple[str, str]], seconds: float
    ) -> None:
        for each, (status, reason) in zip(running, results, strict=True):
            outcome = each.outcome
            if not each.started:  # trained with the first trial, or not begun
                self._notify_started(each, len(outcome.epochs))
                for epoch in outcome.epochs:
                    self.listener(_event(each.number, epoch, len(outcome.epochs)))
            self.listener(events.TrialFinished(each.number, status, reason, outcome.score, seconds))


def _report(trial: optuna.Trial, epoch: Epoch) -> None:
    """Report the score of an epoch to Optuna, unless the images of a fold do not define one."""
    if math.isfinite(epoch.score):
        trial.report(epoch.score, epoch.number)


def _event(number: int, epoch: Epoch, epochs: int) -> events.EpochCompleted:
    return events.EpochCompleted(
        number, epoch.number, epochs, epoch.loss, epoch.score, epoch.seconds
    )
