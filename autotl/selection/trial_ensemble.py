"""An ensemble of trials, for a search without time for repeats in the final selection.

The trials have stored their predictions for the validation split, so an ensemble of them costs no
training. Members and weights are selected greedily (Caruana et al. 2004, ICML). Its score is
cross-fitted: each part of the validation split is predicted with weights that are selected on the
others. It is the winner if this score is better than that of the best trial, although the latter
is optimistic, because that trial was selected by it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autotl.models import ensemble
from autotl.scoring import metrics
from autotl.scoring.metrics import Probabilities
from autotl.search.budget import Budget
from autotl.search.context import TrainingContext
from autotl.search.leaderboard import Leaderboard, contender, distinct
from autotl.search.selection_budget import MAX_MEMBERS, SelectionBudget
from autotl.selection.standings import Comparer
from autotl.store import Contender, Member, Store, TrialRow, with_costs

CANDIDATES = 20
"""The number of best trials from which members are selected."""

PARTS = 5
"""The number of parts of the validation split by which the score is cross-fitted."""

SELECTION_SECONDS = 10.0
"""The maximum time for the selection of members; with a metric that takes longer, there are fewer
candidates."""

FEWEST_UNITS = 40
"""The minimum number of sampling units to select by; with fewer, weights fit noise."""


def choose_ensemble(
    store: Store,
    context: TrainingContext,
    leaderboard: Leaderboard,
    selection: SelectionBudget,
    budget: Budget,
) -> Contender | None:
    """Return an ensemble that is better than the best trial, with its standing; None without one.

    Its members can all be refitted in the time that is left.

    Args:
        store: The database.
        context: The context of all trainings of the study.
        leaderboard: The trials.
        selection: Predicts how long a refit takes.
        budget: The wall-clock budget.
    """
    dataset, metric = context.dataset, metrics.get(context.settings.metric)
    rows, predictions = _candidates(store, context, leaderboard)
    indices = dataset.indices("validation")
    labels, units = dataset.labels[indices], np.array(dataset.units)[indices]
    if len(rows) < 2 or len(np.unique(units)) < FEWEST_UNITS:
        return None
    best, of_best = contender(rows[0]), predictions[0]
    count = _affordable_candidates(metric, labels, of_best)
    rows, predictions = rows[:count], predictions[:count]
    while True:
        weights = _select(metric, labels, predictions)
        selected = sorted((i for i, w in enumerate(weights) if w), key=lambda i: -weights[i])
        members = [contender(rows[i]) for i in selected]
        if len(members) < 2:
            return None
        if _is_in_time(members, selection, budget):
            break
        # Without the member that takes longest, but rather without another than the best trial.
        costs = {i: (i > 0, selection.seconds(c)) for i, c in zip(selected, members, strict=True)}
        excluded = max(costs, key=costs.__getitem__)
        del rows[excluded], predictions[excluded]
    shuffled = np.random.default_rng(context.settings.seed).permutation(max(dataset.units) + 1)
    crossed = _cross_fit(metric, labels, predictions, shuffled[units] % PARTS)
    score = metric.score(labels, crossed)
    if not metric.gain(score, best.mean) > 0:
        return None
    combined = Contender(
        kind="ensemble",
        role="ensemble",
        members=tuple(
            Member(trial=c.lead, weight=weights[i]) for c, i in zip(members, selected, strict=True)
        ),
        scores=(score,),
        predictions=(crossed,),
        seconds=sum(c.seconds for c in members),
    )
    combined = with_costs(combined, members)
    if not _is_allowed(combined, context):
        return None
    single = best.model_copy(update={"predictions": (of_best,)})
    compared = Comparer(dataset, metric, [indices]).compare([single, combined], 1)
    return compared.contenders[1].model_copy(update={"predictions": ()})


def stored_predictions(store: Store, study: str, winner: Contender) -> Probabilities | None:
    """Return the predictions ``[N, C]`` of a trial or an ensemble of trials for validation.

    Args:
        store: The database.
        study: The name of the study.
        winner: The contender.

    Returns:
        None if they were not stored.
    """
    if winner.kind == "soup":
        return None
    predictions = [store.predictions(study, trial) for trial in winner.trials]
    stored = [p for p in predictions if p is not None]
    if len(stored) < len(predictions):
        return None
    return ensemble.average_probabilities(stored, winner.weights)


def _candidates(
    store: Store, context: TrainingContext, leaderboard: Leaderboard
) -> tuple[list[TrialRow], list[Probabilities]]:
    """Return the best distinct trials and their predictions; none without those of the best."""
    ranked = distinct(leaderboard.ranked, CANDIDATES)
    count = len(context.dataset.indices("validation"))
    rows, predictions = [], []
    for row in ranked:
        stored = store.predictions(context.settings.name, row.number)
        if stored is not None and len(stored) == count:
            rows.append(row)
            predictions.append(stored.astype(np.float32))
    if not rows or rows[0] != ranked[0]:
        return [], []
    return rows, predictions


def _cross_fit(
    metric: metrics.Metric,
    labels: metrics.Labels,
    predictions: Sequence[Probabilities],
    parts: NDArray[np.int64],
) -> Probabilities:
    """Predict each part of the examples with weights that are selected on the others.

    Args:
        metric: The metric to optimise.
        labels: Class indices ``[N]``.
        predictions: ``[N, C]`` of each candidate.
        parts: The number of the part of each example, ``[N]``.
    """
    crossed = np.empty_like(predictions[0])
    for number in np.unique(parts):
        scored = parts == number
        weights = _select(metric, labels[~scored], [p[~scored] for p in predictions])
        crossed[scored] = ensemble.average_probabilities([p[scored] for p in predictions], weights)
    return crossed


def _affordable_candidates(
    metric: metrics.Metric, labels: metrics.Labels, predictions: Probabilities
) -> int:
    """Return the number of candidates that can be selected from in ``SELECTION_SECONDS``."""
    began = time.monotonic()
    metric.score(labels[: ensemble.MAX_EXAMPLES], predictions[: ensemble.MAX_EXAMPLES])
    seconds = time.monotonic() - began
    scores = (PARTS + 1) * ensemble.ROUNDS  # of each candidate
    return max(2, min(CANDIDATES, int(SELECTION_SECONDS / max(scores * seconds, 1e-9))))


def _select(
    metric: metrics.Metric, labels: metrics.Labels, predictions: Sequence[Probabilities]
) -> list[float]:
    """Select weights; those of all but the ``MAX_MEMBERS`` heaviest members are set to 0."""
    weights = np.array(ensemble.select_members(metric, labels, predictions))
    weights[np.argsort(-weights, kind="stable")[MAX_MEMBERS:]] = 0
    normalised: list[float] = (weights / weights.sum()).tolist()
    return normalised


def _is_allowed(combined: Contender, context: TrainingContext) -> bool:
    """Whether an ensemble is within the limits of the user, for all its members together."""
    settings = context.settings
    most, slowest = settings.max_parameters, settings.max_latency
    if most is not None and (combined.parameters is None or combined.parameters > most):
        return False
    latency = combined.ms_per_item
    return slowest is None or (latency is not None and latency <= slowest)


def _is_in_time(members: Sequence[Contender], selection: SelectionBudget, budget: Budget) -> bool:
    """Whether there is time to refit and test all members."""
    seconds = sum(
        budget.refit_seconds(selection.seconds(c), selection.test_seconds(c)) for c in members
    )
    return seconds <= budget.usable()
