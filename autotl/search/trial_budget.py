"""How a trial is trained: for how many epochs, on how many views, until when, within the budget."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from autotl import training
from autotl.errors import OutOfTime
from autotl.models import Model
from autotl.search.budget import Budget
from autotl.search.context import TrainingContext
from autotl.space.space import Config
from autotl.training import Cost, Epoch, Task

FEWEST_EPOCHS = 1 / 3
"""A trial that would get a smaller share of its epochs is not begun: it would not be itself."""

VIEWS_SHARE = 0.04
"""The share of the budget that a trial may take to run its frozen part over views of pictures."""


@dataclass(frozen=True)
class Plan:
    """A trial that is ready to be trained.

    Attributes:
        network: Its model.
        task: What it is trained on, and how far.
        frozen: Whether the backbone learns in no epoch.
        known: What was measured, as it is filed with the trial.
        cost: The same for any number of epochs; None without a budget.
    """

    network: Model
    task: Task
    frozen: bool
    known: dict[str, Any]
    cost: Cost | None = None

    def again(self, done: Sequence[Epoch]) -> float:
        """Seconds to train so again on another part of the data, by the epochs that were done.

        The first of them may have run the frozen part over new views, which the others did not.
        """
        took = [epoch.seconds for epoch in done]
        views = self.task.views
        if self.cost is None:
            return sum(took)
        if len(took) <= views:  # to solve for a head is in no estimate
            new = self.cost.seconds(len(took), views) - self.cost.again(len(took), views)
            return max(float(self.known["seconds_again"]), sum(took) - new)
        usual = statistics.fmean(took[views:])
        first = sum(min(seconds, usual) for seconds in took[:views])
        return self.cost.new_views(len(took), views) + first + sum(took[views:])


def plan(
    network: Model,
    config: Config,
    context: TrainingContext,
    *,
    modest: bool,
    together: bool = False,
) -> Plan:
    """Plan the training of a model on the training part.

    Args:
        network: Built as ``config`` says.
        config: The configuration.
        trainings: What it shares with others.
        modest: Whether a single epoch is better than none.
        together: Whether other heads are trained in the same pass, if the backbone stays frozen.

    Raises:
        OutOfTime: There is time for too few epochs to be worth beginning.
    """
    settings, budget = context.settings, context.budget
    frozen = training.keeps_backbone_frozen(network, config, settings.epochs)
    # More epochs would change nothing for a head that is solved for.
    solved = frozen and hasattr(network.head, "fit") and not together
    epochs, views = (1, 1) if solved else (settings.epochs, settings.views)
    task = context.task(network, "train", epochs=epochs, views=views)
    if budget.seconds is None:
        return Plan(network, task, frozen, {})
    cost = training.measure(network, config, task)
    task.compute = cost.compute
    task.views = cost.views(task.views, VIEWS_SHARE * budget.seconds)
    test = cost.predict * len(context.dataset.indices("test"))
    task.epochs = affordable(cost, task, budget, test, modest)
    again = cost.again(task.epochs, task.views)
    task.deadline = time.monotonic() + budget.longest_trial(again, test)
    known = {
        "costs": cost.facts(),
        "ms_per_item": 1000 * cost.predict,
        "setting": asdict(cost.compute),
        "seconds_test": test,
        "seconds_needed": cost.seconds(task.epochs, task.views),
        "seconds_again": again,
    }
    return Plan(network, task, frozen, known, cost)


def affordable(cost: Cost, task: Task, budget: Budget, test: float, modest: bool) -> int:
    """How many epochs there is time for, if the model is to be refitted and tested too.

    Rather fewer than all so that the finals can repeat them, if those are within reach at all.

    Args:
        cost: What they take.
        task: Has the number that is wanted, and the views.
        budget: What there is.
        test: Seconds that its test will take.
        modest: Whether a single epoch is better than none.

    Raises:
        OutOfTime: There is time for too few.
    """
    worth = max(1, round(FEWEST_EPOCHS * task.epochs))
    fewest = 1 if modest else worth
    share = budget.longest_trial if modest else budget.fair_share
    repeated = cost.again(worth, task.views) <= budget.repeatable
    for epochs in range(task.epochs, fewest - 1, -1):
        again = cost.again(epochs, task.views)
        if repeated and again > budget.repeatable:
            continue
        allowed = share(again, test)
        if cost.seconds(epochs, task.views) <= allowed:
            return epochs
    raise OutOfTime(
        f"{fewest} epochs would take {cost.seconds(fewest, task.views):.0f} s, and a trial that is "
        f"to be refitted may take {max(0.0, allowed):.0f} s now"
    )
