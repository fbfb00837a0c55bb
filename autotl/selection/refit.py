"""Refit the winner on train + validation, or on train alone if all others are of a target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autotl import events, training
from autotl.errors import OutOfTime
from autotl.events import Listener
from autotl.models import Model, ensemble
from autotl.search.budget import Budget
from autotl.search.context import TrainingContext
from autotl.search.ranking import is_fine_tuned
from autotl.search.selection_budget import SelectionBudget, repeat_seconds
from autotl.store import Contender, TrialRow

EXTENSION_FRACTION = 0.85
"""The fraction of the usable time that a refit with more epochs may take: one that does not end in
time is lost."""


@dataclass(frozen=True)
class Refitted:
    """A refitted model, and the number of epochs of each of its members."""

    model: Model
    epochs: tuple[int, ...]


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
) -> Refitted:
    """Retrain the members of the winner on ``Dataset.refit_splits``.

    If there is a fallback model, the refit must fit into the budget. Without one it may exceed the
    budget, so that the search always results in a model. A trial that got fewer epochs than
    requested, because of the budget, is refitted with as many as there is time for.

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
    if has_fallback and needed > budget.left:
        raise OutOfTime(f"it would take {needed:.0f} s, and {budget.left:.0f} s are left")
    splits = context.dataset.refit_splits
    name, done = f"refitting the winner on {' + '.join(splits)}", 0
    # The member that takes longest is the last one, with as many epochs as there is time for then.
    order = sorted(winner.trials, key=lambda trial: repeat_seconds(rows[trial]))
    epochs = {trial: rows[trial].epochs for trial in order}
    models: dict[int, Model] = {}
    for trial in order:
        if trial == order[-1] and winner.kind != "soup":  # the members of a soup are alike
            epochs[trial] = _affordable_epochs(rows[trial], context, budget, test)
        total = sum(epochs.values())
        listener(events.Stage(name, done, total))
        config = context.config(rows[trial])
        model = context.build(config)
        job = context.retraining(rows[trial], model, *splits)
        job.validation = None  # which the splits may not contain
        job.epochs = epochs[trial]
        if has_fallback:
            job.deadline = budget.refit_deadline(test)
        with budget.stage("refit"):
            for _ in training.fine_tune(model, config, job):
                done += 1
                listener(events.Stage(name, done, total))
        models[trial] = model
    combined = combine(winner, [models[trial] for trial in winner.trials])
    return Refitted(combined, tuple(epochs[trial] for trial in winner.trials))


def _affordable_epochs(row: TrialRow, context: TrainingContext, budget: Budget, test: float) -> int:
    """Return the epochs of the refit of a trial: its own, or more if the budget limited them."""
    limited = budget.seconds is not None and context.settings.patience is None
    if not limited or not is_fine_tuned(row):
        return row.epochs
    per_epoch = budget.refit_seconds(repeat_seconds(row)) / row.epochs
    affordable = int(EXTENSION_FRACTION * budget.usable(test) / max(per_epoch, 1e-9))
    return max(row.epochs, min(context.settings.epochs, affordable))
