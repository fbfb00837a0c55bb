"""The augmentation of a training: random changes of batches, and views that are always the same.

A view of an image is drawn from random numbers that depend only on the view's number and the index
of the image in the data set, so that it does not matter in which batch it is computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotl.errors import PluginError
from autotl.space.input_kind import ModelInput
from autotl.space.space import Choice
from autotl.space.task import Task
from autotl.training.random_state import seed_torch, torch_seeded

GOLDEN_RATIO = 0x9E3779B9
"""2^32 divided by the golden ratio: multiples of it are far from each other modulo 2^32."""


class Augmentation:
    """The augmentation of a configuration, for batches and for views.

    Args:
        choice: The augmentation plugin and its values.
        expects: The input of the backbone.
        task: What is predicted.
        device: The device of the images.

    Attributes:
        mixes: Whether it mixes images, and their targets with them.
        is_identity: Whether it leaves images as they are; set by ``detect_identity``.
    """

    def __init__(
        self, choice: Choice, expects: ModelInput, task: Task, device: torch.device
    ) -> None:
        self.task, self.device = task, device
        self._uniform = UniformNumbers(choice.plugin.name)
        given = {"size": expects.size, "expects": expects, "uniform": self._uniform}
        self.transform = choice.plugin.call(given, choice.params)
        self._takes_uniform = choice.plugin.takes_argument("uniform")
        self.mixes = choice.plugin.mixes
        self.is_identity = False

    def detect_identity(self, images: Tensor, targets: Tensor) -> None:
        """Find out on some images whether the augmentation changes images at all."""
        with torch_seeded(self.device, 0):
            self.is_identity = self(images, targets)[0] is images

    def __call__(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Augment a batch ``[B, ...]``; return it with its targets as the loss takes them."""
        targets = self.task.expand(targets)
        if self.mixes:
            images, targets = self.transform(images, targets)
            return images, targets
        return self.transform(images), targets

    def make_view(self, images: Tensor, indices: NDArray[np.int64], view: int) -> Tensor:
        """Augment each image by itself; the result depends on it, its index and the view alone.

        A plugin that draws its random numbers with ``uniform`` is called once for the batch.
        Another one is called for one image after the other, each with a seed of its own, which
        takes many times longer on a GPU.

        Args:
            images: ``uint8 [B, C, S, S]``; the augmentation does not mix them.
            indices: Their indices in the data set, ``[B]``.
            view: The number of the view.
        """
        if self._takes_uniform:
            with self._uniform.of_view(view, indices):
                augmented: Tensor = self.transform(images)
            return augmented
        with torch_seeded(self.device):
            rows = []
            for i, index in enumerate(indices):
                seed_torch(self.device, view, int(index))
                rows.append(self.transform(images[i : i + 1]))
        return torch.cat(rows)


class UniformNumbers:
    """The random numbers of an augmentation: see ``autotl.Uniform`` for the calls of it.

    In training they are those of torch's global generators. Within ``of_view`` they are a hash of
    the view, the index of the image, the number of the call and the position among the numbers of
    the call. It is computed in integers, so that it is the same on every device.

    Args:
        plugin: The name of the augmentation plugin, for messages.
    """

    def __init__(self, plugin: str) -> None:
        self._plugin = plugin
        self._keys: Tensor | None = None  # int32 [B], one for each image of a view
        self._calls = 0

    @contextmanager
    def of_view(self, view: int, indices: NDArray[np.int64]) -> Iterator[None]:
        """Draw for the images with these ``indices [B]`` in a view, in this order."""
        self._keys = _hash(torch.as_tensor(indices, dtype=torch.int32), 1)
        self._keys = _hash(self._keys, view + 1)
        self._calls = 0
        try:
            yield
        finally:
            self._keys = None

    def __call__(self, images: Tensor, *shape: int, device: str | None = None) -> Tensor:
        """Draw ``float32 [B, *shape]`` in [0, 1), with 24 random bits.

        Raises:
            PluginError: It is called with something else, or, within ``of_view``, with another
                number of images.
        """
        if not isinstance(images, Tensor) or not all(isinstance(side, int) for side in shape):
            raise PluginError(
                f"augment plugin {self._plugin!r} calls uniform with something else than images "
                "and integers; call it as uniform(images) or uniform(images, 2)"
            )
        target = images.device if device is None else torch.device(device)
        if self._keys is None:
            return torch.rand(len(images), *shape, device=target)
        if len(images) != len(self._keys):
            raise PluginError(
                f"augment plugin {self._plugin!r} calls uniform with {len(images)} images of a "
                f"batch of {len(self._keys)}; call it with the whole batch"
            )
        self._calls += 1
        keys = _hash(self._keys, self._calls).to(target, non_blocking=target.type == "cuda")
        positions = _hash(torch.arange(math.prod(shape), dtype=torch.int32, device=target), 1)
        bits = _mix(keys[:, None] ^ positions)
        bits.bitwise_right_shift_(8).bitwise_and_(0xFFFFFF)
        return bits.float().mul_(2**-24).view(len(images), *shape)


def _hash(states: Tensor, number: int) -> Tensor:
    """Hash ``states``, ``int32``, with a number; different states stay different."""
    return _mix(states + _to_int32(number * GOLDEN_RATIO))


def _mix(bits: Tensor) -> Tensor:
    """Mix the bits of each ``int32`` in place, with the finaliser of MurmurHash3 (A. Appleby).

    Products keep their lower 32 bits, and shifts are logical ones: the sign is masked.
    """
    bits.bitwise_xor_((bits >> 16).bitwise_and_(0xFFFF))
    bits.mul_(_to_int32(0x85EBCA6B))
    bits.bitwise_xor_((bits >> 13).bitwise_and_(0x7FFFF))
    bits.mul_(_to_int32(0xC2B2AE35))
    return bits.bitwise_xor_((bits >> 16).bitwise_and_(0xFFFF))


def _to_int32(number: int) -> int:
    """The signed number with the lower 32 bits of ``number``."""
    return (number + 2**31) % 2**32 - 2**31
