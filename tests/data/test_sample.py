"""A part of the examples, and how long decoding takes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from images import image_input, write_images

from autotl import Example
from autotl.data import (
    IMAGES,
    draw_items,
    measure_opening,
    order_by_stratum,
    sample_examples,
)


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
    arrays = [np.zeros((9, 16), np.uint8)] * 3
    assert IMAGES.useful_size(arrays, image_input(224)) == 96  # eight times 12
    assert measure_opening(arrays) > 0
    write_images(tmp_path, 4)
    files = sorted(tmp_path.rglob("*.png"))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"")
    assert IMAGES.useful_size([broken, *files], image_input(224)) is not None
    assert IMAGES.useful_size([broken], image_input(224)) is None
    assert measure_opening([broken]) > 0


def test_items_are_drawn_evenly() -> None:
    items = draw_items([Example(str(i), i, "a") for i in range(100)])
    assert items[0] == 0
    assert items[-1] == 99
    assert len(items) == 32


def test_every_beginning_of_an_order_is_stratified() -> None:
    strata = np.repeat([0, 1, 2], [600, 300, 4])
    indices = np.random.default_rng(1).permutation(1000)[:904]
    order = order_by_stratum(indices, strata, 0, seed=0)
    assert sorted(order) == sorted(indices)
    stratum_of = dict(zip(indices.tolist(), strata.tolist(), strict=True))
    for count in (30, 90, 450):
        drawn = Counter(stratum_of[i] for i in order[:count].tolist())
        assert abs(drawn[0] - count * 600 / 904) <= 2
        assert abs(drawn[1] - count * 300 / 904) <= 2
    few = Counter(stratum_of[i] for i in order_by_stratum(indices, strata, 5, seed=0)[:14].tolist())
    assert few == {0: 5, 1: 5, 2: 4}
    assert not np.array_equal(order, order_by_stratum(indices, strata, 0, seed=1))


def test_of_several_strata_for_each_example_the_order_is_random() -> None:
    order = order_by_stratum(np.arange(9), np.ones((9, 2), bool), 1, seed=0)
    assert sorted(order) == list(range(9))
    assert order.tolist() != list(range(9))
