"""Batches of packed images on a device."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotl.data.packing import Packed

RESIDENT_FRACTION = 0.25
"""Fraction of the free GPU memory that images may occupy; the model and its activations need the
rest."""

COPY_ROWS = 1024
"""The number of images that are copied to the GPU at a time."""

T = TypeVar("T")


def prefetch(items: Iterator[T]) -> Iterator[T]:
    """Yield the same items, each computed in a thread while the previous one is in use."""
    with ThreadPoolExecutor(1) as thread:
        upcoming = thread.submit(next, items, None)
        while (item := upcoming.result()) is not None:
            upcoming = thread.submit(next, items, None)
            yield item


class Batches:
    """Batches of a subset of the packed images.

    Iterating yields ``(images, labels)`` in order: ``uint8 [B, 3, S, S]`` in channels-last memory
    format and ``int64 [B]``. ``epoch`` yields them shuffled; ``epoch_indices`` returns the indices
    of the same batches instead.

    Batches are nearly equal in size and never hold a single image, which breaks BatchNorm, unless
    there is only one: 33 images in batches of 32 are split into 17 and 16, and 3 in batches of 2
    are one batch of 3.

    Args:
        packed: All images of the data set.
        labels: All labels of the data set, ``int64 [N]``.
        indices: Indices of the chosen images in ``packed``, in order, ``[n]``.
        batch_size: Largest number of images in a batch, at least 2.
        device: Device of the tensors.
        shuffle_seed: Seed of the order of every epoch; None for no shuffling.

    Attributes:
        class_counts: Number of chosen images of each class, ``[C]``.
        labels: Labels of the chosen images, ``int64 [n]`` on the device.
    """

    def __init__(
        self,
        packed: Packed,
        labels: NDArray[np.int64],
        indices: NDArray[np.int64],
        batch_size: int,
        device: torch.device,
        *,
        shuffle_seed: int | None = None,
    ) -> None:
        self.packed = packed
        self.indices = indices
        self.batch_size = batch_size
        self.device = device
        self.shuffle_seed = shuffle_seed
        self._labels = labels[indices]
        num_classes = int(labels.max(initial=-1)) + 1
        self.class_counts = np.bincount(self._labels, minlength=num_classes).tolist()
        self.labels = torch.from_numpy(self._labels).to(device)
        self._resident = self._copy_all() if self._fits_on_gpu() else None

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return min(math.ceil(self.num_examples / self.batch_size), max(1, self.num_examples // 2))

    @property
    def num_examples(self) -> int:
        """The number of chosen images."""
        return len(self.indices)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all batches, in order."""
        return self.load(self.sequential_indices())

    def sequential_indices(self) -> list[NDArray[np.int64]]:
        """Positions of all images in order, one array ``[B]`` for each batch."""
        return self._divide(np.arange(self.num_examples))

    def shuffled_indices(self, seed: int) -> list[NDArray[np.int64]]:
        """Positions of all images in an order that depends on ``seed`` alone, ``[B]`` a batch."""
        return self._divide(np.random.default_rng(seed).permutation(self.num_examples))

    def epoch(
        self, number: int, sampling: Sequence[float] | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of an epoch, in the order of that epoch.

        Args:
            number: Number of the epoch, which determines the order together with the seed.
            sampling: Relative sampling weight of an image of each class, ``[C]``. As many images
                as an epoch has are then drawn with replacement. None for a permutation.
        """
        return self.load(self.epoch_indices(number, sampling))

    def epoch_indices(
        self, number: int, sampling: Sequence[float] | None = None
    ) -> list[NDArray[np.int64]]:
        """Positions of the images that ``epoch`` yields, one array ``int64 [B]`` for each batch.

        Positions count within the chosen images: ``self.indices`` maps them to the data set.
        """
        positions = np.arange(self.num_examples)
        if self.shuffle_seed is None:
            return self._divide(positions)
        random = np.random.default_rng((self.shuffle_seed, number))
        if sampling is None:
            return self._divide(random.permutation(positions))
        weights = np.asarray(sampling, dtype=np.float64)[self._labels]
        return self._divide(random.choice(positions, len(positions), p=weights / weights.sum()))

    def load(self, batches: Sequence[NDArray[np.int64]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ``(images, labels)`` for each of ``batches``, positions ``[B]``."""
        if self.device.type == "cuda" and self._resident is None:
            return prefetch(self._read(batches))
        return self._read(batches)

    def load_labels(self, batches: Sequence[NDArray[np.int64]]) -> list[Tensor]:
        """The labels for each of ``batches``, positions ``[B]``: ``int64 [B]`` on the device."""
        # All labels are copied at once, because many small copies would make a GPU wait.
        positions = torch.from_numpy(np.concatenate([*batches, np.empty(0, np.int64)]))
        labels = self.labels[positions.to(self.device)]
        return list(labels.split([len(b) for b in batches]))  # type: ignore[no-untyped-call]

    def _divide(self, positions: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        return np.array_split(positions, len(self)) if len(self) else []

    def _read(self, batches: Sequence[NDArray[np.int64]]) -> Iterator[tuple[Tensor, Tensor]]:
        for positions, labels in zip(batches, self.load_labels(batches), strict=True):
            yield self._load_images(positions).permute(0, 3, 1, 2), labels

    def _load_images(self, positions: NDArray[np.int64]) -> Tensor:
        """``uint8 [B, S, S, 3]`` on the device."""
        if self._resident is not None:
            return self._resident[torch.from_numpy(positions).to(self.device, non_blocking=True)]
        images = torch.from_numpy(self.packed.take(self.indices[positions]))
        if self.device.type == "cuda":  # from pinned memory the copy overlaps with computing
            return images.pin_memory().to(self.device, non_blocking=True)
        return images.to(self.device)

    def _fits_on_gpu(self) -> bool:
        if self.device.type != "cuda":
            return False
        free, _ = torch.cuda.mem_get_info(self.device)
        needed = self.num_examples * math.prod(self.packed.array.shape[1:])
        return needed <= RESIDENT_FRACTION * free

    def _copy_all(self) -> Tensor:
        """All chosen images, ``uint8 [n, S, S, 3]`` on the device."""
        shape = (self.num_examples, *self.packed.array.shape[1:])
        resident = torch.empty(shape, dtype=torch.uint8, device=self.device)
        for start in range(0, self.num_examples, COPY_ROWS):
            chunk = torch.from_numpy(self.packed.take(self.indices[start : start + COPY_ROWS]))
            resident[start : start + len(chunk)] = chunk.to(self.device)
        return resident
