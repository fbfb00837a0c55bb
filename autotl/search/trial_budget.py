"""Plan a trial within the budget: its number of epochs and views, and its deadline."""

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
"""The minimum fraction of its epochs with which a trial is trained; with fewer epochs the score
would not be representative of the configuration."""

VIEWS_FRACTION = 0.04
"""The fraction of the budget in which a trial may compute views with its frozen prefix."""


@dataclass(frozen=True)
class TrialPlan:
    """A trial that is ready to be trained.

    Attributes:
        model: The model of its configuration.
        task: The training task, with the number of epochs and the deadline.
        backbone_frozen: Whether the backbone is frozen in every epoch.
        facts: Measurements, by field of ``store.TrialFacts``.
        cost: The estimated cost of any number of epochs; None without a budget.
    """

    model: Model
    task: Task
    backbone_frozen: bool
    facts: dict[str, Any] = field(default_factory=dict)
    cost: Cost | None = None

    def repeat_seconds(self, epochs: Sequence[Epoch]) -> float:
        """Return the seconds to retrain on another resample, from the epochs that were trained.

        Only the first epochs may have computed new views with the frozen prefix.
        """
        took = [epoch.seconds for epoch in epochs]
        views = self.task.views
        if self.cost is None:
            return sum(took)
        count = len(took)
        if count <= views:  # the estimate does not include the fit of a closed-form head
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
        model: The model of ``config``.
        config: The configuration.
        context: The context of all trainings of the study.
        budget: The wall-clock budget.
        first: Whether no trial is complete yet; then a single epoch is sufficient.
        several_heads: Whether other heads are trained in the same pass if the backbone is frozen.

    Raises:
        OutOfTime: There is not enough time for the minimum number of epochs.
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
    """Return the number of epochs for which there is time, including a refit and a test.

    The number is reduced further if the final selection can then repeat the trial.

    Args:
        cost: The estimated cost of training.
        wanted: The requested number of epochs.
        views: The number of views.
        budget: The wall-clock budget.
        test: Seconds to predict the test split.
        first: Whether a single epoch is sufficient.

    Raises:
        OutOfTime: There is not enough time for the minimum number of epochs.
    """
    meaningful = max(1, round(FEWEST_EPOCHS * wanted))
    fewest = 1 if first else meaningful
    time_limit = budget.available if first else budget.fair_share
    repeatable = cost.repeat_seconds(meaningful, views) <= budget.longest_repeat
    for epochs in range(wanted, fewest - 1, -1):
        repeat = cost.repeat_seconds(epochs, views)
        if repeatable and repeat > budget.longest_repeat:
            continue
        allowed = time_limit(repeat, test)
        if cost.training_seconds(epochs, views) <= allowed:
            return epochs
    needed = cost.training_seconds(fewest, views)
    raise OutOfTime(
        f"{fewest} epochs would take {needed:.0f} s, but with the time of a refit reserved, a "
        f"trial may take {max(0.0, allowed):.0f} s now"
    )
