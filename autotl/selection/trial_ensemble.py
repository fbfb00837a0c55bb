"""An ensemble of trials, for a search without time for repeats in the final selection.

The trials have stored their predictions for the validation split, so an ensemble of them costs no
training. Members and weights are selected greedily, on several subsets of the validation split, and
averaged (Caruana et al. 2004, ICML). Its score is cross-fitted: each part of the split is predicted
with the weights that are selected on the others. It is the winner if this score is better than that
of selecting a single trial in the same way. The score of the best trial on the whole split would be
too high, because the trial was selected by it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotl.models import ensemble
from autotl.scoring import metrics
from autotl.scoring.metrics import Probabilities
from autotl.search.budget import Budget
from autotl.search.context import TrainingContext
from autotl.search.folds import predicted_indices
from autotl.search.leaderboard import Leaderboard
from autotl.search.ranking import contender, distinct
from autotl.search.selection_budget import MAX_MEMBERS, SelectionBudget
from autotl.selection.standings import Comparer
from autotl.store import Contender, Member, Store, TrialRow, with_costs
from autotl.study import StudyConfig

CANDIDATES = 20
"""The number of best trials from which members are selected."""

PARTITIONS, PARTS = 3, 5
"""The number of partitions of the validation split, and of their parts; weights are selected on
all but one of these."""

SELECTION_SECONDS = 5.0
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
    """Return an ensemble that is better than single trials, with its standing; None without one.

    Its members can all be refitted in the time that is left.

    Args:
        store: The database.
        context: The context of all trainings of the study.
        leaderboard: The trials.
        selection: Predicts how long a refit takes.
        budget: The wall-clock budget.
    """
    dataset, metric = context.dataset, context.metric
    rows, predictions = _candidates(store, context, leaderboard)
    indices = predicted_indices(dataset)
    labels, units = dataset.targets[indices], np.array(dataset.units)[indices]
    if len(rows) < 2 or len(np.unique(units)) < FEWEST_UNITS:
        return None
    best, of_best = contender(rows[0]), predictions[0]
    timed = budget.seconds is not None
    count = _affordable_candidates(metric, labels, of_best) if timed else CANDIDATES
    rows, predictions = rows[:count], predictions[:count]
    shuffled = np.random.default_rng(context.settings.seed).permutation(max(dataset.units) + 1)
    while True:
        fit = _cross_fit(metric, labels, predictions, shuffled[units])
        weights = fit.weights
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
    if not metric.gain(fit.score, fit.score_of_single) > 0:
        return None
    combined = Contender(
        kind="ensemble",
        role="ensemble",
        members=tuple(
            Member(trial=c.lead, weight=weights[i]) for c, i in zip(members, selected, strict=True)
        ),
        scores=(fit.score,),
        predictions=(fit.predictions,),
        seconds=sum(c.seconds for c in members),
    )
    combined = with_costs(combined, members)
    if not is_within_limits(combined, {row.number: row for row in rows}, store, context.settings):
        return None
    single = best.model_copy(update={"predictions": (of_best,)})
    compared = Comparer(dataset, metric, [indices]).compare([single, combined], 1)
    return compared.contenders[1].model_copy(update={"predictions": ()})


def stored_predictions(store: Store, study: str, winner: Contender) -> Probabilities | None:
    """Return the predictions ``[N, C]`` by which a trial or an ensemble of trials was scored.

    Args:
        store: The database.
        study: The name of the study.
        winner: The contender.

    Returns:
        None if they were not stored, or not of all folds for all members of an ensemble.
    """
    if winner.kind == "soup":
        return None
    predictions = [store.predictions(study, trial) for trial in winner.trials]
    stored = [p for p in predictions if p is not None]
    if len(stored) < len(predictions) or len({len(each) for each in stored}) > 1:
        return None
    return ensemble.average_predictions(stored, winner.weights)


def _candidates(
    store: Store, context: TrainingContext, leaderboard: Leaderboard
) -> tuple[list[TrialRow], list[Probabilities]]:
    """Return the best distinct trials and their predictions; none without those of the best."""
    ranked = distinct(leaderboard.ranked, CANDIDATES)
    count = len(predicted_indices(context.dataset))
    rows, predictions = [], []
    for row in ranked:
        stored = store.predictions(context.settings.name, row.number)
        if not context.can_combine([ranked[0], row]):
            continue
        if stored is not None and len(stored) == count:
            rows.append(row)
            predictions.append(stored.astype(np.float32))
    if not rows or rows[0] != ranked[0]:
        return [], []
    return rows, predictions


@dataclass(frozen=True)
class _CrossFit:
    """An ensemble that is selected on subsets of the examples.

    Attributes:
        weights: The weight of each candidate.
        predictions: ``[N, C]``, for each example with weights that were selected without it; those
            of the first partition.
        score: The mean score of such predictions over the partitions.
        score_of_single: The same of predictions by the candidate that was best without the example.
    """

    weights: list[float]
    predictions: Probabilities
    score: float
    score_of_single: float


def _cross_fit(
    metric: metrics.Metric,
    labels: metrics.Labels,
    predictions: Sequence[Probabilities],
    units: NDArray[np.int64],
) -> _CrossFit:
    """Select weights on all but one part of each of several partitions of the examples.

    Args:
        metric: The metric to optimise.
        labels: Class indices ``[N]``.
        predictions: ``[N, C]`` of each candidate.
        units: The sampling unit of each example in random order, ``[N]``.
    """
    sign = 1 if metric.higher_is_better else -1
    weights: list[list[float]] = []
    crossed, of_best = np.zeros((2, PARTITIONS, *predictions[0].shape), np.float32)
    for partition in range(PARTITIONS):
        parts = units // PARTS**partition % PARTS
        for number in np.unique(parts):
            scored = parts == number
            others = [p[~scored] for p in predictions]
            weights.append(_select(metric, labels[~scored], others))
            scores = [sign * metric.score(labels[~scored], p) for p in others]
            held_out = [p[scored] for p in predictions]
            crossed[partition, scored] = ensemble.average_predictions(held_out, weights[-1])
            of_best[partition, scored] = held_out[int(np.argmax(scores))]
    score, of_single = (
        float(np.mean([metric.score(labels, p) for p in each])) for each in (crossed, of_best)
    )
    return _CrossFit(_truncate(np.mean(weights, 0)), crossed[0], score, of_single)


def _affordable_candidates(
    metric: metrics.Metric, labels: metrics.Labels, predictions: Probabilities
) -> int:
    """Return the number of candidates that can be selected from in ``SELECTION_SECONDS``."""
    began = time.monotonic()
    metric.score(labels[: ensemble.MAX_EXAMPLES], predictions[: ensemble.MAX_EXAMPLES])
    seconds = time.monotonic() - began
    scores = PARTITIONS * PARTS * ensemble.ROUNDS  # of each candidate
    return max(2, min(CANDIDATES, int(SELECTION_SECONDS / max(scores * seconds, 1e-9))))


def _select(
    metric: metrics.Metric, labels: metrics.Labels, predictions: Sequence[Probabilities]
) -> list[float]:
    return _truncate(np.array(ensemble.select_members(metric, labels, predictions)))


def _truncate(weights: NDArray[np.float64]) -> list[float]:
    """Set the weights of all but the ``MAX_MEMBERS`` heaviest members to 0; their sum is then 1."""
    weights = weights.copy()
    weights[np.argsort(-weights, kind="stable")[MAX_MEMBERS:]] = 0
    normalised: list[float] = (weights / weights.sum()).tolist()
    return normalised


def is_within_limits(
    combination: Contender, rows: Mapping[int, TrialRow], store: Store, settings: StudyConfig
) -> bool:
    """Whether a combination is within the limits of the user, for all its members together.

    Its latency for one image is the one that was measured at the end, or else the sum of those of
    its backbones, by which ``max_latency`` excludes backbones.

    Args:
        combination: An ensemble or a soup, with its costs.
        rows: The trials by number.
        store: The database.
        settings: The settings of the study.
    """
    most, slowest = settings.max_parameters, settings.max_latency
    if most is not None and (combination.parameters is None or combination.parameters > most):
        return False
    if slowest is None:
        return True
    if combination.latency:
        return combination.latency.single.median <= slowest
    latencies = store.latencies(settings.name)
    run = combination.trials if combination.kind == "ensemble" else combination.trials[:1]
    names = [name for trial in run for name in rows[trial].config["backbone"]]
    return sum(latencies.get(name, math.inf) for name in names) <= slowest


def _is_in_time(members: Sequence[Contender], selection: SelectionBudget, budget: Budget) -> bool:
    """Whether there is time to refit and test all members."""
    seconds = sum(
        budget.refit_seconds(selection.seconds(c), selection.test_seconds(c)) for c in members
    )
    return seconds <= budget.usable()
