"""Whether the classes of images survive mirroring, as those of letters and arrows do not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PENALTIES = np.logspace(1, 6, 11)
"""The L2 penalties from which the best one is chosen by leave-one-out errors."""

STANDARD_ERRORS = 1.64
"""A loss of accuracy up to so many of its standard errors may be chance (one-sided, 95 %)."""

LARGEST_LOSS = 0.02
"""The loss of accuracy on mirrored images up to which the classes survive in any case. That of
digits, which are better fine-tuned without mirroring, is 0.04: most digits look like no other."""

Features = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Mirroring:
    """How a head that was fitted on images scores on them mirrored.

    Attributes:
        n: Number of images that were scored both ways.
        accuracy: Accuracy on these images.
        mirrored: Accuracy on them mirrored.
        error: Standard error of the difference, paired by image.
    """

    n: int
    accuracy: float
    mirrored: float
    error: float

    @property
    def survives(self) -> bool:
        """Whether the classes survive: mirroring loses little, or what may be chance."""
        loss = self.accuracy - self.mirrored
        return loss <= max(LARGEST_LOSS, STANDARD_ERRORS * self.error)


def score_mirrored(
    train: Features, train_labels: Labels, images: Features, mirrored: Features, labels: Labels
) -> Mirroring:
    """Fit a ridge regression on unmirrored images, and score it on other images both ways.

    Args:
        train: Features ``[N, F]`` of training images.
        train_labels: Their labels ``[N]``, of at least two classes.
        images: Features ``[n, F]`` of other images.
        mirrored: Features ``[n, F]`` of the same images, mirrored.
        labels: Their labels ``[n]``, n at least 2.
    """
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    head: Any = make_pipeline(StandardScaler(), RidgeClassifierCV(PENALTIES))
    head.fit(train, train_labels)
    plain, turned = (head.predict(features) == labels for features in (images, mirrored))
    loss = plain.astype(float) - turned
    return Mirroring(
        len(labels),
        float(plain.mean()),
        float(turned.mean()),
        float(loss.std(ddof=1) / len(labels) ** 0.5),
    )
