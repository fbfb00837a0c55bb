"""The training of a trial: build the model, plan within the budget, fine-tune, report, prune."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import optuna

from autotl import models, training
from autotl.errors import Duplicate, Incompatible, OutOfMemory, OutOfTime, is_machine_fault
from autotl.models import Model
from autotl.scoring.logme import logme
from autotl.search import folds, pruner, resume
from autotl.search.budget import Budget
from autotl.search.context import TrainingContext
from autotl.search.leaderboard import Leaderboard
from autotl.search.outcome import Outcome
from autotl.search.progress import Progress
from autotl.search.ranking import is_fine_tuned
from autotl.search.resume import RECIPE
from autotl.search.trial_budget import (
    Compared,
    TrialPlan,
    effective_config,
    plan_trial,
    refuse_too_slow,
)
from autotl.search.trial_queue import TrialQueue
from autotl.space import space
from autotl.space.space import Config
from autotl.store import Store
from autotl.training import Epoch


@dataclass
class RunningTrial:
    """A running trial: Optuna's trial, its configuration, and its outcome so far."""

    trial: optuna.Trial
    config: Config
    outcome: Outcome = field(default_factory=Outcome)

    @property
    def number(self) -> int:
        """The number of the trial."""
        return self.trial.number


class TrialTraining:
    """Builds and trains the models of trials.

    Args:
        store: The database.
        context: The context of all trainings of the study.
        leaderboard: The trials so far.
        budget: The wall-clock budget.
        queue: Begins the trials of further heads on one backbone.
        progress: Is told of every epoch.
    """

    def __init__(
        self,
        store: Store,
        context: TrainingContext,
        leaderboard: Leaderboard,
        budget: Budget,
        queue: TrialQueue,
        progress: Progress,
    ) -> None:
        self.store, self.context, self.leaderboard = store, context, leaderboard
        self.budget, self.queue, self.progress = budget, queue, progress
        self.settings, self.portfolio = context.settings, queue.portfolio

    def train(self, running: list[RunningTrial]) -> None:
        """Train a trial; with the second head, train others and add their trials to ``running``.

        Raises:
            TrialStopped: The trial is pruned or refused, say.
        """
        first = running[0]
        plan = self._plan(first)
        if plan.backbone_frozen and self.queue.leads_heads(first.trial):
            for begun in self.queue.begin_other_heads((first.trial, first.config)):
                running.append(RunningTrial(*begun))
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

    def _cross_validate(self, running: Sequence[RunningTrial], plan: TrialPlan) -> None:
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

    def _plan(self, running: RunningTrial) -> TrialPlan:
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
        self.progress.begin(running.number, config, plan.job.epochs)
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
        self.store.update_trial(self.settings.name, trial.number, columns, **facts)
        with self.store.storage.together():
            for key, value in columns.items():
                trial.set_user_attr(key, value)

    def _fine_tune(self, running: RunningTrial, plan: TrialPlan) -> Outcome:
        """Train a model and report every epoch. Recipes are baselines and are not pruned."""
        trial, done, epochs = running.trial, [], plan.job.epochs
        # Optuna would read all trials after every epoch, also where it never prunes.
        first = pruner.warmup_epochs(self.settings.epochs)
        can_be_pruned = RECIPE not in trial.user_attrs
        if plan.job.checkpoint and (saved := plan.job.checkpoint.facts.get("epochs")):
            text = f"trial {trial.number} continues after epoch {len(saved)} of {epochs}"
            self.progress.note(text)
        for epoch in training.fine_tune(plan.model, running.config, plan.job):
            done.append(epoch)
            running.outcome = Outcome(epochs=tuple(done))
            _report(trial, epoch)
            self.progress.end_epoch(trial.number, epoch, epochs)
            self.progress.refresh_others()
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

    def _train_heads(self, running: Sequence[RunningTrial], plan: TrialPlan) -> None:
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

    def _write_head(self, running: RunningTrial, model: Model) -> None:
        """Store the facts about a head that was trained together with another one."""
        closed_form = hasattr(model.head, "fit")
        facts = {"effective_config": effective_config(running.config, closed_form=closed_form)}
        epochs = len(running.outcome.epochs)
        columns = {"epochs": epochs, "parameters": models.count_parameters(model)}
        self._write(running.trial, columns, **facts)

    def _add_epoch(
        self, running: RunningTrial, result: training.ProbeEpoch, epochs: int, *, notify: bool
    ) -> None:
        trial, epoch = running.trial, result.epoch
        _report(trial, epoch)
        running.outcome = Outcome(result.model, epochs=(*running.outcome.epochs, epoch))
        if notify:
            self.progress.end_epoch(trial.number, epoch, epochs)

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


def _report(trial: optuna.Trial, epoch: Epoch) -> None:
    """Report the score of an epoch to Optuna, unless the images of a fold do not define one."""
    if math.isfinite(epoch.score):
        trial.report(epoch.score, epoch.number)
