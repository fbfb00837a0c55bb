"""Rows of a file that is larger than memory, read without its pages staying in memory."""

from __future__ import annotations

import mmap
import weakref
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

STAYS = 1 << 28
"""Bytes of all such files that may stay in memory after they were read."""

AROUND = 1 << 16
"""Bytes that the system brings in with a row, as much as Linux maps around a fault."""


class MappedRows:
    """A file as the array ``uint8 [N, ...]``, read-only.

    The system keeps what was read as long as there is room for it, but it no longer counts as
    memory of this process.

    Args:
        path: The file.
        shape: Of the array.
        offset: Where it begins in the file, in bytes.

    Raises:
        OSError: The file cannot be read.
        ValueError: It has another size.
    """

    _open: ClassVar[weakref.WeakSet[MappedRows]] = weakref.WeakSet()
    _read: ClassVar[int] = 0

    def __init__(self, path: Path, shape: tuple[int, ...], offset: int = 0) -> None:
        with path.open("rb") as file:
            self._pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        content = np.frombuffer(self._pages, np.uint8, offset=offset)
        self.array: NDArray[np.uint8] = content.reshape(shape)
        self._open.add(self)

    def take(self, rows: NDArray[np.int64] | slice) -> NDArray[np.uint8]:
        """A copy of some rows, ``[n, ...]``."""
        found = self.array[rows].copy() if isinstance(rows, slice) else self.array[rows]
        MappedRows._read += found.nbytes + len(found) * AROUND
        if MappedRows._read > STAYS:
            MappedRows._read = 0
            for mapped in list(self._open):
                if hasattr(mapped._pages, "madvise"):  # not on Windows
                    mapped._pages.madvise(mmap.MADV_DONTNEED)
        return found
