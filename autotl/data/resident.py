"""Data that is resident on a device: images and features that need not be copied to it again.

This is the one owner of that memory, for all trainings of the process. What is resident may take
``RESIDENT_FRACTION`` of the memory that is free or resident already; other processes on the device
are counted by what they leave free. To make room, the data that was used least recently is given
up, and all of it when memory runs out, so whoever holds resident data must be able to go on without
it.
"""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from autotl.data import device_memory

RESIDENT_FRACTION = 0.5
"""Fraction of a device's free memory that resident data may take. It leaves half for the model and
its activations, whose size is not known before a training step. If they need more, resident data is
given up before any batch is made smaller, so that a wrong guess costs one step."""

Save = Callable[[Tensor, bool], bool]
"""Is called before a tensor is given up. Its second argument is whether the content must be
elsewhere then: a training may be using it. Returns False if there is no place for it."""

_uses = itertools.count()  # a clock that ticks with each use
_tensors: weakref.WeakSet[ResidentTensor] = weakref.WeakSet()
_fractions: dict[torch.device, float] = {}  # of devices whose memory ran out


class ResidentTensor:
    """A tensor on a device, until its memory is needed for something else.

    It is freed with this object; nothing else refers to it.

    Args:
        tensor: The tensor.
        save: A method that is called before the tensor is given up. It is referred to weakly. None
            if there is another copy anyway.

    Attributes:
        device: The device.
        bytes: Bytes of the tensor.
        last_used: When it was used last, in uses of all tensors.
    """

    def __init__(self, tensor: Tensor, save: Save | None = None) -> None:
        self._tensor: Tensor | None = tensor
        self._save = None if save is None else weakref.WeakMethod(save)
        self.device, self.bytes = tensor.device, tensor.nbytes
        self.last_used = next(_uses)
        _tensors.add(self)

    def get(self) -> Tensor | None:
        """Return the tensor, to be used now and not stored; None if it was given up."""
        self.last_used = next(_uses)
        return self._tensor

    @property
    def is_resident(self) -> bool:
        """Whether the tensor is still there."""
        return self._tensor is not None

    def release(self, *, in_use: bool) -> bool:
        """Give up the tensor, unless its content is in use and has no other place.

        Args:
            in_use: Whether a training may be using it now.

        Returns:
            Whether it was given up.
        """
        save = self._save() if self._save else None
        if self._tensor is not None and save is not None and not save(self._tensor, in_use):
            return False
        self._tensor = None
        return True


def resident_bytes(device: torch.device) -> int:
    """Bytes that are resident on the device."""
    return sum(tensor.bytes for tensor in _list_resident(device))


def budget(device: torch.device) -> int:
    """Bytes that may be resident on the device now, with those that are; 0 on a CPU."""
    device = device_memory.canonical(device)
    fraction = _fractions.get(device, RESIDENT_FRACTION)
    return int(fraction * (device_memory.free_bytes(device) + resident_bytes(device)))


def allocate(
    shape: Sequence[int],
    device: torch.device,
    save: Save | None = None,
    dtype: torch.dtype = torch.uint8,
) -> ResidentTensor | None:
    """Make an empty tensor resident; what was used least recently is given up for it.

    Args:
        shape: Its shape.
        device: The device.
        save: See ``ResidentTensor``.
        dtype: Its type.

    Returns:
        The tensor; None if there is no room for it.
    """
    bytes, limit = math.prod(shape) * dtype.itemsize, budget(device)
    if not 0 < bytes <= limit:
        return None
    excess = resident_bytes(device) + bytes - limit
    for tensor in sorted(_list_resident(device), key=lambda tensor: tensor.last_used):
        if excess > 0 and tensor.release(in_use=False):  # it is between two epochs
            excess -= tensor.bytes
    if excess > 0:
        return None
    try:
        with torch.inference_mode(False):  # an inference tensor could not be written to later
            empty = torch.empty(tuple(shape), dtype=dtype, device=device)
    except RuntimeError as error:
        if not device_memory.is_out_of_memory(error):
            raise
        return None  # what is free is in pieces
    return ResidentTensor(empty, save)


def release(device: torch.device) -> bool:
    """Give up everything on a device whose memory ran out, and allow half as much from now on.

    Returns:
        Whether anything was given up.
    """
    device = device_memory.canonical(device)
    released = [tensor.release(in_use=True) for tensor in _list_resident(device)]
    if any(released):
        _fractions[device] = _fractions.get(device, RESIDENT_FRACTION) / 2
    return any(released)


def relax(device: torch.device) -> None:
    """Allow twice as much again, up to the fraction; called when a training begins."""
    device = device_memory.canonical(device)
    if device in _fractions:
        _fractions[device] = min(RESIDENT_FRACTION, 2 * _fractions[device])


def _list_resident(device: torch.device) -> list[ResidentTensor]:
    device = device_memory.canonical(device)
    return [tensor for tensor in _tensors if tensor.is_resident and tensor.device == device]
