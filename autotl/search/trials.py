"""The loop: ask, build, fine-tune, report, prune. Knows Optuna; has never heard of torch."""

from __future__ import annotations

import copy
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.trial import TrialState

from autotl import events, models, training
from autotl.data import Dataset
from autotl.errors import AutoTLError, Incompatible, OutOfTime, StudyError, TrialStopped
from autotl.events import Listener
from autotl.frozen import FeatureCache
from autotl.models import Device, Model
from autotl.scoring import metrics
from autotl.scoring.logme import logme
from autotl.search import resume, sampler, trial_budget, warm_start
from autotl.search.budget import Budget
from autotl.search.context import TrainingContext
from autotl.search.leaderboard import Leaderboard
from autotl.search.portfolio import PAST, RECIPE, Portfolio
from autotl.search.trial_budget import Plan
from autotl.space import space
from autotl.space.registry import Registry
from autotl.space.space import Config, Space
from autotl.store import Store, existing_url
from autotl.study import StudyConfig

optuna.logging.set_verbosity(optuna.logging.WARNING)  # what it would say, the listener is told

PROBES = 8
"""Heads that are tried on a frozen backbone in one pass."""

GIVE_UP = 8
"""Trials in a row that fail, or that the time does not suffice for, before the search ends.

Cheap ones between those that the time does not suffice for do not count, unless they lead."""


@dataclass(frozen=True)
class Best:
    """The best trial with its trained model, in case there is no time to refit it."""

    number: int
    network: Model


@dataclass(frozen=True)
class Ended:
    """How a training ended: with a model and its score, or with an error."""

    network: Model | None = None
    error: BaseException | None = None
    epochs: tuple[training.Epoch, ...] = ()

    @property
    def score(self) -> float | None:
        """That of the last epoch, if it came to its end."""
        return self.epochs[-1].score if self.network else None


@dataclass
class Trials:
    """The trials of one study, and what they share."""

    settings: StudyConfig
    dataset: Dataset
    space: Space
    store: Store
    where: Device
    budget: Budget
    listener: Listener
    registry: Registry
    cache: FeatureCache
    best: Best | None = None

    def __post_init__(self) -> None:
        self.name = self.settings.name
        self.metric = metrics.get(self.settings.metric)
        self.leaderboard = Leaderboard(self.store, self.name, self.metric, self.budget)
        facts = self.store.require(self.name)
        self.context = TrainingContext(
            self.settings,
            self.dataset,
            self.where,
            self.budget,
            self.listener,
            self.registry,
            self.cache,
            micro=facts.get("micro", {}),
            measured=facts.get("measured", {}),
        )
        self.study = resume.resume(
            self.store, self.settings, self.space, self.metric, self.registry, self.listener
        )
        self._written: dict[str, Any] = {}
        pictures = self.dataset.count_independent("validation")
        earlier = len(self.study.get_trials(deepcopy=False))
        self.portfolio = Portfolio(self.study, self.space, pictures, self.past, earlier)

    def run(self) -> None:
        """Run trials until their number, the budget or the patience ends.

        Raises:
            StudyError: No trial came to its end.
        """
        in_vain, late, end, reason = 0, 0, "", ""
        while max(in_vain, late) < GIVE_UP and not self._enough():
            self.portfolio.enqueue(self.leaderboard.ranked())
            trial = self._ask()
            end, reason = self._trial(trial)
            if end in ("complete", "pruned"):
                in_vain = 0
                if not self.portfolio.is_cheap(trial) or self._leads(trial):
                    late = 0
            else:
                in_vain += 1
                late += end == OutOfTime.status
            if end == OutOfTime.status:
                self.portfolio.enqueue_cheap(self.leaderboard.ranked())
        if self.leaderboard.ranked():
            return
        if not end and any(row.facts.get("barred") for row in self.store.trials(self.name)):
            raise StudyError("the limits leave out every trial so far; give more --trials or time")
        if end in ("", OutOfTime.status):
            why = reason or "it ended before the first one"
            raise StudyError(f"the budget is too short for any trial ({why}): give more time")
        raise StudyError(f"no trial has come to its end; the last one {end}: {reason}")

    def _leads(self, trial: optuna.Trial) -> bool:
        """Whether a trial is the best so far."""
        best = self.leaderboard.ranked()[:1]
        return bool(best) and best[0].number == trial.number

    def past(self) -> dict[str, Any]:
        """What did best on similar data, as it was when the study first asked."""
        facts = self.store.require(self.name)
        if not self.settings.history:
            return {}
        if "past" not in facts:
            here = warm_start.profile(self.store, self.name)
            place = self.settings.learn_from
            library = Store(existing_url(place)) if place else self.store
            found = warm_start.learn(library, here, self.metric.name, self.space, self.name)
            if place:
                library.close()
            self.store.update(self.name, past=found)
            return found
        return {name: params for name, params in facts["past"].items() if self._drawable(params)}

    def _drawable(self, params: dict[str, Any]) -> bool:
        """Whether the space can still draw what was learned."""
        hyperparameters = self.space.hyperparameters
        return all(
            n in hyperparameters and hyperparameters[n].can_draw(v) for n, v in params.items()
        )

    # ---------------------------------------------------------------- one trial

    def _trial(self, trial: optuna.Trial) -> tuple[str, str]:
        """Run a trial and file it as what it was; return its end and the reason for it.

        A probe takes others on the same backbone along, each filed as a trial of its own.
        """
        began, config = time.monotonic(), self._begin(trial)
        group = [(trial, config)]
        try:
            plan = self._prepare(trial, config)
            if plan.frozen and self.portfolio.is_probe(trial):
                group += self._beside(trial, config, plan)
                ended = self._probe(group, plan)
            else:
                ended = [self._fine_tune(trial, config, plan)]
        except (Exception, KeyboardInterrupt) as raised:
            ended = [Ended(error=raised)] * len(group)
        seconds = (time.monotonic() - began) / len(group)
        filed = [self._file(t, e, seconds) for (t, _), e in zip(group, ended, strict=True)]
        for (other, shown), e, (end, reason) in zip(group, ended, filed, strict=True):
            if other is not trial:
                self._show(other.number, shown, e.epochs)
            self.listener(events.TrialFinished(other.number, end, reason, e.score, seconds))
        if isinstance(ended[0].error, KeyboardInterrupt):
            raise ended[0].error
        return filed[0]

    def _begin(self, trial: optuna.Trial) -> Config:
        """Draw the configuration of a trial and write down that it runs."""
        config = self.space.suggest(trial)
        shown = space.to_json(config)
        trial.set_user_attr("config", shown)
        self.store.begin_trial(self.name, trial.number, shown, self.settings.epochs)
        return config

    def _file(self, trial: optuna.Trial, ended: Ended, seconds: float) -> tuple[str, str]:
        """File a trial as what it was."""
        error, score = ended.error, ended.score
        state, end, reason = _ending(error)
        if isinstance(error, OutOfTime) or any(limit > 0 for limit in trial.constraints.values()):
            state = TrialState.PRUNED  # so that the sampler learns from it; it forgets failures
        if end == "failed" and not isinstance(error, AutoTLError):
            trial.set_user_attr("traceback", "".join(traceback.format_exception(error)))
        trial.set_user_attr("status", end)
        trial.set_user_attr("reason", reason)
        self.study.tell(trial, score if error is None else None, state=state)
        self.store.end_trial(
            self.name, trial.number, end, reason=reason, score=score, seconds=seconds
        )
        memory = {"micro": self.context.micro, "measured": self.context.measured}
        if memory != self._written:
            self.store.update(self.name, **memory)
            self._written = copy.deepcopy(memory)
        if ended.network and (leader := self.leaderboard.leader) and leader.number == trial.number:
            self.best = Best(trial.number, ended.network.cpu())
        if end == "interrupted":
            resume.requeue(self.study, trial.params, trial.user_attrs)
        return end, reason

    def _prepare(self, trial: optuna.Trial, config: Config) -> Plan:
        """Build a configuration and plan its training within the limits and the budget."""
        network = self.context.build(config)
        count, most = models.parameters(network), self.settings.max_parameters
        if most is not None:
            trial.set_constraint("parameters", count - most)
            if count > most:
                raise Incompatible(resume.too_many(count, most))
        # A short budget shall find something rather than nothing.
        modest, several = not self.leaderboard.ranked(), len(self.space.plugins["head"]) > 1
        together = several and self.portfolio.is_probe(trial)
        plan = trial_budget.plan(network, config, self.context, modest=modest, together=together)
        self._planned(trial, plan)
        self._show(trial.number, config, (), plan.task.epochs)
        return plan

    def _planned(self, trial: optuna.Trial, plan: Plan) -> None:
        """Write down what a trial will be."""
        facts = {"views": plan.task.views, **plan.known}
        if recipe := trial.user_attrs.get(RECIPE):
            facts |= {"recipe": " · ".join(recipe), "default": recipe[0] != PAST}
        self.store.note_trial(self.name, trial.number, **facts)
        numbers = {"epochs": plan.task.epochs, "parameters": models.parameters(plan.network)}
        self.store.update_trial(self.name, trial.number, **numbers)
        for key, value in numbers.items():  # columns in Optuna Dashboard
            trial.set_user_attr(key, value)

    def _show(
        self, number: int, config: Config, done: Sequence[training.Epoch], epochs: int = 0
    ) -> None:
        """Show that a trial begins, and the epochs that it has done."""
        epochs = epochs or len(done)
        self.listener(events.TrialStarted(number, space.to_json(config), epochs))
        for epoch in done:
            self.listener(_event(number, epoch, epochs))

    def _fine_tune(self, trial: optuna.Trial, config: Config, plan: Plan) -> Ended:
        """Train a model, reporting every epoch. What everybody would try first is not pruned."""
        done, epochs = [], plan.task.epochs
        for epoch in training.fine_tune(plan.network, config, plan.task):
            done.append(epoch)
            self._report(trial, epoch)
            self.listener(_event(trial.number, epoch, epochs))
            known = RECIPE in trial.user_attrs
            if epoch.number < epochs and not known and trial.should_prune():
                text = f"among the worst tenth after epoch {epoch.number} of {epochs}"
                raise optuna.TrialPruned(text)
        trial.set_user_attr("trained_parameters", epoch.trained_parameters)
        self.store.note_trial(self.name, trial.number, seconds_again=plan.again(done))
        return Ended(plan.network, epochs=tuple(done))

    def _beside(
        self, first: optuna.Trial, config: Config, plan: Plan
    ) -> list[tuple[optuna.Trial, Config]]:
        """Trials that differ from a probe in the head and what is tuned, to be run with it."""
        count = PROBES
        if self.settings.trials is not None:  # some of them shall be left to the sampler
            count = min(count, self.settings.trials // (4 * len(self.space.plugins["backbone"])))
        same = ("backbone", "augment", "balance", "freeze")
        shared = {n: v for n, v in first.params.items() if n in same or n.split(".")[0] in same[:3]}
        fed = config["head"].plugin.takes
        heads = [p.name for p in self.space.plugins["head"] if p.takes == fed]
        group = []
        for i in range(count - 1):
            params = {**shared, "head": heads[i % len(heads)]}
            self.study.enqueue_trial(params, user_attrs={resume.BESIDE: first.number})
            trial = self._ask()
            group.append((trial, self._begin(trial)))
            self._planned(trial, plan)
        return group

    def _probe(self, group: Sequence[tuple[optuna.Trial, Config]], plan: Plan) -> list[Ended]:
        """Train the heads of a group in one pass; how each ended, in their order."""
        first, config = group[0]
        ended = [Ended() for _ in group]
        for found in training.probe(plan.network, [config for _, config in group], plan.task):
            for i, ((trial, _), one) in enumerate(zip(group, found, strict=True)):
                if isinstance(one, Exception):
                    ended[i] = replace(ended[i], network=None, error=one)
                elif one:
                    self._report(trial, one.epoch)
                    ended[i] = Ended(one.model, epochs=(*ended[i].epochs, one.epoch))
                    if trial is first:
                        self.listener(_event(trial.number, one.epoch, plan.task.epochs))
                    if one.last:
                        trial.set_user_attr("trained_parameters", one.epoch.trained_parameters)
                        trial.set_user_attr("epochs", one.epoch.number)
                        self.store.update_trial(self.name, trial.number, epochs=one.epoch.number)
        known = self._estimate(plan, config) if config["head"].plugin.takes == "features" else None
        self.store.note_trial(self.name, first.number, probe=True, logme=known)
        return ended

    def _report(self, trial: optuna.Trial, epoch: training.Epoch) -> None:
        """Report an epoch to Optuna, and keep it in the database."""
        trial.report(epoch.score, epoch.number)
        self.store.add_epoch(
            self.name,
            trial.number,
            epoch=epoch.number,
            loss=epoch.loss,
            score=epoch.score,
            seconds=epoch.seconds,
            trained_parameters=epoch.trained_parameters,
        )

    def _estimate(self, plan: Plan, config: Config) -> float | None:
        """How much of the labels the backbone knows already, LogME; None if it cannot be told."""
        try:
            features = training.features(plan.network, config, plan.task)
            return logme(features, self.dataset.labels[self.dataset.indices("train")])
        except (OutOfTime, ValueError):
            return None

    # ---------------------------------------------------------------- which trial is next

    def _enough(self) -> bool:
        rows = self.store.trials(self.name)
        done = sum(row.status not in ("running", "interrupted") for row in rows)
        if self.settings.trials is not None and done >= self.settings.trials:
            return True
        if self.budget.seconds is None:
            return False
        self.leaderboard.reserve()
        best = self.leaderboard.ranked()[:1]
        return self.budget.left <= (self.leaderboard.finals_seconds(best[0]) if best else 0.0) + 1.0

    def _ask(self) -> optuna.Trial:
        """The next trial. What it draws depends on the seed and the trials before it alone.

        So a study that was interrupted goes on as if it had not been.
        """
        number = sum(row.status != "interrupted" for row in self.store.trials(self.name))
        self.study.sampler = sampler.tpe((self.settings.seed * 10_007 + number) % 2**32)
        trial = self.study.ask()
        trial.set_user_attr(resume.PROCESS, resume.process())
        return trial


def _ending(error: BaseException | None) -> tuple[TrialState, str, str]:
    """How a trial is filed that ended with ``error``: for Optuna, for us, and the reason."""
    match error:
        case None:
            return TrialState.COMPLETE, "complete", ""
        case optuna.TrialPruned():
            return TrialState.PRUNED, "pruned", str(error)
        case TrialStopped():
            return TrialState.FAIL, error.status, str(error)
        case KeyboardInterrupt():
            return TrialState.FAIL, "interrupted", "Ctrl-C"
        case AutoTLError():
            return TrialState.FAIL, "failed", str(error)
        case _:  # one broken candidate must not end the search
            return TrialState.FAIL, "failed", f"{type(error).__name__}: {error}"


def _event(number: int, epoch: training.Epoch, epochs: int) -> events.EpochCompleted:
    return events.EpochCompleted(
        number, epoch.number, epochs, epoch.loss, epoch.score, epoch.seconds
    )
