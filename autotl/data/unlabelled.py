"""Examples without a label: which of them may be used, and beside which labelled examples.

They are a set of their own, beside the examples of a data set, so that nothing that looks at
targets or splits sees them. One that is a copy of a labelled example is left out. One of the same
group as a labelled example, or a near-copy of it, belongs to its sampling unit: it is not used
where that unit validates or tests.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from autotl.data import scale
from autotl.data.copies import SMALLEST, find_copies, find_near_copies
from autotl.data.duplicates import LEFT_OUT
from autotl.data.encoding import encode
from autotl.data.image_kind import IMAGES
from autotl.data.inspection import Inspection, digest_contents
from autotl.data.labels import join_names, natural_key, normalise_label
from autotl.data.scale import Scale
from autotl.space.input_kind import InputKind, ModelInput
from autotl.space.plugin import UNLABELLED, Example, Issue

if TYPE_CHECKING:
    from autotl.data.dataset import Dataset

NO_LINKS = np.zeros((0, 2), dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Unlabelled:
    """The usable examples without a label, encoded as the labelled ones are.

    Attributes:
        fingerprint: SHA-256 of exactly these examples in this order, and of the scales; empty
            without examples.
        examples: The examples, in the natural order of their names.
        digests: A number that identifies the content of each, ``uint64 [U]``.
        links: Index of an example and a sampling unit of labelled examples that it belongs to,
            ``[P, 2]``.
        scales: Those of the data set.
        kind: What the examples are.
    """

    fingerprint: str = ""
    examples: tuple[Example, ...] = ()
    digests: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    links: NDArray[np.int64] = field(default_factory=NO_LINKS.copy)
    scales: Mapping[str, Scale] = field(default_factory=dict)
    kind: InputKind = IMAGES

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.examples)

    def encode(self, index: int, expects: ModelInput) -> NDArray[Any]:
        """Encode an example for a backbone.

        Raises:
            DataError: It cannot be read.
        """
        example = self.examples[index]
        return encode(self.kind, example.item, expects, self.scales, example.name)

    def indices_apart_from(self, units: NDArray[np.int64]) -> NDArray[np.int64]:
        """Indices of the examples that belong to none of these sampling units, ascending."""
        linked = self.links[np.isin(self.links[:, 1], units), 0]
        return np.setdiff1d(np.arange(len(self.examples)), linked)


def join_unlabelled(dataset: Dataset, chosen: NDArray[np.int64]) -> Dataset:
    """Return a data set that trains with unlabelled examples as well, for a teacher to label.

    They follow the other examples. Their targets mean nothing; they repeat those of the training
    split, so that the frequencies of the classes stay the same.

    Args:
        dataset: The data set.
        chosen: Indices of the unlabelled examples, ``[u]``.
    """
    more, count = dataset.unlabelled, len(chosen)
    names = hashlib.sha256(chosen.astype("<i8").tobytes()).hexdigest()
    targets = dataset.targets[np.resize(dataset.indices("train"), count)]
    units = dataset.units.max() + 1 + np.arange(count)
    folds = dataset.folds
    return replace(
        dataset,
        fingerprint=hashlib.sha256(f"{dataset.identity} {names}".encode()).hexdigest(),
        examples=(
            *dataset.examples,
            *(replace(more.examples[i], split="train") for i in chosen.tolist()),
        ),
        targets=np.concatenate([dataset.targets, targets]),
        splits=(*dataset.splits, *["train"] * count),
        units=np.concatenate([dataset.units, units]),
        digests=np.concatenate([dataset.digests, more.digests[chosen]]),
        folds=None if folds is None else np.concatenate([folds, np.full(count, -1)]),
        unlabelled=Unlabelled(),
    )


def divide(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Divide examples into those with a label and those without one.

    An example without a label that the source gives to validation or test counts as labelled: it is
    a problem of the data, and is trained on in no way.
    """
    labelled: list[Example] = []
    unlabelled: list[Example] = []
    for example in examples:
        if example.split == UNLABELLED:
            unlabelled.append(replace(example, label=""))
        elif example.split in ("", "train") and _is_missing(example.label):
            unlabelled.append(example)
        else:
            labelled.append(example)
    return labelled, unlabelled


def _is_missing(label: object) -> bool:
    if isinstance(label, float):
        return math.isnan(label)
    return isinstance(label, str) and not normalise_label(label)


def describe_missing(unlabelled: Sequence[Example], kind: InputKind) -> Iterator[Issue]:
    """One issue about all examples without a label that the source does not call unlabelled."""
    names = [example.name for example in unlabelled if example.split != UNLABELLED]
    if names:
        what = f"{kind.nouns} have" if len(names) > 1 else f"{kind.noun} has"
        yield Issue(
            names[0],
            f"{len(names)} {what} no label: {join_names(names)}",
            "used as unlabelled examples only",
        )


def sort_unlabelled(examples: Sequence[Example]) -> list[Example]:
    """Sort examples by name in natural order; they have the split 'unlabelled' from now on."""
    ordered = sorted(examples, key=lambda e: natural_key(e.name))
    return [replace(example, split=UNLABELLED) for example in ordered]


def select_unlabelled(
    offered: Sequence[Example],
    inspections: Sequence[Inspection],
    labelled: Sequence[Example],
    labelled_inspections: Sequence[Inspection],
    units: Sequence[int] | NDArray[np.int64],
    scales: Mapping[str, Scale],
    kind: InputKind,
) -> tuple[Unlabelled, list[Issue]]:
    """Leave out unusable examples and copies, and link the others to labelled ones.

    Args:
        offered: The examples, sorted.
        inspections: Their inspections.
        labelled: The usable labelled examples.
        labelled_inspections: Their inspections.
        units: The sampling unit of each labelled example.
        scales: Those of the data set.
        kind: What the examples are.

    Returns:
        The usable examples, and the problems of the others.
    """
    issues = [
        Issue(example.name, inspection.problem, LEFT_OUT)
        for example, inspection in zip(offered, inspections, strict=True)
        if inspection.problem
    ]
    readable = [i for i, inspection in enumerate(inspections) if not inspection.problem]
    examples, opened = [offered[i] for i in readable], [inspections[i] for i in readable]
    both = [*labelled_inspections, *opened]
    keys = [inspection.content for inspection in both]
    if kind is IMAGES and examples:
        keys = find_copies([*labelled, *examples], [i.thumbnail for i in both], keys)
    count = len(labelled)
    first = {key: i for i, key in reversed([*enumerate(keys)])}  # labelled ones come first
    chosen = [i for i in range(len(examples)) if first[keys[count + i]] == count + i]
    issues += _describe_copies(examples, [first[key] for key in keys[count:]], labelled, kind)
    examples, opened = [examples[i] for i in chosen], [opened[i] for i in chosen]
    links = [
        *_link_groups(examples, labelled, units),
        *(_link_near_copies(opened, labelled_inspections, units) if kind is IMAGES else ()),
    ]
    return Unlabelled(
        _fingerprint(examples, opened, scales) if examples else "",
        tuple(examples),
        digest_contents(opened, kind),
        np.array(sorted(set(links)), dtype=np.int64).reshape(-1, 2),
        scales,
        kind,
    ), issues


def _describe_copies(
    examples: Sequence[Example], first: Sequence[int], labelled: Sequence[Example], kind: InputKind
) -> Iterator[Issue]:
    """One issue about all copies of labelled examples, and one about copies of each other.

    Args:
        examples: The examples without a label.
        first: The first copy of each, counted from the labelled examples on.
        labelled: The labelled examples.
        kind: What the examples are.
    """
    count = len(labelled)
    labelled_ones, others = range(count), range(count, count + len(first))
    for what, of in ((f"of labelled {kind.nouns}", labelled_ones), ("of others", others)):
        names = [
            example.name
            for i, (example, original) in enumerate(zip(examples, first, strict=True), count)
            if original != i and original in of
        ]
        if names:
            copies = "copies" if len(names) > 1 else "copy"
            problem = f"{len(names)} unlabelled {copies} {what}: {join_names(names)}"
            yield Issue(names[0], problem, LEFT_OUT)


def _link_groups(
    examples: Sequence[Example],
    labelled: Sequence[Example],
    units: Sequence[int] | NDArray[np.int64],
) -> Iterator[tuple[int, int]]:
    """Yield each example that is of the group of labelled ones, and their sampling unit."""
    unit_of = {e.group: int(unit) for e, unit in zip(labelled, units, strict=True) if e.group}
    for i, example in enumerate(examples):
        if example.group in unit_of:
            yield i, unit_of[example.group]


def _link_near_copies(
    opened: Sequence[Inspection],
    labelled: Sequence[Inspection],
    units: Sequence[int] | NDArray[np.int64],
) -> Iterator[tuple[int, int]]:
    """Yield each example that is nearly the same image as labelled ones, and their sampling unit.

    An image that is near to labelled ones of several units is not a near-copy: that is how the
    images look, because near-copies among the labelled ones are in one unit.
    """
    both, count = [*labelled, *opened], len(labelled)
    large = [i for i, inspection in enumerate(both) if inspection.side >= SMALLEST]
    if len(large) < 2 or not opened:
        return
    near: dict[int, set[int]] = {}
    for one, two in find_near_copies([both[i].thumbnail for i in large]).tolist():
        first, second = large[one], large[two]
        if first < count <= second:
            near.setdefault(second - count, set()).add(int(units[first]))
    yield from ((i, unit) for i, of in near.items() if len(of) == 1 for unit in of)


def _fingerprint(
    examples: Sequence[Example], inspections: Sequence[Inspection], scales: Mapping[str, Scale]
) -> str:
    digest = hashlib.sha256(json.dumps(scale.to_json(scales)).encode())
    for example, inspection in zip(examples, inspections, strict=True):
        digest.update(json.dumps([example.name, inspection.content]).encode())
    return digest.hexdigest()
