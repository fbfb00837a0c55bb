"""Cached features of frozen layers, shared by trials, later runs and processes.

The features that one frozen prefix computes from one view of the examples are an *entry*. Its name
is a digest of everything that determines a row, so an entry is never out of date. Its rows are
stored by the indices of the examples in the data set, whichever split they are requested for, and
only rows that are missing are computed.

An entry is a folder of *segments* (see ``segments``). To make room for new entries, old ones are
deleted, first those that save least time for each byte (``_order_by_value``), but never one that is
in use. Rows that fit on the GPU are gathered there
(``data.resident``), others in memory if they fit, and others are read batch by batch. Computed rows
that have no room on disk are kept on the GPU, or in memory.

Shapes: n rows, C classes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from autotl.data import (
    PACKED_SUFFIX,
    PARTIAL_SUFFIX,
    Indices,
    read_packed_row_bytes,
    resident,
)
from autotl.files import count_bytes, delete_unused, last_used, mark_used
from autotl.frozen.activations import Activations, concatenate, divide
from autotl.frozen.reading_speed import (
    copying_seconds_per_byte,
    disk_seconds_per_byte,
    gathering_seconds_per_byte,
)
from autotl.frozen.rows import CHUNK_BYTES, CachedRows
from autotl.frozen.segments import ENTRY_SUFFIX, Entry, RecordFormat, read_row_bytes

MAX_DISK_BYTES = 10 << 30
"""Default limit of the bytes on disk; never more than a tenth of the free space there."""

MAX_MEMORY_BYTES = 2 << 30
"""Default limit of the bytes of rows in memory."""

MAX_PREFIXES = 4
"""Number of compiled prefixes that are kept in memory."""

TOLERANCE = 0.1
"""Difference of rows that were computed twice, relative to the standard deviation of their values:
rounding differs with the kind of kernels, and the rows of other weights differ by much more."""

ComputedRows = tuple[Indices, Activations, Tensor | None]
"""Some rows: indices ``[n]``, activations ``[n, ...]``, and targets ``[n, C]`` or None."""


class Usage(NamedTuple):
    """The space that a cache folder takes on disk.

    Attributes:
        entries: Number of entries and packed arrays.
        bytes: Bytes of all of them.
        limit: Bytes that they may take.
    """

    entries: int
    bytes: int
    limit: int


class FeatureCache:
    """The feature cache of one process, in a folder that it may share with other processes.

    Packed images (``data.pack``) are in the same folder, count towards the same limit and are
    evicted by the same rule.

    Args:
        limit: Maximum bytes on disk, 0 for none; by default ``MAX_DISK_BYTES``, but at most a tenth
            of the free space, in addition to the packed images of this process.
        folder: Folder of the entries; None for a temporary one that is removed with this object.
        memory: Maximum bytes of rows in memory.
        warn: Called once, with a message, if the disk cannot be written to.

    Attributes:
        prefixes: The compiled prefixes that were used last, by digests of their weights; see
            ``remember_prefix``.
        warn: The argument.
    """

    def __init__(
        self,
        limit: int | None = None,
        folder: Path | None = None,
        memory: int = MAX_MEMORY_BYTES,
        warn: Callable[[str], object] = warnings.warn,
    ) -> None:
        self._limit, self._folder, self.memory, self.warn = limit, folder, memory, warn
        self.prefixes: OrderedDict[str, Callable[[Tensor], Tensor]] = OrderedDict()
        self._rows: OrderedDict[tuple[str, str, str], CachedRows] = OrderedDict()
        self._verified: set[Path] = set()
        self._seen: set[str] = set()  # names of entries that this process uses
        self._warned = False
        self._reserved_bytes = 0

    @cached_property
    def folder(self) -> Path:
        """Folder of the entries."""
        if self._folder is not None:
            return self._folder
        temporary = tempfile.mkdtemp(prefix="autotl-")
        weakref.finalize(self, shutil.rmtree, temporary, ignore_errors=True)
        return Path(temporary)

    @property
    def limit(self) -> int:
        """Maximum bytes on disk."""
        if self._limit is not None:
            return self._limit
        return self._default_limit + self._reserved_bytes

    @cached_property
    def _default_limit(self) -> int:
        for folder in (self.folder, *self.folder.absolute().parents):
            with suppress(OSError):  # it does not exist yet
                return min(MAX_DISK_BYTES, shutil.disk_usage(folder).free // 10)
        return 0

    def usage(self) -> Usage:
        """Measure the space that the cache takes on disk now."""
        entries = self._list_entries()
        return Usage(len(entries), sum(map(count_bytes, entries)), self.limit)

    def has_space(self, bytes: int, device: torch.device) -> bool:
        """Whether rows of so many bytes can be cached for the device without evicting others.

        What other processes take of the device now counts. If not all views of a training had room
        there or elsewhere, each would evict the next one that is needed.
        """
        return bytes <= max(self.limit, self.memory, resident.budget(device)) // 2

    def get_or_compute(
        self,
        name: str,
        indices: Indices,
        compute: Callable[[Indices], Iterator[ComputedRows]],
        device: torch.device,
        *,
        check: bool = False,
        total_bytes: int = 0,
    ) -> CachedRows | None:
        """Get the rows of some examples; compute and cache those that are missing.

        Args:
            name: Name of the entry, from ``entry_name``.
            indices: Indices of the examples in the data set, ``[n]``.
            compute: Takes the missing indices, and yields their rows in any order.
            device: The device that the rows are used on.
            check: Whether to compute two rows again when this process first uses an entry of an
                earlier one. If they differ, the entry is deleted.
            total_bytes: Bytes of all rows that the training needs. If they would take more than
                half of the disk's limit, those that fit on the device are not written to the disk.

        Returns:
            The rows in the order of ``indices``; None if no place has room for them, or if there
            are none.
        """
        key = (name, hashlib.sha256(indices.tobytes()).hexdigest(), str(device))
        if resident_rows := self._get_resident(key):
            return resident_rows
        entry = Entry(self.folder / name, self._verified)
        missing = entry.missing(indices)
        is_new = name not in self._seen
        self._seen.add(name)
        if check and is_new and not _agrees(entry, np.setdiff1d(indices, missing), compute):
            self.warn(
                f"{self.folder / name}: the cached features differ from those computed now, and "
                "are replaced"
            )
            del entry  # releases its lock
            if not delete_unused(self.folder / name):
                return None
            entry, missing = Entry(self.folder / name, self._verified), indices
        rows = CachedRows(self.folder / name, self._verified, indices, device)
        if entry.format:
            rows.claim_room(entry.format)
        if resident.budget(device):
            for other in [other for (own, _, _), other in self._rows.items() if own == name]:
                missing = rows.copy_from(other, missing)
        write = total_bytes <= self.limit // 2
        if len(missing) and not self._add(entry, compute(missing), rows, write):
            return None
        mark_used(self.folder / name)
        if rows.format is None:  # no rows were requested
            return None
        in_memory = not rows.resident and self._make_room_in_memory(rows.bytes)
        if not rows.gather(entry, in_memory):
            return None
        if rows.resident:
            self._rows[key] = rows
        return rows

    def remove(self, names: Iterable[str]) -> None:
        """Remove entries by their names, from memory and from the disk."""
        for name in names:
            for key in [key for key in self._rows if key[0] == name]:
                del self._rows[key]
            delete_unused(self.folder / name)

    def remember_prefix(self, name: str, prefix: Callable[[Tensor], Tensor]) -> None:
        """Keep a compiled prefix for the next trainings, in the place of the one used longest ago.

        Compiling takes seconds, and tracing leaves some megabytes behind in PyTorch each time.
        """
        self.prefixes[name] = prefix
        if len(self.prefixes) > MAX_PREFIXES:
            self.prefixes.popitem(last=False)

    def seconds_to_read(self, row_bytes: int, rows: int, device: torch.device) -> float:
        """The time it takes to read one of some rows where they would be, as measured here.

        Args:
            row_bytes: Bytes of a row.
            rows: Number of rows.
            device: The device that they are used on.
        """
        bytes = row_bytes * rows
        if bytes <= resident.budget(device):
            return row_bytes * gathering_seconds_per_byte(device)
        if bytes <= self.memory:
            seconds = gathering_seconds_per_byte(torch.device("cpu"))
        else:
            seconds = disk_seconds_per_byte(self.folder)
        return row_bytes * (seconds + copying_seconds_per_byte(device))

    def _get_resident(self, key: tuple[str, str, str]) -> CachedRows | None:
        """Get rows that are in memory or on a device; forget those that were given up there."""
        for given_up in [key for key, rows in self._rows.items() if not rows.resident]:
            del self._rows[given_up]  # releases its lock
        if key in self._rows:
            self._rows.move_to_end(key)
            mark_used(self.folder / key[0])
        wanted = self._rows.get(key)
        # More may be in memory since the memory of a device ran out; this training needs its own.
        self._make_room_in_memory(0, keep=wanted)
        return wanted

    def _make_room_in_memory(self, bytes: int, keep: CachedRows | None = None) -> bool:
        """Forget what was used least recently until ``bytes`` fit in memory, if they can."""
        if bytes > self.memory:
            return False
        excess = sum(rows.bytes_in_memory for rows in self._rows.values()) + bytes - self.memory
        for key, rows in list(self._rows.items()):
            if excess > 0 and rows.bytes_in_memory and rows is not keep:
                excess -= rows.bytes_in_memory
                del self._rows[key]
        return True

    def _add(
        self, entry: Entry, computed: Iterator[ComputedRows], rows: CachedRows, write: bool
    ) -> bool:
        """Store computed rows, a chunk at a time; return whether there was room for all."""
        chunk: list[ComputedRows] = []
        chunk_bytes = 0
        try:
            for indices, activations, targets in computed:
                chunk.append((indices, activations.detach(), targets))
                chunk_bytes += activations.nbytes
                if chunk_bytes >= CHUNK_BYTES:
                    chunk, chunk_bytes, full = [], 0, chunk
                    if not self._store(entry, full, rows, write):
                        return False
        finally:  # also when the time limit interrupts computing, so that nothing is lost
            stored = not chunk or self._store(entry, chunk, rows, write)
        return stored

    def _store(
        self, entry: Entry, chunk: Sequence[ComputedRows], rows: CachedRows, write: bool
    ) -> bool:
        """Put a chunk on the device, and write it as a segment; return whether it is stored.

        Without room in either place it is left in memory. On the device, it is only written if
        ``write`` is set. There is no room for rows that are not all of one size, such as those of a
        model that shortens its input to the longest one of a batch.
        """
        indices = np.concatenate([own for own, _, _ in chunk])
        if len({divide(part)[0].shape[1:] for _, part, _ in chunk}) > 1:
            return False
        activations = concatenate([part for _, part, _ in chunk])
        targets = [part for _, _, part in chunk if part is not None]
        format = RecordFormat.from_activations(activations, targets[0].shape[1] if targets else 0)
        if (rows.format or entry.format or format) != format:
            return False
        packed = format.pack(activations, torch.cat(targets) if targets else None)
        on_device = rows.claim_room(format) and rows.put(indices, packed)
        if on_device and not (write and self.limit):
            return True  # without a copy through the CPU
        records = packed.cpu().numpy()
        try:
            if self.limit and entry.write(format, indices, records, self.make_room):
                return True
        except OSError as error:
            if not self._warned:
                self.warn(
                    f"{self.folder}: features of frozen layers cannot be cached "
                    f"({error.strerror or error}); free some space, or the search takes longer"
                )
            self._warned = True
        if on_device:
            return True
        if entry.unsaved_bytes + records.nbytes > self.memory:
            return False
        entry.add_in_memory(format, indices, records)
        return True

    def reserve(self, bytes: int) -> None:
        """Raise the limit by the bytes of packed images that this process needs.

        A limit that the user gave does not change.
        """
        self._reserved_bytes += bytes

    def make_room(self, bytes: int) -> bool:
        """Delete what has the least value until ``bytes`` fit; return whether they do."""
        if bytes > self.limit:
            return False
        sizes = {entry: count_bytes(entry) for entry in self._list_entries()}
        spare = self.limit - sum(sizes.values()) - bytes
        for entry in _order_by_value(sizes) if spare < 0 else ():
            if spare >= 0:
                break
            if delete_unused(entry):
                spare += sizes[entry]
        return spare >= 0

    def _list_entries(self) -> list[Path]:
        suffixes = (ENTRY_SUFFIX, PACKED_SUFFIX, PARTIAL_SUFFIX)
        with suppress(OSError):
            return [path for path in self.folder.iterdir() if path.suffix in suffixes]
        return []


def _order_by_value(entries: Iterable[Path]) -> list[Path]:
    """Order entries and packed files by what they are worth for each byte, the least first.

    A row saves about one pass of an example through a network, however many bytes it has: the
    pooled features of an example are worth as much as its last map, in a hundredth of the bytes.
    An entry becomes the less likely to be used again, the longer it has not been used. So it is
    worth one for each byte of a row and each second since then (as in the cost-aware replacement of
    Cao & Irani 1997, USENIX Symposium on Internet Technologies and Systems).
    """
    now = time.time()

    def cost(path: Path) -> float:
        read = read_packed_row_bytes if path.is_file() else read_row_bytes
        return max(1.0, now - last_used(path)) * max(1, read(path))

    return sorted(entries, key=cost, reverse=True)


def _agrees(
    entry: Entry, stored: Indices, compute: Callable[[Indices], Iterator[ComputedRows]]
) -> bool:
    """Whether the first and the last of the ``stored`` examples have the rows they should have."""
    if not len(stored) or entry.format is None:
        return True
    computed = list(compute(np.unique(stored[[0, -1]])))
    indices = np.concatenate([rows for rows, _, _ in computed])
    expected, expected_inputs = divide(concatenate([part for _, part, _ in computed]))
    actual, inputs = divide(entry.format.unpack(torch.from_numpy(entry.gather(indices)))[0])
    if inputs is None or expected_inputs is None:
        same_inputs = inputs is expected_inputs
    else:
        same_inputs = torch.equal(inputs, expected_inputs.cpu())
    if not same_inputs or actual.shape != expected.shape:
        return False
    actual, expected = actual.float(), expected.cpu().float()
    difference = (actual - expected).square().mean().sqrt()
    return bool(difference <= TOLERANCE * expected.std(correction=0))


def entry_name(key: Mapping[str, object]) -> str:
    """The name of an entry: a digest of ``key``, everything that determines its rows."""
    text = json.dumps(key, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32] + ENTRY_SUFFIX
