"""Predictions of a model: logits and probabilities, in batches as large as memory allows."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotl.data import Batches
from autotl.errors import OutOfMemory
from autotl.models import Device, Model
from autotl.training.random_state import deterministic_cudnn

INFERENCE_FACTOR = 8
"""How many times larger batches are on a GPU for inference than for training."""

OUT_OF_MEMORY_MESSAGES = (
    "out of memory",  # CUDA, "CUDA error: out of memory", HIP, XPU and "MPS backend out of memory"
    "can't allocate memory",  # the CPU
    "not enough memory",  # the CPU on Windows
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
)
"""Parts of the messages of errors that mean that memory ran out."""


def predict(
    model: Model,
    batches: Batches,
    device: Device,
    check_time: Callable[[], None] = lambda: None,
) -> NDArray[np.float32]:
    """Predict the probabilities of the images in ``batches``.

    Args:
        model: Is left in eval mode.
        batches: The images.
        device: The device and the type to compute in.
        check_time: Called before every batch; may raise ``OutOfTime``.

    Returns:
        Probabilities ``[N, C]``, in the order of the images.

    Raises:
        OutOfMemory: A single image does not fit on the device.
    """
    model.eval()
    results = []
    with deterministic_cudnn(device.torch_device):
        positions = split_for_inference(np.arange(batches.num_examples), batches)
        for images, _ in batches.load(positions):
            check_time()
            results.append(compute_logits(model, images, device))
    return logits_to_probabilities(torch.cat(results))


def split_for_inference(positions: NDArray[np.int64], batches: Batches) -> list[NDArray[np.int64]]:
    """Split positions ``[n]`` into batches of the size that is used for inference."""
    factor = INFERENCE_FACTOR if batches.device.type == "cuda" else 1
    size = batches.batch_size * factor
    return np.array_split(positions, math.ceil(len(positions) / size)) if len(positions) else []


def compute_logits(model: Model, images: Tensor, device: Device) -> Tensor:
    """Compute the logits ``float32 [B, C]`` of ``images uint8 [B, 3, S, S]``."""
    with torch.inference_mode(), autocast(device):
        return halve_when_out_of_memory(model, images).float()


def halve_when_out_of_memory(function: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
    """Compute ``function(batch)``; where memory runs out, of its halves, quarters and so on.

    Raises:
        OutOfMemory: A single image does not fit on the device.
    """
    try:
        return function(batch)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    if len(batch) == 1:
        raise OutOfMemory("a single image does not fit in the device's memory")
    if batch.device.type == "cuda":
        torch.cuda.empty_cache()
    return torch.cat([halve_when_out_of_memory(function, half) for half in batch.tensor_split(2)])


def logits_to_probabilities(logits: Tensor) -> NDArray[np.float32]:
    """Convert logits ``[N, C]`` to probabilities ``[N, C]``."""
    probabilities: NDArray[np.float32] = logits.float().softmax(1).cpu().numpy()
    return probabilities


def autocast(device: Device) -> contextlib.AbstractContextManager[Any]:
    """The context that computes in the device's autocast type."""
    enabled = device.autocast is not None
    return torch.autocast(device.torch_device.type, dtype=device.autocast, enabled=enabled)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return any(part in str(error) for part in OUT_OF_MEMORY_MESSAGES)
