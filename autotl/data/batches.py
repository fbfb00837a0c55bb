"""Batches of packed examples on a device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotl.data import device_memory, resident
from autotl.data.packing import Packed

T = TypeVar("T")


def prefetch(items: Iterator[T]) -> Iterator[T]:
    """Yield the same items, each computed in a thread while the previous one is in use.

    The thread ends with the last item, with an error, or when the returned iterator is closed.
    """
    with ThreadPoolExecutor(1) as thread:
        upcoming = thread.submit(next, items, None)
        while (item := upcoming.result()) is not None:
            upcoming = thread.submit(next, items, None)
            yield item


def copy_in_order(
    read: Callable[[NDArray[np.int64]], Tensor],
    batches: Sequence[NDArray[np.int64]],
    device: torch.device,
) -> Iterator[Tensor]:
    """Yield ``read(batch)`` of each batch on the device, read and copied ahead on a GPU.

    Args:
        read: Returns a tensor in memory: for a device that copies ahead, a ``host_buffer``.
        batches: Positions ``[B]`` of each batch.
        device: The device.
    """
    if not device_memory.copies_ahead(device):
        return (read(batch).to(device) for batch in batches)
    copies = prefetch(device_memory.copy_ahead(read(batch), device) for batch in batches)
    return (use() for use in copies)


def send_positions(
    batches: Sequence[NDArray[np.int64]], device: torch.device
) -> tuple[Tensor, ...]:
    """Copy the positions ``int64 [B]`` of all batches to the device at once.

    Many small copies would make a GPU wait. For this one it is not waited for.
    """
    sizes = [len(batch) for batch in batches]
    buffer = device_memory.host_buffer((sum(sizes),), device, torch.int64)
    np.concatenate([*batches, np.empty(0, np.int64)], out=buffer.numpy())
    sent = buffer.to(device, non_blocking=device_memory.copies_ahead(device))
    split: tuple[Tensor, ...] = sent.split(sizes)  # type: ignore[no-untyped-call]
    return split


def to_channels_first(batch: Tensor) -> Tensor:
    """Images ``[B, H, W, C]`` as ``[B, C, H, W]`` in channels-last memory format; others as is."""
    return batch.permute(0, 3, 1, 2) if batch.ndim == 4 else batch


class Batches:
    """Batches of a subset of the packed examples.

    Iterating yields ``(inputs, targets)`` in order: images ``uint8 [B, 3, S, S]`` in channels-last
    memory format, others ``[B, ...]`` as they are packed, and ``[B, ...]``. ``epoch`` yields them
    shuffled; ``epoch_indices`` returns the indices of the same batches instead.

    Batches are nearly equal in size and never hold a single example, which breaks BatchNorm, unless
    there is only one: 33 examples in batches of 32 are split into 17 and 16, and 3 in batches of 2
    are one batch of 3.

    On a GPU, examples stay where they were copied to if there is room for all (``resident``). What
    was given up there is read again, which makes no difference to the batches.

    Args:
        packed: All examples of the data set.
        targets: All targets of the data set, ``[N, ...]``; labels ``int64 [N]`` of classes.
        indices: Indices of the chosen examples in ``packed``, in order, ``[n]``.
        batch_size: Largest number of examples in a batch, at least 2.
        device: Device of the tensors.
        shuffle_seed: Seed of the order of every epoch; None for no shuffling.
        data_id: Identifies the data set in caches; None if it is that of the training.

    Attributes:
        class_counts: Number of chosen examples of each class, ``[C]``; empty for other targets.
        targets: Targets of the chosen examples, ``[n, ...]`` on the device.
    """

    def __init__(
        self,
        packed: Packed,
        targets: NDArray[Any],
        indices: NDArray[np.int64],
        batch_size: int,
        device: torch.device,
        *,
        shuffle_seed: int | None = None,
        data_id: str | None = None,
    ) -> None:
        self.packed = packed
        self.indices = indices
        self.batch_size = batch_size
        self.device = device
        self.shuffle_seed, self.data_id = shuffle_seed, data_id
        self._dtype = torch.from_numpy(np.empty(0, packed.array.dtype)).dtype
        self._targets = targets[indices]
        self.class_counts: list[int] = []
        if targets.ndim == 1:
            num_classes = int(targets.max(initial=-1)) + 1
            self.class_counts = np.bincount(self._targets, minlength=num_classes).tolist()
        self.targets = torch.from_numpy(self._targets).to(device)
        self._resident: resident.ResidentTensor | None = None  # [n, ...]
        self._copied = np.empty(0, np.bool_)  # for each example whether it is in that tensor

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return min(math.ceil(self.num_examples / self.batch_size), max(1, self.num_examples // 2))

    @property
    def num_examples(self) -> int:
        """The number of chosen examples."""
        return len(self.indices)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all batches, in order."""
        return self.load(self.sequential_indices())

    def sequential_indices(self) -> list[NDArray[np.int64]]:
        """Positions of all examples in order, one array ``[B]`` for each batch."""
        return self._divide(np.arange(self.num_examples))

    def shuffled_indices(self, seed: int) -> list[NDArray[np.int64]]:
        """Positions of all examples in an order that depends on ``seed`` alone, ``[B]`` a batch."""
        return self._divide(np.random.default_rng(seed).permutation(self.num_examples))

    def epoch(
        self, number: int, sampling: Sequence[float] | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of an epoch, in the order of that epoch.

        Args:
            number: Number of the epoch, which determines the order together with the seed.
            sampling: Relative sampling weight of an example of each class, ``[C]``. As many
                examples as an epoch has are then drawn with replacement. None for a permutation.
        """
        return self.load(self.epoch_indices(number, sampling))

    def epoch_indices(
        self, number: int, sampling: Sequence[float] | None = None
    ) -> list[NDArray[np.int64]]:
        """Positions of the examples that ``epoch`` yields, one array ``int64 [B]`` for each batch.

        Positions count within the chosen examples: ``self.indices`` maps them to the data set.
        """
        positions = np.arange(self.num_examples)
        if self.shuffle_seed is None:
            return self._divide(positions)
        random = np.random.default_rng((self.shuffle_seed, number))
        if sampling is None:
            return self._divide(random.permutation(positions))
        weights = np.asarray(sampling, dtype=np.float64)[self._targets]
        return self._divide(random.choice(positions, len(positions), p=weights / weights.sum()))

    def load(self, batches: Sequence[NDArray[np.int64]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ``(inputs, targets)`` for each of ``batches``, positions ``[B]``."""
        inputs = (to_channels_first(batch) for batch in self._load_packed(batches))
        return zip(inputs, self.load_targets(batches), strict=True)

    def load_targets(self, batches: Sequence[NDArray[np.int64]]) -> list[Tensor]:
        """The targets for each of ``batches``, positions ``[B]``: ``[B, ...]`` on the device."""
        return [self.targets[positions] for positions in send_positions(batches, self.device)]

    def _divide(self, positions: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        return np.array_split(positions, len(self)) if len(self) else []

    def _load_packed(self, batches: Sequence[NDArray[np.int64]]) -> Iterator[Tensor]:
        """Yield ``[B, ...]`` as packed, on the device, for each of ``batches``."""
        room = self._claim_room()
        if room is None:
            yield from copy_in_order(self._read, batches, self.device)
            return
        copied = [bool(self._copied[positions].all()) for positions in batches]
        missing = [positions for positions, there in zip(batches, copied, strict=True) if not there]
        others = copy_in_order(self._read, missing, self.device)
        sent = send_positions(batches, self.device)
        for number, positions in enumerate(batches):
            if not room.is_resident:
                break
            if copied[number]:
                yield self._take(room, sent[number])
            else:
                yield self._add(room, positions, sent[number], next(others))
        else:
            return
        del others  # ends its thread
        yield from copy_in_order(self._read, batches[number:], self.device)

    def _claim_room(self) -> resident.ResidentTensor | None:
        """Take room for all examples on the device, where they are copied as they are needed.

        Returns:
            The room, where examples may be already; None if there is none.
        """
        if self._resident is None or not self._resident.is_resident:
            shape = (self.num_examples, *self.packed.array.shape[1:])
            self._resident = resident.allocate(shape, self.device, dtype=self._dtype)
            self._copied = np.zeros(self.num_examples, np.bool_)
        return self._resident

    def _take(self, room: resident.ResidentTensor, sent: Tensor) -> Tensor:
        examples = room.get()
        assert examples is not None  # nothing gives it up between a question and the next line
        return examples.index_select(0, sent)

    def _add(
        self,
        room: resident.ResidentTensor,
        positions: NDArray[np.int64],
        sent: Tensor,
        batch: Tensor,
    ) -> Tensor:
        """Copy a batch to its place among the resident examples; return the batch."""
        if (examples := room.get()) is not None:
            examples.index_copy_(0, sent, batch)
            self._copied[positions] = True
        return batch

    def _read(self, positions: NDArray[np.int64]) -> Tensor:
        """``[B, ...]`` as packed, in memory."""
        indices = self.indices[positions]
        if not device_memory.copies_ahead(self.device):
            return torch.from_numpy(self.packed.take(indices))
        shape = (len(indices), *self.packed.array.shape[1:])
        buffer = device_memory.host_buffer(shape, self.device, self._dtype)
        self.packed.take(indices, out=buffer.numpy())
        return buffer
