"""An entry of the cache on disk: a folder of segments, each the rows of some pictures.

A segment is ``X.bin``, the rows one after the other, and ``X.json``: which rows, what a row is, and
a checksum over all of it. The latter is written last and by a rename, so that what is torn is never
seen. What is damaged is deleted when it is opened.

Shapes: n rows; a row is a record of bytes, its activations and then its targets.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
import weakref
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotl.data import MappedRows

try:
    import fcntl
except ImportError:  # Windows: a file that is open cannot be deleted there anyway
    fcntl = None  # type: ignore[assignment]

Indices = NDArray[np.int64]
Records = NDArray[np.uint8]

SUFFIX = ".features"
"""Of the folders of entries."""

BLOCK = 16 << 20
"""Bytes that are read at a time to check them."""

ABANDONED = 3600.0
"""Seconds after which a file without its other half was left by a process that was killed."""


@dataclass(frozen=True)
class Form:
    """What a row is: activations of a type and shape, then ``targets`` float32 numbers.

    The channels of a map come last where they did when it was computed, as its layers want them.
    """

    dtype: str
    shape: tuple[int, ...]
    channels_last: bool
    targets: int

    @classmethod
    def of(cls, activations: Tensor, targets: int) -> Form:
        """That of ``activations [n, ...]``."""
        last = activations.ndim == 4 and activations.is_contiguous(
            memory_format=torch.channels_last
        )
        shape = activations.permute(0, 2, 3, 1).shape if last else activations.shape
        name = str(activations.dtype).removeprefix("torch.")
        return cls(name, tuple(shape[1:]), last, targets)

    @property
    def bytes(self) -> int:
        """Of a row."""
        return self._activations + 4 * self.targets

    @property
    def _activations(self) -> int:
        itemsize: int = getattr(torch, self.dtype).itemsize
        return itemsize * int(np.prod(self.shape))

    def pack(self, activations: Tensor, targets: Tensor | None) -> Records:
        """Activations ``[n, ...]`` and targets ``[n, C]`` on the CPU to records ``[n, bytes]``."""
        if self.channels_last:
            activations = activations.permute(0, 2, 3, 1)
        parts = [activations.contiguous()]
        if targets is not None:
            parts.append(targets.float().contiguous())
        flat = [part.reshape(len(part), -1).view(torch.uint8) for part in parts]
        records: Records = (flat[0] if len(flat) == 1 else torch.cat(flat, 1)).numpy()
        return records

    def unpack(self, records: Tensor) -> tuple[Tensor, Tensor | None]:
        """Records ``uint8 [n, bytes]`` to activations ``[n, ...]`` and targets ``[n, C]``."""
        raw = records[:, : self._activations]
        if self.targets:
            raw = raw.contiguous()
        activations = raw.view(getattr(torch, self.dtype)).view(-1, *self.shape)
        if self.channels_last:
            activations = activations.permute(0, 3, 1, 2)
        if not self.targets:
            return activations, None
        return activations, records[:, self._activations :].contiguous().view(torch.float32)


@dataclass(frozen=True)
class Segment:
    """Some rows: those of the pictures ``rows [n]``, in a file or in memory ``[n, bytes]``."""

    rows: Indices
    records: MappedRows | Records

    def take(self, places: Indices) -> Records:
        """Copies of the records at some places, ``[n, bytes]``."""
        if isinstance(self.records, MappedRows):
            return self.records.take(places)
        return self.records[places]


class Entry:
    """The segments of one folder, which is in use as long as this lives.

    Args:
        folder: Made when something is written.
        verified: The files whose checksum this process has seen to be right.
    """

    def __init__(self, folder: Path, verified: set[Path]) -> None:
        self.folder, self._verified = folder, verified
        self.form: Form | None = None
        self.unsaved = 0  # bytes that are in memory alone
        self._segments: list[Segment] = []
        self._locked = False
        self._index: tuple[Indices, Indices, Indices] | None = None
        with suppress(OSError):
            if folder.is_dir():
                self._enter()
                for path in sorted(folder.glob("*.json")):
                    self._open(path)
                _tidy(folder)

    def missing(self, indices: Indices) -> Indices:
        """Those of ``indices [n]`` that no segment has."""
        return indices[~np.isin(indices, self._where()[0])]

    def gather(self, indices: Indices) -> Records:
        """The records of pictures that are there, ``[n, bytes]``, in the order of ``indices``."""
        assert self.form is not None
        rows, segments, places = self._where()
        found = np.searchsorted(rows, indices)
        records = np.empty((len(indices), self.form.bytes), np.uint8)
        for segment in np.unique(segments[found]):
            here = segments[found] == segment
            records[here] = self._segments[segment].take(places[found[here]])
        return records

    def write(
        self, form: Form, rows: Indices, records: Records, has_space: Callable[[int], bool]
    ) -> bool:
        """Add a segment on the disk, if ``has_space`` for its bytes; whether it was added.

        Raises:
            OSError: It cannot be written.
        """
        header = {"form": asdict(form), "rows": rows.tolist()}
        sidecar = json.dumps({**header, "checksum": _checksum(header, records)})
        self._enter()  # an entry that makes room is not to be the one that is written to
        if not has_space(records.nbytes + len(sidecar)):
            return False
        path = self.folder / uuid.uuid4().hex  # no other writer has this name
        try:
            path.with_suffix(".bin").write_bytes(records.data)
            path.with_suffix(".tmp").write_text(sidecar)
            path.with_suffix(".tmp").replace(path.with_suffix(".json"))
        except OSError:
            _remove(path)
            raise
        self._verified.add(path.with_suffix(".json"))
        self._open(path.with_suffix(".json"))
        return True

    def hold(self, form: Form, rows: Indices, records: Records) -> None:
        """Add a segment in memory."""
        self.unsaved += records.nbytes
        self._add(form, Segment(rows, records))

    def _add(self, form: Form, segment: Segment) -> None:
        self.form = form
        self._segments.append(segment)
        self._index = None

    def _where(self) -> tuple[Indices, Indices, Indices]:
        """All rows, ascending, and for each its segment and its place in it."""
        if self._index is None:
            empty = np.empty(0, np.int64)
            rows = np.concatenate([empty, *(s.rows for s in self._segments)])
            sizes = [len(s.rows) for s in self._segments]
            segments = np.repeat(np.arange(len(sizes)), sizes)
            places = np.concatenate([empty, *(np.arange(n) for n in sizes)])
            order = np.argsort(rows, kind="stable")
            self._index = rows[order], segments[order], places[order]
        return self._index

    def _enter(self) -> None:
        """Lock the folder against being discarded, until this is gone."""
        while not self._locked:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                lock = _lock(self.folder, wait=True)
            except FileNotFoundError:  # discarded in this moment
                continue
            assert lock is not None
            if _is_still(self.folder, lock):
                self._locked = True
                weakref.finalize(self, os.close, lock)
            else:
                os.close(lock)

    def _open(self, path: Path) -> None:
        """Add the segment of a sidecar, or delete it if it is damaged."""
        try:
            header = json.loads(path.read_bytes())
            check = header.pop("checksum")
            form = Form(**{**header["form"], "shape": tuple(header["form"]["shape"])})
            rows = np.array(header["rows"], np.int64)
            mapped = MappedRows(path.with_suffix(".bin"), (len(rows), form.bytes))
            if path not in self._verified and _checksum(header, mapped) != check:
                raise ValueError("damaged")
        except OSError:
            return  # removed in this moment by another process, or not to be opened now
        except (ValueError, KeyError, TypeError, AttributeError):
            _remove(path)
            return
        self._verified.add(path)
        self._add(form, Segment(rows, mapped))


def _checksum(header: dict[str, Any], records: MappedRows | Records) -> int:
    check = zlib.crc32(json.dumps(header, sort_keys=True).encode())
    count, width = (records.array if isinstance(records, MappedRows) else records).shape
    step = max(1, BLOCK // width)
    for start in range(0, count, step):
        part = slice(start, start + step)
        block = records.take(part) if isinstance(records, MappedRows) else records[part]
        check = zlib.crc32(block.data, check)
    return check


def size(entry: Path) -> int:
    """Bytes of an entry on the disk."""
    total = 0
    with suppress(OSError):
        for path in entry.iterdir():
            with suppress(OSError):
                total += path.stat().st_size
    return total


def touch(entry: Path) -> None:
    """Note that an entry was used now."""
    with suppress(OSError):
        os.utime(entry)


def last_used(entry: Path) -> float:
    """When an entry was written or asked for, seconds since 1970."""
    with suppress(OSError):
        return entry.stat().st_mtime
    return 0.0


def discard(entry: Path) -> bool:
    """Delete an entry unless it is in use, here or in another process; whether it is gone."""
    with suppress(OSError):
        if (lock := _lock(entry, wait=False)) is None:
            return False
        if _is_still(entry, lock):
            shutil.rmtree(entry, ignore_errors=True)
        os.close(lock)
    return not entry.exists()


def _tidy(folder: Path) -> None:
    """Delete what processes left behind that were killed while they wrote."""
    for path in folder.iterdir():
        with suppress(OSError):
            half = path.suffix != ".json" and not path.with_suffix(".json").exists()
            if half and time.time() - path.stat().st_mtime > ABANDONED:
                path.unlink()


def _remove(path: Path) -> None:
    for suffix in (".json", ".tmp", ".bin"):
        with suppress(OSError):
            path.with_suffix(suffix).unlink()


def _is_still(folder: Path, lock: int) -> bool:
    """Whether the locked folder is the one of that path, and not one that was deleted."""
    if fcntl is None:
        return True
    with suppress(OSError):
        return os.path.samestat(folder.stat(), os.fstat(lock))
    return False


def _lock(folder: Path, wait: bool) -> int | None:
    """A lock that ends with its process: one of many that share it, or, without waiting, alone."""
    if fcntl is None:
        return os.open(os.devnull, os.O_RDONLY)
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if isinstance(error, BlockingIOError):
            os.close(lock)
            return None
        # A file system without locks: what is dropped while it is in use is computed again.
    return lock
