"""Packed arrays: made once, checked when opened, and removed when incomplete."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from noise_images import noise, noise_examples, noise_files

from autotl.data import Packed, check, decode, pack, packing
from autotl.data.packing import DECODING
from autotl.errors import DataError, StoreError


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The images that ``pack`` has decoded."""
    images: list[Any] = []

    def record(image: Any, size: int, interpolation: str, *scales: Any) -> np.ndarray:
        images.append(image)
        return decode(image, size, interpolation, *scales)

    monkeypatch.setattr(packing, "decode", record)
    return images


def test_images_are_decoded_once_for_each_size_and_interpolation(
    tmp_path: Path, decoded: list[Any]
) -> None:
    dataset = check(noise_files(tmp_path / "in"), "here")
    calls: list[tuple[str, int, int]] = []
    first = pack(dataset, 8, "nearest", tmp_path / "out", lambda *call: calls.append(call))
    assert len(decoded) == len(calls) == 6
    assert first.path == tmp_path / "out" / f"{dataset.fingerprint[:16]}-8-nearest-{DECODING}.npy"
    assert first.array.shape == (6, 8, 8, 3)
    assert first.array.dtype == np.uint8
    assert not first.array.flags.writeable
    for i in range(6):
        assert (first.array[i] == noise(i)).all()

    second = pack(dataset, 8, "nearest", tmp_path / "out")
    assert len(decoded) == 6
    assert (second.array == first.array).all()
    pack(dataset, 4, "nearest", tmp_path / "out")
    pack(dataset, 8, "box", tmp_path / "out")
    assert len(decoded) == 18
    assert {p.suffix for p in (tmp_path / "out").iterdir()} == {".npy"}


@pytest.mark.parametrize("damage", ["truncated", "empty", "foreign", "other shape", "other type"])
def test_a_damaged_file_is_replaced(tmp_path: Path, decoded: list[Any], damage: str) -> None:
    dataset = check(noise_examples(3), "here")
    path = pack(dataset, 8, "nearest", tmp_path).path
    intact = path.read_bytes()
    path.unlink()
    if damage == "other shape":
        np.save(path, np.zeros((5, 8, 8, 3), np.uint8))
    elif damage == "other type":
        np.save(path, np.zeros((6, 8, 8, 3), np.int8))
    else:
        contents = {"truncated": intact[:-1], "empty": b"", "foreign": b"x" * 999}
        path.write_bytes(contents[damage])
    pack(dataset, 8, "nearest", tmp_path)
    assert len(decoded) == 12
    assert path.read_bytes() == intact


def test_a_failed_call_leaves_no_file(tmp_path: Path) -> None:
    dataset = check(noise_files(tmp_path / "in"), "here")
    (tmp_path / "in/b/2.png").unlink()
    with pytest.raises(DataError, match=r"2\.png: the file is missing"):
        pack(dataset, 8, "nearest", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = check(noise_examples(3), "here")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="choose another folder"):
        pack(dataset, 8, "nearest", tmp_path / "file" / "x")

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreError, match="No space left on device"):
        pack(dataset, 8, "nearest", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_the_key_is_the_file_name_or_a_hash_of_an_array_in_memory(tmp_path: Path) -> None:
    dataset = check(noise_examples(5), "here")
    keys = [pack(dataset, 8, how, tmp_path).key for how in ("nearest", "box", "nearest")]
    assert keys[0] == keys[2] != keys[1]
    assert dataset.fingerprint[:16] in keys[0]
    one, same, other = (Packed(noise(seed)[None], Path("nowhere")).key for seed in (1, 1, 2))
    assert one == same != other


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
        assert pack(dataset, 8, "nearest", tmp_path).array.shape == (6, 8, 8, 3)
        assert [p.suffix for p in tmp_path.iterdir()] == [".npy"]
    else:
        with pytest.raises(StoreError, match="the file is mapped"):
            pack(dataset, 8, "nearest", tmp_path)
