"""The cached rows of some examples in a given order: on the device, in memory or on disk."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from autotl.data import Indices, copy_in_order, device_memory, resident, send_positions
from autotl.frozen.activations import Activations
from autotl.frozen.segments import Entry, RecordFormat

CHUNK_BYTES = 64 << 20
"""Bytes that are computed before they are written as a segment, or read at a time."""

RAM_FRACTION = 0.5
"""Fraction of the machine's available memory that rows may take that are nowhere else when the
device's memory is needed."""


class CachedRows:
    """The rows of some examples in a given order, on the device, in memory or on disk.

    Rows on a GPU may be given up at any moment (``data.resident``). They are then read from the
    disk. If they are not there they are copied to memory before, so that the batches stay the same.

    Args:
        folder: The folder of the entry that has the rows.
        verified: Headers of which this process has verified the checksum, for ``Entry``.
        indices: Indices of the examples in the data set, ``[n]``.
        device: The device that they are used on.

    Attributes:
        format: The format of the rows; None before ``claim_room`` or ``gather``.
    """

    def __init__(
        self, folder: Path, verified: set[Path], indices: Indices, device: torch.device
    ) -> None:
        self._folder, self._verified = folder, verified
        self._indices, self._device = indices, device
        self.format: RecordFormat | None = None
        self._on_device: resident.ResidentTensor | None = None
        self._in_memory: Tensor | None = None
        self._entry: Entry | None = None
        self._gathered = np.zeros(len(indices), np.bool_)  # the rows on the device or in memory

    @property
    def bytes(self) -> int:
        """Bytes of all rows."""
        return len(self._indices) * self.format.bytes if self.format else 0

    @property
    def bytes_in_memory(self) -> int:
        """Bytes of the rows in memory, without those on a device."""
        return 0 if self._in_memory is None else self.bytes

    @property
    def resident(self) -> bool:
        """Whether the rows are on the device or in memory."""
        return self._in_memory is not None or self._is_on_device()

    def claim_room(self, format: RecordFormat) -> bool:
        """Take room for all rows on the device, if there is any; return whether."""
        if self.format is None:
            self.format = format
            shape = (len(self._indices), format.bytes)
            self._on_device = resident.allocate(shape, self._device, self._save)
        return self.resident

    def put(self, indices: Indices, records: Tensor) -> bool:
        """Copy the records ``[m, bytes]`` of some examples to their place on the device.

        Args:
            indices: Indices of the examples in the data set, ``[m]``.
            records: On any device.

        Returns:
            Whether there is a place for them.
        """
        if not self.resident:
            return False
        positions = np.flatnonzero(np.isin(self._indices, indices))
        order = np.argsort(indices, kind="stable")
        order = order[np.searchsorted(indices, self._indices[positions], sorter=order)]
        chosen = records.index_select(0, torch.from_numpy(order).to(records.device))
        rows = self._gathered_rows()
        rows.index_copy_(0, torch.from_numpy(positions).to(rows.device), chosen.to(rows.device))
        self._gathered[positions] = True
        return True

    def copy_from(self, other: CachedRows, missing: Indices) -> Indices:
        """Copy rows that other rows of the same entry have on the device.

        Args:
            other: The other rows.
            missing: Indices of examples whose rows are needed.

        Returns:
            Those of ``missing`` that ``other`` does not have, or for which there is no room.
        """
        shared = missing[np.isin(missing, other._indices)]
        if other.format is None or not len(shared) or not self.claim_room(other.format):
            return missing
        if not other.resident:  # given up for this room
            return missing
        order = np.argsort(other._indices, kind="stable")
        positions = order[np.searchsorted(other._indices, shared, sorter=order)]
        rows = other._gathered_rows()
        self.put(shared, rows.index_select(0, torch.from_numpy(positions).to(rows.device)))
        return missing[~np.isin(missing, shared)]

    def gather(self, entry: Entry, in_memory: bool) -> bool:
        """Complete the rows on the device from an entry, or those in memory, or leave all on disk.

        Args:
            entry: Has all rows that were not put on the device, or were written to the disk.
            in_memory: Whether to gather the rows in memory if they are not on the device.

        Returns:
            Whether all rows are there.
        """
        if self._entry and len(entry.missing(self._indices[~self._gathered])):
            entry = self._entry  # another process has written rows in the meantime
        format = self.format = self.format or entry.format
        assert format is not None
        if not self.resident and in_memory:
            self._in_memory = torch.empty((len(self._indices), format.bytes), dtype=torch.uint8)
        step = max(1, CHUNK_BYTES // format.bytes)
        left = np.unique(self._indices[~self._gathered])
        if len(entry.missing(left)):
            return False
        for start in range(0, len(left), step):
            part = left[start : start + step]
            if not self.resident or not self.put(part, torch.from_numpy(entry.gather(part))):
                break
        self._entry = None if self.resident else entry  # without it, its lock is released
        return self.resident or not len(entry.missing(self._indices))

    def batches(self, positions: Iterable[Indices]) -> Iterator[tuple[Activations, Tensor | None]]:
        """Yield the rows batch by batch, as copies that in-place layers may overwrite.

        Args:
            positions: Positions of each batch's rows in this object, ``[B]``.

        Yields:
            Activations ``[B, ...]``, and targets ``[B, C]`` or None.
        """
        format = self.format
        assert format is not None
        return map(format.unpack, self._load(list(positions)))

    def _load(self, positions: list[Indices]) -> Iterator[Tensor]:
        """Yield the records ``[B, bytes]`` of each batch on the device."""
        if self._is_on_device():
            sent = deque(send_positions(positions, self._device))
            while sent and self._is_on_device():
                yield self._gathered_rows().index_select(0, sent.popleft())
            positions = positions[len(positions) - len(sent) :]
        yield from copy_in_order(self._read, positions, self._device)

    def _read(self, positions: Indices) -> Tensor:
        """Read the records at some positions, from memory or from the disk."""
        rows, ahead = self._in_memory, device_memory.copies_ahead(self._device)
        if rows is not None:
            if not ahead:
                return rows.index_select(0, torch.from_numpy(positions))
            buffer = device_memory.host_buffer((len(positions), rows.shape[1]), self._device)
            return torch.index_select(rows, 0, torch.from_numpy(positions), out=buffer)
        assert self._entry is not None
        records = torch.from_numpy(self._entry.gather(self._indices[positions]))
        if not ahead:
            return records
        return device_memory.host_buffer(records.shape, self._device).copy_(records)

    def _is_on_device(self) -> bool:
        return self._on_device is not None and self._on_device.is_resident

    def _gathered_rows(self) -> Tensor:
        """The rows ``[n, bytes]`` on the device or in memory."""
        rows = self._in_memory
        if self._on_device and self._on_device.is_resident:
            rows = self._on_device.get()
        assert rows is not None
        return rows

    def _save(self, rows: Tensor, in_use: bool) -> bool:
        """Before the rows on the device are given up: open them on disk, or copy them to memory.

        Rows that are not in use and not on disk are lost, and computed again when they are needed.
        """
        entry = Entry(self._folder, self._verified)
        needed = self._indices[self._gathered]
        if entry.format == self.format and not len(entry.missing(needed)):
            self._entry, self._gathered = entry, np.zeros(len(self._indices), np.bool_)
            return True
        if not in_use:
            self._gathered[:] = False
            return True
        if rows.nbytes > RAM_FRACTION * device_memory.available_ram():
            return False
        with torch.inference_mode(False):
            self._in_memory = rows.cpu()
        return True
