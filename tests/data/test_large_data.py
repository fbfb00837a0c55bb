"""The check of many examples: what it computes in pieces, and what it does not copy."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from autotl.data import check, copies, dataset, tables
from autotl.data.duplicates import find_duplicates
from autotl.data.inspection import Inspection
from autotl.space.plugin import Example
from autotl.tasks import CLASSIFICATION, numbered_classes

COUNT = 40_000


def measure_peak(function: Callable[[], object]) -> float:
    """The bytes that a call allocates at most at one time."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def thumbnails() -> Sequence[copies.Thumbnail]:
    """Different ones, such as an inspection of each image has."""
    random = np.random.default_rng(0)
    return list(random.integers(0, 256, (COUNT, copies.SIDE, copies.SIDE, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return [Example(f"{i}.png", Path(f"{i}.png"), str(i % 7)) for i in range(COUNT)]


def test_near_copies_are_found_in_chunks(
    monkeypatch: pytest.MonkeyPatch, thumbnails: Sequence[copies.Thumbnail]
) -> None:
    some = np.stack([*thumbnails[:300], *thumbnails[100:150]])
    some[300:] //= 2
    some[300:] += 40
    whole = copies.find_near_copies(some)
    monkeypatch.setattr(copies, "CHUNK", 60)
    np.testing.assert_array_equal(copies.find_near_copies(list(some)), whole)


def test_no_thumbnail_is_copied_to_find_near_copies(
    monkeypatch: pytest.MonkeyPatch, thumbnails: Sequence[copies.Thumbnail]
) -> None:
    monkeypatch.setattr(copies, "CHUNK", 500)
    peak = measure_peak(lambda: copies.find_near_copies(thumbnails))
    assert peak < COUNT * 768 / 2


def test_no_thumbnail_is_copied_to_find_copies(
    thumbnails: Sequence[copies.Thumbnail], examples: list[Example]
) -> None:
    inspections = [
        Inspection(f"{i:064}", "", thumbnail, side=32) for i, thumbnail in enumerate(thumbnails)
    ]
    peak = measure_peak(lambda: find_duplicates(examples, inspections))
    assert peak < COUNT * 768 * 0.75


@pytest.mark.parametrize("name", ["classification", "regression"])
def test_the_fingerprint_is_the_digest_of_one_json_document(name: str) -> None:
    some = [Example(f"é{i}", None, str(i % 2), "train", f"group {i}") for i in range(5)]
    inspections = [Inspection(f"{i:064}", "") for i in range(5)]
    task = numbered_classes(2)
    task.name = name
    rows = [
        [e.name, i.content, e.label, e.split, e.group]
        for e, i in zip(some, inspections, strict=True)
    ]
    scales = {"tiff": [0.0, 2.5]}
    facts = [dataset.FINGERPRINT_VERSION, dataset.scale.to_json({"tiff": (0.0, 2.5)}), rows]
    assert facts[1] == scales
    facts += [] if name == CLASSIFICATION.name else [name]
    expected = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    fitted = {"tiff": dataset.Scale(0.0, 2.5)}
    assert dataset._fingerprint(some, inspections, fitted, task) == expected


def test_the_rows_of_a_table_are_written_one_by_one(tmp_path: Path) -> None:
    rows = ((f"{i}.png", "a", "train", "") for i in range(COUNT))
    header = ("name", "label", "split", "group")
    assert measure_peak(lambda: tables.write_csv(tmp_path / "a.csv", header, rows)) < 1e6
    lines = (tmp_path / "a.csv").read_bytes().split(b"\r\n")
    assert lines[:2] == [b"name,label,split,group", b"0.png,a,train,"]
    assert len(lines) == COUNT + 2


def test_examples_whose_labels_need_no_change_are_not_copied() -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (8, 40, 40, 3), dtype=np.uint8)
    some = [Example(str(i), image, "ab"[i % 2]) for i, image in enumerate(images)]
    checked = check(some, "here")
    assert {id(e) for e in checked.examples} == {id(e) for e in some}
    assert len({id(name) for name in checked.splits}) == len(set(checked.splits))
    assert checked.units.dtype == np.int64
