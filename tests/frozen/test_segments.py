"""The files of the cache: damaged and incomplete segments, and locks."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from autotl import files
from autotl.frozen import segments
from autotl.frozen.segments import Entry, RecordFormat

FORMAT = RecordFormat("float32", (5,), channels_last=False, targets=0)


def row(index: int) -> Tensor:
    """The activations of the example at an index of an imagined data set."""
    return torch.arange(5) + 10.0 * index


def records_of(indices: np.ndarray) -> np.ndarray:
    return FORMAT.pack(torch.stack([row(i) for i in indices.tolist()]), None).numpy()


def add(folder: Path, *indices: int) -> Entry:
    """Open an entry, write the rows that it lacks as a segment, and assert that all are right."""
    entry = Entry(folder, set())
    requested = np.array(indices, np.int64)
    if len(missing := entry.missing(requested)):
        assert entry.write(FORMAT, missing, records_of(missing), lambda _: True)
    assert_right(entry, requested)
    return entry


def assert_right(entry: Entry, indices: np.ndarray) -> None:
    """Assert that the entry has the rows with these indices, and that they are right."""
    assert not len(entry.missing(indices))
    assert np.array_equal(entry.gather(indices), records_of(indices))


def missing_in(folder: Path, *indices: int) -> list[int]:
    missing: list[int] = Entry(folder, set()).missing(np.array(indices, np.int64)).tolist()
    return missing


def find(folder: Path, suffix: str) -> list[Path]:
    return sorted(folder.rglob(f"*{suffix}"))


def test_rows_are_gathered_from_all_segments_in_the_requested_order(tmp_path: Path) -> None:
    add(tmp_path / "a", 7, 3)
    entry = add(tmp_path / "a", 3, 5, 7)
    entry.add_in_memory(FORMAT, np.array([9]), records_of(np.array([9])))
    assert entry.unsaved_bytes == FORMAT.bytes == 20
    assert_right(entry, np.array([9, 5, 7, 3, 5]))
    assert missing_in(tmp_path / "a", 9, 3, 7, 5) == [9]


def test_a_segment_is_not_written_without_space(tmp_path: Path) -> None:
    entry = Entry(tmp_path / "a", set())
    indices = np.arange(4)
    assert not entry.write(FORMAT, indices, records_of(indices), lambda _: False)
    assert not find(tmp_path, ".bin")
    assert entry.missing(indices).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("damage", ["bit", "short", "long", "header", "rows", "format"])
def test_a_damaged_segment_is_deleted(tmp_path: Path, damage: str) -> None:
    add(tmp_path / "a", 1, 2)
    add(tmp_path / "a", 3)
    [content, *_] = [p for p in find(tmp_path, ".bin") if p.stat().st_size == 40]
    sidecar = content.with_suffix(".json")
    raw, header = bytearray(content.read_bytes()), json.loads(sidecar.read_bytes())
    if damage == "bit":
        raw[17] ^= 4
    content.write_bytes({"short": raw[:-1], "long": raw + b"x"}.get(damage, raw))
    if damage == "rows":
        header["rows"] = [2, 1]
    if damage == "format":
        header["format"]["dtype"] = "int32"
    sidecar.write_text(json.dumps(header)[: -9 if damage == "header" else None])
    assert missing_in(tmp_path / "a", 1, 2, 3) == [1, 2]
    assert not content.exists()
    add(tmp_path / "a", 1, 2, 3)
    assert len(find(tmp_path, ".json")) == len(find(tmp_path, ".bin")) == 2


def test_a_segment_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    add(tmp_path / "a", 1, 2)
    [header] = find(tmp_path, ".json")
    content = json.loads(header.read_bytes())
    for name in ("input_dtype", "input_shape"):
        del content["format"][name]
    del content["checksum"]
    [records] = find(tmp_path, ".bin")
    array = np.frombuffer(records.read_bytes(), np.uint8).reshape(2, FORMAT.bytes)
    checksum = segments._checksum(content, array)
    header.write_text(json.dumps({**content, "checksum": checksum}))
    assert_right(Entry(tmp_path / "a", set()), np.array([1, 2]))


def test_an_incomplete_segment_is_not_read_and_is_deleted_later(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    add(folder, 1, 2)
    [sidecar] = find(tmp_path, ".json")
    sidecar.unlink()  # as if the process had been killed before it was renamed
    (folder / "x.tmp").write_text("{")
    assert missing_in(folder, 1, 2) == [1, 2]
    add(folder, 1, 2)
    assert len(find(tmp_path, ".bin")) == 2  # another process may be writing the other one now
    old = time.time() - 2 * segments.ABANDONED_AFTER_SECONDS
    for path in find(tmp_path, ""):
        os.utime(path, (old, old))
    assert missing_in(folder, 1, 2) == []
    assert len(find(tmp_path, ".bin")) == 1
    assert not find(tmp_path, ".tmp")


def hold(folder: Path, ready: Any, done: Any) -> None:
    entry = add(folder, 1, 2)
    ready.set()
    done.wait(30)
    assert_right(entry, np.array([1, 2]))


def test_an_entry_that_another_process_uses_is_not_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=hold, args=(folder, ready, done))
    process.start()
    assert ready.wait(30)
    assert not files.delete_unused(folder)
    done.set()
    process.join()
    assert process.exitcode == 0
    assert files.delete_unused(folder)
    assert not folder.exists()


def test_an_entry_may_be_deleted_while_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, deleted = files.lock, []

    def lock_late(folder: Path, *, shared: bool) -> int | None:
        descriptor = lock(folder, shared=shared)
        if shared and len(deleted) < 3:
            deleted.append(folder)
            shutil.rmtree(folder)
        return descriptor

    monkeypatch.setattr(files, "lock", lock_late)
    add(tmp_path / "a", 1, 2)
    assert missing_in(tmp_path / "a", 1, 2) == []
    assert len(deleted) == 3


def test_a_file_system_without_locks_is_supported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    for _ in range(2):
        add(tmp_path / "a", 1, 2)
    assert files.delete_unused(tmp_path / "a")
