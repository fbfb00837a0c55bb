"""All pictures decoded once into one array on disk, and batches of it on the device."""

from __future__ import annotations

import hashlib
import math
import os
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotl.data.dataset import Dataset
from autotl.data.image import Progress, decode, map_in_threads, pillow_interpolation
from autotl.data.mapped import MappedRows
from autotl.errors import StoreError

RESIDENT_FRACTION = 0.25
"""Of the free GPU memory, what pictures may take; the model and its activations need the rest."""

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Packed:
    """Every example of a data set at one size: ``array`` is ``uint8 [N, S, S, 3]``, read-only.

    ``mapped`` is the file that the array is in, None where it is in memory.
    """

    array: NDArray[np.uint8]
    path: Path
    mapped: MappedRows | None = None

    @cached_property
    def key(self) -> str:
        """What tells these pictures from all others: a file's name does, else the contents."""
        content = None if self.mapped else np.ascontiguousarray(self.array)
        return self.path.stem if content is None else hashlib.sha256(content.data).hexdigest()

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """A copy of some pictures, ``[n, S, S, 3]``."""
        return self.mapped.take(rows) if self.mapped else self.array[rows]


def pack(
    dataset: Dataset, size: int, interpolation: str, folder: Path, progress: Progress | None = None
) -> Packed:
    """Decode every example once, or find the array that an earlier call left in ``folder``.

    The file is named after the fingerprint, which covers exactly ``dataset.examples`` in their
    order. It is written under another name and renamed when complete, so that a torn file is
    never trusted, and processes that pack at the same time do no more than work twice.

    Args:
        dataset: What to pack.
        size: Height and width, in pixels.
        interpolation: See ``decode``.
        folder: Where packed arrays are kept; made if missing.
        progress: Told after every picture.

    Raises:
        DataError: A picture became unreadable since the check.
        StoreError: The array cannot be written.
    """
    name = f"{dataset.fingerprint[:16]}-{size}-{pillow_interpolation(interpolation)}.npy"
    path, shape = folder / name, (len(dataset.examples), size, size, 3)
    if found := _find(path, shape):
        return found
    unfinished = folder / f"{name}.{uuid.uuid4().hex}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Written, not mapped: a full disk is then an error here instead of a crash (SIGBUS).
        with unfinished.open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            map_in_threads(
                lambda example: decode(example.image, size, interpolation).data,
                dataset.examples,
                file.write,
                f"packing at {size} px",
                progress,
            )
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        raise StoreError(
            f"{path}: cannot write {math.prod(shape) / 2**20:.0f} MiB of packed pictures "
            f"({error.strerror}); free some space or choose another folder"
        ) from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
    if found := _find(path, shape):
        return found
    raise StoreError(f"{path}: not what was written; is something else writing to this folder?")


def _find(path: Path, shape: tuple[int, ...]) -> Packed | None:
    try:
        array = np.lib.format.open_memmap(path, mode="r")
        whole = array.shape == shape and array.dtype == np.uint8 and array.flags.c_contiguous
        mapped = MappedRows(path, shape, array.offset) if whole else None
    except (OSError, ValueError, EOFError):  # missing, torn, or no array at all
        return None
    return Packed(mapped.array, path, mapped) if mapped else None


def prefetch(items: Iterator[T]) -> Iterator[T]:
    """The same items, each made in a thread while the one before it is used."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


class Batches:
    """Batches of chosen pictures on a device.

    Iterating yields ``(images, labels)`` in order: ``uint8 [B, 3, S, S]`` in channels-last order
    and ``int64 [B]``. ``epoch`` shuffles them, ``epoch_indices`` says where they are instead. ``counts``
    has the number of pictures of each class, ``[C]``, and ``classes`` that of each picture,
    ``int64 [n]`` on the device.
    Batches are nearly equal in size and never hold a single picture, which breaks BatchNorm,
    unless there is only one: 33 pictures in batches of 32 come as 17 and 16, and 3 in batches of
    2 as 3.

    Args:
        packed: All pictures of the data set.
        labels: All labels of the data set, ``int64 [N]``.
        indices: Which pictures, in order, ``[n]``.
        batch_size: The most pictures in a batch, from 2.
        device: Where the tensors are to be.
        shuffle_seed: Of the order of epochs; None leaves them in order too.
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
        self.indices = indices
        self.batch_size = batch_size
        self.device = device
        self.shuffle_seed = shuffle_seed
        self.counts = np.bincount(
            labels[indices], minlength=int(labels.max(initial=-1)) + 1
        ).tolist()
        self.packed = packed
        self._classes = labels[indices]
        self.classes = torch.from_numpy(self._classes).to(device)
        self._resident = self._on_device() if self._fits() else None

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return min(math.ceil(self.num_examples / self.batch_size), max(1, self.num_examples // 2))

    @property
    def num_examples(self) -> int:
        """How many pictures there are."""
        return len(self.indices)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All batches, in order."""
        return self.load(self.sequential_indices())

    def sequential_indices(self) -> list[NDArray[np.int64]]:
        """The places of all pictures, in batches."""
        return self._parts(np.arange(self.num_examples))

    def shuffled_indices(self, seed: int) -> list[NDArray[np.int64]]:
        """The places of all pictures in an order by ``seed`` alone, in batches."""
        return self._parts(np.random.default_rng(seed).permutation(self.num_examples))

    def epoch(
        self, number: int, sampling: Sequence[float] | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of epoch ``number``, in an order of its own.

        With ``sampling``, the relative chance of each class ``[C]``, as many pictures are drawn
        with replacement.
        """
        return self.load(self.epoch_indices(number, sampling))

    def epoch_indices(
        self, number: int, sampling: Sequence[float] | None = None
    ) -> list[NDArray[np.int64]]:
        """Like ``epoch``, only the places of the pictures among these, ``int64 [B]``."""
        return self._parts(self._shuffled(number, sampling))

    def load(self, parts: Sequence[NDArray[np.int64]]) -> Iterator[tuple[Tensor, Tensor]]:
        """A batch ``(images, labels)`` of the pictures at each of ``parts``, places ``[B]``."""
        if self.device.type == "cuda" and self._resident is None:
            return prefetch(self._read(parts))
        return self._read(parts)

    def _shuffled(self, number: int, sampling: Sequence[float] | None) -> NDArray[np.int64]:
        places = np.arange(self.num_examples)
        if self.shuffle_seed is None:
            return places
        random = np.random.default_rng((self.shuffle_seed, number))
        if sampling is None:
            return random.permutation(places)
        chances = np.asarray(sampling, dtype=np.float64)[self._classes]
        return random.choice(places, self.num_examples, p=chances / chances.sum())

    def labels(self, parts: Sequence[NDArray[np.int64]]) -> list[Tensor]:
        """The classes of the pictures at each of ``parts``, ``int64 [B]`` on the device."""
        # One transfer for all of them: small ones in between would make a GPU wait.
        every = torch.from_numpy(np.concatenate([*parts, np.empty(0, np.int64)]))
        found = self.classes[every.to(self.device)]
        return list(found.split([len(p) for p in parts]))  # type: ignore[no-untyped-call]

    def _parts(self, places: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        return np.array_split(places, len(self)) if len(self) else []

    def _read(self, parts: Sequence[NDArray[np.int64]]) -> Iterator[tuple[Tensor, Tensor]]:
        for part, labels in zip(parts, self.labels(parts), strict=True):
            yield self._pictures(part).permute(0, 3, 1, 2), labels

    def _pictures(self, part: NDArray[np.int64]) -> Tensor:
        """``uint8 [B, S, S, 3]`` on the device."""
        if self._resident is not None:
            return self._resident[torch.from_numpy(part).to(self.device, non_blocking=True)]
        pictures = torch.from_numpy(self.packed.take(self.indices[part]))
        if self.device.type == "cuda":  # from pinned memory the copy overlaps with computing
            return pictures.pin_memory().to(self.device, non_blocking=True)
        return pictures.to(self.device)

    def _fits(self) -> bool:
        if self.device.type != "cuda":
            return False
        free, _ = torch.cuda.mem_get_info(self.device)
        return (
            self.num_examples * math.prod(self.packed.array.shape[1:]) <= RESIDENT_FRACTION * free
        )

    def _on_device(self) -> Tensor:
        shape = (self.num_examples, *self.packed.array.shape[1:])
        resident = torch.empty(shape, dtype=torch.uint8, device=self.device)
        for start in range(0, self.num_examples, 1024):
            chunk = torch.from_numpy(self.packed.take(self.indices[start : start + 1024]))
            resident[start : start + len(chunk)] = chunk.to(self.device)
        return resident
