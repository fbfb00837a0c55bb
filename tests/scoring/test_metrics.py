"""Metrics agree with scikit-learn."""

from __future__ import annotations

import json

import numpy as np
import pytest
from predictions import random_predictions
from sklearn import metrics as sklearn_metrics

from autotl.errors import StudyError
from autotl.scoring import class_contributions, metrics
from autotl.scoring.metrics import Labels, Probabilities
from autotl.tasks import numbered_classes


def score(name: str, labels: Labels, probabilities: Probabilities) -> float:
    return metrics.get(name).score(labels, probabilities)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("classes", [2, 5])
def test_scores_equal_those_of_scikit_learn(classes: int, seed: int) -> None:
    labels, p = random_predictions(100, classes, seed)
    predicted = p.argmax(1)
    expected = {
        "accuracy": sklearn_metrics.accuracy_score(labels, predicted),
        "balanced_accuracy": sklearn_metrics.balanced_accuracy_score(labels, predicted),
        "macro_f1": sklearn_metrics.f1_score(labels, predicted, average="macro"),
        "auroc": sklearn_metrics.roc_auc_score(labels, p[:, 1])
        if classes == 2
        else sklearn_metrics.roc_auc_score(labels, p, multi_class="ovr"),
        "log_loss": sklearn_metrics.log_loss(labels, p),
    }
    assert set(expected) == set(metrics.METRICS)
    for name, value in expected.items():
        assert score(name, labels, p) == pytest.approx(value, rel=1e-5), name
        assert type(score(name, labels, p)) is float


def test_auroc_gives_equal_probabilities_equal_ranks() -> None:
    labels, p = random_predictions(100, 3)
    rounded = p.round(1)
    by_class = [sklearn_metrics.roc_auc_score(labels == c, rounded[:, c]) for c in range(3)]
    assert score("auroc", labels, rounded) == pytest.approx(np.mean(by_class))


def test_log_loss_is_finite_for_a_probability_of_0() -> None:
    labels, p = np.array([0, 1]), np.array([[1.0, 0.0], [1.0, 0.0]], dtype=np.float32)
    expected = sklearn_metrics.log_loss(labels, p)
    assert score("log_loss", labels, p) == pytest.approx(expected, rel=1e-5)


def naive_density(p: Probabilities) -> float:
    """Soft neighbourhood density in the loops of its definition, without the constant."""
    unit = [row / np.sqrt((row.astype(float) ** 2).sum()) for row in p]
    entropies = []
    for i, own in enumerate(unit):
        similarities = np.array([own @ other for j, other in enumerate(unit) if j != i])
        weights = np.exp(similarities / 0.05) / np.exp(similarities / 0.05).sum()
        entropies.append(-(weights * np.log(weights)).sum())
    return float(np.mean(entropies))


def test_the_soft_neighbourhood_density_is_relative_to_equal_predictions() -> None:
    metric = metrics.WITHOUT_LABELS["soft_neighbourhood_density"]
    labels, p = random_predictions(60, 4)
    assert metric.score(labels, p) == pytest.approx(naive_density(p) - np.log(59), abs=1e-4)
    sure = np.eye(4, dtype=np.float32)[np.arange(400) % 4]
    assert metric.score(labels, sure) == pytest.approx(-np.log(4), abs=0.02)
    assert metric.score(labels, sure[:1].repeat(50, 0)) == pytest.approx(0, abs=1e-5)
    assert metric.score(labels[:1], p[:1]) == 0


def test_the_neighbourhoods_of_many_examples_are_those_of_a_sample(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(class_contributions, "MAX_NEIGHBOURS", 100)
    compute = class_contributions.soft_neighbourhood_density
    labels, p = random_predictions(300, 4)
    values, of_sample = compute(labels, p), compute(labels[::3], p[::3])
    assert values.mean() == pytest.approx(of_sample.mean())
    assert values.var() / 300 == pytest.approx(of_sample.var() / 100)


def test_the_metrics_differ_from_each_other() -> None:
    labels, p = random_predictions(100, 3)
    scores = [round(score(name, labels, p), 6) for name in metrics.METRICS]
    assert len(set(scores)) == len(scores)


def test_a_class_may_be_missing_from_the_labels() -> None:
    labels, p = random_predictions(80, 4)
    labels = np.where(labels == 2, 0, labels)
    recalls = [(p.argmax(1)[labels == c] == c).mean() for c in (0, 1, 3)]
    assert score("balanced_accuracy", labels, p) == pytest.approx(np.mean(recalls))
    by_class = [sklearn_metrics.roc_auc_score(labels == c, p[:, c]) for c in (0, 1, 3)]
    assert score("auroc", labels, p) == pytest.approx(np.mean(by_class))
    of_label = p[np.arange(len(labels)), labels].astype(float)
    assert score("log_loss", labels, p) == pytest.approx(-np.log(of_label).mean(), rel=1e-5)
    expected = sklearn_metrics.f1_score(labels, p.argmax(1), average="macro", zero_division=0.0)
    assert score("macro_f1", labels, p) == pytest.approx(expected)


@pytest.mark.parametrize("name", metrics.METRICS)
def test_correct_predictions_are_better_than_wrong_ones(name: str) -> None:
    labels = np.array([0, 1, 2, 0, 1, 2])
    correct = np.full((6, 3), 0.05) + 0.85 * np.eye(3)[labels]
    wrong = np.roll(correct, 1, axis=1)
    metric = metrics.get(name)
    high, low = (metric.score(labels, p.astype(np.float32)) for p in (correct, wrong))
    assert metric.is_better(high, low)
    assert not metric.is_better(low, high)
    assert not metric.is_better(high, high)
    assert metric.direction == ("minimize" if name == "log_loss" else "maximize")


def test_the_error_for_an_unknown_metric_suggests_similar_names() -> None:
    with pytest.raises(StudyError, match=r"'acuracy'; did you mean 'accuracy'"):
        metrics.get("acuracy")
    with pytest.raises(StudyError, match="there are accuracy, auroc, balanced_accuracy"):
        metrics.get("?")


def test_the_confusion_matrix_has_true_classes_in_rows_and_predicted_ones_in_columns() -> None:
    labels = np.array([0, 0, 1])
    p = np.eye(3, dtype=np.float32)[[0, 2, 2]]
    assert metrics.confusion_matrix(labels, p) == [[1, 0, 1], [0, 0, 1], [0, 0, 0]]


def test_the_confusion_matrix_of_many_classes_is_left_out() -> None:
    labels = np.arange(metrics.MAX_MATRIX_CLASSES + 1)
    p = np.eye(len(labels), dtype=np.float32)
    assert metrics.confusion_matrix(labels, p) == []
    assert len(metrics.confusion_matrix(labels, p, len(labels))) == len(labels)
    assert len(metrics.confusion_matrix(labels[:-1], p[:-1, :-1])) == len(labels) - 1


def test_the_most_frequent_confusions_come_first() -> None:
    labels = np.array([0, 0, 0, 1, 2, 2])
    predicted = np.array([0, 1, 1, 0, 2, 1])
    pairs = metrics.confused_pairs(labels, np.eye(3, dtype=np.float32)[predicted])
    assert pairs == [(0, 1, 2), (1, 0, 1), (2, 1, 1)]
    assert metrics.confused_pairs(labels, np.eye(3, dtype=np.float32)[predicted], 1) == pairs[:1]
    assert metrics.confused_pairs(labels, np.eye(3, dtype=np.float32)[labels]) == []


def test_what_is_stored_of_many_classes_grows_with_the_classes_and_not_with_their_square() -> None:
    random = np.random.default_rng(0)
    sizes = []
    for classes in (500, 1000):
        labels = np.arange(4 * classes) % classes
        predicted = random.permutation(labels)
        task = numbered_classes(classes)
        details = task.details(labels, np.eye(classes, dtype=np.float32)[predicted])
        sizes.append(len(json.dumps(details)))
        hits = np.bincount(labels[labels == predicted], minlength=classes)
        assert [c["precision"] for c in details["per_class"]] == (hits / 4).tolist()
        assert [c["score"] for c in details["per_class"]] == (hits / 4).tolist()
    assert sizes[1] < 2.2 * sizes[0]
