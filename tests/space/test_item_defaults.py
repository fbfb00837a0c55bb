"""What kinds of input do with files, texts and arrays by default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotl import InputKind
from autotl.errors import DataError
from autotl.space.item_defaults import SHOWN_CHARACTERS, SHOWN_LINES, SHOWN_POINTS


class Row(InputKind):
    """Rows of numbers in text files."""

    name, noun, nouns, unit = "row", "row", "rows", "numbers"
    suffixes = (".txt",)

    def open_file(self, file: Path) -> Any:
        return np.loadtxt(file)

    def toy_item(self, label: int, random: np.random.Generator) -> Any:
        return label + random.normal(0, 0.1, 3)


def test_content_tells_items_apart(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(b"abc")
    kind = Row()
    assert kind.content(file) == kind.content(b"abc") == kind.content("abc") == b"abc"
    arrays = [np.arange(4), np.arange(4.0), np.arange(4).reshape(2, 2), np.arange(1, 5)]
    assert len({kind.content(array) for array in arrays}) == 4
    assert kind.content([1, 2]) == kind.content(np.array([1, 2]))


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (" ", "empty"),
        (np.zeros(0), "has no numbers"),
        (np.array([1, np.nan]), "not finite"),
        (np.array([1, np.inf]), "not finite"),
        ({"a": 1}, "define content"),
        (Path("missing.bin"), "no file missing"),
    ],
)
def test_items_without_content_are_refused(item: Any, words: str) -> None:
    with pytest.raises((ValueError, TypeError, OSError), match=words):
        Row().content(item)


def test_arrays_are_drawn_and_others_are_shown_as_text() -> None:
    kind = Row()
    drawn = kind.show(np.random.default_rng(0).normal(size=(20, 1000)), {})
    assert drawn.media_type == "image/svg+xml"
    assert drawn.content.count(b"<polyline") == SHOWN_LINES
    assert drawn.content.count(b",") <= SHOWN_LINES * SHOWN_POINTS
    [points] = kind.show([0, 1, 4], {}).content.decode().split('"')[9:10]
    assert points == "0.0,60.0 50.0,45.0 100.0,0.0"
    assert b"60.0" not in kind.show(np.ones(2), {}).content.split(b"<polyline")[0]
    text = kind.show("é" * 10_000, {})
    assert text.media_type == "text/plain"
    assert text.content.decode() == "é" * SHOWN_CHARACTERS + "…"
    assert kind.show(np.float64(2), {}).content == b"2.0"


def test_files_and_folders_are_opened(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("b.txt", "deep/a.TXT", "notes.md", ".hidden.txt"):
        (tmp_path / name).write_text("1 2 3")
    kind = Row()
    names, items = zip(*kind.read(str(tmp_path)), strict=True)
    assert names == (str(tmp_path / "b.txt"), str(tmp_path / "deep" / "a.TXT"))
    assert all(item.tolist() == [1, 2, 3] for item in items)
    [(name, _)] = kind.read(str(tmp_path / "notes.md"))
    assert name == str(tmp_path / "notes.md")
    with pytest.raises(DataError, match=r"no file or folder .*'b.txt'\?"):
        list(kind.read(str(tmp_path / "bb.txt")))
    with pytest.raises(DataError, match="no file or folder 'none'"):
        list(kind.read("none"))
    with pytest.raises(DataError, match="null character"):
        list(kind.read("a\0"))
    (tmp_path / "b.txt").write_text("one two")
    with pytest.raises(DataError, match=r"b.txt cannot be read as row: could not convert"):
        list(kind.read(str(tmp_path / "b.txt")))
    (tmp_path / "b.txt").write_text("1 nan")
    with pytest.raises(DataError, match=r"b.txt cannot be read as row: it has no numbers, or some"):
        list(kind.read(str(tmp_path / "b.txt")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"has no rows; the names of their files end in \.txt"):
        list(kind.read(str(tmp_path / "empty")))


def test_toy_examples_follow_the_counts_and_the_seed() -> None:
    kind = Row()
    examples = kind.toy([2, 0, 1], seed=3)
    assert [(e.name, e.label) for e in examples] == [("0/0", "0"), ("0/1", "0"), ("2/0", "2")]
    assert examples[2].item.mean() == pytest.approx(2, abs=0.3)
    again, other = kind.toy([2, 0, 1], seed=3), kind.toy([2, 0, 1], seed=4)
    assert (again[0].item == examples[0].item).all()
    assert (other[0].item != examples[0].item).any()
    with pytest.raises(NotImplementedError, match="define toy_item of InputKind"):
        InputKind().toy([1])
