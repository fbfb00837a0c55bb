"""Scores agree with scikit-learn, and their intervals hold what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as theirs

from autotl.errors import StudyError
from autotl.scoring import metrics
from autotl.scoring.metrics import Labels, Metric, Probabilities


def answers(n: int, classes: int, seed: int = 0) -> tuple[Labels, Probabilities]:
    """Labels, and probabilities that are right more often than not."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, n)
    logits = random.normal(size=(n, classes)) + 1.5 * np.eye(classes)[labels]
    shares = np.exp(logits)
    return labels, (shares / shares.sum(1, keepdims=True)).astype(np.float32)


def score(name: str, labels: Labels, probabilities: Probabilities) -> float:
    return metrics.get(name).score(labels, probabilities)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("classes", [2, 5])
def test_scores_are_those_of_scikit_learn(classes: int, seed: int) -> None:
    labels, p = answers(100, classes, seed)
    guesses = p.argmax(1)
    expected = {
        "accuracy": theirs.accuracy_score(labels, guesses),
        "balanced_accuracy": theirs.balanced_accuracy_score(labels, guesses),
        "macro_f1": theirs.f1_score(labels, guesses, average="macro"),
        "auroc": theirs.roc_auc_score(labels, p[:, 1])
        if classes == 2
        else theirs.roc_auc_score(labels, p, multi_class="ovr"),
        "log_loss": theirs.log_loss(labels, p),
    }
    assert set(expected) == set(metrics.METRICS)
    for name, value in expected.items():
        assert score(name, labels, p) == pytest.approx(value, rel=1e-5), name
        assert type(score(name, labels, p)) is float


def test_answers_that_are_equal_share_their_rank() -> None:
    labels, p = answers(100, 3)
    rough = p.round(1)
    ranks = [theirs.roc_auc_score(labels == c, rough[:, c]) for c in range(3)]
    assert score("auroc", labels, rough) == pytest.approx(np.mean(ranks))


def test_a_certain_mistake_costs_much_but_not_everything() -> None:
    labels, p = np.array([0, 1]), np.array([[1.0, 0.0], [1.0, 0.0]], dtype=np.float32)
    assert score("log_loss", labels, p) == pytest.approx(theirs.log_loss(labels, p), rel=1e-5)


def test_the_scores_differ_from_each_other() -> None:
    labels, p = answers(100, 3)
    scores = [round(score(name, labels, p), 6) for name in metrics.METRICS]
    assert len(set(scores)) == len(scores)


def test_a_class_may_be_missing_from_the_labels() -> None:
    labels, p = answers(80, 4)
    labels = np.where(labels == 2, 0, labels)
    recalls = [(p.argmax(1)[labels == c] == c).mean() for c in (0, 1, 3)]
    assert score("balanced_accuracy", labels, p) == pytest.approx(np.mean(recalls))
    ranks = [theirs.roc_auc_score(labels == c, p[:, c]) for c in (0, 1, 3)]
    assert score("auroc", labels, p) == pytest.approx(np.mean(ranks))
    right = p[np.arange(len(labels)), labels].astype(float)
    assert score("log_loss", labels, p) == pytest.approx(-np.log(right).mean(), rel=1e-5)
    expected = theirs.f1_score(labels, p.argmax(1), average="macro", zero_division=0.0)
    assert score("macro_f1", labels, p) == pytest.approx(expected)


@pytest.mark.parametrize("name", metrics.METRICS)
def test_right_answers_are_better_than_wrong_ones(name: str) -> None:
    labels = np.array([0, 1, 2, 0, 1, 2])
    sure = np.full((6, 3), 0.05) + 0.85 * np.eye(3)[labels]
    right, wrong = sure.astype(np.float32), np.roll(sure, 1, axis=1).astype(np.float32)
    metric = metrics.get(name)
    good, bad = metric.score(labels, right), metric.score(labels, wrong)
    assert metric.better(good, bad)
    assert not metric.better(bad, good)
    assert not metric.better(good, good)
    assert metric.direction == ("minimize" if name == "log_loss" else "maximize")


def test_an_unknown_metric_is_told_near_names() -> None:
    with pytest.raises(StudyError, match=r"'acuracy'; did you mean 'accuracy'"):
        metrics.get("acuracy")
    with pytest.raises(StudyError, match="there are accuracy, auroc, balanced_accuracy"):
        metrics.get("?")


@pytest.mark.parametrize(
    ("share", "n", "low", "high"),
    [  # Wilson 1927 by hand: (s + z^2/2n +- z sqrt(s(1-s)/n + z^2/4n^2)) / (1 + z^2/n), z = 1.96
        (0.9, 100, 0.8256, 0.9448),
        (0.5, 10, 0.2366, 0.7634),
        (0.29, 100, 0.2101, 0.3854),  # 0.29 * 100 is a little less than 29
        (1.0, 10, 0.7225, 1.0),
        (0.0, 10, 0.0, 0.2775),
    ],
)
def test_wilson(share: float, n: int, low: float, high: float) -> None:
    assert metrics.wilson_interval(share, n) == pytest.approx((low, high), abs=1e-4)


def test_wilson_covers_the_truth() -> None:
    random = np.random.default_rng(0)
    covered = []
    for truth in (0.7, 0.9, 0.97):
        for right in random.binomial(60, truth, 200):
            low, high = metrics.wilson_interval(right / 60, 60)
            covered.append(low <= truth <= high)
    assert 0.92 < np.mean(covered) < 0.98


def test_the_interval_of_accuracy_is_wilsons() -> None:
    labels, p = answers(50, 3)
    metric = metrics.get("accuracy")
    assert metrics.score_interval(metric, labels, p) == metrics.wilson_interval(
        metric.score(labels, p), 50
    )


def spread(labels: Labels, probabilities: Probabilities) -> float:
    return float(probabilities[np.arange(len(labels)), labels].mean())


def test_a_bootstrap_interval_holds_the_score_and_narrows_with_n() -> None:
    metric = Metric("right", "maximize", spread)
    widths = []
    for n in (40, 640):
        labels, p = answers(n, 3)
        low, high = metrics.score_interval(metric, labels, p)
        assert low < metric.score(labels, p) < high
        widths.append(high - low)
        error = p[np.arange(n), labels].std() / np.sqrt(n)  # of a mean, nearly: strata are fixed
        assert high - low == pytest.approx(2 * 1.96 * error, rel=0.2)
    assert 3 < widths[0] / widths[1] < 5.5  # the root of 16 is 4


def test_a_bootstrap_keeps_the_classes_as_they_are() -> None:
    labels, p = answers(30, 3)
    seen = set()

    def watch(labels: Labels, probabilities: Probabilities) -> float:
        seen.add(tuple(np.bincount(labels, minlength=3)))
        return spread(labels, probabilities)

    metrics.score_interval(Metric("right", "maximize", watch), labels, p)
    assert seen == {tuple(np.bincount(labels))}


def test_a_bootstrap_is_the_same_for_the_same_seed() -> None:
    labels, p = answers(30, 3)
    metric = Metric("right", "maximize", spread)
    same = [metrics.score_interval(metric, labels, p, seed) for seed in (1, 1, 2)]
    assert same[0] == same[1] != same[2]


def test_an_interval_of_a_real_metric() -> None:
    labels, p = answers(60, 2)
    metric = metrics.get("log_loss")
    low, high = metrics.score_interval(metric, labels, p)
    assert low < metric.score(labels, p) < high


@pytest.mark.parametrize(("groups", "each"), [(20, 15), (40, 5)])
def test_an_interval_of_groups_covers_the_truth(groups: int, each: int) -> None:
    """Pictures of one patient are right or wrong together."""
    random, metric = np.random.default_rng(0), metrics.get("accuracy")
    units = np.repeat(np.arange(groups), each)
    labels = units % 2
    covered: list[bool] = []
    naive: list[bool] = []
    for share in random.beta(2.7, 0.3, (1000, groups)):  # 0.9 on average
        right = random.random(len(units)) < share[units]
        p = np.eye(2, dtype=np.float32)[np.where(right, labels, 1 - labels)]
        for kept, of in ((covered, units), (naive, None)):
            low, high = metrics.score_interval(metric, labels, p, units=of)
            kept.append(low <= 0.9 <= high)
    assert np.mean(naive) < 0.85
    assert np.mean(covered) > 0.93


def test_a_bootstrap_draws_what_belongs_together() -> None:
    """Five copies of each picture say no more than one."""
    labels, p = answers(60, 3)
    metric = Metric("right", "maximize", spread)
    once = np.subtract(*metrics.score_interval(metric, labels, p))
    units = np.repeat(np.arange(60), 5)
    five = metrics.score_interval(metric, labels[units], p[units], units=units)
    assert np.subtract(*five) == pytest.approx(once, rel=0.1)
    alone = metrics.score_interval(metric, labels[units], p[units])
    assert np.subtract(*alone) == pytest.approx(once / 5**0.5, rel=0.1)


def test_pictures_on_their_own_count_each() -> None:
    right = np.array([True] * 9 + [False])
    assert metrics.effective_sample_size(right, np.arange(10)) == 10
    assert metrics.effective_sample_size(right, np.zeros(10, int)) == 1
    assert metrics.effective_sample_size(np.ones(10, bool), np.arange(10) // 2) == 5
