"""Which examples can be used, under which class, and what is wrong with the others."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotl.data.image import Progress, map_in_threads, open_rgb, read_error
from autotl.data.split import GIVEN_SPLITS, SPLITS, sampling_units, split
from autotl.errors import DataError, StoreError
from autotl.space.plugin import Example

LEFT_OUT = "left out"


@dataclass(frozen=True)
class Issue:
    """Something wrong with one example, class or group: one row of ``issues.csv``."""

    name: str
    problem: str
    action: str


@dataclass(frozen=True, eq=False)
class Dataset:
    """The examples that can be used, each with its class and its split.

    ``fingerprint`` is the SHA-256 of exactly these examples in this order: names, contents,
    labels, given splits and groups. Equal fingerprints mean equal pictures in equal places,
    wherever the folder lies and whatever was left out; the seed of the split does not enter.
    """

    source: str
    fingerprint: str
    classes: tuple[str, ...]  # '2' before '10'
    examples: tuple[Example, ...]  # in the natural order of their names
    labels: NDArray[np.int64]  # [N], places in ``classes``
    splits: tuple[str, ...]  # [N], each 'train', 'validation' or 'test'
    issues: tuple[Issue, ...]
    skipped: int  # examples of the source that were left out, for whatever reason
    duplicates_across_splits: int  # of these, the copies of a picture that a later split keeps
    units: tuple[int, ...]  # [N], equal for those that move together: of a group, or copies

    def indices(self, *splits: str) -> NDArray[np.int64]:
        """The places in ``examples`` of those in any of ``splits``, ascending, ``[n]``."""
        return np.flatnonzero(np.isin(self.splits, splits)).astype(np.int64)

    def count_independent(self, split: str) -> int:
        """How many pictures of a split there are, those that belong together counted as one.

        So many are sure to say as much as their number; the others may only repeat them.
        """
        return len({self.units[i] for i in self.indices(split)})


def check(
    examples: Iterable[Example],
    source: str,
    *,
    seed: int = 0,
    validation: float | None = None,
    test: float = 0.2,
    progress: Progress | None = None,
) -> Dataset:
    """Open every picture once, leave out what cannot be trusted, and split the rest.

    Args:
        examples: What a dataset plugin returned, in any order.
        source: What the user called the data, for messages.
        seed: Of the drawn part of the split.
        validation: Share of the remaining training examples, if the source gives no validation
            split; 0 for none, and without a share ``split.enough``.
        test: Share of all examples, if the source gives no test split; 0 for none.
        progress: Told after every picture.

    Raises:
        DataError: No pictures, fewer than two classes, or a class with fewer than two usable
            pictures or none to train on.
    """
    if not (0 <= (validation or 0) < 1 and 0 <= test < 1):
        raise DataError(f"validation={validation} and test={test} are shares: from 0 to below 1")
    offered = sorted(examples, key=lambda e: _natural(e.name))
    if not offered:
        raise DataError(f"{source}: no pictures found; check the path and how it is laid out")
    if stray := next((e for e in offered if e.split not in GIVEN_SPLITS), None):
        raise DataError(
            f"{source}: {stray.name} has split {stray.split!r}; the plugin must give one of "
            f"{', '.join(SPLITS)} or none"
        )

    seen: list[tuple[str, str]] = []
    map_in_threads(_inspect, offered, seen.append, "checking", progress)
    out = {i: Issue(offered[i].name, why, LEFT_OUT) for i, (_, why) in enumerate(seen) if why}
    copies, across, notes = _duplicates(offered, seen)
    out |= copies
    used = [i for i in range(len(offered)) if i not in out]
    kept, digests = [offered[i] for i in used], [seen[i][0] for i in used]

    classes = tuple(sorted({e.label for e in offered if e.label}, key=_natural))
    _enough(source, classes, offered, kept, next(iter(out.values()), None))
    number = {name: c for c, name in enumerate(classes)}
    labels = np.array([number[e.label] for e in kept], dtype=np.int64)
    try:
        splits = split(kept, digests, labels, seed=seed, validation=validation, test=test)
    except DataError as error:
        raise DataError(f"{source}: {error}") from None
    trained = set(labels[splits == "train"].tolist())
    if untrained := [name for c, name in enumerate(classes) if c not in trained]:
        raise DataError(
            f"{source}: no training picture of {_some(untrained)}; move some of its pictures to "
            "the training split, or remove the class"
        )

    rows = [[e.name, d, e.label, e.split, e.group] for e, d in zip(kept, digests, strict=True)]
    return Dataset(
        source=source,
        fingerprint=hashlib.sha256(json.dumps(rows).encode()).hexdigest(),
        classes=classes,
        examples=tuple(kept),
        labels=labels,
        splits=tuple(splits.tolist()),
        issues=(*(out[i] for i in sorted(out)), *notes, *_gaps(classes, kept, labels, splits)),
        skipped=len(out),
        duplicates_across_splits=across,
        units=tuple(sampling_units(kept, digests)),
    )


def write_splits(dataset: Dataset, path: Path) -> None:
    """``name,label,split,group`` of every used example, as CSV.

    Raises:
        StoreError: The file cannot be written.
    """
    pairs = zip(dataset.examples, dataset.splits, strict=True)
    rows = [(e.name, e.label, part, e.group) for e, part in pairs]
    _write_csv(path, ("name", "label", "split", "group"), rows)


def write_issues(dataset: Dataset, path: Path) -> None:
    """``name,problem,action`` of every issue, as CSV.

    Raises:
        StoreError: The file cannot be written.
    """
    _write_csv(path, ("name", "problem", "action"), [astuple(issue) for issue in dataset.issues])


def _write_csv(path: Path, header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # File names need not be UTF-8; surrogateescape gives their bytes back as they were.
        with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            csv.writer(file).writerows([header, *rows])
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}; choose a folder you can write to") from error


def _natural(text: str) -> tuple[list[str | int], str]:
    """A sort key that puts '2' before '10'; the text itself decides between '1' and '01'."""
    return [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", text)], text


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _inspect(example: Example) -> tuple[str, str]:
    """The SHA-256 of the picture's content, and what is wrong with it or ``''``.

    It goes through what ``decode`` will do, so that packing cannot fail where this did not.
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
            return "", "the file is empty"
        digest = hashlib.sha256(content).hexdigest()
        open_rgb(image, 1)
    except Exception as error:  # decoders raise anything on broken files
        return digest, read_error(error)
    return digest, "" if example.label else "no label"


def _duplicates(
    examples: Sequence[Example], seen: Sequence[tuple[str, str]]
) -> tuple[dict[int, Issue], int, list[Issue]]:
    """Exact copies: those left out by place, how many of them for crossing splits, those kept."""
    same: defaultdict[str, list[int]] = defaultdict(list)
    for i, (digest, problem) in enumerate(seen):
        if not problem:
            same[digest].append(i)
    out: dict[int, Issue] = {}
    across = 0
    notes: list[Issue] = []
    for copies in same.values():
        labels = sorted({examples[i].label for i in copies}, key=_natural)
        if len(labels) > 1:
            names = _some([examples[i].name for i in copies])
            problem = f"same picture labelled {' and '.join(labels)}: {names}"
            out |= {i: Issue(examples[i].name, problem, LEFT_OUT) for i in copies}
            continue
        # The most protected split keeps its copies: dropping them there would change a test set
        # that others have measured on.
        last = max((examples[i].split for i in copies), key=GIVEN_SPLITS.index)
        first, *others = [i for i in copies if examples[i].split == last]
        problem = f"same picture as {examples[first].name}"
        for i in copies:
            if examples[i].split != last:
                out[i] = Issue(examples[i].name, f"{problem} in {last}", LEFT_OUT)
                across += 1
        notes += [Issue(examples[i].name, problem, "kept in the same split") for i in others]
    return out, across, notes


def _enough(
    source: str,
    classes: Sequence[str],
    offered: Sequence[Example],
    kept: Sequence[Example],
    first: Issue | None,
) -> None:
    """Raises DataError unless there are two classes with two usable pictures each."""
    hint = f" (first problem: {first.name}: {first.problem})" if first else ""
    if len(classes) < 2:
        found = f"only the class {classes[0]!r}" if classes else "no class"
        raise DataError(
            f"{source}: {len(offered)} pictures but {found}; at least two classes are needed, "
            f"one folder or label for each{hint}"
        )
    had, have = Counter(e.label for e in offered), Counter(e.label for e in kept)
    if few := [f"{c} ({have[c]} of {had[c]})" for c in classes if have[c] < 2]:
        raise DataError(
            f"{source}: fewer than two usable pictures of {_some(few)}; add pictures or remove "
            f"the class{hint}"
        )


def _gaps(
    classes: Sequence[str],
    examples: Sequence[Example],
    labels: NDArray[np.int64],
    splits: NDArray[np.str_],
) -> list[Issue]:
    """Classes that a split misses, and groups that the given splits tear apart."""
    gaps = []
    for part in SPLITS[1:]:
        covered = set(labels[splits == part].tolist())
        if covered:
            gaps += [
                Issue(name, f"the class has no picture in {part}", "scores there do not cover it")
                for c, name in enumerate(classes)
                if c not in covered
            ]
    homes: defaultdict[str, set[str]] = defaultdict(set)
    for example, part in zip(examples, splits.tolist(), strict=True):
        if example.group:
            homes[example.group].add(part)
    return gaps + [
        Issue(
            group,
            f"the group is in {' and '.join(sorted(parts, key=GIVEN_SPLITS.index))}",
            "kept as given; scores there may be too high",
        )
        for group, parts in homes.items()
        if len(parts) > 1
    ]
