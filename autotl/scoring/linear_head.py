"""How well a linear head, fitted in closed form to frozen features, predicts other examples."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
"""What is added to the eigenvalues of the covariance of the features, relative to their mean."""

SMALLEST_STD = 0.1
"""The smallest scale of a feature, relative to the mean one: a feature that hardly varies would be
very large for the first example that has it."""

MAX_OUTPUTS = 1000
"""Of more labels or numbers, a random sample is predicted."""

Array = NDArray[Any]
Matrix = NDArray[np.float64]


def score_linear_head(
    features: Array, targets: Array, others: Array, other_targets: Array
) -> float:
    """Fit a linear head to some examples and score it on others.

    Of classes it is a linear discriminant analysis with a shrunken covariance (Friedman 1989, JASA
    84), of numbers a ridge regression. Of ``PENALTIES`` the best one counts, which favours no
    backbone: the score compares backbones on the same examples, and is no estimate of an accuracy.

    Args:
        features: ``[N, F]``, any real type; computed in float64.
        targets: Classes ``[N]``, or numbers ``[N, T]``, such as 0 and 1 for several labels.
        others: Features ``[n, F]`` of other examples.
        other_targets: Their targets, ``[n]`` or ``[n, T]``.

    Returns:
        The accuracy; of numbers the coefficient of determination, as the mean over those that vary.

    Raises:
        ValueError: There are no others, a feature is not finite, or no number varies.
    """
    if not len(others):
        raise ValueError("there is no example to score the head")
    mean, std = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    if not (np.isfinite(std).all() and np.isfinite(others).all()):
        raise ValueError("the features are not finite; give those of a backbone without overflow")
    scale = std.clip(min=SMALLEST_STD * std.mean() or 1.0)
    x, z = (features - mean) / scale, (others - mean) / scale
    if targets.ndim == 1:
        names, labels, counts = np.unique(targets, return_inverse=True, return_counts=True)
        by_class = np.argsort(labels, kind="stable")
        centres = np.add.reduceat(x[by_class], np.cumsum(counts) - counts) / counts[:, None]
        x -= centres[labels]
        offset = np.log(counts / len(labels))
    else:
        targets, other_targets = _choose_varied(targets, other_targets)
        offset = targets.mean(0, dtype=np.float64)
        centres = (targets - offset).T @ x / len(x)
    scores = []
    for weight in _shrunken_weights(x, centres):
        if targets.ndim == 1:
            logits = z @ weight.T + offset - (weight * centres).sum(1) / 2
            scores.append(float((names[logits.argmax(1)] == other_targets).mean()))
        else:
            errors = np.square(z @ weight.T + offset - other_targets)
            scores.append(float((1 - errors.mean(0) / other_targets.var(0)).mean()))
    return max(scores)


def _choose_varied(targets: Array, others: Array) -> tuple[Matrix, Matrix]:
    """Return at most ``MAX_OUTPUTS`` columns of targets, of those that vary in both."""
    varied = np.flatnonzero((targets.std(0) > 0) & (others.std(0) > 0))
    if not len(varied):
        raise ValueError("no number varies; give examples with several values")
    chosen = np.sort(np.random.default_rng(0).permutation(varied)[:MAX_OUTPUTS])
    return targets[:, chosen].astype(np.float64), others[:, chosen].astype(np.float64)


def _shrunken_weights(x: Matrix, centres: Matrix) -> list[Matrix]:
    """Return ``centres [L, F]`` times the inverse of the covariance of ``x``, for each penalty."""
    eigenvalues, vectors = np.linalg.eigh(x.T @ x / len(x))
    mean = eigenvalues.mean() or 1.0  # 0 for one example of each class
    rotated = centres @ vectors
    return [rotated / (eigenvalues.clip(min=0) + p * mean) @ vectors.T for p in PENALTIES]
