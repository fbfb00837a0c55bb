"""LogME: how well frozen features explain labels, without training a head on them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import svd
from scipy.optimize import minimize_scalar

MAX_EXAMPLES = 1000
"""Of more examples, a random sample of this size is used, which gives nearly the same estimate."""

MAX_CLASSES = 500
"""Of more classes, the evidence is the mean over a random sample of this size."""

Vector = NDArray[np.float64]


def logme(features: NDArray[Any], targets: NDArray[Any]) -> float:
    """The logarithm of the maximum evidence of a linear model (You et al. 2021, arXiv:2102.11005).

    Each class against the rest is a Bayesian linear regression ``y = F w + noise`` of 0 or 1, with
    priors ``w ~ N(0, 1/a)`` and ``noise ~ N(0, 1/b)``. The evidence is the likelihood of the
    labels with ``w`` integrated out, maximized over ``a`` and ``b``: a model of many features gains
    nothing from fitting noise. It does not change when the features are rotated or scaled as a
    whole, and compares backbones on the same examples; it is not an estimate of an accuracy.

    Args:
        features: ``[N, F]``, any real type; computed in float64.
        targets: ``[N]``, one value for each class, two classes or more; or numbers ``[N, T]``,
            such as 0 and 1 for the labels that an example lacks and has, which are standardised.

    Returns:
        The mean over the classes or numbers of the log evidence of an example, in nats; higher is
        better.

    Raises:
        ValueError: The shapes do not fit, a feature is not finite, or there is only one class.
    """
    features, targets = np.asarray(features), np.asarray(targets)
    if features.ndim != 2 or targets.shape[:1] != features.shape[:1] or targets.ndim > 2:
        raise ValueError(
            f"features of shape {features.shape} and targets of shape {targets.shape} do not fit: "
            "expected [N, F] and [N] or [N, T]"
        )
    if len(features) > MAX_EXAMPLES:
        sample = np.random.default_rng(0).choice(len(features), MAX_EXAMPLES, replace=False)
        features, targets = features[sample], targets[sample]
    features = features.astype(np.float64)
    names = np.unique(targets) if targets.ndim == 1 else None
    if names is not None and len(names) > MAX_CLASSES:
        names = np.random.default_rng(0).choice(names, MAX_CLASSES, replace=False)
    columns = _columns(targets, names)
    if not columns or (targets.ndim == 1 and len(columns) < 2):
        raise ValueError("all labels are of one class; give examples of two or more")
    if not np.isfinite(features).all():
        raise ValueError(
            "the features are not finite; give those of a backbone that did not diverge"
        )
    largest = np.abs(features).max(initial=0.0)
    vectors, singular_values, _ = svd(features / (largest or 1.0), full_matrices=False)
    return float(np.mean([_log_evidence(vectors, singular_values**2, y) for y in columns]))


def _columns(targets: NDArray[Any], names: NDArray[Any] | None) -> list[Vector]:
    """What is regressed, each ``[N]``: the membership in some classes, or standardised numbers."""
    if names is not None:
        return [(targets == name).astype(np.float64) for name in names]
    values = targets.astype(np.float64)
    varied = values[:, values.std(0) > 0]
    return list(((varied - varied.mean(0)) / varied.std(0)).T)


def _log_evidence(vectors: Vector, eigenvalues: Vector, values: Vector) -> float:
    """The log evidence of an example for one class or number, at its maximum over both priors.

    With ``ratio = a / b`` the best ``b`` is known in closed form, so only the ratio is searched: on
    a grid first, because there may be several local maxima, then between the neighbours of the
    best grid point.

    Args:
        vectors: ``[N, K]``, the left singular vectors of the features.
        eigenvalues: ``[K]``, the squares of the singular values.
        values: ``[N]``, for a class 1 for its examples and 0 for others.
    """
    count = len(values)
    explained = (vectors.T @ values) ** 2
    unexplained = max(0.0, float((values**2).sum() - explained.sum()))  # by any weights

    def negative_log_evidence(log_ratio: float) -> float:
        ratio = np.exp(log_ratio)
        error = unexplained + (explained * ratio / (eigenvalues + ratio)).sum()
        log_likelihood = -count * (np.log(2 * np.pi * error / count) + 1)
        return float(np.log1p(eigenvalues / ratio).sum() - log_likelihood) / (2 * count)

    grid = np.log(eigenvalues.max(initial=0.0) or 1.0) + np.linspace(-25.0, 10.0, 71)
    best = int(np.argmin([negative_log_evidence(x) for x in grid]))
    bounds = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    return -float(minimize_scalar(negative_log_evidence, bounds=bounds, method="bounded").fun)
