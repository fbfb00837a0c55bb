"""The trial loop: draw a configuration, build the model, fine-tune, report, prune.

It uses Optuna, but not torch.
"""

from __future__ import annotations

import copy
import math
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import optuna
from optuna.trial import TrialState

from autotl import events, models, training
from autotl.errors import (
    AutoTLError,
    Duplicate,
    Incompatible,
    OutOfTime,
    StudyError,
    find_device_fault,
    is_machine_fault,
)
from autotl.events import Listener
from autotl.models import Model
from autotl.scoring.logme import logme
from autotl.search import folds, pruner, resume, sampler, warm_start
from autotl.search.budget import PROBING_FRACTION, Budget
from autotl.search.context import TrainingContext
from autotl.search.leaderboard import Leaderboard, is_fine_tuned
from autotl.search.outcome import Outcome, TrialModel, classify, search_error
from autotl.search.portfolio import Portfolio, Recipe
from autotl.search.predictions import store_predictions
from autotl.search.resume import PROBED_WITH, RECIPE, RETRIED
from autotl.search.selection_budget import SelectionBudget
from autotl.search.trial_budget import (
    TrialPlan,
    effective_config,
    plan_trial,
    refuse_too_slow,
)
from autotl.space import space
from autotl.space.space import Config, Space
from autotl.store import EpochRow, Store, TrialFacts
from autotl.training import Epoch

HEADS = 8
"""The number of heads that are trained on a frozen backbone in one pass."""

GIVE_UP = 8
"""The number of consecutive trials that fail, or that are out of time, after which the search ends.

Cheap trials between those that are out of time do not reset the count, unless they are the best."""


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

    Attributes:
        best: The model of the best trial, if this run trained it.
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
    ) -> None:
        self.store, self.study, self.space, self.context = store, study, space, context
        self.leaderboard, self.budget, self.listener = leaderboard, budget, listener
        self.settings, self.name = context.settings, context.settings.name
        self.selection = SelectionBudget(leaderboard, budget, len(space.plugins["freeze"]) > 1)
        self.best: TrialModel | None = None
        self._stored: dict[str, Any] = {}
        self.portfolio = Portfolio(
            space,
            cache(lambda: warm_start.recall(store, self.settings, space)),
            leaderboard.first_trial,
        )
        self._probing_seconds = 0.0

    def run(self) -> None:
        """Run trials until the maximum number, the end of the budget, or ``GIVE_UP`` failures.

        Raises:
            StudyError: No trial completed.
            DataError: An image can no longer be read; its trial is retried by the next run.
            StoreError: The disk is full, say; its trial is retried by the next run.
        """
        failed = late = duplicates = 0
        status = reason = ""
        while max(failed, late, duplicates) < GIVE_UP and not self._is_done():
            self._enqueue_next(after=status)
            trial = self._ask()
            status, reason = self._run_trial(trial)
            duplicates = duplicates + 1 if status == Duplicate.status else 0
            if status == Duplicate.status:
                continue
            if status in ("complete", "pruned"):
                failed = 0
                row = self.leaderboard.rows[trial.number]
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
        if not status and self._has_all_trials():
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

    # ---------------------------------------------------------------- choosing the next trial

    def _is_done(self) -> bool:
        return self._has_all_trials() or self.selection.is_over()

    def _has_all_trials(self) -> bool:
        most = self.settings.trials
        return most is not None and self.leaderboard.finished >= most

    def _enqueue_next(self, after: str) -> None:
        """Enqueue the next recipe, unless a trial is waiting or all recipes were tried.

        After a trial that was out of time, a cheap one is enqueued instead. ``after`` is the status
        of the last trial.
        """
        recipe: Recipe | None
        if after == OutOfTime.status:
            recipe = (), self.portfolio.cheapest_parameters(self.leaderboard.representatives)
        elif not (recipe := self._next_recipe()):
            return
        if self._has_waiting():
            return
        names, params = recipe
        self.study.enqueue_trial(params, user_attrs={RECIPE: list(names)} if names else None)

    def _next_recipe(self) -> Recipe | None:
        probing = self._probing_seconds < PROBING_FRACTION * (self.budget.seconds or math.inf)
        board = self.leaderboard
        return self.portfolio.next_recipe(board.representatives, board.recipes, probing=probing)

    def _has_waiting(self) -> bool:
        return bool(self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def _ask(self) -> optuna.Trial:
        """Ask Optuna for the next trial.

        Its sampler is seeded by the seed of the study and the number of earlier trials, so that an
        interrupted study continues with the same trials as one without an interruption.
        """
        self.leaderboard.refresh()
        number = len(self.leaderboard.rows) - self.leaderboard.interrupted
        self.study.sampler = sampler.make_sampler((self.settings.seed * 10_007 + number) % 2**32)
        return self.study.ask()

    # ---------------------------------------------------------------- running a trial

    def _run_trial(self, trial: optuna.Trial) -> tuple[str, str]:
        """Run a trial and store its result; return its status and the reason.

        Heads on the same frozen backbone may be trained together; each is a trial.
        """
        began = time.monotonic()
        running = [_Running(trial, self._begin(trial))]
        try:
            with self.store.convert_errors():
                self._train(running)
        except (Exception, KeyboardInterrupt) as error:
            for each in running:
                each.outcome = replace(each.outcome, model=None, error=error)
        seconds = (time.monotonic() - began) / len(running)
        if self.portfolio.is_cheap(space.to_json(running[0].config)):
            self._probing_seconds += seconds * len(running)
        results = [self._store_result(each, seconds) for each in running]
        self._store_measurements()
        self.leaderboard.refresh()
        self._keep_best(running)
        self._notify_finished(running, results, seconds)
        first = running[0].outcome.error
        if isinstance(first, KeyboardInterrupt):
            raise first
        if first is not None and is_machine_fault(first):
            raise search_error(first, running[0].number)
        return results[0]

    def _begin(self, trial: optuna.Trial) -> Config:
        """Draw the configuration of a trial, and add the trial to the store."""
        with self.store.storage.together():
            config = self.space.suggest(trial)
        recipe = trial.user_attrs.get(RECIPE, [])
        facts = TrialFacts(recipe=recipe, is_default=self.portfolio.is_default(recipe))
        plain = space.to_json(config)
        self.store.begin_trial(self.name, trial.number, plain, self.settings.epochs, facts)
        return config

    def _train(self, running: list[_Running]) -> None:
        """Train a trial; with the second head, train others and add their trials to ``running``."""
        first = running[0]
        plan = self._plan(first)
        if plan.backbone_frozen and self._leads_heads(first.trial):
            running += self._begin_other_heads(first, plan)
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

    def _leads_heads(self, trial: optuna.Trial) -> bool:
        return self.portfolio.leads_heads(trial.user_attrs.get(RECIPE, ()))

    def _plan(self, running: _Running) -> TrialPlan:
        """Build the model of a trial and plan its training within the limits and the budget."""
        trial, config = running.trial, running.config
        plain, rows = space.to_json(config), self.leaderboard.representatives
        if any(map(is_fine_tuned, rows)) and not self.portfolio.is_cheap(plain):
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
            several_heads=self._leads_heads(trial),
        )
        self._refuse_duplicate(plan)
        self._write_plan(trial, plan)
        self._notify_started(running, plan.job.epochs)
        return plan

    def _refuse_duplicate(self, plan: TrialPlan) -> None:
        """Raise Duplicate if a complete trial had the same effective configuration."""
        same = plan.facts["effective_config"]
        for row in self.leaderboard.by_effective_config.get(same, ()):
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

    def _begin_other_heads(self, first: _Running, plan: TrialPlan) -> list[_Running]:
        """Begin trials that share a frozen backbone, with other heads and optimizers."""
        count = HEADS
        if self.settings.trials is not None:  # leave trials for the sampler
            most, left = self.settings.trials, self.settings.trials - self.leaderboard.finished
            count = min(count, most // 4, left)
        same = ("backbone", "augment", "balance", "freeze")
        drawn = first.trial.params.items()
        shared = {n: v for n, v in drawn if n in same or n.split(".")[0] in same[:3]}
        takes = first.config["head"].plugin.takes
        heads = [p.name for p in self.space.plugins["head"] if p.takes == takes]
        group = []
        for i in range(count - 1):
            params = {**shared, "head": heads[i % len(heads)]}
            self.study.enqueue_trial(params, user_attrs={PROBED_WITH: first.number})
            trial = self._ask()
            group.append(_Running(trial, self._begin(trial)))
            self._write_plan(trial, plan)
        return group

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
        except (OutOfTime, ValueError):
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
        rows = [EpochRow(e.number, e.loss, e.score, e.seconds) for e in outcome.epochs]
        trained = outcome.epochs[-1].trained_parameters if outcome.epochs else None
        with self.store.storage.together():
            trial.set_user_attr("status", status)  # long values make Optuna Dashboard's page wide
            if trained is not None:
                trial.set_user_attr("trained_parameters", trained)
        if isinstance(error, OutOfTime):
            facts["budget_needed"] = error.budget
        if score is not None and (predicted := outcome.predictions) is not None:
            count = outcome.cross_validated.folds if outcome.cross_validated else None
            store_predictions(self.store, self.context, trial.number, predicted, count)
        self.store.finish_trial(
            self.name,
            trial.number,
            status,
            reason=reason,
            score=score,
            seconds=seconds,
            trained_parameters=trained,
            epochs=rows,
            **facts,
        )
        if status == "interrupted":
            retried = {RETRIED: True} if find_device_fault(error) else {}
            resume.requeue(self.study, trial.params, {**trial.user_attrs, **retried})
        self.study.tell(trial, score if error is None else None, state=state)
        return status, reason

    def _store_measurements(self) -> None:
        """Store the measurements of trainings that are new."""
        measured = {
            "micro_batch_sizes": dict(self.context.micro_batch_sizes),
            "measured_costs": dict(self.context.measured_costs),
        }
        if measured != self._stored:
            self.store.update_study(self.name, **measured)
            self._stored = copy.deepcopy(measured)

    def _keep_best(self, running: Sequence[_Running]) -> None:
        """Keep the model in memory if its trial is the winner so far."""
        if not self.leaderboard.ranked:
            return
        winner = self.leaderboard.winner()
        for each in running:
            if each.number == winner.number and each.outcome.model:
                self.best = TrialModel(each.number, each.outcome.model.cpu())

    # ---------------------------------------------------------------- progress

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
