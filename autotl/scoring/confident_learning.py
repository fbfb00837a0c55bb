"""Confident learning: which labels are probably wrong (Northcutt et al. 2021, arXiv:1911.00068).

Shapes: N examples, C classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autotl.scoring.chunks import chunks
from autotl.scoring.metrics import Labels, Probabilities


def doubt_labels(
    labels: Labels, probabilities: Probabilities
) -> tuple[Labels, NDArray[np.float32]]:
    """Find labels that are probably wrong.

    A class is a candidate for an example if its probability reaches the mean probability of that
    class over the examples labelled with it. The label is doubtful if the most probable candidate
    is another class.

    Args:
        labels: ``[N]``.
        probabilities: ``[N, C]`` from models that were not trained on the example.

    Returns:
        The most probable candidates, ``[N]``, and their probabilities where the label is doubtful;
        0 where it is not, ``[N]``.
    """
    thresholds = np.full(probabilities.shape[1], np.inf)
    order = np.argsort(labels, kind="stable")
    present, starts = np.unique(labels[order], return_index=True)
    for label, own in zip(present, np.split(order, starts[1:]), strict=True):
        thresholds[label] = probabilities[own, label].mean()
    guesses, highest = np.zeros_like(labels), np.zeros(len(labels), probabilities.dtype)
    for part in chunks(*probabilities.shape):
        chunk = probabilities[part]
        candidates = np.where(chunk >= thresholds, chunk, np.float32(0))
        guesses[part], highest[part] = candidates.argmax(1), candidates.max(1)
    return guesses, np.where(guesses != labels, highest, np.float32(0))
