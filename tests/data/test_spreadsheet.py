"""Cells that a spreadsheet would run are marked as text."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from autotl.data import check, write_issues, write_splits
from autotl.data.spreadsheet import escape_formula
from autotl.space.plugin import Example


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+1+1", "'+1+1"),
        ("-a", "'-a"),
        ("@x", "'@x"),
        ("\t=1", "'\t=1"),
        ("-1", "-1"),
        ("+1.5", "+1.5"),
        ("a=b", "a=b"),
        ("'=1", "'=1"),
        ("", ""),
    ],
)
def test_formulas_have_an_apostrophe(text: str, cell: str) -> None:
    assert escape_formula(text) == cell


def test_the_files_of_a_study_have_no_formulas(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    examples = [
        Example(f"{label}{i}.png", generator.integers(0, 255, (8, 8, 3), dtype=np.uint8), label)
        for label in ("=1+1", "-2")
        for i in range(6)
    ]
    dataset = check(examples, "here")
    write_splits(dataset, tmp_path / "splits.csv")
    with (tmp_path / "splits.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["label"] for row in rows} == {"'=1+1", "-2"}
    assert {row["name"][:2] for row in rows} == {"'=", "'-"}
    write_issues(dataset, tmp_path / "issues.csv")
    assert not (tmp_path / "issues.csv").read_text(encoding="utf-8").count("\n=")
