"""Reading a data source: the examples of a dataset plugin, and the problems it reports."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import pytest
from images import write_images

from autotl import Example, Issue, Range, dataset
from autotl.data import IMAGES, Source, read_source, read_target, read_without_labels
from autotl.errors import DataError, StudyError
from autotl.space import registry
from autotl.space.registry import Registry


def test_examples_and_problems_are_told_apart(tmp_path: Path) -> None:
    write_images(tmp_path, count=2)
    (tmp_path / "red" / "notes.txt").write_text("")
    examples, issues, kind, *_ = read_source(str(tmp_path), registry.load())
    assert kind is IMAGES
    assert len(examples) == 6
    assert [issue.name for issue in issues] == ["*.txt"]


def test_a_plugin_may_return_examples_alone() -> None:
    @dataset(matches=["two:*"])
    def two(source: str) -> list[Example]:
        """Two examples."""
        return [Example("x", source, "a"), Example("y", source, "b")]

    examples, issues, *_ = read_source("two:x", Registry([two]))
    assert [e.name for e in examples] == ["x", "y"]
    assert issues == []
    assert Issue("name", "problem", "action").problem == "problem"


@dataset(matches=["mine:*"])
def mine(
    source: str,
    *,
    column: str = "label",
    group: str | None = None,
    most: int = 5,
    ratio: Annotated[float, Range(0.0, 1.0)] = 0.5,
    strict: bool = False,
    order: Literal["name", "date"] = "name",
    names: tuple[str, ...] = (),
) -> list[Example]:
    """One example whose label are the options."""
    return [Example("x", source, f"{column} {group} {most} {ratio} {strict} {order}")]


def test_options_are_parsed_by_their_types() -> None:
    options = {
        "column": "kind", "group": "who", "most": "7", "ratio": "0.25", "strict": "true",
        "order": "date",
    }  # fmt: skip
    [example] = read_source("mine:x", Registry([mine]), options).examples
    assert example.label == "kind who 7 0.25 True date"
    assert read_source("mine:x", Registry([mine])).examples[0].label == (
        "label None 5 0.5 False name"
    )


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("colum", "x", "dataset plugin 'mine' has no keyword 'colum'; did you mean 'column'?"),
        ("order", "size", "dataset plugin 'mine' declares order = name | date, not 'size'"),
        ("most", "7.5", "most = '7.5' is not a valid int"),
        ("ratio", "2", "dataset plugin 'mine' declares ratio = 0.0 to 1.0, not 2.0"),
        ("ratio", "x", "ratio = 'x' is not a valid float"),
        ("strict", "yes", "dataset plugin 'mine' declares strict = False | True, not 'yes'"),
        ("names", "x", "names is a tuple, which has no form as text"),
    ],
)
def test_options_that_a_plugin_does_not_have_are_refused(name: str, value: str, says: str) -> None:
    with pytest.raises(StudyError, match=re.escape(f"--data-option: {says}")):
        read_source("mine:x", Registry([mine]), {name: value})


@pytest.mark.parametrize("source", ["", " "])
def test_an_empty_source_is_an_error(source: str) -> None:
    with pytest.raises(DataError, match="is empty"):
        read_source(source, registry.load())


def test_an_error_of_a_dataset_plugin_names_it_and_its_line() -> None:
    @dataset(matches=["broken:*"])
    def broken(source: str) -> list[Example]:
        return [Example(name, b"", label) for name, label in zip("ab", "a", strict=True)]

    message = r"broken:1 cannot be read: the dataset plugin 'broken', line \d+ raises ValueError"
    with pytest.raises(DataError, match=message):
        read_source("broken:1", Registry([broken]))


PLAIN = {
    "flat": {"a.png": "", "b.png": ""},
    "one folder": {"2021/jan/a.png": "", "2021/feb/b.png": ""},
    "beside a folder": {"a.png": "", "test/b.png": ""},
    "splits without classes": {"Train/a.png": "train", "test/b.png": "test"},
    "unlabelled beside train": {"train/a.png": "train", "unlabelled/b.png": "unlabelled"},
}
LABELLED = {
    "classes": {"cat/a.png": "", "dog/b.png": ""},
    "splits with classes": {"train/cat/a.png": "train", "test/dog/b.png": "test"},
    "a class called like a split": {"train/a.png": "", "bus/b.png": ""},
    "unlabelled beside classes": {"cat/a.png": "", "dog/b.png": "", "unlabelled/c.png": ""},
}


@pytest.mark.parametrize("files", [*PLAIN.values(), *LABELLED.values()], ids=[*PLAIN, *LABELLED])
def test_without_labels_a_folder_need_not_have_classes(
    files: dict[str, str], tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    source = read_without_labels(str(tmp_path), registry.load())
    offered = (*source.examples, *source.unlabelled)
    assert {example.item for example in offered} == {tmp_path / name for name in files}
    assert {e.name: e.split for e in source.examples if e.split} == {
        name: split for name, split in files.items() if split
    }
    assert any(example.label for example in offered) == (files in LABELLED.values())


def test_a_plain_target_has_no_labels_and_reports_what_is_not_read(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", "notes.txt"):
        (tmp_path / name).touch()
    target = read_target(str(tmp_path), Source([], [], IMAGES), registry.load())
    assert [(e.name, e.label, e.split) for e in target.unlabelled] == [
        ("a.png", "", "unlabelled"),
        ("b.png", "", "unlabelled"),
    ]
    assert target.examples == []
    assert [issue.name for issue in target.issues] == ["*.txt"]


def test_a_source_that_cannot_be_read_is_explained_without_labels_too(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images in class folders"):
        read_without_labels(str(tmp_path), registry.load())
