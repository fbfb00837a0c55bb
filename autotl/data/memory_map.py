"""Read-only arrays in files larger than memory, read without filling memory with their pages."""

from __future__ import annotations

import mmap
import weakref
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

MAX_RESIDENT_BYTES = 1 << 28
"""The maximum bytes of all mapped files that stay in the memory of this process."""

BYTE = np.dtype(np.uint8)

FAULT_AROUND_BYTES = 1 << 16
"""Bytes that a page fault maps in addition to the row itself (Linux's ``fault_around_bytes``)."""


def take_rows(
    array: NDArray[Any], rows: NDArray[np.int64], out: NDArray[Any] | None
) -> NDArray[Any]:
    """Copy the rows of an array at valid indices ``[n]``, to ``out`` if it is given."""
    if out is None:
        return array[rows]
    # In another mode NumPy would copy twice, to leave ``out`` alone if an index is not valid.
    return np.take(array, rows, axis=0, out=out, mode="clip")


class MappedArray:
    """A memory-mapped file as a read-only array ``[N, ...]``.

    Pages that were read stay in the operating system's page cache as long as it has room for
    them, but they are regularly released from this process, so they do not count as its memory.

    Args:
        path: The file.
        shape: Shape of the array.
        offset: Start of the array in the file, in bytes.
        dtype: Type of its elements.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file's size does not match ``shape``.
    """

    _open: ClassVar[weakref.WeakSet[MappedArray]] = weakref.WeakSet()
    _bytes_read: ClassVar[int] = 0  # by all arrays, since their pages were last released

    def __init__(
        self,
        path: Path,
        shape: tuple[int, ...],
        offset: int = 0,
        dtype: np.dtype[Any] = BYTE,
    ) -> None:
        with path.open("rb") as file:
            self._pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        content = np.frombuffer(self._pages, dtype, offset=offset)
        self.array: NDArray[Any] = content.reshape(shape)
        self._open.add(self)

    def take(
        self, rows: NDArray[np.int64] | slice, out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """Copy the given rows.

        Args:
            rows: Indices ``[n]`` or a slice of the first dimension.
            out: Array ``[n, ...]`` to copy the rows of indices to; None for a new one.

        Returns:
            ``[n, ...]``.
        """
        if isinstance(rows, slice):
            copied = self.array[rows].copy()
        else:
            copied = take_rows(self.array, rows, out)
        MappedArray._bytes_read += copied.nbytes + len(copied) * FAULT_AROUND_BYTES
        if MappedArray._bytes_read > MAX_RESIDENT_BYTES:
            MappedArray._bytes_read = 0
            for mapped in list(self._open):
                if hasattr(mapped._pages, "madvise"):  # not on Windows
                    mapped._pages.madvise(mmap.MADV_DONTNEED)
        return copied
