"""The tables that say what became of each example, as CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import astuple
from itertools import chain
from pathlib import Path

from autotl import files
from autotl.data.dataset import Dataset
from autotl.data.spreadsheet import escape_formula
from autotl.errors import StoreError


def write_splits(dataset: Dataset, path: Path) -> None:
    """Write ``name,label,split,group`` of every usable example as CSV.

    Raises:
        StoreError: The file cannot be written.
    """
    pairs = zip(dataset.examples, dataset.splits, strict=True)
    rows = ((e.name, e.label, split_name, e.group) for e, split_name in pairs)
    write_csv(path, ("name", "label", "split", "group"), rows)


def write_issues(dataset: Dataset, path: Path) -> None:
    """Write ``name,problem,action`` of every issue as CSV.

    Raises:
        StoreError: The file cannot be written.
    """
    write_csv(path, ("name", "problem", "action"), map(astuple, dataset.issues))


def write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a CSV file; its folder is created.

    Raises:
        StoreError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # File names need not be UTF-8; surrogateescape writes their bytes back unchanged.
        with (
            files.write_beside(path) as temporary,
            temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
        ):
            csv.writer(file).writerows(
                [escape_formula(str(cell)) for cell in row] for row in chain((header,), rows)
            )
    except OSError as error:
        raise StoreError(
            f"{path} cannot be written ({error.strerror or error}); free some space there, or "
            "choose another folder with --out"
        ) from error
