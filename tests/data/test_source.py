"""Reading a data source: the examples of a dataset plugin, and the problems it reports."""

from __future__ import annotations

from pathlib import Path

import pytest
from images import write_images

from autotl import Example, Issue, dataset
from autotl.data import IMAGES, read_source
from autotl.errors import DataError
from autotl.space import registry
from autotl.space.registry import Registry


def test_examples_and_problems_are_told_apart(tmp_path: Path) -> None:
    write_images(tmp_path, count=2)
    (tmp_path / "red" / "notes.txt").write_text("")
    examples, issues, kind = read_source(str(tmp_path), registry.load())
    assert kind is IMAGES
    assert len(examples) == 6
    assert [issue.name for issue in issues] == ["*.txt"]


def test_a_plugin_may_return_examples_alone() -> None:
    @dataset(matches=["two:*"])
    def two(source: str) -> list[Example]:
        """Two examples."""
        return [Example("x", source, "a"), Example("y", source, "b")]

    examples, issues, _ = read_source("two:x", Registry([two]))
    assert [e.name for e in examples] == ["x", "y"]
    assert issues == []
    assert Issue("name", "problem", "action").problem == "problem"


@pytest.mark.parametrize("source", ["", " "])
def test_an_empty_source_is_an_error(source: str) -> None:
    with pytest.raises(DataError, match="is empty"):
        read_source(source, registry.load())
