"""Problems of a checked data set that leave nothing out: of classes, groups and frames."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from autotl.data.inspection import Inspection
from autotl.data.labels import join_names
from autotl.data.split import (
    GIVEN_SPLITS,
    SPLITS,
    Strata,
    present_strata,
)
from autotl.space.input_kind import InputKind
from autotl.space.plugin import Example, Issue


def find_issues(
    examples: Sequence[Example],
    inspections: Sequence[Inspection],
    classes: Sequence[str],
    strata: Strata,
    splits: NDArray[np.str_],
    kind: InputKind,
) -> Iterator[Issue]:
    """The issues of the usable examples and of their splits."""
    yield from _find_uncovered_classes(classes, strata, splits, kind)
    yield from _find_divided_groups(examples, splits)
    yield from _find_animated(examples, inspections)


def _find_animated(
    examples: Sequence[Example], inspections: Sequence[Inspection]
) -> Iterator[Issue]:
    """One issue about all images with several frames or pages."""
    names = [e.name for e, i in zip(examples, inspections, strict=True) if i.animated]
    if names:
        yield Issue(
            names[0],
            f"{len(names)} images have several frames or pages: {join_names(names)}",
            "only the first of each is used",
        )


def _find_uncovered_classes(
    classes: Sequence[str], strata: Strata, splits: NDArray[np.str_], kind: InputKind
) -> list[Issue]:
    """Classes without an example in a validation or test split that is not empty."""
    issues = []
    for name in SPLITS[1:]:
        covered = present_strata(strata[splits == name])
        if covered:
            issues += [
                Issue(
                    label,
                    f"the class has no {kind.noun} in {name}",
                    "scores there do not cover it",
                )
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
