"""Predictions with another temperature."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

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
    logits = task.invert(torch.from_numpy(np.asarray(predictions, np.float64)))
    rescaled: NDArray[np.float32] = task.activate(logits / temperature).numpy().astype(np.float32)
    return rescaled
