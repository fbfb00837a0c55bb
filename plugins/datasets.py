"""Sources of labelled images: folders, tables, arrays, scikit-learn.

They only list the examples; ``autotl.data.check`` opens, sorts and splits them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from csv import DictReader, Error
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from autotl.errors import DataError, did_you_mean
from autotl.space.plugin import Example, dataset

Split = Literal["", "train", "validation", "test"]

SPLIT_WORDS: Mapping[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg"),
    *(".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"),
)
COLUMNS: Mapping[str, str] = {
    "path": "path",
    "file": "path",
    "filename": "path",
    "image": "path",
    "label": "label",
    "class": "label",
    "split": "split",
    "group": "group",
}


@dataset(matches=["*/"])
def folder(source: str) -> list[Example]:
    """A folder with a subfolder of images for each class, or such a folder for each split."""
    root = Path(source)
    if not root.is_dir():
        raise DataError(f"{source}: there is no such folder; check the path")
    files = sorted(_find_images(root))
    # A folder called 'train' is a split only if it contains class folders; it may be a class.
    nested = {path.parts[0] for path in files if len(path.parts) > 2}
    if any(top.lower() in SPLIT_WORDS for top in nested):
        return [_example_in_split(root, path) for path in files]
    if not any(len(path.parts) > 1 for path in files):
        raise DataError(
            f"{source}: no images in class folders; put them in class/image.jpg or "
            f"train/class/image.jpg (images end in {', '.join(SUFFIXES)})"
        )
    return [
        Example(path.as_posix(), root / path, path.parts[0] if len(path.parts) > 1 else "")
        for path in files
    ]


def _find_images(root: Path) -> Iterator[Path]:
    """The images anywhere below ``root``, relative to it, without hidden and system files."""
    for parent, folders, files in os.walk(root, followlinks=True):
        folders[:] = [f for f in folders if not f.startswith((".", "__MACOSX"))]
        for file in files:
            if not file.startswith(".") and file.lower().endswith(SUFFIXES):
                yield Path(parent, file).relative_to(root)


def _example_in_split(root: Path, path: Path) -> Example:
    top, *inner = path.parts
    split = SPLIT_WORDS.get(top.lower(), "")
    if inner and not split:
        raise DataError(
            f"{root}: {path.as_posix()} lies next to split folders, but {top!r} is not a split; "
            "move it into train, val or test, or out of the folder"
        )
    return Example(path.as_posix(), root / path, inner[0] if len(inner) > 1 else "", split)


@dataset(matches=["*.csv", "*.tsv"])
def csv(source: str) -> list[Example]:
    """A table with the columns path, label and optionally split and group; paths relative to it."""
    table = Path(source)
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            file.seek(0)
            rows = DictReader(file, delimiter=max("\t;,", key=header.count))
            columns = _map_columns(source, rows.fieldnames or ())
            return [_read_row(table, rows.line_num, row, columns) for row in rows]
    except OSError as error:
        raise DataError(f"{source}: {error.strerror}; check the path") from error
    except (UnicodeDecodeError, Error) as error:
        raise DataError(f"{source}: not a UTF-8 table ({error}); save it as UTF-8") from error


def _map_columns(source: str, header: Any) -> dict[str, str]:
    """The standard name of each column of ``header``."""
    columns: dict[str, str] = {}
    for name in header:
        column = COLUMNS.get(name.strip().lower())
        if column is None:
            near = did_you_mean(name.strip().lower(), COLUMNS)
            raise DataError(f"{source}: rename or remove the unknown column {name!r}; {near}")
        if column in columns.values():
            raise DataError(f"{source}: two columns are read as {column!r}; remove {name!r}")
        columns[name] = column
    if missing := [c for c in ("path", "label") if c not in columns.values()]:
        raise DataError(
            f"{source}: no column {' or '.join(missing)}; the first line must read "
            "path,label[,split][,group]"
        )
    return columns


def _read_row(
    table: Path, line: int, cells: Mapping[Any, Any], columns: Mapping[str, str]
) -> Example:
    if None in cells:  # where DictReader puts cells without a header
        raise DataError(f"{table}: line {line}: more cells than columns; quote values with commas")
    row = {column: (cells[name] or "").strip() for name, column in columns.items()}
    word = row.get("split", "").lower()
    if word and word not in SPLIT_WORDS:
        near = did_you_mean(word, SPLIT_WORDS)
        raise DataError(f"{table}: line {line}: unknown split {word!r}; {near}")
    path = row["path"].replace("\\", "/")
    if not path:
        raise DataError(f"{table}: line {line}: no path; fill it in or remove the line")
    split = SPLIT_WORDS[word] if word else ""
    return Example(path, table.parent / path, row["label"], split, row.get("group", ""))


@dataset(matches=["*.npz"])
def npz(source: str) -> list[Example]:
    """A NumPy archive with MedMNIST's keys: train_images, train_labels, also for val and test."""
    try:
        # np.load does not close a file that it opened itself and cannot read.
        with Path(source).open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, TypeError, EOFError, BadZipFile) as error:
        raise DataError(f"{source}: not a readable .npz ({error}); download it again") from error
    if "train_images" not in arrays:
        raise DataError(f"{source}: no train_images; there are {', '.join(arrays) or 'no arrays'}")
    return [
        example
        for split in ("train", "val", "test")
        if f"{split}_images" in arrays
        for example in _read_split(source, split, arrays)
    ]


def _read_split(source: str, split: str, arrays: Mapping[str, NDArray[Any]]) -> list[Example]:
    images, labels = arrays[f"{split}_images"], arrays.get(f"{split}_labels")
    if images.dtype != np.uint8 or not (images.ndim == 3 or images.shape[3:] == (3,)):
        raise DataError(
            f"{source}: {split}_images is {images.dtype} {list(images.shape)}; expected uint8 "
            "[N, H, W] or [N, H, W, 3]"
        )
    if labels is None or len(labels) != len(images):
        raise DataError(f"{source}: {split}_labels must have one label for each of {len(images)}")
    if labels.size != len(images):
        raise DataError(
            f"{source}: {split}_labels is {list(labels.shape)}: several labels for one image; "
            "AutoTL needs exactly one"
        )
    return [
        Example(f"{split}/{i}", image, str(label), SPLIT_WORDS[split])
        for i, (image, label) in enumerate(zip(images, labels.ravel().tolist(), strict=True))
    ]


@dataset(matches=["sklearn:*"])
def sklearn(source: str) -> list[Example]:
    """A data set of scikit-learn: sklearn:digits, 1797 digits of 8 x 8 pixels."""
    name = source.partition(":")[2]
    if name != "digits":
        raise DataError(f"{source}: unknown data set {name!r}; {did_you_mean(name, ['digits'])}")
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    labels = digits.target.tolist()
    return [
        Example(f"digits/{i}", image, str(label))
        for i, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
