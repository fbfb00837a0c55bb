"""Contenders are compared by all the predictions of their repeats."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from autotl.scoring import metrics
from autotl.scoring.intervals import score_interval
from autotl.selection.standings import Comparer
from autotl.store import Contender, TrialRow, single

N, FOLDS = 500, 5
ACCURACY = metrics.get("accuracy")


def comparer(metric: metrics.Metric = ACCURACY) -> Comparer:
    """Of two classes; the folds are every fifth example, and fold 0 is the validation split."""
    dataset: Any = SimpleNamespace(
        targets=np.arange(N) // FOLDS % 2,
        units=tuple(range(N)),
        classes=("a", "b"),
        indices=lambda split: np.arange(0, N, FOLDS),
    )
    return Comparer(dataset, metric, [np.arange(i, N, FOLDS) for i in range(FOLDS)])


def contender(by: Comparer, number: int, wrong: Any, repeats: int = FOLDS) -> Contender:
    """A trial that predicts the examples ``wrong`` wrongly."""
    correct = ~np.isin(np.arange(N), wrong)
    predicted = np.where(correct, by.dataset.targets, 1 - by.dataset.targets)
    probabilities = np.where(np.eye(2)[predicted], 0.9, 0.1).astype(np.float32)
    folds = by.validations[:repeats]
    return single(
        number,
        scores=tuple(by.metric.score(by.dataset.targets[f], probabilities[f]) for f in folds),
        predictions=tuple(probabilities[f] for f in folds),
    )


def test_the_interval_of_a_mean_is_that_of_all_predictions_and_the_training() -> None:
    by = comparer()
    random = np.random.default_rng(0)
    first, second = (contender(by, n, random.choice(N, 40, replace=False)) for n in (0, 1))
    compared = by.compare([first, second], 2)
    standing = compared.contenders[0].standing
    assert standing
    assert standing.score.mean == pytest.approx(0.92)
    order = np.concatenate(by.validations)
    pooled = np.concatenate(first.predictions)
    low, high = score_interval(ACCURACY, by.dataset.targets[order], pooled)
    width = standing.score.high - standing.score.low
    assert 1 <= width / (high - low) < 1.3
    assert compared.comparison.detectable < 0.05


def test_a_contender_with_fewer_repeats_is_compared_in_these() -> None:
    by = comparer()
    random = np.random.default_rng(0)
    contenders = [
        contender(by, 0, random.choice(N, 25, replace=False)),
        contender(by, 1, random.choice(N, 26, replace=False)),
        contender(by, 2, range(0, N, 2), repeats=1),
    ]
    compared = by.compare(contenders, 3)
    standings = [c.standing for c in compared.contenders if c.standing]
    assert [s.tied for s in standings] == [True, True, False]
    widths = [s.score.high - s.score.low for s in standings]
    assert widths[2] > 2 * widths[1]
    assert compared.repeats == FOLDS


def test_the_optimism_of_a_trial_has_an_interval() -> None:
    by = comparer()
    random = np.random.default_rng(0)
    wrong = random.choice(N, 40, replace=False)
    first, second = contender(by, 0, wrong), contender(by, 1, random.choice(N, 60, replace=False))
    compared = by.compare([first, second], 2)
    validation = by.validations[0]

    def optimism(in_search: Any) -> Any:
        row: Any = SimpleNamespace(
            score=float(np.mean(in_search)),
            contribution_of_units=np.asarray(in_search, float),
        )
        trial: TrialRow = row
        return by.optimism(compared.contenders[0], trial, compared)

    same = optimism(~np.isin(validation, wrong))
    assert same.mean == pytest.approx(np.mean(~np.isin(validation, wrong)) - 0.92)
    assert same.low < 0 < same.high
    lucky = optimism(np.ones(len(validation)))
    assert lucky.mean == pytest.approx(0.08)
    assert lucky.low > 0
    assert optimism(np.ones(3)) is None  # of another validation split
