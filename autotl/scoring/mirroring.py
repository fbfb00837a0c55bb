"""Whether what images show survives mirroring, as letters, arrows and angles do not."""

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
Targets = NDArray[Any]


@dataclass(frozen=True)
class Mirroring:
    """How a head that was fitted on images scores on them mirrored.

    Attributes:
        n: Number of images that were scored both ways.
        accuracy: Accuracy on these images; of targets that are no classes, the coefficient of
            determination.
        mirrored: The same on them mirrored.
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
    train: Features, train_targets: Targets, images: Features, mirrored: Features, targets: Targets
) -> Mirroring:
    """Fit a ridge regression on unmirrored images, and score it on other images both ways.

    Args:
        train: Features ``[N, F]`` of training images.
        train_targets: Their labels ``[N]``, of at least two classes, or other targets ``[N, T]``.
        images: Features ``[n, F]`` of other images.
        mirrored: Features ``[n, F]`` of the same images, mirrored.
        targets: Their labels ``[n]`` or targets ``[n, T]``, n at least 2.
    """
    from sklearn.linear_model import RidgeClassifierCV, RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if train_targets.ndim == 1:
        head: Any = make_pipeline(StandardScaler(), RidgeClassifierCV(PENALTIES))
    else:  # features that hardly vary would make predictions far outside of all targets
        head = make_pipeline(StandardScaler(with_std=False), RidgeCV(PENALTIES))
        scale = train.std(0).mean() or 1.0
        train, images, mirrored = train / scale, images / scale, mirrored / scale
    head.fit(train, train_targets)
    plain, turned = (_score(head.predict(each), targets) for each in (images, mirrored))
    loss = plain - turned
    return Mirroring(
        len(targets),
        float(plain.mean()),
        float(turned.mean()),
        float(loss.std(ddof=1) / len(targets) ** 0.5),
    )


def _score(predictions: NDArray[Any], targets: Targets) -> NDArray[np.float64]:
    """What each image contributes to the accuracy or to the coefficient of determination, ``[n]``.

    Of several targets, those that are not all equal are averaged.
    """
    if targets.ndim == 1:
        correct: NDArray[np.float64] = (predictions == targets).astype(np.float64)
        return correct
    variances = targets.var(0, dtype=np.float64)
    varied = variances > 0
    errors = (predictions.reshape(targets.shape) - targets) ** 2
    scores: NDArray[np.float64] = 1 - (errors[:, varied] / variances[varied]).mean(1)
    return scores
