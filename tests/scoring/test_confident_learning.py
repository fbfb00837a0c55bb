"""Confident learning: a label is doubtful if another class is a more probable candidate."""

from __future__ import annotations

import numpy as np

from autotl.scoring.confident_learning import doubt_labels


def test_a_label_is_doubtful_if_another_class_reaches_its_mean_probability() -> None:
    p = np.array([0.9, 0.8, 0.1, 0.2, 0.85, 0.45], np.float32)
    probabilities = np.stack([p, 1 - p], 1)
    labels = np.array([0, 0, 1, 1, 1, 1])  # the fifth is probably 0; the last is only uncertain
    guesses, doubt = doubt_labels(labels, probabilities)
    assert np.flatnonzero(doubt).tolist() == [4]
    assert (guesses[4], doubt[4]) == (0, np.float32(0.85))


def test_a_class_without_labels_is_no_candidate() -> None:
    probabilities = np.array([[0.1, 0.0, 0.9], [0.2, 0.1, 0.7]], np.float32)
    _, doubt = doubt_labels(np.array([0, 1]), probabilities)
    assert doubt[0] == 0
