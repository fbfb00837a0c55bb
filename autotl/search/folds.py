"""Cross-validation of trials: a configuration is trained once for each fold of the data.

The first fold is trained like a trial of a study without folds: it has the plan, reports its epochs
and may be pruned by them, since the first folds of all trials have the same images. The other folds
follow here, with as many epochs as the first, and without pruning. The score of the trial is the
metric on the pooled predictions: each image is predicted by the model that did not train on it, nor
on its copies or its group.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autotl import data, training
from autotl.data import Dataset, Indices
from autotl.errors import OutOfTime
from autotl.events import Note, Stage
from autotl.models import Model
from autotl.scoring.metrics import Predictions
from autotl.search.context import TrainingContext
from autotl.search.trial_budget import TrialPlan
from autotl.space.space import Config
from autotl.training import Epoch

FoldResult = tuple[Model, Epoch]
"""The model that was trained on one fold, and its last epoch."""


@dataclass(frozen=True)
class CrossValidated:
    """The result of a trial on several folds.

    Attributes:
        model: The model of the last fold.
        score: The score of the pooled predictions.
        predictions: Those of the examples of these folds, by index, ``[N, K]``.
        folds: The number of folds.
    """

    model: Model
    score: float
    predictions: Predictions
    folds: int


def predicted_indices(dataset: Dataset, folds: int | None = None) -> Indices:
    """Return the indices of the examples by whose predictions a trial is scored, ascending.

    Args:
        dataset: The checked data set.
        folds: The number of its folds that the trial completed; None for all. Without folds in the
            data set, the examples are those of the validation split.
    """
    indices = dataset.indices(dataset.scored_split)
    if dataset.folds is None or folds is None:
        return indices
    return indices[dataset.folds[indices] < folds]


def unit_folds(dataset: Dataset) -> list[int]:
    """Return the fold of each sampling unit, by the number of the unit; empty without folds."""
    if dataset.folds is None:
        return []
    indices = predicted_indices(dataset)
    _, first = np.unique(np.array(dataset.units)[indices], return_index=True)
    folds: list[int] = dataset.folds[indices[first]].tolist()
    return folds


def cross_validate(
    context: TrainingContext,
    configs: Sequence[Config],
    plan: TrialPlan,
    first: Sequence[FoldResult],
    *,
    trials: Sequence[int],
    partial: bool,
) -> list[CrossValidated | Exception]:
    """Train configurations on the folds after the first one, and pool their predictions.

    Args:
        context: The context of all trainings of the study.
        configs: One configuration, or several with different heads on one frozen backbone.
        plan: The plan of the first fold.
        first: The result of each configuration on the first fold.
        trials: The numbers of the trials, for messages.
        partial: Whether a trial for which the time ends is scored on the folds that it completed.

    Returns:
        For each configuration its result, or the error that ended it.

    Raises:
        Exception: Any error of a single configuration, or of the first of several, except
            ``OutOfTime``.
    """
    count = context.settings.folds or 1
    epochs = max(epoch.number for _, epoch in first)
    results = [[each] for each in first]
    errors: dict[int, Exception] = {}
    for number in range(1, count):
        left = [i for i in range(len(configs)) if i not in errors]
        if not left:
            break
        context.listener(Stage(f"cross-validating trial {trials[left[0]]}", number, count))
        for i, result in zip(
            left, _train(context, [configs[i] for i in left], plan, number, epochs), strict=True
        ):
            if isinstance(result, Exception):
                errors[i] = result
            else:
                results[i].append(result)
    pooled = [_pool(context, own) for own in results]
    for i, error in list(errors.items()):
        if partial and isinstance(error, OutOfTime) and math.isfinite(pooled[i].score):
            del errors[i]
            text = (
                f"trial {trials[i]} is scored on {pooled[i].folds} of {count} folds, because there "
                "was no time for the others"
            )
            context.listener(Note(text, warning=True))
    return [errors.get(i, each) for i, each in enumerate(pooled)]


def delete_checkpoints(context: TrainingContext, config: Config) -> None:
    """Delete the checkpoints of a trial on all its folds, if there are any."""
    for number in range(context.settings.folds or 1):
        context.checkpoint(config, number).delete()


def _train(
    context: TrainingContext, configs: Sequence[Config], plan: TrialPlan, number: int, epochs: int
) -> Sequence[FoldResult | Exception]:
    """Train configurations on one fold; return the result or the error of each."""
    fold = data.fold(context.dataset, number)
    model = context.build(configs[0], fold)
    views, compute = plan.job.views, plan.job.compute
    job = context.job(model, epochs=epochs, views=views, resample=fold, compute=compute)
    job.deadline = plan.job.deadline
    if plan.job.checkpoint:
        job.checkpoint = context.checkpoint(configs[0], number)
    last: dict[int, FoldResult | Exception] = {}
    try:
        if len(configs) == 1:
            for epoch in training.fine_tune(model, configs[0], job):
                last[0] = model, epoch
        else:
            for row in training.train_probes(model, configs, job):
                for i, result in enumerate(row):
                    if isinstance(result, Exception):
                        last[i] = result
                    elif result:
                        last[i] = result.model, result.epoch
    except OutOfTime as error:
        text = f"{error}, in fold {number + 1} of {context.settings.folds}"
        return [OutOfTime(text)] * len(configs)
    return [last[i] for i in range(len(configs))]


def _pool(context: TrainingContext, results: Sequence[FoldResult]) -> CrossValidated:
    """Pool the predictions of the first folds, and score them."""
    dataset = context.dataset
    assert dataset.folds is not None
    indices = predicted_indices(dataset, len(results))
    folds, parts = dataset.folds[indices], [epoch.predictions for _, epoch in results]
    assert parts[0] is not None  # a fold has validation examples
    predictions = np.empty((len(indices), parts[0].shape[1]), np.float32)
    for number, part in enumerate(parts):
        predictions[folds == number] = part
    score = context.metric.score(dataset.targets[indices], predictions)
    return CrossValidated(results[-1][0], score, predictions, len(results))
