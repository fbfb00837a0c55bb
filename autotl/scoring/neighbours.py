"""How good features are, by the cosine similarities of those of different images.

Shapes: N images that are scored, M others, F features, C classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autotl.scoring.chunks import chunks

Features = NDArray[np.float32]

NEIGHBOURS = 20
"""The number of the most similar images that vote for a class."""

VOTE_TEMPERATURE = 0.07
"""The divisor of the similarities, of whose exponential the votes have the weight."""

CANDIDATES = 64
"""The maximum number of images among which a view is looked for."""


def classify_by_neighbours(
    features: Features,
    labelled: Features,
    labels: NDArray[np.int64],
    classes: int,
    neighbours: int = NEIGHBOURS,
) -> NDArray[np.float32]:
    """Classify images by the most similar labelled ones (Wu et al. 2018, arXiv:1805.01978).

    Args:
        features: Those of the images, ``[N, F]``.
        labelled: Those of the labelled images, ``[M, F]``.
        labels: The classes of these, ``[M]``.
        classes: The number C of classes.
        neighbours: The number of labelled images that vote; all, if there are fewer.

    Returns:
        The fraction of the votes for each class, ``[N, C]``.
    """
    count = min(neighbours, len(labelled))
    own, others = _normalise(features), _normalise(labelled)
    votes = np.zeros((len(own), classes), np.float32)
    for part in chunks(len(own), len(others)):
        similarities = own[part] @ others.T
        nearest = np.argpartition(-similarities, count - 1, axis=1)[:, :count]
        chosen = np.take_along_axis(similarities, nearest, axis=1)
        weights = np.exp((chosen - chosen.max(1, keepdims=True)) / VOTE_TEMPERATURE)
        rows = np.arange(len(chosen))[:, None]
        np.add.at(votes[part], (rows, labels[nearest]), weights / weights.sum(1, keepdims=True))
    return votes


def recognise_views(
    first: Features, second: Features, candidates: int = CANDIDATES
) -> NDArray[np.bool_]:
    """Whether the other view of each image is the most similar one among some candidates, ``[N]``.

    Args:
        first: The features of one view of each image, ``[N, F]``.
        second: Those of another view of the same images.
        candidates: The number of second views that are compared with a first one: that of its
            image, and those of the next ones in a circle. By chance one of them is the right one.
    """
    own, others = _normalise(first), _normalise(second)
    similarities = (own * others).sum(1)
    is_nearest = np.ones(len(own), bool)
    for shift in range(1, min(candidates, len(own))):
        is_nearest &= similarities > (own * np.roll(others, -shift, axis=0)).sum(1)
    return is_nearest


def _normalise(features: Features) -> Features:
    """The features of each image, of length 1; those of length 0 as they are."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    unit: Features = features / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit
