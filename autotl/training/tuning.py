"""Settings for a GPU that are found by timing: cuDNN's algorithms, the batches of inference.

Nothing here is called without a budget, so that a search without one can be repeated exactly.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from autotl.data import device_memory
from autotl.models import Device
from autotl.training.kernels import cuda_kernels

CUDNN_SPEEDUP = 1.05
"""How many times faster a training step must be with the algorithms that cuDNN times."""

CUDNN_SAVING = 2.0
"""How many times what the timing takes must be saved by it."""

LARGEST_FACTOR = 16
"""The largest batch of inference, in training batches."""

INFERENCE_GAIN = 1.05
"""How many times more images a second a batch of twice the size must compute."""

Times = tuple[float, float]
"""Seconds of a forward pass, and of a forward and backward pass, of one batch."""


def tune_cudnn(
    measure: Callable[[], Times], usual: Times, device: Device, steps: int
) -> tuple[Times, float]:
    """Try whether a training is faster if cuDNN times its algorithms.

    Args:
        measure: Measures the second of two calls each; in the first ones cuDNN times.
        usual: What it measured without that.
        device: The device.
        steps: Number of steps of the training.

    Returns:
        The times of the faster way, and the seconds that cuDNN takes for one size of batches; 0 if
        it does not pay.
    """
    start = time.monotonic()
    with cuda_kernels(device, benchmark=True):
        tuned = measure()
    seconds = max(time.monotonic() - start - 2 * sum(tuned), 1e-9)
    # Nothing is trained where there is no backward pass.
    before, after = (times[1] or times[0] for times in (usual, tuned))
    pays = before >= CUDNN_SPEEDUP * after and (before - after) * steps >= CUDNN_SAVING * seconds
    return (tuned, seconds) if pays else (usual, 0.0)


def find_inference_factor(measure: Callable[[int], float], most: int) -> int:
    """Find how many times larger than in training the batches of inference should be.

    The size is doubled until that is hardly faster, or memory runs out.

    Args:
        measure: Returns the seconds of a batch, given how many times larger it is. It may raise an
            error of memory.
        most: How many times larger the largest batch is that there are images for.
    """
    factor, throughput = 0, 0.0
    while max(1, 2 * factor) <= min(max(1, most), LARGEST_FACTOR):
        next_factor = max(1, 2 * factor)
        try:
            larger = next_factor / max(measure(next_factor), 1e-9)
        except RuntimeError as error:
            if not device_memory.is_out_of_memory(error):
                raise
            torch.cuda.empty_cache()
            break
        if larger < INFERENCE_GAIN * throughput:
            break
        factor, throughput = next_factor, larger
    return max(1, factor)
