"""An entry of the cache on disk: a folder of segments, each with the rows of some examples.

A segment is ``X.bin``, the rows one after the other, and its header ``X.json``: the indices of the
rows, their format, and a checksum over all of it. The header is written last and by a rename, so
that an incomplete segment is never read. A damaged segment is deleted when it is opened.

Shapes: n rows, C classes; a row is a record of bytes: its activations, and after them the input
that they were computed from and its targets, where there are any.
"""

from __future__ import annotations

import json
import os
import time
import uuid
import weakref
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotl import files
from autotl.data import Indices, MappedArray
from autotl.frozen.activations import Activations, WithInputs, divide

Records = NDArray[np.uint8]

ENTRY_SUFFIX = ".features"
"""Suffix of the folders of entries."""

CHECKSUM_BLOCK_BYTES = 16 << 20
"""Bytes that are read at a time to compute a checksum."""

ABANDONED_AFTER_SECONDS = 3600.0
"""The age in seconds at which a file of an incomplete segment is deleted as abandoned."""


@dataclass(frozen=True)
class RecordFormat:
    """The format of a row: activations, then the model's input, then targets in float32.

    Attributes:
        dtype: Type of the activations, without the ``torch.`` prefix.
        shape: Shape of one row's activations as they are stored.
        channels_last: Whether the activations were computed in channels_last; then they are stored
            with their channels last, and are returned in that layout.
        targets: Number of targets; 0 for none.
        input_dtype: Type of the input; empty for none.
        input_shape: Shape of one row's input.
    """

    dtype: str
    shape: tuple[int, ...]
    channels_last: bool
    targets: int
    input_dtype: str = ""
    input_shape: tuple[int, ...] = ()

    @classmethod
    def from_activations(cls, batch: Activations, targets: int) -> RecordFormat:
        """The format of activations ``[n, ...]`` with a number of targets."""
        activations, inputs = divide(batch)
        channels_last = activations.ndim == 4 and activations.is_contiguous(
            memory_format=torch.channels_last
        )
        shape = activations.permute(0, 2, 3, 1).shape if channels_last else activations.shape
        format = cls(_dtype_name(activations), tuple(shape[1:]), channels_last, targets)
        if inputs is None:
            return format
        return replace(format, input_dtype=_dtype_name(inputs), input_shape=tuple(inputs.shape[1:]))

    @property
    def bytes(self) -> int:
        """Bytes of a row."""
        return self._activation_bytes + self._input_bytes + 4 * self.targets

    @property
    def _activation_bytes(self) -> int:
        return _count_bytes(self.dtype, self.shape)

    @property
    def _input_bytes(self) -> int:
        return _count_bytes(self.input_dtype, self.input_shape) if self.input_dtype else 0

    def pack(self, batch: Activations, targets: Tensor | None) -> Tensor:
        """Pack activations ``[n, ...]`` and targets ``[n, C]`` into records.

        Returns:
            ``uint8 [n, bytes]``, on the same device.
        """
        activations, inputs = divide(batch)
        if self.channels_last:
            activations = activations.permute(0, 2, 3, 1)
        parts = [activations.contiguous()]
        if inputs is not None:
            parts.append(inputs.contiguous())
        if targets is not None:
            parts.append(targets.float().contiguous())
        flat = [part.reshape(len(part), -1).view(torch.uint8) for part in parts]
        return flat[0] if len(flat) == 1 else torch.cat(flat, 1)

    def unpack(self, records: Tensor) -> tuple[Activations, Tensor | None]:
        """Unpack records ``uint8 [n, bytes]``.

        Returns:
            Activations ``[n, ...]``, and targets ``float32 [n, C]`` or None.
        """
        start, end = self._activation_bytes, self._activation_bytes + self._input_bytes
        activations = _view(records[:, :start], self.dtype, self.shape)
        if self.channels_last:
            activations = activations.permute(0, 3, 1, 2)
        targets = _view(records[:, end:], "float32", (self.targets,)) if self.targets else None
        if not self.input_dtype:
            return activations, targets
        inputs = _view(records[:, start:end], self.input_dtype, self.input_shape)
        return WithInputs(activations, inputs), targets


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _count_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    itemsize: int = getattr(torch, dtype).itemsize
    return itemsize * int(np.prod(shape))


def _view(records: Tensor, dtype: str, shape: tuple[int, ...]) -> Tensor:
    """View a part of each record ``uint8 [n, bytes]`` as a tensor ``[n, *shape]``."""
    return records.contiguous().view(getattr(torch, dtype)).view(-1, *shape)


@dataclass(frozen=True)
class Segment:
    """The rows of some examples, in a file or in memory.

    Attributes:
        indices: Indices of the examples in the data set, ``[n]``.
        records: Their records ``[n, bytes]``.
    """

    indices: Indices
    records: MappedArray | Records

    def take(self, positions: Indices) -> Records:
        """Copy the records at some positions of the segment, ``[n, bytes]``."""
        if isinstance(self.records, MappedArray):
            return self.records.take(positions)
        return self.records[positions]


class Entry:
    """The segments of one folder, which is locked against deletion while this object lives.

    Args:
        folder: The folder; it is created when something is written.
        verified: Headers of which this process has verified the checksum; extended here.

    Attributes:
        format: The format of the rows; None while there are none.
        unsaved_bytes: Bytes of the rows that are in memory only.
    """

    def __init__(self, folder: Path, verified: set[Path]) -> None:
        self.folder, self._verified = folder, verified
        self.format: RecordFormat | None = None
        self.unsaved_bytes = 0
        self._segments: list[Segment] = []
        self._locked = False
        self._lookup: tuple[Indices, Indices, Indices] | None = None
        with suppress(OSError):
            if folder.is_dir():
                self._lock_folder()
                for path in sorted(folder.glob("*.json")):
                    self._open_segment(path)
                _delete_abandoned(folder)

    def missing(self, indices: Indices) -> Indices:
        """Those of the examples ``indices [n]`` that no segment has a row of."""
        return indices[~np.isin(indices, self._build_lookup()[0])]

    def gather(self, indices: Indices) -> Records:
        """Copy the rows of examples, none of which may be missing.

        Args:
            indices: Indices of the examples ``[n]``.

        Returns:
            Records ``[n, bytes]`` in the order of ``indices``.
        """
        assert self.format is not None
        stored, segments, positions = self._build_lookup()
        lookup = np.searchsorted(stored, indices)
        assert np.array_equal(stored[lookup], indices), "rows are missing"
        records = np.empty((len(indices), self.format.bytes), np.uint8)
        for segment in np.unique(segments[lookup]):
            mask = segments[lookup] == segment
            records[mask] = self._segments[segment].take(positions[lookup[mask]])
        return records

    def write(
        self,
        format: RecordFormat,
        indices: Indices,
        records: Records,
        has_space: Callable[[int], bool],
    ) -> bool:
        """Write a segment to the disk, if ``has_space`` for its bytes.

        Returns:
            Whether it was written.

        Raises:
            OSError: It cannot be written.
        """
        header = {"format": asdict(format), "rows": indices.tolist()}
        content = json.dumps({**header, "checksum": _checksum(header, records)})
        self._lock_folder()  # so that this entry is not deleted to make room
        if not has_space(records.nbytes + len(content)):
            return False
        path = self.folder / uuid.uuid4().hex  # no other process writes to this name
        try:
            path.with_suffix(".bin").write_bytes(records.data)
            path.with_suffix(".tmp").write_text(content, encoding="utf-8")
            path.with_suffix(".tmp").replace(path.with_suffix(".json"))
        except OSError:
            _delete_segment(path)
            raise
        self._verified.add(path.with_suffix(".json"))
        self._open_segment(path.with_suffix(".json"))
        return True

    def add_in_memory(self, format: RecordFormat, indices: Indices, records: Records) -> None:
        """Add a segment that is kept in memory only."""
        self.unsaved_bytes += records.nbytes
        self._add(format, Segment(indices, records))

    def _add(self, format: RecordFormat, segment: Segment) -> None:
        self.format = format
        self._segments.append(segment)
        self._lookup = None

    def _build_lookup(self) -> tuple[Indices, Indices, Indices]:
        """All indices, ascending, and for each the number of its segment and its position in it."""
        if self._lookup is None:
            empty = np.empty(0, np.int64)
            indices = np.concatenate([empty, *(s.indices for s in self._segments)])
            sizes = [len(s.indices) for s in self._segments]
            segments = np.repeat(np.arange(len(sizes)), sizes)
            positions = np.concatenate([empty, *(np.arange(n) for n in sizes)])
            order = np.argsort(indices, kind="stable")
            self._lookup = indices[order], segments[order], positions[order]
        return self._lookup

    def _lock_folder(self) -> None:
        """Lock the folder against deletion while this object lives; create it if necessary."""
        while not self._locked:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                lock = files.lock(self.folder, shared=True)
            except FileNotFoundError:  # deleted since it was created
                continue
            assert lock is not None
            if files.is_same_file(self.folder, lock):
                self._locked = True
                weakref.finalize(self, os.close, lock)
            else:
                os.close(lock)

    def _open_segment(self, path: Path) -> None:
        """Add the segment of the header ``path``, or delete it if it is damaged."""
        try:
            header = json.loads(path.read_bytes())
            checksum = header.pop("checksum")
            values = header["format"]
            shapes = {name: tuple(values.get(name, ())) for name in ("shape", "input_shape")}
            format = RecordFormat(**{**values, **shapes})
            indices = np.array(header["rows"], np.int64)
            mapped = MappedArray(path.with_suffix(".bin"), (len(indices), format.bytes))
            if path not in self._verified and _checksum(header, mapped) != checksum:
                raise ValueError("the checksum does not match")
        except OSError:
            return  # deleted at this moment by another process, or not readable now
        except (ValueError, KeyError, TypeError, AttributeError):
            _delete_segment(path)
            return
        self._verified.add(path)
        self._add(format, Segment(indices, mapped))


def read_row_bytes(folder: Path) -> int:
    """Read the bytes of a row of an entry; 0 if it has no complete segment."""
    with suppress(OSError, StopIteration, ValueError, KeyError, ZeroDivisionError):
        path = next(folder.glob("*.json"))
        rows = len(json.loads(path.read_bytes())["rows"])
        return path.with_suffix(".bin").stat().st_size // rows
    return 0


def _checksum(header: dict[str, Any], records: MappedArray | Records) -> int:
    """CRC-32 of a header and its records."""
    checksum = zlib.crc32(json.dumps(header, sort_keys=True).encode())
    count, width = (records.array if isinstance(records, MappedArray) else records).shape
    step = max(1, CHECKSUM_BLOCK_BYTES // width)
    for start in range(0, count, step):
        rows = slice(start, start + step)
        block = records.take(rows) if isinstance(records, MappedArray) else records[rows]
        checksum = zlib.crc32(block.data, checksum)
    return checksum


def _delete_abandoned(folder: Path) -> None:
    """Delete old files of incomplete segments, which processes left that were killed."""
    for path in folder.iterdir():
        with suppress(OSError):
            incomplete = path.suffix != ".json" and not path.with_suffix(".json").exists()
            if incomplete and time.time() - path.stat().st_mtime > ABANDONED_AFTER_SECONDS:
                path.unlink()


def _delete_segment(path: Path) -> None:
    """Delete the files of a segment, the header first."""
    for suffix in (".json", ".tmp", ".bin"):
        with suppress(OSError):
            path.with_suffix(suffix).unlink()
