"""Checking, splitting, decoding, packing and batching, on small pictures made here."""

from __future__ import annotations

import csv
import os
import shutil
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from autotl.data import (
    Batches,
    Dataset,
    MappedRows,
    Packed,
    check,
    decode,
    pack,
    prefetch,
    write_issues,
    write_splits,
)
from autotl.data import batches as batches_module
from autotl.data import mapped as mapped_module
from autotl.data.image import map_in_threads
from autotl.data.split import SPLITS, split
from autotl.errors import DataError, StoreError
from autotl.space.plugin import Example

CPU = torch.device("cpu")


def noise(seed: int, side: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def example(name: str, label: str, seed: int, **more: Any) -> Example:
    return Example(name, noise(seed), label, **more)


def many(count: int, classes: str = "ab", split: Any = "") -> list[Example]:
    names = [f"{split}{c}/{i}" for c in classes for i in range(count)]
    return [example(n, n[len(split)], zlib.crc32(n.encode()), split=split) for n in names]


def files(root: Path, count: int = 3, classes: str = "ab") -> list[Example]:
    found = []
    for seed, name in enumerate(f"{c}/{i}.png" for c in classes for i in range(count)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(seed)).save(root / name)
        found.append(Example(name, root / name, name[0]))
    return found


def problems(data: Dataset) -> dict[str, str]:
    return {issue.name: issue.problem for issue in data.issues}


# Check -----------------------------------------------------------------------------------------


def test_bad_pictures_are_named_and_left_out(tmp_path: Path) -> None:
    good = files(tmp_path, 5)
    Image.fromarray(noise(99, 64)).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    bad = {
        "truncated.jpg": whole[: len(whole) * 2 // 3],
        "text.jpg": b"not a picture at all",
        "empty.png": b"",
        "torn.png": good[0].image.read_bytes()[:-30],
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    Image.new("RGB", (1, 40)).save(tmp_path / "line.png")
    names = [*bad, "line.png", "missing.png"]
    unlabelled = replace(good[0], name="unlabelled", label="")

    data = check([*good, unlabelled, *(Example(n, tmp_path / n, "a") for n in names)], "here")

    assert [e.name for e in data.examples] == [e.name for e in good]
    assert data.skipped == len(names) + 1
    assert {i.action for i in data.issues if i.name in names} == {"left out"}
    found = problems(data)
    assert "truncated" in found["truncated.jpg"]
    assert found["text.jpg"] == "not a picture that Pillow can read"
    assert found["empty.png"] == "the file is empty"
    assert "torn.png" in found
    assert found["line.png"] == "only 1 x 40 pixels"
    assert found["missing.png"] == "the file is missing"
    assert found["unlabelled"] == "no label"


def test_a_decompression_bomb_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = files(tmp_path, 5)
    Image.new("RGB", (40, 40)).save(tmp_path / "bomb.png")
    Image.new("RGB", (30, 30)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)  # a warning above it, an error above twice
    more = [Example(n, tmp_path / n, "a") for n in ("bomb.png", "large.png")]
    data = check([*good, *more], "here")
    assert list(problems(data)) == ["bomb.png"]
    assert "large.png" in [e.name for e in data.examples]


@pytest.mark.parametrize(
    "array", [np.zeros((8, 8)), np.zeros((8, 8, 4), np.uint8), np.zeros(8, np.uint8)]
)
def test_arrays_that_are_no_pictures_are_left_out(array: np.ndarray) -> None:
    data = check([*many(5), Example("odd", array, "a")], "here")
    assert "is neither uint8 [H, W] nor" in problems(data)["odd"]


def test_every_file_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: opened.append(self) or real(self))
    given = files(tmp_path)
    told: list[tuple[str, int, int]] = []
    check(given, "here", progress=lambda *now: told.append(now))
    assert sorted(opened) == sorted(e.image for e in given)
    assert told == [("checking", done, 6) for done in range(1, 7)]


def test_order_is_natural_whatever_order_comes_in() -> None:
    given = [example(f"{c}/{i}", c, int(c) * 50 + i) for c in ("10", "2", "1") for i in (10, 9, 1)]
    data = check(given, "here")
    assert data.classes == ("1", "2", "10")
    assert [e.name for e in data.examples][:4] == ["1/1", "1/9", "1/10", "2/1"]
    assert [data.classes[c] for c in data.labels] == [e.label for e in data.examples]
    assert data.labels.dtype == np.int64
    again = check(reversed(given), "here")
    assert (again.examples, again.splits) == (data.examples, data.splits)
    assert again.fingerprint == data.fingerprint


def test_the_fingerprint_is_of_the_contents(tmp_path: Path) -> None:
    given = files(tmp_path / "here", 4)
    print_ = check(given, "here").fingerprint
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    moved = [replace(e, image=tmp_path / "there" / e.name) for e in given]
    assert check(moved, "there", seed=5).fingerprint == print_

    assert check([*given[:-1], replace(given[-1], name="c")], "here").fingerprint != print_
    assert check([*given[:-1], replace(given[-1], label="a")], "here").fingerprint != print_
    assert check([*given[:-1], replace(given[-1], group="g")], "here").fingerprint != print_
    assert check([*given[:-1], replace(given[-1], split="test")], "here").fingerprint != print_
    assert check(given[:-1], "here").fingerprint != print_
    pixels = np.array(Image.open(moved[0].image))
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(moved[0].image)
    assert check(moved, "there").fingerprint != print_


def test_arrays_of_equal_bytes_but_other_shape_are_no_copies() -> None:
    flat = np.arange(16, dtype=np.uint8)
    shapes = [Example("x", flat.reshape(2, 8), "a"), Example("y", flat.reshape(8, 2), "b")]
    assert check([*many(5), *shapes], "here").skipped == 0


def test_copies_with_one_label_are_kept_and_stay_together() -> None:
    twins = [example(f"a/twin{i}", "a", 777) for i in range(2)]
    for seed in range(20):
        data = check([*many(5), *twins], "here", seed=seed)
        at = {e.name: s for e, s in zip(data.examples, data.splits, strict=True)}
        assert at["a/twin0"] == at["a/twin1"]
    assert problems(data) == {"a/twin1": "same picture as a/twin0"}
    assert (data.skipped, data.duplicates_across_splits) == (0, 0)


def test_copies_with_contradicting_labels_are_all_left_out() -> None:
    given = [*many(5), example("x", "a", 777), example("y", "b", 777), example("z", "a", 777)]
    data = check(given, "here")
    assert problems(data) == dict.fromkeys("xyz", "same picture labelled a and b: x, y, z")
    assert data.skipped == 3


@pytest.mark.parametrize(
    ("early", "late"), [("train", "test"), ("validation", "test"), ("train", "validation")]
)
def test_the_later_split_keeps_its_copies(early: Any, late: Any) -> None:
    given = [
        *(e for split in SPLITS for e in many(3, split=split)),
        example("early", "a", 777, split=early),
        example("late1", "a", 777, split=late),
        example("late2", "a", 777, split=late),
    ]
    data = check(given, "here")
    names = [e.name for e in data.examples]
    assert "early" not in names
    assert {"late1", "late2"} <= set(names)
    assert problems(data)["early"] == f"same picture as late1 in {late}"
    assert (data.skipped, data.duplicates_across_splits) == (1, 1)


# Split -----------------------------------------------------------------------------------------


def drawn(labels: Sequence[int], groups: Sequence[str] = (), seed: int = 0) -> np.ndarray:
    groups = groups or [""] * len(labels)
    given = [
        Example(str(i), None, str(c), "", g)
        for i, (c, g) in enumerate(zip(labels, groups, strict=True))
    ]
    names = [e.name for e in given]
    return split(given, names, np.array(labels), seed=seed, validation=0.25, test=0.2)


def test_a_drawn_split_is_stratified() -> None:
    labels = [0] * 100 + [1] * 20
    part = drawn(labels)
    count = Counter(zip(labels, part.tolist(), strict=True))
    assert count == {
        (0, "train"): 60, (0, "validation"): 20, (0, "test"): 20,
        (1, "train"): 12, (1, "validation"): 4, (1, "test"): 4,
    }  # fmt: skip


def test_a_drawn_split_is_the_same_for_a_seed_only() -> None:
    labels = [0, 1] * 50
    assert (drawn(labels, seed=1) == drawn(labels, seed=1)).all()
    assert (drawn(labels, seed=1) != drawn(labels, seed=2)).any()


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_never_separated(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, 300).tolist()
    groups = [f"g{g}" if g % 4 else "" for g in rng.integers(0, 60, 300)]
    part = drawn(labels, groups, seed)
    for group in set(groups) - {""}:
        assert len({p for p, g in zip(part, groups, strict=True) if g == group}) == 1
    share = Counter(part.tolist())
    assert 45 <= share["test"] <= 75
    assert 45 <= share["validation"] <= 75


def test_groups_and_copies_chain() -> None:
    # a/0 and b/0 are one group; b/0 and b/1 are one picture; b/1 and b/2 are one group.
    given = many(8)
    index = {e.name: i for i, e in enumerate(given)}

    def change(name: str, **to: Any) -> None:
        given[index[name]] = replace(given[index[name]], **to)

    change("a/0", group="p")
    change("b/0", group="p", image=noise(777))
    change("b/1", group="q", image=noise(777))
    change("b/2", group="q")
    for seed in range(20):
        data = check(given, "here", seed=seed)
        at = {e.name: s for e, s in zip(data.examples, data.splits, strict=True)}
        assert len({at[n] for n in ("a/0", "b/0", "b/1", "b/2")}) == 1


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_small_classes_keep_a_training_picture(count: int) -> None:
    for seed in range(10):
        labels = [c for c in range(6) for _ in range(count)]
        part = drawn(labels, seed=seed)
        assert set(np.array(labels)[part == "train"]) == set(range(6))
        covered = [set(np.array(labels)[part == s]) for s in ("validation", "test")]
        assert all(len(c) == (3 if count == 2 else 6) for c in covered)


def test_a_class_in_one_group_stays_in_training() -> None:
    labels = [0] * 20 + [1] * 10
    part = drawn(labels, [""] * 20 + ["only"] * 10)
    assert set(part[20:]) == {"train"}


def test_given_splits_are_kept() -> None:
    given = many(10, split="train") + many(10, split="test")
    data = check(given, "here", validation=0.2)
    for e, part in zip(data.examples, data.splits, strict=True):
        assert part == "test" if e.split == "test" else part in ("train", "validation")
    assert Counter(data.splits) == {"train": 16, "validation": 4, "test": 20}
    assert [data.splits[i] for i in data.indices("validation", "test")] == [
        s for s in data.splits if s != "train"
    ]
    assert data.indices("train").dtype == np.int64


def test_an_example_follows_the_given_split_of_its_group() -> None:
    given = many(10)
    given[0] = replace(given[0], split="test", group="g")
    given[1] = replace(given[1], group="g")
    data = check(given, "here")
    assert data.splits[:2] == ("test", "test")


def test_gaps_and_torn_groups_are_named() -> None:
    given = [
        *many(5),
        example("t", "a", 777, split="test", group="g"),
        example("u", "a", 778, split="train", group="g"),
    ]
    data = check(given, "here", validation=0)
    assert [(i.name, i.problem) for i in data.issues] == [
        ("b", "the class has no picture in test"),
        ("g", "the group is in train and test"),
    ]
    assert data.issues[0].action == "scores there do not cover it"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "no pictures found"),
        (many(5, "a"), "only the class 'a'; at least two"),
        ([*many(5), example("c", "c", 777)], r"fewer than two usable pictures of c \(1 of 1\)"),
        (many(5, split="test"), "give some to train"),
        ([*many(5), *(example(f"c{i}", "c", 777 + i, split="test") for i in range(3))],
         "no training picture of c; move"),
        ([replace(e, group=e.label) for e in many(5)], "too few .* back for test"),
        ([*many(5), example("x", "a", 777, split="tset")], "x has split 'tset'"),
        ([replace(e, label="") for e in many(5)], r"no class.*first problem: a/0: no label"),
    ],
)  # fmt: skip
def test_data_that_cannot_be_used(given: list[Example], message: str) -> None:
    with pytest.raises(DataError, match=f"^here: .*{message}"):
        check(given, "here")


def test_shares_are_shares() -> None:
    with pytest.raises(DataError, match="from 0 to below 1"):
        check(many(5), "here", test=1)


def test_what_is_written(tmp_path: Path) -> None:
    data = check([*many(5), example("odd,\udcff", "", 777)], "here")
    write_splits(data, tmp_path / "new" / "splits.csv")
    write_issues(data, tmp_path / "issues.csv")
    splits = list(csv.DictReader((tmp_path / "new/splits.csv").read_text().splitlines()))
    assert splits[0] == {"name": "a/0", "label": "a", "split": data.splits[0], "group": ""}
    assert len(splits) == 10
    with (tmp_path / "issues.csv").open(newline="", errors="surrogateescape") as file:
        assert list(csv.reader(file)) == [
            ["name", "problem", "action"],
            ["odd,\udcff", "no label", "left out"],
        ]
    with pytest.raises(StoreError, match="choose a folder"):
        write_issues(data, tmp_path / "issues.csv" / "x.csv")


# Decode ----------------------------------------------------------------------------------------


def saved(path: Path, picture: Image.Image, **options: Any) -> np.ndarray:
    picture.save(path, **options)
    return decode(path, 8, "bilinear")


def test_16_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    for name in ("a.png", "a.tif"):
        pixels = saved(tmp_path / name, Image.fromarray(ramp))
        assert np.abs(pixels[..., 0] - ramp / 257).max() <= 1
        assert (pixels == pixels[..., :1]).all()


@pytest.mark.parametrize(
    ("dtype", "white"), [(np.uint16, 4095), (np.int32, 255), (np.float32, 1), (np.int32, 10**6)]
)
def test_other_depths_fill_8_bits(tmp_path: Path, dtype: type, white: int) -> None:
    ramp = np.linspace(0, white, 64).astype(dtype).reshape(8, 8)
    pixels = saved(tmp_path / "a.tif", Image.fromarray(ramp))
    assert np.abs(pixels[..., 0] - ramp * (255 / white)).max() <= 1


def test_transparency_is_white(tmp_path: Path) -> None:
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.paste(1, (4, 0, 8, 8))
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert (saved(tmp_path / "clear.png", clear) == 255).all()
    for name, transparency in (("index.png", 0), ("bytes.png", bytes([0, 255]))):
        pixels = saved(tmp_path / name, palette, transparency=transparency)
        assert pixels[0, 0].tolist() == [255, 255, 255]
        assert pixels[0, 7].tolist() == [0, 0, 255]
    half = saved(tmp_path / "half.png", Image.new("LA", (8, 8), (0, 128)))
    assert np.abs(half.astype(int) - 127).max() <= 1


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    picture = Image.new("RGB", (16, 8), "black")
    picture.paste("white", (0, 0, 8, 8))  # white on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned a quarter clockwise: white at the top
    pixels = saved(tmp_path / "a.jpg", picture, exif=exif)
    assert pixels[:3].min() > 200
    assert pixels[-3:].max() < 50


def test_other_modes_become_rgb(tmp_path: Path) -> None:
    red = Image.new("RGB", (8, 8), "red").convert("CMYK")
    assert np.abs(saved(tmp_path / "a.tif", red).astype(int) - [255, 0, 0]).max() <= 2
    assert (saved(tmp_path / "a.png", Image.new("L", (8, 8), 77)) == 77).all()
    assert (saved(tmp_path / "b.png", Image.new("1", (8, 8), 1)) == 255).all()
    frames = [Image.new("RGB", (8, 8), c) for c in ("lime", "blue")]
    first = saved(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert (first == [0, 255, 0]).all()
    assert (decode(np.full((4, 6), 9, np.uint8), 8, "nearest") == 9).all()


def test_the_whole_picture_is_kept() -> None:
    wide = np.zeros((10, 100, 3), np.uint8)
    wide[:, :10] = wide[:, -10:] = 255
    pixels = decode(wide, 10, "box")
    assert pixels.shape == (10, 10, 3)
    assert (pixels[:, [0, -1]] == 255).all()
    assert (pixels[:, 1:-1] == 0).all()


def test_interpolation_by_timms_names() -> None:
    pixels = {how: decode(noise(1, 64), 8, how) for how in ("bicubic", "nearest", "random")}
    assert (pixels["random"] == pixels["bicubic"]).all()
    assert (pixels["nearest"] == noise(1, 64)[4::8, 4::8]).all()
    assert pixels["bicubic"].std() < pixels["nearest"].std()  # antialiased


def test_a_large_jpeg_is_reduced_while_decoding(tmp_path: Path) -> None:
    y, x = np.mgrid[:1024, :1024]
    wave = (127 + 60 * np.sin(x / 50) + 60 * np.cos(y / 70)).astype(np.uint8)
    Image.fromarray(wave).save(tmp_path / "a.jpg", quality=95)
    with Image.open(tmp_path / "a.jpg") as full:
        exact = np.asarray(full.convert("RGB").resize((64, 64), Image.Resampling.BICUBIC))
    pixels = decode(tmp_path / "a.jpg", 64, "bicubic")
    assert np.abs(pixels.astype(int) - exact).max() <= 4


def test_an_unreadable_picture_names_itself(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"text")
    with pytest.raises(DataError, match=r"a\.jpg: not a picture that Pillow can read; save it"):
        decode(tmp_path / "a.jpg", 8, "bicubic")
    with pytest.raises(DataError, match="the array: float64"):
        decode(np.zeros((8, 8)), 8, "bicubic")


def test_threads_keep_the_order_and_stop_at_an_error() -> None:
    taken: list[int] = []

    def slow(i: int) -> int:
        time.sleep(0.002 * (i % 3 == 0))
        return i if i != 200 else 1 // 0

    with pytest.raises(ZeroDivisionError):
        map_in_threads(slow, range(1000), taken.append, "", None)
    assert taken == list(range(200))


# Pack ------------------------------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The pictures that ``pack`` has decoded."""
    seen: list[Any] = []

    def count(image: Any, size: int, interpolation: str) -> np.ndarray:
        seen.append(image)
        return decode(image, size, interpolation)

    monkeypatch.setattr(batches_module, "decode", count)
    return seen


def test_a_pack_is_made_once(tmp_path: Path, decoded: list[Any]) -> None:
    data = check(files(tmp_path / "in"), "here")
    told: list[tuple[str, int, int]] = []
    first = pack(data, 8, "nearest", tmp_path / "out", lambda *now: told.append(now))
    assert len(decoded) == len(told) == 6
    assert first.path == tmp_path / "out" / f"{data.fingerprint[:16]}-8-nearest.npy"
    assert first.array.shape == (6, 8, 8, 3)
    assert first.array.dtype == np.uint8
    assert not first.array.flags.writeable
    for i in range(6):
        assert (first.array[i] == noise(i)).all()

    again = pack(data, 8, "nearest", tmp_path / "out")
    assert len(decoded) == 6
    assert (again.array == first.array).all()
    pack(data, 4, "nearest", tmp_path / "out")
    pack(data, 8, "box", tmp_path / "out")
    assert len(decoded) == 18
    assert {p.suffix for p in (tmp_path / "out").iterdir()} == {".npy"}


@pytest.mark.parametrize("harm", ["torn", "empty", "foreign", "other shape", "other type"])
def test_a_pack_that_is_not_ours_is_made_again(
    tmp_path: Path, decoded: list[Any], harm: str
) -> None:
    data = check(many(3), "here")
    path = pack(data, 8, "nearest", tmp_path).path
    whole = path.read_bytes()
    path.unlink()
    if harm == "other shape":
        np.save(path, np.zeros((5, 8, 8, 3), np.uint8))
    elif harm == "other type":
        np.save(path, np.zeros((6, 8, 8, 3), np.int8))
    else:
        path.write_bytes({"torn": whole[:-1], "empty": b"", "foreign": b"x" * 999}[harm])
    pack(data, 8, "nearest", tmp_path)
    assert len(decoded) == 12
    assert path.read_bytes() == whole


def test_a_failed_pack_leaves_nothing(tmp_path: Path) -> None:
    data = check(files(tmp_path / "in"), "here")
    (tmp_path / "in/b/2.png").unlink()
    with pytest.raises(DataError, match=r"2\.png: the file is missing"):
        pack(data, 8, "nearest", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = check(many(3), "here")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="choose another folder"):
        pack(data, 8, "nearest", tmp_path / "file" / "x")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left on device"):
        pack(data, 8, "nearest", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


# Batches ---------------------------------------------------------------------------------------


def numbered(n: int) -> Packed:
    """Pictures that are filled with their own number."""
    array = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 4, 4, 3))
    return Packed(array.copy(), Path("nowhere"))


def order(batches: Batches, epoch: int = 0) -> list[int]:
    return [int(i) for images, _ in batches.epoch(epoch) for i in images[:, 0, 0, 0]]


def test_batches_hold_what_was_chosen() -> None:
    indices = np.array([7, 3, 5, 1])
    batches = Batches(numbered(9), np.arange(9) * 10, indices, 2, CPU)
    assert len(batches) == 2
    pairs = list(batches)
    for images, labels in pairs:
        assert (images.dtype, images.shape) == (torch.uint8, (2, 3, 4, 4))
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert labels.dtype == torch.int64
        assert (labels == images[:, 0, 0, 0] * 10).all()
    assert order(batches, 3) == indices.tolist()


@pytest.mark.parametrize(
    ("n", "size", "sizes"),
    [
        (33, 32, [17, 16]), (64, 32, [32, 32]), (65, 32, [22, 22, 21]), (5, 32, [5]),
        (3, 2, [3]), (5, 2, [3, 2]), (4, 1, [2, 2]), (1, 32, [1]), (0, 32, []),
    ],
)  # fmt: skip
def test_no_batch_holds_a_single_picture(n: int, size: int, sizes: list[int]) -> None:
    batches = Batches(numbered(n), np.zeros(n, np.int64), np.arange(n), size, CPU)
    assert [len(labels) for _, labels in batches] == sizes
    assert len(batches) == len(sizes)


def test_epochs_differ_and_repeat() -> None:
    def shuffled(seed: int) -> Batches:
        return Batches(numbered(40), np.arange(40), np.arange(40), 8, CPU, shuffle_seed=seed)

    batches = shuffled(1)
    assert sorted(order(batches, 0)) == list(range(40))
    assert order(batches, 0) != order(batches, 1)
    assert order(batches, 1) == order(shuffled(1), 1)
    assert order(batches, 1) != order(shuffled(2), 1)
    assert all((y == x[:, 0, 0, 0]).all() for x, y in batches.epoch(1))


def test_a_pack_in_a_file_is_known_by_its_name_and_others_by_their_contents(
    tmp_path: Path,
) -> None:
    data = check(many(5), "here")
    packs = [pack(data, 8, how, tmp_path) for how in ("nearest", "box", "nearest")]
    assert packs[0].key == packs[2].key != packs[1].key
    assert data.fingerprint[:16] in packs[0].key
    assert numbered(9).key == numbered(9).key != numbered(8).key


def test_places_are_those_of_the_batches() -> None:
    batches = Batches(
        numbered(9), np.arange(9) * 10, np.array([7, 3, 5, 1]), 2, CPU, shuffle_seed=1
    )
    places = batches.epoch_indices(3)
    assert batches.indices[np.concatenate(places)].tolist() == order(batches, 3)
    assert [labels.tolist() for labels in batches.labels(places)] == [
        labels.tolist() for _, labels in batches.epoch(3)
    ]
    assert batches.labels([]) == []


def test_what_comes_is_made_in_a_thread_while_the_last_is_used() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for i in range(4):
            made.append(i)
            yield i
        raise ZeroDivisionError

    coming = prefetch(items())
    assert next(coming) == 0
    while len(made) < 2:
        time.sleep(0.001)
    assert made == [0, 1]  # one ahead, no more
    assert [next(coming), next(coming), next(coming)] == [1, 2, 3]
    with pytest.raises(ZeroDivisionError):
        next(coming)
    stopped = prefetch(iter(range(9)))
    next(stopped)
    stopped.close()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="asks Linux")
def test_pages_that_were_read_leave_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def resident() -> int:
        fields = Path("/proc/self/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    content = np.random.default_rng(0).integers(0, 256, (64, 1 << 20), dtype=np.uint8)
    content.tofile(tmp_path / "file")
    mapped = MappedRows(tmp_path / "file", content.shape)
    monkeypatch.setattr(MappedRows, "_read", 0)
    every = np.arange(64)[::-1]
    assert all(np.array_equal(mapped.take(every[i : i + 1])[0], content[63 - i]) for i in range(64))
    whole = resident()
    monkeypatch.setattr(mapped_module, "STAYS", 1 << 22)
    before = resident()
    for i in range(64):
        mapped.take(every[i : i + 1])
    assert whole - resident() > 40 << 20
    assert before == whole
    with pytest.raises(ValueError, match="reshape"):
        MappedRows(tmp_path / "file", (63, 1 << 20))


def test_batches_come_from_a_pack(tmp_path: Path) -> None:
    data = check(many(5), "here")
    packed = pack(data, 8, "nearest", tmp_path)
    train = data.indices("train")
    images, labels = next(iter(Batches(packed, data.labels, train, 32, CPU)))
    assert (images[0].permute(1, 2, 0).numpy() == packed.array[train[0]]).all()
    assert labels.tolist() == data.labels[train].tolist()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_on_a_gpu(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches_module, "RESIDENT_FRACTION", share)
    gpu = torch.device("cuda")
    batches = Batches(numbered(40), np.arange(40), np.arange(40), 8, gpu, shuffle_seed=1)
    on_cpu = Batches(numbered(40), np.arange(40), np.arange(40), 8, CPU, shuffle_seed=1)
    assert order(batches, 2) == order(on_cpu, 2)
    assert all(x.is_cuda and (y == x[:, 0, 0, 0]).all() for x, y in batches)


@pytest.mark.parametrize(("pictures", "share"), [(60, 1 / 3), (1000, 0.3), (3000, 0.2)])
def test_small_sets_give_a_larger_share_to_choose_by(pictures: int, share: float) -> None:
    data = check(many(pictures // 2), "here", test=0)
    assert len(data.examples) == pictures
    assert len(data.indices("validation")) == pytest.approx(share * pictures, abs=2)
