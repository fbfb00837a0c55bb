"""Class folders and tables of sound files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from autotl_audio import Clip, sound, sound_folder, sound_table

from autotl import Example, Issue
from autotl.errors import DataError
from autotl.space import registry
from autotl.testing import check


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of two recordings, and a text."""
    for i, name in enumerate(("cat/1.wav", "cat/2.flac", "dog/1.wav", "dog/2.ogg")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, np.sin(np.arange(8000) * (i + 1) / 9), 16000)
    (tmp_path / "cat" / "notes.m4a").write_bytes(b"x")
    return tmp_path


def test_the_sources_satisfy_the_contract(folder: Path) -> None:
    assert check(sound_folder, source=str(folder), kind=sound) == 1
    table = folder / "table.csv"
    table.write_text("filename,category\ncat/1.wav,cat\ndog/1.wav,dog\n", encoding="utf-8")
    assert check(sound_table, source=str(table), kind=sound) == 1


def test_a_folder_has_a_class_for_each_subfolder(folder: Path) -> None:
    *examples, issue = sound_folder(str(folder))
    assert [(e.name, e.label) for e in examples if isinstance(e, Example)] == [
        ("cat/1.wav", "cat"),
        ("cat/2.flac", "cat"),
        ("dog/1.wav", "dog"),
        ("dog/2.ogg", "dog"),
    ]
    expected = "not read; convert them, e.g. to FLAC with ffmpeg"
    assert issue == Issue("*.m4a", "1 other files", expected)


def test_folders_of_splits_are_used(folder: Path) -> None:
    for split, number in (("train", "1"), ("Val", "2")):
        for label in ("cat", "dog"):
            target = folder / "split" / split / label
            target.mkdir(parents=True)
            (target / f"{number}.wav").write_bytes(b"x")
    examples = [e for e in sound_folder(str(folder / "split")) if isinstance(e, Example)]
    assert [(e.split, e.label) for e in examples] == [
        ("validation", "cat"),
        ("validation", "dog"),
        ("train", "cat"),
        ("train", "dog"),
    ]
    (folder / "split" / "other").mkdir()
    (folder / "split" / "other" / "3.wav").write_bytes(b"x")
    with pytest.raises(DataError, match="'other' is not a split"):
        sound_folder(str(folder / "split"))


def test_a_duration_can_be_given(folder: Path) -> None:
    example = sound_folder(str(folder), seconds=0.3)[0]
    assert isinstance(example, Example)
    assert example.item == Clip(folder / "cat" / "1.wav", 0.3)


def test_tables_may_have_several_labels_or_numbers(folder: Path) -> None:
    table = folder / "table.csv"
    table.write_text("path,bark,howl,pitch\ndog/1.wav,1,1,440\ncat/1.wav,0,0,880\n", "utf-8")

    def labels_of(**options: str) -> list[object]:
        return [e.label for e in sound_table(str(table), **options) if isinstance(e, Example)]

    assert registry.load().dataset(str(table)).name == "sound_table"
    assert labels_of(labels="bark,howl") == [("bark", "howl"), ()]
    assert labels_of(target="pitch") == [{"pitch": 440.0}, {"pitch": 880.0}]


def test_files_outside_of_class_folders_are_an_error(folder: Path) -> None:
    with pytest.raises(DataError, match="no sound files in class folders"):
        sound_folder(str(folder / "cat"))


def test_only_sources_of_sounds_are_read(folder: Path) -> None:
    plugins = registry.load()
    (folder / "photos").mkdir()
    tables = {"a.csv": "cat/1.wav,x", "b.csv": "photo.jpg,x", "c.csv": "x"}
    for name, row in tables.items():
        (folder / name).write_text(f"path,label\n{row}\n", encoding="utf-8")
    names = {
        str(folder): "sound_folder",
        str(folder / "photos"): "folder",
        str(folder / "a.csv"): "sound_table",
        str(folder / "b.csv"): "csv",
        str(folder / "c.csv"): "csv",
    }
    assert {source: plugins.dataset(source).name for source in names} == names
    (folder / "cat" / "photo.jpg").write_bytes(b"x")
    assert plugins.dataset(str(folder)).name == "folder"
