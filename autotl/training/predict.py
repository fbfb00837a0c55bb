"""Predictions of a model: logits and probabilities, in batches as large as memory allows."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotl.data import Batches
from autotl.models import Device, Model, fast_inference
from autotl.space.task import Task
from autotl.training.kernels import cuda_kernels
from autotl.training.memory import MicroBatches

CHUNK_NUMBERS = 1 << 24
"""The number of logits from which on they are converted to predictions."""

INFERENCE_FACTOR = 8
"""How many times larger batches are on a GPU for inference than for training, where the fastest
size is not measured."""


def predict(
    model: Model,
    batches: Batches,
    device: Device,
    check_time: Callable[[], None] = lambda: None,
    compile: bool = True,
    factor: int | None = None,
    micro_batches: MicroBatches | None = None,
) -> NDArray[np.float32]:
    """Predict the examples in ``batches``.

    Args:
        model: Is left in eval mode.
        batches: The images.
        device: The device and the type to compute in.
        check_time: Called before every batch; may raise ``OutOfTime``.
        compile: Whether to compile the model first, if there are enough images.
        factor: See ``split_for_inference``.
        micro_batches: Knows what fits into memory, from other batches; None for nothing.

    Returns:
        Predictions ``[N, K]``, such as probabilities, in the order of the examples.

    Raises:
        OutOfMemory: A single image does not fit on the device.
    """
    model.eval()
    sizes = micro_batches or MicroBatches(usual=batches.batch_size)

    def compute_all() -> Iterator[Tensor]:
        forward: Callable[[Tensor], Tensor] | None = None
        positions = split_for_inference(np.arange(batches.num_examples), batches, factor)
        for images, _ in batches.load(positions):
            check_time()
            if forward is None:
                count = batches.num_examples if compile else 0
                forward = compile_if_it_pays(model, images, device, count)
            yield compute_logits(forward, images, device, sizes)

    with cuda_kernels(device):
        return collect_predictions(compute_all(), batches.num_examples, model.task)


def split_for_inference(
    positions: NDArray[np.int64], batches: Batches, factor: int | None = None
) -> list[NDArray[np.int64]]:
    """Split positions ``[n]`` into batches of the size that is used for inference.

    Args:
        positions: Positions in ``batches``.
        batches: The images.
        factor: How many times larger a batch is than in training; None for ``INFERENCE_FACTOR`` on
            a GPU, and otherwise 1.
    """
    if factor is None:
        factor = INFERENCE_FACTOR if batches.device.type == "cuda" else 1
    size = batches.batch_size * factor
    return np.array_split(positions, math.ceil(len(positions) / size)) if len(positions) else []


def compile_if_it_pays(
    model: Model, images: Tensor, device: Device, count: int
) -> Callable[[Tensor], Tensor]:
    """Compile a whole model for inference.

    Args:
        model: The model in eval mode.
        images: The first of the images ``uint8 [B, 3, S, S]``.
        device: The device and the type to compute in.
        count: Number of images that will be predicted.

    Returns:
        The compiled model, which computes the logits of ``model``, or the model itself if there are
        too few images, or if it cannot be compiled.
    """
    if not fast_inference.pays(count, images):
        return model
    try:
        compiled = fast_inference.compile_forward(model, model, images, device)
    except fast_inference.NotCompiled:
        return model
    return fast_inference.with_fallback(compiled, model)


def compute_logits(
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    device: Device,
    micro_batches: MicroBatches | None = None,
) -> Tensor:
    """Compute the logits ``float32 [B, C]`` of ``images uint8 [B, 3, S, S]``.

    Args:
        model: The model, or what computes the same.
        images: The images.
        device: The device and the type to compute in.
        micro_batches: Knows what fits into memory, from other batches; None for nothing.
    """
    with torch.inference_mode(), autocast(device):
        return (micro_batches or MicroBatches()).map(model, images).float()


def collect_predictions(logits: Iterable[Tensor], count: int, task: Task) -> NDArray[np.float32]:
    """Convert the logits of one batch after the other to predictions.

    No more than ``CHUNK_NUMBERS`` logits are there at a time.

    Args:
        logits: Those of each batch, ``[B, L]``.
        count: The number N of examples.
        task: What is predicted.

    Returns:
        ``[N, K]``.
    """
    predictions: NDArray[np.float32] | None = None
    begun: list[Tensor] = []
    done = 0
    for part in chain(logits, [None]):
        if part is not None:
            begun.append(part)
        if part is None or sum(each.numel() for each in begun) >= CHUNK_NUMBERS:
            if not begun:
                break
            together, begun = torch.cat(begun), []
            with torch.autocast(together.device.type, enabled=False):
                converted = logits_to_predictions(together, task)
            if predictions is None:
                if len(converted) == count:
                    return converted
                predictions = np.empty((count, *converted.shape[1:]), np.float32)
            predictions[done : done + len(converted)] = converted
            done += len(converted)
    assert predictions is not None  # there is an example
    assert done == count
    return predictions


def logits_to_predictions(logits: Tensor, task: Task) -> NDArray[np.float32]:
    """Convert logits ``[N, L]`` to predictions ``float32 [N, K]``, such as probabilities."""
    predictions: NDArray[np.float32] = task.activate(logits.float()).float().cpu().numpy()
    return predictions


def autocast(device: Device) -> contextlib.AbstractContextManager[Any]:
    """The context that computes in the device's autocast type."""
    enabled = device.autocast is not None
    return torch.autocast(device.torch_device.type, dtype=device.autocast, enabled=enabled)
