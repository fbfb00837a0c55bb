"""What frozen parts made of pictures: kept on disk, shared by trials, later runs and processes.

What one frozen part makes of one view of the pictures is an *entry*. Its name is a digest of all
that decides a row, so an entry is never out of date. It holds rows by the places of the pictures in
the data set, whatever part of a split they are asked for, and computes only those it lacks.

An entry is a folder of *segments* (see ``segments``). The least recently used entries make room for
new ones, never one that is in use. Rows that memory has room for are gathered there, or on the GPU;
others are read batch by batch.

Shapes: n rows, N pictures of the data set, C classes.
"""

from __future__ import annotations

import hashlib
import json
import os
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

from autotl.data import RESIDENT_FRACTION, prefetch
from autotl.frozen.segments import SUFFIX, Entry, Form, Indices, discard, last_used, size, touch

LIMIT = 10 << 30
"""The most bytes on disk unless it is said; never more than a tenth of what is free there."""

MEMORY = 2 << 30
"""Bytes of memory for rows that are gathered there."""

CHUNK = 64 << 20
"""Bytes that are computed before they are written as a segment."""

Computed = Iterator[tuple[Indices, Tensor, Tensor | None]]
"""Some rows at a time: indices ``[n]``, activations ``[n, ...]``, targets ``[n, C]`` or None."""


class Usage(NamedTuple):
    """What a cache takes on disk, for display; ``bytes`` and ``limit`` in bytes."""

    entries: int
    bytes: int
    limit: int


class Rows:
    """The rows of some pictures in their order, in memory or on disk.

    Attributes:
        resident: Whether they are in memory, or on the GPU.
    """

    def __init__(
        self, entry: Entry, form: Form, indices: Indices, where: torch.device, resident: bool
    ) -> None:
        self._form, self._indices, self._where = form, indices, where
        self._entry: Entry | None = entry
        self.resident = resident
        if not resident:
            return
        home = where if where.type == "cuda" else torch.device("cpu")
        self._records = torch.empty((len(indices), form.bytes), dtype=torch.uint8, device=home)
        step = max(1, CHUNK // form.bytes)
        for start in range(0, len(indices), step):
            part = torch.from_numpy(entry.gather(indices[start : start + step]))
            self._records[start : start + step] = part.to(home)
        self._entry = None  # no longer in use

    @property
    def bytes(self) -> int:
        """What all rows take."""
        return len(self._indices) * self._form.bytes

    def batches(self, parts: Iterable[Indices]) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Activations ``[n, ...]`` and kept targets ``[n, C]`` of the rows at each of ``parts``.

        They are copies, which layers that work in place may spoil.
        """
        parts = list(parts)
        gathered: Iterator[Tensor]
        if self.resident:
            # One transfer for all of them: small ones in between would make the GPU wait.
            places = torch.from_numpy(np.concatenate([*parts, self._indices[:0]]))
            sizes = [len(part) for part in parts]
            split = places.to(self._records.device).split(sizes)  # type: ignore[no-untyped-call]
            gathered = (self._records.index_select(0, some) for some in split)
        else:
            gathered = (self._read(part) for part in parts)
            if self._where.type == "cuda":
                gathered = prefetch(gathered)
        for records in gathered:
            yield self._form.unpack(records.to(self._where))

    def _read(self, part: Indices) -> Tensor:
        assert self._entry is not None
        records = torch.from_numpy(self._entry.gather(self._indices[part]))
        if self._where.type == "cuda":  # from pinned memory the copy overlaps with computing
            return records.pin_memory().to(self._where, non_blocking=True)
        return records


class FeatureCache:
    """The cache of one process in a folder that it may share with others.

    Args:
        limit: The most bytes on disk; 0 for nothing there.
        folder: Where entries are kept; None for a place of its own that is removed in the end.
        memory: The most bytes of rows in memory.
        say: Is told, once, that the disk refuses.
    """

    def __init__(
        self,
        limit: int | None = None,
        folder: Path | None = None,
        memory: int = MEMORY,
        say: Callable[[str], object] = warnings.warn,
    ) -> None:
        self._limit, self._folder, self.memory, self._say = limit, folder, memory, say
        self._held: OrderedDict[tuple[str, str, str], Rows] = OrderedDict()
        self._verified: set[Path] = set()
        self._refused = False

    @cached_property
    def folder(self) -> Path:
        """Where entries are kept."""
        if self._folder is not None:
            return self._folder
        own = tempfile.mkdtemp(prefix="autotl-")
        weakref.finalize(self, shutil.rmtree, own, ignore_errors=True)
        return Path(own)

    @cached_property
    def limit(self) -> int:
        """The most bytes on disk."""
        if self._limit is not None:
            return self._limit
        there = next(p for p in (self.folder, *self.folder.absolute().parents) if p.exists())
        return min(LIMIT, shutil.disk_usage(there).free // 10)

    def usage(self) -> Usage:
        """What is on disk now."""
        entries = self._entries()
        return Usage(len(entries), sum(map(size, entries)), self.limit)

    def has_space(self, bytes: int) -> bool:
        """Whether rows of so many bytes may be kept, without all others having to go."""
        return bytes <= max(self.limit, self.memory) // 2

    def rows(
        self,
        name: str,
        indices: Indices,
        compute: Callable[[Indices], Computed],
        where: torch.device,
    ) -> Rows | None:
        """The rows of some pictures; those that no segment has are computed and kept.

        Args:
            name: Of the entry, from ``digest``.
            indices: The places of the pictures in the data set, ``[n]``.
            compute: Is given the indices that are missing, and yields their rows, in any order.
            where: The device that they are used on.

        Returns:
            None if there is no room for them on the disk nor in memory.
        """
        held = (name, hashlib.sha256(indices.tobytes()).hexdigest(), str(where))
        if held in self._held:
            self._held.move_to_end(held)
            touch(self.folder / name)
            return self._held[held]
        entry = self._entry(name)
        if len(missing := entry.missing(indices)) and not self._add(entry, compute(missing)):
            return None
        touch(self.folder / name)
        if entry.form is None:  # no rows were asked for
            return None
        bytes, room = len(indices) * entry.form.bytes, self._room_in_memory(where)
        if bytes > room:
            return Rows(entry, entry.form, indices, where, resident=False)
        while self._held and sum(r.bytes for r in self._held.values()) + bytes > room:
            self._held.popitem(last=False)
        self._held[held] = found = Rows(entry, entry.form, indices, where, resident=True)
        return found

    def forget(self, names: Iterable[str]) -> None:
        """Remove entries that nobody will ask for again."""
        for name in names:
            for held in [h for h in self._held if h[0] == name]:
                del self._held[held]
            discard(self.folder / name)

    def seconds_to_read(self, row: int, count: int) -> float:
        """What it takes to read a row of ``row`` bytes out of ``count``, as measured here."""
        return row * (self._from_memory if row * count <= self.memory else self._from_disk)

    def _entry(self, name: str) -> Entry:
        return Entry(self.folder / name, self._verified)

    def _room_in_memory(self, where: torch.device) -> int:
        if where.type == "cuda":
            return int(RESIDENT_FRACTION * torch.cuda.get_device_properties(where).total_memory)
        return self.memory

    def _add(self, entry: Entry, computed: Computed) -> bool:
        """Keep what is computed, a chunk at a time; whether there was room for all of it."""
        chunk: list[tuple[Indices, Tensor, Tensor | None]] = []
        waiting = 0
        try:
            for rows, activations, targets in computed:
                chunk.append((rows, activations.detach().cpu(), targets))
                waiting += activations.nbytes
                if waiting >= CHUNK:
                    chunk, waiting, full = [], 0, chunk
                    if not self._keep(entry, full):
                        return False
        finally:  # when time runs out, what was computed is not lost for the next
            kept = not chunk or self._keep(entry, chunk)
        return kept

    def _keep(self, entry: Entry, chunk: Sequence[tuple[Indices, Tensor, Tensor | None]]) -> bool:
        """Write a chunk as a segment, or leave it in memory where the disk has no room."""
        rows = np.concatenate([indices for indices, _, _ in chunk])
        activations = torch.cat([some for _, some, _ in chunk])
        mixed = [some.cpu() for _, _, some in chunk if some is not None]
        form = Form.of(activations, mixed[0].shape[1] if mixed else 0)
        records = form.pack(activations, torch.cat(mixed) if mixed else None)
        try:
            if self.limit and entry.write(form, rows, records, self._make_room):
                return True
        except OSError as error:
            if not self._refused:
                self._say(
                    f"{self.folder}: what frozen parts compute cannot be kept "
                    f"({error.strerror or error}); free some space, or searching takes longer"
                )
            self._refused = True
        if entry.unsaved + records.nbytes > self.memory:
            return False
        entry.hold(form, rows, records)
        return True

    def _make_room(self, bytes: int) -> bool:
        """Whether there is room on the disk, once the least recently used entries are gone."""
        if bytes > self.limit:
            return False
        sizes = {entry: size(entry) for entry in self._entries()}
        spare = self.limit - sum(sizes.values()) - bytes
        for entry in sorted(sizes, key=last_used):
            if spare >= 0:
                break
            if discard(entry):
                spare += sizes[entry]
        return spare >= 0

    def _entries(self) -> list[Path]:
        with suppress(OSError):
            return [path for path in self.folder.iterdir() if path.suffix == SUFFIX]
        return []

    @cached_property
    def _from_memory(self) -> float:
        """Seconds for a byte of rows in memory, in random order."""
        some = torch.zeros((2048, 4096), dtype=torch.uint8)
        places = torch.from_numpy(np.random.default_rng(0).permutation(len(some)))
        some.index_select(0, places)
        began = time.perf_counter()
        some.index_select(0, places)
        return (time.perf_counter() - began) / some.nbytes

    @cached_property
    def _from_disk(self) -> float:
        """Seconds for a byte of a file that the system does not have in memory."""
        content = np.random.default_rng(0).bytes(8 << 20)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder, buffering=0) as file:
                file.write(content)
                os.fsync(file.fileno())
                if hasattr(os, "posix_fadvise"):
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                file.seek(0)
                began = time.perf_counter()
                file.read()
                return (time.perf_counter() - began) / len(content)
        except OSError:
            return float("inf")


def digest(key: Mapping[str, object]) -> str:
    """The name of an entry: of all that decides what its rows are."""
    text = json.dumps(key, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32] + SUFFIX
