"""Refit the winner on train + validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autotl import events, training
from autotl.errors import OutOfTime
from autotl.events import Listener
from autotl.models import Model, ensemble
from autotl.search.budget import Budget
from autotl.search.context import TrainingContext
from autotl.search.selection_budget import SelectionBudget
from autotl.store import Contender, TrialRow


def combine(contender: Contender, models: Sequence[Model]) -> Model:
    """Combine the models of a contender's members, in their order, to one model."""
    if contender.kind == "ensemble":
        return ensemble.Ensemble(models, contender.weights)
    return ensemble.average_weights(models) if contender.kind == "soup" else models[0]


def refit(
    winner: Contender,
    rows: Mapping[int, TrialRow],
    context: TrainingContext,
    selection: SelectionBudget,
    budget: Budget,
    listener: Listener,
    *,
    has_fallback: bool,
) -> Model:
    """Retrain the members of the winner on train + validation.

    If there is a fallback model, the refit must fit into the budget. Without one it may exceed the
    budget, so that the search always results in a model.

    Args:
        winner: The contender to refit.
        rows: The trials by number.
        context: The context of all trainings of the study.
        selection: Predicts how long the refit takes.
        budget: The wall-clock budget.
        listener: Called with the events of the progress.
        has_fallback: Whether there is a model of the winner trained on a part of the data.

    Raises:
        TrialStopped: A training stopped early, or does not fit into the budget.
    """
    test = selection.test_seconds(winner)
    needed = budget.refit * selection.seconds(winner) + test
    if has_fallback and len(winner.members) > 1 and needed > budget.left:
        raise OutOfTime(f"it would take {needed:.0f} s, and {budget.left:.0f} s are left")
    name, done = "refitting the winner on train + validation", 0
    total = sum(rows[trial].epochs for trial in winner.trials)
    listener(events.Stage(name, done, total))
    models = []
    for trial in winner.trials:
        config = context.config(rows[trial])
        model = context.build(config)
        task = context.retraining(rows[trial], model, "train", "validation")
        if has_fallback:
            task.deadline = budget.refit_deadline(test)
        with budget.stage("refit"):
            for _ in training.fine_tune(model, config, task):
                done += 1
                listener(events.Stage(name, done, total))
        models.append(model)
    return combine(winner, models)
