"""Probabilities that mean what they say: one temperature, fitted to pictures not trained on.

A network is right less often than it is sure. Dividing its logits by one number before the
softmax mends most of that and changes no answer (Guo et al. 2017, arXiv:1706.04599).

Shapes: N pictures, C classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from autotl.scoring.metrics import METRICS, Labels, Probabilities

BINS = 15
"""Of equal width, over which the calibration error is taken."""

WIDEST = 20.0
"""Temperatures are sought from its inverse to this."""

LOSS = METRICS["log_loss"]
"""What a temperature is to make smaller."""

TINY = 1e-12
"""The smallest probability that a logarithm is taken of."""


def fit_temperature(labels: Labels, probabilities: Probabilities) -> float:
    """The temperature under which the labels are likeliest.

    Args:
        labels: ``[N]``.
        probabilities: ``[N, C]`` of pictures that were not trained on.
    """
    rows = np.arange(len(labels))

    def loss(logarithm: float) -> float:
        right = apply_temperature(probabilities, float(np.exp(logarithm)))[rows, labels]
        return float(-np.log(np.maximum(right, TINY)).mean())

    limit = float(np.log(WIDEST))
    found = minimize_scalar(loss, bounds=(-limit, limit), method="bounded")
    return float(np.exp(found.x))


def apply_temperature(probabilities: Probabilities, temperature: float) -> Probabilities:
    """``probabilities [N, C]`` at another temperature than 1; higher ones are less sure."""
    # The logarithms are the logits up to a constant in each row, which the softmax forgets.
    logits = np.log(np.maximum(probabilities.astype(np.float64), TINY))
    cooled: Probabilities = softmax(logits / temperature, axis=1).astype(np.float32)
    return cooled


def expected_calibration_error(labels: Labels, probabilities: Probabilities) -> float:
    """How far the confidence of an answer is from how often it is right, from 0 to 1.

    The mean over ``BINS`` bins of confidence, weighted by their pictures (Naeini et al. 2015,
    AAAI).
    """
    sure = probabilities.max(1).astype(np.float64)
    right = probabilities.argmax(1) == labels
    places = np.minimum((sure * BINS).astype(int), BINS - 1)
    gaps = np.bincount(places, weights=sure - right, minlength=BINS)
    return float(np.abs(gaps).sum() / len(labels))


def calibrate(
    labels: Labels, probabilities: Probabilities, parts: NDArray[np.int64]
) -> dict[str, float]:
    """A temperature from all pictures, and the calibration error without and with one.

    The error with it is measured on each part under a temperature fitted to the others: on the
    pictures it was fitted to, any temperature looks well. Where that does not make the log loss
    smaller, the temperature is 1.

    Args:
        labels: ``[N]``.
        probabilities: ``[N, C]`` of pictures that were not trained on.
        parts: ``[N]``, the number of the part that each is in, at least two different ones.
    """
    after = np.empty_like(probabilities)
    for part in np.unique(parts):
        here = parts == part
        elsewhere = fit_temperature(labels[~here], probabilities[~here])
        after[here] = apply_temperature(probabilities[here], elsewhere)
    found = fit_temperature(labels, probabilities)
    if LOSS.score(labels, after) >= LOSS.score(labels, probabilities):
        found, after = 1.0, probabilities  # what few pictures suggest does not hold for others
    return {
        "temperature": found,
        "ece_before": expected_calibration_error(labels, probabilities),
        "ece_after": expected_calibration_error(labels, after),
        "n": len(labels),
        "bins": BINS,
    }
