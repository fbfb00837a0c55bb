"""Sources of labelled images: folders, tables, arrays, scikit-learn.

They only list the examples; ``autotl.data.check`` opens, sorts and splits them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from csv import DictReader, Error
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from autotl import image_files
from autotl.errors import DataError, did_you_mean
from autotl.image_files import Listing
from autotl.space.plugin import SPLIT_WORDS, Example, GivenSplit, Issue, dataset

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "path": (
        *("path", "file", "filename", "file_name", "filepath", "file_path", "image", "img"),
        *("image_path", "image_file", "image_name", "img_path"),
    ),
    "label": ("label", "labels", "class", "class_name", "target", "category"),
    "split": ("split", "subset", "partition"),
    "group": ("group", "group_id"),
}
"""The columns of a table and the names that people give them; the first one takes precedence."""


@dataset(matches=["*/"])
def folder(source: str, *, classes: Literal["top", "deepest"] = "top") -> list[Example | Issue]:
    """A folder with a subfolder of images for each class, or such a folder for each split.

    Args:
        source: The folder.
        classes: The classes: the ``top`` folders, with all images inside, or the ``deepest`` ones,
            the folder of each image, named by its path such as ``f/farm``.
    """
    root = Path(source)
    if not root.is_dir():
        raise DataError(f"{source}: there is no such folder; check the path")
    try:
        listing = image_files.list_images(root)
    except OSError as error:
        raise DataError(f"{source} cannot be listed: {error.strerror}") from error
    # A folder called 'train' is a split only if it contains class folders; it may be a class.
    nested = {path.parts[0] for path in listing.images if len(path.parts) > 2}
    depth = 1 if any(top.lower() in SPLIT_WORDS for top in nested) else 0
    is_deepest = classes == "deepest"
    by_class = _group_by_class(listing.images, depth, is_deepest)
    if not by_class:
        raise DataError(
            f"{source}: no images in class folders; put them in class/image.jpg or "
            f"train/class/image.jpg (images end in {', '.join(image_files.SUFFIXES)})"
            + "".join(f"; {name}: {what}" for name, what, _ in image_files.describe_unread(listing))
        )
    merged = {} if is_deepest else by_class
    if len(merged) == 1 and (inner := _find_subfolders(next(iter(merged.values())), depth)):
        [name] = merged
        advice = "--data-option classes=deepest" if depth else str(root / name)
        raise DataError(
            f"{source}: all images are in the one class folder {name!r}, in {len(inner)} folders "
            f"({_join(inner)}); if these are the classes, give {advice}"
        )
    _require_images(source, listing, by_class, depth, is_deepest)
    return [
        *(_read_example(root, path, depth, is_deepest) for path in listing.images),
        *_find_merged_folders(merged, depth),
        *_find_empty_folders(listing, by_class, depth, is_deepest),
        *(Issue(*problem) for problem in image_files.describe_unread(listing)),
    ]


def _name_class(folder: Path, depth: int, is_deepest: bool) -> str:
    """The class of the images in a folder, which is relative to the root; empty for none.

    Args:
        folder: The folder.
        depth: 1 if the class folders are in folders of splits, else 0.
        is_deepest: Whether each folder is a class, named by its path, or only those at the top.
    """
    parts = folder.parts[depth:]
    return "/".join(parts if is_deepest else parts[:1])


def _group_by_class(paths: Sequence[Path], depth: int, is_deepest: bool) -> dict[str, list[Path]]:
    """The paths by class, without those that have none; see ``_name_class``."""
    classes: defaultdict[str, list[Path]] = defaultdict(list)
    for path in paths:
        classes[_name_class(path.parent, depth, is_deepest)].append(path)
    return {name: own for name, own in classes.items() if name}


def _find_subfolders(paths: Sequence[Path], depth: int) -> list[str]:
    """The folders in a class folder that contain images, if there are several."""
    names = {path.parts[depth + 1] for path in paths if len(path.parts) > depth + 2}
    return sorted(names) if len(names) > 1 else []


def _join(names: Sequence[str]) -> str:
    return image_files.join_paths(map(Path, names))


def _require_images(
    source: str,
    listing: Listing,
    classes: Mapping[str, list[Path]],
    depth: int,
    is_deepest: bool,
) -> None:
    """Raise DataError if a class folder has only files that may be images, but are not read."""
    for name, paths in _group_by_class(listing.others, depth, is_deepest).items():
        unread = [p for p in paths if p.suffix.lower() in image_files.UNREADABLE_FORMATS]
        if unread and name not in classes:
            raise DataError(
                f"{source}: the class {name!r} has no image that can be read but {len(unread)} "
                f"other files, such as {unread[0].as_posix()}; {image_files.CONVERT}, or move the "
                "folder away"
            )


def _find_merged_folders(classes: Mapping[str, list[Path]], depth: int) -> Iterator[Issue]:
    """Classes whose images are in several folders that may be meant as classes."""
    for name, paths in sorted(classes.items()):
        if inner := _find_subfolders(paths, depth):
            yield Issue(
                name,
                f"the images of this class are in {len(inner)} folders: {_join(inner)}",
                f"all of them are of the class {name!r}; if they are classes of their own, give "
                "--data-option classes=deepest",
            )


def _find_empty_folders(
    listing: Listing, classes: Mapping[str, list[Path]], depth: int, is_deepest: bool
) -> Iterator[Issue]:
    """Folders without images where a folder of a class or a split is expected."""
    parents = {parent for path in listing.folders for parent in path.parents}
    innermost = set(listing.folders) - parents if is_deepest else listing.folders
    names = {_name_class(path, depth, is_deepest) for path in innermost}
    for name in sorted(names - {"", *classes}):
        yield Issue(name, "the folder has no image", "it is not a class")
    if depth:
        splits = {path.parts[0] for path in listing.images}
        for name in sorted({path.parts[0] for path in listing.folders} - splits):
            yield Issue(name, "the folder has no image", "it is not a split")


def _read_example(root: Path, path: Path, depth: int, is_deepest: bool) -> Example:
    split = SPLIT_WORDS.get(path.parts[0].lower(), "") if depth else ""
    if depth and len(path.parts) > 1 and not split:
        raise DataError(
            f"{root}: {path.as_posix()} lies next to split folders, but {path.parts[0]!r} is not a "
            "split; move it into train, val or test, or out of the folder"
        )
    label = _name_class(path.parent, depth, is_deepest)
    return Example(path.as_posix(), root / path, label, split)


@dataset(matches=["*.csv", "*.tsv"])
def csv(source: str) -> list[Example | Issue]:
    """A table with the columns path, label and optionally split and group; paths relative to it."""
    table = Path(source)
    try:
        _require_file(table)
        with table.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            file.seek(0)
            rows = DictReader(file, delimiter=max("\t;,", key=header.count))
            names = list(rows.fieldnames or ())
            columns = _map_columns(source, names)
            examples = [_read_row(table, rows.line_num, row, columns) for row in rows]
    except OSError as error:
        raise DataError(f"{source}: {error.strerror}; check the path") from error
    except (UnicodeDecodeError, Error) as error:
        raise DataError(f"{source}: not a UTF-8 table ({error}); save it as UTF-8") from error
    return [*examples, *_find_ignored(names, columns)]


def _require_file(path: Path) -> None:
    """Raise DataError for a pipe or device, because opening one may wait forever."""
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: not a file; check the path")


def _map_columns(source: str, header: Sequence[str]) -> dict[str, str]:
    """The standard name of each column of ``header`` that is read."""
    names = {name: name.strip().lower().replace(" ", "_").replace("-", "_") for name in header}
    columns: dict[str, str] = {}
    for column, synonyms in COLUMNS.items():
        matches = [name for name in header if names[name] in synonyms]
        exact = [name for name in matches if names[name] == synonyms[0]]
        if len(chosen := exact or matches) > 1:
            quoted = " and ".join(map(repr, chosen))
            raise DataError(
                f"{source}: the columns {quoted} may both be the {column}; name one of them "
                f"{column!r}"
            )
        columns.update(dict.fromkeys(chosen, column))
    if missing := [c for c in ("path", "label") if c not in columns.values()]:
        others = [name for name in header if name not in columns]
        near = (did_you_mean(names[name], COLUMNS[missing[0]]) for name in others)
        hint = next((f"; {h}" for h in near if h.startswith("did you")), "")
        raise DataError(
            f"{source}: no column {' or '.join(missing)}; the first line must read "
            f"path,label[,split][,group]{hint}"
        )
    return columns


def _find_ignored(header: Sequence[str], columns: Mapping[str, str]) -> Iterator[Issue]:
    """One issue about all columns that are not read."""
    ignored = [name.strip() for name in header if name not in columns and name.strip()]
    if ignored:
        hints = ((name, did_you_mean(name.lower(), COLUMNS)) for name in ignored)
        near = "".join(f"; {name}: {hint}" for name, hint in hints if hint.startswith("did"))
        yield Issue(
            ignored[0],
            f"{len(ignored)} columns of the table are not read: {', '.join(ignored)}",
            "ignored; images with one value of a column named group, such as of one patient, stay "
            f"in one split{near}",
        )


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
    """A NumPy archive: train_images and train_labels, or x_train and y_train; also val and test."""
    try:
        _require_file(Path(source))
        # np.load does not close a file that it opened itself and cannot read.
        with Path(source).open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, TypeError, EOFError, BadZipFile) as error:
        raise DataError(f"{source}: not a readable .npz ({error}); download it again") from error
    keys = {name.lower(): name for name in arrays}
    examples: list[Example] = []
    for word, split in (("", ""), *SPLIT_WORDS.items()):
        images, labels = (_find_key(keys, word, names) for names in (IMAGES, LABELS))
        if images is not None:
            examples += _read_arrays(source, word, split, images, labels, arrays)
    if not examples:
        raise DataError(
            f"{source}: no train_images, x_train or images; there are "
            f"{', '.join(arrays) or 'no arrays'}"
        )
    return examples


IMAGES, LABELS = ("images", "x", "data"), ("labels", "y", "target")
"""What arrays of images and labels are named, before or after the name of a split."""


def _find_key(keys: Mapping[str, str], split: str, names: Sequence[str]) -> str | None:
    """The key of an array: of the split ``train`` e.g. train_images, images_train or x_train."""
    spellings = (s for name in names for s in (f"{split}_{name}", f"{name}_{split}"))
    return next((keys[s.strip("_")] for s in spellings if s.strip("_") in keys), None)


def _read_arrays(
    source: str,
    word: str,
    split: GivenSplit,
    images_key: str,
    labels_key: str | None,
    arrays: Mapping[str, NDArray[Any]],
) -> list[Example]:
    """The examples of one split, whose name in the archive is ``word``."""
    images = arrays[images_key]
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise DataError(
            f"{source}: {images_key} is {images.dtype} {list(images.shape)}; expected uint8 "
            "[N, H, W] or [N, H, W, channels]"
        )
    expected = images_key.replace("images", "labels").replace("x", "y").replace("data", "target")
    labels = arrays[labels_key] if labels_key else None
    if labels is None or labels.ndim == 0 or len(labels) != len(images):
        raise DataError(
            f"{source}: {labels_key or expected} must have one label for each of {len(images)} "
            f"images{'' if labels is None else f', but is {list(labels.shape)}'}"
        )
    if labels.size != len(images):
        raise DataError(
            f"{source}: {labels_key} is {list(labels.shape)}: several labels for one image; "
            "AutoTL needs exactly one, as a number or a text"
        )
    prefix = f"{word}/" if word else ""
    return [
        Example(f"{prefix}{i}", image, _label_text(label), split)
        for i, (image, label) in enumerate(zip(images, labels.ravel().tolist(), strict=True))
    ]


def _label_text(label: Any) -> str:
    """The label as text: 1.0 is ``1``, and NaN is ``''``, no label."""
    if isinstance(label, float):
        if label != label:
            return ""
        return str(int(label)) if label.is_integer() else str(label)
    return label.decode("utf-8", "replace") if isinstance(label, bytes) else str(label)


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
