"""Checking: unusable examples, duplicates, fingerprints, issues and the files written."""

from __future__ import annotations

import csv
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from noise_images import noise, noise_example, noise_examples, noise_files
from PIL import Image

from autotl.data import Dataset, check, write_issues, write_splits
from autotl.data.split import SPLITS
from autotl.errors import DataError, StoreError
from autotl.space.plugin import Example, Issue


def problems(dataset: Dataset) -> dict[str, str]:
    return {issue.name: issue.problem for issue in dataset.issues}


def test_unreadable_images_are_named_and_left_out(tmp_path: Path) -> None:
    usable = noise_files(tmp_path, 5)
    Image.fromarray(noise(99, 64)).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    broken = {
        "truncated.jpg": whole[: len(whole) * 2 // 3],
        "text.jpg": b"not an image at all",
        "empty.png": b"",
        "cut_off.png": usable[0].item.read_bytes()[:-30],
    }
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
    Image.new("RGB", (1, 40)).save(tmp_path / "line.png")
    names = [*broken, "line.png", "missing.png"]
    unlabelled = replace(usable[0], name="unlabelled", label="")

    dataset = check([*usable, unlabelled, *(Example(n, tmp_path / n, "a") for n in names)], "here")

    assert [e.name for e in dataset.examples] == [e.name for e in usable]
    assert dataset.skipped == len(names) + 1
    assert {i.action for i in dataset.issues if i.name in names} == {"left out"}
    problem = problems(dataset)
    assert "truncated" in problem["truncated.jpg"]
    assert problem["text.jpg"] == "not an image that Pillow can read"
    assert problem["empty.png"] == "the file is empty"
    assert "cut_off.png" in problem
    assert problem["line.png"] == "only 1 x 40 pixels"
    assert problem["missing.png"] == "the file is missing"
    assert problem["unlabelled"] == "no label"


def test_an_image_above_the_limit_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usable = noise_files(tmp_path, 5)
    Image.new("RGB", (40, 40)).save(tmp_path / "bomb.png")
    Image.new("RGB", (30, 30)).save(tmp_path / "large.png")
    monkeypatch.setenv("AUTOTL_MAX_MEGAPIXELS", "0.0014")
    large = [Example(n, tmp_path / n, "a") for n in ("bomb.png", "large.png")]
    dataset = check([*usable, *large], "here")
    assert list(problems(dataset)) == ["bomb.png"]
    assert "large.png" in [e.name for e in dataset.examples]


@pytest.mark.parametrize(
    "array", [np.zeros((8, 8)), np.zeros((8, 8, 0), np.uint8), np.zeros(8, np.uint8)]
)
def test_arrays_of_other_types_or_shapes_are_left_out(array: np.ndarray) -> None:
    dataset = check([*noise_examples(5), Example("odd", array, "a")], "here")
    assert "is neither uint8 [H, W] nor" in problems(dataset)["odd"]


def test_every_file_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: opened.append(self) or read_bytes(self))
    examples = noise_files(tmp_path)
    calls: list[tuple[str, int, int]] = []
    check(examples, "here", progress=lambda *call: calls.append(call))
    assert sorted(opened) == sorted(e.item for e in examples)
    assert calls == [("checking", done, 6) for done in range(1, 7)]


def test_examples_are_in_natural_order_whatever_the_order_of_the_source() -> None:
    examples = [
        noise_example(f"{c}/{i}", c, int(c) * 50 + i) for c in ("10", "2", "1") for i in (10, 9, 1)
    ]
    dataset = check(examples, "here")
    assert dataset.outputs == ("1", "2", "10")
    assert [e.name for e in dataset.examples][:4] == ["1/1", "1/9", "1/10", "2/1"]
    assert [dataset.outputs[c] for c in dataset.targets] == [e.label for e in dataset.examples]
    assert dataset.targets.dtype == np.int64
    from_reversed = check(reversed(examples), "here")
    assert (from_reversed.examples, from_reversed.splits) == (dataset.examples, dataset.splits)
    assert from_reversed.fingerprint == dataset.fingerprint


def test_names_of_thousands_of_digits_are_sorted() -> None:
    """int() refuses them."""
    names = ["1" * 5000, "10", "9", "09", "2a", "0"]
    labels = [f"c{name}" for name in names for _ in range(3)]
    examples = [noise_example(f"{i}", label, i) for i, label in enumerate(labels)]
    assert check(examples, "here").outputs == ("c0", "c2a", "c09", "c9", "c10", "c" + "1" * 5000)


def test_the_fingerprint_depends_on_every_field_and_pixel_but_not_on_the_folder_or_seed(
    tmp_path: Path,
) -> None:
    examples = noise_files(tmp_path / "here", 4)
    *others, last = examples
    fingerprint = check(examples, "here").fingerprint
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    moved = [replace(e, item=tmp_path / "there" / e.name) for e in examples]
    assert check(moved, "there", seed=5).fingerprint == fingerprint

    assert check([*others, replace(last, name="c")], "here").fingerprint != fingerprint
    assert check([*others, replace(last, label="a")], "here").fingerprint != fingerprint
    assert check([*others, replace(last, group="g")], "here").fingerprint != fingerprint
    assert check([*others, replace(last, split="test")], "here").fingerprint != fingerprint
    assert check(others, "here").fingerprint != fingerprint
    pixels = np.array(Image.open(moved[0].item))
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(moved[0].item)
    assert check(moved, "there").fingerprint != fingerprint


def test_arrays_of_equal_bytes_but_different_shapes_are_no_duplicates() -> None:
    flat = np.arange(16, dtype=np.uint8)
    shapes = [Example("x", flat.reshape(2, 8), "a"), Example("y", flat.reshape(8, 2), "b")]
    assert check([*noise_examples(5), *shapes], "here").skipped == 0


def test_duplicates_with_one_label_are_used_and_stay_in_one_split() -> None:
    twins = [noise_example(f"a/twin{i}", "a", 777) for i in range(2)]
    for seed in range(20):
        dataset = check([*noise_examples(5), *twins], "here", seed=seed)
        split_of = {e.name: s for e, s in zip(dataset.examples, dataset.splits, strict=True)}
        assert split_of["a/twin0"] == split_of["a/twin1"]
    assert problems(dataset) == {"a/twin1": "same image as a/twin0"}
    assert (dataset.skipped, dataset.duplicates_across_splits) == (0, 0)


def test_duplicates_with_contradicting_labels_are_all_left_out() -> None:
    copies = [noise_example(n, label, 777) for n, label in (("x", "a"), ("y", "b"), ("z", "a"))]
    dataset = check([*noise_examples(5), *copies], "here")
    assert problems(dataset) == dict.fromkeys("xyz", "same image labelled a and b: x, y, z")
    assert dataset.skipped == 3


@pytest.mark.parametrize(
    ("early", "late"), [("train", "test"), ("validation", "test"), ("train", "validation")]
)
def test_of_duplicates_across_splits_the_more_protected_split_keeps_its_copies(
    early: Any, late: Any
) -> None:
    examples = [
        *(e for split in SPLITS for e in noise_examples(3, split=split)),
        noise_example("early", "a", 777, split=early),
        noise_example("late1", "a", 777, split=late),
        noise_example("late2", "a", 777, split=late),
    ]
    dataset = check(examples, "here")
    names = [e.name for e in dataset.examples]
    assert "early" not in names
    assert {"late1", "late2"} <= set(names)
    assert problems(dataset)["early"] == f"same image as late1 in {late}"
    assert (dataset.skipped, dataset.duplicates_across_splits) == (1, 1)


def test_uncovered_classes_and_divided_groups_are_issues() -> None:
    examples = [
        *noise_examples(5),
        noise_example("t", "a", 777, split="test", group="g"),
        noise_example("u", "a", 778, split="train", group="g"),
    ]
    dataset = check(examples, "here", validation=0)
    assert [(i.name, i.problem) for i in dataset.issues] == [
        ("b", "the class has no image in test"),
        ("g", "the group is in train and test"),
    ]
    assert dataset.issues[0].action == "scores there do not cover it"


def test_sampling_units_are_counted_by_split() -> None:
    examples = noise_examples(6)
    examples[0] = replace(examples[0], group="g")
    examples[1] = replace(examples[1], group="g")
    dataset = check(examples, "here", validation=0, test=0)
    assert dataset.count_units("train") == 11
    assert dataset.count_units("test") == 0


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "no images found"),
        (noise_examples(5, "a"), "only the class 'a'; at least two"),
        ([*noise_examples(5), noise_example("c", "c", 777)],
         r"fewer than two usable images of c \(1 of 1\)"),
        (noise_examples(5, split="test"), "give some to train"),
        ([*noise_examples(5),
          *(noise_example(f"c{i}", "c", 777 + i, split="test") for i in range(3))],
         "no training image of c; move"),
        ([replace(e, group=e.label) for e in noise_examples(5)], "too few .* draw a test split"),
        ([*noise_examples(5), noise_example("x", "a", 777, split="tset")], "x has split 'tset'"),
        ([replace(e, label="") for e in noise_examples(5)],
         r"no class.*first problem: a/0: no label"),
    ],
)  # fmt: skip
def test_unusable_data_are_an_error(examples: list[Example], message: str) -> None:
    with pytest.raises(DataError, match=f"^here: .*{message}"):
        check(examples, "here")


def test_a_validation_split_that_is_a_copy_of_train_is_an_error() -> None:
    train = noise_examples(5, split="train")
    copies = [replace(e, name=f"val/{e.name}", split="validation") for e in train]
    with pytest.raises(DataError, match=r"10 of the 10 training images are also in validation"):
        check([*train, *copies], "here")


def test_pipes_and_folders_are_named_and_not_opened(tmp_path: Path) -> None:
    usable = noise_files(tmp_path, 5)
    os.mkfifo(tmp_path / "pipe.png")
    names = {"pipe": tmp_path / "pipe.png", "zero": Path("/dev/zero"), "folder": tmp_path}
    dataset = check([*usable, *(Example(n, path, "a") for n, path in names.items())], "here")
    assert problems(dataset) == {
        "pipe": "not a file but a pipe, socket or device",
        "zero": "not a file but a pipe, socket or device",
        "folder": "it is a folder",
    }


def test_animated_images_are_mentioned_once(tmp_path: Path) -> None:
    examples = noise_files(tmp_path, 5)
    for name in ("x.gif", "y.tif", "z.webp"):
        frames = [Image.fromarray(noise(ord(name[0]) + i, 40)) for i in range(3)]
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        examples.append(Example(name, tmp_path / name, "a"))
    dataset = check(examples, "here")
    assert problems(dataset) == {
        "x.gif": "3 images have several frames or pages: x.gif, y.tif, z.webp"
    }
    assert dataset.skipped == 0


def test_problems_of_the_source_are_listed_last() -> None:
    issue = Issue("*.dcm", "3 files", "not read")
    dataset = check([*noise_examples(5), noise_example("x", "", 7)], "here", issues=[issue])
    assert [i.name for i in dataset.issues] == ["x", "*.dcm"]
    assert dataset.skipped == 1


def test_fractions_must_be_below_1() -> None:
    with pytest.raises(DataError, match="from 0 to below 1"):
        check(noise_examples(5), "here", test=1)


def test_splits_and_issues_are_written_as_csv(tmp_path: Path) -> None:
    dataset = check([*noise_examples(5), noise_example("odd,\udcff", "", 777)], "here")
    write_splits(dataset, tmp_path / "new" / "splits.csv")
    write_issues(dataset, tmp_path / "issues.csv")
    splits = list(csv.DictReader((tmp_path / "new/splits.csv").read_text().splitlines()))
    assert splits[0] == {"name": "a/0", "label": "a", "split": dataset.splits[0], "group": ""}
    assert len(splits) == 10
    with (tmp_path / "issues.csv").open(newline="", errors="surrogateescape") as file:
        assert list(csv.reader(file)) == [
            ["name", "problem", "action"],
            ["odd,\udcff", "no label", "left out"],
        ]
    with pytest.raises(StoreError, match="choose another folder"):
        write_issues(dataset, tmp_path / "issues.csv" / "x.csv")
