"""Calibration of predicted probabilities by temperature scaling.

A network tends to be more confident than it is accurate. Dividing its logits by one number before
the softmax corrects most of that and changes no predicted class (Guo et al. 2017,
arXiv:1706.04599). The temperature is fitted to images that were not trained on.

Shapes: N images, C classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from autotl.scoring.chunks import chunks
from autotl.scoring.metrics import METRICS, Labels, Probabilities

NUM_BINS = 15
"""Bins of equal width for the expected calibration error."""

MAX_TEMPERATURE = 5.0
"""Temperatures are searched from its reciprocal to this."""

MAX_FITTED_NUMBERS, FEWEST_FITTED = 1 << 25, 2000
"""A temperature is fitted to this number of probabilities, of at least this number of images."""

SMALLEST_PROBABILITY = 1e-12
"""Probabilities are clipped to this before taking a logarithm."""


def fit_temperature(labels: Labels, probabilities: Probabilities) -> float:
    """Fit the temperature that maximizes the likelihood of the labels and of one pseudo-example.

    Where all predictions are right, the likelihood of the labels alone grows with every decrease of
    the temperature, and the first image that is unlike them would get a certain, wrong prediction.
    The pseudo-example is an average image of a random class: its loss is the mean of ``-log p``
    over all images and classes. It counts as one image, so it matters only among few errors.

    Of many images, a random sample is enough for the one number: ``MAX_FITTED_NUMBERS``
    probabilities, but at least ``FEWEST_FITTED`` images.

    Args:
        labels: ``[N]``.
        probabilities: ``[N, C]`` of images that were not trained on.

    Returns:
        The temperature, from ``1 / MAX_TEMPERATURE`` to ``MAX_TEMPERATURE``.
    """
    count, classes = probabilities.shape
    limit = max(FEWEST_FITTED, MAX_FITTED_NUMBERS // classes)
    if count > limit:
        sample = np.sort(np.random.default_rng(0).permutation(count)[:limit])
        labels, probabilities = labels[sample], probabilities[sample]
    parts = list(chunks(*probabilities.shape))
    sizes = [len(labels[part]) for part in parts]

    def penalized_loss(log_temperature: float) -> float:
        of_labels, means = np.float32(0), []
        for part in parts:
            scaled = apply_temperature(probabilities[part], float(np.exp(log_temperature)))
            losses = -np.log(np.maximum(scaled, SMALLEST_PROBABILITY))
            of_labels += losses[np.arange(len(losses)), labels[part]].sum()
            means.append(losses.mean())
        mean = np.float32(np.average(means, weights=sizes))
        return float((of_labels + mean) / (len(labels) + 1))

    limit = float(np.log(MAX_TEMPERATURE))
    optimum = minimize_scalar(penalized_loss, bounds=(-limit, limit), method="bounded")
    return float(np.exp(optimum.x))


def apply_temperature(probabilities: Probabilities, temperature: float) -> Probabilities:
    """Rescale ``probabilities [N, C]``; a temperature above 1 makes them less confident."""
    # The logarithms are the logits up to a constant in each row, which softmax cancels.
    scaled: Probabilities = np.empty(probabilities.shape, np.float32)
    for part in chunks(*probabilities.shape):
        chunk = probabilities[part].astype(np.float64)
        logits = np.log(np.maximum(chunk, SMALLEST_PROBABILITY))
        scaled[part] = softmax(logits / temperature, axis=1)
    return scaled


def expected_calibration_error(labels: Labels, probabilities: Probabilities) -> float:
    """The mean absolute difference between confidence and accuracy, from 0 to 1.

    It is taken over ``NUM_BINS`` bins of confidence, weighted by their number of images (Naeini et
    al. 2015, AAAI).

    Args:
        labels: ``[N]``.
        probabilities: ``[N, C]``.
    """
    confidence = probabilities.max(1).astype(np.float64)
    correct = probabilities.argmax(1) == labels
    bins = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    differences = np.bincount(bins, weights=confidence - correct, minlength=NUM_BINS)
    return float(np.abs(differences).sum() / len(labels))


def calibrate(
    labels: Labels, probabilities: Probabilities, folds: NDArray[np.int64]
) -> dict[str, float]:
    """Fit a temperature to all images, and cross-validate the calibration error with it.

    The error of each fold is measured under a temperature fitted to the other folds, because any
    temperature looks good on the images it was fitted to. If cross-validated scaling does not
    reduce the log loss, the temperature is 1.

    Args:
        labels: ``[N]``.
        probabilities: ``[N, C]`` of images that were not trained on.
        folds: Fold of each image, ``[N]``, with at least two different values.

    Returns:
        ``temperature``, ``ece_before`` and ``ece_after`` (expected calibration errors), ``n``
        (number of images) and ``bins``.
    """
    scaled = np.empty_like(probabilities)
    for fold in np.unique(folds):
        inside = folds == fold
        fitted_outside = fit_temperature(labels[~inside], probabilities[~inside])
        scaled[inside] = apply_temperature(probabilities[inside], fitted_outside)
    temperature = fit_temperature(labels, probabilities)
    log_loss = METRICS["log_loss"].score
    if log_loss(labels, scaled) >= log_loss(labels, probabilities):
        temperature, scaled = 1.0, probabilities  # what few images suggest does not generalize
    return {
        "temperature": temperature,
        "ece_before": expected_calibration_error(labels, probabilities),
        "ece_after": expected_calibration_error(labels, scaled),
        "n": len(labels),
        "bins": NUM_BINS,
    }
