"""Ask a model: logits and probabilities, in as large parts as memory allows."""

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

INFERENCE_FACTOR = 8
"""How many times larger batches are on a GPU when nothing learns from them."""


def predict(
    model: Model,
    batches: Batches,
    where: Device,
    check_time: Callable[[], None] = lambda: None,
) -> NDArray[np.float32]:
    """Probabilities ``[N, C]`` of the pictures in ``batches``, in their order."""
    model.eval()
    found = []
    for images, _ in batches.load(parts(np.arange(batches.num_examples), batches)):
        check_time()
        found.append(logits(model, images, where))
    return probabilities(torch.cat(found))


def parts(places: NDArray[np.int64], batches: Batches) -> list[NDArray[np.int64]]:
    """Places ``[n]`` in parts of as many as are asked for at once."""
    at_once = batches.batch_size * (INFERENCE_FACTOR if batches.device.type == "cuda" else 1)
    return np.array_split(places, math.ceil(len(places) / at_once)) if len(places) else []


def logits(model: Model, images: Tensor, where: Device) -> Tensor:
    """``uint8 images [B, 3, S, S]`` to logits ``float32 [B, C]``."""
    with torch.inference_mode(), autocast(where):
        return halve_when_out_of_memory(model, images).float()


def halve_when_out_of_memory(work: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
    """``work(batch)``; where memory does not suffice, of its halves, quarters, ...

    Raises:
        OutOfMemory: A single picture does not fit.
    """
    try:
        return work(batch)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    if len(batch) == 1:
        raise OutOfMemory("one picture alone does not fit on the device")
    if batch.device.type == "cuda":
        torch.cuda.empty_cache()
    return torch.cat([halve_when_out_of_memory(work, half) for half in batch.tensor_split(2)])


def probabilities(logits: Tensor) -> NDArray[np.float32]:
    """Logits ``[N, C]`` to probabilities ``[N, C]``."""
    found: NDArray[np.float32] = logits.float().softmax(1).cpu().numpy()
    return found


def autocast(where: Device) -> contextlib.AbstractContextManager[Any]:
    """Run in the type that ``where`` computes fastest in."""
    enabled = where.autocast is not None
    return torch.autocast(where.device.type, dtype=where.autocast, enabled=enabled)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it means that memory ran out."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
