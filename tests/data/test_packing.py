"""Packed arrays: made once, checked when opened, and removed when incomplete."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from images import image_input
from noise_images import noise, noise_examples, noise_files

from autotl import files
from autotl.data import Packed, check, decode, image_kind, open_or_encode, pack, packing
from autotl.data.image_kind import DECODING
from autotl.errors import DataError, StoreError


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The images that ``pack`` has decoded."""
    images: list[Any] = []

    def record(image: Any, size: int, interpolation: str, *scales: Any) -> np.ndarray:
        images.append(image)
        return decode(image, size, interpolation, *scales)

    monkeypatch.setattr(image_kind, "decode", record)
    return images


def test_images_are_decoded_once_for_each_size_and_interpolation(
    tmp_path: Path, decoded: list[Any]
) -> None:
    dataset = check(noise_files(tmp_path / "in"), "here")
    calls: list[tuple[str, int, int]] = []
    first = pack(
        dataset, image_input(8, "nearest"), tmp_path / "out", lambda *call: calls.append(call)
    )
    assert len(decoded) == len(calls) == 6
    assert first.path == tmp_path / "out" / f"{dataset.fingerprint[:16]}-8-nearest-{DECODING}.npy"
    assert first.array.shape == (6, 8, 8, 3)
    assert first.array.dtype == np.uint8
    assert not first.array.flags.writeable
    for i in range(6):
        assert (first.array[i] == noise(i)).all()

    second = pack(dataset, image_input(8, "nearest"), tmp_path / "out")
    assert len(decoded) == 6
    assert (second.array == first.array).all()
    pack(dataset, image_input(4, "nearest"), tmp_path / "out")
    pack(dataset, image_input(8, "box"), tmp_path / "out")
    assert len(decoded) == 18
    assert {p.suffix for p in (tmp_path / "out").iterdir()} == {".npy"}


@pytest.mark.parametrize("damage", ["truncated", "empty", "foreign", "other shape", "other type"])
def test_a_damaged_file_is_replaced(tmp_path: Path, decoded: list[Any], damage: str) -> None:
    dataset = check(noise_examples(3), "here")
    path = pack(dataset, image_input(8, "nearest"), tmp_path).path
    intact = path.read_bytes()
    path.unlink()
    if damage == "other shape":
        np.save(path, np.zeros((5, 8, 8, 3), np.uint8))
    elif damage == "other type":
        np.save(path, np.zeros((6, 8, 8, 3), np.int8))
    else:
        contents = {"truncated": intact[:-1], "empty": b"", "foreign": b"x" * 999}
        path.write_bytes(contents[damage])
    pack(dataset, image_input(8, "nearest"), tmp_path)
    assert len(decoded) == 12
    assert path.read_bytes() == intact


def test_a_failed_call_leaves_no_file(tmp_path: Path) -> None:
    dataset = check(noise_files(tmp_path / "in"), "here")
    (tmp_path / "in/b/2.png").unlink()
    with pytest.raises(DataError, match=r"2\.png: the file is missing"):
        pack(dataset, image_input(8, "nearest"), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_interrupted_call_is_continued(
    tmp_path: Path, decoded: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = check(noise_files(tmp_path / "in"), "here")
    expects, row_bytes = image_input(8, "nearest"), 8 * 8 * 3
    monkeypatch.setattr(packing, "SYNC_BYTES", 2 * row_bytes)

    def interrupt(step: str, done: int, total: int) -> None:
        assert total == 6
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(dataset, expects, tmp_path / "out", interrupt)
    [partial] = (tmp_path / "out").iterdir()
    content = bytearray(partial.read_bytes())
    content[-2 * row_bytes :] = bytes(2 * row_bytes)  # what a power cut may leave
    partial.write_bytes(content)
    decoded.clear()
    calls: list[int] = []
    packed = pack(dataset, expects, tmp_path / "out", lambda step, done, total: calls.append(done))
    assert calls == [4, 5, 6]
    assert len(decoded) == 3
    assert all((packed.array[i] == noise(i)).all() for i in range(6))
    assert [p.suffix for p in (tmp_path / "out").iterdir()] == [".npy"]


@pytest.mark.parametrize("size", [0, 5, 100, 100_000])
def test_a_partial_file_that_is_damaged_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(packing, "SYNC_BYTES", 1)
    dataset = check(noise_examples(3), "here")
    expects = image_input(8, "nearest")
    path = pack(dataset, expects, tmp_path).path
    array = np.load(path)
    path.unlink()
    path.with_suffix(packing.PARTIAL_SUFFIX).write_bytes(bytes(size))
    assert (pack(dataset, expects, tmp_path).array == array).all()


def fail(_: int) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("fault", ["full disk", "no folder"])
def test_without_a_disk_the_images_are_packed_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    dataset = check(noise_examples(3), "here")
    folder, expected = (
        tmp_path / "cache",
        pack(dataset, image_input(8, "nearest"), tmp_path / "other").array,
    )
    if fault == "no folder":
        folder.write_bytes(b"")
    else:
        monkeypatch.setattr(os, "fsync", fail)
    messages: list[str] = []
    packed = pack(dataset, image_input(8, "nearest"), folder, warn=messages.append)
    assert packed.mapped is None
    assert (packed.array == expected).all()
    assert not packed.array.flags.writeable
    assert "free some space" in messages[0]
    assert len(messages) == 1
    assert folder.is_file() or list(folder.iterdir()) == []


def test_images_that_fit_neither_on_disk_nor_in_memory_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = check(noise_examples(3), "here")
    monkeypatch.setattr(packing, "MAX_MEMORY_BYTES", 1)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreError, match=r"No space left on device.*another folder"):
        pack(dataset, image_input(8, "nearest"), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_without_room_the_images_are_packed_in_memory_if_they_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = check(noise_examples(3), "here")
    requested: list[int] = []

    def make_room(num_bytes: int) -> bool:
        requested.append(num_bytes)
        return False

    assert pack(dataset, image_input(8, "nearest"), tmp_path, make_room=make_room).mapped is None
    assert requested == [6 * 8 * 8 * 3]
    monkeypatch.setattr(packing, "MAX_MEMORY_BYTES", 1)
    assert pack(dataset, image_input(8, "nearest"), tmp_path, make_room=make_room).mapped
    assert pack(dataset, image_input(8, "nearest"), tmp_path, make_room=make_room).mapped
    assert len(requested) == 2  # a file that exists needs no room


def test_a_packed_array_is_not_deleted_while_it_is_used(tmp_path: Path) -> None:
    dataset = check(noise_examples(3), "here")
    packed = pack(dataset, image_input(8, "nearest"), tmp_path)
    assert not files.delete_unused(packed.path)
    os.utime(packed.path, (1, 1))
    pack(dataset, image_input(8, "nearest"), tmp_path)
    assert files.last_used(packed.path) > 1e9
    path = packed.path
    del packed
    assert files.delete_unused(path)


def test_the_key_is_the_file_name_or_a_hash_of_an_array_in_memory(tmp_path: Path) -> None:
    dataset = check(noise_examples(5), "here")
    inputs = [image_input(8, how) for how in ("nearest", "box", "nearest")]
    keys = [pack(dataset, expects, tmp_path).key for expects in inputs]
    assert keys[0] == keys[2] != keys[1]
    assert dataset.fingerprint[:16] in keys[0]
    one, same, other = (Packed(noise(seed)[None], Path("nowhere")).key for seed in (1, 1, 2))
    assert one == same != other


def test_examples_that_are_not_packed_are_encoded_as_they_are_taken(
    tmp_path: Path, decoded: list[Any]
) -> None:
    dataset, expects = check(noise_examples(5), "here"), image_input(8, "nearest")
    few = open_or_encode(dataset, expects, tmp_path)
    chosen = np.array([4, 0, 4])
    taken = few.take(chosen)
    assert len(decoded) == 3
    packed = pack(dataset, expects, tmp_path)
    assert (packed.key, packed.array.dtype) == (few.key, few.array.dtype)  # the same features
    assert packed.array.shape[1:] == few.array.shape[1:]
    assert (packed.take(chosen) == taken).all()
    out = np.empty_like(taken)
    assert few.take(chosen, out) is out
    assert (out == taken).all()
    decoded.clear()
    opened = open_or_encode(dataset, expects, tmp_path)
    assert (opened.take(chosen) == taken).all()
    assert not decoded


@pytest.mark.parametrize("is_written", [True, False])
def test_a_file_that_is_mapped_by_another_process_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_written: bool
) -> None:
    """On Windows; another process has packed the same images at the same time."""

    def refuse(unfinished: Path, target: Path) -> Path:
        if is_written:
            target.write_bytes(unfinished.read_bytes())
        raise PermissionError(13, "the file is mapped")

    monkeypatch.setattr(Path, "replace", refuse)
    dataset = check(noise_examples(3), "here")
    if is_written:
        assert pack(dataset, image_input(8, "nearest"), tmp_path).array.shape == (6, 8, 8, 3)
        assert [p.suffix for p in tmp_path.iterdir()] == [".npy"]
    else:
        assert pack(dataset, image_input(8, "nearest"), tmp_path).mapped is None


def test_of_several_that_need_a_file_one_writes_it(tmp_path: Path, decoded: list[Any]) -> None:
    dataset = check(noise_files(tmp_path / "in"), "here")
    expects = image_input(8, "nearest")
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(pack, dataset, expects, tmp_path / "out") for _ in range(4)]
        arrays = [call.result().array for call in calls]
    assert len(decoded) == len(dataset.examples)
    assert {p.suffix for p in (tmp_path / "out").iterdir()} == {".npy"}
    assert all(np.array_equal(array, arrays[0]) for array in arrays)
