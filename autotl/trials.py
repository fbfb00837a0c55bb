"""The loop: ask, build, fine-tune, report, prune. Knows Optuna; has never heard of torch."""

from __future__ import annotations

import os
import platform
import time
import traceback
import warnings
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.trial import TrialState

from autotl import data, finetune, metrics, model, progress, report, space
from autotl.budget import Budget
from autotl.cache import Features
from autotl.data import Batches, Dataset
from autotl.errors import AutoTLError, Incompatible, OutOfTime, StudyError, TrialEnd
from autotl.finetune import Cost, Task
from autotl.model import Device, Model
from autotl.progress import Listener
from autotl.registry import Registry
from autotl.space import Config, Space
from autotl.store import Store, TrialRow
from autotl.study import StudyConfig

optuna.logging.set_verbosity(optuna.logging.WARNING)  # what it would say, the listener is told

FEWEST_EPOCHS = 0.5
"""A trial that would get a smaller share of its epochs is not begun: it would not be itself."""

GIVE_UP = 8
"""Trials in a row that fail, or that the time does not suffice for, before the search ends."""

VIEWS_SHARE = 0.04
"""The share of the budget that a trial may take to run its frozen part over augmented views."""

KEPT_BYTES = 2 << 30
"""Memory for what frozen parts made of the pictures, shared by all trials."""


@dataclass(frozen=True)
class Best:
    """The best trial with its trained model, in case there is no time to refit it."""

    number: int
    network: Model


@dataclass
class Trials:
    """The trials of one study, and what they share."""

    settings: StudyConfig
    dataset: Dataset
    space: Space
    store: Store
    where: Device
    budget: Budget
    watch: Listener
    registry: Registry
    best: Best | None = None
    kept: Features = field(default_factory=lambda: Features(KEPT_BYTES))

    def __post_init__(self) -> None:
        self.name = self.settings.name
        self.metric = metrics.get(self.settings.metric)
        self.study = optuna.create_study(
            study_name=self.name,
            storage=self.store.storage,
            direction=self.metric.direction,
            pruner=optuna.pruners.MedianPruner(
                n_startup_trials=5, n_warmup_steps=max(1, self.settings.epochs // 3)
            ),
            load_if_exists=True,
        )
        self._batches: dict[tuple[Any, ...], Batches] = {}
        self._clear_zombies()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study.set_metric_names([self.metric.name])

    def run(self) -> None:
        """Run trials until their number, the budget or the patience ends.

        Raises:
            StudyError: No trial came to its end.
        """
        in_vain, end, reason = 0, "", ""
        while in_vain < GIVE_UP and not self._enough():
            self._enqueue_default()
            end, reason = self._trial(self._ask())
            in_vain = 0 if end in ("complete", "pruned") else in_vain + 1
            if end == OutOfTime.end and not self._waiting():
                # There may still be time for what is cheapest, the first strategy in line; all
                # else of it is left to the sampler.
                self.study.enqueue_trial({"freeze": self.space.in_order("freeze")[0]})
        if self.ranked():
            return
        if end in ("", OutOfTime.end):
            why = reason or "it ended before the first one"
            raise StudyError(f"the budget is too short for any trial ({why}): give more time")
        raise StudyError(f"no trial has come to its end; the last one {end}: {reason}")

    def ranked(self) -> list[TrialRow]:
        """The complete trials of the study, best first."""
        return report.ranked(self.store.trials(self.name), self.metric.direction)

    def config(self, number: int) -> Config:
        """The configuration of a trial that has been."""
        return self.space.suggest(optuna.trial.FixedTrial(self.study.trials[number].params))

    def finals_seconds(self, row: TrialRow) -> float:
        """What it takes to refit and test a trial when nothing of it has been computed before."""
        known = self.study.trials[row.number].user_attrs
        trial = max(row.seconds, float(known.get("seconds_needed", 0.0)))
        return self.budget.finals(trial, self.test_seconds(row))

    def test_seconds(self, row: TrialRow) -> float:
        """What it takes to test the model of a trial."""
        return float(self.study.trials[row.number].user_attrs.get("seconds_test", 0.0))

    def training(self) -> dict[str, Any]:
        """What decides the result of a training besides the configuration."""
        keys = (
            "metric",
            "seed",
            "batch_size",
            "label_smoothing",
            "ema",
            "validation",
            "test",
            "precision",
        )
        return {key: getattr(self.settings, key) for key in keys}

    def baselines(self) -> dict[str, Any]:
        """Which trials are what everybody would try first, for the report."""
        attributes = {t.number: t.user_attrs for t in self.study.get_trials(deepcopy=False)}
        complete = [row.number for row in self.ranked()]
        probes = [n for n in complete if attributes[n].get("linear_probe")]
        defaults = [n for n in complete if "default" in attributes[n] and n not in probes]
        return {"linear_probes": probes, "default_trial": defaults[0] if defaults else None}

    def views(self, row: TrialRow) -> int:
        """How many kept views a trial saw of a picture."""
        views: int = self.study.trials[row.number].user_attrs["views"]
        return views

    def task(self, network: Model, *parts: str, epochs: int, views: int) -> Task:
        """The training of ``network`` on some parts of the data.

        On the part ``train`` alone it is scored on the validation part, and shares what frozen
        parts compute with other trials.
        """
        labels = self.dataset.labels
        alone = parts == ("train",)
        truth = labels[self.dataset.indices("validation")]
        return Task(
            train=self.batches(network, *parts),
            validation=self.batches(network, "validation") if alone else None,
            epochs=epochs,
            score=lambda probabilities: self.metric.score(truth, probabilities),
            where=self.where,
            seed=self.settings.seed,
            kept=self.kept,
            data=self.dataset.fingerprint if alone else None,
            views=views,
            label_smoothing=self.settings.label_smoothing,
            ema=self.settings.ema,
            step=lambda: self.watch(progress.Step()),
        )

    def batches(self, network: Model, *parts: str) -> Batches:
        """Batches of some parts of the data, packed at the size that ``network`` expects."""
        expects = network.expects
        key = (expects.size, expects.interpolation, parts)
        if key not in self._batches:
            with self.budget.stage("pack"):
                packed = data.pack(
                    self.dataset,
                    expects.size,
                    expects.interpolation,
                    self.settings.out / "cache",
                    lambda what, done, total: self.watch(progress.Stage(what, done, total)),
                )
            self._batches[key] = Batches(
                packed,
                self.dataset.labels,
                self.dataset.indices(*parts),
                self.settings.batch_size,
                self.where.device,
                shuffle_seed=self.settings.seed,
            )
        return self._batches[key]

    def build(self, config: Config) -> Model:
        """The network of a configuration, its random part seeded."""
        classes = len(self.dataset.classes)
        settings = self.settings
        return model.build(config, classes, settings.size, self.where, settings.seed)

    # ---------------------------------------------------------------- one trial

    def _trial(self, trial: optuna.Trial) -> tuple[str, str]:
        """Run a trial and file it as what it was; return its end and the reason for it."""
        began = time.monotonic()
        config = self.space.suggest(trial)
        shown = space.to_json(config)
        trial.set_user_attr("config", shown)
        self.store.begin_trial(self.name, trial.number, shown, self.settings.epochs)
        score, state, end, reason = None, TrialState.FAIL, "failed", ""
        interrupt: KeyboardInterrupt | None = None
        try:
            network, score = self._fine_tune(trial, config)
            state, end = TrialState.COMPLETE, "complete"
        except optuna.TrialPruned as pruned:
            state, end, reason = TrialState.PRUNED, "pruned", str(pruned)
        except TrialEnd as known:
            end, reason = known.end, str(known)
            if isinstance(known, OutOfTime) and self.store.epochs(self.name, trial.number):
                state = TrialState.PRUNED  # what it reported is true; it is only unfinished
        except KeyboardInterrupt as error:
            end, reason, interrupt = "interrupted", "Ctrl-C", error
        except AutoTLError as error:
            reason = str(error)
        except Exception as error:  # one broken candidate must not end the search; it is filed
            reason = f"{type(error).__name__}: {error}"
            trial.set_user_attr("traceback", traceback.format_exc())
        seconds = time.monotonic() - began
        trial.set_user_attr("end", end)
        trial.set_user_attr("reason", reason)
        self.study.tell(trial, score if state == TrialState.COMPLETE else None, state=state)
        self.store.end_trial(
            self.name, trial.number, end, reason=reason, score=score, seconds=seconds
        )
        if state == TrialState.COMPLETE and self.ranked()[0].number == trial.number:
            self.best = Best(trial.number, network.cpu())
        self.watch(progress.TrialEnded(trial.number, end, reason, score, seconds))
        if interrupt:
            self._requeue(trial.params, trial.user_attrs)
            raise interrupt
        return end, reason

    def _fine_tune(self, trial: optuna.Trial, config: Config) -> tuple[Model, float]:
        """Train a configuration, reporting every epoch; return the model and its last score."""
        network = self.build(config)
        settings = self.settings
        count, most = model.parameters(network), settings.max_parameters
        if most is not None and count > most:
            raise Incompatible(f"{count / 1e6:.2f} M parameters, more than {most / 1e6:.2f} M")
        task = self.task(network, "train", epochs=settings.epochs, views=settings.views)
        if self.budget.seconds is not None:
            cost = finetune.measure(network, config, task)
            affordable = int(VIEWS_SHARE * self.budget.seconds / max(cost.view, 1e-9))
            task.views = max(1, min(task.views, affordable))
            test = cost.predict * len(self.dataset.indices("test"))
            task.epochs = self._affordable(cost, task.views, test)
            task.deadline = time.monotonic() + self.budget.longest_trial(test)
            trial.set_user_attr("seconds_test", test)
            trial.set_user_attr("seconds_needed", cost.seconds(task.epochs, task.views))
        trial.set_user_attr("views", task.views)
        numbers = {"epochs": task.epochs, "parameters": count}
        self.store.update_trial(self.name, trial.number, **numbers)
        self.watch(progress.TrialStarted(trial.number, space.to_json(config), task.epochs))
        score = float("nan")
        for epoch in finetune.fine_tune(network, config, task):
            score = epoch.score
            trial.report(score, epoch.number)
            self._note(trial.number, epoch, task.epochs)
            if epoch.number < task.epochs and trial.should_prune():
                raise optuna.TrialPruned(f"worse than the median of epoch {epoch.number}")
        for key, value in (*numbers.items(), ("learned_parameters", epoch.learned)):
            trial.set_user_attr(key, value)
        trial.set_user_attr("linear_probe", epoch.learned == model.parameters(network.head))
        return network, score

    def _note(self, number: int, epoch: finetune.Epoch, epochs: int) -> None:
        """Keep an epoch in the database and show it."""
        measured = {"loss": epoch.loss, "score": epoch.score, "seconds": epoch.seconds}
        self.store.add_epoch(self.name, number, epoch=epoch.number, **measured)
        self.store.update_trial(self.name, number, learned_parameters=epoch.learned)
        self.watch(progress.EpochEnded(number, epoch.number, epochs, **measured))

    def _affordable(self, cost: Cost, views: int, test: float) -> int:
        """How many epochs there is time for, if the model is to be refitted and tested too.

        Raises:
            OutOfTime: Too few to be worth beginning.
        """
        wanted = self.settings.epochs
        allowed, fewest = self.budget.fair_share(test), max(1, round(FEWEST_EPOCHS * wanted))
        if not self.ranked():  # a short budget shall find something rather than nothing
            allowed, fewest = self.budget.longest_trial(test), 1
        for epochs in range(wanted, fewest - 1, -1):
            if cost.seconds(epochs, views) <= allowed:
                return epochs
        raise OutOfTime(
            f"{fewest} epochs would take {cost.seconds(fewest, views):.0f} s, and a trial that is "
            f"to be refitted may take {max(0.0, allowed):.0f} s now"
        )

    # ---------------------------------------------------------------- which trial is next

    def _enough(self) -> bool:
        rows = self.store.trials(self.name)
        done = sum(row.end not in ("running", "interrupted") for row in rows)
        if self.settings.trials is not None and done >= self.settings.trials:
            return True
        if self.budget.seconds is None:
            return False
        best = self.ranked()[:1]
        return self.budget.left <= (self.finals_seconds(best[0]) if best else 0.0) + 1.0

    def _enqueue_default(self) -> None:
        """Put the next well-known recipe in the queue, before the sampler chooses freely.

        First comes the first strategy in line on every backbone (a linear probe, if one is in
        the space), then other heads in line with it on the most promising backbone, then the other
        strategies in line, each on the most promising backbone that there is time for.
        """
        if self._waiting():
            return
        trials = self.study.get_trials(deepcopy=False)
        tried = {
            tuple(t.user_attrs["default"]): t.user_attrs.get("end")
            for t in trials
            if "default" in t.user_attrs
        }
        first, *others = self.space.in_order("freeze")
        head, *heads = self.space.in_order("head")
        recipes = [(backbone, first, head) for backbone in self.space.in_order("backbone")]
        if tried.keys() >= set(recipes):
            promising = self._promising(first, head)
            recipes = [(backbone, first, other) for backbone in promising[:1] for other in heads]
            for freeze in others:
                ends = {tried.get((backbone, freeze, head), "new") for backbone in promising}
                if ends <= {"new", "out_of_time"}:
                    recipes += [(backbone, freeze, head) for backbone in promising]
        for recipe in recipes:
            if recipe not in tried:
                names = dict(zip(("backbone", "freeze", "head"), recipe, strict=True))
                params = self.space.defaults(**names)
                self.study.enqueue_trial(params, user_attrs={"default": list(recipe)})
                return

    def _waiting(self) -> bool:
        """Whether a trial is in the queue."""
        return bool(self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def _promising(self, freeze: str, head: str) -> list[str]:
        """The backbones that came to the end with this strategy and head, best first.

        Those within a standard error of the best count as equally good, and of these the smaller
        comes first (the one-standard-error rule, Breiman et al. 1984).
        """
        probes = [
            row
            for row in self.ranked()
            if freeze in row.config["freeze"] and head in row.config["head"]
        ]
        if not probes or (best := probes[0].score) is None:
            return []
        count = max(1, len(self.dataset.indices("validation")))
        error = (max(0.0, best * (1 - best)) / count) ** 0.5
        close = [r for r in probes if r.score is not None and abs(r.score - best) <= error]
        close.sort(key=lambda r: r.parameters or 0)
        ordered = [*close, *(r for r in probes if r not in close)]
        return list(dict.fromkeys(name for r in ordered for name in r.config["backbone"]))

    def _ask(self) -> optuna.Trial:
        """The next trial. What it draws depends on the seed and the trials before it alone.

        So a study that was interrupted goes on as if it had not been.
        """
        number = len(self.study.get_trials(deepcopy=False))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study.sampler = optuna.samplers.TPESampler(
                multivariate=True, group=True, seed=self.settings.seed * 10_007 + number
            )
        trial = self.study.ask()
        trial.set_user_attr("process", _process())
        return trial

    def _clear_zombies(self) -> None:
        """File the trials of a run that was killed, and put them back in the queue.

        Raises:
            StudyError: The run is alive.
        """
        for trial in self.study.get_trials(states=(TrialState.RUNNING,)):
            process = trial.user_attrs.get("process", ["", 0])
            if process != _process() and process[0] == platform.node() and _alive(process[1]):
                raise StudyError(
                    f"study {self.name!r} is being run by process {process[1]} on this machine; "
                    "wait for it, or choose another name with --study"
                )
            self.study.tell(trial.number, state=TrialState.FAIL)
            reason = "its process ended"
            self.store.end_trial(self.name, trial.number, "interrupted", reason=reason)
            self._requeue(trial.params, trial.user_attrs)

    def _requeue(self, params: dict[str, Any], attributes: dict[str, Any]) -> None:
        """Put an interrupted trial back in the queue, still known as the default it was."""
        known = {key: attributes[key] for key in ("default",) if key in attributes}
        self.study.enqueue_trial(params, user_attrs=known)


def _process() -> list[Any]:
    return [platform.node(), os.getpid()]


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (OSError, OverflowError):
        return False
    return True
