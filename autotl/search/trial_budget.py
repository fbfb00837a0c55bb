"""How a trial is trained within the budget: how many epochs, on how many views, until when."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from autotl import training
from autotl.errors import OutOfTime
from autotl.models import Model
from autotl.search.budget import Budget
from autotl.search.context import TrainingContext
from autotl.space.space import Config
from autotl.training import Cost, Epoch, Task

FEWEST_EPOCHS = 1 / 3
"""A trial that would get a smaller fraction of its epochs is not begun: its result would say
nothing about its configuration."""

VIEWS_FRACTION = 0.04
"""The fraction of the budget that a trial may use to compute views with its frozen prefix."""


@dataclass(frozen=True)
class TrialPlan:
    """A trial that is ready to be trained.

    Attributes:
        model: Built from its configuration.
        task: What it is trained on, and how long.
        backbone_frozen: Whether the backbone is frozen in every epoch.
        facts: What was measured, by the names of ``store.TrialFacts``.
        cost: Predicts the time of any number of epochs; None without a budget.
    """

    model: Model
    task: Task
    backbone_frozen: bool
    facts: dict[str, Any] = field(default_factory=dict)
    cost: Cost | None = None

    def repeat_seconds(self, epochs: Sequence[Epoch]) -> float:
        """Seconds to retrain on another resample, by the epochs that were trained.

        The first epochs may have computed new views with the frozen prefix, the others did not.
        """
        took = [epoch.seconds for epoch in epochs]
        views = self.task.views
        if self.cost is None:
            return sum(took)
        count = len(took)
        if count <= views:  # fitting a closed-form head is in no estimate
            new = self.cost.training_seconds(count, views) - self.cost.repeat_seconds(count, views)
            return max(float(self.facts["seconds_repeat"]), sum(took) - new)
        usual = statistics.fmean(took[views:])
        first = sum(min(seconds, usual) for seconds in took[:views])
        return self.cost.new_view_seconds(count, views) + first + sum(took[views:])


def plan_trial(
    model: Model,
    config: Config,
    context: TrainingContext,
    budget: Budget,
    *,
    first: bool,
    several_heads: bool = False,
) -> TrialPlan:
    """Plan the training of a model on the training split.

    Args:
        model: Built from ``config``.
        config: The configuration.
        context: What all trainings of the study share.
        budget: The wall clock.
        first: Whether no trial is complete yet, so that a single epoch is better than nothing.
        several_heads: Whether other heads are trained in the same pass if the backbone is frozen.

    Raises:
        OutOfTime: There is time for too few epochs.
    """
    settings = context.settings
    frozen = training.keeps_backbone_frozen(model, config, settings.epochs)
    # More epochs would not change a head that is fitted in closed form.
    closed_form = frozen and hasattr(model.head, "fit") and not several_heads
    epochs, views = (1, 1) if closed_form else (settings.epochs, settings.views)
    task = context.task(model, "train", epochs=epochs, views=views)
    if budget.seconds is None:
        return TrialPlan(model, task, frozen, {"views": views})
    cost = training.measure_cost(model, config, task)
    views = cost.affordable_views(views, VIEWS_FRACTION * budget.seconds)
    test = cost.prediction_seconds * len(context.dataset.indices("test"))
    epochs = affordable_epochs(cost, epochs, views, budget, test, first)
    repeat = cost.repeat_seconds(epochs, views)
    deadline = time.monotonic() + budget.available(repeat, test)
    facts = {
        "views": views,
        "costs": cost.facts(),
        "ms_per_item": 1000 * cost.prediction_seconds,
        "compute": asdict(cost.compute),
        "seconds_test": test,
        "seconds_needed": cost.training_seconds(epochs, views),
        "seconds_repeat": repeat,
    }
    task = replace(task, compute=cost.compute, views=views, epochs=epochs, deadline=deadline)
    return TrialPlan(model, task, frozen, facts, cost)


def affordable_epochs(
    cost: Cost, wanted: int, views: int, budget: Budget, test: float, first: bool
) -> int:
    """The number of epochs that there is time for, if the model is to be refitted and tested.

    Rather fewer than wanted, so that the final selection can repeat them, if it can at all.

    Args:
        cost: Predicts the time.
        wanted: The number of epochs that is asked for.
        views: The number of views.
        budget: The wall clock.
        test: Seconds that its test will take.
        first: Whether a single epoch is better than nothing.

    Raises:
        OutOfTime: There is time for too few.
    """
    meaningful = max(1, round(FEWEST_EPOCHS * wanted))
    fewest = 1 if first else meaningful
    share = budget.available if first else budget.fair_share
    repeatable = cost.repeat_seconds(meaningful, views) <= budget.longest_repeat
    for epochs in range(wanted, fewest - 1, -1):
        repeat = cost.repeat_seconds(epochs, views)
        if repeatable and repeat > budget.longest_repeat:
            continue
        allowed = share(repeat, test)
        if cost.training_seconds(epochs, views) <= allowed:
            return epochs
    needed = cost.training_seconds(fewest, views)
    raise OutOfTime(
        f"{fewest} epochs would take {needed:.0f} s, and a trial that is to be refitted may take "
        f"{max(0.0, allowed):.0f} s now"
    )
