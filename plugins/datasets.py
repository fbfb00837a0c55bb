"""Sources of labelled images: folders, tables, arrays, scikit-learn.

They only list the examples; ``autotl.data.check`` opens, sorts and splits them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from autotl import Label, image_files
from autotl.errors import DataError, did_you_mean
from autotl.image_files import Listing
from autotl.space.plugin import (
    SPLIT_WORDS,
    UNLABELLED,
    Example,
    GivenSplit,
    Issue,
    dataset,
    is_unlabelled_path,
)

from .file_tables import (
    find_ignored,
    find_labels,
    map_columns,
    read_row,
    read_rows,
    require_columns,
    require_file,
)
from .label_columns import (
    NO_LABELS,
    LabelOptions,
    describe_binary_columns,
    name_classes,
    name_columns,
)


@dataset(matches=["*/"])
def folder(source: str, *, classes: Literal["top", "deepest"] = "top") -> list[Example | Issue]:
    """A folder with a subfolder of images for each class, or such a folder for each split.

    Images in a folder ``unlabelled`` beside these have no label.

    Args:
        source: The folder.
        classes: The classes: the ``top`` folders, with all images inside, or the ``deepest`` ones,
            the folder of each image, named by its path such as ``f/farm``.
    """
    root = Path(source)
    if not root.is_dir():
        raise DataError(f"{source}: there is no such folder; check the path")
    try:
        everything = image_files.list_images(root)
    except OSError as error:
        raise DataError(f"{source} cannot be listed: {error.strerror}") from error
    unlabelled = [path for path in everything.images if is_unlabelled_path(path)]
    listing = _without_unlabelled(everything) if unlabelled else everything
    # A folder called 'train' is a split only if it contains class folders; it may be a class.
    nested = {path.parts[0] for path in listing.images if len(path.parts) > 2}
    depth = 1 if any(top.lower() in SPLIT_WORDS for top in nested) else 0
    is_deepest = classes == "deepest"
    by_class = _group_by_class(listing.images, depth, is_deepest)
    if not by_class and not (unlabelled and not listing.images):
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
        *(Example(path.as_posix(), root / path, "", UNLABELLED) for path in unlabelled),
        *_find_merged_folders(merged, depth),
        *_find_empty_folders(listing, by_class, depth, is_deepest),
        *(Issue(*problem) for problem in image_files.describe_unread(everything)),
    ]


def _without_unlabelled(listing: Listing) -> Listing:
    """What is in the other folders than that of the unlabelled images."""

    def own(paths: Sequence[Path]) -> tuple[Path, ...]:
        return tuple(path for path in paths if not is_unlabelled_path(path / "any"))

    images = tuple(path for path in listing.images if not is_unlabelled_path(path))
    return replace(listing, images=images, others=own(listing.others), folders=own(listing.folders))


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
def csv(
    source: str,
    needs_labels: bool = True,
    *,
    separator: str = "",
    labels: str = "",
    target: str = "",
    targets: str = "",
) -> list[Example | Issue]:
    """A table with the columns path, label and optionally split and group; paths relative to it.

    Args:
        source: The table.
        needs_labels: Whether a table without labels is an error.
        separator: What stands between several labels in one cell, such as ``|``.
        labels: The columns of 0 and 1 that say which labels an example has, e.g. ``cat,dog``. With
            ``separator``, the one column with labels.
        target: The column of a number, by any name.
        targets: The columns of several numbers, e.g. ``x,y``.
    """
    options = LabelOptions(separator, labels, target, targets)
    header, rows = read_rows(Path(source))
    named = name_columns(source, header, options)
    others = [name for name in header if named is None or name not in named.names]
    columns = map_columns(source, others, has_labels=named is not None)
    searched = named or find_labels(others, rows, columns, separator)
    searched = searched or (None if needs_labels else NO_LABELS)
    label_columns = require_columns(source, others, columns, searched)
    examples = [read_row(Path(source), *row, columns, label_columns) for row in rows]
    notes: list[Issue] = []
    if label_columns.form == "binary":
        examples = name_classes(examples)
        notes = [] if named else [describe_binary_columns(label_columns)]
    return [*examples, *notes, *find_ignored(header, {*columns, *label_columns.names})]


@dataset(matches=["*.npz"])
def npz(source: str) -> list[Example]:
    """A NumPy archive: train_images and train_labels, or x_train and y_train; also val and test.

    ``unlabelled_images`` have no labels.

    Labels are numbers or texts of classes, ``[N]``; 0 and 1 for several labels, ``[N, C]``, whose
    names an array ``classes`` may have; or numbers to predict: floats, ``[N]`` or ``[N, T]``.
    """
    try:
        require_file(Path(source))
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
    labelled = [example for example in examples if example.split != UNLABELLED]
    if labelled and all(isinstance(example.label, tuple) for example in labelled):
        examples = name_classes(examples)
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
    if split == UNLABELLED:
        labels = np.full(len(images), "")
    if labels is None or labels.ndim == 0 or len(labels) != len(images):
        raise DataError(
            f"{source}: {labels_key or expected} must have one label for each of {len(images)} "
            f"images{'' if labels is None else f', but is {list(labels.shape)}'}"
        )
    names = next(
        (arrays[key].ravel().tolist() for key in ("classes", "names") if key in arrays), []
    )
    prefix = f"{word}/" if word else ""
    return [
        Example(f"{prefix}{i}", image, label, split)
        for i, (image, label) in enumerate(
            zip(images, _read_labels(f"{source}: {labels_key}", labels, names), strict=True)
        )
    ]


def _read_labels(where: str, labels: NDArray[Any], names: Sequence[Any]) -> list[Label]:
    """The label of each example: a class, several labels, a number or several.

    Args:
        where: The file and the array, for messages.
        labels: The array, ``[N, ...]``.
        names: The names of labels or numbers ``[C]`` if the file has them.

    Raises:
        DataError: The array has something else.
    """
    if labels.size == len(labels):
        return [_to_label(label) for label in labels.ravel().tolist()]
    number = labels.dtype.kind in "biuf" and labels.ndim == 2
    is_binary = number and bool(np.isin(labels, (0, 1)).all())
    if not is_binary and not (number and labels.dtype.kind == "f"):
        raise DataError(
            f"{where} is {labels.dtype} {list(labels.shape)}; expected one label for each image, "
            "[N]; or [N, C] with 0 and 1 for several labels, or floats for numbers"
        )
    if names and len(names) != labels.shape[1]:
        raise DataError(
            f"{where} has {labels.shape[1]} columns, but classes has {len(names)} names; correct it"
        )
    texts = [_to_text(name) for name in names] or [str(i) for i in range(labels.shape[1])]
    rows = [dict(zip(texts, row, strict=True)) for row in labels.tolist()]
    if is_binary:
        return [tuple(name for name, value in row.items() if value) for row in rows]
    return [row if np.isfinite(list(row.values())).all() else "" for row in rows]


def _to_label(label: Any) -> Label:
    """A number of a class as text, and a number to predict as it is; NaN is ``''``, no label."""
    if isinstance(label, float):
        return label if label == label else ""
    return _to_text(label)


def _to_text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


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
