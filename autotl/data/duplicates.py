"""What is done about copies and near-copies of an image among the examples.

Copies stay in one split, or are left out where they contradict each other or a given split.
Near-copies of one label stay in one split, and are reported.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from autotl.data.copies import SMALLEST, find_copies, find_near_copies
from autotl.data.image_kind import IMAGES
from autotl.data.inspection import Inspection
from autotl.data.labels import join_names, natural_key
from autotl.data.split import GIVEN_SPLITS
from autotl.space.input_kind import InputKind
from autotl.space.plugin import Example, Issue

LEFT_OUT = "left out"


class Duplicates(NamedTuple):
    """The copies of images, and the actions for them."""

    excluded: dict[int, Issue]  # by index of the example
    across_splits: int  # how many of these have a copy in another split
    notes: list[Issue]  # on copies that are used
    keys: dict[int, str]  # of each readable image, equal for copies

    def keys_without(self, excluded: Collection[int]) -> list[str]:
        """The keys of the images that are not excluded, in their order."""
        return [key for i, key in self.keys.items() if i not in excluded]


def find_duplicates(
    examples: Sequence[Example], inspections: Sequence[Inspection], kind: InputKind = IMAGES
) -> Duplicates:
    """Find copies: contradicting ones and those in several given splits are excluded."""
    readable = [i for i, inspection in enumerate(inspections) if not inspection.problem]
    found_keys = [inspections[i].content for i in readable]
    if kind is IMAGES:
        found_keys = find_copies(
            [examples[i] for i in readable],
            [inspections[i].thumbnail for i in readable],
            found_keys,
        )
    keys = dict(zip(readable, found_keys, strict=True))
    indices_of: defaultdict[str, list[int]] = defaultdict(list)
    for i, key in keys.items():
        indices_of[key].append(i)
    excluded: dict[int, Issue] = {}
    across_splits = 0
    notes: list[Issue] = []
    for copies in indices_of.values():
        if len(copies) == 1:
            continue
        labels = sorted({examples[i].label for i in copies}, key=natural_key)
        if len(labels) > 1:
            names = join_names([examples[i].name for i in copies])
            problem = f"same {kind.noun} labelled {' and '.join(labels)}: {names}"
            excluded |= {i: Issue(examples[i].name, problem, LEFT_OUT) for i in copies}
            continue
        # The most protected split keeps its copies: removing them there would change a test set
        # on which others have published scores.
        last = max((examples[i].split for i in copies), key=GIVEN_SPLITS.index)
        first, *others = [i for i in copies if examples[i].split == last]
        problem = f"same {kind.noun} as {examples[first].name}"
        for i in copies:
            if examples[i].split != last:
                excluded[i] = Issue(examples[i].name, f"{problem} in {last}", LEFT_OUT)
                across_splits += 1
        notes += [Issue(examples[i].name, problem, "kept in the same split") for i in others]
    return Duplicates(excluded, across_splits, notes, keys)


def find_near_groups(
    examples: Sequence[Example],
    inspections: Sequence[Inspection],
    labels: NDArray[np.int64],
) -> tuple[list[list[int]], list[Issue]]:
    """Find near-copies with one label, which are kept in one split.

    Where more than half of the images of a class look alike, that is how the class looks; they are
    not taken for near-copies.

    Args:
        examples: The examples.
        inspections: Their inspections.
        labels: A number for each example, equal for equal labels, ``[N]``.

    Returns:
        Groups of indices of near-copies, and the issues about them.
    """
    first_of = {inspections[i].content: i for i in reversed(range(len(examples)))}
    chosen = sorted(i for i in first_of.values() if inspections[i].side >= SMALLEST)
    if len(chosen) < 2:
        return [], []
    pairs = find_near_copies([inspections[i].thumbnail for i in chosen])
    counts = np.bincount(labels)
    groups, issues = [], []
    for members in _connect(np.array(chosen)[pairs].tolist(), labels):
        first, label = examples[members[0]], labels[members[0]]
        if 2 * len(members) > counts[label]:
            problem = f"{len(members)} of its {counts[label]} images look nearly alike"
            action = "not taken for copies; give a group to images of one object or video"
            issues.append(Issue(first.label, problem, action))
            continue
        by_split: dict[str, list[int]] = {}
        for i in members:  # no near-copy moves another into a split that the source gives
            by_split.setdefault(examples[i].split, []).append(i)
        groups += [part for part in by_split.values() if len(part) > 1]
        names = join_names([examples[i].name for i in members[1:]])
        action = "kept in the same split"
        if len(by_split) > 1:
            action = "kept as given; scores there may be too high"
        issues.append(Issue(first.name, f"nearly the same image as {names}", action))
    return groups, [*issues, *_find_contradictions(examples, labels, np.array(chosen)[pairs])]


def _find_contradictions(
    examples: Sequence[Example], labels: NDArray[np.int64], pairs: NDArray[np.int64]
) -> Iterator[Issue]:
    """One issue for each pair of classes, with the first of the images."""
    different: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for one, two in pairs.tolist():
        if labels[one] != labels[two]:
            classes = sorted((int(labels[one]), int(labels[two])))
            different.setdefault((classes[0], classes[1]), []).append((one, two))
    for (one, two), *more in different.values():
        others = f" ({len(more)} more pairs of these classes)" if more else ""
        yield Issue(
            examples[one].name,
            f"nearly the same image as {examples[two].name}, which is labelled "
            f"{examples[two].label}, not {examples[one].label}{others}",
            "both are used as labelled; check the labels",
        )


def _connect(pairs: Sequence[Sequence[int]], labels: NDArray[np.int64]) -> list[list[int]]:
    """The groups that pairs with equal labels connect, each ascending."""
    group_of: dict[int, list[int]] = {}
    for one, two in pairs:
        if labels[one] != labels[two]:
            continue
        first, second = group_of.setdefault(one, [one]), group_of.setdefault(two, [two])
        if first is not second:
            first, second = sorted((first, second), key=len)
            second += first
            group_of.update(dict.fromkeys(first, second))
    return sorted(sorted(group) for group in {id(g): g for g in group_of.values()}.values())
