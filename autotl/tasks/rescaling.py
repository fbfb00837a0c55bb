"""Predictions with another temperature, and the difference between predictions."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotl.scoring.chunks import chunks
from autotl.space.task import Task


def rescale(
    task: Task, predictions: NDArray[np.float32], temperature: float
) -> NDArray[np.float32]:
    """Return the predictions ``[N, K]`` of logits that are divided by a temperature.

    Args:
        task: What is predicted.
        predictions: Those of the logits as they are, ``[N, K]``.
        temperature: Above 1 it makes probabilities less confident.
    """
    rescaled: NDArray[np.float32] = np.empty(predictions.shape, np.float32)
    for part in chunks(*predictions.shape):
        logits = task.invert(torch.from_numpy(np.asarray(predictions[part], np.float64)))
        rescaled[part] = task.activate(logits / temperature).numpy()
    return rescaled


def measure_difference(task: Task, expected: Tensor, actual: Tensor) -> float:
    """Return the largest absolute difference between predictions ``[N, K]``.

    It is that of probabilities, or of the logits of a task without them, such as numbers in
    standard deviations; NaN if there is one.
    """
    if not task.has_probabilities:
        expected, actual = task.invert(expected), task.invert(actual)
    return float((expected - actual).abs().max()) if len(expected) else 0.0
