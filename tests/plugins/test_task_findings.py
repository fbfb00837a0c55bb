"""What tasks tell about examples: what is predicted as a text, mistakes, and doubtful labels."""

from __future__ import annotations

import numpy as np
from autotl_plugins.multilabel import Multilabel
from autotl_plugins.regression import Regression
from autotl_plugins.tasks import OneClass, Ordinal

PLACES = Multilabel(["sea", "sky", "sun"])
STARS = Ordinal(["1", "2", "3"])
HEIGHT = Regression(["value"], {"mean": [10.0], "std": [2.0]})


def test_one_class_is_the_most_probable() -> None:
    task = OneClass(["cat", "dog"])
    p = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]], np.float32)
    assert task.decide(p[0]) == "cat"
    found = task.find_mistakes(np.array([1, 1, 0]), p)
    assert [(f.index, f.guess) for f in found] == [(0, "cat"), (2, "dog")]
    assert found[0].probability == np.float32(0.9)
    assert len(task.find_mistakes(np.array([1, 0, 0]), p, {}, 2)) == 2


def test_a_mistake_of_two_stars_is_worse_than_a_confident_one() -> None:
    p = np.array([[0.05, 0.95, 0.0], [0.5, 0.2, 0.3], [0.0, 0.0, 1.0]], np.float32)
    found = STARS.find_mistakes(np.array([0, 2, 2]), p)
    assert [(f.index, f.guess) for f in found] == [(1, "1"), (0, "2")]


def test_labels_are_decided_by_their_thresholds() -> None:
    p = np.array([0.3, 0.6, 0.5], np.float32)
    assert PLACES.decide(p) == "sky;sun"
    assert PLACES.decide(p, {"thresholds": [0.2, 0.7, 0.7]}) == "sea"
    assert PLACES.decide(p, {"thresholds": [0.9, 0.9, 0.9]}) == "(none)"


def test_the_worst_label_sets_come_first() -> None:
    targets = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1]], np.float32)
    p = np.array([[0.9, 0.6, 0.1], [0.1, 0.2, 0.1], [0.4, 0.1, 0.9]], np.float32)
    found = PLACES.find_mistakes(targets, p)
    assert [(f.index, f.guess, f.probability) for f in found] == [
        (1, "(none)", None),
        (0, "sea;sky", None),
    ]
    thresholds = {"thresholds": [0.3, 0.7, 0.5]}
    assert [f.index for f in PLACES.find_mistakes(targets, p, thresholds)] == [1, 2]


def test_doubtful_labels_are_named() -> None:
    present = np.tile([[1, 0, 1], [0, 1, 0]], (10, 1)).astype(np.float32)
    p = np.where(present > 0, 0.9, 0.1).astype(np.float32)
    labels = present.copy()
    labels[0] = [0, 1, 1]  # of sea and sun
    p[0] = [0.95, 0.04, 0.9]
    [found] = PLACES.find_doubtful_labels(labels, p)
    assert (found.index, found.guess) == (0, "not sky, also sea")
    assert found.probability == np.float32(0.96)


def test_the_largest_errors_of_numbers_come_first() -> None:
    targets = np.array([[10.0], [12.0], [8.0]], np.float32)
    predictions = np.array([[10.5], [9.0], [8.0]], np.float32)
    found = HEIGHT.find_mistakes(targets, predictions)
    assert [(f.index, f.guess) for f in found] == [(1, "9 (-3)"), (0, "10.5 (+0.5)")]
    assert HEIGHT.decide(predictions[0]) == "10.5"


def test_errors_of_several_numbers_are_compared_in_standard_deviations() -> None:
    task = Regression(["x", "y"], {"mean": [0.0, 0.0], "std": [1.0, 1000.0]})
    predictions = np.array([[0.0, 500.0], [2.0, 0.0]], np.float32)
    found = task.find_mistakes(np.zeros((2, 2), np.float32), predictions)
    assert [(f.index, f.guess) for f in found] == [
        (1, "x=2 (+2);y=0 (+0)"),
        (0, "x=0 (+0);y=500 (+500)"),
    ]


def test_a_doubtful_number_is_an_outlier_of_the_errors() -> None:
    random = np.random.default_rng(0)
    targets = random.normal(10, 2, (200, 1)).astype(np.float32)
    predictions = (targets + random.normal(0.5, 0.1, targets.shape)).astype(np.float32)
    assert HEIGHT.find_doubtful_labels(targets, predictions) == []
    targets[7] += 5
    assert [f.index for f in HEIGHT.find_doubtful_labels(targets, predictions)] == [7]
