"""Encode all examples of a data set once into one memory-mapped array on disk."""

from __future__ import annotations

import hashlib
import io
import math
import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from autotl import files
from autotl.data.dataset import Dataset
from autotl.data.image import Progress, map_in_threads
from autotl.data.memory_map import MappedArray, take_rows
from autotl.data.unlabelled import Unlabelled
from autotl.errors import StoreError
from autotl.space.input_kind import ModelInput

PACKED_SUFFIX = ".npy"
"""Suffix of the files of packed examples."""

PARTIAL_SUFFIX = ".partial"
"""Suffix of a packed file that is being written, or whose process was interrupted."""

SYNC_BYTES = 64 << 20
"""The bytes after which what was written is flushed to the disk, to outlast a power cut."""

MAX_MEMORY_BYTES = 2 << 30
"""The maximum bytes of examples that are packed in memory if they cannot be on disk."""


@dataclass(frozen=True, eq=False)
class Packed:
    """All examples of a data set, encoded for one input.

    Attributes:
        array: The examples ``[N, ...]``, read-only; images as ``uint8 [N, S, S, 3]``.
        path: The file that holds the array.
        mapped: The memory map of that file; None if the array is in memory.
    """

    array: NDArray[Any]
    path: Path
    mapped: MappedArray | None = None

    @cached_property
    def key(self) -> str:
        """Identifies these examples: the file's name if there is a file, else a content hash."""
        if self.mapped:
            return self.path.stem
        return hashlib.sha256(np.ascontiguousarray(self.array).data).hexdigest()

    def take(self, indices: NDArray[np.int64], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Copy the examples at ``indices [n]``, as ``[n, ...]``, to ``out`` if given."""
        if self.mapped:
            return self.mapped.take(indices, out)
        return take_rows(self.array, indices, out)


@dataclass(frozen=True, eq=False)
class EncodedOnDemand(Packed):
    """Examples that are encoded each time they are taken, instead of all of them before.

    Attributes:
        array: Has no examples, but their shape and type.
        path: The file that would hold all of them.
        dataset: The examples.
        expects: The input that they are encoded for.
    """

    dataset: Dataset = field(kw_only=True)
    expects: ModelInput = field(kw_only=True)

    @property
    def key(self) -> str:
        """The key of the examples once they are packed in their file."""
        return self.path.stem

    def take(self, indices: NDArray[np.int64], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Encode the examples at ``indices [n]``, as ``[n, ...]``, into ``out`` if given."""
        dataset, expects = self.dataset, self.expects
        rows = np.empty((len(indices), *expects.shape), self.array.dtype) if out is None else out
        map_in_threads(
            lambda index: dataset.encode(index, expects), indices.tolist(), _fill(rows), "", None
        )
        return rows


def open_or_encode(dataset: Dataset, expects: ModelInput, folder: Path) -> Packed:
    """Open the array that ``pack`` wrote to ``folder``; without one, encode what is taken.

    The latter suits few examples of many, each of which is taken once.
    """
    path = _packed_path(dataset, expects, folder)
    shape, dtype = (len(dataset.examples), *expects.shape), np.dtype(expects.dtype)
    if packed := _open_packed(path, shape, dtype):
        return packed
    empty = np.empty((0, *expects.shape), dtype)
    return EncodedOnDemand(empty, path, dataset=dataset, expects=expects)


def packed_bytes(dataset: Dataset | Unlabelled, expects: ModelInput) -> int:
    """The bytes of the packed examples of a data set."""
    return len(dataset.examples) * math.prod(expects.shape) * np.dtype(expects.dtype).itemsize


def pack(
    dataset: Dataset | Unlabelled,
    expects: ModelInput,
    folder: Path,
    progress: Progress | None = None,
    *,
    make_room: Callable[[int], bool] | None = None,
    warn: Callable[[str], object] | None = None,
) -> Packed:
    """Encode every example once, or open the array that an earlier call wrote to ``folder``.

    The file is named after the data set's fingerprint, which covers exactly ``dataset.examples``
    in their order, and the key of the input. It is written under another name and renamed when
    complete, so that a truncated file is never used; the next call continues what an interrupted
    one has written. Of processes that need it at the same time, one writes it, and the others wait.
    The file is locked against deletion as long as the returned object exists. If it cannot be
    written, or has no room, the examples are packed in memory, up to ``MAX_MEMORY_BYTES``.

    Args:
        dataset: The data set to pack, or the examples without a label.
        expects: The input of the backbones that the examples are encoded for.
        folder: Folder for packed arrays; created if missing.
        progress: Called after every example.
        make_room: Makes room in ``folder`` before a file is written; None for no limit.
        warn: Called with a message if the file cannot be written; None to ignore it.

    Raises:
        DataError: An example has become unreadable since ``check``.
        StoreError: The array can neither be written nor does it fit in memory.
    """
    path = _packed_path(dataset, expects, folder)
    shape, dtype = (len(dataset.examples), *expects.shape), np.dtype(expects.dtype)
    if packed := _open_packed(path, shape, dtype):
        files.mark_used(path)
        return packed
    with _only_one_packs(path) as is_alone:
        # Another process may have written it in the meantime.
        return _open_packed(path, shape, dtype) or _pack(
            dataset, expects, path, progress, make_room, warn, can_continue=is_alone
        )


def _packed_path(dataset: Dataset | Unlabelled, expects: ModelInput, folder: Path) -> Path:
    return folder / f"{dataset.fingerprint[:16]}-{expects.key}{PACKED_SUFFIX}"


@contextmanager
def _only_one_packs(path: Path) -> Iterator[bool]:
    """Wait until no other process writes the file, and keep others from it inside.

    Yields:
        Whether that is certain. Where no lock file can be written, processes may do redundant work,
        but do not interfere.
    """
    lock = FileLock(path.with_suffix(".lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError:
        yield False
        return
    try:
        yield True
    finally:
        with suppress(OSError):  # on Windows, if another process waits for it
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _pack(
    dataset: Dataset | Unlabelled,
    expects: ModelInput,
    path: Path,
    progress: Progress | None,
    make_room: Callable[[int], bool] | None,
    warn: Callable[[str], object] | None,
    can_continue: bool,
) -> Packed:
    """Encode every example and write the file, or pack in memory, see ``pack``.

    ``can_continue`` is whether the file that an interrupted call wrote may be continued.
    """
    shape, dtype = (len(dataset.examples), *expects.shape), np.dtype(expects.dtype)
    num_bytes = packed_bytes(dataset, expects)
    has_room = make_room is None or make_room(num_bytes)
    fits_in_memory = num_bytes <= MAX_MEMORY_BYTES
    write = _Writer(dataset, expects, progress)
    if has_room or not fits_in_memory:
        try:
            return _pack_on_disk(path, shape, dtype, write, can_continue)
        except OSError as error:
            reason = f"cannot write {num_bytes / 2**20:.0f} MiB of packed {dataset.kind.nouns}"
            text = f"{path}: {reason} ({error.strerror or error}); free some space"
            if not fits_in_memory:
                raise StoreError(f"{text} or choose another folder with --out") from error
            if warn:
                warn(f"{text}, or every run decodes the {dataset.kind.nouns} again")
    array = np.empty(shape, dtype)
    write(_fill(array))
    array.flags.writeable = False
    return Packed(array, path)


@dataclass(frozen=True)
class _Writer:
    """Encodes the examples of a data set from one on and passes each to a function, in order."""

    dataset: Dataset | Unlabelled
    expects: ModelInput
    progress: Progress | None

    def __call__(self, consume: Callable[[NDArray[Any]], object], first: int = 0) -> None:
        count, progress = len(self.dataset.examples), self.progress
        map_in_threads(
            lambda index: self.dataset.encode(index, self.expects),
            range(first, count),
            consume,
            f"packing at {self.expects.size} {self.dataset.kind.unit}",
            progress and (lambda step, done, _: progress(step, first + done, count)),
        )


def _fill(array: NDArray[Any]) -> Callable[[NDArray[Any]], None]:
    """Return a function that copies examples into the rows of an array, one after the other."""
    rows = iter(array)

    def copy(encoded: NDArray[Any]) -> None:
        next(rows)[:] = encoded

    return copy


def _pack_on_disk(
    path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], write: _Writer, can_continue: bool
) -> Packed:
    """Write the array to a file and open it.

    Raises:
        OSError: The file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(PARTIAL_SUFFIX) if can_continue else files.temporary_path(path)
    try:
        _write_rows(partial, shape, dtype, write)
        partial.replace(path)
    except PermissionError:
        # Windows does not replace a file that is mapped into memory, which the array of another
        # process is that was faster; it has the same content.
        partial.unlink(missing_ok=True)
        if packed := _open_packed(path, shape, dtype):
            return packed
        raise
    except Exception:  # after Ctrl-C, the next call continues it
        partial.unlink(missing_ok=True)
        raise
    if packed := _open_packed(path, shape, dtype):
        return packed
    raise OSError("the file differs from what was written")


def _write_rows(
    partial: Path, shape: tuple[int, ...], dtype: np.dtype[Any], write: _Writer
) -> None:
    """Write the array to a file, after the rows that are there already."""
    header = io.BytesIO()
    facts = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, facts)
    begin, row_bytes = len(header.getvalue()), math.prod(shape[1:]) * dtype.itemsize
    # The file is written, not mapped, so that a full disk is an error instead of a crash.
    with partial.open("a+b") as file:
        descriptor = files.lock(partial, shared=True)  # against deletion
        try:
            # What was not flushed before a power cut may have the right size and no content.
            done = max(0, file.tell() - begin - SYNC_BYTES) // row_bytes
            file.seek(0)
            if file.read(begin) != header.getvalue() or done > shape[0]:
                done = 0
            file.truncate(begin + done * row_bytes if done else 0)
            if not done:
                file.write(header.getvalue())
            written = 0

            def add(encoded: NDArray[Any]) -> None:
                nonlocal written
                written += file.write(np.ascontiguousarray(encoded).data)
                if written >= SYNC_BYTES:
                    written = 0
                    _flush(file)

            write(add, done)
            _flush(file)
        finally:
            if descriptor is not None:
                _close(descriptor)


def read_packed_row_bytes(path: Path) -> int:
    """Read the bytes of an example in a packed file, complete or not; 0 if it is damaged."""
    with suppress(OSError, ValueError), path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        return math.prod(shape[1:]) * dtype.itemsize
    return 0


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _open_packed(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Packed | None:
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
        if array.shape != shape or array.dtype != dtype or not array.flags.c_contiguous:
            raise ValueError("it is another array")
        mapped = MappedArray(path, shape, array.offset, dtype)
    except (OSError, ValueError, EOFError):
        os.close(descriptor)
        return None
    weakref.finalize(mapped, _close, descriptor)
    return Packed(mapped.array, path, mapped)


def _close(descriptor: int) -> None:
    with suppress(OSError):
        os.close(descriptor)
