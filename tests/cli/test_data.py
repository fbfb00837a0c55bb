"""The ``data`` commands, as a user types them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from click.testing import Result
from command_line import run
from images import write_images
from PIL import Image


def test_data_check_counts_images_and_names_problems(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", count=6)
    (tmp_path / "photos/red/torn.jpg").write_bytes(b"\xff\xd8\xff")
    result = run("data", "check", tmp_path / "photos")
    assert result.exit_code == 0
    assert "red/torn.jpg" in result.stdout
    assert "18 images of 3 classes" in result.stdout


def test_data_check_states_the_scale_of_deep_images(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for i in range(12):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        values = random.integers(0, 4000, (16, 16)).astype(np.uint16)
        Image.fromarray(values).save(tmp_path / "ab"[i % 2] / f"{i}.tif")
    result = run("data", "check", tmp_path)
    assert "scale of TIFF integer: 0 is black, 4095 is white; values beyond" in result.stdout


def test_data_check_takes_options_of_the_dataset_plugin(tmp_path: Path) -> None:
    write_images(tmp_path / "photos/f", count=6)
    write_images(tmp_path / "photos/g", count=6, seed=1)
    words = ("data", "check", tmp_path / "photos")
    assert "give --data-option classes=deepest" in run(*words).stdout
    assert "of 6 classes" in run(*words, "--data-option", "classes=deepest").stdout
    assert "is not KEY=VALUE" in run(*words, "--data-option", "deepest").output


def test_data_check_names_what_is_not_read(tmp_path: Path) -> None:
    write_images(tmp_path / "photos")
    (tmp_path / "photos" / "red" / "scan.dcm").write_bytes(b"")
    (tmp_path / "photos" / "brown").mkdir()
    result = run("data", "check", tmp_path / "photos")
    assert "*.dcm: 1 file (DICOM): red/scan.dcm (not read; convert" in result.stdout
    assert "brown: the folder has no image (it is not a class)" in result.stdout


def test_data_check_prints_file_names_that_are_not_text(tmp_path: Path) -> None:
    write_images(tmp_path / "photos")
    broken = tmp_path / "photos" / "red" / os.fsdecode(b"caf\xe9\x1b[31m.png")
    broken.write_bytes(b"no image")
    result = run("data", "check", tmp_path / "photos")
    assert result.exit_code == 0
    assert "caf\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}[31m.png" in result.output


def check_labels(folder: Path, labels: list[str], *words: str) -> Result:
    """Check a table of images with these labels in turn."""
    images = sorted(write_images(folder / "photos", count=8).rglob("*.png"))
    pairs = zip(images, labels * len(images), strict=False)
    rows = [f"{file.relative_to(folder)},{label}" for file, label in pairs]
    (folder / "labels.csv").write_text("\n".join(["file,label", *rows]))
    return run("data", "check", folder / "labels.csv", *words)


def test_data_check_counts_several_labels(tmp_path: Path) -> None:
    result = check_labels(tmp_path, ["cat;dog", "cat", "dog", "(none)"])
    assert result.exit_code == 0, result.stderr
    assert "24 images of 2 labels can be used" in result.stdout
    assert (
        "the task is multilabel, because the label 'cat;dog' consists of the labels 'cat' and 'dog'"
        in result.stdout
    )
    average = "  labels of an example: 1 on average; 6 images have none\n"
    assert result.stdout.endswith(f"  cat: 12\n  dog: 12\n{average}")


def test_data_check_describes_numbers(tmp_path: Path) -> None:
    result = check_labels(tmp_path, [f"{i / 4}" for i in range(24)])
    assert "the task is regression, because all labels are numbers" in result.stdout
    assert "24 images of 1 number can be used" in result.stdout
    assert result.stdout.endswith("  value: 0 to 5.75, mean 2.875\n")


def test_data_check_follows_the_task_that_is_given(tmp_path: Path) -> None:
    stars = ["1", "2", "10"]
    named = check_labels(tmp_path / "a", stars, "--task", "ordinal")
    assert "the task is ordinal, as --task says\n  1: 8\n  2: 8\n  10: 8\n" in named.stdout
    auto = check_labels(tmp_path / "b", stars)
    assert "the task is classification, because no other task recognises" in auto.stdout
    wrong = check_labels(tmp_path / "c", stars, "--task", "ordinl")
    assert wrong.exit_code == 1
    assert "did you mean 'ordinal'?" in wrong.stderr


def test_data_check_says_why_no_label_is_for_the_task(tmp_path: Path) -> None:
    result = check_labels(tmp_path, ["red", "blue"], "--task", "regression")
    assert result.exit_code == 1
    assert "none of the 24 images has a label for regression (first problem: " in result.stderr


def test_data_check_lists_a_few_problems_of_each_kind(tmp_path: Path) -> None:
    labels = ["red", "it's blue", *map(str, range(10))]
    result = check_labels(tmp_path, labels, "--task", "regression")
    assert result.exit_code == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if "is not a number" in line]
    more = [line for line in result.stdout.splitlines() if line.startswith("... and")]
    assert len(lines) == 4
    assert more == []
    few = check_labels(tmp_path / "more", ["red", "it's blue", "7", "8"], "--task", "regression")
    lines = few.stdout.splitlines()
    assert sum("is not a number" in line for line in lines) == 5
    assert lines[5] == "... and 7 more like it (left out); --all lists them"
    every = run("data", "check", tmp_path / "more/labels.csv", "--task", "regression", "--all")
    assert sum("is not a number" in line for line in every.stdout.splitlines()) == 12


def test_data_check_counts_unlabelled_images(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", count=6)
    write_images(tmp_path / "photos/unlabelled", count=2, seed=1)
    result = run("data", "check", tmp_path / "photos")
    assert "18 images of 3 classes" in result.stdout
    assert "6 unlabelled images" in result.stdout
