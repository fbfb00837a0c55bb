"""Check a data set: find the usable examples, and the problems of the others."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from autotl.data.image import Progress, map_in_threads, open_rgb, read_error
from autotl.data.split import GIVEN_SPLITS, SPLITS, draw_folds, sampling_units, split
from autotl.errors import DataError, StoreError
from autotl.space.plugin import Example

LEFT_OUT = "left out"


@dataclass(frozen=True)
class Issue:
    """A problem of one example, class or group: one row of ``issues.csv``."""

    name: str
    problem: str
    action: str


@dataclass(frozen=True, eq=False)
class Dataset:
    """The usable examples, each with its label and its split.

    Attributes:
        source: What the user called the data.
        fingerprint: SHA-256 of exactly these examples in this order: names, contents, labels,
            given splits and groups. Equal fingerprints mean equal images at equal indices,
            wherever the folder is and whatever was left out; the seed of the split does not enter.
        classes: Names of the classes in natural order: '2' before '10'.
        examples: The usable examples in the natural order of their names.
        labels: Index of each example's class in ``classes``, ``[N]``.
        splits: Split of each example, ``[N]``: 'train', 'validation' or 'test'.
        issues: The problems that were found.
        skipped: Number of examples of the source that were left out, for any reason.
        duplicates_across_splits: How many of these are copies of an image in another split.
        units: Index of each example's sampling unit, ``[N]``. The examples of one group and exact
            copies of one image form one unit (in statistics: a cluster). They are correlated, so a
            drawn split never separates them; different units count as independent.
        folds: Fold of each example outside the test split in a cross-validation, from 0, and -1 in
            the test split, ``[N]``; None if there is a validation split instead.
    """

    source: str
    fingerprint: str
    classes: tuple[str, ...]
    examples: tuple[Example, ...]
    labels: NDArray[np.int64]
    splits: tuple[str, ...]
    issues: tuple[Issue, ...]
    skipped: int
    duplicates_across_splits: int
    units: tuple[int, ...]
    folds: NDArray[np.int64] | None = None

    @property
    def scored_split(self) -> str:
        """The split whose images score the trials: all of 'train' if it is divided into folds."""
        return "validation" if self.folds is None else "train"

    def indices(self, *splits: str) -> NDArray[np.int64]:
        """Indices of the examples in any of ``splits``, ascending, ``[n]``."""
        return np.flatnonzero(np.isin(self.splits, splits)).astype(np.int64)

    def count_units(self, split: str) -> int:
        """Count the sampling units in a split.

        This is a safe number of independent observations: the images of one unit may add nothing
        to each other.
        """
        return len(np.unique(np.array(self.units)[self.indices(split)]))


class _Inspection(NamedTuple):
    """The SHA-256 of an image's content, and the problem of the example or ``''``."""

    digest: str
    problem: str


class _Duplicates(NamedTuple):
    """The exact copies of images, and the actions for them."""

    excluded: dict[int, Issue]  # by index of the example
    across_splits: int  # how many of these have a copy in another split
    notes: list[Issue]  # on copies that are used


def check(
    examples: Iterable[Example],
    source: str,
    *,
    seed: int = 0,
    validation: float | None = None,
    test: float = 0.2,
    folds: int | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Open every image once, leave out unusable examples, and split the others.

    Args:
        examples: What a dataset plugin returned, in any order.
        source: What the user called the data, for messages.
        seed: Seed of the splits that are drawn.
        validation: Fraction of the remaining training examples, if the source gives no validation
            split; 0 for none, and None for ``split.validation_fraction``.
        test: Fraction of all examples, if the source gives no test split; 0 for none.
        folds: The number of folds that replace a validation split.
        progress: Called after every image.

    Raises:
        DataError: No images, fewer than two classes, or too few usable images of a class.
    """
    offered = _validate_and_sort(examples, source, validation, test)
    inspections: list[_Inspection] = []
    map_in_threads(_inspect, offered, inspections.append, "checking", progress)
    duplicates = _find_duplicates(offered, inspections)
    excluded = _find_unreadable(offered, inspections) | duplicates.excluded
    used = [i for i in range(len(offered)) if i not in excluded]
    usable, digests = [offered[i] for i in used], [inspections[i].digest for i in used]
    classes, labels = _index_labels(source, offered, usable, excluded)
    try:
        splits = split(
            usable, digests, labels, seed=seed, validation=validation, test=test, folds=folds
        )
        _require_training_images(classes, labels, splits)
        units = sampling_units(usable, digests)
        fold_of = _assign_folds(classes, labels, splits, units, folds, seed) if folds else None
    except DataError as error:
        raise DataError(f"{source}: {error}") from None
    return Dataset(
        source=source,
        fingerprint=_fingerprint(usable, digests),
        classes=classes,
        examples=tuple(usable),
        labels=labels,
        splits=tuple(splits.tolist()),
        issues=(
            *(excluded[i] for i in sorted(excluded)),
            *duplicates.notes,
            *_find_uncovered_classes(classes, labels, splits),
            *_find_divided_groups(usable, splits),
        ),
        skipped=len(excluded),
        duplicates_across_splits=duplicates.across_splits,
        units=tuple(units),
        folds=fold_of,
    )


def write_splits(dataset: Dataset, path: Path) -> None:
    """Write ``name,label,split,group`` of every usable example as CSV.

    Raises:
        StoreError: The file cannot be written.
    """
    pairs = zip(dataset.examples, dataset.splits, strict=True)
    rows = [(e.name, e.label, split_name, e.group) for e, split_name in pairs]
    write_csv(path, ("name", "label", "split", "group"), rows)


def write_issues(dataset: Dataset, path: Path) -> None:
    """Write ``name,problem,action`` of every issue as CSV.

    Raises:
        StoreError: The file cannot be written.
    """
    write_csv(path, ("name", "problem", "action"), [astuple(issue) for issue in dataset.issues])


def write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a CSV file; its folder is created.

    Raises:
        StoreError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # File names need not be UTF-8; surrogateescape writes their bytes back unchanged.
        with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            csv.writer(file).writerows([header, *rows])
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}; choose a folder you can write to") from error


def _natural_key(text: str) -> tuple[list[str | int], str]:
    """A sort key that puts '2' before '10'; the text itself decides between '1' and '01'."""
    return [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", text)], text


def _join_names(names: Sequence[str]) -> str:
    """The first five names, and how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _validate_and_sort(
    examples: Iterable[Example], source: str, validation: float | None, test: float
) -> list[Example]:
    """Validate the arguments of ``check``, and sort the examples by name in natural order."""
    if not (0 <= (validation or 0) < 1 and 0 <= test < 1):
        raise DataError(
            f"validation={validation} and test={test} are not valid fractions: expected values "
            "from 0 to below 1"
        )
    offered = sorted(examples, key=lambda e: _natural_key(e.name))
    if not offered:
        raise DataError(f"{source}: no images found; check the path and the folder structure")
    if invalid := next((e for e in offered if e.split not in GIVEN_SPLITS), None):
        raise DataError(
            f"{source}: {invalid.name} has split {invalid.split!r}; the dataset plugin must give "
            f"one of {', '.join(SPLITS)}, or none"
        )
    return offered


def _inspect(example: Example) -> _Inspection:
    """Hash and open an image.

    It is opened as ``decode`` will open it, so that packing cannot fail where this did not.
    """
    digest = ""
    try:
        if isinstance(example.image, np.ndarray):
            image: Any = example.image
            content = repr((image.dtype.str, image.shape)).encode() + image.tobytes()
        else:
            content = Path(example.image).read_bytes()
            image = BytesIO(content)
        if not content:
            return _Inspection("", "the file is empty")
        digest = hashlib.sha256(content).hexdigest()
        open_rgb(image, 1)
    except Exception as error:  # decoders raise anything on broken files
        return _Inspection(digest, read_error(error))
    return _Inspection(digest, "" if example.label else "no label")


def _find_unreadable(
    examples: Sequence[Example], inspections: Sequence[_Inspection]
) -> dict[int, Issue]:
    """Find the examples that cannot be used, by index."""
    return {
        i: Issue(example.name, problem, LEFT_OUT)
        for i, (example, (_, problem)) in enumerate(zip(examples, inspections, strict=True))
        if problem
    }


def _find_duplicates(
    examples: Sequence[Example], inspections: Sequence[_Inspection]
) -> _Duplicates:
    """Find exact copies: contradicting ones and those in several given splits are excluded."""
    indices_of: defaultdict[str, list[int]] = defaultdict(list)
    for i, inspection in enumerate(inspections):
        if not inspection.problem:
            indices_of[inspection.digest].append(i)
    excluded: dict[int, Issue] = {}
    across_splits = 0
    notes: list[Issue] = []
    for copies in indices_of.values():
        labels = sorted({examples[i].label for i in copies}, key=_natural_key)
        if len(labels) > 1:
            names = _join_names([examples[i].name for i in copies])
            problem = f"same image labelled {' and '.join(labels)}: {names}"
            excluded |= {i: Issue(examples[i].name, problem, LEFT_OUT) for i in copies}
            continue
        # The most protected split keeps its copies: removing them there would change a test set
        # on which others have published scores.
        last = max((examples[i].split for i in copies), key=GIVEN_SPLITS.index)
        first, *others = [i for i in copies if examples[i].split == last]
        problem = f"same image as {examples[first].name}"
        for i in copies:
            if examples[i].split != last:
                excluded[i] = Issue(examples[i].name, f"{problem} in {last}", LEFT_OUT)
                across_splits += 1
        notes += [Issue(examples[i].name, problem, "kept in the same split") for i in others]
    return _Duplicates(excluded, across_splits, notes)


def _index_labels(
    source: str,
    offered: Sequence[Example],
    usable: Sequence[Example],
    excluded: Mapping[int, Issue],
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The classes in natural order, and the index of each usable example's class, ``[N]``.

    Raises:
        DataError: There are fewer than two classes, or fewer than two usable images of one.
    """
    classes = tuple(sorted({e.label for e in offered if e.label}, key=_natural_key))
    first = next(iter(excluded.values()), None)
    hint = f" (first problem: {first.name}: {first.problem})" if first else ""
    if len(classes) < 2:
        present = f"only the class {classes[0]!r}" if classes else "no class"
        raise DataError(
            f"{source}: {len(offered)} images but {present}; at least two classes are needed, "
            f"one folder or label for each{hint}"
        )
    total, count = Counter(e.label for e in offered), Counter(e.label for e in usable)
    if small := [f"{c} ({count[c]} of {total[c]})" for c in classes if count[c] < 2]:
        raise DataError(
            f"{source}: fewer than two usable images of {_join_names(small)}; add images or "
            f"remove the class{hint}"
        )
    class_index = {name: c for c, name in enumerate(classes)}
    return classes, np.array([class_index[e.label] for e in usable], dtype=np.int64)


def _require_training_images(
    classes: Sequence[str], labels: NDArray[np.int64], splits: NDArray[np.str_]
) -> None:
    """Raise DataError if a class has no image in the training split."""
    trained = set(labels[splits == "train"].tolist())
    if untrained := [name for c, name in enumerate(classes) if c not in trained]:
        raise DataError(
            f"no training image of {_join_names(untrained)}; move some of its images to the "
            "training split, or remove the class"
        )


def _assign_folds(
    classes: Sequence[str],
    labels: NDArray[np.int64],
    splits: NDArray[np.str_],
    units: Sequence[int],
    folds: int,
    seed: int,
) -> NDArray[np.int64]:
    """The fold of each training example, and -1 for all others, ``[N]``.

    Raises:
        DataError: There are too few images or groups, of all or of one class.
    """
    train = np.flatnonzero(splits == "train")
    own = [units[int(i)] for i in train]
    drawn = draw_folds(labels[train], own, folds, np.random.default_rng((seed, folds)))
    in_one = [name for c, name in enumerate(classes) if len(set(drawn[labels[train] == c])) < 2]
    if in_one:
        raise DataError(
            f"outside the test split, all images of {_join_names(in_one)} are in one group, or "
            "there is only one, so that a fold would have none to train on; add images, or remove "
            "the option folds"
        )
    assigned = np.full(len(labels), -1, dtype=np.int64)
    assigned[train] = drawn
    return assigned


def _fingerprint(examples: Sequence[Example], digests: Sequence[str]) -> str:
    rows = [[e.name, d, e.label, e.split, e.group] for e, d in zip(examples, digests, strict=True)]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _find_uncovered_classes(
    classes: Sequence[str], labels: NDArray[np.int64], splits: NDArray[np.str_]
) -> list[Issue]:
    """Classes without an image in a validation or test split that is not empty."""
    issues = []
    for name in SPLITS[1:]:
        covered = set(labels[splits == name].tolist())
        if covered:
            issues += [
                Issue(label, f"the class has no image in {name}", "scores there do not cover it")
                for c, label in enumerate(classes)
                if c not in covered
            ]
    return issues


def _find_divided_groups(examples: Sequence[Example], splits: NDArray[np.str_]) -> list[Issue]:
    """Groups that the given splits divide."""
    splits_of: defaultdict[str, set[str]] = defaultdict(set)
    for example, name in zip(examples, splits.tolist(), strict=True):
        if example.group:
            splits_of[example.group].add(name)
    return [
        Issue(
            group,
            f"the group is in {' and '.join(sorted(names, key=GIVEN_SPLITS.index))}",
            "kept as given; scores there may be too high",
        )
        for group, names in splits_of.items()
        if len(names) > 1
    ]
