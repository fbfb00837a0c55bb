"""Decode all images of a data set once into one memory-mapped array on disk."""

from __future__ import annotations

import hashlib
import math
import os
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autotl import files
from autotl.data.dataset import Dataset
from autotl.data.image import Progress, decode, map_in_threads, pillow_interpolation
from autotl.data.memory_map import MappedArray, take_rows
from autotl.errors import StoreError

DECODING = 2
"""The version of what ``decode`` returns; incremented when the pixels of a file change, so that
arrays and features of an earlier version are not used."""

PACKED_SUFFIX = ".npy"
"""Suffix of the files of packed images."""

MAX_MEMORY_BYTES = 2 << 30
"""The maximum bytes of images that are packed in memory if they cannot be on disk."""


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

    def take(
        self, indices: NDArray[np.int64], out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """Copy the images at ``indices [n]``, as ``uint8 [n, S, S, 3]``, to ``out`` if given."""
        if self.mapped:
            return self.mapped.take(indices, out)
        return take_rows(self.array, indices, out)


def packed_shape(dataset: Dataset, size: int) -> tuple[int, int, int, int]:
    """The shape of the packed images of a data set; each element takes one byte."""
    return len(dataset.examples), size, size, 3


def pack(
    dataset: Dataset,
    size: int,
    interpolation: str,
    folder: Path,
    progress: Progress | None = None,
    *,
    make_room: Callable[[int], bool] | None = None,
    warn: Callable[[str], object] | None = None,
) -> Packed:
    """Decode every image once, or open the array that an earlier call wrote to ``folder``.

    The file is named after the data set's fingerprint, which covers exactly ``dataset.examples``
    in their order, the size, the interpolation and the version of the decoding. It is written under
    a temporary name and renamed when complete, so that a truncated file is never used. Processes
    that pack at the same time do redundant work, but do not interfere. The file is locked against
    deletion as long as the returned object exists. If it cannot be written, or has no room, the
    images are packed in memory, up to ``MAX_MEMORY_BYTES``.

    Args:
        dataset: The data set to pack.
        size: Height and width of the packed images, in pixels.
        interpolation: timm's name of the interpolation; see ``decode``.
        folder: Folder for packed arrays; created if missing.
        progress: Called after every image.
        make_room: Makes room in ``folder`` before a file is written; None for no limit.
        warn: Called with a message if the file cannot be written; None to ignore it.

    Raises:
        DataError: An image has become unreadable since ``check``.
        StoreError: The array can neither be written nor does it fit in memory.
    """
    kind = f"{size}-{pillow_interpolation(interpolation)}-{DECODING}"
    path = folder / f"{dataset.fingerprint[:16]}-{kind}{PACKED_SUFFIX}"
    shape = packed_shape(dataset, size)
    num_bytes = math.prod(shape)
    if packed := _open_packed(path, shape):
        files.mark_used(path)
        return packed
    has_room = make_room is None or make_room(num_bytes)
    fits_in_memory = num_bytes <= MAX_MEMORY_BYTES
    write = _Writer(dataset, size, interpolation, progress)
    if has_room or not fits_in_memory:
        try:
            return _pack_on_disk(path, shape, write)
        except OSError as error:
            reason = f"cannot write {num_bytes / 2**20:.0f} MiB of packed images"
            text = f"{path}: {reason} ({error.strerror or error}); free some space"
            if not fits_in_memory:
                raise StoreError(f"{text} or choose another folder with --out") from error
            if warn:
                warn(f"{text}, or every run decodes the images again")
    array = np.empty(shape, np.uint8)
    write(_fill(array))
    array.flags.writeable = False
    return Packed(array, path)


@dataclass(frozen=True)
class _Writer:
    """Decodes all images of a data set and passes each to a function, in order."""

    dataset: Dataset
    size: int
    interpolation: str
    progress: Progress | None

    def __call__(self, consume: Callable[[NDArray[np.uint8]], object]) -> None:
        map_in_threads(
            lambda example: decode(
                example.item, self.size, self.interpolation, self.dataset.scales
            ),
            self.dataset.examples,
            consume,
            f"packing at {self.size} px",
            self.progress,
        )


def _fill(array: NDArray[np.uint8]) -> Callable[[NDArray[np.uint8]], None]:
    """Return a function that copies images into the rows of an array, one after the other."""
    rows = iter(array)

    def copy(image: NDArray[np.uint8]) -> None:
        next(rows)[:] = image

    return copy


def _pack_on_disk(path: Path, shape: tuple[int, ...], write: _Writer) -> Packed:
    """Write the array to a file and open it.

    Raises:
        OSError: The file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The file is written, not mapped, so that a full disk is an error instead of a crash.
    try:
        with files.write_beside(path) as temporary, temporary.open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            write(lambda image: file.write(image.data))
            file.flush()
            os.fsync(file.fileno())
    except PermissionError:
        # Windows does not replace a file that is mapped into memory, which the array of another
        # process is that was faster; it has the same content.
        if packed := _open_packed(path, shape):
            return packed
        raise
    if packed := _open_packed(path, shape):
        return packed
    raise OSError("the file differs from what was written")


def _open_packed(path: Path, shape: tuple[int, ...]) -> Packed | None:
    """Open a packed array; None if the file is missing, truncated or not the expected array.

    A file of another kind is not locked, so that it can be replaced.
    """
    try:
        descriptor = files.lock(path, shared=True)
    except OSError:
        return None
    assert descriptor is not None
    try:
        array = np.lib.format.open_memmap(path, mode="r")
        if array.shape != shape or array.dtype != np.uint8 or not array.flags.c_contiguous:
            raise ValueError("it is another array")
        mapped = MappedArray(path, shape, array.offset)
    except (OSError, ValueError, EOFError):
        os.close(descriptor)
        return None
    weakref.finalize(mapped, _close, descriptor)
    return Packed(mapped.array, path, mapped)


def _close(descriptor: int) -> None:
    with suppress(OSError):
        os.close(descriptor)
