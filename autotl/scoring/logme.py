"""How well frozen features explain labels, without training anything on them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import svd
from scipy.optimize import minimize_scalar

MOST = 5000
"""Examples that are looked at; of more, so many drawn at random say the same."""

Vector = NDArray[np.float64]


def logme(features: NDArray[Any], labels: NDArray[Any]) -> float:
    """The logarithm of the maximum evidence of a linear model (You et al. 2021, arXiv:2102.11005).

    Each class against the rest is a Bayesian linear regression ``y = F w + noise`` of 0 or 1, with
    priors ``w ~ N(0, 1/a)`` and ``noise ~ N(0, 1/b)``. The evidence is what the data are worth to
    the best such ``a`` and ``b``, with ``w`` integrated out: a model of many features gains nothing
    from fitting noise. It does not change when the features are rotated or scaled as a whole, and
    compares backbones on the same examples; it is no estimate of an accuracy.

    Args:
        features: ``[N, F]``, any real type; computed in float64.
        labels: ``[N]``, one value for each class; two classes or more.

    Returns:
        The mean over the classes of the log evidence of an example, in nats; higher is better.

    Raises:
        ValueError: The shapes do not fit, a feature is not finite, or there is only one class.
    """
    features, labels = np.asarray(features), np.asarray(labels)
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"features are {features.shape} and labels {labels.shape}; give [N, F] and [N]"
        )
    if len(features) > MOST:
        some = np.random.default_rng(0).choice(len(features), MOST, replace=False)
        features, labels = features[some], labels[some]
    features = features.astype(np.float64)
    classes = np.unique(labels)
    if len(classes) < 2:
        raise ValueError("all labels are of one class; give examples of two or more")
    if not np.isfinite(features).all():
        raise ValueError("a feature is not finite; give those of a backbone that did not diverge")
    largest = np.abs(features).max(initial=0.0)
    directions, lengths, _ = svd(features / (largest or 1.0), full_matrices=False)
    return float(np.mean([_evidence(directions, lengths**2, labels == c) for c in classes]))


def _evidence(directions: Vector, strengths: Vector, members: NDArray[np.bool_]) -> float:
    """The log evidence of an example for one class, at its maximum over both priors.

    With ``ratio = a / b`` the best ``b`` is known in closed form, so that the maximum is sought
    along one line: on a grid first, because it may have several tops, then between the neighbours.

    Args:
        directions: ``[N, K]``, the left singular vectors of the features.
        strengths: ``[K]``, the squares of the singular values.
        members: ``[N]``, which examples are of the class.
    """
    count = len(members)
    along = (directions.T @ members) ** 2
    across = max(0.0, members.sum() - along.sum())  # what no weights can explain

    def lost(logarithm: float) -> float:
        ratio = np.exp(logarithm)
        error = across + (along * ratio / (strengths + ratio)).sum()
        likelihood = -count * (np.log(2 * np.pi * error / count) + 1)
        return float(np.log1p(strengths / ratio).sum() - likelihood) / (2 * count)

    grid = np.log(strengths.max(initial=0.0) or 1.0) + np.linspace(-25.0, 10.0, 71)
    best = int(np.argmin([lost(x) for x in grid]))
    between = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    return -float(minimize_scalar(lost, bounds=between, method="bounded").fun)
