"""What happens when the memory of a device runs out.

A computation that did not fit is freed and tried again in this order: first at the same size,
without the images and features that are resident on the device, and then in halves, quarters and so
on. The size that fitted is remembered. What cannot be divided, such as building a model, is tried
once more; then ``OutOfMemory`` ends the trial.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from autotl import models
from autotl.data import device_memory, resident
from autotl.errors import OutOfMemory, free_frames
from autotl.frozen.activations import Activations, concatenate
from autotl.models import Device, Model
from autotl.space.space import Config
from autotl.space.task import Task

Result = TypeVar("Result")


def retry_when_out_of_memory(
    function: Callable[[], Result], device: torch.device, what: str
) -> Result:
    """Call a function, and once more if memory runs out, without what is resident on the device.

    Args:
        function: May be called twice.
        device: The device that it computes on.
        what: What does not fit then, for the message.

    Raises:
        OutOfMemory: The memory does not suffice.
    """
    try:
        return function()
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        forget_failed_computation(error, device)
    free_memory(device)  # nothing refers to the error and its traceback any more
    with convert_out_of_memory(what, device):
        return function()


@contextmanager
def convert_out_of_memory(what: str, device: torch.device) -> Iterator[None]:
    """Raise ``OutOfMemory`` if memory runs out inside: ``what`` does not fit on the device.

    What is resident there is given up, so that the next training has its memory.
    """
    try:
        yield
        return
    except RuntimeError as error:
        forget_failed_computation(error, device)
    free_memory(device)
    raise OutOfMemory(f"{what} does not fit in the device's memory")


def build_model(
    config: Config, task: Task, size: int | None, device: Device, seed: int = 0
) -> Model:
    """Build a model as ``models.build_model`` does, on a device that may have little memory left.

    Raises:
        OutOfMemory: It does not fit on the device.
    """
    build = partial(models.build_model, config, task, size, device, seed)
    return retry_when_out_of_memory(build, device.torch_device, "the model")


def forget_failed_computation(error: RuntimeError, device: torch.device) -> None:
    """Free what the functions that an error ended have in their variables, such as a graph.

    It may be called for any error. One that does not mean that memory ran out is raised again, or
    that of the device, if it cannot be used any more.
    """
    if not device_memory.is_out_of_memory(error):
        device_memory.synchronize(device)  # what cuBLAS and cuDNN say does not tell
        raise error
    free_frames(error)


def free_memory(device: torch.device) -> bool:
    """Give up what is resident on a device, and what PyTorch has reserved there without use.

    Returns:
        Whether anything was resident.
    """
    gave_up = resident.release(device)
    gc.collect()  # a plugin's code may have made cycles, and so may the models of earlier trials
    device_memory.empty_cache(device)
    return gave_up


class MicroBatches:
    """Computes batches, in parts if memory does not suffice for a whole one.

    The size that fitted is kept for the next batches of the loop.

    Args:
        size: Maximum number of images to compute at once; None for no limit yet.
        usual: A number of images; larger batches are halved before anything resident is given up.

    Attributes:
        size: The same, halved each time that memory ran out.
    """

    def __init__(self, size: int | None = None, usual: int | None = None) -> None:
        self.size, self._usual = size, usual

    def map(self, function: Callable[[Any], Tensor], batch: Activations) -> Tensor:
        """Compute ``function(batch)``, where it is computed for each example by itself.

        Parts that were computed before memory ran out are not computed again.

        Raises:
            OutOfMemory: A single image does not fit on the device.
        """
        outputs: list[Tensor] = []
        left = batch
        while len(left) or not outputs:
            part = left if self.size is None else left[: self.size]
            try:
                outputs.append(function(part))
                left = left[len(part) :]
                continue
            except RuntimeError as error:
                forget_failed_computation(error, batch.device)
            self.shrink(len(part), batch.device)
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def run(self, function: Callable[[int], Result], count: int, device: torch.device) -> Result:
        """Call ``function`` until it does not run out of memory.

        Args:
            function: Computes a batch in as many nearly equal parts as its argument says. It is
                called again from the beginning.
            count: Number of images in the batch.
            device: The device that it computes on.

        Raises:
            OutOfMemory: A single image does not fit on the device.
        """
        while True:
            try:
                return function(math.ceil(count / self.size) if self.size else 1)
            except RuntimeError as error:
                forget_failed_computation(error, device)
            self.shrink(count, device)

    def shrink(self, count: int, device: torch.device) -> None:
        """Free memory after a batch of ``count`` images did not fit; halve the size if need be.

        Raises:
            OutOfMemory: A single image did not fit, and nothing was resident.
        """
        size = count if self.size is None else min(self.size, count)
        if self._usual is not None and size > self._usual:
            gc.collect()
            device_memory.empty_cache(device)
            self.size = max(self._usual, size // 2)
            return
        if free_memory(device):
            return
        if size <= 1:
            raise OutOfMemory("a single image does not fit in the device's memory")
        self.size = size // 2


def split(
    count: int, batch: Activations, targets: Tensor, copies: int = 0
) -> Sequence[tuple[Activations, Tensor]]:
    """Split a batch and its targets into ``count`` nearly equal parts.

    Args:
        count: The number of parts.
        batch: The examples of the targets, and after them ``copies`` groups of unlabelled ones, of
            which each part gets its own.
        targets: The targets.
        copies: The number of these groups.
    """
    labelled = len(targets)
    parts: Sequence[Activations] = batch[:labelled].tensor_split(count)
    if copies:
        size = (len(batch) - labelled) // copies
        starts = [labelled + size * i for i in range(copies)]
        groups = [batch[start : start + size].tensor_split(count) for start in starts]
        parts = [concatenate(own) for own in zip(parts, *groups, strict=True)]
    return list(zip(parts, targets.tensor_split(count), strict=True))
