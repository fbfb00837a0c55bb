"""Random labels and predicted probabilities, for the tests of ``autotl.scoring``."""

from __future__ import annotations

import numpy as np

from autotl.scoring.metrics import Labels, Probabilities


def random_predictions(n: int, classes: int, seed: int = 0) -> tuple[Labels, Probabilities]:
    """Labels ``[n]``, and probabilities ``[n, classes]`` that are right more often than not."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, n)
    logits = random.normal(size=(n, classes)) + 1.5 * np.eye(classes)[labels]
    exponentials = np.exp(logits)
    return labels, (exponentials / exponentials.sum(1, keepdims=True)).astype(np.float32)
