"""Plan a trial within the budget: its number of epochs and views, and its deadline."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from autotl import training
from autotl.errors import OutOfTime
from autotl.models import Model
from autotl.search.budget import SELECTION_FRACTION, Budget
from autotl.search.context import TrainingContext
from autotl.search.ranking import is_fine_tuned
from autotl.space import space
from autotl.space.space import Config
from autotl.store import TrialRow
from autotl.training import Cost, Epoch, Job

FEWEST_EPOCHS, FEWEST_OF_BEST = 1 / 4, 1 / 2
"""The minimum fraction of its epochs with which a trial is begun, after the first of its kind, and
of those that the best fine-tuned trial had: with fewer epochs it would hardly be better."""

FIRST_FRACTION = 0.6
"""The fraction of the usable time for the first trial, and for the first that trains the backbone,
each with its refit. The rest is for other trials."""

FEWEST_FIRST_EPOCHS = 4
"""The number of epochs up to which these may use all of the usable time, without a refit."""

IMPRECISION = 0.7
"""The factor by which a time that is predicted from other backbones is reduced before a trial is
refused because of it."""

SENSIBLE_EPOCHS = 3
"""The number of epochs of the first fine-tuning for which a larger budget is suggested."""

VIEWS_FRACTION = 0.04
"""The fraction of the budget in which a trial may compute views with its frozen prefix."""


@dataclass(frozen=True)
class Compared:
    """The trials that a trial will be compared with, which get the same number of epochs.

    Attributes:
        epochs: The number of epochs that the first of them had; None if none was trained.
        pending: The number of those that are still to be trained, with this one.
    """

    epochs: int | None
    pending: int


@dataclass(frozen=True)
class TrialPlan:
    """A trial that is ready to be trained.

    Attributes:
        model: The model of its configuration.
        job: The training job, with the number of epochs and the deadline.
        backbone_frozen: Whether the backbone is frozen in every epoch.
        facts: Measurements, by field of ``store.TrialFacts``.
        cost: The estimated cost of any number of epochs; None without a budget.
    """

    model: Model
    job: Job
    backbone_frozen: bool
    facts: dict[str, Any] = field(default_factory=dict)
    cost: Cost | None = None

    def repeat_seconds(self, epochs: Sequence[Epoch]) -> float:
        """Return the seconds to retrain on another resample, from the epochs that were trained.

        Only the first epochs may have computed new views with the frozen prefix.
        """
        took = [epoch.seconds for epoch in epochs]
        views = self.job.views
        if self.cost is None:
            return sum(took)
        count = len(took)
        if count <= views:  # the estimate does not include the fit of a closed-form head
            new = self.cost.training_seconds(count, views) - self.cost.repeat_seconds(count, views)
            return max(self.cost.repeat_seconds(count, views), sum(took) - new)
        later = took[views:]
        if self.cost.compile_seconds and len(later) > 1:
            # The slowest epoch compiled, which is counted for itself.
            later = sorted(later)[:-1] + sorted(later)[-2:-1]
        usual = statistics.fmean(later)
        first = sum(min(seconds, usual) for seconds in took[:views])
        setup = self.cost.compile_seconds + self.cost.new_view_seconds(count, views)
        return setup + first + sum(later)


def plan_trial(
    model: Model,
    config: Config,
    context: TrainingContext,
    budget: Budget,
    *,
    complete: Sequence[TrialRow],
    several_heads: bool = False,
    compared: Compared | None = None,
) -> TrialPlan:
    """Plan the training of a model on the training split, or of several on its folds.

    Args:
        model: The model of ``config``.
        config: The configuration.
        context: The context of all trainings of the study.
        budget: The wall-clock budget.
        complete: The complete trials. The first of all, and the first that trains the backbone, may
            take longer.
        several_heads: Whether other heads are trained in the same pass if the backbone is frozen.
        compared: The trials that it will be compared with; None for none.

    Raises:
        OutOfTime: There is not enough time for the minimum number of epochs.
    """
    plan = _plan_without_budget(model, config, context, several_heads=several_heads)
    if budget.seconds is None:
        return plan
    job, views, folds = plan.job, plan.job.views, context.settings.folds or 1
    cost = training.measure_cost(model, config, job)
    views = cost.affordable_views(views, VIEWS_FRACTION * budget.seconds)
    predicted = cost.prediction_seconds * len(context.dataset.indices("test"))
    test = budget.test_seconds(predicted)
    first = not (complete if plan.backbone_frozen else any(map(is_fine_tuned, complete)))
    if job.checkpoint and (saved := job.checkpoint.facts):  # it continues as it was planned
        epochs, views = saved["planned"], saved["views"]
    else:
        wanted = compared.epochs if compared and compared.epochs else job.epochs
        fewest = 1 if first or compared else fewest_epochs(job.epochs, complete)
        epochs = affordable_epochs(
            cost, wanted, fewest, views, budget, test,
            first=first, frozen=plan.backbone_frozen, folds=folds, compared=compared,
        )  # fmt: skip
    repeat = cost.repeat_seconds(epochs, views)  # on one fold, if there are several
    longest = budget.usable(test) if first or compared else budget.available(repeat, test)
    free = longest - cost.training_seconds(epochs, views, folds)
    if job.checkpoint and (saved := job.checkpoint.facts):
        free = math.inf if saved.get("compile") else 0.0
    cost = cost.compiled(job, epochs, free / folds)
    repeat = cost.repeat_seconds(epochs, views)
    facts = {**plan.facts, **_cost_facts(cost, epochs, views, folds, predicted, repeat)}
    job = replace(job, compute=cost.compute, views=views, epochs=epochs)
    job.deadline, job.keep_completed_epochs = time.monotonic() + longest, True
    return replace(plan, job=job, facts=facts, cost=cost)


def _cost_facts(
    cost: Cost, epochs: int, views: int, folds: int, predicted: float, repeat: float
) -> dict[str, Any]:
    """The measured and predicted costs of a trial, by field of ``store.TrialFacts``."""
    return {
        "views": views,
        "costs": cost.facts(),
        "ms_per_item": 1000 * cost.prediction_seconds,
        "compute": asdict(cost.compute),
        "seconds_test": predicted,
        "seconds_needed": cost.training_seconds(epochs, views, folds),
        "seconds_repeat": repeat,
    }


def _plan_without_budget(
    model: Model, config: Config, context: TrainingContext, *, several_heads: bool
) -> TrialPlan:
    """Plan a training with all epochs; for the arguments see ``plan_trial``."""
    settings = context.settings
    frozen = training.keeps_backbone_frozen(model, config, settings.epochs)
    # More epochs would not change a head that is fitted in closed form.
    has_fit = hasattr(model.head, "fit")
    training.require_suitable(config, has_fit, is_trained=not (frozen and has_fit))
    closed_form = frozen and has_fit and not several_heads
    epochs, views = (1, 1) if closed_form else (settings.epochs, settings.views)
    fold = context.first_fold
    job = context.job(model, "train", epochs=epochs, views=views, resample=fold)
    job.patience = settings.patience
    if not frozen:
        job.checkpoint = context.checkpoint(config)
    facts = {
        "input": (model.expects.size, model.expects.key),
        "backbone_frozen": frozen,
        "effective_config": effective_config(config, closed_form=closed_form),
        "views": views,
    }
    return TrialPlan(model, job, frozen, facts)


def effective_config(config: Config, *, closed_form: bool) -> str:
    """Return a configuration without what has no effect, as JSON.

    Args:
        config: The configuration.
        closed_form: Whether the head is fitted in closed form on a frozen backbone, for which
            augmentation, optimizer and learning rates have no effect.
    """
    plain = space.to_json(config)
    if closed_form:
        freeze: dict[str, Any] = {name: {} for name in plain["freeze"]}
        effective = ("backbone", "head", "unlabelled")
        plain = {**{k: v for k, v in plain.items() if k in effective}, "freeze": freeze}
    return json.dumps(plain, sort_keys=True)


def fewest_epochs(wanted: int, complete: Sequence[TrialRow]) -> int:
    """Return the minimum number of epochs of a trial after the first of its kind.

    Args:
        wanted: The requested number of epochs.
        complete: The complete trials, best first.
    """
    of_best = next((row.epochs for row in complete if is_fine_tuned(row)), 0)
    return min(wanted, max(1, round(FEWEST_EPOCHS * wanted), math.ceil(FEWEST_OF_BEST * of_best)))


def affordable_epochs(
    cost: Cost,
    wanted: int,
    fewest: int,
    views: int,
    budget: Budget,
    test: float,
    *,
    first: bool,
    frozen: bool = False,
    folds: int = 1,
    compared: Compared | None = None,
) -> int:
    """Return the number of epochs for which there is time.

    The more expensive an epoch is, the fewer there are. The time of a test is reserved, and that of
    a refit too, except for a trial that is the first of its kind.

    Args:
        cost: The estimated cost of training.
        wanted: The requested number of epochs.
        fewest: The minimum number of epochs.
        views: The number of views.
        budget: The wall-clock budget.
        test: Seconds to predict the test split.
        first: Whether no trial of its kind is complete yet.
        frozen: Whether the backbone is frozen.
        folds: The number of folds, with a training for each.
        compared: The trials that it will be compared with, each of which gets the same time. Of the
            first one, time is left for a final selection; the others need as many epochs.

    Raises:
        OutOfTime: There is not enough time for the minimum number of epochs.
    """

    def limit(epochs: int) -> float:
        repeat = cost.repeat_seconds(epochs, views)
        if compared:
            usable = budget.usable(test) - budget.refit_seconds(repeat)
            if compared.epochs is None and epochs > FEWEST_FIRST_EPOCHS:
                usable -= SELECTION_FRACTION * (budget.seconds or 0.0)
            return usable / compared.pending
        if not first:
            return budget.fair_share(repeat, test)
        usable = budget.usable(test)
        if epochs <= FEWEST_FIRST_EPOCHS:
            return usable
        return FIRST_FRACTION * usable - budget.refit_seconds(repeat)

    for epochs in range(wanted, fewest - 1, -1):
        allowed = limit(epochs)
        if cost.training_seconds(epochs, views, folds) <= allowed:
            return epochs
    needed = None if frozen else _budget_needed(cost, views, budget, test, folds)
    raise _out_of_time(fewest, cost.training_seconds(fewest, views, folds), allowed, needed)


def _budget_needed(cost: Cost, views: int, budget: Budget, test: float, folds: int) -> float:
    """Return the budget with which there would be time to fine-tune and to refit a model now."""
    training = cost.training_seconds(SENSIBLE_EPOCHS, views, folds)
    refit = budget.refit_seconds(cost.repeat_seconds(SENSIBLE_EPOCHS, views))
    return budget.spent + (training + refit) / FIRST_FRACTION + test + budget.fixed


def refuse_too_slow(
    config: Mapping[str, Any], rows: Sequence[TrialRow], context: TrainingContext, budget: Budget
) -> None:
    """Refuse a trial whose time, predicted from earlier trials, is far more than there is.

    A model that is refused need not be built and measured. The milliseconds of a backward pass are
    those of an earlier trial with the same freeze strategy; of another backbone, in proportion to
    the time that a prediction takes.

    Args:
        config: The configuration of the trial, as it is stored.
        rows: The complete trials, best first.
        context: The context of all trainings of the study.
        budget: The wall-clock budget.

    Raises:
        OutOfTime: The trial would take too long.
    """
    if budget.seconds is None or (step := _predict_backward_ms(config, rows)) is None:
        return
    epochs = fewest_epochs(context.settings.epochs, rows)
    folds = context.settings.folds or 1
    images = len(context.dataset.indices("train")) * max(1, folds - 1)  # each trains in all but one
    seconds = IMPRECISION * epochs * step / 1000 * images
    allowed = budget.fair_share(seconds / folds)
    if seconds > allowed:
        raise _out_of_time(epochs, seconds / IMPRECISION, allowed)


def _predict_backward_ms(config: Mapping[str, Any], rows: Sequence[TrialRow]) -> float | None:
    """Return the milliseconds of a backward pass for one image; None if nothing is known.

    The prediction is optimistic. Of several trials with the strategy, the fastest counts, because
    its values may differ; a backbone that was not measured is taken to be as fast as the fastest,
    and a strategy twice as fast.
    """
    latencies = {
        str(row.config["backbone"]): row.facts.ms_per_item
        for row in rows
        if row.facts.ms_per_item is not None
    }
    own = latencies.get(str(config["backbone"])) or min(latencies.values(), default=0.0)
    same: list[float] = []
    others: list[float] = []
    for row in rows:
        backward, latency = row.facts.costs.get("backward_ms"), row.facts.ms_per_item
        if is_fine_tuned(row) and backward and latency:
            is_same = row.config["freeze"].keys() == config["freeze"].keys()
            (same if is_same else others).append(backward * own / latency)
    if same:
        return min(same)
    return min(others) / 2 if others else None


def _out_of_time(
    epochs: int, seconds: float, allowed: float, budget: float | None = None
) -> OutOfTime:
    noun = "epoch" if epochs == 1 else "epochs"
    return OutOfTime(
        f"{epochs} {noun} would take {seconds:.1f} s, and a trial may take "
        f"{max(0.0, allowed):.1f} s now",
        budget,
    )
