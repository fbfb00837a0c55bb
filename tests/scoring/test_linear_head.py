"""The score of a linear head that is fitted in closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from autotl.scoring import linear_head
from autotl.scoring.linear_head import score_linear_head

Data = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]


def draw(distance: float, count: int = 400, classes: int = 5, size: int = 20) -> Data:
    """Draw features of classes whose means have a distance, in halves; the first class is rare."""
    random = np.random.default_rng(0)
    labels = 7 + np.minimum(random.integers(0, 3 * classes, count), classes - 1)
    means = random.normal(0, distance, (7 + classes, size))
    features = (means[labels] + random.normal(0, 1, (count, size))).astype(np.float32)
    features[:, 0] *= 100
    features[:, 1] = 0
    half = count // 2
    return features[:half], labels[:half], features[half:], labels[half:]


def test_of_classes_it_is_the_accuracy_of_a_discriminant_analysis() -> None:
    train, targets, others, expected = draw(0.4)
    score = score_linear_head(train, targets, others, expected)
    scale = train.std(0) + 1e-9
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.05)
    accuracy = lda.fit(train / scale, targets).score(others / scale, expected)
    assert score == pytest.approx(accuracy, abs=0.03)
    assert 0.6 < score < 0.98  # neither trivial nor impossible
    assert score_linear_head(*draw(3.0)) == 1.0


def test_of_numbers_it_is_the_mean_coefficient_of_determination(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = np.random.default_rng(0)
    x = random.normal(0, 1, (600, 8))
    exact = 3 + 5 * x[:, :1] - x[:, 1:2]
    half_noise = exact + random.normal(0, exact.std(), exact.shape)
    constant = np.ones((600, 1))
    for numbers, score in (
        ([exact], 1.0),
        ([half_noise], 0.5),
        ([exact, half_noise, constant], 0.75),
    ):
        y = np.hstack(numbers)
        assert score_linear_head(x[:400], y[:400], x[400:], y[400:]) == pytest.approx(
            score, abs=0.1
        )
    monkeypatch.setattr(linear_head, "MAX_OUTPUTS", 1)
    y = np.hstack([exact] * 3)
    assert score_linear_head(x[:400], y[:400], x[400:], y[400:]) == pytest.approx(1, abs=0.01)


def test_features_that_cannot_be_compared_are_an_error() -> None:
    train, targets, others, expected = draw(1.0)
    with pytest.raises(ValueError, match="not finite"):
        score_linear_head(np.where(train > 3, np.nan, train), targets, others, expected)
    with pytest.raises(ValueError, match="no example"):
        score_linear_head(train, targets, others[:0], expected[:0])
    same = np.ones((200, 2))
    with pytest.raises(ValueError, match="no number varies"):
        score_linear_head(train, same, others, same)
