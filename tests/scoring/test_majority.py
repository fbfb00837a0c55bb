"""The majority class is a baseline that a useless model does not beat."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from autotl.scoring import metrics
from autotl.scoring.majority import (
    Baseline,
    balanced_accuracy,
    class_recalls,
    compare_with_constant,
    constant_probabilities,
    constant_score,
)

TRAIN = np.array([0] * 60 + [1] * 5)
LABELS = np.array([0] * 120 + [1] * 10)
CONSTANT = constant_probabilities(TRAIN, 2)


def predict(right: NDArray[np.bool_]) -> metrics.Probabilities:
    """Confident predictions that are right where ``right`` says so."""
    return np.eye(2, dtype=np.float32)[np.where(right, LABELS, 1 - LABELS)] * 0.9 + 0.05


def compare(predictions: metrics.Probabilities, metric: str = "accuracy", **more: Any) -> Baseline:
    units = np.arange(len(LABELS))
    compared = compare_with_constant(
        metrics.get(metric), LABELS, predictions, CONSTANT, units, **more
    )
    assert compared is not None
    return compared


def test_the_probabilities_are_the_frequencies_of_the_classes() -> None:
    np.testing.assert_allclose(CONSTANT, [61 / 67, 6 / 67], rtol=1e-6)
    assert constant_score(metrics.get("accuracy"), LABELS, CONSTANT) == pytest.approx(120 / 130)
    assert constant_score(metrics.get("balanced_accuracy"), LABELS, CONSTANT) == 0.5
    assert constant_score(metrics.get("auroc"), LABELS, CONSTANT) == 0.5


@pytest.mark.parametrize("metric", list(metrics.METRICS))
def test_a_good_model_beats_it_by_every_metric(metric: str) -> None:
    right = np.ones(len(LABELS), dtype=bool)
    right[3] = False
    compared = compare(predict(right), metric)
    assert compared.is_beaten
    gap = compared.difference
    assert gap.low < gap.mean < gap.high
    score = metrics.get(metric).score(LABELS, predict(right))
    assert gap.mean == pytest.approx(score - compared.score)
    assert (gap.mean > 0) == metrics.get(metric).higher_is_better


def test_a_model_with_the_score_of_the_majority_class_does_not_beat_it() -> None:
    useless = np.arange(len(LABELS)) < 120
    assert not compare(predict(useless)).is_beaten
    as_often = np.ones(len(LABELS), dtype=bool)
    as_often[:10] = False  # wrong as often, but about other images
    compared = compare(predict(as_often))
    assert (compared.difference.mean, compared.is_beaten) == (0.0, False)


def test_repeats_of_the_same_images_are_no_further_evidence() -> None:
    right = np.arange(len(LABELS)) < 126
    single = compare(predict(right)).difference
    runs = np.repeat([0, 1], len(LABELS))
    units = np.tile(np.arange(len(LABELS)), 2)
    twice = compare_with_constant(
        metrics.get("accuracy"),
        np.tile(LABELS, 2),
        np.tile(predict(right), (2, 1)),
        CONSTANT,
        units,
        runs,
    )
    assert twice is not None
    assert twice.difference.mean == pytest.approx(single.mean)
    widths = [gap.high - gap.low for gap in (twice.difference, single)]
    assert widths[0] == pytest.approx(widths[1], rel=0.1)


def test_an_undefined_metric_is_not_compared() -> None:
    labels = np.zeros(4, dtype=np.int64)
    predictions = np.tile(CONSTANT, (4, 1))
    auroc = metrics.get("auroc")
    assert compare_with_constant(auroc, labels, predictions, CONSTANT, np.arange(4)) is None


def test_recalls_are_those_of_each_class() -> None:
    right = np.ones(len(LABELS), dtype=bool)
    right[:30] = right[125:] = False
    recalls = class_recalls(LABELS, predict(right), ["wren", "owl"])
    assert recalls == [
        {"class": "wren", "n": 120, "score": 0.75},
        {"class": "owl", "n": 10, "score": 0.5},
    ]
    assert balanced_accuracy(recalls) == 0.625
    assert balanced_accuracy([*recalls, {"class": "eagle", "n": 0, "score": None}]) == 0.625
    assert balanced_accuracy([]) is None
