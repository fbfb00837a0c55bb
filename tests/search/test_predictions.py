"""Trials store their predictions for the validation split, and what follows from them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from predictions import random_predictions

from autotl.scoring import metrics
from autotl.scoring.intervals import score_interval
from autotl.search.predictions import store_predictions
from autotl.store import Store, TrialRow
from autotl.tasks import CLASSIFICATION


def stored(metric: str, labels: Any, probabilities: Any, units: Any) -> tuple[Store, TrialRow]:
    """Store the predictions of a trial of a study with these validation examples."""
    store = Store("sqlite://")
    store.begin_study("s")
    store.begin_trial("s", 0, {}, 1)
    train = [0, 0]  # of other labels and units, and before the validation split
    dataset = SimpleNamespace(
        targets=np.array([*train, *labels]),
        units=(98, 99, *units),
        indices=lambda split: np.arange(2, 2 + len(labels)),
        scored_split="validation",
        task=CLASSIFICATION,
        folds=None,
    )
    context: Any = SimpleNamespace(
        dataset=dataset, metric=metrics.METRICS[metric], settings=SimpleNamespace(name="s")
    )
    store_predictions(store, context, 0, probabilities)
    return store, store.trials("s")[0]


@pytest.mark.parametrize("metric", list(metrics.METRICS))
def test_the_score_and_its_interval_follow_from_what_is_stored(metric: str) -> None:
    labels, p = random_predictions(60, 3)
    units = np.arange(60) // 2
    store, row = stored(metric, labels, p, units)
    predictions = store.predictions("s", 0)
    assert predictions is not None
    np.testing.assert_allclose(predictions, p, atol=1e-3)
    contributions = row.contribution_of_units
    assert len(contributions) == 30
    score = metrics.get(metric).score(labels, p)
    assert contributions.mean(dtype=float) == pytest.approx(score, abs=1e-3)
    expected = score_interval(metrics.get(metric), labels, p, units)
    assert (row.facts.low, row.facts.high) == pytest.approx(expected)


def test_an_undefined_score_stores_nothing() -> None:
    store, row = stored("auroc", np.zeros(4, int), np.full((4, 2), 0.5, np.float32), range(4))
    assert (store.predictions("s", 0), row.contributions) == (None, None)
