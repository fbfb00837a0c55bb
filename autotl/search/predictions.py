"""The predictions by which trials are scored: stored, so that trials can be compared."""

from __future__ import annotations

import math

import numpy as np

from autotl.scoring import influence, intervals
from autotl.scoring.metrics import Predictions
from autotl.search.context import TrainingContext
from autotl.search.folds import predicted_indices
from autotl.store import Store


def store_predictions(
    store: Store,
    context: TrainingContext,
    number: int,
    predictions: Predictions,
    folds: int | None = None,
) -> None:
    """Store the predictions of a trial, their contributions to its score, and its interval.

    Args:
        store: The database.
        context: The context of all trainings of the study.
        number: The number of the trial.
        predictions: Those of its last epoch for the validation split, or those of all folds,
            ``[N, K]``.
        folds: The number of folds that it completed; None without folds.
    """
    dataset, metric = context.dataset, context.metric
    indices = predicted_indices(dataset, folds)
    targets, units = dataset.targets[indices], np.array(dataset.units)[indices]
    values = influence.contributions(metric, targets, predictions)
    if not np.isfinite(values).all():  # such as the AUROC of a split with one class
        return
    low, high = intervals.score_interval(metric, targets, predictions, units)
    store.add_predictions(
        context.settings.name,
        number,
        predictions,
        influence.sum_by_unit(values, units),
        are_probabilities=dataset.task.has_probabilities,
        low=low,
        high=high if math.isfinite(high) else None,
    )
