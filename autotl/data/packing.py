"""Decode all images of a data set once into one memory-mapped array on disk."""

from __future__ import annotations

import hashlib
import math
import os
import uuid
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autotl.data.dataset import Dataset
from autotl.data.image import Progress, decode, map_in_threads, pillow_interpolation
from autotl.data.memory_map import MappedArray
from autotl.errors import StoreError

DECODING = 1
"""The version of what ``decode`` returns; incremented when the pixels of a file change, so that
arrays and features of an earlier version are not used."""


@dataclass(frozen=True, eq=False)
class Packed:
    """All decoded images of a data set at one size.

    Attributes:
        array: The images, ``uint8 [N, S, S, 3]``, read-only.
        path: The file that holds the array.
        mapped: The memory map of that file; None if the array is in memory.
    """

    array: NDArray[np.uint8]
    path: Path
    mapped: MappedArray | None = None

    @cached_property
    def key(self) -> str:
        """Identifies these images: the file's name if there is a file, else a content hash."""
        if self.mapped:
            return self.path.stem
        return hashlib.sha256(np.ascontiguousarray(self.array).data).hexdigest()

    def take(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Copy the images at ``indices [n]``, as ``uint8 [n, S, S, 3]``."""
        return self.mapped.take(indices) if self.mapped else self.array[indices]


def pack(
    dataset: Dataset, size: int, interpolation: str, folder: Path, progress: Progress | None = None
) -> Packed:
    """Decode every image once, or open the array that an earlier call wrote to ``folder``.

    The file is named after the data set's fingerprint, which covers exactly ``dataset.examples``
    in their order, the size, the interpolation and the version of the decoding. It is written under
    a temporary name and renamed when complete, so that a truncated file is never used. Processes
    that pack at the same time do redundant work, but do not interfere.

    Args:
        dataset: The data set to pack.
        size: Height and width of the packed images, in pixels.
        interpolation: timm's name of the interpolation; see ``decode``.
        folder: Folder for packed arrays; created if missing.
        progress: Called after every image.

    Raises:
        DataError: An image has become unreadable since ``check``.
        StoreError: The array cannot be written.
    """
    kind = f"{size}-{pillow_interpolation(interpolation)}-{DECODING}"
    name = f"{dataset.fingerprint[:16]}-{kind}.npy"
    path, shape = folder / name, (len(dataset.examples), size, size, 3)
    if packed := _open_packed(path, shape):
        return packed
    unfinished = folder / f"{name}.{uuid.uuid4().hex}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # The file is written, not mapped, so that a full disk is an error instead of a crash.
        with unfinished.open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            map_in_threads(
                lambda example: decode(example.image, size, interpolation, dataset.scales).data,
                dataset.examples,
                file.write,
                f"packing at {size} px",
                progress,
            )
            file.flush()
            os.fsync(file.fileno())
        _replace(unfinished, path, shape)
    except OSError as error:
        raise StoreError(
            f"{path}: cannot write {math.prod(shape) / 2**20:.0f} MiB of packed images "
            f"({error.strerror}); free some space or choose another folder"
        ) from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
    if packed := _open_packed(path, shape):
        return packed
    raise StoreError(
        f"{path}: the file differs from what was written; check that no other program writes to "
        "this folder"
    )


def _replace(unfinished: Path, path: Path, shape: tuple[int, ...]) -> None:
    """Rename a complete array, unless another process was faster.

    Windows does not replace a file that is mapped into memory, which the array of the other process
    is; it has the same content.
    """
    try:
        unfinished.replace(path)
    except PermissionError:
        if _open_packed(path, shape) is None:
            raise


def _open_packed(path: Path, shape: tuple[int, ...]) -> Packed | None:
    """Open a packed array; None if the file is missing, truncated or not the expected array."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")
        if array.shape != shape or array.dtype != np.uint8 or not array.flags.c_contiguous:
            return None
        mapped = MappedArray(path, shape, array.offset)
    except (OSError, ValueError, EOFError):
        return None
    return Packed(mapped.array, path, mapped)
