"""A part of the examples, and how long decoding takes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from images import write_images

from autotl import Example
from autotl.data import measure_decoding, sample_examples


def examples(counts: dict[str, int], split: str = "") -> list[Example]:
    image = np.zeros((4, 4), np.uint8)
    return [
        Example(f"{split}{label}/{i}", image, label, split)  # type: ignore[arg-type]
        for label, count in counts.items()
        for i in range(count)
    ]


def test_a_sample_has_the_classes_and_splits_in_proportion() -> None:
    every = [*examples({"a": 600, "b": 200, "c": 3}, "train"), *examples({"a": 100}, "test")]
    drawn = sample_examples(every, 90, seed=0)
    counts = Counter((e.split, e.label) for e in drawn)
    assert counts == {
        ("train", "a"): 60,
        ("train", "b"): 20,
        ("train", "c"): 3,  # all, because some may be unusable
        ("test", "a"): 10,
    }
    assert len({e.name for e in drawn}) == len(drawn)


def test_a_sample_depends_on_the_seed_alone() -> None:
    every = examples({"a": 50, "b": 50})
    names = [e.name for e in sample_examples(every, 20, seed=1)]
    assert names == [e.name for e in sample_examples(every[::-1], 20, seed=1)]
    assert names != [e.name for e in sample_examples(every, 20, seed=2)]


def test_the_size_of_the_images_is_measured(tmp_path: Path) -> None:
    arrays = [Example(str(i), np.zeros((9, 16), np.uint8), "a") for i in range(3)]
    seconds, side = measure_decoding(arrays)
    assert side == 12
    assert seconds > 0
    write_images(tmp_path, 4)
    files = sorted(tmp_path.rglob("*.png"))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"")
    listed = [Example(str(f), f, "a") for f in (broken, *files)]
    assert measure_decoding(listed)[1] > 0
    assert measure_decoding(listed[:1])[1] == 0
