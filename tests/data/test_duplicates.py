"""What is done about copies and near-copies in a data set."""

from __future__ import annotations

import numpy as np
from noise_images import jpeg, noise, scene
from PIL import Image

from autotl.data import Dataset, check
from autotl.space.plugin import Example


def example(name: str, image: Image.Image, label: str, split: str = "") -> Example:
    return Example(name, np.asarray(image), label, split)  # type: ignore[arg-type]


def scenes(count: int, classes: str = "ab") -> list[Example]:
    return [example(f"{c}/{i}", scene(100 * ord(c) + i), c) for c in classes for i in range(count)]


def issues(dataset: Dataset) -> list[tuple[str, str, str]]:
    return [(i.name, i.problem, i.action) for i in dataset.issues]


def test_near_copies_stay_in_one_split_and_are_reported() -> None:
    copy = example("a/copy", jpeg(scene(100 * ord("a")), 60), "a")
    for seed in range(10):
        dataset = check([*scenes(8), copy], "here", seed=seed)
        split_of = {e.name: s for e, s in zip(dataset.examples, dataset.splits, strict=True)}
        assert split_of["a/0"] == split_of["a/copy"]
    assert issues(dataset) == [("a/0", "nearly the same image as a/copy", "kept in the same split")]
    assert dataset.skipped == 0


def test_near_copies_in_different_given_splits_are_reported() -> None:
    train = [*scenes(8), example("a/copy", jpeg(scene(100 * ord("a")), 60), "a", "test")]
    dataset = check(train, "here")
    [near, *_] = issues(dataset)
    assert near[1] == "nearly the same image as a/copy"
    assert near[2].startswith("kept as given")
    split_of = {e.name: s for e, s in zip(dataset.examples, dataset.splits, strict=True)}
    assert split_of["a/copy"] == "test"
    assert split_of["a/0"] != "test"  # the test split is the one that was given


def test_near_copies_with_other_labels_are_reported_and_used() -> None:
    dataset = check([*scenes(8), example("b/copy", jpeg(scene(100 * ord("a")), 60), "b")], "here")
    [(name, problem, action)] = issues(dataset)
    assert (name, problem) == (
        "a/0",
        "nearly the same image as b/copy, which is labelled b, not a",
    )
    assert "check the labels" in action
    more = [example(f"b/{i}", jpeg(scene(100 * ord("a")), 50 + i), "b") for i in range(3)]
    [problem] = [p for _, p, a in issues(check([*scenes(8), *more], "here")) if "labels" in a]
    assert "2 more pairs of these classes" in problem
    assert len(set(dataset.units)) == 17


def test_a_class_whose_images_all_look_alike_is_not_one_unit() -> None:
    """Parts that one fixed camera sees: half of the class in one unit could not be split."""
    rng = np.random.default_rng(0)
    base = np.asarray(scene(7)).astype(int)
    alike = [
        example(
            f"c/{i}",
            Image.fromarray((base + rng.integers(-5, 6, base.shape)).clip(0, 255).astype(np.uint8)),
            "c",
        )
        for i in range(10)
    ]
    dataset = check([*scenes(8), *alike], "here")
    [(name, problem, _)] = issues(dataset)
    assert (name, problem) == ("c", "10 of its 10 images look nearly alike")
    assert len(set(dataset.units)) == 26


def test_small_images_are_never_near_copies() -> None:
    digits = [Example(f"{c}/{i}", noise(1, 28) // 2 + i, c) for c in "ab" for i in range(5)]
    different = [Example(e.name, e.item + np.uint8(5 * (e.label == "b")), e.label) for e in digits]
    assert check(different, "here").issues == ()
