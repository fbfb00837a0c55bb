"""The predictions by which trials are scored: stored, so that trials can be compared."""

from __future__ import annotations

import math

import numpy as np

from autotl.scoring import influence, intervals, metrics
from autotl.scoring.metrics import Probabilities
from autotl.search.context import TrainingContext
from autotl.search.folds import predicted_indices
from autotl.store import Store


def store_predictions(
    store: Store,
    context: TrainingContext,
    number: int,
    probabilities: Probabilities,
    folds: int | None = None,
) -> None:
    """Store the predictions of a trial, their contributions to its score, and its interval.

    Args:
        store: The database.
        context: The context of all trainings of the study.
        number: The number of the trial.
        probabilities: The predictions of its last epoch for the validation split, or those of all
            folds, ``[N, C]``.
        folds: The number of folds that it completed; None without folds.
    """
    dataset, metric = context.dataset, metrics.get(context.settings.metric)
    indices = predicted_indices(dataset, folds)
    labels, units = dataset.labels[indices], np.array(dataset.units)[indices]
    values = influence.contributions(metric, labels, probabilities)
    if not np.isfinite(values).all():  # such as the AUROC of a split with one class
        return
    low, high = intervals.score_interval(metric, labels, probabilities, units)
    store.add_predictions(
        context.settings.name,
        number,
        probabilities,
        influence.sum_by_unit(values, units),
        low=low,
        high=high if math.isfinite(high) else None,
    )
