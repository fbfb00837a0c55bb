"""Examples without a label: which are used, and that none touches validation or test."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from images import image_input
from noise_images import jpeg, noise, noise_example, noise_examples, noise_files, scene
from PIL import Image

from autotl.data import Dataset, check, pack
from autotl.data.unlabelled import divide
from autotl.errors import DataError
from autotl.space.plugin import Example


def without_label(seed: int, **fields: Any) -> Example:
    return noise_example(f"u/{seed}", "", 9000 + seed, **{"split": "unlabelled", **fields})


def names(dataset: Dataset) -> list[str]:
    return [example.name for example in dataset.unlabelled.examples]


def test_an_example_without_a_label_is_unlabelled_unless_it_validates_or_tests() -> None:
    missing = ["", " ", "NaN", float("nan")]
    others = [
        Example("named", None, "a", "unlabelled"),
        Example("train", None, "", "train"),
        *(Example(f"{split}", None, "", split) for split in ("validation", "test")),
        *(Example(str(label), None, label) for label in ("a", 0.0, 0, ())),
    ]
    labelled, unlabelled = divide([*(Example("x", None, label) for label in missing), *others])
    assert [e.name for e in labelled] == ["validation", "test", "a", "0.0", "0", "()"]
    assert [e.name for e in unlabelled] == ["x"] * 4 + ["named", "train"]
    assert unlabelled[4].label == ""


def test_they_change_nothing_about_the_labelled_examples() -> None:
    labelled = noise_examples(10)
    alone = check(labelled, "here")
    both = check(labelled, "here", unlabelled=[without_label(i) for i in range(5)])
    assert both.fingerprint == alone.fingerprint == alone.identity
    assert (both.examples, both.splits, both.issues) == (alone.examples, alone.splits, alone.issues)
    assert names(both) == [f"u/{i}" for i in range(5)]
    assert both.identity == f"{both.fingerprint} {both.unlabelled.fingerprint}"
    assert len(alone.unlabelled) == 0
    other = check(labelled, "here", unlabelled=[without_label(i) for i in range(4)])
    assert other.identity != both.identity


def test_a_few_missing_labels_are_a_problem_that_is_named() -> None:
    unlabelled = [without_label(i, split="train") for i in range(7)]
    dataset = check(noise_examples(10), "here", unlabelled=[*unlabelled, without_label(8)])
    [issue] = dataset.issues
    assert issue.problem == "7 images have no label: u/0, u/1, u/2, u/3, u/4 and 2 more"
    assert issue.action == "used as unlabelled examples only"
    [issue] = check(noise_examples(10), "here", unlabelled=unlabelled[:1]).issues
    assert issue.problem == "1 image has no label: u/0"


def test_unreadable_ones_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "torn.png").write_bytes(b"torn")
    torn = Example("torn.png", tmp_path / "torn.png", "", "unlabelled")
    dataset = check(noise_examples(10), "here", unlabelled=[torn, without_label(0)])
    assert names(dataset) == ["u/0"]
    assert [(i.name, i.action) for i in dataset.issues] == [("torn.png", "left out")]
    assert dataset.skipped == 0


def test_copies_of_labelled_examples_and_of_each_other_are_left_out(tmp_path: Path) -> None:
    """Also where only the pixels are the same, and not the bytes of the file."""
    labelled = noise_files(tmp_path, 10)
    Image.fromarray(noise(3)).save(tmp_path / "copy.bmp")
    copies = [Example("copy", tmp_path / "copy.bmp", ""), replace(labelled[15], name="same")]
    twins = [without_label(1), replace(without_label(1), name="u/1b")]
    unlabelled = [replace(e, split="unlabelled", label="") for e in (*copies, *twins)]
    dataset = check(labelled, "here", unlabelled=unlabelled)
    assert names(dataset) == ["u/1"]
    assert [i.problem for i in dataset.issues] == [
        "2 unlabelled copies of labelled images: copy, same",
        "1 unlabelled copy of others: u/1b",
    ]


def test_those_of_the_group_of_a_validation_or_test_example_are_not_used_there() -> None:
    labelled = [replace(e, group=f"patient {i // 2}") for i, e in enumerate(noise_examples(12))]
    unlabelled = [without_label(i, group=f"patient {i}") for i in range(14)]
    dataset = check(labelled, "here", unlabelled=unlabelled)

    def groups(indices: Any) -> set[str]:
        return {dataset.examples[i].group for i in indices}

    validation, test = dataset.indices("validation"), dataset.indices("test")
    for protected in (validation, validation[:0], dataset.indices("train")):
        used = dataset.unlabelled_beside(protected)
        of_used = {dataset.unlabelled.examples[i].group for i in used}
        expected = {e.group for e in unlabelled} - groups(protected) - groups(test)
        assert of_used == expected
    assert {"patient 12", "patient 13"} < of_used  # groups without a labelled example


def test_near_copies_belong_to_the_sampling_unit_of_the_labelled_image() -> None:
    labelled = [Example(f"{c}/{i}", np.asarray(scene(i + 50 * k)), c)
                for k, c in enumerate("ab") for i in range(10)]  # fmt: skip
    near = [Example(f"u/{i}", np.asarray(jpeg(scene(i), 60)), "", "unlabelled") for i in range(10)]
    far = Example("u/far", np.asarray(scene(999)), "", "unlabelled")
    dataset = check(labelled, "here", unlabelled=[*near, far])
    assert len(dataset.unlabelled) == 11
    validation = dataset.indices("validation")
    used = {dataset.unlabelled.examples[i].name for i in dataset.unlabelled_beside(validation)}
    protected = {*validation.tolist(), *dataset.indices("test").tolist()}
    own = {
        f"u/{dataset.examples[i].name[2:]}" for i in protected if dataset.examples[i].label == "a"
    }
    assert own
    assert used == {e.name for e in (*near, far)} - own


def test_they_are_packed_by_their_own_fingerprint(tmp_path: Path) -> None:
    dataset = check(noise_examples(10), "here", unlabelled=[without_label(i) for i in range(3)])
    packed = pack(dataset.unlabelled, image_input(8, "nearest"), tmp_path)
    assert packed.array.shape == (3, 8, 8, 3)
    assert packed.key.startswith(dataset.unlabelled.fingerprint[:16])
    assert np.abs(packed.array[1].astype(int) - noise(9001)).max() == 0


def test_data_without_any_label_are_an_error() -> None:
    with pytest.raises(DataError, match="none of the 3 images has a label; at least two classes"):
        check([], "here", unlabelled=[without_label(i) for i in range(3)])
